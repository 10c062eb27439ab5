"""robosuite's tasks with cameras: what they show, and that nothing else changes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from raybc.envs.base import RenderOptions
from raybc.envs.robosuite import LIFT
from raybc.envs.robosuite_images import LIFT_PIXELS, TOOL_HANG_PIXELS, TRANSPORT_PIXELS, CameraEnv
from raybc.registry import get_task, parse_env_name
from raybc.types import UserError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("robosuite") is None, reason="robosuite is missing: pip install 'raybc[robosuite]'"
)
IMAGES = ("agentview_image", "robot0_eye_in_hand_image")


@pytest.fixture(scope="module")
def env() -> Iterator[CameraEnv]:
    try:
        env = LIFT_PIXELS.make(None)
    except UserError as error:
        if "GL" not in str(error):
            raise
        pytest.skip(str(error))
    assert isinstance(env, CameraEnv)
    yield env
    env.close()


def test_the_episode_is_that_of_the_task_without_images(env: CameraEnv) -> None:
    plain = LIFT.make(None)
    rng = np.random.default_rng(0)
    pairs = [(env.reset(seed=3)[0], plain.reset(seed=3)[0])]
    for _ in range(4):
        action = rng.uniform(-1, 1, 7).astype(np.float32)
        seen, other = env.step(action), plain.step(action)
        assert seen[1:] == other[1:]
        pairs.append((seen[0], other[0]))
    for seen_obs, other_obs in pairs:
        assert set(seen_obs) == {*other_obs, *IMAGES}
        for key, value in other_obs.items():
            np.testing.assert_array_equal(seen_obs[key], value)
        for key in IMAGES:
            assert env.observation_space[key].contains(seen_obs[key])
    assert not np.array_equal(pairs[0][0][IMAGES[0]], pairs[-1][0][IMAGES[0]]), "it shows what has moved"
    again = env.reset(seed=3)[0]
    for key in IMAGES:
        np.testing.assert_array_equal(again[key], pairs[0][0][key])
    plain.close()


def test_images_are_upright_and_show_the_cube(env: CameraEnv) -> None:
    """The table is below the wall, and the red cube on the table; the hand's camera looks down on it."""
    image = env.reset(seed=3)[0]["agentview_image"].astype(int)
    assert image[60:].mean() > image[:8].mean() + 20, "a bright table below a dark wall"
    for key in IMAGES:
        image = env.reset(seed=3)[0][key].astype(int)
        red = (image[..., 0] > 120) & (image[..., 1] < 90)
        assert 10 < red.sum() < 500
    state = env.sim_state()
    np.testing.assert_array_equal(env.start_at(state)[IMAGES[0]], env.observe_at(state)[0][IMAGES[0]])


def test_rendering_beside_it_changes_nothing(env: CameraEnv) -> None:
    filmed = LIFT_PIXELS.make(RenderOptions(96, 64, "frontview"))
    obs = filmed.reset(seed=5)[0]
    assert filmed.render().shape == (64, 96, 3)
    seen = env.reset(seed=5)[0]
    for key in IMAGES:
        np.testing.assert_array_equal(obs[key], seen[key])
    filmed.close()


def test_names_and_identity(env: CameraEnv) -> None:
    for data in ("ph", "mh", "scripted"):
        name = parse_env_name(f"lift-{data}-image")
        assert (name.task.partition("@")[0], name.data) == ("lift_pixels", data)
    assert get_task("lift_pixels").obs_keys == ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", *IMAGES)
    assert env.identity()["images"].startswith("agentview,robot0_eye_in_hand 84x84 ")
    kwargs = env.env_args()["env_kwargs"]
    assert (kwargs["camera_names"], kwargs["camera_heights"]) == (["agentview", "robot0_eye_in_hand"], 84)
    assert len(TRANSPORT_PIXELS.images) == 4
    assert TOOL_HANG_PIXELS.images[0] == "sideview_image"


def test_unknown_cameras_are_refused() -> None:
    with pytest.raises(UserError, match=r"camera of Lift: expected one of .*agentview.*; got 'top'"):
        CameraEnv("Lift", ("object",), eyes=("top",))
