"""README.md and docs/*.md: their commands run in order in one folder, and every flag that they show exists."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raybc.__main__ import COMMANDS, run
from raybc.config import RunConfig
from raybc.config.flat import aliases
from tests.documents import Page, pages, words_of
from tests.helpers import ROOT
from tests.stories import NEEDS, why_not
from tests.story import FAST, STORIES

#: Pages whose commands other tests type, with what comes of them.
ELSEWHERE = {
    "robots.md": "test_robots_docs.py", "sharing.md": "test_sharing_docs.py", "own_policy.md": "test_extending.py",
    "foreign_policies.md": "test_foreign_docs.py", "own_environment.md": "test_extending.py",
    "own_training.md": "test_extending.py", "deploy.md": "test_package.py",
    "batched.md": "test_batched_docs.py",
}  # fmt: skip


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


SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else SLOW) for name in STORIES])
def test_the_commands_of_a_page_run_in_order(name: str, pointmass_demos: Path, tmp_path: Path) -> None:
    own = {"RAYBC_HOME": str(tmp_path / "home"), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.story", name, str(pointmass_demos)],
        cwd=tmp_path, env=os.environ | own,
    )  # fmt: skip
    assert done.returncode == 0, "what it typed and what went wrong is above, in what was captured"
