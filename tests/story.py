"""Type the commands of a page in one folder: `python -m tests.story PAGE DEMOS`, in a process with a Ray of its own.

A reader's commands find modules in the folder where he types them, as do Ray's processes. So the folder must be in
PYTHONPATH before Ray starts. `tests.stories` says what is typed with which budgets.
"""

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

from raybc.__main__ import run
from raybc.cli import run_main
from tests.documents import Page, words_of
from tests.helpers import ROOT
from tests.robots import recorded_robot
from tests.stories import small, why_not


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
    """runs/a and runs/b, which the README takes for granted: two sweeps; other seeds make other policies."""
    if (here / "runs/pointmass").exists() and not (here / "runs/a").exists():
        shutil.copytree(here / "runs/pointmass", here / "runs/a", symlinks=True)
        assert run([*small(["sweep", "sweeps/pointmass.yaml"]), "--set", "seeds=[2, 3]", "--out", "runs/b"]) == 0


def of_a_sweep(here: Path) -> None:
    """A sweep, and copies in place of others."""
    os.symlink(ROOT / "sweeps", here / "sweeps")
    assert run(small(["sweep", "sweeps/pointmass.yaml"])) == 0
    for name in ("tpe", "random", "diffusion"):
        shutil.copytree(here / "runs/pointmass", here / "runs" / name, symlinks=True)


def with_labels(here: Path) -> None:
    """A label for each of the forty demonstrations, and a second file of demonstrations."""
    assert run(["demos", "pointmass", "--episodes", "6", "--workers", "1", "--out", "more.hdf5"]) == 0
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


def type_page(name: str, here: Path) -> None:
    """Type the commands of the page `name` in `here`, which is the working directory."""
    STORIES[name](here)
    for command in Page.of(name).commands():
        if why_not(command):
            continue
        two_runs(here)
        words = words_of(command)
        if words[0] != "raybc":
            done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            continue
        words = small(words[1:])
        print(shlex.join(words), file=sys.__stderr__, flush=True)
        if words[0] in ("serve", "dashboard"):
            asked_once(words)
            continue
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = run_main(functools.partial(run, words))
            except SystemExit as error:  # --help
                status = int(error.code or 0)
        said = f"{command}\n-> {shlex.join(words)}\n{out.getvalue()}\n{err.getvalue()}"
        assert status in STATUS.get(words[0], (0,)), said
        assert "Traceback" not in err.getvalue(), said


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


def main(name: str, demos: str) -> None:
    here = Path.cwd()
    shutil.copy(demos, here / "demos.hdf5")
    if name in FAST:
        type_page(name, here)
        return
    from raybc.cluster.session import ray_session

    with ray_session(num_cpus=2):
        type_page(name, here)


if __name__ == "__main__":
    main(*sys.argv[1:])
