"""`raybc COMMAND ...`, which is `python -m raybc.COMMAND ...`: the module of a command is imported when it runs."""

from __future__ import annotations

import importlib
import sys

from raybc._version import __version__

#: Command -> the module with its `main`, and what `raybc --help` says about it.
COMMANDS = {
    "sweep": ("raybc.sweep.__main__", "search recipes, measure the best, write a report"),
    "recipes": ("raybc.recipes.__main__", "list the recipes of the literature that a training or a sweep starts from"),
    "train": ("raybc.train.__main__", "train one recipe with one seed or several"),
    "rollout": ("raybc.rollout.__main__", "measure the success rate of a policy, with videos"),
    "compare": ("raybc.compare.__main__", "tell which of several policies is better, and how sure that is"),
    "data": ("raybc.data.__main__", "describe, show, verify and convert data sets"),
    "plan": ("raybc.plan", "build, verify and show sampling plans"),
    "demos": ("raybc.demos.__main__", "record demonstrations of a scripted expert"),
    "report": ("raybc.report.__main__", "write the report of a sweep again"),
    "dashboard": ("raybc.dashboard.__main__", "show a sweep in the browser"),
    "cluster": ("raybc.cluster.__main__", "run a command on an allocation of SLURM"),
    "doctor": ("raybc.doctor.__main__", "find what is wrong with this machine or a cluster"),
    "env": ("raybc.env.__main__", "build the environments of simulators whose packages contradict raybc's"),
    "export": ("raybc.export.__main__", "write a policy as ONNX or for LeRobot, or upload it to the Hugging Face Hub"),
    "import": ("raybc.lerobot.__main__", "make a bundle from a LeRobot checkpoint"),
    "completion": ("raybc.completion", "print a script that completes commands and flags in a shell"),
    "serve": ("raybc.serve.__main__", "serve a policy over HTTP and WebSockets"),
}


def usage() -> str:
    lines = [f"  {name:<10}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: raybc COMMAND [flags]",
            "",
            *lines,
            "",
            "raybc COMMAND --help lists the flags of a command; raybc --version prints the version.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["--help"], ["-h"]):
        print(usage())
        return 0
    if argv[:1] == ["--version"]:
        print(f"raybc {__version__}")
        return 0
    from raybc.cli import run_main

    return run_main(lambda: run(argv))


def run(argv: list[str]) -> int:
    """Run the command that `argv` begins with."""
    from raybc.strict import did_you_mean
    from raybc.types import UserError

    if not argv:
        raise UserError("expected a command, got nothing; see raybc --help")
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"expected a command, got {name!r}: {did_you_mean(name, COMMANDS)}")
    status: int | None = importlib.import_module(COMMANDS[name][0]).main(rest)
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
