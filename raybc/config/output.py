"""Options of output and device, which are not part of the identity of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybc.config.options import Role, option
from raybc.metric import MetricName, OverTasks

_OWN_FOLDER = "the sweep owns its run folder"
_NO_CHANGE = "it does not change a policy"


@dataclass(frozen=True)
class OutputOptions:
    """Evaluation and output."""

    run_group: str = option("BC", role=Role.OUTPUT, axis=_OWN_FOLDER)
    """Folder (and tracker group) that collects related runs."""
    save_dir: str = option("runs/fbc/", role=Role.OUTPUT, axis=_OWN_FOLDER)
    """Where run folders are created."""
    log_interval: int = option(1000, role=Role.OUTPUT, at_least=1, axis=_NO_CHANGE, aliases=("logging_steps",))
    """Steps between rows of train.csv."""
    action_metrics: int = option(0, role=Role.OUTPUT, at_least=0, axis=_NO_CHANGE)
    """Epochs between rows of metrics.csv, which compare the policy's actions with those of held-out episodes (0: no
    such file)."""
    sample_mse: bool = option(False, role=Role.OUTPUT, axis=_NO_CHANGE)
    """Column train/sample_mse in train.csv: mean squared error of sampled chunks on windows of training episodes."""
    eval_interval: int = option(50_000, role=Role.OUTPUT, at_least=0, axis="use eval.evaluations")
    """Steps between rollout evaluations; without a simulator, between measurements on held-out episodes (0: none)."""
    eval_episodes: int = option(10, role=Role.OUTPUT, at_least=1, axis="use eval.episodes")
    """Episodes of an evaluation during training."""
    eval_tasks: str = option("", role=Role.OUTPUT, axis="use eval.tasks")
    """Tasks of an evaluation, separated by commas, instead of that of env_name; eval_episodes are those of each."""
    eval_suite: str = option("", role=Role.OUTPUT, axis="use eval.suite", aliases=("suite",))
    """A suite whose tasks an evaluation has (see raybc rollout --suite)."""
    task_score: OverTasks = option("mean", role=Role.OUTPUT, axis="use eval.task_score")  # noqa: RUF009 (immutable)
    """The score of a checkpoint over several tasks: their mean, or that of the worst."""
    metric: MetricName | None = option(  # noqa: RUF009 (immutable)
        None, role=Role.OUTPUT, axis="use metric at the top level"
    )
    """What `best` and early stops compare: success, return, normalized_score (D4RL's), largest_reward, or a measure on
    held-out episodes (None: success where the task tells it, else normalized_score or return; valid_cosine without an
    environment)."""
    save_interval: int = option(
        100_000, role=Role.OUTPUT, at_least=1, also=(-1,), off="only the last",
        axis="the sweep saves at every evaluation", aliases=("save_steps",),
    )  # fmt: skip
    """Steps between checkpoints (-1: only the last). The best checkpoint is always kept, too."""
    keep: int = option(0, role=Role.OUTPUT, at_least=0, axis=_NO_CHANGE)
    """Checkpoints to keep besides the latest and the best (0: all)."""
    video_episodes: int = option(0, role=Role.OUTPUT, at_least=0, axis="use final.videos")
    """Episodes of the last evaluation to film."""
    video_evaluations: Literal["last", "all"] = option("last", role=Role.OUTPUT, axis="use final.videos")
    """Film the last evaluation, or every one, each into a folder videos/step_STEP."""
    video_frame_skip: int = option(3, role=Role.OUTPUT, at_least=1, axis=_NO_CHANGE)
    """Film every n-th environment step."""
    device: str = option("auto", role=Role.OUTPUT, axis="the device is a resource, not a recipe")
    """cpu, cuda, cuda:N, or auto (cuda if available)."""
