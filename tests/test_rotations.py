"""Representations of rotations, against scipy, and the formulas of the papers written down."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from raybc.data.rotations import SIZES, convert, orthogonal
from raybc.types import UserError

RANDOM = Rotation.random(200, rng=np.random.default_rng(0))
AXES = RANDOM.apply([0.0, 0.0, 1.0])
#: Angles of 0, tiny, usual, and near and at pi, about random axes.
ANGLES = Rotation.from_rotvec(AXES * np.resize([0.0, 1e-9, 1e-4, 1.0, np.pi - 1e-4, np.pi - 1e-9, np.pi], 200)[:, None])


def far(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of matrices."""
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SIZES, SIZES)))
@pytest.mark.parametrize("rotations", [RANDOM, ANGLES], ids=["random", "special angles"])
def test_every_conversion_and_back_is_the_same_rotation(source: str, target: str, rotations: Rotation) -> None:
    matrices = rotations.as_matrix().reshape(-1, 9)
    values = convert(matrices, "matrix", source)  # type: ignore[arg-type]
    there = convert(values, source, target)  # type: ignore[arg-type]
    assert there.shape == (200, SIZES[target])
    assert far(convert(there, target, "matrix"), matrices) < 1e-7  # type: ignore[arg-type]


def test_representations_are_scipys() -> None:
    matrices = RANDOM.as_matrix().reshape(-1, 9)
    np.testing.assert_allclose(convert(matrices, "matrix", "axis_angle"), RANDOM.as_rotvec(), atol=1e-9)
    np.testing.assert_allclose(convert(matrices, "matrix", "euler_xyz"), RANDOM.as_euler("xyz"), atol=1e-9)
    xyzw = convert(matrices, "matrix", "quaternion_xyzw")
    np.testing.assert_allclose(xyzw * np.sign(RANDOM.as_quat()[:, 3:]), RANDOM.as_quat(), atol=1e-9)
    np.testing.assert_array_equal(convert(matrices, "matrix", "quaternion_wxyz"), xyzw[:, [3, 0, 1, 2]])
    assert (xyzw[:, 3] >= 0).all(), "one of the two signs"


def test_a_quarter_turn_in_every_representation() -> None:
    half = np.sqrt(0.5)
    expected = {
        "axis_angle": [0, 0, np.pi / 2], "quaternion_xyzw": [0, 0, half, half], "quaternion_wxyz": [half, 0, 0, half],
        "euler_xyz": [0, 0, np.pi / 2], "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1], "rotation_6d": [0, -1, 0, 1, 0, 0],
    }  # fmt: skip
    for name, values in expected.items():
        found = convert(np.array([0, 0, np.pi / 2]), "axis_angle", name)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, values, atol=1e-12, err_msg=name)


def test_the_sign_and_length_of_a_quaternion_do_not_matter() -> None:
    quat = RANDOM.as_quat()
    same = convert(quat, "quaternion_xyzw", "rotation_6d")
    np.testing.assert_allclose(convert(-3 * quat, "quaternion_xyzw", "rotation_6d"), same, atol=1e-12)


def test_axis_angles_jump_at_pi_and_rotation_6d_does_not() -> None:
    before, after = np.array([np.pi - 1e-6, 0, 0]), np.array([np.pi + 1e-6, 0, 0])
    turned = convert(convert(after, "axis_angle", "matrix"), "matrix", "axis_angle")
    np.testing.assert_allclose(turned, [-np.pi + 1e-6, 0, 0], atol=1e-9)
    near = convert(before, "axis_angle", "rotation_6d") - convert(turned, "axis_angle", "rotation_6d")
    assert np.abs(near).max() < 1e-5


def test_predictions_become_rotations_by_gram_schmidt() -> None:
    rng = np.random.default_rng(1)
    six = rng.normal(size=(300, 6))
    found = orthogonal(six)
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (300, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-12)
    for (a, b), matrix in zip(six.reshape(-1, 2, 3), found, strict=True):  # Zhou et al., equation 15
        b1 = a / np.linalg.norm(a)
        b2 = b - (b1 @ b) * b1
        b2 /= np.linalg.norm(b2)
        np.testing.assert_allclose(matrix, [b1, b2, np.cross(b1, b2)], atol=1e-12)


@pytest.mark.parametrize("six", [np.zeros(6), [1, 0, 0, 2, 0, 0], [0, 0, 0, 0, 1, 0], [0, 3, 0, 0, 0, 0]])
def test_missing_directions_still_give_a_rotation(six: list[float]) -> None:
    found = orthogonal(np.array([six], float))[0]
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found) > 0


def test_rows_do_not_depend_on_their_batch() -> None:
    six = np.random.default_rng(2).normal(size=(64, 6))
    together = convert(six, "rotation_6d", "axis_angle")
    for count in (1, 3, 7):
        np.testing.assert_array_equal(convert(six[:count], "rotation_6d", "axis_angle"), together[:count])
    np.testing.assert_array_equal(
        convert(six.reshape(4, 16, 6), "rotation_6d", "axis_angle"), together.reshape(4, 16, 3)
    )


def test_what_is_no_rotation_is_refused() -> None:
    with pytest.raises(UserError, match=r"^rotations: expected 4 numbers of quaternion_xyzw, got shape \(2, 3\)$"):
        convert(np.zeros((2, 3)), "quaternion_xyzw", "matrix")
    with pytest.raises(UserError, match=r"^rotations: expected quaternion_wxyz other than zeros$"):
        convert(np.zeros((2, 4)), "quaternion_wxyz", "matrix")
    assert convert(np.zeros((0, 5, 3)), "axis_angle", "rotation_6d").shape == (0, 5, 6)
