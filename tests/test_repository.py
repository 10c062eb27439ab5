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


def test_the_version_is_the_same_everywhere() -> None:
    """What a release must not forget (CONTRIBUTING.md)."""
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert sections[:2] == ["Unreleased", __version__]
    assert (ROOT / "tests/golden" / f"v{__version__}").is_dir()


def test_documents_link_to_files_that_exist() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.M)
                known = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in known, f"{page.name}: {target}#{anchor}"
