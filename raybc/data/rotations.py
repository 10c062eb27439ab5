"""Conversions between representations of rotations, float64 in and out; `SIZES` names them.

    axis_angle        (3,) unit axis times angle in radians (a rotation vector); out: angles of 0 to pi
    quaternion_xyzw   (4,) scalar last, as MuJoCo-based suites and ROS write it in messages; out: scalar at least 0
    quaternion_wxyz   (4,) scalar first, as MuJoCo stores it; out: scalar at least 0
    euler_xyz         (3,) radians about the fixed axes x, y, z, in this order (roll, pitch, yaw)
    matrix            (9,) rows one after another
    rotation_6d       (6,) the first two rows of the matrix

rotation_6d is the representation of Zhou et al., "On the Continuity of Rotation Representations in Neural Networks"
(CVPR 2019): unlike the others of this list but the matrix, it has no jumps, and any six numbers are a rotation after
Gram-Schmidt. The paper takes columns of the matrix; here it is rows, as in pytorch3d and so in Diffusion Policy, UMI
and robomimic. A quaternion and its negative are the same rotation, and so are an axis-angle and its opposite at pi:
compare rotations, never these numbers.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.spatial.transform import Rotation

from raybc.types import UserError

Representation = Literal["axis_angle", "quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "matrix", "rotation_6d"]
#: Numbers of each representation.
SIZES: dict[str, int] = dict(zip(get_args(Representation), (3, 4, 4, 3, 9, 6), strict=True))
#: Length below which a direction counts as missing.
MISSING = 1e-8


def convert(values: np.ndarray, source: Representation, target: Representation) -> np.ndarray:
    """The same rotations in another representation, float64.

    values: (..., `SIZES[source]`). Quaternions and rotation_6d need not be normalised. Raises `UserError` for another
    size, and for a quaternion of zeros.
    """
    values = np.asarray(values, np.float64)
    if values.shape[-1:] != (SIZES[source],):
        raise UserError(f"rotations: expected {SIZES[source]} numbers of {source}, got shape {values.shape}")
    rows = values.reshape(-1, SIZES[source])
    if not len(rows):
        return np.zeros((*values.shape[:-1], SIZES[target]))
    return _to_rows(_from_rows(rows, source), target).reshape(*values.shape[:-1], SIZES[target])


def _from_rows(rows: np.ndarray, source: str) -> Rotation:
    if source == "axis_angle":
        return Rotation.from_rotvec(rows)
    if source == "euler_xyz":
        return Rotation.from_euler("xyz", rows)
    if source == "matrix":
        return Rotation.from_matrix(rows.reshape(-1, 3, 3))
    if source == "rotation_6d":
        return Rotation.from_matrix(orthogonal(rows))
    if not (np.linalg.norm(rows, axis=1) > MISSING).all():
        raise UserError(f"rotations: expected {source} other than zeros")
    return Rotation.from_quat(rows if source == "quaternion_xyzw" else np.roll(rows, -1, axis=1))


def _to_rows(rotation: Rotation, target: str) -> np.ndarray:
    if target == "axis_angle":
        return rotation.as_rotvec()
    if target == "euler_xyz":
        return rotation.as_euler("xyz")
    if target == "matrix":
        return rotation.as_matrix().reshape(-1, 9)
    if target == "rotation_6d":
        return rotation.as_matrix()[:, :2].reshape(-1, 6)
    quat = rotation.as_quat()
    quat = np.where(quat[:, 3:] < 0, -quat, quat)
    return quat if target == "quaternion_xyzw" else np.roll(quat, 1, axis=1)


def orthogonal(six_N6: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) of any six numbers, by Gram-Schmidt.

    The first three numbers give the direction of the first row; what the last three have beside it, that of the second.
    Where a direction is missing (zeros, or the same one twice), a fixed one takes its place.
    """
    first, second = np.asarray(six_N6, np.float64)[:, :3], np.asarray(six_N6, np.float64)[:, 3:]
    first = _unit(first, np.tile([1.0, 0.0, 0.0], (len(first), 1)))
    second = second - _dot(first, second) * first
    # Of the axes, the one that is farthest from the first row.
    spare = np.eye(3)[np.abs(first).argmin(axis=1)]
    second = _unit(second, spare - _dot(first, spare) * first)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _unit(vectors_N3: np.ndarray, otherwise_N3: np.ndarray) -> np.ndarray:
    found = np.where(np.sqrt(_dot(vectors_N3, vectors_N3)) > MISSING, vectors_N3, otherwise_N3)
    unit: np.ndarray = found / np.sqrt(_dot(found, found))
    return unit


def _dot(a_N3: np.ndarray, b_N3: np.ndarray) -> np.ndarray:
    """(N, 1); summed in a fixed order, so that a row does not depend on the number of rows."""
    product = a_N3 * b_N3
    total: np.ndarray = product[:, :1] + product[:, 1:2] + product[:, 2:]
    return total
