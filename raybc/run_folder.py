"""The paths of files in run folders; no other module spells them.

    TrainingFolder      a training run, or one member of a pack or of a sweep's trial
    SweepFolder         a sweep

`raybc.rollout.folder` has those of a measurement, `raybc.compare.folder` those of a comparison.

Pages and commands that only look at a run import this module, so it needs neither torch nor Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.checkpoint_scores import scores_of
from raybc.files import locked, read_json, write_json
from raybc.metric import Metric
from raybc.types import SampleSetting

#: A folder with this file is a policy bundle.
BUNDLE_FILE = "bundle.json"
#: A folder with this file is a policy of others.
POLICY_FILE = "policy.json"
_CHECKPOINT = re.compile(r"checkpoint_(\d+)(?:_round_\d+)?")


def is_policy(folder: Path) -> bool:
    """Whether a folder is a bundle or a policy of others."""
    return any((folder / name).is_file() for name in (BUNDLE_FILE, POLICY_FILE))


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of a training run, or of one member of a pack or of a sweep's trial."""

    path: Path

    @property
    def flags(self) -> Path:
        """The whole configuration, with run_id and data fingerprint."""
        return self.path / "flags.json"

    @property
    def pack(self) -> Path:
        """Which members a run with several seeds has."""
        return self.path / "pack.json"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def train_csv(self) -> Path:
        return self.path / "train.csv"

    @property
    def text_log(self) -> Path:
        """What the command printed while it trained, with times, for `tail -f` (of a pack: in the folder of the
        pack)."""
        return self.path / "training.log"

    @property
    def eval_csv(self) -> Path:
        return self.path / "eval.csv"

    @property
    def tasks_csv(self) -> Path:
        """Of evaluations on several tasks: the rows of single tasks."""
        return self.path / "tasks.csv"

    @property
    def offline_csv(self) -> Path:
        """Of a run without a simulator: losses and errors of actions on held-out episodes."""
        return self.path / "offline.csv"

    @property
    def offline_json(self) -> Path:
        """The latest of these measurements, with errors of each dimension, step of the chunk and episode."""
        return self.path / "offline.json"

    @property
    def online(self) -> Path:
        """Own experience of a run that learns online, see `raybc.online.replay`."""
        return self.path / "online"

    @property
    def online_journal(self) -> Path:
        """Which episodes it has collected, and from which update on each is learned from."""
        return self.online / "journal.jsonl"

    @property
    def online_episodes(self) -> Path:
        """A file for each of them."""
        return self.online / "episodes"

    @property
    def online_policies(self) -> Path:
        """The policies that act in them, while they are needed."""
        return self.online / "policies"

    @property
    def online_csv(self) -> Path:
        """How collecting went: steps of the environment, success, age of the policies, share of waiting."""
        return self.path / "online.csv"

    @property
    def metrics_csv(self) -> Path:
        """Actions on held-out windows compared with the recorded ones, once an epoch (`action_metrics`)."""
        return self.path / "metrics.csv"

    @property
    def metrics_jsonl(self) -> Path:
        """The rows of `metrics_csv` with all digits, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def action_norms(self) -> Path:
        """Norms of recorded and predicted actions at the latest of these rows."""
        return self.path / "action_norms.npz"

    @property
    def plots(self) -> Path:
        """The curves of these rows."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """The page that `python -m raybc.report` writes."""
        return self.path / "report.html"

    @property
    def run_args(self) -> Path:
        """The options of the run and the commands that started and resumed it."""
        return self.path / "run_args.json"

    @property
    def best_marks(self) -> Path:
        """Which checkpoints are the best, by what, see `marked_best`."""
        return self.path / "best.json"

    @property
    def best_mse(self) -> Path:
        """The bundle whose actions had the lowest mean squared error at the end of an epoch."""
        return self.path / "best_mse"

    @property
    def state(self) -> Path:
        """The training state from which a run is resumed (of a pack: of all members, in the folder of the pack)."""
        return self.path / "state.safetensors"

    @property
    def workers_csv(self) -> Path:
        """Starts of the group of training workers, see `raybc.train.elastic`."""
        return self.path / "workers.csv"

    @property
    def failure(self) -> Path:
        """Why training workers stopped early."""
        return self.path / "failed.json"

    @property
    def norm_stats(self) -> Path:
        """The statistics of normalisation, see `raybc.data.norm_stats`."""
        return self.path / "norm_stats.json"

    @property
    def data_notes(self) -> Path:
        """What was left out of the data, or assumed about them; absent where there is nothing to say."""
        return self.path / "data_notes.json"

    @property
    def ray_train(self) -> Path:
        """Ray Train's own files, while workers train."""
        return self.path / "ray_train"

    @property
    def plan(self) -> Path:
        """A copy of the sampling plan, if the run uses one."""
        return self.path / "sampling_plan"

    @property
    def scored(self) -> Path:
        """A copy of the scores of episodes, if the run uses them."""
        return self.path / "scores"

    @property
    def plan_summary(self) -> Path:
        """How the run uses its sampling plan."""
        return self.path / "run_summary.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def latest(self) -> Path:
        """Link to the newest checkpoint."""
        return self.path / "latest"

    @property
    def best(self) -> Path:
        """Link to the checkpoint of `best_step`."""
        return self.path / "best"

    @property
    def final_model(self) -> Path:
        """Link to the last checkpoint of a run that has finished."""
        return self.path / "final_model"

    def checkpoint(self, step: int, round: int = 0) -> Path:
        """The bundle saved after `step` training steps; round: the round that ended there, 0 for none."""
        return self.path / (f"checkpoint_{step}_round_{round}" if round else f"checkpoint_{step}")

    def checkpoints(self) -> dict[int, Path]:
        """step -> bundle, or policy of others, of the checkpoints on disk."""
        folders = [f for f in self.path.glob("checkpoint_*") if is_policy(f)]
        return {int(match[1]): f for f in folders if (match := _CHECKPOINT.fullmatch(f.name))}

    def best_step(self) -> int | None:
        """Step of the checkpoint on disk with the best score in eval.csv, or without a simulator the lowest error in
        offline.csv; the latest of equals. None if none was evaluated."""
        metric, scores = self.scores()
        return min(
            (s for s in self.checkpoints() if s in scores),
            key=lambda step: (metric.cost(scores[step]), -step),
            default=None,
        )

    def marked_best(self) -> dict[str, dict[str, Any]]:
        """Metric -> {"step", "value", "checkpoint", ...} of the best checkpoint by it: val_mse or sample_mse, and what
        evaluations compare; empty where nothing is marked."""
        return dict(read_json(self.best_marks)) if self.best_marks.is_file() else {}

    def scores(self) -> tuple[Metric, dict[int, float]]:
        """What checkpoints are compared by, and step -> score of those that were measured, see `scores_of`."""
        return scores_of(self.eval_csv, self.offline_csv)


def mark_best(folder: TrainingFolder, metric: str, found: Mapping[str, Any]) -> None:
    """Write the best checkpoint by `metric` to `best_marks`. A training worker and the command that evaluates its
    checkpoints may both do so at the same time."""
    with locked(folder.path):
        write_json(folder.best_marks, folder.marked_best() | {metric: dict(found)})


@dataclass(frozen=True)
class SweepFolder:
    """The run folder of a sweep."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def earlier_options(self) -> Path:
        """Options of a run under which earlier processes saved states, where a resumed sweep has others."""
        return self.path / "earlier_options.json"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def data_notes(self) -> Path:
        """As in `TrainingFolder`."""
        return self.path / "data_notes.json"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def study(self) -> Path:
        """Optuna's journal: `optuna-dashboard RUN/study.journal --storage-class JournalFileStorage` opens it."""
        return self.path / "study.journal"

    @property
    def artifacts(self) -> Path:
        """Videos as Optuna stores them: `--artifact-dir RUN/artifacts` shows them in optuna-dashboard."""
        return self.path / "artifacts"

    @property
    def tune(self) -> Path:
        """Ray Tune's own files."""
        return self.path / "tune"

    @property
    def winner(self) -> Path:
        """The winner's bundle."""
        return self.path / "winner"

    @property
    def winner_json(self) -> Path:
        return self.path / "winner.json"

    @property
    def trials_csv(self) -> Path:
        return self.path / "trials.csv"

    @property
    def results(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes.jsonl"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def timing(self) -> Path:
        return self.path / "timing.json"

    @property
    def timeline(self) -> Path:
        return self.path / "timeline.json"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def videos_json(self) -> Path:
        return self.path / "videos.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.md"

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}"

    def traceback(self, number: int) -> Path:
        """The traceback of a trial that failed."""
        return self.trial(number) / "error.txt"

    def member(self, trial: int, seed: int) -> TrainingFolder:
        return TrainingFolder(self.trial(trial) / f"seed_{seed}")

    def checkpoint(self, trial: int, seed: int, step: int) -> Path:
        """A member's bundle after `step` training steps (those of the last two evaluations are kept)."""
        return self.member(trial, seed).checkpoint(step)

    def state(self, trial: int, step: int) -> Path:
        """The training state of all members of a trial after `step` steps."""
        return self.trial(trial) / f"state_{step:08d}.safetensors"

    def tensorboard(self, trial: int, seed: int) -> Path:
        return self.path / "tensorboard" / f"trial_{trial:04d}" / f"seed_{seed}"

    def member_logs(self, trial: int) -> dict[str, Path]:
        """seed -> train.csv of the members that have one, in the order of their folder names."""
        logs = [TrainingFolder(folder).train_csv for folder in sorted(self.trial(trial).glob("seed_*"))]
        return {log.parent.name.removeprefix("seed_"): log for log in logs if log.is_file()}

    def member_videos(self, trial: int, seed: int, split: str, setting: SampleSetting) -> Path:
        return self.videos / f"trial_{trial:04d}_seed_{seed}_{split}_{setting.slug()}"

    def filmed(self, trial: int, seed: int, step: int, split: str, setting: SampleSetting) -> Path:
        """What the folders begin with in which single episodes were filmed later, each a measurement of one start."""
        return self.path / "filmed" / f"trial_{trial:04d}_seed_{seed}_step_{step}_{split}_{setting.slug()}"

    def next_tune_session(self) -> int:
        """A number for a Tune run that no earlier process used in this folder."""
        used = [int(p.name.removeprefix("session_")) for p in self.tune.glob("session_*")]
        return max(used, default=0) + 1
