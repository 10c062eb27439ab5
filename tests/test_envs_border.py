"""What environments return is checked where it enters: ends, success, rewards, observations, and old interfaces."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from raybc.envs import border, callables, gym
from raybc.envs.base import Task
from raybc.envs.pointmass import PointMassEnv
from raybc.envs.spec import spec_of_task
from raybc.metric import SUCCESS
from raybc.registry import get_task, parse_env_name
from raybc.rollout.checks import check_camera
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.faults import Fault, raised
from raybc.rollout.results import summarise
from raybc.testing.envs import check_task
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.test_episode import Script

Step = Callable[[Any, tuple[Any, ...]], Any]
LIMIT = 20
numbers = itertools.count()


class Line(gymnasium.Env[Any, Any]):
    """A point that moves from 0 by at most 0.1 a step and should reach 1. The observations are those of the point mass,
    so that the scripted agents of other tests can be used."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own convention)
    observation_space: gymnasium.spaces.Space[Any] = gymnasium.spaces.Dict(
        {"state": gymnasium.spaces.Box(-9, 9, (4,), np.float32), "goal": gymnasium.spaces.Box(-9, 9, (2,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, reset: Step | None = None, step: Step | None = None) -> None:
        self._reset, self._step = reset, step
        self.x, self.t = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = 0.001 * float(self.np_random.uniform()), 0
        result = self.obs(), {}
        return result if self._reset is None else self._reset(self, result)

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        self.x += 0.1 * float(np.clip(action[0], -1, 1))
        result = self.obs(), -abs(1 - self.x), False, False, {"success": self.x > 0.95}
        return result if self._step is None else self._step(self, result)

    def obs(self) -> Any:
        return {"state": np.array([self.x, 0, 0, 0], np.float32), "goal": np.ones(2, np.float32)}


def make(step: Step | None = None, reset: Step | None = None, cls: Any = Line, **attributes: Any) -> Any:
    def fn(render_mode: str | None = None) -> Any:
        return cls(reset, step)

    fn.max_steps = LIMIT  # type: ignore[attr-defined]
    for name, value in attributes.items():
        setattr(fn, name, value)
    return fn


def task_of(*args: Any, **kwargs: Any) -> Task:
    return callables.from_callable(f"mine:task{next(numbers)}", make(*args, **kwargs))


def row(task: Task) -> dict[str, Any]:
    """The row of an episode in which the point goes to 1 at full speed."""
    env = task.make(None)
    return run_episode(env, Script([[1, 0]]), EpisodeSpec(task.name, "search", 0), SampleSetting(), LIMIT).to_row()


def error_of(task: Task) -> str:
    """The message of the error that an episode ends in; the process continues."""
    agent: Any = Script([[1, 0]])
    engine = Engine(lambda path: agent, slots=1)
    env = task.make(None)
    engine._free[task.name] = []
    name = f"{__name__}:replaced"
    globals()["replaced"] = Task(**{**vars(task), "name": name})
    for number in range(2):
        engine.add(number, Rollout("b", SampleSetting()), EpisodeSpec(name, "search", number))
    rows: list[Any] = []
    while not engine.idle:
        rows += [found for _, found in engine.round()]
    env.close()
    assert [found["outcome"] for found in rows] == ["error", "error"], "both starts have a row"
    assert rows[0]["error_kind"] == "BadEnvironment"
    return str(rows[0]["message"])


# Ends


def fence(env: Line, result: tuple[Any, ...]) -> Any:
    obs, reward, _, _, info = result
    return obs, reward, False, env.x > 0.5, info


def test_a_truncated_episode_ends_there_and_is_a_failure() -> None:
    found = row(task_of(fence))
    assert (found["outcome"], found["steps"], found["truncated"]) == ("failure", 5 + (found["steps"] == 6), True)
    assert found["message"] == f"truncated by the simulator at step {found['steps']}, before the limit of {LIMIT}"
    counts = summarise([found], SUCCESS)  # type: ignore[list-item]
    assert (counts["failures"], counts["timeouts"], counts["truncated"]) == (1, 0, 1)
    assert counts["messages"] == {"0": found["message"]}


def test_success_at_the_very_step_counts_and_later_success_does_not() -> None:
    together = row(task_of(lambda env, r: (r[0], r[1], False, env.x > 0.95, r[4])))
    assert (together["outcome"], together.get("truncated")) == ("success", None)
    later = row(task_of(lambda env, r: (r[0], r[1], False, env.t >= 3, {"success": env.t > 4})))
    assert (later["outcome"], later["steps"]) == ("failure", 3)


def test_the_limit_stays_a_timeout() -> None:
    idle = lambda env, r: (r[0], r[1], False, env.t >= LIMIT, {"success": False})  # noqa: E731
    found = row(task_of(idle))
    assert (found["outcome"], found["steps"], found["message"]) == ("timeout", LIMIT, "")
    assert "truncated" not in found


@pytest.mark.parametrize(("limit", "note"), [(LIMIT, ""), (8, "truncated by the simulator at step 8")])
def test_a_limit_of_the_simulator_is_a_timeout(limit: int, note: str) -> None:
    def limited(render_mode: str | None = None) -> Any:
        return gymnasium.wrappers.TimeLimit(Line(step=lambda env, r: (*r[:4], {"success": False})), limit)

    limited.max_steps = LIMIT  # type: ignore[attr-defined]
    found = row(callables.from_callable(f"mine:limited{limit}", limited))
    assert (found["outcome"], found["steps"]) == ("timeout", limit)
    assert found["message"].startswith(note)
    assert bool(found["message"]) == bool(note)


def test_an_environment_that_refuses_steps_behind_its_end_is_never_asked() -> None:
    def strict(env: Line, result: tuple[Any, ...]) -> Any:
        assert env.t <= 4, "stepped behind the end"
        return *result[:3], env.t == 4, result[4]

    assert row(task_of(strict))["steps"] == 4
    check_task(task_of(strict))


def test_solved_starts_are_counted_apart() -> None:
    solved = task_of(lambda env, r: (*r[:4], {"is_success": True}), lambda env, r: (r[0], {"is_success": True}))
    found = row(solved)
    assert (found["outcome"], found["steps"], found["solved_at_reset"]) == ("success", 1, True)
    assert summarise([found], SUCCESS)["solved_at_reset"] == 1  # type: ignore[list-item]
    assert "solved_at_reset" not in summarise([row(task_of())], SUCCESS)  # type: ignore[list-item]


# Success


@pytest.mark.parametrize("value", [True, 1, 1.0, np.bool_(True), np.float32(1), np.array([1.0]), np.array(True)])
def test_flags_that_mean_one_thing_are_accepted(value: Any) -> None:
    assert border.flag("x", value) is True
    assert border.flag("x", 0 * value if not isinstance(value, bool) else False) is False


@pytest.mark.parametrize("value", [0.7, "yes", "", None, 2, -1, np.nan, np.ones(2), [True, False], {}, [], {"a": 1}])
def test_other_flags_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"step 1 failed: info\['success'\]: expected true or false \(or 0 or 1\), got"):
        task_of(lambda env, r: (*r[:4], {"success": value}))
    late = task_of(lambda env, r: (*r[:4], {"success": value if env.t == 3 else False}))
    message = error_of(late)
    assert "info['success']: expected true or false (or 0 or 1), got" in message
    assert message.endswith("(at step 3)")


@pytest.mark.parametrize("name", border.SUCCESS_NAMES)
def test_success_is_found_under_the_names_of_the_field(name: str) -> None:
    task = task_of(lambda env, r: (*r[:4], {name: env.x > 0.95}))
    assert task.has_success
    assert task.notes == ()
    assert row(task)["outcome"] == "success"


@pytest.mark.parametrize("wrap", [lambda info: info, lambda info: {"final_info": info}, lambda i: {"final_info": [i]}])
def test_success_in_the_last_info_only_is_found(wrap: Any) -> None:
    def last(env: Line, result: tuple[Any, ...]) -> Any:
        over = env.x > 0.95 or env.t >= LIMIT
        return *result[:2], over, False, wrap({"is_success": env.x > 0.95}) if over else {}

    task = task_of(last)
    assert task.has_success
    assert (row(task)["outcome"], row(task)["steps"]) == ("success", 10)


def test_the_final_info_goes_before_that_of_the_next_episode() -> None:
    def restarted(env: Line, result: tuple[Any, ...]) -> Any:
        over = env.x > 0.95
        return *result[:2], over, False, {"success": False} | ({"final_info": {"success": True}} if over else {})

    assert row(task_of(restarted))["outcome"] == "success"


def test_no_success_is_said_with_what_was_looked_for() -> None:
    nothing = lambda env, r: (*r[:4], {"won": env.x > 0.95})  # noqa: E731
    task = task_of(nothing)
    assert not task.has_success
    assert f"no success in {LIMIT} steps (looked for success, is_success, " in task.notes[0]
    assert "success_key" in task.notes[0]
    named = task_of(nothing, success_key="won")
    assert (named.has_success, named.notes, row(named)["outcome"]) == (True, (), "success")
    rare = task_of(lambda env, r: (*r[:4], {"success": True} if env.x > 0.95 else {}), has_success=True)
    assert (rare.has_success, rare.notes, row(rare)["outcome"]) == (True, (), "success")
    assert gym.task("gym:Pendulum-v1").notes == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("attribute", [{"max_steps": 0}, {"max_steps": "9"}, {"success_key": 3}, {"has_success": 1}])
def test_attributes_of_a_function_are_checked(attribute: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(attribute))} of the function: expected"):
        task_of(**attribute)


# Rewards and observations


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None, "1", np.ones(2), 1e250])
def test_a_reward_that_is_not_a_finite_number_is_an_error_with_its_step(value: Any) -> None:
    message = error_of(task_of(lambda env, r: (r[0], value if env.t == 4 else 0.0, *r[2:])))
    assert "reward" in message
    assert message.endswith("(at step 4)")


def test_rewards_of_all_numeric_types_are_read() -> None:
    for value in (1, np.float32(1), np.array([1.0]), np.array(1)):
        found = row(task_of(lambda env, r, value=value: (r[0], value, *r[2:])))
        assert found["return"] == found["steps"]


BAD = {
    "longer": lambda obs: {**obs, "state": np.zeros(5, np.float32)},
    "a matrix": lambda obs: {**obs, "state": np.zeros((1, 4), np.float32)},
    "text": lambda obs: {**obs, "state": "left"},
    "None": lambda obs: {**obs, "goal": None},
    "nan": lambda obs: {**obs, "goal": np.array([np.nan, 0], np.float32)},
    "missing": lambda obs: {"state": obs["state"]},
    "bare": lambda obs: obs["state"],
    "ragged": lambda obs: {**obs, "state": [[1], [2, 3]]},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_observations_that_are_not_as_declared_are_errors(bad: Any) -> None:
    with pytest.raises(UserError, match=r"reset\(seed=0\) failed: observation"):
        task_of(reset=lambda env, r: (bad(r[0]), r[1]))
    with pytest.raises(UserError, match=r"step 1 failed: observation"):
        task_of(lambda env, r: (bad(r[0]), *r[1:]))
    assert "observation" in error_of(task_of(lambda env, r: (bad(r[0]) if env.t == 2 else r[0], *r[1:])))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 6, 3), np.float32), np.zeros((6, 8, 3), np.uint8), np.zeros((3, 8, 6), np.uint8)]
)
def test_images_that_are_not_as_declared_are_refused(image: np.ndarray) -> None:
    class Seeing(Line):
        observation_space = gymnasium.spaces.Box(0, 255, (8, 6, 3), np.uint8)

        def obs(self) -> Any:
            return image

    with pytest.raises(UserError, match=r"observation 'pixels' of mine.*: declared as an image, uint8 with shape"):
        task_of(cls=Seeing)


def test_adapters_of_others_are_checked_by_the_harness() -> None:
    class Wrong(PointMassEnv):
        def _obs(self) -> Any:
            return {**super()._obs(), "goal": np.zeros(3, np.float32)}

    task = Task(name="wrong", suite="mine", make=lambda render: Wrong(), max_steps=5, obs_keys=("state",), fps=1.0)
    with pytest.raises(
        UserError, match=r"wrong: reset\(seed=0\) failed: observation 'goal': declared as float32 \(2,\)"
    ):
        spec_of_task(task)
    assert "observation 'goal'" in error_of(task)


# Old interfaces, and code that fails


class OldReset(Line):
    def reset(self) -> Any:  # type: ignore[override]
        return self.obs()


class OldResult(Line):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.obs()


class OldStep(Line):
    def step(self, action: np.ndarray) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class Refusing(Line):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            raise ValueError("this simulator\ncannot be seeded")
        return super().reset()


class Failing(Line):
    def __init__(self, *_: Any) -> None:
        raise ZeroDivisionError("no robot")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            OldReset,
            r"reset\(seed=0\) failed: TypeError: .*'seed'; raybc needs gymnasium's API \(reset\(seed, options\)",
        ),
        (OldResult, r"reset\(seed=0\) failed: reset returned one value \(dict\); raybc needs gymnasium's API"),
        (OldStep, "step 1 failed: step returned 4 values, the last a dict; raybc needs gymnasium's API"),
        (Refusing, r"reset\(seed=0\) failed: ValueError: this simulator cannot be seeded \(test_envs_border.py, line"),
        (Failing, r"failed: ZeroDivisionError: no robot \(test_envs_border.py, line \d+\); raybc calls it without"),
    ],
)
def test_what_cannot_be_used_is_one_line(cls: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        task_of(cls=cls)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = {
        "lacking_m": ("import not_installed_anywhere\n", "importing lacking_m failed: ModuleNotFoundError: No module"),
        "raising_m": ("x = 1\nraise OSError('no licence')\n", r"OSError: no licence \(raising_m.py, line 2\)"),
        "syntax_m": ("def f(:\n", "importing syntax_m failed: SyntaxError"),
        "leaving_m": ("import sys\nsys.exit(3)\n", "importing leaving_m failed: SystemExit: 3"),
    }
    for name, (text, message) in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
        for resolve in (get_task, parse_env_name):
            with pytest.raises(UserError, match=message):
                resolve(f"{name}:f")
        sys.modules.pop(name, None)
    with pytest.raises(UserError, match="there is no module 'absent_m'"):
        get_task("absent_m:f")
    with pytest.raises(UserError, match="module 'math' has no 'f'"):
        get_task("math:f")


def test_the_function_is_called_once_for_a_name() -> None:
    """Names are looked up for every episode."""
    made = []

    def counted(render_mode: str | None = None) -> Any:
        made.append(1)
        return Line()

    assert callables.from_callable("mine:counted", counted) is callables.from_callable("mine:counted", counted)
    assert len(made) == 1


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.MultiDiscrete([2, 2]),
        gymnasium.spaces.Box(0, 3, (2,), np.int64),
        gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        gymnasium.spaces.Box(-3e38, 3e38, (2,), np.float32),
        gymnasium.spaces.Box(-1e300, 1e300, (2,), np.float64),
        gymnasium.spaces.Box(-1, 1, (2, 2), np.float32),
        gymnasium.spaces.Box(-1, 1, (0,), np.float32),
        gymnasium.spaces.Tuple([gymnasium.spaces.Box(-1, 1, (2,), np.float32)]),
        None,
    ],
    ids=str,
)
def test_action_spaces_that_no_policy_here_has_are_refused(space: Any) -> None:
    class Other(Line):
        action_space = space

    with pytest.raises(UserError, match=r"actions of mine:.* a 1-D Box with finite bounds"):
        task_of(cls=Other)


def test_resets_that_ignore_the_seed_are_noted() -> None:
    noise = np.random.default_rng(0)
    task = task_of(reset=lambda env, r: ({**r[0], "goal": noise.random(2).astype(np.float32)}, r[1]))
    assert "two resets with the same seed observe different starts" in task.notes[0]
    assert task_of().notes == ()


# Faults


def test_a_fault_has_its_step_and_its_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        raise KeyError("gripper")
    fault = raised(caught.value, 7)
    assert fault == Fault("KeyError", "KeyError: 'gripper' (at step 7)")
    assert 'raise KeyError("gripper")' in fault.traceback
    assert raised(caught.value).message == "KeyError: 'gripper'"
    assert raised(border.BadEnvironment("the reward"), 1).traceback == ""


# Cameras


def test_a_camera_is_checked_before_simulators_start() -> None:
    from raybc.envs.d4rl import task as d4rl_task
    from raybc.envs.pointmass import POINTMASS

    cheetah = d4rl_task("halfcheetah")
    assert cheetah is not None
    spec = spec_of_task(cheetah)
    assert spec.cameras == ("track",)
    check_camera("track", spec, "halfcheetah")
    check_camera("", spec, "halfcheetah")
    with pytest.raises(UserError, match="--camera: expected one of track of halfcheetah, got 'nope'"):
        check_camera("nope", spec, "halfcheetah")
    for task in (POINTMASS, task_of()):
        with pytest.raises(UserError, match="has no named cameras, got 'nope'; leave the flag out"):
            check_camera("nope", spec_of_task(task), task.name)
    check_camera("nope", dataclasses.replace(spec, cameras=None), "an adapter of others")


def test_a_function_that_cannot_render_is_known_beforehand() -> None:
    assert task_of().no_images == ""
    assert "takes no argument render_mode" in callables.from_callable("mine:blind", lambda: Line()).no_images


# Exceptions that stay


def test_a_process_goes_on_after_an_exception_that_a_fresh_one_does_not_prevent() -> None:
    def crash(env: Line, result: tuple[Any, ...]) -> Any:
        if env.t == 3 and env.np_random_seed % 2:
            raise ValueError(f"joint at {env.x:.3f}")
        return result

    agent: Any = Script([[1, 0]])
    globals()["crashing"] = dataclasses.replace(task_of(crash), name=f"{__name__}:crashing")
    specs = [EpisodeSpec(f"{__name__}:crashing", "search", index) for index in range(6)]
    outcomes: list[list[Any]] = []
    for proven in (frozenset[Any](), frozenset({("ValueError", "ValueError: joint at 0 (at step 0)")})):
        engine = Engine(lambda path: agent, slots=1)
        engine.proven = proven
        for number, start in enumerate(specs):
            engine.add(number, Rollout("b", SampleSetting()), start)
        ended: list[Any] = []
        while not engine.idle and not any(isinstance(found, Fault) for found in ended):
            ended += [found for _, found in engine.round()]
        outcomes.append(ended)
    assert sum(isinstance(found, Fault) for found in outcomes[0]) == 1, "a process that raised is replaced"
    rows = sorted(outcomes[1], key=lambda found: found["index"])
    assert [found["outcome"] for found in rows] == ["success", "error"] * 3
    assert rows[1]["message"].startswith("ValueError: joint at 0.3")
    assert "raise ValueError" in rows[1]["traceback"]


# Single starts


@pytest.mark.parametrize("bad", [np.nan, None])
def test_an_environment_is_not_refused_for_single_starts(bad: Any) -> None:
    def rare(env: Line, result: tuple[Any, ...]) -> Any:
        if env.t == 0 and env.seed in (0, 2):
            raise RuntimeError("the arm is stuck")
        if env.t == 1 and env.seed == 1:
            return result[0], bad, *result[2:]
        return result

    class Seeded(Line):
        seed = -1

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.seed = -1 if seed is None else seed
            return super().reset(seed=seed)

    task = task_of(rare, rare, Seeded)
    assert task.has_success
    assert task.notes[0].startswith(
        f"{task.name}: reset(seed=0) failed: RuntimeError: the arm is stuck (test_envs_border"
    )
    assert task.notes[0].endswith("other starts work, and episodes that fail are errors")
    assert spec_of_task(task).starts["state"].shape == (3, 4)
