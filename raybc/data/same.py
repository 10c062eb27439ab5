"""Whether two fingerprints are of the same demonstrations, read with or without images and a task's observations."""

from __future__ import annotations

from collections.abc import Iterator

from raybc.data.episodes import EpisodeStore


def is_same(recorded: str, fingerprint: str, store: EpisodeStore | None = None) -> bool:
    """Whether `recorded` is the fingerprint of these data.

    Args:
        recorded: `EpisodeStore.fingerprint` of the data that something was made from.
        fingerprint: that of the data at hand.
        store: the data at hand. They are also the same where `recorded` was taken without the images, or without the
            observations that a task computes from the recorded ones, or with these.
    """
    return recorded == fingerprint or (store is not None and recorded in _other_fingerprints(store))


def _other_fingerprints(store: EpisodeStore) -> Iterator[str]:
    """Fingerprints of the same demonstrations as they are read without images, and with the observations of tasks or
    without."""
    from raybc.data.adapt import ADAPTERS, for_task  # imports a simulator's adapter, so only where fingerprints differ

    low_dim = {name for name in store.obs if name not in store.images}
    yield store.fingerprint(low_dim)
    for task, adapter in ADAPTERS.items():
        computed = set(adapter(store.obs))
        if computed:
            yield store.fingerprint(set(store.obs) - computed)
            yield store.fingerprint(low_dim - computed)
            whole = for_task(store, task)
            yield whole.fingerprint()
            yield whole.fingerprint({name for name in whole.obs if name not in whole.images})
