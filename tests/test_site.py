"""The documentation site: what `make docs` builds is complete, and loads nothing from the network."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

spec = importlib.util.spec_from_file_location("site_of_documents", ROOT / "tools/site.py")
assert spec is not None
assert spec.loader is not None
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    pages = (*ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("*.md"))
    there = {"index.md" if p.name == "README.md" else str(p.relative_to(ROOT)) for p in pages} | {"api.md"}
    there |= {f"docs/notebooks/{path.stem}.md" for path in ROOT.glob("docs/notebooks/*.ipynb")}
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("name", [name for names in site.API.values() for name in names])
def test_the_reference_names_what_there_is_with_docstrings(name: str) -> None:
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last)
    except AttributeError:
        found = importlib.import_module(name)
    assert found.__doc__


def test_what_would_be_loaded_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a href="https://a.org/x">a link is fine</a><script src="https://b.org/y.js"></script><img src="z.png">'
    )
    (tmp_path / "style.css").write_text("@font-face { src: url(https://c.org/f.woff2) } a { background: url(i.svg) }")
    assert site.loads_from_the_network(tmp_path) == [
        "page.html: https://b.org/y.js",
        "style.css: https://c.org/f.woff2",
    ]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    build = subprocess.run(
        [sys.executable, "tools/site.py", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert build.returncode == 0, build.stdout + build.stderr
    for name in ("quickstart", "own_data"):
        page = (tmp_path / f"site/html/docs/notebooks/{name}.html").read_text()
        page = re.sub("<[^>]+>", "", page)  # words of code may have a colour each
        assert "raybc.sweep(" in page
        assert "95 % interval" in page, "outputs are shown"
    reference = (tmp_path / "site/html/api.html").read_text()
    assert all(f'id="{name}"' in reference for name in ("raybc.load", "raybc.inference.policy.Policy.act"))
