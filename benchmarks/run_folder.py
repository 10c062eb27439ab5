"""A made-up run folder of any size, for timing pages: as a sweep would leave it, with numbers from a formula.

python -m benchmarks.run_folder OUT --trials 2000 --episodes 200000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.files import write_json
from raybc.metric import SUCCESS
from raybc.rollout.results import best_setting, pooled, summarise
from raybc.rows import rows_at
from raybc.run_folder import SweepFolder
from raybc.sweep.config import Axis, EvalConfig, FinalConfig, SearchConfig, SweepConfig
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.views import write_tables, write_timeline, write_timing
from raybc.types import SampleSetting

SEEDS = (0, 1)
SETTINGS = (SampleSetting(1), SampleSetting(4))
#: Axes that a wider sweep has as well; they decide nothing.
MORE = {
    "batch_size": Axis(values=(64, 128, 256)),
    "warmup_steps": Axis(values=(0, 100)),
    "use_fourier_features": Axis(values=(False, True)),
}
EVALUATIONS, STEPS, MAX_STEPS = 4, 2000, 150
BEGAN = 1_790_000_000.0


def make_config(trials: int, episodes: int, settings: Sequence[SampleSetting] = SETTINGS, more: int = 0) -> SweepConfig:
    return SweepConfig(
        name="made-up",
        train=RunConfig.of(
            env_name="pointmass-scripted-low_dim",
            training_steps=STEPS,
            action_chunking=True,
            horizon_length=8,
            hidden_width=64,
            hidden_depth=2,
            device="cpu",
        ),
        space={
            "lr": Axis(low=1e-5, high=1e-1, log=True),
            "horizon_length": Axis(values=(4, 8, 16)),
            "hidden_width": Axis(values=(32, 64, 128)),
            "weight_decay": Axis(low=0.0, high=0.1),
            "ema_decay": Axis(values=(0.0, 0.99, 0.999)),
            **dict(list(MORE.items())[:more]),
            **{
                axis: Axis(values=tuple(sorted({getattr(s, axis) for s in settings})))
                for axis in ("flow_steps", "execute_steps")
                if axis == "flow_steps" or any(s.execute_steps for s in settings)
            },
        },
        seeds=SEEDS,
        search=SearchConfig(trials=trials),
        eval=EvalConfig(episodes=episodes, evaluations=EVALUATIONS),
        final=FinalConfig(top=3, episodes=100),
    )


def make_run(
    path: Path,
    trials: int = 2000,
    episodes: int = 200_000,
    settings: Sequence[SampleSetting] = SETTINGS,
    more: int = 0,
) -> Path:
    """A finished sweep of `trials` trials and about `episodes` episodes, with losses of the first hundred.

    settings: sample settings at which every trial is measured. more: further axes, the first of `MORE`.
    """
    rng = random.Random(0)
    evaluations = [EVALUATIONS if trial % 8 == 0 else 1 + trial % 2 for trial in range(trials)]
    arms = len(SEEDS) * len(settings)
    each = max(1, round((episodes - 3 * arms * 100) / (sum(evaluations) * arms)))
    config = make_config(trials, each, settings, more)
    folder = SweepFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    write_json(folder.config, config.to_dict())
    write_json(folder.versions, {"python": "3.11", "raybc": "0.1.0"})
    folder.ledger.unlink(missing_ok=True)
    lines, now = [], BEGAN
    for trial in range(trials):
        params = {
            "lr": 10 ** rng.uniform(-5, -1), "horizon_length": rng.choice((4, 8, 16)),
            "hidden_width": rng.choice((32, 64, 128)), "weight_decay": rng.uniform(0, 0.1),
            "ema_decay": rng.choice((0.0, 0.99, 0.999)),
        }  # fmt: skip
        params |= {axis: rng.choice(MORE[axis].values) for axis in list(MORE)[:more]}
        lines.append({"event": "start", "trial": trial, "params": params, "origin": "sampler" if trial else "defaults"})
        if trial % 97 == 96:
            lines.append({"event": "failed", "trial": trial, "reason": "the loss is not finite at step 120"})
            continue
        level = math.exp(-((math.log10(params["lr"]) + 3) ** 2) / 2) * (0.7 + 0.1 * (params["horizon_length"] == 8))
        for k in range(1, evaluations[trial] + 1):
            rows = _rows(rng, trial, "search", k, level * (1 - 0.5**k), each, settings)
            ended = k == evaluations[trial]
            status = "running" if not ended else "completed" if k == EVALUATIONS else "pruned"
            timing = {
                "train_seconds": 3.0, "train": [now, now + 3], "rollout": [now + 3, now + 5],
            }  # fmt: skip
            score = pooled(rows_at(rows, best_setting(rows, SUCCESS)), SUCCESS) or 0.0
            lines.append(
                {"event": "evaluation", "trial": trial, "evaluation": k, "step": k * STEPS // EVALUATIONS,
                 "status": status, "score": score, "rows": rows, "timing": timing, "beaten": ""}
            )  # fmt: skip
            now += 4
    lines.append({"event": "stage", "name": "search", "start": BEGAN, "end": now})
    _append(folder, lines)
    state = SweepState.from_events(read_events(folder.ledger))
    best = state.ranking()[:3]
    lines = [
        {
            "event": "final",
            "trial": trial.number,
            "rows": _rows(rng, trial.number, "final", EVALUATIONS, 0.75, 100, settings),
        }
        for trial in best
    ]
    ends = [("final", now, now + 60), ("whole", BEGAN, now + 60)]
    _append(folder, [*lines, *({"event": "stage", "name": n, "start": a, "end": b} for n, a, b in ends)])
    state = SweepState.from_events(read_events(folder.ledger))
    _views(folder, config, state)
    return path


def _rows(
    rng: random.Random, trial: int, phase: str, k: int, level: float, count: int, settings: Sequence[SampleSetting]
) -> list[dict[str, Any]]:
    rows = []
    for seed in SEEDS:
        for setting in settings:
            p = min(0.97, max(0.0, level + rng.gauss(0, 0.04) + 0.05 * (setting.flow_steps > 1)))
            found = []
            for index in range(count):
                draw = rng.random()
                outcome = "success" if draw < p else "error" if draw > 0.999 else ("timeout", "failure")[index % 2]
                steps = MAX_STEPS if outcome == "timeout" else rng.randint(20, 120)
                found.append(
                    {"index": index, "outcome": outcome, "steps": steps, "return": float(outcome == "success"),
                     "max_reward": 1.0, "seconds": 0.1, "retries": 0,
                     "message": "ValueError: a joint left its range" if outcome == "error" else "",
                     "error_kind": "ValueError" if outcome == "error" else ""}
                )  # fmt: skip
                if phase == "final" and outcome != "error":
                    found[-1]["final_obs"] = _last_state(trial, seed, index, outcome)
            run = {"run_id": f"{trial:08x}{seed:08x}", "trial": trial, "seed": seed, "phase": phase, "evaluation": k}
            where = {"step": k * STEPS // EVALUATIONS, **dataclasses.asdict(setting)}
            rows.append({**run, **where, **summarise(found, SUCCESS)})
    return rows


def _last_state(trial: int, seed: int, index: int, outcome: str) -> dict[str, list[float]]:
    """Solved episodes end at a goal on the right, failures at the obstacle in the middle, timeouts before it."""
    rng = random.Random(f"{trial} {seed} {index}")
    x, y = {"success": (0.85, 0.0), "failure": (-0.1, 0.15), "timeout": (-0.6, -0.3)}[outcome]
    state = [x + rng.gauss(0, 0.05), y + rng.gauss(0, 0.1), rng.gauss(0, 0.1), rng.gauss(0, 0.1)]
    return {"state": state, "goal": [0.85, rng.uniform(-0.4, 0.4)]}


def _append(folder: SweepFolder, events: list[dict[str, Any]]) -> None:
    with folder.ledger.open("a", encoding="utf-8") as file:  # `Ledger` itself waits for the disk after each event
        file.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)


def _views(folder: SweepFolder, config: SweepConfig, state: SweepState) -> None:
    write_tables(folder, config, state)
    winner = state.ranking()[0]
    setting = best_setting(winner.evaluations[-1].rows, SUCCESS)
    write_json(
        folder.winner_json,
        {"trial": winner.number, "params": winner.params, "setting": dataclasses.asdict(setting), "seed": 0,
         "run_id": "0", "bundle": "winner", "rule": "highest success on the search starts"},
    )  # fmt: skip
    facts = {
        "command": "python -m raybc.sweep made-up.yaml", "cpus": 2.0, "gpus": 0.0, "threads": 1, "workers": 2,
        "max_steps": MAX_STEPS,
        "data": {"path": "demos/pointmass.hdf5", "episodes": 100, "transitions": 4000, "fingerprint": "sha256:0"},
    }  # fmt: skip
    rollouts = {"episodes": 200_000, "steps": 12_000_000, "retries": 40, "errors": 200, "restarts": 12,
                "recycled": 0, "busy_seconds": 9000.0, "workers": 2}  # fmt: skip
    write_timing(folder, state, facts | {"video_note": "none: made up", "rollouts": rollouts})
    simulated = [tuple(e.timing["rollout"]) for t in state.trials.values() for e in t.evaluations]
    write_timeline(folder, state, BEGAN, simulated)
    write_json(folder.progress, {"time": BEGAN, "ended": BEGAN, **facts, "rollouts": rollouts})
    for trial in list(state.trials)[:100]:
        for seed in SEEDS:
            log = folder.member(trial, seed).train_csv
            log.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{step},{2 * math.exp(-step / 400) + 0.05}\n" for step in range(10, STEPS + 1, 10)]
            log.write_text("step,train/actor_loss\n" + "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=200_000)
    options = parser.parse_args()
    print(make_run(options.out, options.trials, options.episodes))


if __name__ == "__main__":
    main()
