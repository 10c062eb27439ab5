"""`dataset_stat.json`: statistics of states and actions in the unified vector of RDT (Liu et al. 2024,
https://arxiv.org/abs/2410.07864), for its own trainer and for whoever checks units by it.

    {"libero_90": {"dataset_name": "libero_90", "state_mean": [128 numbers], "state_std": ..., "state_min": ...,
                   "state_max": ..., "action_mean": ..., "action_std": ..., "action_min": ..., "action_max": ...}}

Numbers are in metres and radians; rotations are the first two columns of the rotation matrix; a gripper is its opening,
0 to 1. Places that a robot does not have are 0. Letters: N transitions, A action dim.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raybc.config import RunConfig
from raybc.data.action_form import ARM, PHYSICAL, ActionForm, with_units
from raybc.data.episodes import EpisodeStore
from raybc.data.rotations import Representation, convert
from raybc.files import read_json, write_json
from raybc.types import UserError

#: Length of the unified vector, and the places of the right arm in it.
LENGTH = 128
JOINTS, GRIPPER, POSITION, ROTATION = slice(0, 7), 10, slice(30, 33), slice(33, 39)
#: Opening of a Panda's gripper in metres: the distance of its fingers.
PANDA_OPENING = 0.08
_STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: x.mean(0), "std": lambda x: x.std(0), "min": lambda x: x.min(0), "max": lambda x: x.max(0),
}  # fmt: skip


def write_dataset_stat(path: Path, name: str, store: EpisodeStore, units: str = PHYSICAL) -> dict[str, Any]:
    """Add the statistics of a data set to a file, which may have those of others; returns what was added.

    units: as `action_units` of a training. Raises `UserError` for a file of another kind, a name that it has already,
    and for data without an arm's states or actions.
    """
    known: Any = read_json(path) if path.exists() else {}
    if not isinstance(known, dict) or not all(isinstance(v, dict) and "dataset_name" in v for v in known.values()):
        raise UserError(f"{path}: expected statistics as RDT writes them (dataset_stat.json), got another file")
    if name in known:
        raise UserError(f"{path}: has statistics of {name!r} already; choose another name or file")
    found: dict[str, Any] = {"dataset_name": name}
    for what, rows in (("state", states_of(store)), ("action", actions_of(store, units))):
        for statistic, of in _STATISTICS.items():
            found[f"{what}_{statistic}"] = of(rows.astype(np.float64)).tolist()
    write_json(path, {**known, name: found})
    return found


def actions_of(store: EpisodeStore, units: str = PHYSICAL) -> np.ndarray:
    """Actions in the unified vector, float64 (N, 128): deltas of position and rotation, and the gripper's opening."""
    size = store.actions_NA.shape[1]
    if size != ARM:
        raise UserError(
            f"{store.source}: actions: expected {ARM} numbers (position, axis-angle, gripper) for RDT's vector, got "
            f"{size}"
        )
    config = with_units(RunConfig.of(action_units=units), store.env_args)
    rows_N7 = ActionForm.of(config, size).encode(store.actions_NA)
    return _unified(rows_N7[:, :3], rows_N7[:, 3:6], "axis_angle", rows_N7[:, 6])


def states_of(store: EpisodeStore) -> np.ndarray:
    """States of a Panda in the unified vector, float64 (N, 128), under the names of robosuite or of LIBERO's files."""
    for position, rotation, kind, gripper, joints in (
        ("robot0_eef_pos", "robot0_eef_quat", "quaternion_xyzw", "robot0_gripper_qpos", "robot0_joint_pos"),
        ("ee_pos", "ee_ori", "axis_angle", "gripper_states", "joint_states"),
    ):
        if all(key in store.obs for key in (position, rotation, gripper)):
            fingers_N2 = store.obs[gripper]
            opening = (fingers_N2[:, 0] - fingers_N2[:, 1]) / PANDA_OPENING
            rows = _unified(store.obs[position], store.obs[rotation], kind, opening)  # type: ignore[arg-type]
            if joints in store.obs:
                rows[:, JOINTS] = store.obs[joints]
            return rows
    raise UserError(
        f"{store.source}: expected states of an arm (robot0_eef_pos, robot0_eef_quat, robot0_gripper_qpos, or ee_pos, "
        f"ee_ori, gripper_states), got {', '.join(store.obs)}"
    )


def _unified(position: np.ndarray, rotation: np.ndarray, kind: Representation, opening: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(position), LENGTH))
    matrix_N33 = convert(rotation, kind, "matrix").reshape(-1, 3, 3)
    rows[:, POSITION], rows[:, GRIPPER] = position, opening
    rows[:, ROTATION] = matrix_N33[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    return rows
