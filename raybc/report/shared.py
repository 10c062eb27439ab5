"""The scripts that documents share with the dashboard."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent / "shared"
#: The modules of a document, each after those that it imports.
MODULES = ("elements", "film", "episodes", "states", "document")
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async|class|const|function|let)", re.MULTILINE)


def script() -> Markup:
    """The modules as one script, since a document without a server cannot import any."""
    numbers = Path(str(files("raybc.dashboard"))) / "static" / "numbers.js"
    parts = [path.read_text(encoding="utf-8") for path in (numbers, *(FOLDER / f"{name}.js" for name in MODULES))]
    return Markup("\n".join(_EXPORT.sub("", _IMPORT.sub("", part)) for part in parts))
