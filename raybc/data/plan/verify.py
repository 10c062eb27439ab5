"""Whether a plan fits the data and the training that it is used with. (`load_plan` checks that it is undamaged.)"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.plan.build import build_plan, not_enough_anchors
from raybc.data.plan.plan import SamplingPlan
from raybc.data.same import is_same
from raybc.types import UserError

#: Relative difference of weights that is allowed: exp and power differ in the last bits between platforms.
WEIGHT_TOLERANCE = 1e-9


def check_dataset(
    plan: SamplingPlan, names: Collection[str], fingerprint: str, dataset_len: int, store: EpisodeStore | None = None
) -> None:
    """Raise `UserError` for data that the plan was not built from. Contents count: a renamed file is the same data.

    Args:
        plan: the plan.
        names: names of the data set (its environment name, its file's name).
        fingerprint: `EpisodeStore.fingerprint`.
        dataset_len: number of transitions.
        store: the data. They are also the same where the plan was built without the images, or without the observations
            that a task computes from the recorded ones, or with these.
    """
    if is_same(plan.dataset_fingerprint, fingerprint, store):
        return
    expected, got = plan.dataset_fingerprint, fingerprint
    if plan.repo_id not in names:
        raise UserError(
            f"Sampling plan repo_id mismatch: expected {plan.repo_id!r}, which the plan was built from, got "
            f"{' or '.join(map(repr, names))}, whose contents also differ; name that data set, or build the plan again"
        )
    if plan.dataset_len != dataset_len:
        expected, got = f"{expected} ({plan.dataset_len} transitions)", f"{got} ({dataset_len} transitions)"
    raise UserError(
        f"Sampling plan dataset_fingerprint mismatch: expected {expected}, got {got}: the data have changed since "
        "the plan was built; build the plan again"
    )


def check_training(plan: SamplingPlan, horizon: int, batch_size: int) -> None:
    """Raise `UserError` for a training with windows of another length (`horizon` steps), or a batch that the plan
    cannot fill."""
    if plan.config.horizon_length != horizon:
        raise UserError(
            f"Sampling plan action_horizon mismatch: expected chunks of {plan.config.horizon_length} steps, got "
            f"{horizon}; set horizon_length (and action_chunking), or build the plan again"
        )
    if len(plan.anchors_P) < batch_size:
        raise not_enough_anchors(batch_size, len(plan.anchors_P), "in the plan")


def _scored(plan: SamplingPlan, store: EpisodeStore) -> np.ndarray | None:
    """The weights of the episodes that the plan holds, for all episodes of the data, float64 (E,); 1 for others."""
    if plan.worth_E is None or plan.config.weights != "quality":
        return None
    scored_E = np.ones(store.num_episodes)
    scored_E[plan.episodes_E] = plan.worth_E
    return scored_E


def check_rebuilt(plan: SamplingPlan, store: EpisodeStore) -> None:
    """Build the plan again from the data and its parameters, and raise `UserError` where anything differs."""
    again = build_plan(store, plan.config, plan.repo_id, plan.dataset_fingerprint, _scored(plan, store))
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
        equal = np.isclose(expected, got, rtol=WEIGHT_TOLERANCE, atol=0) if got.dtype.kind == "f" else expected == got
        if not equal.all():
            first = int(np.argmin(equal))
            raise UserError(
                f"Sampling plan {name} mismatch: expected {expected[first]} at {first} (built again), got "
                f"{got[first]}; build the plan again"
            )
