"""`raybc.fit`: what `raybc train` does, in this process."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from raybc import cli
from raybc.api.calls import Data, Resume, arguments, called, flags, one_of, path_of, plain
from raybc.api.runs import Run
from raybc.config import RunConfig
from raybc.config.command import run_of
from raybc.config.run import changed_options
from raybc.train.__main__ import train
from raybc.train.args import Args
from raybc.train.stored import Stored
from raybc.types import UserError
from raybc.waiting import loading_torch


def fit(
    config: str | PathLike[str] | Mapping[str, Any] | RunConfig | None = None,
    *,
    data: Data | None = None,
    task: str = "",
    recipe: str = "",
    out: str | PathLike[str] | None = None,
    seeds: Sequence[int] = (),
    resume: Resume = "auto",
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train a policy, as `raybc train` does.

    The training runs in this process; simulators, where a task is measured, run in processes of their own (Ray: a
    running one is used, another is never started beside it). With data alone, or `eval_interval=0`, there are none.

    Calling it again continues a run that was interrupted, with the weights, the optimiser, the schedule and the history
    that it had, and ends with the weights of an unbroken run, bit for bit. A finished run is not trained again; with
    more `training_steps`, `epochs` or `num_rounds` it is extended. *Interrupt* saves the step that it reached.

    >>> import raybc
    >>> run = raybc.fit(data=demos, training_steps=40, hidden_width=16, out=folder / "run", quiet=True)
    >>> run.step
    40
    >>> run = raybc.fit(data=demos, training_steps=60, hidden_width=16, out=folder / "run", quiet=True)  # more
    >>> run.finished, run.step
    (True, 60)
    >>> run.policy().act({"state": [0.0, 0.0]}).shape
    (2,)

    Args:
        config: a YAML file with options (as `--config`), or options as a mapping or a `RunConfig`.
        data: a path in any known format, a published name, or an object with a `path` such as a `raybc.Dataset`
            (option `dataset`).
        task: where the policy is measured, such as `lift` or `pointmass-scripted-low_dim` (option `env_name`). Without
            it, and with data, the error of actions on held-out episodes is measured.
        recipe: a recipe of the literature beneath the options.
        out: the run folder (default: a folder under `save_dir` that the options and the data name, so that other
            arguments make another run). A folder with another run is refused, and the differences are named.
        seeds: several seeds, which are trained side by side.
        resume: "auto" continues what is there and begins otherwise; False refuses a folder that exists; True continues
            the run in `out` with its own options, of which only those named here change.
        overwrite: replace the run in `out`.
        quiet: print nothing.
        options: every option and flag of `raybc train`, by its name: `lr=1e-3`, `policy="flow_unet"`,
            `eval_interval=500`, `num_rounds=3`, `epochs_per_round=100`, `threads=2`.

    Raises `UserError` for what cannot be trained, `raybc.cli.Failed` where a training fails on the way, and
    `raybc.cli.Interrupted` where it was interrupted.
    """
    with called(quiet):
        given = {**_options_of(config), **{name: plain(value) for name, value in options.items()}}
        given |= one_of("data", None if data is None else path_of(data, "data"), "dataset", given)
        given |= one_of("task", task, "env_name", given)
        own: dict[str, Any] = {"seeds": list(seeds), "resume": resume, "overwrite": overwrite}
        own |= {"recipe": recipe} if recipe else {}
        own |= {"out": os.fspath(out)} if out is not None else {}
        own |= {"config": os.fspath(config)} if isinstance(config, str | PathLike) else {}
        return _fit(given, {name: value for name, value in own.items() if value not in ([], False)})


def _options_of(config: str | PathLike[str] | Mapping[str, Any] | RunConfig | None) -> dict[str, Any]:
    if isinstance(config, RunConfig):
        return dict(changed_options(config))
    if isinstance(config, Mapping):
        return {str(name): plain(value) for name, value in config.items()}
    if config is None or isinstance(config, str | PathLike):
        return {}
    raise UserError(f"config: expected a YAML file or a mapping of options, got {type(config).__name__}")


def _fit(given: Mapping[str, Any], own: Mapping[str, Any]) -> Run:
    """given: options, and flags of the command; own: flags that `fit` names."""
    names = {field.name for field in dataclasses.fields(Args)}
    chosen = {name: value for name, value in given.items() if name not in names}
    own = {**{name: value for name, value in given.items() if name in names}, **own}
    args = arguments(Args, own)
    argv = flags({**chosen, **own})
    stored = Stored.of(argv) if args.resume == "True" else Stored()
    config, named = run_of(chosen, args.config, args.recipe, stored.options)
    args = dataclasses.replace(args, recipe=named, **_kept(stored, own))
    if not args.seeds and "seed" not in chosen:
        args = dataclasses.replace(args, seeds=stored.seeds)
    with loading_torch():
        import torch

        from raybc.train.resume import TrainedFurther
    threads = torch.get_num_threads()  # of the caller, whose later work is none of the training's
    try:
        return Run(train(config, args, argv).out)
    except TrainedFurther as error:
        run = Run(error.out)
        cli.console.print(f"{run.folder}: trained for {run.step} steps already, more than was asked for; nothing to do")
        return run
    finally:
        torch.set_num_threads(threads)


def _kept(stored: Stored, own: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the command that a run keeps, where they are not named now."""
    hints = typing.get_type_hints(Args)
    pairs = [flag.removeprefix("--").partition("=") for flag in stored.flags]
    return {name: hints[name](value) if hints[name] is int else value for name, _, value in pairs if name not in own}
