"""After the search: the top recipes on the final starts, the winner's bundle, and videos.

The winner is chosen on the search starts; the final starts only measure.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

from raybc.cluster.answers import answer_of
from raybc.envs.base import RenderOptions
from raybc.files import read_json, replacing, write_json
from raybc.foreign.folder import reference_at
from raybc.metric import Metric, score_of
from raybc.registry import get_task
from raybc.rollout.engine import Rollout
from raybc.rollout.notices import first_error_text
from raybc.rollout.pool import RolloutPool
from raybc.rollout.results import best_setting
from raybc.rows import (
    EpisodeRow,
    EvaluationRow,
    Phase,
    VideoRow,
    WinnerFile,
    entries_of,
    episodes_of,
    rows_at,
    setting_fields,
    setting_of,
    video_setting,
)
from raybc.run_folder import SweepFolder
from raybc.statistics import too_many_errors
from raybc.suites import specs_in_turns
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.space import recipe, recipe_key
from raybc.sweep.trial import TrialContext, evaluation_rows, jobs_of
from raybc.sweep.tune import Recorder
from raybc.types import EpisodeSpec, Outcome, SampleSetting


def rule_of(metric: Metric) -> str:
    """How the winner is chosen."""
    if not metric.from_episodes:
        return (
            f"{metric.best} {metric.label} at the last evaluation among completed trials, averaged over seeds at "
            "the trial's best sample setting; ties: the earlier trial"
        )
    ties = "fewer steps to success, then the earlier trial" if metric.has_success else "the earlier trial"
    return (
        f"{metric.best} {metric.label} on the search starts at the last evaluation among completed trials, "
        f"pooled over seeds at the trial's best sample setting, errors counting against it; ties: {ties}"
    )


def finalists(config: SweepConfig, state: SweepState) -> list[TrialState]:
    """The best `final.top` trials, no two of which trained the same policy (sweeps of earlier releases have such)."""
    different: dict[str, TrialState] = {}
    for trial in state.ranking():
        different.setdefault(recipe_key(config, trial.params), trial)
    return list(different.values())[: config.final.top]


def evaluate_final(recorder: Recorder, pool: RolloutPool, say: Callable[[str], None]) -> None:
    """Measure the top recipes on the final starts, except those that the ledger has already."""
    config, context, state = recorder.config, recorder.context, recorder.state
    specs = specs_in_turns(context.tasks, "final", config.final.episodes)
    announced, plane = False, get_task(context.tasks[0]).plane
    for trial in finalists(config, state):
        measured_all = trial.final_rows and all(episodes_of(r) == len(specs) for r in trial.final_rows)
        if measured_all and not too_many_errors(
            sum(r["errors"] for r in trial.final_rows), sum(map(episodes_of, trial.final_rows))
        ):
            continue
        each = f" of each of {len(context.tasks)} tasks" if len(context.tasks) > 1 else ""
        say(f"measuring trial {trial.number} on {config.final.episodes} final starts{each}")
        step = trial.evaluations[-1].step
        run = recipe(config, trial.params)
        chosen = best_setting(trial.evaluations[-1].rows, context.metric)
        measured, jobs = jobs_of(context, run, trial.number, step, ends_at=chosen)
        results = pool.evaluate(f"{context.folder.path}/final {trial.number}", jobs, specs)
        rows = evaluation_rows(
            context,
            run,
            measured,
            results,
            trial=trial.number,
            phase="final",
            evaluation=len(trial.evaluations),
            step=step,
        )
        for row in rows:
            if "end_states" in row and plane:
                row["end_states"]["plane"] = list(plane)
        recorder.record({"event": "final", "trial": trial.number, "rows": rows})
        first = next((row["first_error"] for row in rows if "first_error" in row), None)
        if first is not None and not announced:
            say(first_error_text(first))
            announced = True


def write_winner(folder: SweepFolder, state: SweepState) -> TrialState | None:
    """Write winner.json and winner/ (the bundle of the seed that did best on the search starts).

    None if there is no winner: no trial was measured, or too many final episodes of the best one ended in errors.
    """
    ranking = state.ranking()
    final = state.final_score(ranking[0]) if ranking else None
    if not ranking or (final is not None and final.too_many_errors):
        folder.winner_json.unlink(missing_ok=True)
        if folder.winner.is_dir():
            shutil.rmtree(folder.winner)
        return None
    trial = ranking[0]
    last = trial.evaluations[-1]
    metric = state.metric
    setting = best_setting(last.rows, metric)
    best = min(
        rows_at(last.rows, setting),
        key=lambda r: (
            score_of([r], metric).order, r["mean_steps_success"] or float("inf"), r["seed"]
        ),
    )  # fmt: skip
    rule = rule_of(metric)
    with replacing(folder.winner) as temporary:
        shutil.copytree(folder.checkpoint(trial.number, best["seed"], last.step), temporary)
    winner: WinnerFile = {
        "trial": trial.number,
        "params": trial.params,
        "setting": setting_fields(setting),
        "seed": best["seed"],
        "run_id": best["run_id"],
        "bundle": folder.winner.name,
        "rule": rule if trial.status == "completed" else f"no trial was completed; of the pruned ones: {rule}",
    }
    write_json(folder.winner_json, winner)
    return trial


@dataclasses.dataclass(frozen=True)
class _Clip:
    """A counted episode that is to be filmed."""

    row: EvaluationRow
    """The result row that counts it."""
    index: int
    outcome: Outcome
    steps: int
    cost: float = 0.0
    """Smaller for a better episode."""
    task: str = ""
    """Where there are several."""

    @property
    def key(self) -> tuple[int, int, Phase, int, SampleSetting, str]:
        row = self.row
        return row["trial"], row["seed"], row["phase"], self.index, setting_of(row), self.task


def choose_clips(config: SweepConfig, state: SweepState) -> list[_Clip]:
    """Episodes to film: half successes of the winner, half failures; those of other trials if the winner has none.
    Where the task tells no success: the winner's best and worst episodes."""
    wanted = config.final.videos
    if not wanted or not state.ranking():
        return []
    ordered = state.ranking()
    rest = [t for t in state.trials.values() if t not in ordered and t.evaluations and t.status != "failed"]
    clips = []
    for trial in [*ordered, *rest]:
        for rows in (trial.final_rows, trial.evaluations[-1].rows):
            setting = best_setting(rows, state.metric) if rows else None
            # The chosen setting first: its success rate is the one that is quoted.
            for row in sorted(rows, key=lambda r: (setting_of(r) != setting, r["seed"])):
                clips += [
                    _Clip(row, entry[0], entry[1], entry[2], state.metric.cost(state.metric.of_entry(entry)), task)
                    for entry, task in entries_of(row)
                ]
        if not state.metric.has_success and any(clip.outcome != "error" for clip in clips):
            chosen = best_setting(trial.evaluations[-1].rows, state.metric)
            return _extremes([clip for clip in clips if setting_of(clip.row) == chosen], wanted)
    solved = [c for c in clips if c.outcome == "success"]
    missed = [c for c in clips if c.outcome in ("failure", "timeout")]
    misses = missed[: wanted // 2 if solved else wanted]
    return solved[: wanted - len(misses)] + misses


def _extremes(clips: list[_Clip], wanted: int) -> list[_Clip]:
    """The best and the worst episodes of a trial, half and half, where no episode is a success."""
    valid = [clip for clip in clips if clip.outcome != "error"]
    split = "final" if any(clip.row["phase"] == "final" for clip in valid) else "search"
    ordered = sorted((clip for clip in valid if clip.row["phase"] == split), key=lambda clip: clip.cost)
    if len(ordered) <= wanted:
        return ordered
    return ordered[: wanted - wanted // 2] + ordered[len(ordered) - wanted // 2 :]


def rendering_pool(
    config: SweepConfig, context: TrialContext, workers: int, pool_options: dict[str, Any]
) -> RolloutPool | None:
    """Simulators for `film`, which start while the best trials are measured; None if they would have nothing to do.
    They have the CPUs of the trials, which have ended."""
    if not config.final.videos or list_videos(context.folder):
        return None
    tasks, workers = context.tasks, min(workers, config.final.videos)
    return RolloutPool.start(tasks[0], workers, tasks, render=RenderOptions(), **pool_options)


def film(
    config: SweepConfig,
    context: TrialContext,
    state: SweepState,
    workers: int,
    pool_options: dict[str, Any],
    early: RolloutPool | None = None,
) -> tuple[str, list[tuple[float, float]]]:
    """Film chosen episodes into videos/ and list them in videos.json. early: see `rendering_pool`.

    Returns why there are fewer than wanted ("" if there are not), and when simulators were busy.
    """
    folder = context.folder
    clips = choose_clips(config, state)
    videos = list_videos(folder)
    done = {(v["trial"], v["seed"], v["split"], v["index"], video_setting(v), v.get("task", "")) for v in videos}
    missing = [c for c in clips if c.key not in done]
    if not missing:
        return "" if clips else "none was asked for, or no episode could be filmed", []
    notes = []
    tasks, workers = context.tasks, min(workers, len(missing))
    with early or RolloutPool.start(tasks[0], workers, tasks, render=RenderOptions(), **pool_options) as pool:
        filmed = [
            (clip, pool.submit(f"{folder.path}/film {n}", [_job(config, context, clip)], [_spec(context, clip)]))
            for n, clip in enumerate(missing)
        ]
        for clip, reference in filmed:
            row: EpisodeRow = answer_of(reference)[0][0]
            trial, seed, split, index, setting, task = clip.key
            if row["outcome"] == "error":
                notes.append(f"not every chosen episode was filmed: {row['message']}")
                continue
            if (row["outcome"], row["steps"]) != (clip.outcome, clip.steps):
                notes.append(
                    f"trial {trial} start {index}: filmed {row['outcome']} after {row['steps']} steps, counted "
                    f"{clip.outcome} after {clip.steps}: this simulator is not deterministic under rendering"
                )
            path = folder.member_videos(trial, seed, split, setting) / row["video"]
            video: VideoRow = {
                "file": str(path.relative_to(folder.path)),
                "trial": trial,
                "seed": seed,
                "split": split,
                "index": index,
                "outcome": row["outcome"],
                **setting_fields(setting),
                "steps": row["steps"],
            }
            videos.append(video | {"task": task} if task else video)
            write_json(folder.videos_json, videos)
        spans = pool.stats()["spans"]
    return "; ".join(dict.fromkeys(notes)), spans


def _job(config: SweepConfig, context: TrialContext, clip: _Clip) -> Rollout:
    row, folder = clip.row, context.folder
    bundle = folder.checkpoint(row["trial"], row["seed"], row["step"])
    videos = folder.member_videos(row["trial"], row["seed"], row["phase"], setting_of(row))
    return Rollout(reference_at(bundle), setting_of(row), str(videos), config.train.video_frame_skip)


def _spec(context: TrialContext, clip: _Clip) -> EpisodeSpec:
    return EpisodeSpec(clip.task or context.tasks[0], clip.row["phase"], clip.index)


def list_videos(folder: SweepFolder) -> list[VideoRow]:
    """Entries of videos.json whose files exist."""
    videos: list[VideoRow] = read_json(folder.videos_json) if folder.videos_json.exists() else []
    return [v for v in videos if (folder.path / v["file"]).is_file()]
