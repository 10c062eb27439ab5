"""One demonstration of a scripted expert, as a file that is complete or absent. No Ray in here."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data.demo import Demo
from raybc.envs.base import SimEnv, Task
from raybc.files import replacing
from raybc.types import EpisodeResult, EpisodeSpec


# The source of this function is part of `DemosSpec.key`: changing it makes users record their demonstrations again.
def demonstrate(task: Task, env: SimEnv, spec: EpisodeSpec, noise: float, folder: Path) -> dict[str, Any]:
    """Let the expert solve one start and write the episode to `folder`; returns its row. A finished one is kept."""
    path = folder / f"episode_{spec.index:06d}.npz"
    if path.exists():
        part = read_part(path)
        if part is not None:
            return part.row
    assert task.make_expert is not None
    obs, _ = env.reset(seed=spec.seed)
    expert = task.make_expert(env, np.random.default_rng([spec.seed, 2]), noise)
    trail: list[tuple[Any, ...]] = []
    outcome = "timeout"
    while outcome == "timeout" and len(trail) < task.max_steps:
        state = env.sim_state()
        action = expert.act(obs)
        next_obs, reward, terminated, _, info = env.step(action)
        done = bool(info["success"] or terminated)
        trail.append((obs, next_obs, action, reward, done, state))
        obs = next_obs
        if done:
            outcome = "success" if info["success"] else "failure"
    row = EpisodeResult(
        spec.index,
        spec.seed,
        outcome,  # type: ignore[arg-type]
        float(sum(t[3] for t in trail)),
        len(trail),
        0.0,
    ).to_row()
    arrays: dict[str, np.ndarray] = {
        "actions": np.array([t[2] for t in trail], np.float32),
        "rewards": np.array([t[3] for t in trail], np.float32),
        "dones": np.array([t[4] for t in trail], np.int64),
        "states": np.array([t[5] for t in trail], np.float64),
    }
    for key in obs:
        arrays[f"obs/{key}"] = np.array([t[0][key] for t in trail])
        arrays[f"next_obs/{key}"] = np.array([t[1][key] for t in trail])
    arrays["row"] = np.array(json.dumps(row))
    arrays["env_args"] = np.array(json.dumps(env.env_args()))
    arrays["model_xml"] = np.array(env.model_xml() if hasattr(env, "model_xml") else "")
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)
    return row


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode, stored on disk until all of them are joined in one file."""

    demo: Demo
    row: dict[str, Any]
    env_args: dict[str, Any]


def read_part(path: Path) -> RecordedEpisode | None:
    """Read an episode file; None if it is damaged (it is then recorded again)."""
    try:
        with np.load(path, allow_pickle=False) as part:
            row = json.loads(str(part["row"]))
            demo = Demo(
                obs={k[4:]: part[k] for k in part.files if k.startswith("obs/")},
                next_obs={k[9:]: part[k] for k in part.files if k.startswith("next_obs/")},
                actions=part["actions"],
                rewards=part["rewards"],
                dones=part["dones"],
                states=part["states"],
                seed=row["seed"],
                model_xml=str(part["model_xml"]),
            )
            return RecordedEpisode(demo, row, json.loads(str(part["env_args"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
