"""`raybc.evaluate`: what `raybc rollout` does."""

from __future__ import annotations

import os
from os import PathLike
from typing import TYPE_CHECKING, Any, Union

from raybc.api.calls import Resume, arguments, called
from raybc.api.evaluations import Evaluation
from raybc.api.runs import Run
from raybc.foreign.reference import prefix_of
from raybc.registry import parse_env_name
from raybc.rollout.__main__ import Args
from raybc.rollout.__main__ import evaluate as measure
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.inference.policy import Policy

#: What can be measured; runs and sweeps are paths, too.
Measured = Union[str, PathLike[str], "Policy"]


def evaluate(
    policy: Measured,
    task: str = "",
    *,
    episodes: int | None = None,
    videos: int = 0,
    out: str | PathLike[str] | None = None,
    resume: Resume = "auto",
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Evaluation:
    """Measure a policy in its simulator, as `raybc rollout` does: on starts that chose nothing, with an interval.

    Simulators run in processes of their own. A Ray that runs already is used and left running; otherwise one is started
    for this call. Calling it again with the same arguments reads what was measured, or measures what is missing.

    Args:
        policy: the folder of a training run, a sweep (its winner) or a bundle; a `Run`, a `Sweep`, or what `raybc.load`
            gave; or a policy of others by its reference, as in "module:my_policy.py:make_policy".
        task: where (default: where it was trained); `tasks` and `suite` measure on several.
        episodes: starts of each task for each sample setting (default: 50).
        videos: episodes to film, the first ones.
        out: the folder (default: one below `runs/rollouts` whose name says what is measured).
        resume: as for `raybc.fit`.
        overwrite: replace the measurement in `out`.
        quiet: print nothing.
        options: every flag of `raybc rollout`, by its name: `flow_steps=[1, 5, 10]`, `until_halfwidth=0.05`,
            `starts="search"`, `workers=2`, `checkpoint="best"`, `record="lerobot:runs/recorded"`.

    Raises `UserError` for what cannot be measured, `raybc.cli.Failed` where episodes ended in errors (the others are
    kept), and `raybc.cli.Interrupted` where it was interrupted.

    For example, 100 starts of the winner of a sweep, for three numbers of solver steps:

        raybc.evaluate("runs/quickstart", episodes=100, flow_steps=[1, 5, 10], videos=2)
    """
    with called(quiet):
        given: dict[str, Any] = {"videos": videos, "resume": resume, "overwrite": overwrite, **options}
        given |= _of_policy(policy)
        given |= {"out": os.fspath(out)} if out is not None else {}
        if task and prefix_of(given["bundle"]):
            given["env_name"] = task
        elif task:
            if options.get("tasks") or options.get("suite"):
                raise UserError("task: expected either this, tasks or suite, got two of them")
            given["tasks"] = [parse_env_name(task).task]
        if episodes is not None:
            given["episodes_per_task" if given.get("tasks") or given.get("suite") else "episodes"] = episodes
        return Evaluation(measure(arguments(Args, given)).path)


def _of_policy(policy: Measured) -> dict[str, Any]:
    """The flags that name the policy, and how it acts where that differs from the bundle."""
    if isinstance(policy, Run):
        return {"bundle": str(policy.member_folder())}
    if isinstance(policy, str | PathLike):
        return {"bundle": os.fspath(policy)}
    path = getattr(policy, "path", None)
    if path is None:
        raise UserError(
            f"policy: expected a folder, a run, a sweep or what raybc.load gave, got {type(policy).__name__}; a policy "
            'of your own is measured by its reference, "module:FILE.py:make_policy", since simulators run in processes '
            "of their own"
        )
    setting, own = vars(policy.setting), vars(policy.bundle.config.sample_setting)
    return {"bundle": str(path), **{name: value for name, value in setting.items() if value != own[name]}}
