"""Flags as they are typed and shown: switches, groups, examples, widths, what --help imports, completion in a shell."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from raybc import cli
from raybc.__main__ import COMMANDS
from raybc.completion import script
from raybc.flags import chosen_switches
from raybc.run_start import Resume
from raybc.types import UserError
from tests.helpers import ROOT

COMMANDS_OF = {"data": ("info", "stats", "verify", "view", "convert"), "plan": ("build", "verify", "show"),
               "env": ("build", "list", "check", "remove"), "cluster": ("slurm", "wait")}  # fmt: skip
#: Names of torch and Ray, and of what takes as long to import.
HEAVY = ("torch", "ray", "scipy", "optuna", "plotly", "h5py", "pyarrow", "gymnasium")


@dataclasses.dataclass(frozen=True)
class Inner:
    """Of a group."""

    wide: bool = False
    """Whether it is wide."""
    tall: bool = True
    """Whether it is tall."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command."""

    GROUPS: ClassVar = {"size": ("big", "kind")}
    EXAMPLES: ClassVar = (("two of them", "--count 2"),)

    count: int = 1
    """How many (default: 1)."""
    path: Path | None = None
    """Where."""
    names: tuple[str, ...] = ()
    """Which."""
    big: bool = False
    """Whether it is big."""
    kind: Literal["a", "b"] = "a"
    """Which kind."""
    resume: Resume = "False"
    """Go on."""


def parsed(*words: str) -> Flags:
    return cli.parse(Flags, words, "raybc.flags", "About flags.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Flags()),
        ("--big", Flags(big=True)),
        ("--big=True", Flags(big=True)),
        ("--big True", Flags(big=True)),
        ("--big=true", Flags(big=True)),
        ("--big=False", Flags()),
        ("--big false", Flags()),
        ("--no-big", Flags()),
        ("--no_big", Flags()),
        ("--big --no-big", Flags()),
        ("--big=False --big", Flags(big=True)),
        ("--resume", Flags(resume="True")),
        ("--resume=auto", Flags(resume="auto")),
        ("--resume AUTO", Flags(resume="auto")),
        ("--no-resume", Flags()),
        ("--resume --count 3", Flags(count=3, resume="True")),
        ("--names a b --big", Flags(names=("a", "b"), big=True)),
        ("--path=x --kind b", Flags(path=Path("x"), kind="b")),
    ],
)
def test_every_spelling_of_a_switch(words: str, expected: Flags) -> None:
    assert parsed(*words.split()) == expected


def test_another_value_of_a_switch_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--big: expected True or False, got 'maybe'$"):
        parsed("--big=maybe")
    with pytest.raises(UserError, match=r"^--resume: expected True or False or auto, got 'later'$"):
        parsed("--resume=later")
    with pytest.raises(UserError, match=r"^--no-big: expected no value, got 'True'$"):
        parsed("--no-big=True")


def test_switches_of_groups_and_those_that_are_on_by_default() -> None:
    made = dataclasses.make_dataclass("Both", [("inner", cli.flags.grouped(Inner), Inner(wide=True))], frozen=True)
    for words, expected in (
        ("", Inner(wide=True)),
        ("--wide=False", Inner()),
        ("--no-tall", Inner(wide=True, tall=False)),
        ("--tall=False --tall", Inner(wide=True)),
    ):
        assert cli.parse(made, words.split(), "raybc.flags", "").inner == expected


def test_switches_beside_other_words() -> None:
    others, chosen = chosen_switches({"big": False}, ["--out", "x", "--big", "y", "--other=True"])
    assert (others, chosen) == (["--out", "x", "y", "--other=True"], {"big": "True"})


def test_help_has_groups_examples_and_no_default_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  # two of them\n  python -m raybc.flags --count 2\n" in text
    assert "size options" in text
    assert "--big " in text
    assert "--path PATH" in text
    assert "--names TEXT ..." in text
    assert "--kind {a,b}" in text
    assert "--resume [auto]" in text
    assert text.count("default") == 2, "that of count once, and that of kind"
    for odd in ("{None}", "{True,False}", "'')"):
        assert odd not in text


def every_command() -> list[list[str]]:
    return [[name, *rest] for name in COMMANDS for rest in ([[sub] for sub in COMMANDS_OF.get(name, ())] or [[]])]


def test_help_of_every_command_fits_80_columns() -> None:
    """In one process, since each takes as long to start as all together."""
    code = """
import contextlib, io, sys
from raybc.__main__ import main
for words in %r:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    lines = printed.getvalue().splitlines()
    wide = [line for line in lines if len(line) > 80 and not line.startswith("usage: ")]
    odd = [line for line in lines if "{None}" in line or "{True,False}" in line or "(default: '')" in line]
    if len(lines) < 5 or wide or odd:
        print(words, len(lines), wide, odd)
"""
    run = subprocess.run(
        [sys.executable, "-c", code % every_command()], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert run.stdout == ""


#: Commands whose --help is printed without anything heavy.
LIGHT = ("train", "rollout", "compare", "sweep", "export", "serve", "import", "completion", "data", "data verify")


def test_help_imports_nothing_heavy() -> None:
    """In one process: what one of them imports is named with it."""
    code = f"""
import contextlib, sys
from raybc.__main__ import main
for command in {LIGHT!r}:
    with contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    if loaded:
        sys.exit(f"{{command}}: {{loaded}}")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("usage:") == len(LIGHT)


REFUSED = {
    "train --dataset /nowhere.hdf5": "error: /nowhere.hdf5: expected demonstrations, found no such file",
    "train --env_name lft-scripted-low_dim": "error: unknown environment 'lft-scripted-low_dim': did you mean",
    "rollout /nowhere": "error: /nowhere: expected a policy bundle",
    "export /nowhere --onnx": "error: /nowhere: expected a policy bundle",
    "sweep /nowhere.yaml": "error: /nowhere.yaml: expected a sweep file, found none",
    "train --resume --log_interval 500": "error: --resume: expected --out RUN, the folder of the run to continue",
}


def test_mistakes_are_refused_without_torch_and_ray(tmp_path: Path) -> None:
    """In one process, as above."""
    code = f"""
import contextlib, io, json, sys
from raybc.__main__ import main
found = {{}}
for words in {[*REFUSED]!r}:
    error, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(printed):
        status = main(words.split())
    loaded = [name for name in ("torch", "ray") if name in sys.modules]
    found[words] = [status, printed.getvalue(), error.getvalue(), loaded]
print(json.dumps(found))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    found = json.loads(run.stdout)
    for words, message in REFUSED.items():
        status, printed, error, loaded = found[words]
        assert (status, printed, loaded) == (2, "", []), words
        assert error.startswith(message)
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a start that is refused leaves no folder"


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "raybc.bash"
    path.write_text(script("bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["train", "--lr-sch"], {"--lr-schedule"}),
        (["train", "--lr-schedule", ""], {"constant", "cosine", "plateau", "rsqrt"}),
        (["rollout", "runs/a", "--until"], {"--until-halfwidth"}),
        (["sweep", "--res"], {"--resume"}),
        (["data", "st"], {"stats"}),
        (["plan", "build", "--num-episodes-k"], {"--num-episodes-keep"}),
    ],
)
def test_completion_in_bash(bash: Path, words: list[str], expected: set[str]) -> None:
    lines = 'source "$1"; shift; COMP_WORDS=(raybc "$@"); COMP_CWORD=$#; _tyro_raybc; printf "%s\\n" "${COMPREPLY[@]}"'
    run = subprocess.run(
        ["bash", "--norc", "-c", lines, "_", str(bash), *words], capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) == expected


def test_completion_of_files_in_bash(bash: Path) -> None:
    """Where no flag fits, files are completed as for any command."""
    assert "complete -o default -F _tyro_raybc raybc" in bash.read_text()


def test_completion_in_zsh_and_fish() -> None:
    """The scripts parse, where the shell is there."""
    for shell in ("zsh", "fish"):
        if shutil.which(shell) is not None:
            subprocess.run([shell, "-n"], input=script(shell), text=True, check=True)  # type: ignore[arg-type]
    assert script("zsh").startswith("#compdef raybc\n")
