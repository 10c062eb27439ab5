"""README.md and docs/*.md: their commands run in order in one folder, and every flag that they show exists."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from raybc.__main__ import COMMANDS, run
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.config.flat import aliases
from tests.documents import Page, pages
from tests.helpers import ROOT
from tests.robots import recorded_robot
from tests.stories import NEEDS, small, why_not

#: Pages whose commands other tests type, with what comes of them.
ELSEWHERE = {
    "robots.md": "test_robots_docs.py", "sharing.md": "test_sharing_docs.py", "own_policy.md": "test_extending.py",
    "foreign_policies.md": "test_foreign_docs.py", "own_environment.md": "test_extending.py",
    "own_training.md": "test_extending.py", "deploy.md": "test_package.py",
    "batched.md": "test_batched_docs.py",
}  # fmt: skip


def words_of(command: str) -> list[str]:
    """What a command is called with, `raybc NAME ...`, however it is written; other programs stay as they are."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    module = words[2] if words[:2] == ["python", "-m"] and len(words) > 2 else ""
    return ["raybc", module.removeprefix("raybc."), *words[3:]] if module.startswith("raybc.") else words


ALL = [(page.path.name, command) for page in pages() for command in page.commands()]


def test_every_page_is_typed_by_a_test() -> None:
    """Each command is typed here, by the test that is named, or needs what is said."""
    told = {name for name, _ in ALL} - set(STORIES) - set(ELSEWHERE)
    untyped = [f"{name}: {command}" for name, command in ALL if name in told and not why_not(command)]
    assert not untyped, "\n".join(untyped)
    for reason in NEEDS:
        assert any(re.search(reason, shlex.join(shlex.split(c, comments=True))) for _, c in ALL), f"{reason}: needless"
    for test in ELSEWHERE.values():
        assert (ROOT / "tests" / test).is_file()


@functools.cache
def help_of(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run([*words, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("name", [page.path.name for page in pages() if page.commands()])
def test_flags_exist(name: str) -> None:
    """Every --flag that a page shows is one of that command's."""
    for command in Page.of(name).commands():
        words = words_of(command)
        if words[0] != "raybc" or words[1].startswith("-"):
            continue
        words = words[: words.index("--")] if "--" in words else words  # what follows is another command
        assert words[1] in COMMANDS, command
        kinds: list[str] = []
        for word, following in zip(words, [*words[1:], ""], strict=True):
            flag, _, value = word.partition("=")
            if flag in ("--policy", "--encoder", "--language", "--critic") and ":" not in (value or following):
                kinds += [flag, value or following]
        of_a_verb = words[2:3] if words[1] in ("data", "plan", "env", "cluster") else []
        if "--recipe" in words:
            kinds = ["--policy", "flow_unet", "--encoder", "resnet18"]
        text = help_of(words[1], *of_a_verb, *kinds).replace("_", "-")
        for flag in set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", " ".join(words[2:]))) - set(aliases(RunConfig)):
            known = f"--{flag.replace('_', '-')}"
            own = flag.startswith("my_") or (known.startswith("--no-") and "--" + known[5:] in text)
            assert own or re.search(rf"{known}(?![\w-])", text), f"{command}: raybc {words[1]} has no {known}"


# What the stories begin with


def of_the_readme(here: Path) -> None:
    os.symlink(ROOT / "sweeps", here / "sweeps")
    shutil.copy(ROOT / "cluster.yaml", here)
    recorded_robot(here / "my_robot")
    (here / "mine.yaml").write_text(Page.of("training.md").of_language("yaml")[0])
    (here / "my_policy.py").write_text(
        "import numpy as np\n\n\ndef make_policy(about):\n    return lambda obs: np.zeros(7, np.float32)\n"
    )
    theirs = Page.of("own_training.md").files()
    (here / "my_trainer.py").write_text(theirs["my_trainer.py"])
    (here / "theirs.yaml").write_text(theirs["my_sweep.yaml"].replace("my_trainer:train", "my_trainer.py:train"))


def two_runs(here: Path) -> None:
    """runs/a and runs/b, which the README takes for granted: two sweeps."""
    for name in ("a", "b"):
        if not (here / "runs" / name).exists() and (here / "runs/pointmass").exists():
            shutil.copytree(here / "runs/pointmass", here / "runs" / name, symlinks=True)


def of_a_sweep(here: Path) -> None:
    """A sweep, and copies in place of others."""
    os.symlink(ROOT / "sweeps", here / "sweeps")
    assert run(small(["sweep", "sweeps/pointmass.yaml"])) == 0
    for name in ("tpe", "random", "diffusion"):
        shutil.copytree(here / "runs/pointmass", here / "runs" / name, symlinks=True)


def with_labels(here: Path) -> None:
    """A label for each of the forty demonstrations."""
    rows = [f"{episode},{('good', 'bad')[episode % 2]}" for episode in range(40)]
    (here / "mine.csv").write_text("\n".join(["episode,label", *rows, ""]))


def of_a_page(name: str) -> Callable[[Path], None]:
    def write(here: Path) -> None:
        for file, text in Page.of(name).files().items():
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            (here / file).write_text(text)

    return write


#: Page -> what is in the folder before its first command.
STORIES: dict[str, Callable[[Path], None]] = {
    "README.md": of_the_readme,
    "tutorial.md": of_a_page("tutorial.md"),
    "dashboards.md": of_a_sweep,
    "data.md": of_a_page("data.md"),
    "own_data.md": of_a_page("own_data.md"),
    "plans.md": of_a_page("plans.md"),
    "quality.md": with_labels,
    "comparison.md": of_a_page("comparison.md"),
    "environments.md": of_a_page("environments.md"),
    "training.md": of_the_readme,
    "images.md": of_a_page("images.md"),
    "windows.md": of_a_page("windows.md"),
    "policies.md": of_the_readme,
    "critic.md": of_a_page("critic.md"),
}

#: Pages whose commands need no Ray and take seconds.
FAST = ("plans.md", "comparison.md", "environments.md")

#: Commands whose exit status is a result, not a failure.
STATUS = {"compare": (0, 1, 3), "doctor": (0, 1)}


SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else SLOW) for name in STORIES])
def test_the_commands_of_a_page_run_in_order(
    name: str,
    request: pytest.FixtureRequest,
    pointmass_demos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name not in FAST:
        request.getfixturevalue("ray_cpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    shutil.copy(pointmass_demos, tmp_path / "demos.hdf5")
    STORIES[name](tmp_path)
    for command in Page.of(name).commands():
        if why_not(command):
            continue
        two_runs(tmp_path)
        words = words_of(command)
        if words[0] != "raybc":
            done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            continue
        words = small(words[1:])
        if words[0] in ("serve", "dashboard"):
            asked_once(words)
            continue
        try:
            status = run_main(functools.partial(run, words))
        except SystemExit as error:  # --help
            status = int(error.code or 0)
        said = capsys.readouterr()
        assert status in STATUS.get(words[0], (0,)), f"{command}\n-> {shlex.join(words)}\n{said.out}\n{said.err}"
        assert "Traceback" not in said.err


def asked_once(words: list[str]) -> None:
    """A server says where it is, answers, and ends with Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raybc", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if address := re.search(r"http://[\w.:-]+", line):
                with contextlib.suppress(urllib.error.HTTPError):  # an answer, too: the server has no page there
                    urllib.request.urlopen(address[0], timeout=60)
                break
        else:
            raise AssertionError(process.communicate()[1])
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors, errors
