"""What a simulator process records of an episode: one file, complete or absent. No Ray and no torch in here.

Letters: T steps, A action dim.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.files import replacing
from raybc.rows import EpisodeRow
from raybc.strict import digest
from raybc.types import EpisodeSpec, UserError


def recorded_file(folder: Path, spec: EpisodeSpec) -> Path:
    """Where the episode of a start is."""
    return folder / f"{digest(spec.task)[:12]}_{spec.split}_{spec.index:06d}.npz"


class Recorder:
    """The steps of one episode, in memory until it ends."""

    def __init__(self) -> None:
        self._obs: list[dict[str, np.ndarray]] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []

    def before(self, obs: Mapping[str, np.ndarray], action_A: np.ndarray) -> None:
        """A step is about to be taken. obs: what was observed before it; action_A: physical, as it is executed."""
        # Copies: simulators may reuse their arrays.
        self._obs.append({key: np.array(value) for key, value in obs.items() if _is_kept(np.asarray(value))})
        self._actions.append(np.array(action_A, np.float32))

    def after(self, reward: float) -> None:
        """The step was taken."""
        self._rewards.append(float(reward))

    def save(
        self,
        path: Path,
        row: EpisodeRow,
        instruction: str,
        env_args: Mapping[str, Any],
        last_obs: Mapping[str, np.ndarray],
    ) -> None:
        """Write the episode. last_obs: what was observed after its last step."""
        last = np.zeros(len(self._actions), bool)
        last[-1] = row["outcome"] == "success" or (row["outcome"] == "failure" and not row.get("truncated", False))
        arrays = {f"obs/{key}": np.stack([obs[key] for obs in self._obs]) for key in self._obs[0]}
        shapes = {key: [str(array.dtype), *array.shape[1:]] for key, array in arrays.items()}
        about = {"row": row, "instruction": instruction, "env_args": dict(env_args), "shapes": shapes}
        arrays |= {
            "actions": np.stack(self._actions),
            "rewards": np.array(self._rewards, np.float32),
            "terminals": last,
            "about": np.array(json.dumps(about)),
            **{f"last/{key}": np.asarray(last_obs[key]) for key in self._obs[0]},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)


def _is_kept(value: np.ndarray) -> bool:
    """Whether it is a low-dimensional observation or an image."""
    return (value.ndim == 1 and value.dtype.kind in "fiub") or (value.ndim == 3 and value.dtype == np.uint8)


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode as it was recorded."""

    obs: dict[str, np.ndarray]
    """Name -> (T, size), or uint8 (T, height, width, channels); before each action."""
    actions: np.ndarray
    """float32 (T, A), physical."""
    rewards: np.ndarray
    """float32 (T,)."""
    terminals: np.ndarray
    """bool (T,): whether the environment, not a step limit, ended the episode."""
    row: EpisodeRow
    instruction: str
    env_args: dict[str, Any]
    last: dict[str, np.ndarray]
    """Name -> the observation after the last action; {} in files of earlier releases."""


def shapes_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Observation -> its dtype and shape. Raises `UserError` for a damaged file."""
    about = _read(path, ())["about"]
    return {key.removeprefix("obs/"): tuple(shape) for key, shape in about["shapes"].items()}


def read_recorded(path: Path, keys: tuple[str, ...] | None = None) -> RecordedEpisode:
    """The episode with the observations `keys` (None: all). Raises `UserError` for a damaged file."""
    keys = tuple(shapes_of(path)) if keys is None else keys
    found = _read(path, keys)
    about = found["about"]
    last = {key: found[f"last/{key}"] for key in keys if f"last/{key}" in found}
    return RecordedEpisode(
        {key: found[f"obs/{key}"] for key in keys}, found["actions"], found["rewards"], found["terminals"],
        about["row"], about["instruction"], about["env_args"], last,
    )  # fmt: skip


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    observed = [f"{when}/{key}" for when in ("obs", "last") for key in keys]
    names = [*observed, *(("actions", "rewards", "terminals") if keys else ())]
    try:
        with np.load(path, allow_pickle=False) as part:
            known = [name for name in names if name in part or not name.startswith("last/")]
            return {"about": json.loads(str(part["about"])), **{name: part[name] for name in known}}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected a recorded episode, got a damaged file ({error}); delete it, and --resume runs its "
            "episode again"
        ) from None
