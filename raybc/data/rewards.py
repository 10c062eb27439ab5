"""Rewards and ends of demonstrations, as a critic learns them. Letters: N transitions."""

from __future__ import annotations

import numpy as np

from raybc.config import RunConfig
from raybc.config.options import flag_path
from raybc.data.episodes import EpisodeStore
from raybc.types import UserError


def check_rewards(run: RunConfig, store: EpisodeStore, where: str = "--") -> None:
    """Raise `UserError` if `run` has a critic and the data do not say what it has to learn."""
    if run.critic.is_none:
        return
    kind = f"{flag_path(where)}critic={run.critic.kind}"
    if run.get("sparse"):
        if store.success_E is None:
            raise UserError(
                f"{kind}: {store.source}: expected data that say which episodes succeeded (rewards of 0 and 1, or a "
                "mark of success), as sparse needs them, got none; --sparse=False uses the rewards of the data"
            )
        return
    if any(note.kind == "rewards" for note in store.notes) or not store.rewards_N.any():
        advice = "; --sparse makes rewards of its marks of success" if store.success_E is not None else ""
        raise UserError(f"{kind}: {store.source}: expected data with rewards, got none{advice}")


def rewards_and_ends(run: RunConfig, store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    """(rewards, float32 (N,); terminals, bool (N,)) of a store, as a critic learns them.

    With `sparse` the reward is -1 a step and 0 at the last step of a successful episode, which is the only terminal.
    Otherwise both are those of the data; where these have no terminals, success at the last step is one.
    """
    ends = store.episode_ends - 1
    success_N = np.zeros(len(store.actions_NA), bool)
    if store.success_E is not None:
        success_N[ends] = store.success_E
    if run.get("sparse"):
        return success_N.astype(np.float32) - 1, success_N
    return store.rewards_N, success_N if store.terminals_N is None else np.asarray(store.terminals_N, bool)
