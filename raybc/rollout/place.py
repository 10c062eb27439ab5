"""Where an evaluation is written unless --out says otherwise: a folder whose name says what is measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybc.default_folder import request_suffix
from raybc.envs.variant import limited
from raybc.files import read_json
from raybc.registry import parse_env_name
from raybc.rollout.folder import EvaluationFolder
from raybc.strict import digest
from raybc.types import UserError

if TYPE_CHECKING:  # it imports Ray
    from raybc.rollout.evaluation import EvaluationConfig

#: Flags that change no result, or that the name mentions in another way.
_LEFT_OUT = (
    "bundle", "checkpoint", "policy_argument", "policy_inputs", "policy_timeout", "suite", "tasks", "num_tasks",
    "instruction", "starts", "max_steps", "workers", "slots", "inference", "recycle", "deadline", "out", "resume",
    "overwrite", "address", "ray_dashboard",
)  # fmt: skip
#: Flags that change what is written, but no episode.
_NOT_REQUESTED = ("record", "camera", "video_size", "video_frame_skip", "video_output_dir", "metric")
#: Starts of a task unless a flag says otherwise.
DEFAULT_EPISODES = 50


def own_task(args: Any, env_name: str) -> str:
    """The task that a policy was trained on, with the step limit of the flags."""
    name = parse_env_name(env_name).task
    return limited(name, args.max_steps) if args.max_steps else name


def default_folder(args: Any, config: EvaluationConfig) -> EvaluationFolder:
    """The folder of this evaluation: an existing one of the same request, also with its name in earlier releases, or a
    new one.

    args: the flags of `raybc rollout`.
    """
    unnamed = _without_own_task(args, config)
    places = [place for flags in dict.fromkeys((unnamed, args)) for place in _places(flags, config)]
    return next((f for f in places if f.path.exists() and _is_same(f, config)), places[0])


def _without_own_task(args: Any, config: EvaluationConfig) -> Any:
    """The flags with the policy's own task left out, which is measured without --tasks as well."""
    env_name = config.policy.env_name
    if args.suite or not args.tasks or not env_name or config.tasks != (own_task(args, env_name),):
        return args
    count = args.episodes_per_task
    return dataclasses.replace(args, tasks=(), num_tasks=0, episodes=count, episodes_per_task=None)


def _places(args: Any, config: EvaluationConfig) -> list[EvaluationFolder]:
    """The folder that these flags name, and then those that earlier releases named."""
    which = _which(args, config)
    names = config.policy.folder_names
    for name in ("episodes", "episodes_per_task"):  # the default, typed
        if getattr(args, name) == DEFAULT_EPISODES and not args.until_halfwidth:
            args = dataclasses.replace(args, **{name: None})
    suffix = request_suffix(args, _LEFT_OUT)
    endings = [suffix]
    if args.resume != "False":  # an evaluation whose episodes were not recorded is continued
        endings.append(request_suffix(args, (*_LEFT_OUT, "record")))
    if request_suffix(args, (*_LEFT_OUT, *_NOT_REQUESTED)):
        endings.append("")
    return [_in_runs(f"{name}_{which}{ending}") for ending in endings for name in names]


def _in_runs(name: str) -> EvaluationFolder:
    return EvaluationFolder(Path("runs/rollouts") / name)


def _which(args: Any, config: EvaluationConfig) -> str:
    """Tasks, starts, step limit and instruction, as earlier releases named folders by them alone."""
    which = f"{args.starts}_{args.max_steps}" if args.max_steps else str(args.starts)
    if args.suite:
        which = f"{re.sub('[^A-Za-z0-9_.-]+', '_', args.suite)}_{len(config.tasks)}_{which}"
    elif args.tasks:
        which = f"{len(config.tasks)}_tasks_{digest(list(config.tasks))[:8]}_{which}"
    return which + (f"_instruction_{digest(args.instruction)[:8]}" if args.instruction else "")


def _is_same(folder: EvaluationFolder, config: EvaluationConfig) -> bool:
    try:
        return not config.differences(read_json(folder.request))
    except UserError:  # no request, or a damaged one
        return False
