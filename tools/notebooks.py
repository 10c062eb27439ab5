"""Run the notebooks of docs/notebooks/ and store them with their outputs: python tools/notebooks.py [NAME ...].

Each runs in a real Jupyter kernel, in an empty folder and with an empty cache, so that it depends on nothing that this
machine has. What is stored depends on as little of the machine as can be: no paths, no times of execution, no versions.
Needs nbclient and ipykernel (pip install -c constraints.txt -e '.[dev]').
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "notebooks"
#: Seconds that a cell may take.
TIMEOUT = 900
#: The largest notebook, with its outputs.
MOST_BYTES = 500_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
#: Escape sequences of terminals.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: Places of a machine that no reader has.
PLACES = re.compile(r"(?:/tmp|/root|/home|/work|/Users|/var|/private|/mnt)/[\w.-]+|[A-Z]:\\\\?\w+|site-packages")


def sources_of(notebook: Any) -> str:
    """sha256 of what the code cells of a notebook have."""
    text = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def execute(path: Path, folder: Path, smaller: Iterable[tuple[str, str]] = ()) -> Any:
    """The notebook after all of its cells were run in `folder`. Raises `nbclient.exceptions.CellExecutionError`.

    smaller: (regular expression, replacement) for the code, so that tests end sooner; each has to occur.
    """
    notebook = nbformat.read(path, as_version=4)
    for pattern, replacement in smaller:
        found = 0
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source, count = re.subn(pattern, replacement, cell.source)
                found += count
        assert found, f"{path.name}: {pattern!r} does not occur"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # of `!raybc`
    own = {"PATH": programs, "PYTHONPATH": paths, "RAYBC_HOME": str(folder / ".cache")}
    with _environment(own):
        client = nbclient.NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )  # fmt: skip
        client.execute()
    return notebook


def clean(notebook: Any, folder: Path) -> Any:
    """The same without what differs from machine to machine and from run to run: escape sequences, metadata, ids."""
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type != "code":
            continue
        outputs: list[Any] = []
        for output in cell.outputs:
            if output.output_type != "stream":
                output.update(metadata={})
            elif outputs and outputs[-1].get("name") == output.name:  # messages end anywhere, also within a line
                outputs[-1].text += output.text
                continue
            for kind, value in output.get("data", {}).items():
                if isinstance(value, str) and not kind.startswith("image/"):
                    output.data[kind] = ESCAPES.sub("", value).replace(f"{folder}/", "")
            outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                output.text = _plain(output.text, folder)
        cell.outputs = [output for output in outputs if _shows_something(output)]
    notebook.metadata = {**METADATA, "raybc": {"sources": sources_of(notebook)}}
    return notebook


def _shows_something(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    return output.output_type == "error" or any(
        v for k, v in output.data.items() if k != "text/plain" or len(output.data) == 1
    )


def _plain(text: str, folder: Path) -> str:
    """Text of a stream without colours and without what a progress bar has overwritten."""
    text = re.sub(r"[^\n]*\r?\n\r?\x1b\[1A", "", text)  # what a transient bar leaves above is erased
    text = re.sub(r"[^\n]*\x1b\[2K", "", text)
    lines = [line.rsplit("\r", 1)[-1] for line in ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).replace(f"{folder}/", "")


def faults(path: Path) -> list[str]:
    """What is wrong with a stored notebook, one line each."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    if notebook.metadata.get("raybc", {}).get("sources") != sources_of(notebook):
        found.append("its outputs are those of other code; run python tools/notebooks.py")
    if {k: v for k, v in notebook.metadata.items() if k != "raybc"} != METADATA:
        found.append(f"metadata: expected {METADATA}, got {dict(notebook.metadata)}")
    if path.stat().st_size > MOST_BYTES:
        found.append(f"expected at most {MOST_BYTES} bytes, got {path.stat().st_size}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not executed in order")
    if not any(cell.outputs for cell in code):
        found.append("it has no outputs")
    for number, cell in enumerate(notebook.cells):
        where = f"cell {number}"
        if cell.metadata:
            found.append(f"{where}: metadata {dict(cell.metadata)}")
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                found.append(f"{where}: {output.ename}: {output.evalue}")
            data = output.get("data", {})
            texts = [output.get("text", ""), *(str(v) for k, v in data.items() if not k.startswith("image/"))]
            shown = re.sub(r"base64,[\w+/=\s]+", "", "\n".join(texts))
            if output.get("name") == "stderr":
                found.append(f"{where}: stderr: {output.text[:200]}")
            found += [f"{where}: a place of a machine: {place}" for place in PLACES.findall(shown)]
    return found


def main(names: list[str]) -> int:
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"{unknown[0]}: expected one of {', '.join(known)}", file=sys.stderr)
        return 2
    status = 0
    for name in names or known:
        with tempfile.TemporaryDirectory(prefix="raybc-notebook-") as folder:
            notebook = clean(execute(known[name], Path(folder)), Path(folder))
        nbformat.write(notebook, known[name])
        wrong = faults(known[name])
        print(f"{known[name].relative_to(ROOT)}: {known[name].stat().st_size} bytes", *wrong, sep="\n  ")
        status = status or (1 if wrong else 0)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
