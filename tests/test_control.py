"""What `env_args` say about actions of robosuite's arms, in all spellings; needs no simulator."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import pytest

from raybc.data.control import mismatch, refuse_other_control
from raybc.envs.robosuite_control import Control, controls_of, is_absolute, is_old, with_input_type
from raybc.registry import get_task, parse_env_name
from raybc.types import UserError
from tests.helpers import tiny_store

OLD = {"type": "OSC_POSE", "control_delta": True, "kp": 150}
WHOLE = {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE", "input_type": "delta"}}}
NESTED = {"type": "BASIC", "body_parts": {"arms": {"right": {"type": "OSC_POSE"}, "left": {"type": "OSC_POSE"}}}}


def args(config: Any, version: str = "1.5.2") -> dict[str, Any]:
    return {"env_name": "Lift", "type": 1, "env_version": version, "env_kwargs": {"controller_configs": config}}


@pytest.mark.parametrize(
    ("env_args", "expected"),
    [
        (args(OLD, "1.4.1"), [Control("OSC_POSE", "delta", "world")]),
        (args(OLD | {"control_delta": False}, "1.2.0"), [Control("OSC_POSE", "absolute", "world")]),
        (args(OLD), [Control("OSC_POSE", "delta", "base")]),
        (args([OLD, OLD | {"control_delta": False}]), [Control("OSC_POSE", k, "base") for k in ("delta", "absolute")]),
        (args(WHOLE), [Control("OSC_POSE", "delta", "base")]),
        (args(NESTED), [Control("OSC_POSE", "delta", "base")] * 2),
        (args({"type": "BASIC", "body_parts": {"right": {"type": "JOINT_V"}}}), [Control("JOINT_V", "delta", "base")]),
        (args(None), []),
        ({}, []),
        ({"env_kwargs": {"controller_configs": "x"}}, []),
    ],
)  # fmt: skip
def test_controls_of_every_spelling(env_args: dict[str, Any], expected: list[Control]) -> None:
    assert controls_of(env_args) == expected


@pytest.mark.parametrize("config", [OLD, WHOLE, NESTED, [OLD, OLD]])
def test_input_types_are_changed_and_changed_back(config: Any) -> None:
    before = copy.deepcopy(config)
    absolute = with_input_type(config, "absolute")
    assert config == before, "the original stays"
    assert is_absolute(args(absolute))
    assert not is_absolute(args(config))
    again = with_input_type(absolute, "delta")
    assert controls_of(args(again)) == controls_of(args(config))
    json.dumps(again)


def test_versions() -> None:
    assert [is_old(v) for v in ("1.4.1", "1.2", "0.3.0", "1.5.0", "1.10.1", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_data_and_environment_must_mean_the_same() -> None:
    delta, absolute = args(WHOLE), args(with_input_type(WHOLE, "absolute"))
    old_absolute = args(OLD | {"control_delta": False}, "1.4.1")
    assert (
        mismatch(delta, delta) is mismatch(absolute, absolute) is mismatch({}, absolute) is mismatch(delta, {}) is None
    )
    assert mismatch(args(OLD, "1.4.1"), delta) is None, "deltas of the world's frame are used in the base's, as before"
    store = dataclasses.replace(tiny_store(), env_args=delta)
    with pytest.raises(
        UserError,
        match=r"^tiny\.hdf5: actions: expected absolute actions of OSC_POSE in the base's frame, as lift_abs takes, "
        r"got delta actions .*; convert them: raybc data convert FILE --actions absolute .*; or choose the task",
    ):
        refuse_other_control(store, absolute, "lift_abs")
    refuse_other_control(store, absolute, "lift_abs", action_key="actions_abs")
    refuse_other_control(store, delta, "lift")
    world = dataclasses.replace(store, env_args=old_absolute)
    with pytest.raises(UserError, match=r"in the world's frame; name the environment .* --env_name dataset:FILE$"):
        refuse_other_control(world, absolute, "lift_abs")


def test_names_of_published_sets_name_the_task() -> None:
    name = parse_env_name("square-ph-low_dim_abs")
    assert (name.task, name.data) == ("square_abs", "ph")
    assert parse_env_name("lift-scripted-low_dim_abs").task == "lift_abs"
    for task in ("lift", "can", "square", "transport", "tool_hang"):
        was, now = get_task(task), get_task(f"{task}_abs")
        assert now == dataclasses.replace(was, name=now.name, make=now.make, make_expert=now.make_expert)
        assert (was.make_expert is None) == (now.make_expert is None)
    with pytest.raises(UserError, match=r"did you mean 'lift-ph-low_dim_abs'"):
        parse_env_name("lift-ph-low_dim_ab")


def test_demonstrations_are_made_again_when_experts_change() -> None:
    from raybc.demos.spec import _modules
    from raybc.envs import robosuite, robosuite_absolute, robosuite_experts

    assert set(_modules(get_task("lift_abs"))) == {robosuite, robosuite_absolute, robosuite_experts}


def test_files_with_a_mistake_are_refused(tmp_path: Path) -> None:
    """Before a simulator is started."""
    from raybc.data.control import converted

    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(args(OLD))
    task = get_task(f"dataset:{tmp_path / 'x.hdf5'}")
    with pytest.raises(
        UserError, match=r"^tiny\.hdf5: --actions absolute: expected states of the simulator, .*, got none$"
    ):
        converted(tiny_store(), task, "absolute")
