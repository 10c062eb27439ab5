"""Measuring a checkpoint without a simulator: the error of its actions on held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.labels import action_names
from raybc.files import write_json
from raybc.inference.agent import Agent
from raybc.inference.offline import OfflineError, offline_error
from raybc.metric import KEY, Metric
from raybc.metric_choice import resolve
from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import append_row, read_rows
from raybc.train.data import held_out_episodes
from raybc.train.log import add_scalars

#: Columns of offline.csv before those of single measures and of the action dimensions. low and high are the interval of
#: the error; the score is that of the metric.
COLUMNS = (
    "step", "valid/error", "low", "high", "episodes", "windows", KEY, "valid/score", "score_low", "score_high"
)  # fmt: skip


def measure(folder: TrainingFolder, bundle: Path, config: RunConfig, store: EpisodeStore, step: int) -> str:
    """Measure the bundle of a member at `step`; writes offline.csv, offline.json and TensorBoard. Returns a line for
    the console."""
    # A folder that has measurements keeps their metric where none is requested.
    kept = folder.scores()[0].name if read_rows(folder.offline_csv) else None
    metric = resolve(config.metric or kept, None)
    agent, episodes = Agent(PolicyBundle.load(bundle)), held_out_episodes(config, store)
    found = offline_error(agent, store, episodes, config.sample_setting, metric=metric.name)
    low, high = found.interval or ("", "")
    measured = {f"valid/{name}": value for name, value in found.measures.items()}
    dimensions = {f"valid/rmse_j{i}": value for i, value in enumerate(found.rmse_A.tolist(), 1)}
    values = (
        step, found.error, low, high, len(found.episodes), found.windows, metric.name, found.score,
        *(found.score_interval or ("", "")), *measured.values(), *dimensions.values(),
    )  # fmt: skip
    append_row(folder.offline_csv, (*COLUMNS, *measured, *dimensions), values)
    names = action_names(store, config.action_key)
    write_json(folder.offline_json, {"step": step} | found.to_plain() | ({"names": names} if any(names) else {}))
    scores = {"valid/error": found.error, "valid/score": found.score}
    add_scalars(folder.tensorboard, scores | measured | dimensions, step)
    return line_of(found, metric, names)


def line_of(found: OfflineError, metric: Metric, names: Sequence[str] = ()) -> str:
    """The measurement in words. names: those of the action dimensions, "" for none."""
    worst = int(found.rmse_A.argmax())
    # What is learned of a rotation (rotation_6d) has more numbers than the recorded actions, and no names.
    name = f" ({names[worst]})" if len(names) == len(found.rmse_A) and names[worst] else ""
    interval = "" if found.interval is None else f", 95 % interval {found.interval[0]:.3f} - {found.interval[1]:.3f}"
    chosen = ""
    if metric.name != "valid_error":
        between = "" if found.score_interval is None else f" (95 % interval {metric.show_range(found.score_interval)})"
        chosen = f"{metric.label} {metric.show(found.score)}{between}, "
    return (
        f"{chosen}held-out error {found.error:.3f} ({len(found.episodes)} episodes{interval}; 1: no better than the "
        f"mean action), largest in action {worst + 1}{name}: {found.rmse_A[worst]:.3g}"
    )
