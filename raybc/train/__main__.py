"""`python -m raybc.train --env_name=lift-scripted-low_dim --training_steps=2000`: train one recipe with some seeds.

What can be refused without PyTorch is refused here, so that a mistake in a flag or a path is answered at once.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raybc import cli
from raybc.config import DemosConfig, Role, RunConfig
from raybc.config.command import all_flags as command_flags
from raybc.config.command import last_value, names_of, parse_run
from raybc.config.flat import COMPONENTS
from raybc.files import expanded
from raybc.run_folder import TrainingFolder
from raybc.run_start import check_folder
from raybc.train.args import Args, inputs_of, with_batches
from raybc.train.stored import Stored, latest_runs
from raybc.types import UserError
from raybc.waiting import loading_torch

if TYPE_CHECKING:
    from raybc.train.resume import RunPlace

DESCRIPTION = "Train a recipe with one seed or several side by side; measure each by rollouts on the search starts."


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    stored = Stored.of(argv)
    config, args = parse_run(Args, [*stored.flags, *argv], "raybc.train", DESCRIPTION, stored.options)
    if not (args.seeds or last_value(argv, "seed")):
        args = dataclasses.replace(args, seeds=stored.seeds)
    if args.resume == "True" and args.out is None:
        _check_run_is_named(config, argv)
    train(config, args, argv)
    return 0


def train(config: RunConfig, args: Args, argv: Sequence[str]) -> RunPlace:
    """Train what `main` and `raybc.fit` read; returns where it is. argv: the arguments, which the run folder keeps.

    Raises `UserError` for what cannot be trained.
    """
    config = with_batches(config, args, argv)
    config = dataclasses.replace(config, env_name=args.applied_to(config.env_name))
    config.validate("--")
    seeds = args.seeds or (config.seed,)
    if len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds: expected different seeds, got {list(seeds)}")
    DemosConfig(episodes=args.demos).validate("--demos")
    if args.threads < 0:
        raise UserError(f"--threads: expected at least 0, got {args.threads}")
    if config.task_score != "mean" and not (config.eval_tasks or config.eval_suite):
        raise UserError("--task_score: has no effect without --eval_tasks or --eval_suite")
    _check_names(config, args)
    with loading_torch():
        from raybc.train.start import start

    return start(config, args, argv)


def all_flags() -> type:
    """All flags of this command."""
    return command_flags(Args)


def _check_run_is_named(config: RunConfig, argv: Sequence[str]) -> None:
    """Refuse to resume some run: without --out it is found by its options, so one of them must be there."""
    options = config.options()
    identifying = {name for name, info in options.items() if info.option.role is not Role.OUTPUT}
    named = set(names_of(argv))
    if named & {*identifying, *COMPONENTS, "config", "recipe", "seeds", "run_group", "save_dir"}:
        return
    runs = latest_runs(expanded(config.save_dir, "--save_dir") / "bc_training")
    known = f"; the latest are {', '.join(map(str, runs))}" if runs else ""
    raise UserError(f"--resume: expected --out RUN, the folder of the run to continue{known}")


def _check_names(config: RunConfig, args: Args) -> None:
    """Refuse names and paths of nothing, and a folder that exists."""
    from raybc.data.names import check_exists
    from raybc.registry import get_task, parse_env_name

    if config.has_environment:
        get_task(parse_env_name(config.env_name).task)
    if config.dataset:
        check_exists(config.dataset)
    if args.out is not None and args.resume == "False":
        folder = TrainingFolder(args.out)
        check_folder(folder, folder.flags, args.resume, args.overwrite, inputs_of(config, args))


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
