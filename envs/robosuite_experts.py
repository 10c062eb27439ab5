"""Scripted experts for robosuite's tasks with one Panda (OSC_POSE, 20 Hz): Lift, PickPlaceCan, NutAssemblySquare.

Each uses only the observations and goes through phases; whenever it has lost the object it starts again. `rng` draws a
style once per episode (gain, speed, approach, where exactly to grasp, where to drop, how long to close) and
temporally correlated action noise; `noise` scales how far all of these stray. Actions are those to be executed and
recorded, noise included.

Geometry. The hand's frame (`robot0_eef_quat`) has z out of the palm; with the hand straight down and unturned its x
is the world's x. Fingers open along its y. Object observations of Can and Square are [relative position (3), relative
quaternion (4), position (3), quaternion (4)]; the relative ones are a control step old and are not used.
"""

from __future__ import annotations

import itertools

import numpy as np

from raybc.envs.base import Expert, Obs, SimEnv

#: Hand turns (rad, from its start) that the wrist reaches in every place of the table.
MAX_YAW = 1.9


def rotation(quat: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of an xyzw quaternion (4,)."""
    x, y, z, w = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def wrap(angle: float, period: float = 2 * np.pi) -> float:
    """The same angle within half a period of zero."""
    return float((angle + period / 2) % period - period / 2)


def yaw_of(matrix: np.ndarray) -> float:
    """Direction (rad) of the x axis of a rotation matrix (3, 3), seen from above."""
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


class ArmExpert:
    """What the experts share: a style, phases, and the action that moves the hand towards a target."""

    OPEN, CLOSE = -1.0, 1.0
    POSITION_SCALE, ROTATION_SCALE = 0.05, 0.5  # metres and radians of one action unit (OSC_POSE)

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        self._rng = rng
        self._spread = noise
        self._gain = self._stray(1.8, 0.6)  # actions per metre of error, in units of POSITION_SCALE
        self._speed = self._stray(0.75, 0.25)  # largest translation, in action units
        self._noise_scale = noise * rng.uniform(0.02, 0.15)  # action units
        self._noise = np.zeros(6)
        self._enter("above")

    def _stray(self, centre: float, spread: float) -> float:
        return centre + self._spread * self._rng.uniform(-spread, spread)

    def _enter(self, phase: str) -> None:
        self._phase, self._steps = phase, 0

    def _action(self, error: np.ndarray, hand: np.ndarray, yaw: float, grip: float) -> np.ndarray:
        """Moves by `error` (3,) m, turns by `yaw` rad about the vertical, keeps the hand (3, 3) straight down."""
        move = self._gain * error / self.POSITION_SCALE
        move *= min(1.0, self._speed / max(float(np.linalg.norm(move)), 1e-9))
        tilt = np.cross(hand[:, 2], [0.0, 0.0, -1.0])  # rotation that turns the hand straight down
        turn = np.array([tilt[0], tilt[1], yaw]) / self.ROTATION_SCALE
        self._noise = 0.8 * self._noise + 0.6 * self._noise_scale * self._rng.standard_normal(6)
        action = np.append(np.concatenate([move, turn]) + self._noise, grip)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def opening(obs: Obs) -> float:
    """Distance of the fingers (m)."""
    return float(obs["robot0_gripper_qpos"][0] - obs["robot0_gripper_qpos"][1])


class LiftExpert(ArmExpert):
    """Picks up the cube: above, descend, close, lift; starts again whenever the cube is lost."""

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        super().__init__(rng, noise)
        # metres from the cube's centre
        self._hover = np.append(noise * rng.normal(0.0, 0.006, 2), self._stray(0.065, 0.025))
        self._grasp = np.append(noise * rng.normal(0.0, 0.002, 2), self._stray(-0.002, 0.006))
        self._close_steps = int(rng.integers(4, 7))
        self._lift_from = np.zeros(3)

    def act(self, obs: Obs) -> np.ndarray:
        eef = obs["robot0_eef_pos"].astype(np.float64)
        cube = obs["object"][:3].astype(np.float64)
        hand = rotation(obs["robot0_eef_quat"].astype(np.float64))
        # Fingers open along an axis of the hand, and a cube looks the same every quarter turn: of the angle between
        # any horizontal axis of the hand and any of the cube, what is left after whole quarter turns counts.
        axes = rotation(obs["object"][3:7].astype(np.float64))
        cube_axis = axes[:, np.argmin(np.abs(axes[2]))]  # a dropped cube may lie on another face
        yaw = wrap(np.arctan2(cube_axis[1], cube_axis[0]) - yaw_of(hand), np.pi / 2)

        self._advance(obs, eef, cube, abs(yaw))
        if self._phase == "above":
            target = cube + self._hover
        elif self._phase == "lift":
            target = self._lift_from + np.array([0.0, 0.0, 0.12])
            yaw = 0.0  # the cube turns with the hand: chasing it would twist both
        else:
            target = cube + self._grasp
        return self._action(target - eef, hand, yaw, self.CLOSE if self._phase in ("close", "lift") else self.OPEN)

    def _advance(self, obs: Obs, eef: np.ndarray, cube: np.ndarray, yaw: float) -> None:
        """Enter the next phase when this one is done, the first one when it failed."""
        self._steps += 1
        above, grasp = cube + self._hover - eef, cube + self._grasp - eef
        if self._phase == "above":
            if np.hypot(above[0], above[1]) < 0.015 and abs(above[2]) < 0.03 and yaw < 0.2:
                self._enter("descend")
        elif self._phase == "descend":
            if np.hypot(grasp[0], grasp[1]) > 0.03:
                self._enter("above")
            elif np.linalg.norm(grasp) < 0.012 or self._steps > 20:
                self._enter("close")
        elif self._phase == "close":
            if self._steps > self._close_steps:
                self._lift_from = eef
                self._enter("lift" if opening(obs) > 0.03 else "above")  # a cube is 4 cm wide
        elif np.linalg.norm(cube - eef) > 0.03 or self._steps > 40:
            self._enter("above")


class PlaceExpert(ArmExpert):
    """Brings an object somewhere: above, descend, close, lift, carry, lower, release, retreat.

    While the object is held it is the object, not the hand, that is steered to the goal.
    """

    HELD = ("close", "lift", "carry", "lower")
    #: Mean and spread, m: of the hand over the point to grasp; of the object over the ground while it is carried.
    GRASP_HEIGHT = (0.0, 0.0)
    TRAVEL_HEIGHT = (1.0, 0.0)
    MIN_OPENING = 0.01  # m, less when the fingers have met with nothing between them
    ALIGNED = 0.02  # m, horizontal error of the object at which it is lowered
    ALIGNED_YAW = 0.3  # rad
    LOWERED = 0.9  # m, height of the object at which it is let go

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        super().__init__(rng, noise)
        self._hover = np.append(noise * rng.normal(0.0, 0.006, 2), self._stray(0.11, 0.03))  # from the point to grasp
        self._grasp = np.append(noise * rng.normal(0.0, 0.002, 2), self._stray(*self.GRASP_HEIGHT))
        self._close_steps = int(rng.integers(8, 12))
        self._travel = self._stray(*self.TRAVEL_HEIGHT)
        self._retreat_from = np.zeros(3)
        self._drift = np.zeros(3)

    def _grasp_point(self, position: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Where to grasp (3,)."""
        raise NotImplementedError

    def _grasp_yaw(self, position: np.ndarray, axes: np.ndarray, hand: float) -> float:
        """How the hand must be turned (rad) to grasp."""
        raise NotImplementedError

    def _goal(self) -> np.ndarray:
        """Where the object belongs: (3,)."""
        raise NotImplementedError

    def _goal_turn(self, axes: np.ndarray) -> float:
        """How far the object must still be turned (rad)."""
        raise NotImplementedError

    def act(self, obs: Obs) -> np.ndarray:
        eef = obs["robot0_eef_pos"].astype(np.float64)
        hand = rotation(obs["robot0_eef_quat"].astype(np.float64))
        position = obs["object"][7:10].astype(np.float64)
        axes = rotation(obs["object"][10:14].astype(np.float64))
        point = self._grasp_point(position, axes)
        yaw = self._grasp_yaw(position, axes, yaw_of(hand)) - yaw_of(hand)
        goal = self._goal() - position
        turn = self._goal_turn(axes)
        self._advance(obs, eef, position, point, yaw, goal, turn)
        if self._phase == "above":
            error = point + self._hover - eef
            if np.hypot(error[0], error[1]) > 0.06 and eef[2] < self._travel:
                error[2] = max(error[2], 0.05)  # first up, lest the fingers sweep the object away
        elif self._phase in ("descend", "close"):
            error = point + self._grasp - eef
        elif self._phase == "lift":
            error, yaw = np.array([0.0, 0.0, self._travel + 0.03 - position[2]]), 0.0
        elif self._phase == "carry":
            error, yaw = np.array([goal[0], goal[1], self._travel - position[2]]), turn
        elif self._phase == "lower":
            # The last millimetres need an integral: against friction a small error moves nothing.
            self._drift[:2] = np.clip(self._drift[:2] + 0.15 * goal[:2], -0.02, 0.02)
            error, yaw = goal + self._drift, turn
            error[2] = max(error[2], -0.03)
        elif self._phase == "release":
            error, yaw = np.zeros(3), 0.0
        else:
            error, yaw = self._retreat_from + np.array([0.0, 0.0, 0.12]) - eef, 0.0
        return self._action(error, hand, yaw, self.CLOSE if self._phase in self.HELD else self.OPEN)

    def _advance(
        self,
        obs: Obs,
        eef: np.ndarray,
        position: np.ndarray,
        point: np.ndarray,
        yaw: float,
        goal: np.ndarray,
        turn: float,
    ) -> None:
        """Enter the next phase when this one is done, the first one when it failed."""
        self._steps += 1
        above, grasp = point + self._hover - eef, point + self._grasp - eef
        if self._phase == "above":
            if np.hypot(above[0], above[1]) < 0.015 and abs(above[2]) < 0.04 and abs(yaw) < 0.15:
                self._enter("descend")
        elif self._phase == "descend":
            if np.hypot(grasp[0], grasp[1]) > 0.03:
                self._enter("above")
            elif np.linalg.norm(grasp) < 0.012 or self._steps > 25:
                self._enter("close")
        elif self._phase == "close":
            if self._steps > self._close_steps:
                self._enter("lift" if opening(obs) > self.MIN_OPENING else "above")
        elif self._phase in ("lift", "carry", "lower"):
            if np.linalg.norm(point - eef) > 0.04 or opening(obs) < self.MIN_OPENING or self._steps > 120:
                self._enter("above")
            elif self._phase == "lift" and position[2] > self._travel - 0.02:
                self._enter("carry")
            elif self._phase == "carry" and np.hypot(goal[0], goal[1]) < self.ALIGNED and abs(turn) < self.ALIGNED_YAW:
                self._drift[:] = 0.0
                self._enter("lower")
            elif self._phase == "lower" and position[2] < self.LOWERED:
                self._enter("release")
            elif self._phase == "lower" and self._steps > 40:
                self._enter("lift")  # it rests on an edge
        elif self._phase == "release":
            if self._steps > 4:
                self._retreat_from = eef
                self._enter("retreat")
        elif self._steps > 20:
            self._enter("above")


class CanExpert(PlaceExpert):
    """Puts the can into its compartment of the other bin; a can that has fallen over is grasped across its axis."""

    GRASP_HEIGHT = (0.01, 0.012)
    TRAVEL_HEIGHT = (1.03, 0.04)
    MIN_OPENING = 0.03  # a can is 5 cm thick
    ALIGNED = 0.03
    LOWERED = 0.9
    TARGET = np.array([0.1975, 0.4025, 0.86])  # the can standing in the middle of its compartment

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        super().__init__(rng, noise)
        self._yaw = self._stray(0.0, 0.4)
        self._place = self.TARGET + noise * np.array([rng.uniform(-0.04, 0.04), rng.uniform(-0.05, 0.05), 0.0])

    def _grasp_point(self, position: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return position

    def _grasp_yaw(self, position: np.ndarray, axes: np.ndarray, hand: float) -> float:
        if abs(axes[2, 2]) > 0.7:
            return self._yaw
        return wrap(yaw_of(axes[:, [2, 0, 1]]), np.pi)  # the hand's x along the can, its fingers on both sides

    def _goal(self) -> np.ndarray:
        return self._place

    def _goal_turn(self, axes: np.ndarray) -> float:
        return 0.0


class SquareExpert(PlaceExpert):
    """Puts the square nut over the square peg, held by its handle."""

    GRASP_HEIGHT = (0.002, 0.002)
    TRAVEL_HEIGHT = (1.0, 0.02)
    MIN_OPENING = 0.02  # the handle is 3.2 cm thick
    ALIGNED = 0.006  # the hole is 6 mm larger than the peg on either side
    ALIGNED_YAW = 0.1
    LOWERED = 0.845
    PEG = np.array([0.23, 0.1, 0.83])
    HANDLE = 0.054  # m from the middle of the nut, along its x

    def __init__(self, rng: np.random.Generator, noise: float = 1.0) -> None:
        super().__init__(rng, noise)
        self._along = noise * rng.uniform(-0.008, 0.008)  # where along the handle
        self._final = 0.0  # how the nut shall lie on the peg (rad)
        self._hand_yaw = 0.0  # offset of the hand from the nut: 0 or pi

    def _enter(self, phase: str) -> None:
        super()._enter(phase)
        if phase == "above":
            self._planned = False

    def _grasp_point(self, position: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return position + (self.HANDLE + self._along) * axes[:, 0]

    def _grasp_yaw(self, position: np.ndarray, axes: np.ndarray, hand: float) -> float:
        nut = yaw_of(axes)
        if not self._planned:
            self._plan(nut, hand)
        return wrap(nut + self._hand_yaw)

    def _plan(self, nut: float, hand: float) -> None:
        """Chooses which way round to grasp, and which of the four ways to put the nut over the peg.

        The wrist must stay within its limits from grasp to peg, turn little, and the handle should not point away
        from the robot, where the arm would be at full stretch.
        """
        best = np.inf
        for flip, final in itertools.product((0.0, np.pi), (0.0, np.pi / 2, np.pi, -np.pi / 2)):
            grasp = wrap(nut + flip)
            end = grasp + wrap(final - nut)
            if max(abs(grasp), abs(end)) > MAX_YAW:
                continue
            cost = abs(grasp - hand) + abs(end - grasp) + (2.0 if final == 0.0 else 0.0)
            if cost < best:
                best, self._hand_yaw, self._final = cost, flip, final
        self._planned = True

    def _goal(self) -> np.ndarray:
        return self.PEG

    def _goal_turn(self, axes: np.ndarray) -> float:
        return wrap(self._final - yaw_of(axes))


def lift_expert(env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
    return LiftExpert(rng, noise)


def can_expert(env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
    return CanExpert(rng, noise)


def square_expert(env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
    return SquareExpert(rng, noise)
