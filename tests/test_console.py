"""The console command `raybc`, and `python -m raybc`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from difflib import get_close_matches

import pytest

from raybc import __version__
from raybc.__main__ import COMMANDS, main
from raybc.sweep.views import command_line
from tests.helpers import ROOT

#: What a message says of a word that resembles no command.
NEAREST = ", ".join(get_close_matches("?", COMMANDS, 10, 0))
#: What an installed `raybc` does.
SCRIPT = "import sys; sys.argv[0] = '/somewhere/bin/raybc'; from raybc.__main__ import main; sys.exit(main())"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)


def test_the_console_command_is_this_main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"raybc": "raybc.__main__:main"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raybc {__version__}\n"


def test_help_has_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert all(len(line) <= 100 for line in lines)


def test_commands_are_the_modules_that_can_be_run() -> None:
    """Every command is a module for `python -m`, and every such module is a command. No module can be called import."""
    folders = {path.parent.name for path in ROOT.glob("raybc/*/__main__.py")}
    files = {path.stem for path in ROOT.glob("raybc/[a-z]*.py") if '__name__ == "__main__"' in path.read_text()}
    names = {name: "lerobot" if name == "import" else name for name in COMMANDS}
    assert set(names.values()) == folders | files
    for name, (module, _) in COMMANDS.items():
        assert module in (f"raybc.{names[name]}", f"raybc.{names[name]}.__main__")
        assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_neither_torch_nor_ray(flag: str) -> None:
    out = run(
        "-c",
        "import sys; from raybc.__main__ import main\n"
        f"assert main(['{flag}']) == 0\n"
        "print(*[m for m in ('torch', 'ray', 'numpy', 'tyro') if m in sys.modules], file=sys.stderr)",
    )
    assert (out.returncode, out.stderr.strip()) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["swep"], "error: expected a command, got 'swep': did you mean 'sweep'?"),
        ([], "error: expected a command, got nothing; see raybc --help"),
        (["?"], f"error: expected a command, got '?': the nearest of {len(COMMANDS)} known names: {NEAREST}"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: list[str], expected: str) -> None:
    out = run("-m", "raybc", *words)
    assert (out.returncode, out.stdout, out.stderr) == (2, "", expected + "\n")


def test_flags_reach_the_command_and_its_status_comes_back() -> None:
    out = run("-m", "raybc", "sweep", "sweeps/pointmass.yaml", "--check")
    assert out.returncode == 0, out.stderr
    assert "configurations are valid" in out.stdout
    out = run("-m", "raybc", "data", "info", "/nowhere.hdf5")
    assert out.returncode == 2
    assert len(out.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "prefix"),
    [
        (["-c", SCRIPT], "raybc "),
        (["-m", "raybc"], "python -m raybc "),
        (["-m", "raybc."], "python -m raybc."),
    ],
)
@pytest.mark.parametrize("command", ["report", "data"])
def test_the_usage_says_what_was_typed(words: list[str], prefix: str, command: str) -> None:
    words = [*words[:-1], words[-1] + command] if words[-1].endswith(".") else [*words, command]
    out = run(*words, "--help")
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith(f"usage: {prefix}{command} ")
    assert f"{prefix}data verify --help lists" in out.stdout or command == "report"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/somewhere/bin/raybc", "sweep", "a b.yaml"], "raybc sweep 'a b.yaml'"),
        (["/somewhere/raybc/__main__.py", "sweep", "--resume"], "python -m raybc sweep --resume"),
        (["/somewhere/raybc/sweep/__main__.py", "--resume"], "python -m raybc.sweep --resume"),
    ],
)
def test_a_run_folder_says_the_command_that_made_it(
    argv: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == expected


@pytest.mark.parametrize("words", [["rollout", "--help"], ["recipes"]])
def test_a_reader_that_has_gone_is_no_fault(words: list[str]) -> None:
    """`raybc ... | head -1`: Python prints a traceback otherwise."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "raybc", *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode != 0
