"""Configurations: what is impossible is refused with its place, and a run's identity is all that makes it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raybc.cli import run_main
from raybc.config import SAMPLE_AXES, PolicyConfig, Role, RunConfig, flat, migrate, option, register
from raybc.config.command import parse_run
from raybc.config.component import _KINDS
from raybc.registry import parse_env_name
from raybc.strict import did_you_mean, digest, from_mapping
from raybc.sweep import space
from raybc.sweep.config import SweepConfig, to_plain
from raybc.sweep.load import load_sweep, sweep_from_mapping
from raybc.sweep.recipes import check_effects
from raybc.train.__main__ import Args, main
from raybc.types import EpisodeSpec, SampleSetting, UserError
from raybc.yaml_text import parse_yaml
from tests.helpers import ROOT, tiny_store

BASE: dict[str, Any] = {
    "name": "test",
    "train": {"training_steps": 10, "action_chunking": True},
    "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    "eval": {"evaluations": 2},
}


#: Options that no sweep may search -> the reason.
NOT_AXES = {n: i.option.axis for n, i in RunConfig().options().items() if isinstance(i.option.axis, str)}
#: Release 0.1.0 had these flags of training and keys of `train:`; those of them below could not be searched.
OPTIONS_OF_0_1_0 = tuple(migrate.OPTIONS_1)
NOT_AXES_OF_0_1_0 = (
    "seed", "env_name", "dataset", "save_dir", "run_group", "device", "training_steps", "log_interval",
    "eval_interval", "save_interval", "eval_episodes", "video_episodes", "video_frame_skip", "keep",
    "sampling_plan_sha256", "num_rounds", "epochs_per_round", "stop_patience", "stop_min_delta",
)  # fmt: skip
#: Options that release 0.1.0 let a sweep search although they change no policy, or say what the task is.
NO_AXES_ANY_MORE = ("sparse", "ogbench_dataset_dir")


def sweep(*overrides: str, **changes: Any) -> SweepConfig:
    return sweep_from_mapping(copy.deepcopy(BASE) | changes, "my.yaml", overrides)


def refused(*overrides: str, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        sweep(*overrides, **changes)
    return str(error.value)


# Reading


def test_defaults_are_valid() -> None:
    RunConfig().validate()
    SweepConfig("name", {}).validate()
    assert space.check_corners(SweepConfig("name", {})) == 1
    assert RunConfig().chunk_length == 1
    assert RunConfig.of(action_chunking=True, horizon_length=7).chunk_length == 7
    assert RunConfig.of(flow_steps=3, execute_steps=1, eval_temperature=0.5).sample_setting == SampleSetting(3, 1, 0.5)


def test_yaml_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nseeds: [3, 5]\n"
        "train: {lr: 1e-4, weight_decay: 0, training_steps: 1e3, action_chunking: true}\n"
        "space:\n  lr: {low: 1e-5, high: 1E-2, log: true}\n  normalization: {values: [mean_std, min_max]}\n"
        "search: {points_to_evaluate: [{lr: 2e-4}]}\n"
    )
    config = load_sweep(path)
    assert config.train.lr == 1e-4
    assert isinstance(config.train.weight_decay, float)
    assert config.train.training_steps == 1000
    assert isinstance(config.train.training_steps, int)
    assert (config.space["lr"].low, config.space["lr"].high, config.space["lr"].log) == (1e-5, 1e-2, True)
    assert config.space["normalization"].values == ("mean_std", "min_max")
    assert config.seeds == (3, 5)
    assert config.search.points_to_evaluate == ({"lr": 2e-4},)
    assert config.final == SweepConfig("a", {}).final


@pytest.mark.parametrize("text", ["1e-4", "+1e4", "-2E+3", "1.5e3", "1_000e1", "3.e2"])
def test_numbers_with_exponents_are_numbers(text: str) -> None:
    value = parse_yaml(text, "here")
    assert isinstance(value, float)
    assert value == float(text)


@pytest.mark.parametrize("text", ["1e", "e4", "1e-4m", "0x1e4g"])
def test_words_stay_words(text: str) -> None:
    assert parse_yaml(text, "here") == text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"trian": {}}, ["trian", "did you mean", "'train'"]),
        ({"train": {"xyz": 1}}, ["train.xyz", "unknown key", "the nearest of"]),
        ({"train": {"horizon_lenght": 1}}, ["train.horizon_lenght", "did you mean 'horizon_length'"]),
        ({"train": {1: 1}}, ["train.1", "unknown key"]),
        ({"train": {"lr": "fast"}}, ["train.lr", "expected float", "'fast'"]),
        ({"train": {"lr": True}}, ["train.lr", "expected float", "True"]),
        ({"train": {"lr": None}}, ["train.lr", "expected float", "None"]),
        ({"train": {"batch_size": 1.5}}, ["train.batch_size", "expected int", "1.5"]),
        ({"train": {"batch_size": True}}, ["train.batch_size", "expected int", "True"]),
        ({"train": {"batch_size": math.inf}}, ["train.batch_size", "expected int", "inf"]),
        ({"train": {"batch_size": math.nan}}, ["train.batch_size", "expected int", "nan"]),
        ({"train": {"action_chunking": 1}}, ["train.action_chunking", "expected bool", "1"]),
        ({"train": {"env_name": 1}}, ["train.env_name", "expected str"]),
        (
            {"train": {"normalization": "mean"}},
            ["train.normalization", "mean_std, min_max, quantile, identity", "did you mean"],
        ),
        ({"train": 3}, ["train", "expected a mapping", "int"]),
        ({"seeds": 3}, ["seeds", "expected a list", "3"]),
        ({"seeds": [0, "x"]}, ["seeds[1]", "expected int", "'x'"]),
        ({"space": [1]}, ["space", "expected a mapping"]),
        ({"space": {"lr": [1, 2]}}, ["space.lr", "expected a mapping", "list"]),
        ({"space": {"lr": {"min": 1}}}, ["space.lr.min", "unknown key 'min'"]),
        ({"search": {"sampler": "tp"}}, ["search.sampler", "tpe, random, gp, cmaes", "did you mean 'tpe'"]),
        ({"search": {"points_to_evaluate": [3]}}, ["search.points_to_evaluate[0]", "expected a mapping"]),
        ({"prune": {"scheduler": "hyperband"}}, ["prune.scheduler", "asha, median, none"]),
    ],
)
def test_wrong_values_are_refused_with_their_place(change: dict[str, Any], parts: list[str]) -> None:
    message = refused(**change)
    assert message.startswith("my.yaml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("missing", ["name", "space"])
def test_missing_keys_are_named(missing: str) -> None:
    mapping = copy.deepcopy(BASE)
    del mapping[missing]
    with pytest.raises(UserError, match=f"my.yaml.*'{missing}'.*missing"):
        sweep_from_mapping(mapping, "my.yaml")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("name: a\nname: b\n", ["'name'", "twice"]),
        ("name: a\ntrain:\n  lr: 1\n  lr: 2\n", ["'lr'", "twice"]),
        ("name: [\n", ["not readable as YAML"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["not readable as YAML"]),
        ("name: 2020-13-45\n", ["not readable as YAML"]),
        ("", ["expected keys and values", "NoneType"]),
        ("- a\n", ["expected keys and values", "list"]),
        (b"name: \xff\xfe\n", ["not readable as YAML"]),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load_sweep(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)


def test_missing_file_lists_near_names(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(UserError, match=r"quickstrat.yaml: expected a sweep file.*did you mean 'quickstart.yaml'"):
        load_sweep(tmp_path / "quickstrat.yaml")
    with pytest.raises(UserError, match="expected a sweep file, found none"):
        load_sweep(tmp_path / "nowhere" / "a.yaml")


def test_overrides() -> None:
    config = sweep(
        "train.lr=1e-4", "seeds=[4, 5]", "eval.episodes=7", "space.hidden_width.values=[8, 16]", "demos.noise=0",
        "train.dataset=a=b",
    )  # fmt: skip
    assert config.train.lr == 1e-4
    assert config.train.training_steps == 10, "the rest of the group stays"
    assert config.seeds == (4, 5)
    assert config.eval.episodes == 7
    assert config.eval.evaluations == 2
    assert config.space["hidden_width"].values == (8, 16)
    assert config.demos.noise == 0.0
    assert config.train.dataset == "a=b"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("eval.episodes", ["--set", "KEY=VALUE", "'eval.episodes'"]),
        ("=3", ["--set", "KEY=VALUE"]),
        ("name.x=3", ["--set name.x=3", "'name' is not a group"]),
        ("train.lr=[", ["--set train.lr=[", "not readable as YAML"]),
        ("trian.lr=1", ["did you mean 'train'"]),
        ("train.lr=fast", ["train.lr", "expected float"]),
    ],
)
def test_bad_overrides_are_refused(override: str, parts: list[str]) -> None:
    message = refused(override)
    for part in parts:
        assert part in message


def test_a_config_is_read_back_from_its_json() -> None:
    config = sweep("space.flow_steps.values=[1, 4]", "search.points_to_evaluate=[{lr: 1e-3}]")
    again = sweep_from_mapping(json.loads(json.dumps(config.to_dict())), "config.json")
    assert again == config
    assert to_plain(config)["space"] == {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "flow_steps": {"values": [1, 4]},
    }


# Bounds


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        *[(n, [1], [0, -1]) for n in ("training_steps", "batch_size", "log_interval")],
        ("eval_interval", [0, 1], [-1]),
        *[(n, [1], [0, -1]) for n in ("horizon_length", "hidden_width", "hidden_depth", "flow_steps")],
        *[(n, [1], [0, -1]) for n in ("eval_episodes", "video_frame_skip", "obs_steps", "accumulate", "num_rounds")],
        *[(n, [0], [-1]) for n in ("execute_steps", "video_episodes")],
        *[(n, [0, 1], [-1]) for n in ("epochs_per_round", "plateau_patience", "stop_patience", "monitor_interval")],
        *[(n, [0, 1], [-1]) for n in ("keep", "dataset_replace_interval", "budget_min_warmup_steps")],
        *[(n, [-1, 0, 7], [-2]) for n in ("warmup_steps", "freeze_steps", "dataset_proportion_seed", "holdout_seed")],
        *[(n, [1e-9, 1.0], [0.0, -0.5, 1.1, math.nan]) for n in ("plateau_factor", "dataset_proportion")],
        *[(n, [0.0, 10.0], [-1e-9, math.inf, math.nan]) for n in ("min_lr", "stop_min_delta", "budget_warmup_ratio")],
        ("top_percent", [1e-9, 100.0], [0.0, 100.5, math.nan]),
        ("ema_decay", [0.0, 0.999], [-0.1, 1.0, math.nan]),
        ("temporal_ensemble", [-1.0, 0.0, 3.0], [-0.5, -2.0, math.inf, math.nan]),
        ("seed", [0, 2**31 - 1], [-1, 2**31]),
        ("save_interval", [-1, 1], [0, -2]),
        ("lr", [1e-30, 1e3], [0.0, -1e-3, math.inf, math.nan]),
        *[(n, [0.0, 10.0], [-1e-9, math.inf, math.nan]) for n in ("weight_decay", "grad_clip", "eval_temperature")],
    ],
)
def test_bounds_of_a_run(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        RunConfig.of(**{name: value}).validate("train")
    for value in bad:
        with pytest.raises(UserError, match=rf"^train\.{name}: expected .*got {value}"):
            RunConfig.of(**{name: value}).validate("train")


def test_execute_steps_must_fit_the_chunk() -> None:
    RunConfig.of(action_chunking=True, horizon_length=4, execute_steps=4).validate()
    with pytest.raises(UserError, match=r"run\.execute_steps: expected at most the 4 step.*got 5$"):
        RunConfig.of(action_chunking=True, horizon_length=4, execute_steps=5).validate()
    with pytest.raises(UserError, match=r"execute_steps.*1 step.*got 2 \(action_chunking is off"):
        RunConfig.of(horizon_length=4, execute_steps=2).validate()


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("demos.episodes", ["1", "250000"], ["0", "250001"]),
        ("demos.noise", ["0", "2.5"], ["-0.1", ".inf", ".nan"]),
        ("demos.seed", ["0", "499999"], ["-1", "500000"]),
        ("search.trials", ["1"], ["0"]),
        ("search.max_concurrent", ["1"], ["0"]),
        ("search.seed", ["0"], ["-1"]),
        ("prune.grace_evaluations", ["1"], ["0"]),
        ("prune.reduction_factor", ["1.01"], ["1", "0", ".nan"]),
        ("prune.min_trials", ["1"], ["0"]),
        ("eval.episodes", ["1", "999999"], ["0", "1000000"]),
        ("eval.evaluations", ["1", "10"], ["0", "11"]),
        ("final.top", ["1"], ["0"]),
        ("final.episodes", ["1", "999999"], ["0", "1000000"]),
        ("final.videos", ["0"], ["-1"]),
        ("resources.workers", ["0"], ["-1"]),
        ("resources.worker_cpus", ["0.1"], ["0", "-1", ".inf", ".nan"]),
        ("resources.trial_cpus", ["0.1"], ["0", "-1", ".inf", ".nan"]),
        ("resources.episode_deadline", ["0.1"], ["0", "-1", ".inf", ".nan"]),
        ("resources.trial_retries", ["0"], ["-1"]),
        ("train.batch_size", ["1"], ["0"]),
        ("train.seed", ["0"], ["1"]),
        ("seeds", ["[0]", "[7, 3]", "[2147483647]"], ["[]", "[1, 1]", "[-1]", "[2147483648]"]),
        ("name", ["a-b.c"], ["''", "a b", "a/b", "a\\b", ".a"]),
    ],
)
def test_bounds_of_a_sweep(key: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        sweep(f"{key}={value}")
    for value in bad:
        assert f"{key}: expected " in refused(f"{key}={value}"), value


def test_specs_are_bounded_and_their_seeds_disjoint() -> None:
    seeds = {s: [EpisodeSpec("t", s, i).seed for i in (0, 999_999)] for s in ("demos", "search", "final")}
    assert seeds == {"demos": [0, 999_999], "search": [1_000_000, 1_999_999], "final": [2_000_000, 2_999_999]}
    for index in (-1, 1_000_000):
        with pytest.raises(UserError, match=f"episode index.*got {index}"):
            EpisodeSpec("t", "final", index)
    with pytest.raises(UserError, match=r"split: expected one of.*'test'"):
        EpisodeSpec("t", "test", 0)  # type: ignore[arg-type]


# Axes


@pytest.mark.parametrize(
    ("name", "axis", "parts"),
    [
        ("lr", {"low": 0, "high": 1, "log": True}, ["space.lr.low", "more than 0", "logarithmic"]),
        ("lr", {"low": -1, "high": 1, "log": True}, ["space.lr.low", "more than 0"]),
        ("lr", {"low": 1, "high": 1e-3}, ["space.lr", "low < high", "low 1.0, high 0.001"]),
        ("lr", {"low": 1, "high": 1}, ["space.lr", "low < high"]),
        ("lr", {"low": 1, "high": math.inf}, ["space.lr", "finite"]),
        ("lr", {"low": math.nan, "high": 1}, ["space.lr", "finite"]),
        ("lr", {"low": 1}, ["space.lr", "`low: ` and `high: `"]),
        ("lr", {}, ["space.lr", "`values: [...]`"]),
        ("lr", {"values": []}, ["space.lr", "`values: [...]`"]),
        ("lr", {"values": [1, 2], "low": 1, "high": 2}, ["space.lr", "either", "both"]),
        ("lr", {"values": [1, 2], "log": True}, ["space.lr", "either", "both"]),
        ("lr", {"values": [1, 1]}, ["space.lr.values", "different"]),
        ("lr", {"values": [1, 1.0]}, ["space.lr.values", "different"]),
        ("lr", {"values": [0.1, "a"]}, ["space.lr", "expected float", "'a'"]),
        ("lr", {"values": [0.1, [1]]}, ["space.lr", "expected float", "[1]"]),
        ("normalization", {"low": 0, "high": 1}, ["space.normalization", "`values: [...]` for a str", "range"]),
        ("normalization", {"values": ["mean_std", "max"]}, ["space.normalization", "expected one of", "'max'"]),
        ("action_chunking", {"low": 0, "high": 1}, ["space.action_chunking", "for a bool", "range"]),
        ("horizon_length", {"low": 1.5, "high": 4}, ["space.horizon_length", "whole numbers", "1.5"]),
        ("horizon_length", {"values": [4, 8.5]}, ["space.horizon_length", "expected int", "8.5"]),
        ("flow_steps", {"low": 1, "high": 4}, ["space.flow_steps", "`values: [...]`", "same checkpoint"]),
        ("hidden_widht", {"values": [1]}, ["space", "unknown key 'hidden_widht'", "did you mean 'hidden_width'"]),
    ],
)
def test_bad_axes_are_refused(name: str, axis: dict[str, Any], parts: list[str]) -> None:
    message = refused(space={name: axis})
    for part in ["my.yaml", *parts]:
        assert part in message


def test_a_date_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nspace: {lr: {values: [2020-01-01]}}\n")
    with pytest.raises(UserError, match=r"space\.lr: expected float"):
        load_sweep(path)


@pytest.mark.parametrize("name", sorted(NOT_AXES))
def test_what_is_no_recipe_cannot_be_searched(name: str) -> None:
    message = refused(space={name: {"values": [RunConfig().get(name)]}})
    assert f"space.{name}: cannot be searched: {NOT_AXES[name]}" in message


def test_every_other_option_of_a_run_can_be_searched() -> None:
    for name in RunConfig().options():
        if name not in NOT_AXES:
            with_critic = {"critic": "q_chunking"} if name == "best_of_n" else {}
            config = sweep(space={name: {"values": [RunConfig().get(name)]}}, train={**BASE["train"], **with_critic})
            assert (name in space.train_axes(config)) is (name not in SAMPLE_AXES)


# Corners and points


def corners_refused(config: SweepConfig, *parts: str, lengths: tuple[int, ...] | None = None) -> None:
    with pytest.raises(UserError) as error:
        space.check_corners(config, tiny_store(lengths) if lengths else None)
    for part in parts:
        assert part in str(error.value)


def test_corners_are_counted_and_complete() -> None:
    config = sweep(
        space={
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "hidden_width": {"values": [8, 16, 32]},
            "hidden_depth": {"low": 1, "high": 3},
            "flow_steps": {"values": [1, 4]},
            "eval_temperature": {"values": [0, 0.5, 1]},
        }
    )
    assert space.check_corners(config) == 2 * 3 * 2 * 2 * 3
    seen = {
        (r.lr, r.get("hidden_width"), r.get("hidden_depth"), s.flow_steps, s.eval_temperature)
        for r, s in space.corners(config)
    }
    assert len(seen) == 72
    assert {r.get("hidden_depth") for r, _ in space.corners(config)} == {1, 3}
    assert all(isinstance(r.get("hidden_depth"), int) for r, _ in space.corners(config))


def test_one_impossible_corner_is_found_and_named() -> None:
    axes = {
        "horizon_length": {"values": [8, 4]},
        "execute_steps": {"values": [0, 2, 6]},
        "lr": {"low": 1e-4, "high": 1e-2},
    }
    corners_refused(
        sweep(space=axes), "horizon_length=4", "execute_steps=6", "expected at most the 4 step", "lr=0.0001"
    )
    axes["execute_steps"] = {"values": [0, 2, 4]}
    assert space.check_corners(sweep(space=axes)) == 2 * 3 * 2
    corners_refused(sweep(space={"action_chunking": {"values": [True, False]}, "execute_steps": {"values": [2]}}),
                    "action_chunking=False", "action_chunking is off")  # fmt: skip
    corners_refused(sweep(space={"weight_decay": {"low": -1, "high": 1}}), "weight_decay=-1.0", "at least 0")


def test_horizon_must_fit_the_data() -> None:
    config = sweep(space={"horizon_length": {"low": 2, "high": 9}})
    assert space.check_corners(config, tiny_store((3, 9))) == 2
    corners_refused(config, "horizon_length=9", "longest episode of the data (8 steps)", "got 9", lengths=(3, 8))
    without = sweep("train.action_chunking=false", "train.horizon_length=50")
    assert space.check_corners(without, tiny_store((3, 8))) == 2, "without chunks the horizon does not matter"


def test_horizon_without_chunking_has_no_effect() -> None:
    config = sweep("train.action_chunking=false", space={"horizon_length": {"values": [2, 4]}})
    with pytest.raises(UserError, match=r"space.horizon_length: has no effect in any corner; it needs action_c"):
        check_effects(config)


def test_too_many_corners_are_refused() -> None:
    axes = {n: {"values": list(range(1, 31))} for n in ("hidden_width", "hidden_depth", "batch_size")}
    corners_refused(sweep(space=axes), "at most 20000 corners", "got 27000", "use ranges")


def test_sample_settings_have_their_types() -> None:
    config = sweep(space={"flow_steps": {"values": [1.0, 4]}, "eval_temperature": {"values": [0, 1]}})
    settings = space.sample_settings(config)
    assert [(s.flow_steps, s.eval_temperature) for s in settings] == [(1, 0.0), (1, 1.0), (4, 0.0), (4, 1.0)]
    assert all(type(s.flow_steps) is int and type(s.eval_temperature) is float for s in settings)


def test_first_points() -> None:
    config = sweep(
        "train.lr=1e-3",
        "search.points_to_evaluate=[{lr: 1e-4}, {}, {hidden_width: 8}, {lr: 1e-4, hidden_width: 16}]",
        space={"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "hidden_width": {"values": [8, 16]}},
    )
    with pytest.raises(UserError, match=r"points_to_evaluate\[0\].hidden_width: expected a value of the axis, got 512"):
        space.first_points(config)
    config = dataclasses.replace(config, train=config.train.changed(hidden_width=16))
    assert space.first_points(config) == [
        ("defaults", {"lr": 1e-3, "hidden_width": 16}),
        ("point", {"lr": 1e-4, "hidden_width": 16}),
        ("point", {"lr": 1e-3, "hidden_width": 8}),
    ]
    assert space.recipe(config, {"lr": 1, "hidden_width": 8.0}) == config.train.changed(lr=1.0, hidden_width=8)


def test_defaults_outside_the_space_are_no_point() -> None:
    config = sweep("train.lr=1")
    assert space.default_params(config) is None
    assert space.first_points(config) == []


@pytest.mark.parametrize(
    ("point", "parts"),
    [
        ("{lrr: 1}", ["points_to_evaluate[0]", "'lrr' is not a train axis", "did you mean 'lr'"]),
        ("{flow_steps: 1}", ["points_to_evaluate[0]", "'flow_steps' is not a train axis"]),
        ("{lr: 5}", ["points_to_evaluate[0].lr", "a value of the axis", "5"]),
        ("{lr: .nan}", ["points_to_evaluate[0].lr", "a value of the axis", "nan"]),
        ("{lr: fast}", ["points_to_evaluate[0].lr", "'fast'"]),
        ("{hidden_width: 8.5}", ["points_to_evaluate[0].hidden_width", "expected int", "8.5"]),
    ],
)
def test_bad_points_are_refused(point: str, parts: list[str]) -> None:
    axes = {
        "lr": {"low": 1e-4, "high": 1e-2},
        "hidden_width": {"low": 8, "high": 1024},
        "flow_steps": {"values": [1, 2]},
    }
    corners_refused(sweep(f"search.points_to_evaluate=[{point}]", space=axes), "search.", *parts)


@pytest.mark.parametrize("path", sorted(ROOT.glob("sweeps/*.yaml")), ids=lambda p: p.stem)
def test_sweeps_of_the_repository(path: Path) -> None:
    config = load_sweep(path)
    assert config.name == path.stem
    assert space.check_corners(config) > 0
    assert space.first_points(config)[0][0] == "defaults", "the defaults are tried first"


def test_there_are_sweeps() -> None:
    assert {"quickstart", "pointmass"} <= {p.stem for p in ROOT.glob("sweeps/*.yaml")}


# Identity and evaluation steps


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    others = {"mean_std": "min_max", "constant": "cosine", "adamw": "adam", "fp32": "bf16", "auto": "off"}
    others |= {"plan": "True", "all": "anchors", "None": "impala", "hold": "restart", "flow": "beta", None: "return"}
    others |= {
        "plain": "residual",
        "gelu": "relu",
        "uniform": "beta",
        "mse": "l1",
        "epsilon": "sample",
        "fraction": "index",
        "euler": "heun",
        "mask": "repeat",
        "mean": "worst",
        "as_recorded": "rotation_6d",
    }
    if value in others:
        return others[value]
    return value + 1 if isinstance(value, int | float) else value + "x"


#: Options of a run that has them all in effect.
WHOLE = RunConfig.of(action_chunking=True, dataset_proportion=0.5)
#: What changes no identity.
OUTPUTS = {
    "init_from", "video_evaluations", "dataset", "ogbench_dataset_dir", "skip_bad_episodes",
    "norm_stats_from", "sparse", "scores_path",
    "sampling_plan_path", "compile", "accumulate", "activation_checkpointing", "memory_limit",
    "dataloader_num_workers", "videos", "run_group",
    "save_dir",
    "log_interval", "eval_interval", "eval_episodes", "save_interval", "keep", "video_episodes", "video_frame_skip",
    "device", "metric", "action_metrics", "sample_mse", "eval_tasks", "eval_suite", "task_score",
}  # fmt: skip


@dataclass(frozen=True)
class BetaConfig(PolicyConfig):
    """A kind of policy that exists in this test alone."""

    builder: ClassVar[str] = "tests.test_config:nothing"
    sample_axes: ClassVar[tuple[str, ...]] = ("execute_steps",)

    hidden_width: int = option(9, at_least=1)
    beta_depth: int = option(3, at_least=1)
    beta_twist: bool = False


@pytest.fixture
def beta() -> Iterator[None]:
    """A second kind of policy."""
    register("beta")(BetaConfig)
    yield
    del _KINDS["policy"]["beta"]


@pytest.mark.usefixtures("beta")
@pytest.mark.parametrize("name", list(WHOLE.options()))
def test_run_id_is_made_of_everything_but_outputs(name: str) -> None:
    own = {"device": "cuda", "objective": "mip", "weight_decay_on": "matrices", "language": "one_hot"}
    own["critic"] = "q_chunking"
    value = own.get(name) or changed(WHOLE.get(name))
    other = WHOLE.changed(**{name: value})
    assert other.get(name) == value
    assert (WHOLE.run_id("data") == other.run_id("data")) is (name in OUTPUTS)
    assert (WHOLE.options()[name].option.role is Role.OUTPUT) is (name in OUTPUTS)


def test_a_horizon_without_chunks_is_no_identity() -> None:
    single, chunks = RunConfig(), RunConfig.of(action_chunking=True)
    assert single.run_id("a") == single.changed(horizon_length=9).run_id("a")
    assert chunks.run_id("a") != chunks.changed(horizon_length=9).run_id("a")
    assert single.run_id("a") != chunks.run_id("a")


@pytest.mark.usefixtures("beta")
def test_options_of_different_kinds_are_different_runs() -> None:
    """Also where the options have the same names and values."""
    runs = [RunConfig.of(hidden_width=64, policy=policy).run_id("a") for policy in ("flow", "beta")]
    runs += [RunConfig.of(encoder=e).run_id("a") for e in ("None", "impala_small", "impala", "impala_large")]
    assert len(set(runs)) == len(runs)
    assert RunConfig().run_id("a") == RunConfig.of(policy="flow", encoder="None", hidden_width=512).run_id("a")


def test_run_id_depends_on_data_and_not_on_the_process() -> None:
    assert RunConfig().run_id("a") != RunConfig().run_id("b")
    assert len(RunConfig().run_id("a")) == 16
    again = from_mapping(RunConfig, json.loads(json.dumps(RunConfig.of(lr=1, weight_decay=0).to_plain())), "")
    assert again == RunConfig.of(lr=1, weight_decay=0)
    unchecked = dataclasses.replace(RunConfig(), lr=1, weight_decay=0)
    assert again.run_id("a") == unchecked.run_id("a"), "1 and 1.0 are the same learning rate"
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(("steps", "evaluations"), [(10, 3), (600, 3), (7, 7), (1, 1), (1000, 6)])
def test_evaluation_steps_rise_to_the_end(steps: int, evaluations: int) -> None:
    config = sweep(f"train.training_steps={steps}", f"eval.evaluations={evaluations}")
    at = [0, *(config.evaluation_step(k) for k in range(1, evaluations + 1))]
    assert at[-1] == steps
    distances = [b - a for a, b in itertools.pairwise(at)]
    assert min(distances) >= 1
    assert max(distances) - min(distances) <= 1, "equal distances"


# Flags, and the names of earlier releases


def parsed(*flags: str) -> RunConfig:
    return parse_run(Args, flags, "raybc.train", "")[0]


def refused_flags(*flags: str) -> str:
    with pytest.raises(UserError) as error:
        parsed(*flags)
    return str(error.value)


def todays(name: str) -> str:
    return flat.aliases(RunConfig).get(name, name)


def test_the_options_of_release_0_1_0_are_those_it_saved() -> None:
    saved = json.loads((ROOT / "tests/golden/v0.1.0/expected.json").read_text())["image"]["config"]
    assert set(OPTIONS_OF_0_1_0) == set(saved)
    assert set(NOT_AXES_OF_0_1_0) | set(NO_AXES_ANY_MORE) < set(OPTIONS_OF_0_1_0)


@pytest.mark.parametrize("name", OPTIONS_OF_0_1_0)
def test_an_option_of_release_0_1_0_is_still_accepted(name: str) -> None:
    """As a flag, as a key of `train:`, and as an axis unless it was none."""
    default = RunConfig().get(todays(name))
    value = "cuda" if name == "device" else changed(default)
    chunks = ["--action_chunking"] if name == "horizon_length" else []
    config = parsed(*chunks, f"--{name}={value}")
    implied = {"env_name": "none"} if name == "dataset" else {}
    assert config == RunConfig.of(**{"action_chunking": bool(chunks), todays(name): value} | implied)
    assert parsed(*chunks, f"--{name.replace('_', '-')}", str(value)) == config
    assert RunConfig.from_plain({name: value}, "train").get(todays(name)) == value
    assert sweep(train={name: default, "training_steps": 10}).train.get(todays(name)) in (default, 10)
    axis = {name: {"values": [default]}}
    if name in (*NOT_AXES_OF_0_1_0, *NO_AXES_ANY_MORE):
        assert f"space.{name}: cannot be searched: {NOT_AXES[name]}" in refused(space=axis)
    else:
        found = sweep(space=axis)
        assert list(found.space) == [todays(name)]
        assert space.check_corners(sweep("train.action_chunking=true", space=axis)) == 1


def test_what_could_not_be_searched_still_cannot() -> None:
    assert set(NOT_AXES_OF_0_1_0) | set(NO_AXES_ANY_MORE) <= set(NOT_AXES)
    start = {"init_from", "init_from_sha256", "init_partial"}
    new = {
        "schedule_steps",
        "schedule_after",
        "metric",
        "video_evaluations",
        "skip_bad_episodes",
        "action_key",
        "obs_keys",
        "action_metrics",
        "activation_checkpointing",
        "memory_limit",
        "dataloader_num_workers",
        "sample_mse",
        "videos",
    } | start
    new |= {
        "norm_stats_from",
        "norm_stats_sha256",
        "scores_path",
        "scores_sha256",
        "epochs",
        "eval_tasks",
        "eval_suite",
        "task_score",
    }
    assert set(NOT_AXES) - set(NOT_AXES_OF_0_1_0) - set(NO_AXES_ANY_MORE) == new


def test_an_earlier_name() -> None:
    """`watch_interval` is `monitor_interval` wherever it stands; both at once are refused."""
    assert parsed("--watch_interval=7") == parsed("--monitor-interval", "7") == RunConfig.of(monitor_interval=7)
    assert RunConfig.of(watch_interval=7).to_plain()["monitor_interval"] == 7
    assert "watch_interval" not in RunConfig().to_plain()
    with pytest.raises(
        UserError, match=r"^train\.monitor_interval: stands twice: watch_interval is an earlier name of it"
    ):
        RunConfig.from_plain({"watch_interval": 7, "monitor_interval": 7}, "train")
    with pytest.raises(UserError, match="watch_interval is an earlier name of it"):
        RunConfig.from_plain({"monitor_interval": 7, "watch_interval": 7}, "train")
    config = sweep(
        "search.points_to_evaluate=[{watch_interval: 5, lr: 1.0e-3}]",
        space={"watch_interval": {"values": [0, 5]}, "lr": {"values": [1e-3, 3e-4], "when": {"watch_interval": 5}}},
    )
    assert list(config.space) == ["monitor_interval", "lr"]
    assert config.space["lr"].when == {"monitor_interval": 5}
    assert space.check_corners(config) == 3
    points = [("defaults", {"monitor_interval": 0}), ("point", {"monitor_interval": 5, "lr": 1e-3})]
    assert space.first_points(config) == points
    both = {n: {"values": [0, 5]} for n in ("watch_interval", "monitor_interval")}
    assert "my.yaml: space.monitor_interval: stands twice: watch_interval is an earlier name" in refused(space=both)


def test_the_metric_had_the_name_that_the_objective_has_today(tmp_path: Path) -> None:
    """`objective` is told apart by its values: those of the metric, or what a network learns."""
    assert parsed("--objective=return") == parsed("--objective", "return") == RunConfig.of(metric="return")
    assert parsed("--objective=mip", "--metric=return") == RunConfig.of(metric="return", objective="mip")
    assert parsed("--objective=mip", "--objective=return") == RunConfig.of(metric="return", objective="mip")
    file = tmp_path / "mine.yaml"
    file.write_text("objective: largest_reward\n")
    assert parsed(f"--config={file}", "--objective=mip") == RunConfig.of(metric="largest_reward", objective="mip")
    assert RunConfig.from_plain({"objective": None}, "").to_plain()["objective"] == "flow"


@pytest.mark.parametrize("true", ["True", "tRue"])
def test_booleans_in_any_case(true: str) -> None:
    """Of every group of flags, of the command's own, and of the policy's."""
    false = {"True": "False", "tRue": "fAlse"}[true]
    names = ("action_chunking", "only_successful", "sparse", "plan_aware_lr_scale", "use_fourier_features")
    for name in names if true == "True" else names[:1]:  # a spelling is read in one place
        if name != names[0]:  # and a way to write a flag, too
            assert parsed(f"--{name}={true}") == parsed(f"--{name}") == RunConfig.of(**{name: True})
            assert parsed(f"--{name}", f"--no-{name}") == RunConfig()
            continue
        for flags in ([f"--{name}={true}"], [f"--{name}", true], [f"--{name}"], [f"--{name.replace('_', '-')}={true}"]):
            assert parsed(*flags) == RunConfig.of(**{name: True})
        for flags in ([f"--{name}={false}"], [f"--{name}", false], [f"--no-{name}"]):
            assert parsed(f"--{name}", *flags) == RunConfig()
    config, args = parse_run(Args, ["--resume", true, f"--overwrite={true}", "--lr=1"], "raybc.train", "")
    assert (config, args.resume, args.overwrite) == (RunConfig.of(lr=1.0), "True", True)
    assert parse_run(Args, ["--resume=auto", "--no-overwrite"], "raybc.train", "")[1] == Args(resume="auto")


@pytest.mark.usefixtures("beta")
def test_an_option_of_another_kind_names_the_kind() -> None:
    message = "beta_depth: has no effect with policy flow; it belongs to beta"
    assert refused_flags("--beta-depth=3") == f"--{message}"
    with pytest.raises(UserError, match=rf"^train\.{message}"):
        RunConfig.from_plain({"beta_depth": 3}, "train")
    with pytest.raises(UserError, match=message):
        RunConfig().changed(beta_depth=3)
    message = "hidden_depth: has no effect with policy beta; it belongs to flow, regression"
    assert refused_flags("--hidden_depth", "3", "--policy=beta") == f"--{message}"
    with pytest.raises(UserError, match=message):
        RunConfig.of(policy="beta", hidden_depth=3)
    assert "space: beta_depth: has no effect with policy flow; it belongs to beta" in refused(
        space={"beta_depth": {"values": [1]}}
    )
    config = parsed("--policy=beta", "--beta_twist", "--hidden_width=4", "--lr=1e-3")
    assert config.policy == BetaConfig(hidden_width=4, beta_twist=True)
    assert config == RunConfig.of(policy="beta", beta_twist=True, hidden_width=4, lr=1e-3)
    assert refused_flags("--policy=beta", "--flow_steps=3") == "--flow_steps: has no effect with policy beta"


@pytest.mark.usefixtures("beta")
def test_axes_of_kinds() -> None:
    """An option that one kind alone has is a part of that kind's recipes."""
    axes = {
        "beta_depth": {"values": [1, 2]},
        "policy": {"values": ["flow", "beta"]},
        "hidden_width": {"values": [8, 16]},
        "hidden_depth": {"values": [1, 2, 3]},
    }
    config = sweep(space=axes)
    runs = [run for run, _ in space.corners(config)]
    assert [r.policy.kind for r in runs].count("flow") == 2 * 3
    assert [r.policy.kind for r in runs].count("beta") == 2 * 2
    assert len(set(runs)) == len(runs)
    assert next(iter(space.train_axes(config))) in ("policy", "hidden_width")
    flows = {"flow_steps": {"values": [1, 2]}}
    assert space.check_corners(sweep(space={**axes, **flows})) == 2 * 3 * 2 + 2 * 2
    message = refused(space={**flows, "policy": {"values": ["beta"]}})
    assert "space.flow_steps: has no effect with policy beta" in message


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("flwo", ["expected one of flow", "module:Class of your own, got 'flwo'", "did you mean 'flow'"]),
        ("nothing.of_mine:Policy", ["there is no module 'nothing.of_mine'", "PYTHONPATH"]),
        ("tests.test_config:Nothing", ["module 'tests.test_config' has no 'Nothing'"]),
        ("tests.test_config:BASE", ["expected a frozen dataclass derived from PolicyConfig"]),
        ("raybc.config.policy:FlowConfig", ["this class is called 'flow'; use that name"]),
    ],
)
def test_unknown_policies_are_refused(kind: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: main([f"--policy={kind}"])) == 2
    messages = [capsys.readouterr().err, refused(train={"policy": kind}), refused(space={"policy": {"values": [kind]}})]
    for message, place in zip(messages, ["error: --policy: ", "train.policy: ", "space.policy: "], strict=True):
        for part in (place, *parts):
            assert part in message


def test_unknown_encoders_are_refused() -> None:
    near = "did you mean 'impala' or 'impala_small' or 'impala_large'?"
    message = refused_flags("--encoder=impla")
    for part in (
        "--encoder: expected one of None, impala_small, impala, impala_large, resnet18, resnet34, vit or module:Class",
        near,
    ):
        assert part in message
    assert near in refused(train={"encoder": "impla"})
    assert parsed("--encoder=impala", "--encoder", "impala_small").encoder.kind == "impala_small", "the last one counts"


def test_a_run_from_a_file(tmp_path: Path) -> None:
    """`--config FILE.yaml`: flags override it, and a sweep file stands for its `train:`."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "lr: 1e-3\nwatch_interval: 5\naction_chunking: true\nhorizon_length: 7\nencoder: impala\nhidden_width: 32\n"
    )
    own = RunConfig.of(
        lr=1e-3, monitor_interval=5, action_chunking=True, horizon_length=7, encoder="impala", hidden_width=32
    )
    assert parsed(f"--config={file}") == own
    assert parsed("--lr=2e-3", "--config", str(file), "--seed=4") == own.changed(lr=2e-3, seed=4)
    assert parsed(f"--config={file}", "--watch-interval=6") == own.changed(monitor_interval=6)
    assert parsed(f"--config={file}", "--encoder=None", "--no-action_chunking", "--horizon_length=5") == own.changed(
        encoder="None", action_chunking=False, horizon_length=5
    )
    whole = tmp_path / "sweep.yaml"
    whole.write_text("name: a\nspace: {}\ntrain:\n  lr: 1e-3\n  use_fourier_features: true\n")
    assert parsed(f"--config={whole}", "--no-use_fourier_features") == RunConfig.of(lr=1e-3)
    assert parsed(f"--config={whole}") == RunConfig.of(lr=1e-3, use_fourier_features=True)
    assert parse_run(Args, [f"--config={whole}"], "raybc.train", "")[1] == Args(config=str(whole))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["expected a YAML file with options of a run, found none"]),
        ("- lr\n", ["expected keys and values, got list"]),
        ("lr: fast\n", ["run.yaml.lr: expected float, got 'fast'"]),
        ("lrr: 1\n", ["run.yaml.lrr: unknown key 'lrr'", "did you mean 'lr'"]),
        ("lr: [\n", ["run.yaml: not readable as YAML"]),
        ("policy: flwo\n", ["policy: expected one of flow", "did you mean 'flow'"]),
    ],
)
def test_files_that_are_no_run_are_refused(tmp_path: Path, content: str | None, parts: list[str]) -> None:
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_text(content)
    message = refused_flags(f"--config={file}")
    for part in parts:
        assert part in message


def test_flags_without_an_effect_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = "--horizon_length: has no effect while action_chunking is off; set it to true"
    assert refused_flags("--horizon_length=8") == message
    assert run_main(lambda: main(["--horizon-length=8"])) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert parsed("--horizon_length=8", "--action_chunking").chunk_length == 8
    assert parsed("--horizon_length=5") == RunConfig(), "it says what is so anyway"


def test_help_has_every_flag_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in [*RunConfig().options(), *(f.name for f in dataclasses.fields(Args))]:
        assert text.count(f"--{name.replace('_', '-')} ") == 1 or f"--{name.replace('_', '-')}" in text, name


def test_ten_near_names_of_many() -> None:
    """A message that lists hundreds of names helps nobody; the real names of data sets come first."""
    assert did_you_mean("x", ["b", "a"]) == "known: a, b"
    message = did_you_mean("qqqq", [f"name-{i}" for i in range(500)])
    assert message.startswith("the nearest of 500 known names: ")
    assert message.count(",") == 9
    with pytest.raises(UserError, match="did you mean 'visual-scene-play-singletask-task1-v0' or "):
        parse_env_name("visual-singletask-task0-v0")
