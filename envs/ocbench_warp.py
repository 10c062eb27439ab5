"""OCBench's tasks as its users run them on a GPU: `ocbench-block-single-task1-v0` is the package's
`block-single-task1-v0`, many worlds of which MuJoCo Warp steps at once.

The same tasks on the CPU are `raybc.envs.ocbench`'s (`-cpu-` in the name): the same observations and actions, another
solver, other scores. Demonstrations and images come from there. MuJoCo Warp also simulates on the CPU, slowly, where
there is no GPU; which of the two it was is a part of the identity of a score.

Its simulators live in an environment of their own (`raybc env build ocbench_warp`).

Independence. The package's reset of some worlds moves the others by a rounding error, and keeps the solver's last
solution in those that it resets; and the order in which MuJoCo Warp adds up numbers depends on the number of worlds.
`WarpBatch` undoes this, so on a CPU an episode is the same, bit for bit, whatever runs in the others. On a GPU, threads
add up in no fixed order: a repeated episode may differ by rounding errors, which contacts amplify.

Letters: N worlds, A action dim.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from raybc.env.environment import Environment
from raybc.envs.base import EnvName, RenderOptions, SimEnv, Task, require
from raybc.envs.batched import BatchedEnv, Worlds
from raybc.envs.border import BadEnvironment
from raybc.envs.convert import fit
from raybc.envs.gl import choose_gl, no_context
from raybc.envs.ocbench import CAMERAS, IN_MODEL, PREFIX, ROBOT_STATE
from raybc.envs.ocbench import TASKS as ON_CPU
from raybc.envs.world import world_of
from raybc.types import UserError

ENVIRONMENT = Environment.of_lock(
    "ocbench_warp",
    Path(__file__).with_name("ocbench_warp.lock.txt"),
    megabytes=1800,
    example="ocbench-block-lite-single-task1-v0",
)
#: Worlds of a process with a GPU, as many as the package makes by default, and of one without.
GPU_WORLDS, CPU_WORLDS = 1024, 4
#: By the package's name. The tasks and their step limits are those on the CPU.
TASKS = {name.replace("-cpu-", "-", 1): kind for name, kind in ON_CPU.items()}
EXAMPLES = tuple(PREFIX + name for name in TASKS)
#: What a step of MuJoCo Warp depends on, beside constants: arrays with a row for each world.
STATE = (
    *("time", "qpos", "qvel", "act", "ctrl", "qacc_warmstart", "mocap_pos", "mocap_quat", "eq_active"),
    *("qfrc_applied", "xfrc_applied"),
    *("cvel", "cdof_dot"),  # of the step before, by which constraints are corrected
)
PACKAGES = ("ocbench", "mujoco", "mujoco-warp", "warp-lang")


def parse(name: str) -> EnvName | None:
    """A task's name; None for names of other suites."""
    return EnvName(name, name) if name in EXAMPLES else None


def task(name: str) -> Task | None:
    """The task of this name; None for names of other suites."""
    if name not in EXAMPLES:
        return None
    of = name.removeprefix(PREFIX)
    kind, on_cpu = TASKS[of], _on_cpu(of)
    return Task(
        name=name,
        suite="ocbench_warp",
        make=functools.partial(_make, of),
        make_batch=functools.partial(WarpBatch, of),
        max_steps=kind.max_steps,
        obs_keys=("state",),
        fps=kind.fps,
        slots=CPU_WORLDS,
        gpu_slots=GPU_WORLDS,
        has_success=kind.family != "bowling",
        reward_range=(0.0, 1.0),
        see=functools.partial(_refuse_images, name),
        camera=CAMERAS[0],
        robot_state=ROBOT_STATE,
        environment=ENVIRONMENT,
        notes=(
            f"{name} has no scripted expert; demonstrations of {on_cpu} have the same observations and actions. Its "
            "physics is that of MuJoCo Warp, whose scores are not those of the CPU's MuJoCo",
        ),
    )


def _on_cpu(of: str) -> str:
    """The same task in the simulation on the CPU."""
    family, _, rest = of.partition("-")
    return f"{PREFIX}{family}-cpu-{rest}"


def _refuse_images(name: str, cameras: Sequence[str], size: tuple[int, int] | None) -> Task:
    raise UserError(
        f"{name}: there are no images of the simulation with MuJoCo Warp; observe those of the same task on the CPU, "
        f"whose scores are others: {_on_cpu(name.removeprefix(PREFIX))}@image"
    )


def _make(of: str, render: RenderOptions | None) -> SimEnv:
    return world_of(WarpBatch(of, 1, render))


class WarpBatch(BatchedEnv):
    """Worlds of a task of OCBench, simulated by MuJoCo Warp. Observations, actions, rewards and ends of episodes are
    those of `raybc.envs.ocbench.OCBenchEnv`.

    of: OCBench's name. worlds: how many. render: size and camera of the images of `render`.
    """

    def __init__(self, of: str, worlds: int, render: RenderOptions | None = None) -> None:
        choose_gl()  # before MuJoCo is imported
        self._of, self.worlds, self._render = of, worlds, render
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*DISPLAY")  # the package also imports MuJoCo's viewer
            warnings.filterwarnings("ignore", message=".*precision lowered")
            warnings.filterwarnings("ignore", message=".*CCD pairs without multicontact")
            self._warp = require("warp", "ocbench_warp")
            self._warp.config.log_level = self._warp.LOG_WARNING
            self._warp.config.enable_backward = False  # gradients, which take most of the time of compilation
            self._mujoco_warp = require("mujoco_warp", "ocbench_warp")
            ocbench = require("ocbench", "ocbench_warp")
            self.on_gpu = _has_gpu(self._warp)
            if not self.on_gpu:
                _add_in_one_order()
            family, _, arguments, _ = ocbench.parse_env_spec(of)
            size = {} if render is None else {"width": render.width, "height": render.height}
            self._env = importlib.import_module("ocbench.mjwarp").make_env(
                family, arguments | size | {"use_cuda_graph": self.on_gpu}, worlds
            )
            self._env._ensure_mjwarp()
            self._env._ensure_reset_model(seed=0)  # makes the model and its data
            # The package limits the solver to 6 iterations; that it often reaches them would be printed at each step.
            self._env.model.opt.warn_overflow &= ~self._mujoco_warp.OverflowType.ITERATIONS
            self._env.reset(seeds=np.zeros(worlds, np.uint32))
        self._cpu = self._env.cpu_env  # has the model, and renders
        self._cpu._max_episode_steps = float("inf")  # of bowling
        self._mujoco_warp.reset_data(self._env.model, self._env.data)
        self._fresh = {name: rows[0] for name, rows in self._state().items()}
        box = self._env.single_observation_space
        self.observation_space = gymnasium.spaces.Dict(
            {"state": gymnasium.spaces.Box(-np.inf, np.inf, box.shape, np.float32)}
        )
        actions = self._env.single_action_space
        self.action_space = gymnasium.spaces.Box(
            actions.low.astype(np.float32), actions.high.astype(np.float32), dtype=np.float32
        )
        # Compiles what is compiled at first use, which would count as time of the first episodes.
        self.reset(dict.fromkeys(range(worlds), 0))
        self.step(np.zeros((worlds, *self.action_space.shape), np.float32), np.ones(worlds, bool))
        if render is not None:
            self._prepare_rendering(render)

    def _prepare_rendering(self, render: RenderOptions) -> None:
        cameras = self.cameras()
        if render.camera is not None and render.camera not in cameras:
            raise UserError(
                f"camera of {PREFIX}{self._of}: expected one of {', '.join(cameras)}; got {render.camera!r}"
            )
        # Only images depend on these. Of software rendering shadows and reflections are most of the cost.
        self._cpu.model.light_castshadow[:] = 0
        self._cpu.model.mat_reflectance[:] = 0
        try:
            self.render(0)
        except Exception as error:  # each GL library fails in its own way
            raise no_context(error) from error

    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        chosen = list(seeds)
        others_N = np.ones(self.worlds, bool)
        others_N[chosen] = False
        before = self._state()
        for name, rows in before.items():
            self._set(name, np.where(_column(others_N, rows), rows, self._fresh[name]))
        # Seeds are numbered, and the package's generators of numbers that differ by a multiple of 9176 overlap.
        hashed = [int(np.random.SeedSequence(seed).generate_state(1)[0]) for seed in seeds.values()]
        obs, info = self._env.reset_worlds(chosen, seeds=np.array(hashed, np.uint32))
        for name, rows in self._state().items():
            self._set(name, np.where(_column(others_N, rows), before[name], rows))
        nothing = np.zeros(self.worlds, bool)
        return Worlds(
            {"state": np.asarray(obs, np.float32)}, np.array(info["success"], bool), nothing + 0.0, nothing, nothing
        )

    def _state(self) -> dict[str, np.ndarray]:
        """Copies of the arrays of `STATE`."""
        return {name: getattr(self._env.data, name).numpy().copy() for name in STATE}

    def _set(self, name: str, rows: np.ndarray) -> None:
        if rows.size:
            getattr(self._env.data, name).assign(rows)

    def step(self, actions_NA: np.ndarray, acts_N: np.ndarray) -> Worlds:
        obs, reward, terminated, truncated, info = self._env.step(actions_NA)
        contacts, most = int(self._env.data.nacon.numpy()[0]), int(self._env.data.naconmax)
        if contacts > most:
            raise RuntimeError(f"{PREFIX}{self._of}: more contacts ({contacts}) than there is memory for ({most})")
        diverged = np.flatnonzero(np.asarray(info["numerical_failure"]) & acts_N)
        seconds = self._env.data.time.numpy()
        return Worlds(
            obs={"state": np.asarray(obs, np.float32)},
            success=np.array(info["success"], bool),
            reward=np.asarray(reward, np.float64),
            terminated=np.array(terminated, bool),
            truncated=np.array(truncated, bool),
            faults={
                int(world): BadEnvironment(f"the simulation of {PREFIX}{self._of} diverged at {seconds[world]:.2f} s")
                for world in diverged
            },
        )

    def sim_state(self, world: int) -> np.ndarray:
        """Time, positions, velocities and what else a step of MuJoCo Warp depends on, and the state of the task (as of
        its buttons), float64."""
        rows = [*self._state().values(), *(np.asarray(a) for a in self._env._get_task_arrays().values())]
        return np.concatenate([np.ravel(row[world]).astype(np.float64) for row in rows])

    def env_args(self) -> dict[str, Any]:
        version = importlib.metadata.version("ocbench")
        return {"env_name": PREFIX + self._of, "type": 2, "env_version": version, "env_kwargs": {}}

    def identity(self) -> dict[str, str]:
        """Versions, and what simulates it as `physics`."""
        found = {package: importlib.metadata.version(package) for package in PACKAGES}
        return found | {
            "controller": "joint deltas",
            "physics": f"MuJoCo Warp on {'a GPU' if self.on_gpu else 'the CPU'}",
        }

    def cameras(self) -> tuple[str, ...]:
        shown = {name: camera for camera, name in IN_MODEL.items()}
        names = (self._cpu.model.camera(i).name for i in range(self._cpu.model.ncam))
        return tuple(shown.get(name, name) for name in names)

    def render(self, world: int) -> np.ndarray:
        """uint8 (height, width, 3), upright: the state of the world, drawn by MuJoCo."""
        assert self._render is not None
        camera = self._render.camera
        image = self._env.render_world(world, camera=None if camera is None else IN_MODEL.get(camera, camera))
        return fit(np.asarray(image), self._render.width, self._render.height)

    def close(self) -> None:
        self._env.close()


def _add_in_one_order() -> None:
    """Let MuJoCo Warp add up the parts of a matrix of its solver in the same order whatever the number of worlds is. It
    divides them among the threads of a GPU; a CPU has one."""
    solver: Any = importlib.import_module("mujoco_warp._src.solver")
    assert hasattr(solver, "_jtdaj_groups_per_world"), "another version of MuJoCo Warp than that of the lock file"
    solver._jtdaj_groups_per_world = lambda nworld, njmax: 1


def _column(mask_N: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mask with as many axes as `rows` (N, ...)."""
    return mask_N.reshape(-1, *[1] * (rows.ndim - 1))


def _has_gpu(warp: Any) -> bool:
    """Whether MuJoCo Warp simulates on a GPU. Raises `UserError` where this process was given one that it cannot use:
    scores of the CPU would be taken for those of the GPU."""
    found = bool(warp.get_device().is_cuda)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if given and given != "-1" and not found:
        raise UserError(
            f"MuJoCo Warp: expected a GPU (CUDA_VISIBLE_DEVICES={given}), but NVIDIA's Warp finds none: check the "
            "driver (nvidia-smi), or unset CUDA_VISIBLE_DEVICES to simulate on the CPU"
        )
    return found
