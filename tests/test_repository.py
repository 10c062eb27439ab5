"""Files of the repository that belong together."""

from __future__ import annotations

import json

from tests.helpers import ROOT


def test_the_lock_of_the_javascript_tools_names_no_registry() -> None:
    """`omit-lockfile-registry-resolved` in .npmrc: a lock works with every registry."""
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    wanted = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert packages[""]["devDependencies"] == wanted
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version, "pinned"
    assert all("resolved" not in package for package in packages.values())
