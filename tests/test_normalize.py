"""Quantile normalisation, and kinds of normalisation for each key: what is fitted is numpy's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raybc.config import RunConfig
from raybc.data.normalize import Normalizer
from raybc.train.data import prepare
from raybc.types import UserError
from tests.helpers import CPU, saved, tiny_config, tiny_data, tiny_store, tiny_trainer

KEYS = ("arm", "cube")


@pytest.fixture
def values() -> np.ndarray:
    """Two dimensions with outliers, one that is 0 but for a few steps, a constant one."""
    rng = np.random.default_rng(0)
    rare = (rng.uniform(size=1000) < 0.005) * 5.0
    columns = [100 + rng.standard_cauchy(1000), rng.normal(size=1000), rare, np.full(1000, 7.0)]
    return np.column_stack(columns).astype(np.float32)


def test_quantiles_become_one(values: np.ndarray) -> None:
    normalizer = Normalizer.fit(values, "quantile")
    low, high = np.quantile(values[:, :2].astype(np.float64), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(normalizer.offset[:2], (low + high) / 2, rtol=1e-6)
    np.testing.assert_allclose(normalizer.scale[:2], (high - low) / 2, rtol=1e-6)
    z = normalizer.apply(values)
    np.testing.assert_allclose(z[:, :2], 2 * (values[:, :2] - low) / (high - low) - 1, rtol=1e-4, atol=1e-4)
    assert np.abs(z[:, 0]).max() > 3, "outliers are not clipped"
    assert ((z[:, :2] < -1).sum(0) == 10).all()
    assert ((z[:, :2] > 1).sum(0) == 10).all()
    np.testing.assert_allclose(normalizer.invert(z), values, rtol=1e-5, atol=1e-5)


def test_equal_quantiles_are_not_scaled(values: np.ndarray) -> None:
    normalizer = Normalizer.fit(values, "quantile")
    assert normalizer.scale[2:].tolist() == [1, 1]
    assert normalizer.apply(values)[:, 2].max() == 5


def test_a_kind_for_each_column(values: np.ndarray) -> None:
    kinds = ("quantile", "min_max", "identity", "mean_std")
    fitted = Normalizer.fit_columns(values, kinds)
    for i, kind in enumerate(kinds):
        alone = Normalizer.fit(values, kind)  # type: ignore[arg-type]
        assert (fitted.offset[i], fitted.scale[i]) == (alone.offset[i], alone.scale[i])
    same = Normalizer.fit_columns(values, ["mean_std"] * 4)
    for name in ("offset", "scale"):
        np.testing.assert_array_equal(getattr(same, name), getattr(Normalizer.fit(values, "mean_std"), name))


def test_training_fits_each_key_as_it_is_told() -> None:
    store = tiny_store(splits={"train": [0, 1], "valid": [2]})
    config = tiny_config(normalization="min_max", normalization_keys="arm=quantile, actions=mean_std")
    prepared = prepare(config, tiny_data(store), CPU)
    rows = slice(0, 14)  # of the training split
    arm, cube, actions = (a[rows].astype(np.float64) for a in (*(store.obs[k] for k in KEYS), store.actions_NA))
    low, high = np.quantile(arm, [0.01, 0.99], axis=0)
    offset = np.concatenate([(low + high) / 2, (cube.min(0) + cube.max(0)) / 2])
    scale = np.concatenate([(high - low) / 2, (cube.max(0) - cube.min(0)) / 2])
    np.testing.assert_allclose(prepared.obs_normalizer.offset, offset, rtol=1e-6)
    np.testing.assert_allclose(prepared.obs_normalizer.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(prepared.action_normalizer.offset, actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(prepared.action_normalizer.scale, actions.std(0), rtol=1e-6)


def test_the_bundle_has_the_numbers() -> None:
    trainer = tiny_trainer(normalization_keys="cube=identity", training_steps=1)
    trainer.advance(1)
    bundle = saved(trainer.bundle(0))
    assert bundle.obs_normalizer.offset[3:].tolist() == [0, 0]
    assert bundle.obs_normalizer.scale[3:].tolist() == [1, 1]
    assert bundle.config.normalization_keys == "cube=identity"


def test_without_it_a_run_is_what_it_was() -> None:
    plain, named = (tiny_config(normalization_keys=text) for text in ("", "arm=mean_std"))
    first, second = (prepare(config, tiny_data(), CPU) for config in (plain, named))
    np.testing.assert_array_equal(first.train.obs_NO, second.train.obs_NO)
    assert plain.run_id("x") != named.run_id("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stat=min_max", r"--normalization_keys: expected KEY=KIND .*'stat=min_max': did you mean 'state'"),
        ("action=min_max", r"'action=min_max': did you mean 'actions'"),
        ("state", r"--normalization_keys: state: expected one of mean_std, min_max, quantile, identity, got ''"),
        ("state=minmax", r"state: expected one of .*, got 'minmax'; did you mean 'min_max'"),
        ("state=min_max,state=identity", r"--normalization_keys: state: expected one kind, got two"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(text: str, message: str) -> None:
    config = RunConfig.of(env_name="pointmass-scripted-low_dim", normalization_keys=text)
    with pytest.raises(UserError, match=message) as error:
        config.validate("--")
    assert "\n" not in str(error.value)


def test_keys_that_the_policy_does_not_see_are_refused_in_training() -> None:
    with pytest.raises(UserError, match=r"normalization_keys.*'goal=min_max'"):
        prepare(tiny_config(normalization_keys="goal=min_max"), tiny_data(), CPU)


def test_known_keys_are_let_through(tmp_path: Path) -> None:
    config = RunConfig.of(env_name="pointmass-scripted-low_dim", normalization_keys="state=quantile,goal=identity")
    config.validate("--")
    dataclasses.replace(config, normalization_keys=" actions = min_max ,").validate("--")
