"""Scripted experts for OGBench's cubes, puzzles and scene: the package's oracles, given one target after another.

OGBench ships the oracles with which its datasets were collected: each brings one cube to one place, or presses one
button, and decides by the present state only. Here they are led to the goal of an evaluation task: cubes one after the
other (an occupied place is cleared first), buttons in the order of the hand's way, those that solve the "lights
out" puzzle, which is linear over GF(2). `rng` draws temporally correlated action noise; `noise` scales it.

They read the simulator's state, not only the observations, as the oracles do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from raybc.envs.base import Expert, Obs, SimEnv, require
from raybc.envs.gym import GymEnv

NEAR = 0.03  # m, a cube in its place; OGBench counts 0.04
APART = 0.06  # m, centres of two cubes (4 cm) that are not in each other's way
HIGH = 0.16  # m, above which the hand is out of the way


@dataclass(frozen=True)
class MakeExpert:
    """A `Task.make_expert`."""

    kind: str
    """One of "cube", "puzzle" and "scene"."""

    def __call__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
        experts: dict[str, type[_OracleExpert]] = {"cube": CubeExpert, "puzzle": PuzzleExpert, "scene": SceneExpert}
        return experts[self.kind](env, rng, noise)


class _OracleExpert(Expert):
    """Noise, and the simulator's state."""

    def __init__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> None:
        assert isinstance(env, GymEnv)
        self._base = cast(Any, env._env.unwrapped)
        self._rng = rng
        self._scale = noise * rng.uniform(0.05, 0.25)  # action units
        self._noise = np.zeros(5)

    def act(self, obs: Obs) -> np.ndarray:
        action = np.asarray(self._choose(self._base.compute_ob_info()), np.float64)
        self._noise = 0.6 * self._noise + 0.8 * self._scale * self._rng.standard_normal(5)
        self._noise[4] = 0.0  # the gripper holds or does not: noise there drops cubes
        return np.clip(action + self._noise, -1.0, 1.0).astype(np.float32)

    def _choose(self, info: dict[str, Any]) -> np.ndarray:
        raise NotImplementedError

    def _start(self, kind: str, **settings: Any) -> Any:
        """One of OGBench's Markov oracles. Its own reset draws where to go afterwards from numpy's global generator."""
        module = require(f"ogbench.manipspace.oracles.markov.{kind}_markov", "ogbench")
        oracle = getattr(module, f"{kind.capitalize()}MarkovOracle")(env=self._base, max_step=10**9, **settings)
        oracle._done, oracle._step = False, 0
        oracle._final_pos = self._rng.uniform(*self._base._arm_sampling_bounds)
        oracle._final_yaw = self._rng.uniform(-np.pi, np.pi)
        return oracle


class CubeExpert(_OracleExpert):
    def __init__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> None:
        super().__init__(env, rng, noise)
        self._oracle = self._start("cube")
        self._moving: tuple[int, np.ndarray] | None = None

    def _choose(self, info: dict[str, Any]) -> np.ndarray:
        cubes = np.array([info[f"privileged/block_{i}_pos"] for i in range(self._base._num_cubes)])
        if self._moving is not None:
            cube, place = self._moving
            arrived = np.linalg.norm(cubes[cube] - place) <= NEAR
            if arrived and info["proprio/gripper_contact"][0] < 0.1 and info["proprio/effector_pos"][2] > HIGH:
                self._moving = None
        if self._moving is None:
            self._moving = self._next(cubes, info["proprio/effector_pos"])
        cube, place = self._moving
        target = {
            "privileged/target_block": cube,
            "privileged/target_block_pos": place,
            "privileged/target_block_yaw": np.zeros(1),
        }
        return self._oracle.select_action(None, info | target)

    def _next(self, cubes: np.ndarray, hand: np.ndarray) -> tuple[int, np.ndarray]:
        """Which cube goes where: to its own place if that is free and supported, else out of the way."""
        goals = np.array([self._base._data.mocap_pos[i] for i in self._base._cube_target_mocap_ids])
        todo = [i for i in range(len(cubes)) if np.linalg.norm(cubes[i] - goals[i]) > NEAR]
        if not todo:  # all in place, but not close enough for OGBench: move the worst one again
            worst = int(np.argmax(np.linalg.norm(cubes - goals, axis=1)))
            return worst, goals[worst]

        def others_at(place: np.ndarray, cube: int) -> list[int]:
            distances = np.linalg.norm(cubes[:, :2] - place[:2], axis=1)
            return [j for j in range(len(cubes)) if j != cube and distances[j] < APART]

        def free(i: int) -> bool:
            return all(
                cubes[j, 2] < cubes[i, 2] for j in others_at(cubes[i], i) if abs(cubes[j, 2] - cubes[i, 2]) > 0.02
            )

        def ready(i: int) -> bool:
            below = [j for j in range(len(cubes)) if j != i and np.linalg.norm(goals[j, :2] - goals[i, :2]) < 0.02]
            below = [j for j in below if goals[j, 2] < goals[i, 2] - 0.02]
            at_goal = others_at(goals[i], i)
            return not any(j in todo for j in below) and all(j in below for j in at_goal)

        movable = [i for i in todo if free(i)]
        own = [i for i in movable if ready(i)]
        if own:
            cube = min(own, key=lambda i: (round(goals[i, 2], 2), float(np.linalg.norm(cubes[i] - hand))))
            return cube, goals[cube]
        # Something stands in the way (swaps, cycles, stacks): the first cube that can, to the free place nearest to it.
        cube = movable[0] if movable else int(np.argmax(cubes[:, 2]))
        taken = np.concatenate([np.delete(cubes, cube, axis=0)[:, :2], goals[:, :2]])
        grid = np.array([[x, y] for x in np.linspace(0.33, 0.52, 5) for y in np.linspace(-0.25, 0.25, 9)])
        clear = np.linalg.norm(grid[:, None] - taken[None], axis=2).min(axis=1) > 1.5 * APART
        places = grid[clear] if clear.any() else grid
        place = places[np.argmin(np.linalg.norm(places - cubes[cube, :2], axis=1))]
        return cube, np.array([place[0], place[1], 0.02])


class PuzzleExpert(_OracleExpert):
    def __init__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> None:
        super().__init__(env, rng, noise)
        self._oracle = self._start("button", gripper_always_closed=True)
        self._pressing: tuple[int, int] | None = None  # the button, and its state when it has been pressed

    def _choose(self, info: dict[str, Any]) -> np.ndarray:
        lights = np.asarray(self._base._cur_button_states)
        hand = info["proprio/effector_pos"]
        if self._pressing is not None:
            button, state = self._pressing
            top = self._base._data.site_xpos[self._base._button_site_ids[button]]
            if lights[button] == state and hand[2] > top[2] + 0.02:
                self._pressing = None
        if self._pressing is None:
            wrong = lights != np.asarray(self._base._target_button_states)
            presses = np.flatnonzero(solve_lights_out(self._base._num_rows, self._base._num_cols, wrong))
            tops = self._base._data.site_xpos[self._base._button_site_ids]
            distances = np.linalg.norm(tops[:, :2] - hand[:2], axis=1)
            button = int(min(presses, key=lambda i: float(distances[i]))) if len(presses) else 0
            self._pressing = (button, 1 - int(lights[button]))
        button, state = self._pressing
        target = {
            "privileged/target_button": button,
            "privileged/target_button_state": state,
            "privileged/target_button_top_pos": self._base._data.site_xpos[self._base._button_site_ids[button]].copy(),
        }
        return self._oracle.select_action(None, info | target)


class SceneExpert(_OracleExpert):
    """Buttons unlock the drawer and the window (state 1: unlocked); the drawer must be open to put the cube into it."""

    DRAWER_LOCK, WINDOW_LOCK = 0, 1
    OPEN, CLOSED = -0.16, 0.0  # m, the drawer's joint

    def __init__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> None:
        super().__init__(env, rng, noise)
        self._oracles = {
            "cube": self._start("cube"),
            "button": self._start("button", gripper_always_closed=False),
            "drawer": self._start("drawer"),
            "window": self._start("window"),
        }
        self._doing: tuple[str, dict[str, Any]] | None = None
        self._steps = 0

    def _choose(self, info: dict[str, Any]) -> np.ndarray:
        self._steps += 1
        if self._doing is not None and (self._done(info, *self._doing) or self._steps > 150):
            self._doing = None
        if self._doing is None:
            self._doing, self._steps = self._next(info), 0
        kind, target = self._doing
        return self._oracles[kind].select_action(None, info | self._live(kind, target))

    def _live(self, kind: str, target: dict[str, Any]) -> dict[str, Any]:
        """`target`, with the places that move with the scene updated."""
        if kind == "button":
            site = self._base._button_site_ids[target["privileged/target_button"]]
            return target | {"privileged/target_button_top_pos": self._base._data.site_xpos[site].copy()}
        return target

    def _done(self, info: dict[str, Any], kind: str, target: dict[str, Any]) -> bool:
        """Reached, and the hand is out of the way."""
        if info["proprio/effector_pos"][2] < (0.28 if kind == "window" else 0.18):  # its handle is 23 cm high
            return False
        if kind == "button":
            button = target["privileged/target_button"]
            return bool(info[f"privileged/button_{button}_state"] == target["privileged/target_button_state"])
        if kind == "cube":
            there = np.linalg.norm(info["privileged/block_0_pos"] - target["privileged/target_block_pos"]) <= NEAR
            return bool(there and info["proprio/gripper_contact"][0] < 0.1)
        handle = info[f"privileged/{kind}_handle_pos"]
        return bool(np.linalg.norm(handle - target[f"privileged/target_{kind}_handle_pos"]) <= 0.015)

    def _next(self, info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        base = self._base
        cube = info["privileged/block_0_pos"]
        goal = base._data.mocap_pos[base._cube_target_mocap_ids[0]].copy()
        drawer, window = float(info["privileged/drawer_pos"][0]), float(info["privileged/window_pos"][0])
        if goal[2] > 0.05:  # in the drawer, which moves it to its place when it is closed
            if cube[2] < 0.05 or cube[1] > -0.15:
                return self._drawer(info, drawer, self.OPEN) or self._cube(base._drawer_center.copy())
        elif np.linalg.norm(cube - goal) > NEAR:
            return self._cube(goal)
        doing = self._drawer(info, drawer, base._target_drawer_pos)
        doing = doing or self._window(info, window, base._target_window_pos)
        if doing is not None:
            return doing
        wrong = np.flatnonzero(base._cur_button_states != base._target_button_states)
        return self._button(int(wrong[0])) if len(wrong) else self._cube(goal)

    def _button(self, button: int) -> tuple[str, dict[str, Any]]:
        state = 1 - int(self._base._cur_button_states[button])
        return "button", {"privileged/target_button": button, "privileged/target_button_state": state}

    def _cube(self, place: np.ndarray) -> tuple[str, dict[str, Any]]:
        return "cube", {
            "privileged/target_block": 0,
            "privileged/target_block_pos": place,
            "privileged/target_block_yaw": np.zeros(1),
        }

    def _drawer(self, info: dict[str, Any], now: float, wanted: float) -> tuple[str, dict[str, Any]] | None:
        if abs(now - wanted) <= 0.02:
            return None
        if not self._base._cur_button_states[self.DRAWER_LOCK]:
            return self._button(self.DRAWER_LOCK)
        place = info["privileged/drawer_handle_pos"] + (wanted - now) * self._base._data.joint("drawer_slide").xaxis
        return "drawer", {"privileged/target_drawer_handle_pos": place}

    def _window(self, info: dict[str, Any], now: float, wanted: float) -> tuple[str, dict[str, Any]] | None:
        if abs(now - wanted) <= 0.02:
            return None
        if not self._base._cur_button_states[self.WINDOW_LOCK]:
            return self._button(self.WINDOW_LOCK)
        place = info["privileged/window_handle_pos"] + (wanted - now) * self._base._data.joint("window_slide").xaxis
        return "window", {"privileged/target_window_handle_pos": place}


def solve_lights_out(rows: int, columns: int, wrong: np.ndarray) -> np.ndarray:
    """Which buttons to press once so that exactly the lights `wrong` (n,) change: bool (n,), n = rows x columns.

    A press changes a light and its neighbours. Solved by elimination over GF(2); where there is no solution, the
    contradicting equations are ignored.
    """
    n = rows * columns
    place = np.stack(np.divmod(np.arange(n), columns), axis=1)
    changes = np.abs(place[:, None] - place[None]).sum(axis=2) <= 1
    system = np.concatenate([changes, np.asarray(wrong, bool)[:, None]], axis=1)
    pivots: list[int] = []
    for column in range(n):
        row = len(pivots)
        below = np.flatnonzero(system[row:, column])
        if not len(below):
            continue
        system[[row, row + below[0]]] = system[[row + below[0], row]]
        others = np.flatnonzero(system[:, column])
        others = others[others != row]
        system[others] ^= system[row]
        pivots.append(column)
        if len(pivots) == n:
            break
    presses = np.zeros(n, bool)
    presses[pivots] = system[: len(pivots), -1]
    return presses
