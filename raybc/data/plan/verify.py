"""Does a plan fit the data, and the training, that it is used with? (That it is whole, `load_plan` has seen.)"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.plan.build import build_plan, not_enough_anchors
from raybc.data.plan.plan import SamplingPlan
from raybc.types import UserError

#: Weights may differ in so much: exp and power are not the same to the last bit on every platform.
TOLERANCE = 1e-9


def check_dataset(plan: SamplingPlan, names: Collection[str], fingerprint: str, dataset_len: int) -> None:
    """Refuse data that the plan was not made of. The contents decide: a file that was renamed is the same data.

    names: what the data set is called (its environment name, its file's name). fingerprint: `EpisodeStore.fingerprint`.
    """
    if plan.dataset_fingerprint == fingerprint:
        return
    expected, got = plan.dataset_fingerprint, fingerprint
    if plan.repo_id not in names:
        raise UserError(
            f"Sampling plan repo_id mismatch: expected {plan.repo_id!r}, which the plan was made of, got "
            f"{' or '.join(map(repr, names))}, whose contents differ, too; name that data set, or build the plan again"
        )
    if plan.dataset_len != dataset_len:
        expected, got = f"{expected} ({plan.dataset_len} transitions)", f"{got} ({dataset_len} transitions)"
    raise UserError(
        f"Sampling plan dataset_fingerprint mismatch: expected {expected}, got {got}: the data changed since the plan "
        "was made; build the plan again"
    )


def check_training(plan: SamplingPlan, horizon: int, batch_size: int) -> None:
    """Refuse a training whose windows (`horizon` steps) are not the plan's, or whose batch the plan cannot fill."""
    if plan.config.horizon_length != horizon:
        raise UserError(
            f"Sampling plan action_horizon mismatch: expected chunks of {plan.config.horizon_length} steps, got "
            f"{horizon}; set horizon_length (and action_chunking), or build the plan again"
        )
    if len(plan.anchors_P) < batch_size:
        raise not_enough_anchors(batch_size, len(plan.anchors_P), "in the plan")


def check_rebuilt(plan: SamplingPlan, store: EpisodeStore) -> None:
    """Build the plan again from the data and its parameters, and refuse it where anything differs."""
    again = build_plan(store, plan.config, plan.repo_id, plan.dataset_fingerprint)
    if again.config != plan.config or again.stride_used != plan.stride_used:
        raise UserError(
            f"Sampling plan: expected stride_used {again.stride_used} and state_keys {again.config.state_keys!r} "
            f"(built again), got {plan.stride_used} and {plan.config.state_keys!r}; build the plan again"
        )
    for name, expected in again.arrays().items():
        got = plan.arrays()[name]
        if expected.shape != got.shape:
            raise UserError(
                f"Sampling plan {name} mismatch: expected {len(expected)} (built again), got {len(got)}; build "
                "the plan again"
            )
        equal = np.isclose(expected, got, rtol=TOLERANCE, atol=0) if got.dtype.kind == "f" else expected == got
        if not equal.all():
            first = int(np.argmin(equal))
            raise UserError(
                f"Sampling plan {name} mismatch: expected {expected[first]} at {first} (built again), got "
                f"{got[first]}; build the plan again"
            )
