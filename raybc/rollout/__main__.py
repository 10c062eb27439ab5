"""`python -m raybc.rollout BUNDLE`: measure a policy on starts it has not seen, with an interval, and film it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from raybc import cli
from raybc.files import expanded, read_json
from raybc.find_bundle import check_policy
from raybc.foreign.reference import prefix_of
from raybc.metric import FORMER_KEY, MetricName
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.simulator_flags import SimulatorFlags
from raybc.run_start import Resume
from raybc.stored_flags import with_stored
from raybc.types import UserError
from raybc.waiting import waiting


@dataclass(frozen=True)
class Args(SimulatorFlags):
    """Measure the success rate of a policy bundle in its simulator."""

    GROUPS: ClassVar = {
        "policy of others": ("env_name", "policy_argument", "policy_inputs", "policy_timeout"),
        "task and start": (
            "suite", "tasks", "num_tasks", "episodes_per_task", "starts", "first", "max_steps", "instruction",
        ),
        "sampling": ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble", "solver", "best_of_n"),
        "video and data": (
            "videos", "record_video", "video_output_dir", "video_frame_skip", "video_size", "camera", "record",
        ),
        "process": ("workers", "slots", "inference", "recycle", "deadline", "address", "ray_dashboard"),
    }  # fmt: skip
    EXAMPLES: ClassVar = (
        ("the winner of a sweep, filmed, for several numbers of solver steps", "RUN --videos 4 --flow_steps 1,2,5,10"),
        ("until the interval is 5 points wide on each side", "RUN --until_halfwidth 0.05"),
        ("your own policy", "module:my_policy.py:make_policy --env_name lift"),
    )

    bundle: tyro.conf.Positional[str] = ""
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner); or a policy of
    others: module:FILE.py:make_policy, module:PACKAGE.MODULE:make_policy, onnx:FILE, lerobot:FOLDER,
    openpi:HOST:PORT, vla-eval:HOST:PORT."""
    env_name: str = ""
    """Of a policy of others: the environment to measure it in (raybc's own belong to one)."""
    policy_argument: str = ""
    """Of a policy of others: text that it is handed, such as a checkpoint."""
    policy_inputs: str = ""
    """Of a policy on a server: what it is sent, NAME=OBSERVATION separated by commas (default: that of its kind)."""
    policy_timeout: float = 0.0
    """Of a policy on a server: seconds to wait for an answer (0: 60, or half of --deadline if that is less)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    suite: str = ""
    """Measure on the tasks of a suite: libero_object, MT10, an OGBench environment such as cube-single-v0 (its five
    goals), or module:NAME of your own."""
    tasks: tuple[str, ...] = ()
    """Measure on these tasks (default: the one that the policy was trained on)."""
    num_tasks: int = 0
    """With --suite or --tasks: only the first ones (0: all)."""
    episodes_per_task: int | None = None
    """With --suite or --tasks: starts of each task (default: 50)."""
    episodes: int | None = None
    """Starts for each sample setting (default: 50, or the most that --until_halfwidth may need)."""
    until_halfwidth: float = 0.0
    """Stop as soon as half the width of the 95 % interval of the metric is at most this, e.g. 0.05 (5 points of a
    rate; 0: run all episodes)."""
    metric: Annotated[MetricName | None, tyro.conf.arg(aliases=(f"--{FORMER_KEY}",))] = None
    """What --until_halfwidth narrows (default: the run's; success where the task tells it, else D4RL's score or the
    return)."""
    videos: int = 0
    """Episodes to film (the first ones of each task; they count like all others); also writes a grid of them."""
    record_video: bool = False
    """Film all episodes."""
    video_output_dir: Path | None = None
    """Folder for videos (default: videos in --out)."""
    record: tuple[str, ...] = ()
    """Write all valid episodes, solved or not, as data: lerobot:DIR, robomimic:FILE.hdf5, rrd:FILE.rrd (Rerun; several
    are allowed)."""
    flow_steps: str = ""
    """Steps of the solver, one value or several as 1,2,5 (default: the bundle's)."""
    execute_steps: str = ""
    """Steps of a chunk that are executed, one value or several as 1,8,16 (0: all; default: the bundle's)."""
    eval_temperature: str = ""
    """Scale of the initial noise, one value or several (default: the bundle's)."""
    temporal_ensemble: str = ""
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest; one value or several (-1: off;
    default: the bundle's)."""
    solver: str = ""
    """Solver of the flow: euler, midpoint, heun, rk4, or several as euler,heun (default: the bundle's)."""
    best_of_n: str = ""
    """Chunks that are sampled, of which the one that the critic values most is executed, one value or several as 1,4,16
    (default: the bundle's). Of several values of several of these flags, every combination is measured."""
    instruction: str = ""
    """Instruction that the policy reads (default: the task's)."""
    starts: Literal["final", "search", "demos"] = "final"
    """The set of starts."""
    first: int = 0
    """Index of the first start."""
    max_steps: int = 0
    """Step limit of an episode (0: that of the environment's name)."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    video_size: int = 256
    """Pixels of a video's edge."""
    camera: str = ""
    """Camera of the videos (default: the task's)."""
    out: Path | None = None
    """Folder for episodes.jsonl, metrics.json and videos (default: runs/rollouts/NAME, with a name that says what is
    measured)."""
    resume: Resume = "False"
    """Resume an interrupted evaluation; --resume --out FOLDER needs nothing else. auto: resume what is there, and begin
    otherwise."""
    overwrite: bool = False
    """Replace an existing folder."""


def main(argv: list[str] | None = None) -> int:
    evaluate(cli.parse(Args, argv, "raybc.rollout", Args.__doc__ or ""))
    return 0


def evaluate(args: Args) -> EvaluationFolder:
    """Measure what `main` and `raybc.evaluate` read; returns where it is. Raises `UserError` for what cannot be
    measured, `cli.Failed` where episodes ended in errors."""
    if args.out is not None and args.resume != "False" and EvaluationFolder(args.out).request.is_file():
        args = with_stored(args, read_json(EvaluationFolder(args.out).request).get("flags", {}))
    if not args.bundle:
        raise UserError("expected the policy to measure: raybc rollout RUN (or --resume --out FOLDER), got none")
    _check(args)
    if not prefix_of(args.bundle):
        check_policy(expanded(args.bundle, "bundle"), args.checkpoint)
    # Here, because it imports PyTorch and Ray, which --help and a wrong path need not wait for.
    with waiting("Loading PyTorch"):
        from raybc.rollout.command import measure

    return measure(args)


def _check(args: Args) -> None:
    """Refuse impossible flags."""
    args.check_simulators()
    for name, low, high in (("video_frame_skip", 1, 10_000), ("video_size", 16, 4096)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name}: expected {low}..{high}, got {getattr(args, name)}")
    if args.max_steps < 0:
        raise UserError(f"--max_steps: expected at least 1, or 0 (that of the environment), got {args.max_steps}")


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
