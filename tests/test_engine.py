"""Many simulators in one process are as good as each alone; chunks do not depend on who is asked together.

Letters: B batch, T observation steps, O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.envs.pointmass import PointMassEnv
from raybc.inference import agent as agent_module
from raybc.inference.agent import SIZES, Agent, candidate_sizes, invariant_sizes
from raybc.inference.predictor import Resolved, stack
from raybc.policies.base import PolicySpec
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.faults import Fault
from raybc.types import EpisodeSpec, Observation, SampleSetting
from tests.helpers import pointmass_bundle, pointmass_data, tiny_trainer
from tests.test_episode import Script

SPECS = [EpisodeSpec("pointmass", "search", i) for i in range(24)]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(pointmass_bundle())


def strip(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "seconds"}


def run(engine: Engine, assignments: list[tuple[Rollout, EpisodeSpec]]) -> list[Any]:
    """Rows in the order of `assignments`, or what ended before a fault."""
    for number, (work, spec) in enumerate(assignments):
        engine.add(number, work, spec)
    rows: dict[int, Any] = {}
    while not engine.idle:
        for number, row in engine.round():
            assert number not in rows, "a number ends once"
            rows[number] = row
            if isinstance(row, Fault):
                return list(rows.values())
    return [strip(rows[n]) for n in range(len(assignments))]


# Batches


def test_a_chunk_does_not_depend_on_its_companions(agent: Agent) -> None:
    rng = np.random.default_rng(0)
    obs_BTO = rng.normal(size=(150, 1, 6)).astype(np.float32)
    noise_BHA = rng.normal(size=(150, 8, 2)).astype(np.float32)
    together = agent.chunks(Observation(obs_BTO), noise_BHA, SampleSetting(4))
    assert together.shape == (150, 8, 2)
    assert together.dtype == np.float32
    for rows in ([7], [149, 7], list(range(5)), list(range(40, 73)), list(rng.permutation(150))):
        some = agent.chunks(Observation(obs_BTO[rows]), noise_BHA[rows], SampleSetting(4))
        np.testing.assert_array_equal(some, together[rows])


@pytest.mark.parametrize("horizon", [1, 2, 3, 4, 5, 6, 9])
def test_every_size_of_chunk_can_be_asked_in_batches(horizon: int) -> None:
    """Few outputs make matrix products depend on a row's place (here 2 to 18); padding them settles it."""
    agent = Agent(tiny_trainer(horizon_length=horizon, hidden_width=64).bundle(0))
    assert len(agent._sizes) > 1, "not one by one"
    rng = np.random.default_rng(0)
    obs_BTO = rng.normal(size=(64, 1, 5)).astype(np.float32)
    noise_BHA = rng.normal(size=(64, horizon, 2)).astype(np.float32)
    together = agent.chunks(Observation(obs_BTO), noise_BHA, SampleSetting(2))
    order = rng.permutation(64)
    turned = agent.chunks(Observation(obs_BTO[order]), noise_BHA[order], SampleSetting(2))
    np.testing.assert_array_equal(turned, together[order])
    plain = agent.bundle.build()
    with torch.no_grad():
        seen = Observation(torch.tensor(agent.bundle.obs_normalizer.apply(obs_BTO))[None])
        z = plain.sample(seen, torch.tensor(noise_BHA)[None], SampleSetting(2))
    np.testing.assert_allclose(together, agent.bundle.action_normalizer.invert(z[0].numpy()), rtol=1e-4, atol=1e-5)


def test_another_number_of_threads_is_another_machine() -> None:
    """Here sizes of 6 are fine with one thread and not with two."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            agent = Agent(pointmass_bundle())
            assert agent._sizes == invariant_sizes(agent._policy, torch.device("cpu"))
    finally:
        torch.set_num_threads(before)


class Moody:
    """A policy whose rows change with the size of the batch below 8, or with their place."""

    def __init__(self, by_place: bool) -> None:
        self.spec = pointmass_bundle().spec
        self._by_place = by_place

    def sample(self, obs: Observation[torch.Tensor], noise: torch.Tensor, setting: SampleSetting) -> torch.Tensor:
        rows = obs.low_dim.shape[1]
        wrong = torch.arange(rows)[None, :, None, None] if self._by_place else float(rows < 8)
        return noise + 1e-7 * wrong


def test_sizes_that_change_a_row_are_not_used() -> None:
    cpu = torch.device("cpu")
    assert invariant_sizes(Moody(by_place=False), cpu) == tuple(s for s in SIZES if s >= 8)  # type: ignore[arg-type]
    assert invariant_sizes(Moody(by_place=True), cpu) == (1,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "largest"),
    [
        ({}, 64),
        ({"top": (96, 96, 3)}, 64),
        ({"top": (128, 128, 3)}, 64),
        ({"top": (128, 128, 3), "wrist": (84, 84, 3)}, 32),
        ({"top": (224, 224, 3)}, 16),
        ({"top": (480, 640, 3)}, 1),
        ({"top": (480, 640, 3), "wrist": (480, 640, 3)}, 1),
    ],
)
def test_large_images_are_not_tried_in_large_batches(images: dict[str, Any], largest: int) -> None:
    """The search for sizes must not take a minute in every process."""
    spec = PolicySpec.of({"state": 4}, images, 2, 8, 1)
    assert candidate_sizes(spec, torch.device("cpu"))[-1] == largest
    assert candidate_sizes(spec, torch.device("cuda")) == SIZES, "a GPU is fast, and needs large batches"
    noted = []

    class Noting(Moody):
        def sample(self, obs: Observation[torch.Tensor], noise: torch.Tensor, setting: SampleSetting) -> torch.Tensor:
            noted.append(obs.low_dim.shape[1])
            return noise

    noting = Noting(by_place=False)
    noting.spec = spec
    assert invariant_sizes(noting, torch.device("cpu"))[-1] == largest  # type: ignore[arg-type]
    assert max(noted, default=1) == largest
    pixels = sum(height * width for height, width, _ in images.values())
    assert sum(noted) * pixels <= 13 * 64 * 128 * 128


def test_rows_are_computed_one_by_one_where_nothing_else_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "_known_sizes", {})
    monkeypatch.setattr(agent_module, "invariant_sizes", lambda policy, device: (1,))
    single = Agent(pointmass_bundle())
    asked = []
    sample = single._policy.sample

    def noted(obs: Observation[torch.Tensor], *more: Any) -> torch.Tensor:
        asked.append(obs.low_dim.shape[1])
        return sample(obs, *more)

    single._policy.sample = noted  # type: ignore[method-assign]
    single.chunks(Observation(np.zeros((3, 1, 6), np.float32)), np.zeros((3, 8, 2), np.float32), SampleSetting(2))
    assert asked == [1, 1, 1]


# Slots


@pytest.mark.parametrize("slots", [1, 3, 16, None])
@pytest.mark.parametrize("setting", [SampleSetting(4), SampleSetting(2, 3, 1.0, 0.1)], ids=str)
def test_slots_change_nothing(agent: Agent, slots: int | None, setting: SampleSetting) -> None:
    alone = [run_episode(PointMassEnv(), agent, spec, setting, 80).to_row() for spec in SPECS]
    engine = Engine(lambda path: agent, slots=slots)
    rows = run(engine, [(Rollout("b", setting), spec) for spec in SPECS])
    assert rows == [strip(row) for row in alone]
    assert len({r["outcome"] for r in rows}) > 1
    backwards = run(engine, [(Rollout("b", setting), spec) for spec in SPECS[::-1]])
    assert backwards == rows[::-1], "the same simulators again, in another order"


def test_settings_of_one_network_are_asked_together(agent: Agent) -> None:
    """How much of a chunk is executed and how warm the noise is does not concern the network."""
    settings = [SampleSetting(2), SampleSetting(2, 3), SampleSetting(2, 0, 1.0), SampleSetting(2, 0, 0.0, 0.1)]
    counting = Counting(agent)
    orders = [(Rollout("b", setting), spec) for spec in SPECS[:2] for setting in settings]
    rows = run(Engine(lambda path: counting, slots=8), orders)
    assert counting.asked[0] == 8
    for (work, spec), row in zip(orders, rows, strict=True):
        assert row == strip(run_episode(PointMassEnv(), agent, spec, work.setting, 80).to_row())


def test_works_are_mixed_and_not_mixed_up(agent: Agent) -> None:
    works = [Rollout("b", SampleSetting(s)) for s in (1, 4)]
    engine = Engine(lambda path: agent, slots=5)
    mixed = run(engine, [(work, spec) for spec in SPECS[:8] for work in works])
    for number, work in enumerate(works):
        expected = [run_episode(PointMassEnv(), agent, spec, work.setting, 80).to_row() for spec in SPECS[:8]]
        assert mixed[number::2] == [strip(row) for row in expected]


class Counting:
    """Notes how many rows each question has."""

    overlaps = False

    def __init__(self, agent: Agent) -> None:
        self._agent, self.bundle, self.asked = agent, agent.bundle, list[int]()

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        self.asked.append(len(obs.low_dim))
        return self._agent.predict(obs, noise_BHA, setting)


def test_one_question_a_chunk_for_all_slots(agent: Agent) -> None:
    counting = Counting(agent)
    rows = run(Engine(lambda path: counting, slots=6), [(Rollout("b", SampleSetting(1)), spec) for spec in SPECS])
    chunks = sum(math.ceil(row["steps"] / 8) for row in rows)
    assert sum(counting.asked) == chunks, "a policy is asked once for each chunk, not for each step"
    full = [n for n in counting.asked if n == 6]
    assert len(full) >= len(counting.asked) - max(math.ceil(r["steps"] / 8) for r in rows), "slots are filled at once"


class Later:
    """Answers in another order of time: a question is computed when its answer is fetched."""

    overlaps = True

    def __init__(self, agent: Agent) -> None:
        self._agent, self.bundle = agent, agent.bundle
        self.open, self.most = 0, 0

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Any:
        self.open += 1
        self.most = max(self.most, self.open)
        later = self

        class Prediction:
            def get(self) -> np.ndarray:
                later.open -= 1
                return later._agent.chunks(obs, noise_BHA, setting)

        return Prediction()


def test_one_half_steps_while_the_other_is_answered(agent: Agent) -> None:
    later = Later(agent)
    assignments = [(Rollout("b", SampleSetting(2)), spec) for spec in SPECS]
    rows = run(Engine(lambda path: later, slots=6), assignments)
    assert rows == run(Engine(lambda path: agent), assignments)
    assert later.most >= 2
    assert later.open == 0


def test_an_exception_is_a_row_and_names_its_episode(agent: Agent) -> None:
    def load(path: str) -> Agent:
        raise FileNotFoundError(path)

    rows = run(Engine(load), [(Rollout("gone", SampleSetting()), SPECS[0])])
    assert rows == [Fault("FileNotFoundError", "FileNotFoundError: gone")]


# Observation history


def test_the_first_observation_stands_in_for_those_before_it() -> None:
    seen = [{"a": np.array([i], np.float32), "b": np.array([10 * i, 0], np.float32)} for i in range(4)]
    np.testing.assert_array_equal(stack(seen[:1], ("a", "b"), 3), [[0, 0, 0]] * 3)
    np.testing.assert_array_equal(stack(seen[:2], ("b", "a"), 3), [[0, 0, 0], [0, 0, 0], [10, 0, 1]])
    np.testing.assert_array_equal(stack(seen, ("a", "b"), 2), [[2, 20, 0], [3, 30, 0]])


def test_an_episode_shows_the_last_observations() -> None:
    """With chunks of which 2 steps are executed, history holds every step, not every question."""
    states: list[np.ndarray] = []

    class Recorder(PointMassEnv):
        def _obs(self) -> dict[str, np.ndarray]:
            obs = super()._obs()
            states.append(np.concatenate([obs["state"], obs["goal"]]))
            return obs

    script = Script([[0.3, -0.1]], horizon=4, obs_steps=3)
    run_episode(Recorder(), script, SPECS[0], SampleSetting(1, 2), 8)
    expected = [[0, 0, 0], [0, 1, 2], [2, 3, 4], [4, 5, 6]]
    np.testing.assert_array_equal(script.seen, [[states[i] for i in row] for row in expected])


def test_a_policy_with_history_acts_as_it_was_trained(tmp_path: Path) -> None:
    """What windows of the data show a policy and what a rollout shows it are the same numbers in the same order."""
    trainer = tiny_trainer(data=pointmass_data(), obs_steps=3, horizon_length=4)
    windows, store = trainer.windows, pointmass_data().store
    first = int(store.episode_starts[1])
    batch = windows.gather(torch.tensor([[first, first + 1, first + 5]]))
    normalised = trainer.prepared.obs_normalizer.apply(store.observation(("state", "goal")))
    for row, (start, back) in enumerate([(first, [0, 0, 0]), (first, [0, 0, 1]), (first, [3, 4, 5])]):
        np.testing.assert_array_equal(batch.obs.low_dim[0, row], [normalised[start + b] for b in back])
    trainer.bundle(0).save(tmp_path / "bundle")
    bundle = PolicyBundle.load(tmp_path / "bundle")
    assert bundle.spec.obs_size == 18
    seen = [{k: store.obs[k][first + i] for k in ("state", "goal")} for i in range(6)]
    obs_TO = stack(seen, ("state", "goal"), 3)
    chunk = Agent(bundle).chunks(Observation(obs_TO[None]), np.zeros((1, 4, 2), np.float32), SampleSetting(2))[0]
    with torch.no_grad():
        last = Observation(batch.obs.low_dim[:, 2:])
        z = trainer.policy.sample(last, torch.zeros(1, 1, 4, 2), SampleSetting(2))[0, 0].numpy()
    np.testing.assert_allclose(chunk, trainer.prepared.action_normalizer.invert(z), rtol=1e-5, atol=1e-6)


# Temporal ensembling


class Counter(Script):
    """The n-th chunk says n everywhere (divided by 100, so that nothing is clipped)."""

    def chunk(self, obs: Any, noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
        super().chunk(obs, noise_HA, flow_steps)
        return np.full((self.bundle.spec.horizon, 2), len(self.noises) / 100, np.float32)


@pytest.mark.parametrize(("m", "between"), [(0.0, 1), (0.01, 1), (1.0, 1), (0.5, 2)])
def test_temporal_ensembling_is_a_weighted_mean_of_what_was_said(m: float, between: int) -> None:
    """ACT: w_i = exp(-m i), i = 0 the oldest chunk that still speaks of this step; horizon 4."""
    played: list[float] = []

    class Recorder(PointMassEnv):
        def step(self, action: np.ndarray) -> Any:
            played.append(float(action[0]))
            return super().step(np.zeros(2, np.float32))

    setting = SampleSetting(1, 0 if between == 1 else between, 0.0, m)
    run_episode(Recorder(), Counter([[0, 0]], horizon=4), SPECS[0], setting, 12)
    for step, action in enumerate(played):
        said = [n for n in range(1, step // between + 2) if 0 <= step - (n - 1) * between < 4]
        weights = np.exp(-m * np.arange(len(said)))
        assert action == pytest.approx(float(weights @ np.array(said) / weights.sum()) / 100, rel=1e-5)


def test_no_ensembling_plays_the_newest_chunk() -> None:
    assert SampleSetting().steps_between(8) == 8
    assert SampleSetting(execute_steps=3).steps_between(8) == 3
    assert SampleSetting(temporal_ensemble=0.01).steps_between(8) == 1
    assert SampleSetting(execute_steps=2, temporal_ensemble=0.0).steps_between(8) == 2
