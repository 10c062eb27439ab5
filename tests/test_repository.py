"""Files of the repository that belong together."""

from __future__ import annotations

import json
import re

from raybc import __version__
from tests.helpers import ROOT


def test_the_lock_of_the_javascript_tools_names_no_registry() -> None:
    """`omit-lockfile-registry-resolved` in .npmrc: a lock works with every registry."""
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    wanted = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert packages[""]["devDependencies"] == wanted
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version, "pinned"
    assert all("resolved" not in package for package in packages.values())


def test_versions_agree() -> None:
    """The latest release is cited and has golden artefacts; between releases the version is that of the next, .devN."""
    sections = re.findall(r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == "Unreleased"
    released = sections[1]
    assert f"\nversion: {released}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "tests/golden" / f"v{released}").is_dir()
    base, dev, _ = __version__.partition(".dev")
    numbers = [tuple(map(int, version.split("."))) for version in (base, released)]
    assert numbers[0] > numbers[1] if dev else numbers[0] == numbers[1]


def test_documents_link_to_files_and_anchors_that_exist() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.M)
                known = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in known, f"{page.name}: {target}#{anchor}"


def test_pages_are_short_and_name_no_tests() -> None:
    """A page is read at one sitting; which tests prove what it says concerns those who change the code."""
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")):
        text = page.read_text()
        assert text.count("\n") <= 400, f"{page.name}: split it by subject"
        if page.parent.name not in ("benchmarks", "results") and not page.stem.upper().startswith("DESIGN"):
            assert not re.findall(r"\btest_\w+\.py", text), page.name


def test_no_file_has_marks_of_a_merge() -> None:
    for folder in ("", "docs", "raybc", "envs", "sweeps", "tests", "benchmarks", "tools"):
        for path in (ROOT / folder).glob("**/*" if folder else "*"):
            if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".js", ".css", ".j2", ".sh") or not path.suffix:
                marks = re.findall(rb"^(?:<{7}|>{7}) ", path.read_bytes(), re.M) if path.is_file() else []
                assert not marks, path
