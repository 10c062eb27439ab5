"""Tasks seen by cameras: names with @, images of every suite, and what a policy sees beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.config import DemosConfig
from raybc.demos.__main__ import main as demos
from raybc.demos.spec import DemosSpec
from raybc.envs.base import RenderOptions
from raybc.envs.seen import SeenEnv
from raybc.envs.variant import Variant, limited, seen_by, split, with_limit
from raybc.registry import get_task, parse_env_name
from raybc.seeing import CameraFlags
from raybc.types import UserError

NAMES = {
    "lift": ("lift", Variant()),
    "lift@500": ("lift", Variant(limit=500)),
    "lift@image": ("lift", Variant(image=True)),
    "lift@64x96": ("lift", Variant(size=(64, 96))),
    "lift@500,64x96,cameras=front+wrist": ("lift", Variant(500, False, (64, 96), ("front", "wrist"))),
    "gym:ALE/Pong-v5@image": ("gym:ALE/Pong-v5", Variant(image=True)),
    "dataset:a@b.hdf5": ("dataset:a@b.hdf5", Variant()),
    "module:make@home": ("module:make@home", Variant()),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_have_one_reading(name: str) -> None:
    base, variant = split(name)
    assert (base, variant) == NAMES[name]
    assert variant.applied_to(base) == name


def test_the_limit_is_one_part_of_a_variant() -> None:
    assert with_limit("lift@500,64x64") == ("lift@64x64", 500)
    assert with_limit("lift@64x64") == ("lift@64x64", 0)
    assert limited("lift@500,64x64", 100) == "lift@100,64x64"
    assert seen_by("lift@500,64x64", ("front",)) == "lift@500,64x64,cameras=front"
    for name in ("lift@0", "lift@0x5", "lift@9999x5", "lift@500,400", "lift@image,image"):
        with pytest.raises(UserError, match=r"after @|pixels"):
            split(name)


@pytest.mark.parametrize(
    ("env_name", "task", "data"),
    [
        ("lift-scripted-image", "lift_pixels", "scripted"),
        ("lift-scripted-image@64x64", "lift_pixels@64x64", "scripted"),
        ("lift-ph-image@200,cameras=frontview", "lift_pixels@200,cameras=frontview", "ph"),
        ("lift@image", "lift_pixels", "scripted"),
        ("pusht@image", "pusht_pixels", ""),
        ("metaworld-push-v3-scripted-image", "metaworld-push-v3@image", "scripted"),
        ("metaworld-push-v3@image", "metaworld-push-v3@image", "scripted"),
        ("gym:Pendulum-v1@image", "gym:Pendulum-v1@image", ""),
    ],
)
def test_environment_names_of_images(env_name: str, task: str, data: str) -> None:
    found = parse_env_name(env_name)
    assert (found.name, found.task, found.data) == (env_name, task, data)


def test_flags_are_part_of_the_name() -> None:
    assert CameraFlags().applied_to("lift-scripted-image") == "lift-scripted-image"
    flags = CameraFlags(("frontview",), image_height=64)
    assert flags.applied_to("lift-scripted-image@200") == "lift-scripted-image@200,64x64,cameras=frontview"
    assert CameraFlags(image_height=64, image_width=96).applied_to("a") == "a@64x96"
    with pytest.raises(UserError, match="without one, choose the images of the data"):
        flags.applied_to("none")
    with pytest.raises(UserError, match="expected at least 1, got -3"):
        CameraFlags(image_height=-3).applied_to("a")


def test_a_simulator_without_cameras_shows_what_it_renders() -> None:
    task = get_task("gym:Pendulum-v1@30x40")
    assert (task.name, task.obs_keys, task.images) == ("gym:Pendulum-v1@30x40", ("pixels",), ("pixels",))
    env = task.make(RenderOptions(32, 32))
    try:
        obs, _ = env.reset(seed=3)
        again, _ = env.reset(seed=3)
        moved = env.step(np.array([2.0], np.float32))[0]
        assert (obs["pixels"].shape, obs["pixels"].dtype) == ((30, 40, 3), np.uint8)
        assert np.array_equal(obs["pixels"], again["pixels"])
        assert not np.array_equal(obs["pixels"], moved["pixels"])
        assert obs["state"].shape == (3,)
        assert env.render().shape == (32, 32, 3)
        assert env.identity()["images"] == "30x40"
    finally:
        env.close()
    with pytest.raises(UserError, match="no named cameras, got 'front'"):
        get_task("gym:Pendulum-v1@cameras=front")


def test_images_of_mujoco_are_those_of_its_cameras() -> None:
    import mujoco

    task = get_task("gym:Reacher-v5@32x48,cameras=free")
    env = task.make(None)
    assert isinstance(env, SeenEnv)
    try:
        obs, _ = env.reset(seed=0)
        model, data = env.inner.physics  # type: ignore[attr-defined]
        with mujoco.Renderer(model, 32, 48) as renderer:
            renderer.update_scene(data)
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            wanted = np.array(renderer.render())
        assert np.array_equal(obs["free_image"], wanted)
        assert wanted.std() > 5
        assert task.obs_keys == ("free_image",)
    finally:
        env.close()
    with pytest.raises(UserError, match=r"expected one of free; got 'fre'; did you mean 'free'"):
        get_task("gym:Reacher-v5@cameras=fre")


def test_images_that_are_fixed_are_said() -> None:
    with pytest.raises(UserError, match="images of pusht_pixels: its cameras and their size are fixed"):
        get_task("pusht_pixels@64x64")
    with pytest.raises(UserError, match="images of visual-cube-single-v0: its cameras and their size are fixed"):
        get_task("visual-cube-single-v0@64x64")


def test_demonstrations_of_images(tmp_path: Path, ray_cpus: float) -> None:
    path = tmp_path / "push.hdf5"
    words = ["metaworld-reach-v3", "--obs", "image", "--image_height", "24", "--episodes", "1", "--workers", "1"]
    assert demos([*words, "--out", str(path)]) == 0
    with h5py.File(path) as file:
        demo = file["data/demo_0"]
        steps = len(demo["actions"])
        assert demo["obs/corner2_image"].shape == (steps, 24, 24, 3)
        assert demo["obs/corner2_image"].dtype == np.uint8
        assert np.array_equal(demo["obs/robot"][:], demo["obs/state"][:, :4])


def test_the_code_of_the_simulator_below_decides_the_demonstrations() -> None:
    from raybc.demos import spec
    from raybc.envs import metaworld, seen

    task = get_task("metaworld-reach-v3@24x24")
    assert {metaworld, seen} <= set(spec._modules(task))
    keys = {DemosSpec(name, DemosConfig()).key() for name in ("metaworld-reach-v3", "metaworld-reach-v3@24x24")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lift_pixels", "--obs", "low_dim"], "--obs low_dim: expected no cameras"),
        (["lift", "--obs", "low_dim", "--cameras", "agentview"], "--obs low_dim: expected no cameras"),
    ],
)
def test_states_have_no_cameras(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        demos(words)


def test_mujoco_may_be_imported_first() -> None:
    """In a notebook, say: MuJoCo then has chosen a GL library for windows."""
    code = (
        "import os\n"
        "os.environ.pop('MUJOCO_GL', None), os.environ.pop('PYOPENGL_PLATFORM', None)\n"
        "import mujoco\n"
        "from raybc.registry import get_task\n"
        "env = get_task('gym:Reacher-v5@16x16').make(None)\n"
        "print(env.reset(seed=0)[0]['free_image'].shape)\n"
        "env.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(16, 16, 3)", done.stderr
