"""Conformance checks for dataset formats.

from raybc.testing import check_format
check_format(my_module, tmp_path)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base
from raybc.data.formats.base import ReadOptions

LENGTHS = (5, 9, 3)


def random_store(seed: int = 0) -> EpisodeStore:
    """Three episodes with the observations `arm` (3,) and `cube` (2,) and actions (2,)."""
    rng, n = np.random.default_rng(seed), sum(LENGTHS)
    return EpisodeStore(
        obs={"arm": rng.normal(size=(n, 3)).astype(np.float32), "cube": rng.normal(size=(n, 2)).astype(np.float32)},
        actions_NA=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        rewards_N=rng.normal(size=n).astype(np.float32),
        episode_ends=np.cumsum(LENGTHS),
        source=Path("random"),
    )


def check_format(module: Any, folder: Path) -> None:
    """Check that `module` recognises and reads back what it writes. Raises an AssertionError otherwise.

    Args:
        module: a format, see `raybc.data.formats.base`.
        folder: an empty folder to write to.
    """
    for name in ("NAME", "DESCRIPTION", "matches", "about", "parts", "write_store"):
        assert hasattr(module, name), f"{module.__name__}: expected {name}, see raybc.data.formats.base"
    store, path = random_store(), folder / "set"
    module.write_store(path, store)
    written = path if path.exists() else next(iter(sorted(folder.iterdir())), path)
    assert written.exists(), f"write_store wrote nothing to {path}"
    assert module.matches(written), f"{module.NAME} does not recognise what it wrote: {written}"
    assert not module.matches(folder / "nothing"), f"{module.NAME} recognises a file that does not exist"
    read = base.collect(module, written, ReadOptions())
    assert read.num_episodes == len(LENGTHS), f"expected {len(LENGTHS)} episodes, got {read.num_episodes}"
    np.testing.assert_array_equal(read.episode_ends, store.episode_ends)
    np.testing.assert_allclose(read.actions_NA, store.actions_NA, rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([read.obs[k] for k in sorted(read.obs)], axis=1),
        np.concatenate([store.obs[k] for k in sorted(store.obs)], axis=1),
        rtol=1e-6,
    )
