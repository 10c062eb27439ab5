"""Statistics of normalisation as files: written by runs and by `stats --out`, used with `--norm_stats_from`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.data import formats, norm_stats
from raybc.data.__main__ import main
from raybc.run_folder import TrainingFolder
from raybc.train.data import Prepared, prepare, resolved
from raybc.types import UserError
from tests.helpers import CPU, pointmass_bundle, tiny_config, tiny_data, tiny_store


def same(first: Prepared, second: Prepared) -> bool:
    pairs = [(getattr(first, n), getattr(second, n)) for n in ("obs_normalizer", "action_normalizer")]
    return all(np.allclose(a.offset, b.offset) and np.allclose(a.scale, b.scale) for a, b in pairs)


def test_a_run_trains_with_the_statistics_of_another(tmp_path: Path) -> None:
    first = prepare(tiny_config(), tiny_data(tiny_store(seed=1)), CPU)
    first.write_statistics([tmp_path])
    for place in (tmp_path, TrainingFolder(tmp_path).norm_stats):
        config = tiny_config(norm_stats_from=str(place))
        second = prepare(config, tiny_data(), CPU)
        np.testing.assert_array_equal(second.obs_normalizer.scale, first.obs_normalizer.scale)
        np.testing.assert_array_equal(second.action_normalizer.offset, first.action_normalizer.offset)
    assert not same(first, prepare(tiny_config(), tiny_data(), CPU))


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "quantile", "identity"])
def test_statistics_of_the_data(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.get("store").write_store(tmp_path / "a", tiny_store())
    out = tmp_path / "stats.json"
    assert run_main(lambda: main(["stats", str(tmp_path / "a"), f"--out={out}"])) == 0
    fitted = prepare(tiny_config(normalization=kind), tiny_data(), CPU)
    taken = prepare(tiny_config(normalization=kind, norm_stats_from=str(out)), tiny_data(), CPU)
    assert same(fitted, taken)
    capsys.readouterr()
    assert run_main(lambda: main(["stats", str(tmp_path / "a"), f"--out={out}"])) == 2
    assert "exists" in capsys.readouterr().err


def test_statistics_of_a_bundle(tmp_path: Path) -> None:
    bundle = pointmass_bundle()
    bundle.save(tmp_path / "bundle")
    keys = norm_stats.load(str(tmp_path / "bundle"))
    assert list(keys) == ["actions", *bundle.obs_sizes]
    found = norm_stats.normalizer(keys, bundle.obs_sizes, {}, "here")
    np.testing.assert_array_equal(found.scale, bundle.obs_normalizer.scale)


def test_they_are_part_of_a_runs_identity(tmp_path: Path) -> None:
    prepare(tiny_config(), tiny_data(), CPU).write_statistics([tmp_path])
    store = tiny_store()
    config = resolved(tiny_config(norm_stats_from=str(tmp_path)), store)
    assert config.run_id("data") != tiny_config().run_id("data")
    prepare(tiny_config(), tiny_data(tiny_store(seed=1)), CPU).write_statistics([tmp_path])
    with pytest.raises(UserError, match="they have changed since training started"):
        prepare(config, tiny_data(), CPU)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda k: k.pop("cube"), "expected statistics of 'cube', got those of actions, arm"),
        (lambda k: k["arm"]["mean"].append(0.0), "arm: mean: expected 3 numbers as in the data, got 4"),
        (lambda k: k["arm"].pop("std"), "arm: expected std for normalization mean_std"),
        (lambda k: k["actions"].update(mean="x"), "actions: mean: expected a list of finite numbers"),
        (lambda k: k.update(arm=3), "arm: expected a mapping of statistics, got int"),
    ],
)
def test_what_does_not_fit_is_refused(change: object, text: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    keys = {"arm": 3, "cube": 2, "actions": 2}
    said = {k: {"mean": [0.0] * n, "std": [1.0] * n} for k, n in keys.items()}
    change(said)  # type: ignore[operator]
    path.write_text(json.dumps({"format": norm_stats.FORMAT, "keys": said}))
    with pytest.raises(UserError, match=text):
        prepare(tiny_config(norm_stats_from=str(path)), tiny_data(), CPU)


def test_other_places_are_refused(tmp_path: Path) -> None:
    for path, text in ((tmp_path, "found none"), (tmp_path / "nothing", "found none")):
        with pytest.raises(UserError, match=text):
            norm_stats.load(str(path))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="got another JSON file"):
        norm_stats.load(str(tmp_path / "other.json"))
