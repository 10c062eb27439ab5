"""docs/notebooks/*.ipynb: stored with the outputs of their code, and run in a real Jupyter kernel."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

spec = importlib.util.spec_from_file_location("tools_notebooks", ROOT / "tools/notebooks.py")
assert spec is not None
assert spec.loader is not None
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)

PATHS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
#: What is stored -> what a test runs, so that it ends sooner.
SMALLER = {
    "quickstart": (
        (r"training_steps=600", "training_steps=80"),
        (r"training_steps=300", "training_steps=40"),
        (r'"eval_interval": 150', '"eval_interval": 40'),
        (r'"eval_episodes": 20', '"eval_episodes": 4'),
        (r"demos=40", "demos=10"),
        (r"episodes=40", "episodes=4"),
        (r'"search.trials": 4', '"search.trials": 2'),
        (r'"train.training_steps": 800', '"train.training_steps": 80'),
        (r'"final.episodes": 30', '"final.episodes": 4'),
        (r'"demos.episodes": 40', '"demos.episodes": 10'),
        (r"--episodes 40", "--episodes 4"),
    ),
    "own_data": (
        (r"range\(60\)", "range(12)"),
        (r"training_steps=400", "training_steps=40"),
        (r"eval_interval=100", "eval_interval=20"),
        (r'"training_steps": 600', '"training_steps": 60'),
        (r'"trials": 4', '"trials": 2'),
        (r'"episodes": 20, "evaluations": 2', '"episodes": 4, "evaluations": 1'),
        (r'"top": 2, "episodes": 30', '"top": 1, "episodes": 4'),
    ),
}


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_a_stored_notebook_is_whole(path: Path) -> None:
    """Its outputs are those of its code, without errors, and name no place of a machine."""
    assert notebooks.faults(path) == []


def test_there_are_notebooks() -> None:
    assert {path.stem for path in PATHS} == set(SMALLER)


def test_what_is_wrong_with_a_stored_notebook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.ipynb"
    shutil.copy(ROOT / "docs/notebooks/quickstart.ipynb", path)
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += "  # changed"
    code[0].execution_count = 7
    code[1].metadata["tags"] = ["x"]
    code[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", text="wrote /tmp/somewhere/else"),
        nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[]),
    ]
    notebook.metadata["kernelspec"]["display_name"] = "mine"
    nbformat.write(notebook, path)
    text = "\n".join(notebooks.faults(path))
    for words in (
        "its outputs are those of other code",
        "metadata: expected",
        "not executed in order",
        "stderr: a warning",
        "a place of a machine: /tmp/somewhere",
        "ValueError: x",
        "metadata {'tags': ['x']}",
    ):
        assert words in text


def test_what_is_stored_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    """A real kernel: progress bars, colours, places and the division of a text into messages leave no trace."""
    lines = ("print('\\x1b[31mred\\x1b[0m')", "for i in range(3): print(i, end='\\r')", f"print('{tmp_path}/runs/a')")
    source = "\n".join(lines)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, metadata={"tags": ["a"]})])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    done = notebooks.clean(notebooks.execute(tmp_path / "a.ipynb", tmp_path), tmp_path)
    cell = done.cells[0]
    assert [output.text for output in cell.outputs] == ["red\nruns/a\n"]
    assert (cell.id, dict(cell.metadata), cell.execution_count) == ("cell-0", {}, 1)
    assert dict(done.metadata)["kernelspec"]["display_name"] == "Python 3"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """From an empty folder and an empty cache to a winner."""
    done = notebooks.clean(notebooks.execute(path, tmp_path, SMALLER[path.stem]), tmp_path)
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    html = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert "winner" in html
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
