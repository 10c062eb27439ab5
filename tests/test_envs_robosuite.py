"""robosuite: episodes decided by their seed, experts that succeed, images the right way up, helpful refusals."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raybc.envs.base import RenderOptions, Task
from raybc.envs.robosuite import CAN, LIFT, SQUARE, TOOL_HANG, TRANSPORT, RobosuiteEnv
from raybc.testing.envs import Trace, assert_same, check_task, play, random_actions
from raybc.types import UserError

ROOT = Path(__file__).parents[1]
needs_robosuite = pytest.mark.skipif(
    importlib.util.find_spec("robosuite") is None, reason="robosuite is missing: pip install 'raybc[robosuite]'"
)


def make(render: RenderOptions | None = None) -> RobosuiteEnv:
    env = LIFT.make(render)
    assert isinstance(env, RobosuiteEnv)
    return env


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    env = make()
    yield env
    env.close()


@pytest.fixture
def rendering() -> Iterator[RobosuiteEnv]:
    try:
        env = make(RenderOptions())
    except UserError as error:
        if "GL" not in str(error):
            raise
        pytest.skip(str(error))
    yield env
    env.close()


def demonstration(env: RobosuiteEnv, seed: int, task: Task = LIFT, noise: float = 1.0) -> np.ndarray:
    """The expert's actions (T, 7) up to success or the step limit."""
    assert task.make_expert is not None
    obs, _ = env.reset(seed=seed)
    expert, actions = task.make_expert(env, np.random.default_rng(seed), noise), []
    for _ in range(task.max_steps):
        actions.append(expert.act(obs))
        obs, _, _, _, info = env.step(actions[-1])
        if info["success"]:
            break
    return np.stack(actions)


def digest(trace: Trace) -> str:
    sha = hashlib.sha256()
    for obs, state, reward, success in trace:
        for key in sorted(obs):
            sha.update(obs[key].tobytes())
        sha.update(state.tobytes() + np.float64(reward).tobytes() + bytes([success]))
    return sha.hexdigest()


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process at the root of the project."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )


@needs_robosuite
@pytest.mark.parametrize(
    "task",
    [
        LIFT,
        CAN,
        SQUARE,
        pytest.param(TRANSPORT, marks=pytest.mark.slow),
        pytest.param(TOOL_HANG, marks=pytest.mark.slow),
    ],
    ids=lambda task: task.name,
)
def test_conformance(task: Task) -> None:
    check_task(task)


@needs_robosuite
def test_episode_is_decided_by_its_seed(env: RobosuiteEnv, tmp_path: Path) -> None:
    """Through contact and lift: in another instance, after other episodes, in another process."""
    actions = np.concatenate([demonstration(env, 5), random_actions(env, 0, 10)])
    other = make()
    first = play(other, 5, actions)
    other.close()
    assert any(success for *_, success in first)
    play(env, 6, random_actions(env, 1, 37))
    demonstration(env, 7)
    play(env, 8, np.full((3, 7), -1.0, dtype=np.float32))  # stopped in full movement, the gripper half way
    assert_same(first, play(env, 5, actions), "after other episodes")

    np.save(tmp_path / "actions.npy", actions)
    code = (
        "import sys, numpy; from tests.test_envs_robosuite import digest, make, play;"
        "print(digest(play(make(), 5, numpy.load(sys.argv[1]))))"
    )
    run = python(code, str(tmp_path / "actions.npy"))
    assert run.stdout.split()[-1] == digest(first), "in another process"


@needs_robosuite
@pytest.mark.parametrize("task", [pytest.param(CAN, marks=pytest.mark.slow), SQUARE], ids=lambda task: task.name)
def test_two_in_a_process_do_not_disturb_each_other(task: Task) -> None:
    """Stepped in turn, through contact, as slots of one process are."""
    a, b = task.make(None), task.make(None)
    assert isinstance(a, RobosuiteEnv)
    actions = {seed: np.concatenate([demonstration(a, seed, task)[:60], random_actions(a, seed, 5)]) for seed in (1, 2)}
    alone = {seed: play(a, seed, actions[seed]) for seed in (1, 2)}
    together: dict[int, Trace] = {}
    for env, seed in ((a, 1), (b, 2)):
        obs, info = env.reset(seed=seed)
        together[seed] = [(obs, env.sim_state().copy(), 0.0, info["success"])]
    for step in range(len(actions[1])):
        for env, seed in ((a, 1), (b, 2)):
            obs, reward, _, _, info = env.step(actions[seed][step])
            together[seed].append((obs, env.sim_state().copy(), reward, info["success"]))
    a.close()
    b.close()
    for seed in (1, 2):
        assert_same(alone[seed], together[seed], f"seed {seed} beside another")


@needs_robosuite
def test_rendering_changes_nothing(env: RobosuiteEnv, rendering: RobosuiteEnv) -> None:
    actions = demonstration(env, 5)
    play(rendering, 6, actions[:7])
    obs, _ = rendering.reset(seed=5)
    trace: Trace = [(obs, rendering.sim_state(), 0.0, False)]
    for step, action in enumerate(actions):
        if step % 8 == 0:
            rendering.render()
        obs, reward, _, _, info = rendering.step(action)
        trace.append((obs, rendering.sim_state(), reward, info["success"]))
    assert_same(play(env, 5, actions), trace, "with rendering")


@needs_robosuite
def test_observations(env: RobosuiteEnv) -> None:
    obs, _ = env.reset(seed=0)
    assert tuple(obs) == LIFT.obs_keys
    assert [value.shape for value in obs.values()] == [(3,), (4,), (2,), (10,)]
    assert env.action_space.shape == (7,)
    # `object` is cube position, quaternion, cube minus gripper; the cube starts on a table of height 0.8
    np.testing.assert_allclose(obs["object"][:3] - obs["robot0_eef_pos"], obs["object"][7:], atol=1e-5)
    assert 0.8 < obs["object"][2] < 0.84
    obs, *_ = env.step(np.array([0.3, -0.2, -1, 0, 0, 0.5, 1], dtype=np.float32))
    assert obs["robot0_gripper_qpos"].tolist() == env.sim_state()[8:10].astype(np.float32).tolist()  # of this very step


@needs_robosuite
def test_states_and_model_play_the_episode_back(env: RobosuiteEnv) -> None:
    import mujoco

    other = RobosuiteEnv("Stack", ("object",))  # MuJoCo would now save this model when asked for the other
    other.close()
    model = mujoco.MjModel.from_xml_string(env.model_xml())
    data = mujoco.MjData(model)
    trace = play(env, 3, random_actions(env, 0, 10))
    for obs, state, *_ in trace:
        data.time, data.qpos[:], data.qvel[:] = state[0], state[1 : 1 + model.nq], state[1 + model.nq :]
        mujoco.mj_forward(model, data)
        # robosuite measures positions one physics step (2 ms) before the velocities of the state
        np.testing.assert_allclose(data.body("cube_main").xpos, obs["object"][:3], atol=2e-3)


@needs_robosuite
def test_expert_succeeds(env: RobosuiteEnv) -> None:
    steps = [len(demonstration(env, seed)) for seed in range(8)]
    assert max(steps) < LIFT.max_steps, f"steps to success: {steps}"
    assert len(set(steps)) > 2, f"demonstrations hardly differ: {steps}"


@needs_robosuite
@pytest.mark.parametrize("task", [CAN, SQUARE], ids=lambda task: task.name)
def test_experts_of_can_and_square_succeed(task: Task) -> None:
    env = task.make(None)
    assert isinstance(env, RobosuiteEnv)
    steps = [len(demonstration(env, seed, task, noise)) for seed, noise in ((0, 0.0), (1, 1.0), (2, 1.0))]
    env.close()
    assert max(steps) < task.max_steps, f"steps to success: {steps}"


@pytest.mark.slow
@needs_robosuite
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("noise", "least"), [(0.0, 19), (1.0, 17)])
@pytest.mark.parametrize("task", [CAN, SQUARE], ids=lambda task: task.name)
def test_success_rates_of_experts(task: Task, noise: float, least: int) -> None:
    env = task.make(None)
    assert isinstance(env, RobosuiteEnv)
    steps = [len(demonstration(env, seed, task, noise)) for seed in range(20)]
    env.close()
    assert sum(n < task.max_steps for n in steps) >= least, f"steps to success: {steps}"


@needs_robosuite
@pytest.mark.slow
@pytest.mark.parametrize("task", [CAN, SQUARE, TRANSPORT, TOOL_HANG], ids=lambda task: task.name)
def test_images(task: Task) -> None:
    """Run in a process of its own: environments that draw do not share one."""
    code = (
        "import sys; from raybc.envs import robosuite; from raybc.types import UserError\n"
        "from raybc.testing.envs import check_rendering\n"
        "try: check_rendering(getattr(robosuite, sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
        "print('checked')\n"
    )
    run = python(code, task.name.upper())
    if "no offscreen GL context" in run.stdout:
        pytest.skip("no offscreen GL context")
    assert "checked" in run.stdout


@needs_robosuite
def test_relative_observations_at_the_start() -> None:
    """robosuite itself observes zeros there; the rest of the episode must not notice that we measure again."""
    env = CAN.make(None)
    obs, _ = env.reset(seed=0)
    distance = np.linalg.norm(obs["object"][7:10] - obs["robot0_eef_pos"])
    np.testing.assert_allclose(np.linalg.norm(obs["object"][:3]), distance, atol=1e-4)
    assert np.isclose(np.linalg.norm(obs["object"][3:7]), 1.0, atol=1e-5)
    obs, *_ = env.step(np.array([0.3, -0.2, -1, 0, 0, 0.5, 1], dtype=np.float32))
    assert obs["robot0_gripper_qpos"].tolist() == env.sim_state()[8:10].astype(np.float32).tolist()  # of this very step
    env.close()


@needs_robosuite
def test_expert_tries_again_when_the_cube_is_lost(env: RobosuiteEnv) -> None:
    assert LIFT.make_expert is not None
    obs, _ = env.reset(seed=0)
    expert = LIFT.make_expert(env, np.random.default_rng(0), 1.0)
    opened = 0
    for _ in range(LIFT.max_steps):
        action = expert.act(obs)
        if obs["object"][2] > 0.83 and opened < 5:  # in the air: someone opens the gripper for a quarter second
            action[-1], opened = -1.0, opened + 1
        obs, _, _, _, info = env.step(action)
        if info["success"] and opened == 5:
            break
    assert opened == 5
    assert info["success"]


@needs_robosuite
def test_image_is_upright(rendering: RobosuiteEnv) -> None:
    """The red cube is seen where the camera's geometry says, and not at its mirror image."""
    rendering.reset(seed=2)
    sim = rendering._sim.sim
    cube = np.array([0.15, 0.1, 0.83])  # away from the middle of the image, where up and down look alike
    sim.data.set_joint_qpos("cube_joint0", [*cube, 1.0, 0.0, 0.0, 0.0])
    sim.forward()
    frame = rendering.render()
    assert frame.shape == (256, 256, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame.std() > 20

    camera = sim.model.camera_name2id("agentview")
    x, y, z = sim.data.cam_xmat[camera].reshape(3, 3).T @ (cube - sim.data.cam_xpos[camera])
    focal = 128 / np.tan(np.radians(sim.model.cam_fovy[camera]) / 2)
    row, column = 128 - focal * y / -z, 128 + focal * x / -z
    red = frame[..., 0].astype(int) - frame[..., 1:].max(axis=2) > 40
    assert red.sum() > 100
    seen = np.argwhere(red).mean(axis=0)
    assert np.abs(seen - [row, column]).max() < 6, f"red at {seen}, expected at {row, column}"
    assert min(abs(row - 128), abs(column - 128)) > 20


@needs_robosuite
def test_refusals(env: RobosuiteEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(7,\) finite"):
        env.step(np.full(7, np.nan, dtype=np.float32))
    with pytest.raises(UserError, match="made without rendering"):
        env.render()
    with pytest.raises(UserError, match=r"agentview.*got 'roof'"):
        make(RenderOptions(camera="roof"))


@needs_robosuite
def test_divergence_is_an_error_and_the_next_episode_is_clean(
    env: RobosuiteEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT into the working directory
    actions = random_actions(env, 0, 5)
    first = play(env, 1, actions)
    env._sim.sim.data.qvel[:] = 1e12
    with pytest.raises(RuntimeError, match="diverged"):
        env.step(actions[0])
    assert_same(first, play(env, 1, actions), "after a divergence")


def test_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robosuite", None)  # what import does then is what it does when it is missing
    with pytest.raises(UserError) as error:
        LIFT.make(None)
    assert "pip install 'raybc[robosuite]'" in str(error.value)


@needs_robosuite
def test_unknown_environment_names_those_that_exist() -> None:
    with pytest.raises(
        UserError, match=r"robosuite 1\.\S+ has no environment 'ToolHangs'; it has Door, Lift, .*ToolHang"
    ):
        RobosuiteEnv("ToolHangs", ("object",))


@needs_robosuite
@pytest.mark.skipif(sys.platform != "linux", reason="EGL is for Linux")
def test_missing_gl_names_the_debian_package() -> None:
    code = (
        "from raybc.envs.base import RenderOptions; from raybc.envs.robosuite import LIFT; LIFT.make(None).close()\n"
        "try: LIFT.make(RenderOptions())\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    run = python(code, MUJOCO_GL="egl", PYOPENGL_PLATFORM="egl", __EGL_VENDOR_LIBRARY_DIRS="/nonexistent")
    assert "UserError" in run.stdout
    assert "apt-get install libegl1 libgl1-mesa-dri" in run.stdout


@needs_robosuite
def test_make_is_quiet() -> None:
    run = python("from raybc.envs.robosuite import LIFT; LIFT.make(None).reset(seed=0)")
    assert run.stdout + run.stderr == ""
