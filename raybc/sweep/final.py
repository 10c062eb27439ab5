"""After the search: the top recipes on the final starts, the winner's bundle, and videos.

The winner is chosen by the search starts; the final starts only measure.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray

from raybc.envs.base import RenderOptions
from raybc.files import read_json, replacing, write_json
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.rollout.results import best_setting, rows_at, setting_of, summarise
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.space import recipe
from raybc.sweep.trial import TrialContext
from raybc.sweep.tune import Recorder
from raybc.types import EpisodeSpec

RULE = (
    "highest success on the search starts at the last evaluation among completed trials, pooled over seeds at the "
    "trial's best sample setting; ties: fewer steps to success, then the earlier trial"
)


def evaluate_final(recorder: Recorder, pool: RolloutPool, say: Callable[[str], None]) -> None:
    """Measure the top recipes on the final starts; those in the ledger are not measured again."""
    config, plan, state = recorder.config, recorder.plan, recorder.state
    specs = [EpisodeSpec(plan.task, "final", i) for i in range(config.final.episodes)]
    for trial in state.ranking()[: config.final.top]:
        if trial.final_rows and all(_asked(r) == config.final.episodes for r in trial.final_rows):
            continue
        say(f"measuring trial {trial.number} on {config.final.episodes} final starts")
        step = trial.evaluations[-1].step
        arms = [(seed, setting) for seed in plan.seeds for setting in plan.settings]
        works = [Rollout(str(plan.bundle(trial.number, seed, step)), setting) for seed, setting in arms]
        results = pool.evaluate(f"{plan.run_dir}/final {trial.number}", works, specs)
        rows = []
        for (seed, setting), episodes in zip(arms, results, strict=True):
            run = dataclasses.replace(recipe(config, trial.params), seed=seed)
            rows.append(
                {
                    "run_id": run.run_id(plan.fingerprint),
                    "trial": trial.number,
                    "seed": seed,
                    "phase": "final",
                    "evaluation": len(trial.evaluations),
                    "step": step,
                    **dataclasses.asdict(setting),
                    **summarise(episodes),
                }
            )
        recorder.record({"event": "final", "trial": trial.number, "rows": rows})


def _asked(row: dict[str, Any]) -> int:
    return row["episodes"] + row["errors"]


def write_winner(run_dir: Path, config: SweepConfig, plan: TrialContext, state: SweepState) -> TrialState | None:
    """winner.json and winner/ (the bundle of the seed that did best on the search starts)."""
    ranking = state.ranking()
    if not ranking:
        (run_dir / "winner.json").unlink(missing_ok=True)
        return None
    trial = ranking[0]
    last = trial.evaluations[-1]
    setting = best_setting(last.rows)
    best = min(
        rows_at(last.rows, setting),
        key=lambda r: (-(r["success_rate"] or 0.0), r["mean_steps_success"] or float("inf"), r["seed"]),
    )
    source = plan.bundle(trial.number, best["seed"], last.step)
    with replacing(run_dir / "winner") as temporary:
        shutil.copytree(source, temporary)
    rule = RULE if trial.status == "completed" else f"no trial was completed; of the pruned ones: {RULE}"
    write_json(
        run_dir / "winner.json",
        {
            "trial": trial.number,
            "params": trial.params,
            "setting": dataclasses.asdict(setting),
            "seed": best["seed"],
            "run_id": best["run_id"],
            "bundle": "winner",
            "rule": rule,
        },
    )
    return trial


@dataclasses.dataclass(frozen=True)
class _Shot:
    """An episode that was counted and is now filmed."""

    trial: int
    seed: int
    step: int
    split: str
    index: int
    outcome: str
    steps: int
    row: dict[str, Any]


def choose_shots(config: SweepConfig, state: SweepState) -> list[_Shot]:
    """Episodes to film: half successes of the winner, half failures; of others where the winner has none."""
    wanted = config.final.videos
    if not wanted or not state.ranking():
        return []
    ordered = state.ranking()
    rest = [t for t in state.trials.values() if t not in ordered and t.evaluations and t.status != "failed"]
    shots = []
    for trial in [*ordered, *rest]:
        for rows in (trial.final_rows, trial.evaluations[-1].rows):
            setting = best_setting(rows) if rows else None
            # The chosen setting first: that is the policy that is quoted.
            for row in sorted(rows, key=lambda r: (setting_of(r) != setting, r["seed"])):
                for index, outcome, steps, _ in row["episode_list"]:
                    shots.append(
                        _Shot(trial.number, row["seed"], row["step"], row["phase"], index, outcome, steps, row)
                    )
    solved = [s for s in shots if s.outcome == "success"]
    missed = [s for s in shots if s.outcome in ("failure", "timeout")]
    misses = missed[: wanted // 2 if solved else wanted]
    return solved[: wanted - len(misses)] + misses


def film(
    run_dir: Path, config: SweepConfig, plan: TrialContext, state: SweepState, resources: dict[str, Any]
) -> tuple[str, list[tuple[float, float]]]:
    """Film chosen episodes into videos/ and list them in videos.json.

    Returns why there are none (or fewer), and when simulators were busy.
    """
    shots = choose_shots(config, state)
    done = {_name(v) for v in list_videos(run_dir)}
    videos = list_videos(run_dir)
    todo = [s for s in shots if (s.trial, s.seed, s.split, s.index, s.row["flow_steps"]) not in done]
    if not todo:
        return "" if shots else "no episode was asked for or could be filmed", []
    notes = []
    workers = min(resources["workers"], len(todo))
    with RolloutPool.start(plan.task, workers, render=RenderOptions(), **resources["pool"]) as pool:
        filmed = [
            (shot, pool.submit(f"{run_dir}/film {n}", *_take(run_dir, config, plan, shot)))
            for n, shot in enumerate(todo)
        ]
        for shot, rows in filmed:
            row = ray.get(rows)[0][0]
            if row["outcome"] == "error":
                notes.append(f"not every chosen episode was filmed: {row['message']}")
                continue
            if (row["outcome"], row["steps"]) != (shot.outcome, shot.steps):
                notes.append(
                    f"trial {shot.trial} start {shot.index}: filmed {row['outcome']} after {row['steps']} steps, "
                    f"counted {shot.outcome} after {shot.steps}: this simulator is not deterministic under rendering"
                )
            videos.append(
                {
                    "file": str((_folder(run_dir, shot) / row["video"]).relative_to(run_dir)),
                    "trial": shot.trial,
                    "seed": shot.seed,
                    "split": shot.split,
                    "index": shot.index,
                    "outcome": row["outcome"],
                    "flow_steps": shot.row["flow_steps"],
                    "steps": row["steps"],
                }
            )
            write_json(run_dir / "videos.json", videos)
        spans = pool.stats()["spans"]
    return "; ".join(dict.fromkeys(notes)), spans


def _folder(run_dir: Path, shot: _Shot) -> Path:
    return run_dir / "videos" / f"trial_{shot.trial:04d}_seed_{shot.seed}_{shot.split}_flow_{shot.row['flow_steps']}"


def _take(
    run_dir: Path, config: SweepConfig, plan: TrialContext, shot: _Shot
) -> tuple[list[Rollout], list[EpisodeSpec]]:
    bundle = str(plan.bundle(shot.trial, shot.seed, shot.step))
    work = Rollout(bundle, setting_of(shot.row), str(_folder(run_dir, shot)), config.train.video_frame_skip)
    return [work], [EpisodeSpec(plan.task, shot.split, shot.index)]  # type: ignore[arg-type]


def list_videos(run_dir: Path) -> list[dict[str, Any]]:
    """Entries of videos.json whose files are there."""
    path = run_dir / "videos.json"
    return [v for v in read_json(path) if (run_dir / v["file"]).is_file()] if path.exists() else []


def _name(video: dict[str, Any]) -> tuple[Any, ...]:
    return video["trial"], video["seed"], video["split"], video["index"], video["flow_steps"]
