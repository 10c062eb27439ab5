"""`raybc.fit`, `raybc.read` and what they return, on data alone: no simulator, no Ray."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import raybc
from raybc import cli
from raybc.api import calls
from raybc.api.show import MOST_ROWS, Facts, Video
from raybc.data.episodes import EpisodeStore
from raybc.data.store import write_store
from raybc.types import UserError
from tests.documents import Page
from tests.helpers import ROOT, stop_training_at
from tests.robots import recorded_robot

EPISODES, STEPS = 6, 12


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations whose action is a function of the state."""
    path = tmp_path_factory.mktemp("data") / "demos"
    state = np.random.default_rng(0).normal(size=(EPISODES * STEPS, 2)).astype(np.float32)
    ends = np.arange(1, EPISODES + 1) * STEPS
    write_store(path, EpisodeStore({"state": state}, np.tanh(state), np.zeros(len(state), np.float32), ends))
    return path


def options(demos: Path, out: Path, **changes: Any) -> dict[str, Any]:
    few = {"num_rounds": 2, "epochs_per_round": 4, "batch_size": 16, "hidden_width": 16, "eval_interval": 8}
    return {"data": demos, "out": out, "log_interval": 4, "threads": 1, **few, **changes}


@pytest.fixture(scope="module")
def finished(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> raybc.Run:
    """An unbroken run of two rounds, 32 steps."""
    return raybc.fit(**options(demos, tmp_path_factory.mktemp("runs") / "run"))


def files_of(folder: Path) -> dict[str, bytes]:
    """The weights and the state of a run, to the last bit; its logs without speeds."""
    weights = folder.glob("checkpoint_*/policy.safetensors")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in weights}
    with safe_open(folder / "state.safetensors", framework="pt") as state:  # the order of its metadata is none
        found["state"] = state.metadata()["sha256"].encode()
    return found | {"history": json.dumps(history(folder)).encode()}


def history(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "steps_per_sec"} for row in raybc.Run(folder).history()]


# --- fit -------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is(finished: raybc.Run, demos: Path) -> None:
    assert (finished.step, finished.training_steps, finished.finished, finished.seeds) == (32, 32, True, (0,))
    assert finished.options["num_rounds"] == 2
    text = repr(finished)
    assert "step: 32 of 32, round 2 of 2 (finished)" in text
    assert re.search(r"seed 0: held-out cosine distance [\d.]+, valid error [\d.]+", text)
    assert finished.policy().act([0.0, 0.0]).shape == (2,)
    assert finished.policy(checkpoint=16).bundle.step == 16
    assert raybc.load(finished).path == finished.folder / "checkpoint_32_round_2"
    assert [row["step"] for row in finished.history()] == list(range(4, 33, 4))
    assert {"loss", "lr", "valid_error", "round"} <= finished.history()[-1].keys()


def test_a_finished_run_is_not_trained_again(finished: raybc.Run, demos: Path) -> None:
    before = files_of(finished.folder)
    again = raybc.fit(**options(demos, finished.folder))
    assert again.finished
    assert files_of(finished.folder) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as Python handles it by default; a job in the background begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("step", [5, 16, 21])
def test_interrupt_saves_the_step_and_the_same_call_ends_as_an_unbroken_run(
    step: int, finished: raybc.Run, demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, optimiser, schedule and history, to the last bit; also in the middle of an epoch."""
    with monkeypatch.context() as patch:
        press_at(step, patch)
        with pytest.raises(
            cli.Interrupted, match=rf"step {step} of 32 is saved; run the same again to continue"
        ) as said:
            raybc.fit(**options(demos, tmp_path / "run"))
    assert said.value._render_traceback_() == [f"Interrupted: {said.value}"]
    half = raybc.Run(tmp_path / "run")
    assert (half.step, half.finished) == (step, False)
    assert half.policy().bundle.step == step
    whole = raybc.fit(**options(demos, tmp_path / "run"))
    assert whole.finished
    unbroken, found = files_of(finished.folder), files_of(whole.folder)
    assert unbroken == {name: found[name] for name in unbroken}
    kept = {f"checkpoint_{at}/policy.safetensors" for at in (8, step)}  # of the earlier process
    assert found.keys() - unbroken.keys() <= kept


def press_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is pressed while the step after `step - 1` is computed."""
    from raybc.train.loop import PackTrainer

    update = PackTrainer._update

    def pressed(self: PackTrainer, wants_metrics: bool = False) -> Any:
        if self.step == step - 1:
            signal.raise_signal(signal.SIGINT)
        return update(self, wants_metrics)

    patch.setattr(PackTrainer, "_update", pressed)


def test_a_second_interrupt_is_not_deferred(demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_training_at(16, monkeypatch)  # a KeyboardInterrupt
    with pytest.raises(cli.Interrupted, match="what was saved is kept; run the same again to continue"):
        raybc.fit(**options(demos, tmp_path / "run"))
    assert raybc.Run(tmp_path / "run").step == 16


def test_more_rounds_later(finished: raybc.Run, demos: Path, tmp_path: Path) -> None:
    """Three rounds at once are two rounds and one more; asking for two then trains nothing."""
    short = raybc.fit(**options(demos, tmp_path / "run"))
    longer = raybc.fit(**options(demos, tmp_path / "run", num_rounds=3))
    assert (longer.step, longer.training_steps) == (48, 48)
    assert [row["step"] for row in longer.history()] == list(range(4, 49, 4))
    whole = raybc.fit(**options(demos, tmp_path / "whole", num_rounds=3))
    name = "checkpoint_48_round_3/policy.safetensors"
    assert (longer.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    before = files_of(longer.folder)
    assert raybc.fit(**options(demos, tmp_path / "run")).step == 48
    assert files_of(longer.folder) == before
    assert short.resume(num_rounds=4).step == 64


def test_quiet(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raybc.fit(**options(demos, tmp_path / "run"), quiet=True)
    assert capsys.readouterr().out == ""
    assert "checkpoint" in (tmp_path / "run/training.log").read_text(), "it is in the log"


def test_other_arguments_are_refused_and_nothing_is_overwritten(finished: raybc.Run, demos: Path) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as refused:
        raybc.fit(**options(demos, finished.folder, lr=1e-2, hidden_width=32))
    text = str(refused.value)
    assert "lr: was 0.0003, is 0.01" in text
    assert "hidden_width: was 16, is 32" in text
    assert "use another out=..., or overwrite=True" in text
    assert "--" not in text
    with pytest.raises(UserError, match="this run folder exists"):
        raybc.fit(**options(demos, finished.folder, resume=False))
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "fast"}, "lr: expected float, got 'fast'"),
        ({"lrr": 1e-3}, "lrr: unknown key 'lrr': did you mean 'lr'"),
        ({"horizon_length": 8}, "horizon_length: has no effect while action_chunking is off"),
        ({"data": 3}, "data: expected a path, a published name or an object with a path, got int"),
        ({"dataset": "x"}, "data: expected either this or dataset, got both"),
        ({"num_workers": "two"}, "num_workers: expected int, got 'two'"),
        ({"resume": True, "overwrite": True}, "expected resume=True or overwrite=True, got both"),
        ({"config": 3}, "config: expected a YAML file or a mapping of options, got int"),
        ({"seeds": [0, 0]}, "seeds: expected different seeds"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], message: str, demos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        raybc.fit(**{**options(demos, tmp_path / "run"), **changes})
    assert not (tmp_path / "run").exists()


def test_options_from_a_file_and_a_mapping_are_those_of_keywords(demos: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("hidden_width: 16\nbatch_size: 16\nlog_interval: 4\n")
    rest = {"training_steps": 8, "eval_interval": 0, "threads": 1}
    found = raybc.fit(path, data=demos, out=tmp_path / "a", **rest)
    other = raybc.fit({"hidden_width": 16, "batch_size": np.int64(16), **rest}, data=str(demos), out=tmp_path / "b")
    weights = [(run.folder / "checkpoint_8/policy.safetensors").read_bytes() for run in (found, other)]
    assert weights[0] == weights[1]
    command = json.loads((other.folder / "run_args.json").read_text())["commands"][0]
    assert command.startswith("raybc train --hidden_width=16 --batch_size=16"), "the same at a shell"


# --- read ------------------------------------------------------------------------------------------------------------


def test_read(demos: Path) -> None:
    found = raybc.read(demos)
    assert len(found) == EPISODES
    assert [row["steps"] for row in found.rows()] == [STEPS] * EPISODES
    assert sum(len(episode["actions"]) for episode in found) == EPISODES * STEPS
    with pytest.raises(IndexError, match=r"expected 0\.\.5"):
        found[EPISODES]
    assert "episodes: 6" in repr(found)
    assert raybc.read(found).path == demos
    with pytest.raises(UserError, match=r"raybc\.read\(data, images=True\)"):
        found.video()
    with pytest.raises(UserError, match="found no such file"):
        raybc.read(demos / "nothing.hdf5")


# --- shown -----------------------------------------------------------------------------------------------------------


def test_html_is_whole_escaped_and_loads_nothing(finished: raybc.Run, demos: Path) -> None:
    for shown in (finished, raybc.read(demos)):
        page = shown._repr_html_()
        assert not re.search(r"<script|<link|https?://(?!www\.w3\.org/2000/svg)", page)
        assert page.count("<table>") == 2
        assert "<svg" in page
        parse(page)
    facts = Facts("<b>", (("a", "<img src=x onerror=alert(1)>"),), ("<i>",), tuple((f"<{i}>",) for i in range(20)))
    page = facts.html()
    assert "<img" not in page
    assert "<i>" not in page
    assert f"{20 - MOST_ROWS} more rows" in page


def parse(page: str) -> None:
    """Every element is closed, in order."""
    from html.parser import HTMLParser

    open_: list[str] = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            open_.append(tag)

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    Elements().feed(page)
    assert not open_


def test_a_video_plays_in_the_cell(tmp_path: Path) -> None:
    path = tmp_path / 'a"<b>.mp4'
    path.write_bytes(b"film")
    page = Video(path, "start <0>")._repr_html_()
    assert "src='data:video/mp4;base64,ZmlsbQ=='" in page
    assert "start &lt;0&gt;" in page
    assert "<b>" not in page
    assert "<video" not in Video(tmp_path / "none.mp4")._repr_html_()


def test_frames_and_figures(finished: raybc.Run, demos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    assert list(finished.frame()["step"]) == list(range(4, 33, 4))
    assert len(raybc.read(demos).frame()) == EPISODES
    assert {trace.name for trace in finished.plot().data} >= {"loss"}
    assert len(finished.plot("matplotlib").axes) == 2
    assert finished.plot("matplotlib")._repr_png_().startswith(b"\x89PNG"), "a cell shows it"
    with pytest.raises(UserError, match="expected plotly or matplotlib"):
        finished.plot("svg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no episode was filmed; fit\(video_episodes=2"):
        finished.video()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"Run\.frame\(\): needs the package pandas: pip install pandas"):
        finished.frame()


@pytest.mark.parametrize("kind", [raybc.Run, raybc.Sweep, raybc.Evaluation])
def test_a_folder_of_something_else(kind: type, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a"):
        kind(tmp_path)


# --- the package -----------------------------------------------------------------------------------------------------


def test_importing_raybc_is_light_and_names_are_found() -> None:
    check = (
        "import sys, raybc; assert not {'torch', 'ray', 'numpy', 'rich', 'yaml'} & set(sys.modules); dir(raybc); "
        "assert callable(raybc.sweep); import raybc.sweep.config; assert callable(raybc.sweep); "
        "from raybc import sweep; assert callable(sweep); raybc.Run, raybc.read; "
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        raybc.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["raybc.api.arrays", "raybc.api.fitting", "raybc.api.datasets"])
def test_the_examples_of_docstrings(module: str, demos: Path, tmp_path: Path) -> None:
    found = doctest.testmod(
        importlib.import_module(module), extraglobs={"demos": demos, "folder": tmp_path}, optionflags=doctest.ELLIPSIS
    )
    assert found.attempted
    assert not found.failed


def test_the_first_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written, with fewer steps; and whatever the page names exists."""
    monkeypatch.chdir(tmp_path)
    recorded_robot(tmp_path / "my_robot", episodes=5)
    page = Page.of("python.md")
    code = page.of_language("python")[0].replace("training_steps=2000", "training_steps=10, quiet=True, threads=1")
    known: dict[str, Any] = {"obs": {"state": np.zeros(7)}}
    exec(compile(code, "python.md", "exec"), known)
    assert known["action"].shape == (7,)
    named = {"run": raybc.Run, "sweep": raybc.Sweep, "found": raybc.Evaluation, "data": raybc.Dataset, "raybc": raybc}
    for owner, attribute in re.findall(r"`(?:\w+\()?(run|sweep|found|data|raybc)\.(\w+)", page.text):
        assert hasattr(named[owner], attribute) or attribute in ("cli", "types"), f"{owner}.{attribute}"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("--lr: expected more than 0", "lr: expected more than 0"),
        ("use another --out, or --overwrite to start again", "use another out=..., or overwrite=True to start again"),
        ("use --device=cpu or --no-action_chunking", "use device=cpu or action_chunking=False"),
        (
            "repeat raybc data info --images, or leave --seeds out",
            "repeat raybc data info --images, or leave seeds out",
        ),
        (
            "finished work is kept; continue with --resume (runs/a)",
            "finished work is kept; run the same again to continue",
        ),
    ],
)
def test_errors_name_keywords(said: str, expected: str) -> None:
    assert calls.in_python(said) == expected


def test_an_error_is_a_normal_exception_elsewhere() -> None:
    assert isinstance(UserError("x"), ValueError)
    assert UserError("lr: ...")._render_traceback_() == ["UserError: lr: ..."]
