"""`python -m raybc.compare A B [C ...]`: which policy is better, measured until the evidence suffices."""

from __future__ import annotations

import math
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from raybc import cli
from raybc.compare.folder import CompareFolder
from raybc.files import read_json
from raybc.metric import MetricName
from raybc.rollout.simulator_flags import SimulatorFlags
from raybc.run_start import Resume
from raybc.stored_flags import with_stored
from raybc.types import SPLIT_SIZE, UserError
from raybc.waiting import waiting

#: Powers of the table that --plan prints.
POWERS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Args(SimulatorFlags):
    """Tell which policy is better. Exit status: 0 the first is better, 1 it is worse, 2 a mistake, 3 cannot tell, 4 not
    comparable."""

    GROUPS: ClassVar = {
        "policy of others": ("env_name", "policy_inputs", "policy_timeout"),
        "statistics": ("rule", "level", "power", "metric", "bounds", "paired", "allow", "plan", "correlation"),
        "task and start": ("suite", "tasks", "num_tasks", "episodes_per_task", "starts", "first", "max_steps"),
        "video": ("videos", "video_frame_skip", "video_size", "camera"),
        "process": ("workers", "slots", "inference", "recycle", "deadline", "address", "ray_dashboard"),
    }
    EXAMPLES: ClassVar = (
        ("is the new policy better?", "new=runs/b old=runs/a"),
        ("two checkpoints of a run", "runs/new@best runs/new@final --episodes 400"),
        ("how many starts will it take?", "--plan 0.6 0.75"),
    )

    arms: tyro.conf.Positional[tuple[str, ...]] = ()
    """[NAME=]PATH[@CHECKPOINT][:OPTION=VALUE,...]: a bundle, a training run (@latest, @best, @final or a step), a sweep
    (its winner), a trial of a sweep, or a finished measurement: the folder of a rollout, episodes.jsonl, LeRobot's
    eval_info.json, or a CSV with the columns success or score, and start and arm if there are several. Or a policy
    of others: [NAME=]module:FILE.py:make_policy[:execute_steps=8,argument=TEXT], onnx:FILE, lerobot:FOLDER,
    openpi:HOST:PORT, vla-eval:HOST:PORT."""
    env_name: str = ""
    """Where policies of others are measured (default: where the other arms belong)."""
    policy_inputs: str = ""
    """What policies on servers are sent, NAME=OBSERVATION separated by commas (default: docs/foreign_policies.md)."""
    policy_timeout: float = 0.0
    """Of a policy on a server: seconds to wait for an answer (0: 60, or half of --deadline if that is less)."""
    rule: Literal["auto", "sequential", "open", "fixed"] = "auto"
    """sequential: stop as soon as the evidence suffices, exact for at most --episodes starts. open: the same for any
    number of starts. fixed: all starts, one test at the end (auto: fixed if nothing has to be run, else sequential)."""
    episodes: int | None = None
    """The most starts for each arm (default: 200)."""
    suite: str = ""
    """Measure all arms on the tasks of a suite: libero_object, MT10, or module:NAME of your own."""
    tasks: tuple[str, ...] = ()
    """Measure all arms on these tasks (default: the one that they were trained on)."""
    num_tasks: int = 0
    """With --suite or --tasks: only the first ones (0: all)."""
    episodes_per_task: int | None = None
    """With --suite or --tasks: the most starts of each task for each arm (default: 50)."""
    level: float = 0.05
    """Probability that one of equally good arms is called better (two-sided)."""
    power: float = 0.8
    """Probability with which the number of starts that is recommended would tell."""
    metric: MetricName | None = None
    """What is compared (default: success where the task tells it, else D4RL's score or the return)."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest score that an episode can have, if the task does not say."""
    paired: bool = False
    """The rows of finished measurements that name no starts are of the same starts, in the same order."""
    allow: str = ""
    """Compare although these differ: some of max_steps, physics, render, starts, leak, as in max_steps,physics."""
    plan: tuple[float, float] | None = None
    """Print how many starts it takes to tell these two success rates apart, and stop."""
    correlation: float = 0.0
    """With --plan: correlation of the outcomes of both arms on a start."""
    starts: Literal["final", "search"] = "final"
    """The set of starts."""
    first: int = 0
    """Index of the first start."""
    max_steps: int = 0
    """Step limit of an episode (0: that of the environment's name)."""
    videos: int = 0
    """Starts to film on which the first two arms differ (in both). --resume keeps videos that are there; delete one to
    film it again."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    video_size: int = 256
    """Pixels of a video's edge."""
    camera: str = ""
    """Camera of the videos (default: the task's)."""
    out: Path | None = None
    """Folder for the result (default: runs/compare/A_vs_B, with what else is asked in its name)."""
    resume: Resume = "False"
    """Resume an interrupted comparison, or extend one with --rule open. auto: resume what is there, and begin
    otherwise."""
    overwrite: bool = False
    """Replace an existing folder."""

    @property
    def count(self) -> int:
        """The most starts for each arm, of each task."""
        if self.suite or self.tasks:
            return 50 if self.episodes_per_task is None else self.episodes_per_task
        return 200 if self.episodes is None else self.episodes


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.compare", Args.__doc__ or "")
    if args.out is not None and args.resume != "False" and CompareFolder(args.out).request.is_file():
        args = with_stored(args, read_json(CompareFolder(args.out).request).get("flags", {}))
    _check(args)
    if args.plan is not None:
        return _plan(args)
    with waiting("Loading PyTorch"):
        from raybc.compare.arms import NotComparable
        from raybc.compare.run import run

    try:
        return run(args)
    except NotComparable as error:
        print(f"not comparable: {error}", file=sys.stderr)
        return 4
    except cli.Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 2
    except (UserError, cli.Interrupted):
        raise
    except Exception:  # status 1 would say that the first arm is worse
        traceback.print_exc()
        return 2


def _plan(args: Args) -> int:
    from raybc.compare.planning import only_one, table
    from raybc.compare.text import plan_table

    assert args.plan is not None
    a, b = args.plan
    if not (0 <= a <= 1 and 0 <= b <= 1 and a != b):
        raise UserError(f"--plan: expected two different rates between 0 and 1, got {a:g} and {b:g}")
    try:
        differ = sum(only_one(a, b, args.correlation))
    except ValueError as error:
        raise UserError(f"--correlation: {error}") from None
    cli.console.print(
        f"To tell rates of {100 * a:g} % and {100 * b:g} % apart at level {100 * args.level:g} %, if the arms differ "
        f"on {100 * differ:.0f} % of the starts:"
    )
    rows = table(a, b, args.correlation, args.level, POWERS)
    cli.print_whole(plan_table(list(zip(POWERS, rows, strict=True))))
    return 0


def _check(args: Args) -> None:
    """Refuse impossible flags."""
    args.check_simulators()
    for name in ("level", "power"):
        if not 0 < getattr(args, name) < 1:
            raise UserError(f"--{name}: expected a number between 0 and 1, got {getattr(args, name):g}")
    if args.bounds is not None and not (all(map(math.isfinite, args.bounds)) and args.bounds[0] < args.bounds[1]):
        raise UserError(
            f"--bounds: expected the lowest and the highest score, got {args.bounds[0]:g} {args.bounds[1]:g}"
        )
    several = bool(args.suite or args.tasks)
    if several and args.episodes is not None:
        raise UserError("--episodes: expected --episodes_per_task with --suite or --tasks")
    if not several and args.episodes_per_task is not None:
        raise UserError("--episodes_per_task: expected --suite or --tasks as well; for one task use --episodes")
    flag, least = ("--episodes_per_task", 1) if several else ("--episodes", 2)
    if args.first < 0 or not least <= args.count <= SPLIT_SIZE - args.first:
        raise UserError(f"{flag}: expected {least}..{SPLIT_SIZE} starts from --first on, got {args.count}")
    if not 0 <= args.videos <= args.count:
        raise UserError(f"--videos: expected 0..{args.count} (the episodes), got {args.videos}")
    for name, low, high in (("video_frame_skip", 1, 10_000), ("video_size", 16, 4096)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name}: expected {low}..{high}, got {getattr(args, name)}")
    if args.max_steps < 0:
        raise UserError(f"--max_steps: expected at least 1, or 0 (that of the environment), got {args.max_steps}")


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
