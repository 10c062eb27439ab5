"""A scripted expert for LIBERO's tasks of one object and one place: "pick up X and place it in/on Y".

It runs in the simulator's environment, beside the simulator: it reads the goal of the task's file, where objects are,
and their collision shapes, from which it plans where to grasp. What fits between the fingers is grasped across; a bowl,
which does not, by its rim. Phases, style and noise are those of robosuite's experts (`raybc.envs.robosuite_experts`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from raybc.envs import libero_tasks, robosuite_experts
from raybc.envs.base import Expert, Obs, SimEnv
from raybc.envs.robosuite_experts import ArmExpert, opening, rotation, wrap, yaw_of

if TYPE_CHECKING:
    from raybc.envs.libero import LiberoEnv

#: Modules that decide what is demonstrated, too.
DEMOS_ALSO = (libero_tasks, robosuite_experts)

#: Metres. The largest width that is grasped across (the fingers open 8 cm); how far the point between the fingers goes
#: below the top of an object, and stays above its bottom; half the height of a finger's pad.
WIDEST, DEEPEST, LOWEST, PAD = 0.068, 0.022, 0.012, 0.01
#: Metres: half the size of what goes down beside an object, along the line of the fingers and across it (the open
#: fingers, and the palm over them); height of the palm over the point between the fingers; room to keep.
FINGERS, PALM = np.array([0.055, 0.012]), np.array([0.105, 0.035])
PALM_HEIGHT, ROOM = 0.05, 0.012
#: Metres over everything on the way, of what is carried and of the empty hand.
CLEARANCE = 0.03
#: Metres beside the way in which things are cleared.
CORRIDOR = 0.12
#: Turns of the hand (rad) at which a grasp is tried: half a turn, away from the limit of the last joint.
ANGLES = np.arange(-75, 105, 15) * np.pi / 180
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


def make_expert(env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
    """`Task.make_expert` of the tasks that `raybc.envs.libero_tasks.has_expert` names."""
    return PickPlaceExpert(Scene(cast("LiberoEnv", env)), rng, noise)


class Scene:
    """What the expert sees of the simulator: the object to move, its goal, and collision shapes as boxes."""

    def __init__(self, env: LiberoEnv) -> None:
        self._sim: Any = env._sim
        self._model, self._data = self._sim.sim.model._model, self._sim.sim.data._data
        goals = self._sim.parsed_problem["goal_state"]
        if len(goals) != 1 or len(goals[0]) != 3 or goals[0][0].lower() not in ("in", "on"):
            raise ValueError(f"{env.name}: expected one goal In or On, got {goals}")
        self._relation, self._object, self._target = goals[0]
        sites = self._sim.object_sites_dict
        self._is_site = self._target in sites
        self._geoms = {thing.name: self._geoms_of(thing.name) for thing in (*self._sim.objects, *self._sim.fixtures)}
        self._others = np.concatenate([geoms for name, geoms in self._geoms.items() if name != self._object])
        self._parent = sites[self._target].parent_name if self._is_site else self._target

    def _geoms_of(self, name: str) -> np.ndarray:
        """The collision shapes of a thing and of all its parts: indices."""
        model, parts = self._model, {self._sim.obj_body_id[name]}
        for body in range(model.nbody):  # parents come before their children
            if model.body_parentid[body] in parts:
                parts.add(body)
        solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        return np.flatnonzero(np.isin(model.geom_bodyid, list(parts)) & solid)

    def _boxes(self, geoms: np.ndarray) -> np.ndarray:
        """Corners (n, 8, 3) of the boxes around collision shapes."""
        local = self._model.geom_aabb[geoms][:, None, :3] + self._model.geom_aabb[geoms][:, None, 3:] * _CORNERS
        turned = np.einsum("nij,nkj->nki", self._data.geom_xmat[geoms].reshape(-1, 3, 3), local)
        found: np.ndarray = turned + self._data.geom_xpos[geoms][:, None]
        return found

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and axes (3, 3) of the object to move."""
        body = self._sim.obj_body_id[self._object]
        return self._data.xpos[body].copy(), self._data.xmat[body].reshape(3, 3).copy()

    def object_boxes(self) -> np.ndarray:
        """Corners (n, 8, 3) of the object's boxes."""
        return self._boxes(self._geoms[self._object])

    def other_boxes(self) -> np.ndarray:
        """Corners (n, 8, 3) of the boxes of all other things."""
        return self._boxes(self._others)

    def goal(self, below: float) -> np.ndarray:
        """Where the object is to be let go (3,). below: how far it reaches below its origin, m."""
        if self._is_site:
            site = self._sim.sim.model.site_name2id(self._target)
            place, size = self._data.site_xpos[site], self._model.site_size[site]
        else:
            place, size = self._data.xpos[self._sim.obj_body_id[self._target]], np.zeros(3)
        if self._relation.lower() == "in":
            return np.append(place[:2], place[2] + size[2])
        boxes = self._boxes(self._geoms[self._parent])
        over = (boxes.min(1)[:, :2] <= place[:2]).all(1) & (boxes.max(1)[:, :2] >= place[:2]).all(1)
        ground = boxes[over, :, 2].max() if over.any() else place[2]
        return np.append(place[:2], ground + below + 0.012)


def _highest(boxes: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """The top of what is beside the straight way between two points (2,), m; -inf where there is nothing."""
    way = end - start
    along = np.clip(((boxes[..., :2] - start) @ way) / max(float(way @ way), 1e-9), 0.0, 1.0)
    apart = np.linalg.norm(boxes[..., :2] - start - along[..., None] * way, axis=-1).min(1)
    near = apart < CORRIDOR
    return float(boxes[near, :, 2].max()) if near.any() else -np.inf


def plan_grasp(boxes: np.ndarray, others: np.ndarray, hand_yaw: float) -> tuple[np.ndarray, float]:
    """Where to grasp an object from above, (3,), and how the hand must be turned (rad).

    boxes, others: corners (n, 8, 3) of the object and of everything else.
    """
    top, bottom = boxes[..., 2].max(), boxes[..., 2].min()
    height = max(top - DEEPEST, bottom + LOWEST)
    slice_ = boxes[(boxes[..., 2].max(1) > height - PAD) & (boxes[..., 2].min(1) < height + PAD)].reshape(-1, 3)[:, :2]
    tops, bottoms = others[..., 2].max(1), others[..., 2].min(1)
    at_fingers = others[(tops > height - PAD) & (bottoms < height + PALM_HEIGHT)]
    at_palm = others[tops > height + PALM_HEIGHT]
    middle = (slice_.max(0) + slice_.min(0)) / 2
    best, found = np.inf, (np.append(middle, height), hand_yaw)
    across = [(angle, np.array([-np.sin(angle), np.cos(angle)])) for angle in ANGLES]
    fits = min(np.ptp(slice_ @ finger) for _, finger in across) <= WIDEST
    for angle, finger in across:
        along = np.array([np.cos(angle), np.sin(angle)])
        spread, depth = slice_ @ finger, slice_ @ along
        width = float(np.ptp(spread))
        if fits and width > WIDEST:
            continue
        centre = (spread.max() + spread.min()) / 2 * finger + (depth.max() + depth.min()) / 2 * along
        if fits:
            places = [(centre, 10.0 * width)]
        else:  # by the rim, on either side
            ends = (spread.max() - 0.004, spread.min() + 0.004)
            places = [(end * finger + (depth.max() + depth.min()) / 2 * along, 0.0) for end in ends]
        for place, cost in places:
            crowding = _crowding(at_fingers, place, finger, along, FINGERS) + _crowding(
                at_palm, place, finger, along, PALM
            )
            cost += 0.3 * abs(wrap(angle - hand_yaw)) + 60.0 * crowding
            if cost < best:
                best, found = cost, (np.append(place, height), float(angle))
    return found


def _crowding(
    boxes: np.ndarray, place: np.ndarray, finger: np.ndarray, along: np.ndarray, half_size: np.ndarray
) -> float:
    """How far (m) other things, corners (n, 8, 3), reach into the rectangle around a grasp that the hand needs."""
    if not len(boxes):
        return 0.0
    into = []
    for axis, half in zip((finger, along), half_size + ROOM, strict=True):
        offset = (boxes[..., :2] - place) @ axis
        into.append(np.minimum(half - offset.min(1), offset.max(1) + half))
    return float(np.clip(np.minimum(*into), 0.0, None).max())


class PickPlaceExpert(ArmExpert):
    """Above, descend, close, lift, carry, lower, release, retreat; starts again whenever it has lost the object.

    While the object is held it is the object, not the hand, that is steered to the goal.
    """

    HELD = ("close", "lift", "carry", "lower")
    MIN_OPENING = 0.002  # m, less when the fingers have met with nothing between them
    ALIGNED = 0.012  # m, horizontal error of the object at which it is lowered
    LOST = 0.04  # m from the point to grasp

    def __init__(self, scene: Scene, rng: np.random.Generator, noise: float = 1.0) -> None:
        self._scene = scene
        self._planned = False
        super().__init__(rng, noise)
        self._gain = self._stray(2.0, 0.5)
        self._speed = self._stray(0.8, 0.2)
        self._noise_scale = noise * rng.uniform(0.01, 0.08)
        self._hover = np.append(noise * rng.normal(0.0, 0.005, 2), self._stray(0.07, 0.02))
        self._grasp = np.append(noise * rng.normal(0.0, 0.0015, 2), self._stray(0.0, 0.003))
        self._close_steps = int(rng.integers(9, 13))
        self._clearance = self._stray(CLEARANCE + 0.015, 0.015)
        self._aim = noise * rng.uniform(-0.008, 0.008, 2)
        self._retreat_from, self._drift = np.zeros(3), np.zeros(3)

    def _enter(self, phase: str) -> None:
        super()._enter(phase)
        if phase == "above":
            self._planned = False

    def _plan(self, position: np.ndarray, axes: np.ndarray, hand: np.ndarray) -> None:
        boxes = self._scene.object_boxes()
        point, yaw = plan_grasp(boxes, self._scene.other_boxes(), yaw_of(hand))
        self._below = float(position[2] - boxes[..., 2].min())
        self._point_in = axes.T @ (point - position)
        self._along_in = axes.T @ np.array([np.cos(yaw), np.sin(yaw), 0.0])
        self._planned = True

    def act(self, obs: Obs) -> np.ndarray:
        eef = obs["robot0_eef_pos"].astype(np.float64)
        hand = rotation(obs["robot0_eef_quat"].astype(np.float64))
        position, axes = self._scene.pose()
        if not self._planned:
            self._plan(position, axes, hand)
        point = position + axes @ self._point_in
        along = axes @ self._along_in
        yaw = wrap(float(np.arctan2(along[1], along[0])) - yaw_of(hand))
        goal = self._scene.goal(self._below)
        goal[:2] += self._aim
        error = goal - position
        self._advance(obs, eef, position, point, yaw, error)
        if not self._planned:
            return self.act(obs)
        if self._phase == "above":
            move = point + self._hover - eef
            if np.hypot(move[0], move[1]) > 0.03:  # over what is between, lest the fingers sweep it away
                over = _highest(self._scene.other_boxes(), eef[:2], point[:2])
                over = max(over, float(self._scene.object_boxes()[..., 2].max()))
                move[2] = max(move[2], over + CLEARANCE + PAD - eef[2])
                if move[2] > 0.02:
                    move[:2] *= 0.2
        elif self._phase in ("descend", "close"):
            move = point + self._grasp - eef
        elif self._phase == "lift":
            move, yaw = np.array([0.0, 0.0, self._travel(position, goal) + 0.015 - position[2]]), 0.0
        elif self._phase == "carry":
            self._push(error)
            move, yaw = np.append(error[:2] + self._drift[:2], self._travel(position, goal) - position[2]), 0.0
        elif self._phase == "lower":
            self._push(error)
            move, yaw = error + self._drift - [0.0, 0.0, 0.01], 0.0
            move[2] = max(move[2], -0.03)
        elif self._phase == "release":
            move, yaw = np.zeros(3), 0.0
        else:
            move, yaw = self._retreat_from + np.array([0.0, 0.0, 0.12]) - eef, 0.0
        return self._action(move, hand, yaw, self.CLOSE if self._phase in self.HELD else self.OPEN)

    def _push(self, error: np.ndarray) -> None:
        """The last centimetres need an integral: the controller stops short where the arm is stretched."""
        if np.hypot(error[0], error[1]) < 0.04:
            self._drift[:2] = np.clip(self._drift[:2] + 0.15 * error[:2], -0.04, 0.04)

    def _travel(self, position: np.ndarray, goal: np.ndarray) -> float:
        """The height of the object at which it is over everything on its way, m."""
        over = _highest(self._scene.other_boxes(), position[:2], goal[:2])
        return max(over + self._below + self._clearance, goal[2] + 0.02)

    def _advance(
        self, obs: Obs, eef: np.ndarray, position: np.ndarray, point: np.ndarray, yaw: float, error: np.ndarray
    ) -> None:
        """Enter the next phase when this one is done, the first one when it failed."""
        self._steps += 1
        above, grasp = point + self._hover - eef, point + self._grasp - eef
        if self._phase == "above":
            if np.hypot(above[0], above[1]) < 0.012 and abs(above[2]) < 0.03 and abs(yaw) < 0.12:
                self._enter("descend")
        elif self._phase == "descend":
            if np.hypot(grasp[0], grasp[1]) > 0.03:
                self._enter("above")
            elif np.linalg.norm(grasp) < 0.008 or self._steps > 25:
                self._enter("close")
        elif self._phase == "close":
            if self._steps > self._close_steps:
                self._enter("lift" if opening(obs) > self.MIN_OPENING else "above")
        elif self._phase in ("lift", "carry", "lower"):
            if np.linalg.norm(point - eef) > self.LOST or opening(obs) < self.MIN_OPENING or self._steps > 120:
                self._enter("above")
            elif self._phase == "lift" and self._lifted(position, error):
                self._drift[:] = 0.0
                self._enter("carry")
            elif self._phase == "carry" and np.hypot(error[0], error[1]) < self.ALIGNED:
                self._enter("lower")
            elif self._phase == "lower" and (error[2] > -0.006 or self._steps > 35):
                self._enter("release")
        elif self._phase == "release":
            if self._steps > 5:
                self._retreat_from = eef
                self._enter("retreat")
        elif self._steps > 20:
            self._enter("above")

    def _lifted(self, position: np.ndarray, error: np.ndarray) -> bool:
        return bool(position[2] > self._travel(position, position + error) - 0.01)
