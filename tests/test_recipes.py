"""The identity of recipes: options without an effect, axes without one, and searches that repeat nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raybc.config import Role, RunConfig
from raybc.config.effect import canonical, inert, training_key
from raybc.config.options import CHANGED
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.final import finalists
from raybc.sweep.ledger import Evaluation, SweepState
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.recipes import check_effects, finite_recipes, may_repeat
from raybc.sweep.space import check_corners, first_points, recipe_key
from raybc.sweep.study import Proposer
from raybc.types import SampleSetting, UserError

BASE = {"env_name": "pointmass-scripted-low_dim", "training_steps": 1000, "action_chunking": True, "horizon_length": 4}
LISTS = {
    "normalization": {"values": ["mean_std", "min_max"]}, "action_chunking": {"values": [True, False]},
    "horizon_length": {"values": [4, 8]},
}  # fmt: skip


def config(space: dict[str, Any], train: dict[str, Any] | None = None, **search: Any) -> SweepConfig:
    plain = {"name": "s", "train": BASE | (train or {}), "space": space, "search": {"max_concurrent": 1, **search}}
    return sweep_from_mapping(plain, "test.yaml")


# Which options have an effect


def test_every_declared_condition_names_options_and_possible_values() -> None:
    options = RunConfig().options()
    for name, info in options.items():
        for condition in info.option.only_with:
            assert condition, name
            for other, wanted in condition.items():
                values = wanted if isinstance(wanted, tuple) else (wanted,)
                for value in values:
                    changed = value != CHANGED and RunConfig.of(**{other: value}).get(other)
                    assert value == CHANGED or changed == value, f"{name}: {other}"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"min_lr": 1e-5}, True),
        ({"min_lr": 1e-5, "lr_schedule": "cosine"}, False),
        ({"plateau_factor": 0.1, "plateau_patience": 9, "monitor_interval": 7}, True),
        ({"plateau_factor": 0.1, "lr_schedule": "plateau"}, False),
        ({"budget_warmup_ratio": 0.5}, True),
        ({"budget_warmup_ratio": 0.5, "lr_schedule": "cosine"}, False),
        ({"budget_warmup_ratio": 0.5, "lr_schedule": "cosine", "warmup_steps": 50}, True),
        ({"warmup_steps": 0}, True),
        ({"warmup_steps": 9}, False),
        ({"freeze_steps": 10}, True),
        ({"freeze_steps": 10, "freeze": "velocity_field"}, False),
        ({"optimizer": "adam"}, True),
        ({"optimizer": "adam", "weight_decay": 0.1}, False),
        ({"dataset_proportion_seed": 3}, True),
        ({"dataset_proportion_seed": 3, "dataset_proportion": 0.5}, False),
        ({"horizon_length": 9}, False),
        ({"horizon_length": 9, "action_chunking": False}, True),
        ({"plan_lr_min_scale": 0.5, "sampling_plan_path": "p", "sampling_plan_sha256": "s"}, True),
        ({"compile": "off", "accumulate": 2, "sparse": True, "log_interval": 7}, True),
        ({"flow_steps": 3, "eval_temperature": 1.0}, True),
        ({"batch_size": 7}, False),
    ],
)  # fmt: skip
def test_equal_trainings_have_one_key(changes: dict[str, Any], same: bool) -> None:
    """Compared with the same run but for the first change."""
    run = RunConfig.of(**(BASE | changes))
    first = next(iter(changes))
    idle = {
        first,
        *("plateau_patience", "monitor_interval", "accumulate", "sparse", "log_interval", "eval_temperature"),
    }
    other = run.changed(**{name: RunConfig.of(**BASE).get(name) for name in idle if name in changes})
    assert (training_key(run) == training_key(other)) is same
    assert training_key(canonical(run)) == training_key(run)


def test_what_is_missing_is_told() -> None:
    found = inert(RunConfig.of(**BASE))
    assert found["min_lr"] == "lr_schedule cosine or plateau"
    assert found["freeze_steps"] == "freeze"
    assert found["dataset_proportion_seed"] == "dataset_proportion other than 1.0"
    assert "name a plan there" in found["plan_aware_lr_scale"]
    assert "regression" in inert(RunConfig.of(**BASE, policy="regression"))["flow_steps"]


# Axes


@pytest.mark.parametrize(
    ("name", "axis", "reason"),
    [
        ("min_lr", {"low": 1e-6, "high": 1e-4, "log": True}, "it needs lr_schedule cosine or plateau"),
        ("plateau_factor", {"values": [0.1, 0.5]}, "it needs lr_schedule plateau"),
        ("plateau_patience", {"values": [1, 5]}, "it needs lr_schedule plateau"),
        ("monitor_interval", {"values": [10, 20]}, "it needs lr_schedule plateau or stop_patience"),
        ("budget_warmup_ratio", {"values": [0.1, 0.5]}, "it needs lr_schedule cosine or rsqrt and warmup_steps -1"),
        ("budget_min_warmup_steps", {"low": 1, "high": 9}, "it needs lr_schedule cosine or rsqrt and warmup_steps -1"),
        ("freeze_steps", {"values": [10, 20]}, "it needs freeze"),
        ("optimizer", {"values": ["adam", "adamw"]}, "it needs weight_decay"),
        ("dataset_proportion_seed", {"values": [1, 2]}, "it needs dataset_proportion other than 1.0"),
        ("plan_lr_min_scale", {"values": [0.1, 0.2]}, "it needs sampling_plan_path (name a plan there)"),
        ("warmup_steps", {"values": [-1, 0]}, ": all its values do the same"),
        ("execute_steps", {"values": [0, 4]}, ": all its values do the same"),
        ("temporal_ensemble", {"values": [-1, 0.5], "execute": 4}, ": all its values do the same"),
        ("compile", {"values": ["auto", "off"]}, "it changes no policy; set train.compile instead"),
        ("accumulate", {"values": [1, 2]}, "it changes no policy; set train.accumulate instead"),
        ("sparse", {"values": [True, False]}, "a sweep has one reward"),
    ],
)
def test_an_axis_without_an_effect_is_refused(name: str, axis: dict[str, Any], reason: str) -> None:
    axis = dict(axis)
    train = {"execute_steps": axis.pop("execute")} if "execute" in axis else {}
    with pytest.raises(UserError, match=f"space.{name}: ") as refused:
        check_effects(config({name: axis, "lr": {"low": 1e-4, "high": 1e-3}}, train))
    assert reason in str(refused.value)


def test_every_output_option_is_refused() -> None:
    for name, info in RunConfig().options().items():
        if info.option.role is Role.OUTPUT and info.option.axis is True:
            assert info.option.identified_by or name in ("compile", "accumulate") or _refused(name), name


def _refused(name: str) -> bool:
    default = RunConfig().get(name)
    with pytest.raises(UserError, match=f"space.{name}"):
        check_effects(config({name: {"values": [default]}}))
    return True


@pytest.mark.parametrize(
    "space",
    [
        LISTS,
        {"min_lr": {"values": [1e-6, 1e-5]}, "lr_schedule": {"values": ["constant", "cosine"]}},
        {"optimizer": {"values": ["adam", "adamw"]}, "weight_decay": {"low": 0.0, "high": 0.1}},
        {"policy": {"values": ["flow", "regression"]}, "use_fourier_features": {"values": [True, False]}},
        {"horizon_length": {"values": [4, 8]}, "execute_steps": {"values": [0, 4]}},
        {"lr": {"values": [1e-3]}},
    ],
)  # fmt: skip
def test_an_effect_in_one_corner_is_enough(space: dict[str, Any]) -> None:
    check_effects(config(space))
    assert check_corners(config(space))


def test_settings_that_do_the_same() -> None:
    whole = SampleSetting(4)
    assert SampleSetting(4, execute_steps=8).canonical(8) == whole.canonical(8) == whole
    assert SampleSetting(4, execute_steps=8, temporal_ensemble=0.1).canonical(8) == whole
    assert SampleSetting(4, temporal_ensemble=0.1).canonical(8) == SampleSetting(4, 1, 0.0, 0.1)
    assert SampleSetting(4, temporal_ensemble=0.1).canonical(1) == whole


# The search


def drive(proposer: Proposer, state: SweepState, until: int) -> list[dict[str, Any]]:
    while len(state.trials) < until:
        number = len(state.trials)
        proposed = proposer.propose(number)
        if proposed is None:
            break
        state.apply({"event": "start", "trial": number, "params": proposed[1], "origin": proposed[0]})
        score = float(proposed[1].get("normalization") == "min_max")
        evaluation = Evaluation(1, 100, score, [])
        state.apply({"event": "evaluation", "trial": number, "status": "completed", "evaluation": 1, "step": 100,
                     "score": score, "rows": [], "timing": {}})  # type: ignore[typeddict-item]  # fmt: skip
        proposer.report(number, evaluation, "completed")
    return [t.params for t in state.trials.values()]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_finite_space_is_searched_once_and_then_the_search_ends(sampler: str, tmp_path: Path) -> None:
    """Eight recipes are six policies: without chunks the horizon does not matter."""
    plan, state = config(LISTS, sampler=sampler, trials=12), SweepState()
    proposer = Proposer(plan, SweepFolder(tmp_path), state)
    tried = drive(proposer, state, 12)
    assert len(tried) == len({recipe_key(plan, params) for params in tried}) == 6
    assert proposer.exhausted
    assert proposer.propose(6) is None
    assert Proposer(plan, SweepFolder(tmp_path), state).exhausted


def test_a_resumed_search_draws_the_same_again(tmp_path: Path) -> None:
    plan = config(LISTS, trials=12)
    whole = drive(Proposer(plan, SweepFolder(tmp_path), SweepState()), SweepState(), 6)
    state = SweepState()
    drive(Proposer(plan, SweepFolder(tmp_path), state), state, 3)
    assert drive(Proposer(plan, SweepFolder(tmp_path), state), state, 6) == whole


def test_an_axis_that_matters_in_some_corners_makes_no_equal_recipes(tmp_path: Path) -> None:
    """min_lr has an effect with cosine only: of the constant rate there is one recipe, whatever min_lr is."""
    space = {
        "lr_schedule": {"values": ["constant", "cosine"]}, "min_lr": {"low": 1e-6, "high": 1e-4, "log": True},
    }  # fmt: skip
    plan, state = config(space, trials=10), SweepState()
    assert may_repeat(plan)
    tried = drive(Proposer(plan, SweepFolder(tmp_path), state), state, 10)
    assert [params["lr_schedule"] for params in tried].count("constant") == 1
    assert len({recipe_key(plan, params) for params in tried}) == 10


def test_a_range_that_always_matters_needs_no_second_draw() -> None:
    assert not may_repeat(config({"lr": {"low": 1e-4, "high": 1e-3}, **LISTS}))
    assert may_repeat(config({"batch_size": {"low": 8, "high": 16}}))
    assert finite_recipes(config({"batch_size": {"low": 8, "high": 16}}), 100) is not None
    assert finite_recipes(config({"lr": {"low": 1e-4, "high": 1e-3}}), 100) is None
    assert len(finite_recipes(config(LISTS), 100) or {}) == 6


def test_points_that_are_the_same_training_are_tried_once() -> None:
    points = [{"action_chunking": False}, {"action_chunking": False, "horizon_length": 8}, {"horizon_length": 8}]
    found = first_points(config(LISTS, points_to_evaluate=points))
    assert [(origin, p["action_chunking"], p["horizon_length"]) for origin, p in found] == [
        ("defaults", True, 4), ("point", False, 4), ("point", True, 8),
    ]  # fmt: skip


def test_final_measurements_are_of_different_policies() -> None:
    """A ledger of an earlier release may have the same training twice."""
    state = SweepState()
    recipes = [(False, 4, 0.9), (False, 8, 0.9), (True, 8, 0.5)]
    for number, (chunking, horizon, score) in enumerate(recipes):
        params = {"normalization": "mean_std", "action_chunking": chunking, "horizon_length": horizon}
        state.apply({"event": "start", "trial": number, "params": params, "origin": "sampler"})
        row = {"flow_steps": 10, "execute_steps": 0, "eval_temperature": 0.0, "temporal_ensemble": -1.0}
        row |= {"episodes": 10, "successes": int(10 * score), "errors": 0, "mean_steps_success": None}
        state.apply({"event": "evaluation", "trial": number, "status": "completed", "evaluation": 1, "step": 100,
                     "score": score, "rows": [row], "timing": {}})  # type: ignore[typeddict-item,list-item]  # fmt: skip
    plan = sweep_from_mapping({"name": "s", "train": BASE, "space": LISTS, "final": {"top": 2}}, "test.yaml")
    assert [trial.number for trial in finalists(plan, state)] == [0, 2]
