"""Every adapter passes the conformance tester; names are found or explained."""

from __future__ import annotations

import numpy as np
import pytest

from raybc.envs.pointmass import POINTMASS
from raybc.envs.variant import with_limit
from raybc.registry import DATA, OBSERVATIONS, TASKS, get_task, parse_env_name
from raybc.testing.envs import check_task
from raybc.types import SPLIT_SIZE, EpisodeSpec, UserError


def test_pointmass_conforms() -> None:
    check_task(POINTMASS)


def test_pointmass_follows_its_equations() -> None:
    """v' = v + dt (u - v), x' = x + dt v', solved by hand for two steps."""
    env = POINTMASS.make(None)
    obs, _ = env.reset(seed=5)
    x0 = obs["state"][:2].astype(np.float64)
    env.step(np.array([1.0, -2.0], np.float32))  # the second is clipped to -1
    obs, reward, terminated, truncated, info = env.step(np.array([0.5, 0.0], np.float32))
    v1 = 0.1 * np.array([1.0, -1.0])
    v2 = v1 + 0.1 * (np.array([0.5, 0.0]) - v1)
    assert np.allclose(obs["state"][2:], v2, atol=1e-6)
    assert np.allclose(obs["state"][:2], x0 + 0.1 * v1 + 0.1 * v2, atol=1e-6)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)


def test_names() -> None:
    for task in TASKS:
        for data in DATA:
            for obs, suffix in OBSERVATIONS.items():
                if task + suffix in TASKS:
                    found = parse_env_name(f"{task}-{data}-{obs}")
                    assert (str(found), with_limit(found.task)[0]) == (f"{task}-{data}-{obs}", task + suffix)
    with pytest.raises(UserError, match="unknown environment 'lift-scripted-video'"):
        parse_env_name("lift-scripted-video")
    with pytest.raises(UserError, match="did you mean 'lift-scripted-low_dim'"):
        parse_env_name("lift-scripted-lowdim")
    with pytest.raises(UserError, match=r"unknown task 'pointmas'.*'pointmass'"):
        get_task("pointmas")


def test_splits_cannot_meet() -> None:
    seeds = {s: {EpisodeSpec("t", s, i).seed for i in (0, 1, SPLIT_SIZE - 1)} for s in ("demos", "search", "final")}
    assert len(set.union(*seeds.values())) == 9
    assert max(seeds["demos"]) < min(seeds["search"])
    assert max(seeds["search"]) < min(seeds["final"])
    with pytest.raises(UserError, match="episode index"):
        EpisodeSpec("t", "search", SPLIT_SIZE)
