"""`ActionForm.decode` as a graph of PyTorch, for exports; everything else uses scipy (`raybc.data.rotations`).

Letters: L numbers that the network gives, A numbers of an action, N rotations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raybc.data.action_form import ARM, KEPT, LEARNED_ARM, ActionForm
from raybc.data.rotations import MISSING


def decoded(learned: Tensor, form: ActionForm) -> Tensor:
    """What a network gives, (..., L), as actions (..., A)."""
    if not form.arms:
        return _in_own_units(learned, form)
    arms = []
    for part in learned.split(LEARNED_ARM, dim=-1):
        kept = {place: part[..., mine : mine + 1] for place, mine in KEPT}
        turn = axis_angle(part[..., 3:9].reshape(-1, 6)).reshape(*part.shape[:-1], 3)
        arms.append(torch.cat([*(kept[i] for i in range(3)), turn, kept[ARM - 1]], dim=-1))
    return _in_own_units(torch.cat(arms, dim=-1), form)


def _in_own_units(actions: Tensor, form: ActionForm) -> Tensor:
    return (actions - torch.tensor(form.offsets)) / torch.tensor(form.gains) if form.gains else actions


def axis_angle(six_N6: Tensor) -> Tensor:
    """Rotations of any six numbers (N, 6) as axis-angles (N, 3) of at most pi."""
    first_N3 = _unit(six_N6[:, :3], torch.tensor([[1.0, 0.0, 0.0]]))
    second_N3 = six_N6[:, 3:] - _dot(first_N3, six_N6[:, 3:]) * first_N3
    spare_N3 = torch.eye(3)[first_N3.abs().argmin(dim=1)]
    second_N3 = _unit(second_N3, spare_N3 - _dot(first_N3, spare_N3) * first_N3)
    third_N3 = torch.linalg.cross(first_N3, second_N3)
    return _of_matrix(first_N3, second_N3, third_N3)


def _of_matrix(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Rows (N, 3) of rotation matrices as axis-angles, by the largest part of the quaternion, which is exact at pi."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(1) for row in (x, y, z))
    candidates_N44 = torch.stack(  # the quaternion (w, x, y, z) times four times each of its parts
        [
            torch.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], 1),
            torch.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], 1),
            torch.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], 1),
            torch.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], 1),
        ],
        dim=1,
    )
    best_N = torch.stack([candidates_N44[:, i, i] for i in range(4)], 1).argmax(dim=1)
    quat_N4 = candidates_N44.gather(1, best_N[:, None, None].expand(-1, 1, 4))[:, 0]
    quat_N4 = quat_N4 / (quat_N4**2).sum(1, keepdim=True).sqrt()
    quat_N4 = torch.where(quat_N4[:, :1] < 0, -quat_N4, quat_N4)
    length_N1 = (quat_N4[:, 1:] ** 2).sum(1, keepdim=True).sqrt()
    angle_N1 = 2 * torch.atan(length_N1 / quat_N4[:, :1].clamp_min(1e-30))
    tiny = length_N1 < 1e-6  # there the angle is twice the length
    scale_N1 = torch.where(tiny, torch.full_like(length_N1, 2.0), angle_N1 / length_N1.clamp_min(1e-6))
    return quat_N4[:, 1:] * scale_N1


def _unit(vectors_N3: Tensor, otherwise: Tensor) -> Tensor:
    vectors_N3 = torch.where(_dot(vectors_N3, vectors_N3).sqrt() > MISSING, vectors_N3, otherwise)
    return vectors_N3 / _dot(vectors_N3, vectors_N3).sqrt()


def _dot(a_N3: Tensor, b_N3: Tensor) -> Tensor:
    return (a_N3 * b_N3).sum(1, keepdim=True)
