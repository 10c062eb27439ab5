"""Q-chunking: what a transition is, values on chains where they are known, and a policy that a critic leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.transitions import Transitions
from raybc.data.windows import Padding, Windows
from raybc.train.data import TrainingData
from raybc.train.flow_q import FlowQ
from raybc.train.loop import PackTrainer, with_seeds
from raybc.types import Observation
from tests.helpers import CPU

GAMMA = 0.9
CRITIC = {"critic": "q_chunking", "critic_width": 16, "critic_depth": 2, "critic_candidates": 3}
SMALL = {
    **{"env_name": "none", "dataset": "arrays", "hidden_width": 16, "hidden_depth": 2, "batch_size": 16},
    **{"action_chunking": True, "horizon_length": 3, "flow_steps": 2, "training_steps": 100, "log_interval": 5},
}


def store_of(rewards: np.ndarray, lengths: list[int], **more: Any) -> EpisodeStore:
    """Random observations and actions with these rewards."""
    rng, n = np.random.default_rng(0), len(rewards)
    obs = {"o": rng.normal(size=(n, 3)).astype(np.float32)}
    actions = rng.normal(size=(n, 2)).astype(np.float32)
    return EpisodeStore(obs, actions, rewards.astype(np.float32), np.cumsum(lengths), **more)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """20 episodes of 8 steps."""
    return data_of(store_of(np.random.default_rng(1).random(160), [8] * 20, success_E=np.arange(20) % 2 == 0))


def data_of(store: EpisodeStore) -> TrainingData:
    return TrainingData(store, store.fingerprint(), tuple(store.obs), {})


def trainer(data: TrainingData, *seeds: int, **options: Any) -> PackTrainer:
    return PackTrainer(with_seeds(RunConfig.of(**{**SMALL, **options}), seeds or (0,)), data, CPU)


def trained(data: TrainingData, *seeds: int, steps: int = 10, **options: Any) -> PackTrainer:
    made = trainer(data, *seeds, **options)
    made.advance(steps)
    return made


# --- transitions ------------------------------------------------------------------------------------------------------


def windows(lengths: list[int], rewards: list[float], terminals: list[bool], **options: Any) -> Windows:
    """Windows of chunks of 3 steps; the observation of transition n is n."""
    n, ends = len(rewards), np.cumsum(lengths)
    found = Transitions.build(np.array(rewards), np.array(terminals), ends, GAMMA, CPU)
    arrays = np.arange(n, dtype=np.float32)[:, None], np.zeros((n, 1), np.float32)
    return Windows.build(*arrays, ends, np.arange(len(ends)), 3, CPU, transitions=found, **options)


def at(made: Windows, *rows: int) -> Any:
    batch = made.gather(torch.tensor([rows]))
    assert batch.transition is not None
    return batch.transition


def test_the_target_of_a_chunk_is_its_discounted_rewards_and_what_follows() -> None:
    made = windows([6], [1, 2, 3, 4, 5, 6], [False] * 5 + [True])
    first, second = 1 + 0.9 * 2 + 0.81 * 3, 3 + 0.9 * 4 + 0.81 * 5
    found = at(made, 0, 2)
    torch.testing.assert_close(found.reward_MB, torch.tensor([[first, second]]))
    assert found.next_obs.low_dim[0, :, 0, 0].tolist() == [3, 5]
    assert found.mask_MB.tolist() == [[1, 1]]
    assert found.valid_MB.tolist() == [[1, 1]]


def test_nothing_follows_a_terminal_and_a_time_limit_is_none() -> None:
    made = windows([4, 4], [1] * 8, [False] * 3 + [True] + [False] * 4)
    found = at(made, 0, 1, 4, 5)
    assert found.mask_MB.tolist() == [[1, 0, 1, 1]], "only the chunk of steps 1 to 3 ends in a terminal"
    assert found.valid_MB.tolist() == [[1, 1, 1, 0]], "what follows step 7 was not recorded"


def test_a_known_last_observation_makes_the_end_of_an_episode_valid() -> None:
    """As a further row of the observations: what an online episode has."""
    made = windows([4], [1] * 4, [False] * 4)
    assert made.transitions is not None
    made.transitions.next_N[3] = 4
    object.__setattr__(made, "obs_NO", torch.arange(5.0)[:, None])
    found = at(made, 1)
    assert (found.valid_MB.item(), found.mask_MB.item(), found.next_obs.low_dim.item()) == (1, 1, 4)


def test_a_chunk_beyond_the_end_is_not_valid() -> None:
    made = windows([4], [1, 2, 3, 4], [False] * 3 + [True])
    found = at(made, 1, 2, 3)
    assert found.valid_MB.tolist() == [[1, 0, 0]]
    torch.testing.assert_close(found.reward_MB[0, 1:], torch.tensor([3 + 0.9 * 4, 4])), "no reward of padded steps"
    over = windows([4], [1, 2, 3, 4], [False, True, False, False])
    assert at(over, 0, 1).valid_MB.tolist() == [[0, 0]], "nor is one that continues after a terminal"


def test_earlier_observations_and_past_actions() -> None:
    made = windows([6], [1, 2, 3, 4, 5, 6], [False] * 6, obs_steps=3, padding=Padding(past=1))
    found = at(made, 0, 1)
    assert found.next_obs.low_dim[0, :, :, 0].tolist() == [[0, 1, 2], [1, 2, 3]], "two steps are ahead"
    torch.testing.assert_close(found.reward_MB, torch.tensor([[1 + 0.9 * 2, 2 + 0.9 * 3]]))


def test_rewards_of_success(data: TrainingData) -> None:
    made = trainer(data, sparse=True, **CRITIC).windows.transitions
    assert made is not None
    assert made.rewards_N.reshape(20, 8)[:2].tolist() == [[-1] * 7 + [0], [-1] * 8]
    assert made.terminals_N.reshape(20, 8)[:2, -1].tolist() == [True, False]


# --- chains -----------------------------------------------------------------------------------------------------------


def chain(rewards: np.ndarray, episodes: int, length: int, actions: np.ndarray, **more: Any) -> EpisodeStore:
    """Observations are the number of the state, one-hot, which counts up and begins again; actions: (N,)."""
    states = np.tile(np.arange(length) % len(rewards), episodes)
    ends = np.arange(length, episodes * length + 1, length)
    obs, earned = {"state": np.eye(len(rewards), dtype=np.float32)[states]}, rewards[states] + actions
    return EpisodeStore(obs, actions[:, None].astype(np.float32), earned.astype(np.float32), ends, **more)


CHAIN = {
    **{"normalization": "identity", "tau": 0.2, "lr": 3e-3, "lr_schedule": "cosine", "batch_size": 64},
    **{"critic": "q_chunking", "critic_width": 32, "critic_depth": 2},
}


def values_of(made: PackTrainer, *chunk: float) -> np.ndarray:
    """The mean value of a chunk of single numbers in every state of a chain, (states,)."""
    count, critic = int(made.prepared.obs_sizes["state"]), made.policy.critic
    assert critic is not None
    actions = torch.tensor(chunk).expand(1, count, -1)[..., None]
    with torch.no_grad():
        return critic.values(Observation(torch.eye(count)[None, :, None]), actions).mean((0, 1)).numpy()


def test_values_of_a_chain_to_a_goal() -> None:
    """-1 a step until the goal. Chunks of 2 steps from even states meet the end exactly."""
    length, steps = 8, 250
    store = chain(np.zeros(length), 20, length, np.zeros(20 * length), success_E=np.ones(20, bool))
    options = {**CHAIN, "gamma": GAMMA, "horizon_length": 2, "critic_candidates": 2, "sparse": True}
    made = trained(data_of(store), steps=steps, training_steps=steps, **options)
    truth = [-sum(GAMMA**i for i in range(length - 1 - s)) for s in range(0, length, 2)]
    np.testing.assert_allclose(values_of(made, 0.0, 0.0)[::2], truth, rtol=0.01)


def test_the_best_of_several_chunks_is_what_follows() -> None:
    """A ring of 4 states without an end, where the reward is that of the state plus the action: the data have actions
    of -1 and 1 at random, and the best chunk is always 1."""
    rewards, gamma, steps = np.array([0.0, 1.0, 2.0, 1.0]), 0.5, 350
    store = chain(rewards, 20, 25, np.random.default_rng(3).choice([-1.0, 1.0], 500))
    options = {**CHAIN, "gamma": gamma, "action_chunking": False, "critic_candidates": 16, "flow_steps": 4}
    made = trained(data_of(store), steps=steps, training_steps=steps, **options)
    truth = np.array([sum(gamma**i * (rewards[(s + i) % 4] + 1) for i in range(50)) for s in range(4)])
    np.testing.assert_allclose(values_of(made, 1.0), truth, rtol=0.01)
    np.testing.assert_allclose(values_of(made, -1.0), truth - 2, rtol=0.01)


# --- the policy beside it, packs, resuming ----------------------------------------------------------------------------


def test_the_policy_is_the_one_without_a_critic(data: TrainingData) -> None:
    """To the bit, with what could join the two: clipping, decay, averages, augmented draws and schedules."""
    options = {"grad_clip": 0.5, "weight_decay": 1e-3, "ema_decay": 0.9, "lr_schedule": "cosine", "accumulate": 2}
    cloned, both = (trained(data, 0, 1, **options, **more).state().tensors for more in ({}, CRITIC))
    for name, tensor in cloned.items():
        assert torch.equal(tensor, both[name]), name
    assert any("critic_target." in name for name in both)


def test_members_are_trained_as_alone(data: TrainingData) -> None:
    pack = trained(data, 4, 5, grad_clip=1.0, **CRITIC).state().tensors
    alone = trained(data, 5, grad_clip=1.0, **CRITIC).state().tensors
    for name, tensor in alone.items():
        found = pack[name] if name.endswith("/step") else pack[name][1:]
        torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_it_resumes_to_the_bit(data: TrainingData, tmp_path: Path) -> None:
    options = {**CRITIC, "ema_decay": 0.9}
    whole = trained(data, 2, steps=12, **options)
    trained(data, 2, steps=5, **options).save_state(tmp_path / "state.safetensors")
    parts = trainer(data, 2, **options)
    parts.load_state(tmp_path / "state.safetensors")
    parts.advance(12)
    was, now = whole.state().tensors, parts.state().tensors
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        assert torch.equal(tensor, now[name]), name


def test_the_target_network_follows_and_metrics_are_logged(data: TrainingData) -> None:
    made = trainer(data, **CRITIC)
    learner = made.learner
    assert isinstance(learner, FlowQ)
    before = {name: value.clone() for name, value in learner.target.named_parameters()}
    rows: list[Any] = []
    made.advance(1, rows.append)
    for name, value in learner.target.named_parameters():
        now = dict(learner.critic.named_parameters())[name]
        torch.testing.assert_close(value, before[name] + 0.005 * (now - before[name]))
    assert list(rows[0].metrics) == ["bc_flow_loss", "critic_loss", "q_mean", "target_mean"]
    assert rows[0].losses == rows[0].metrics["bc_flow_loss"], "the loss is the policy's"


def test_validation_and_files_in_turn(data: TrainingData) -> None:
    """Held-out windows have a loss of the policy alone; a rotation through files changes rewards with the file."""
    store = store_of(np.random.default_rng(1).random(160), [8] * 20, files=(10, 20))
    made = trained(data_of(store), steps=4, holdout_seed=0, dataset_replace_interval=2, **CRITIC)
    plain = trained(data_of(store), steps=4, holdout_seed=0, dataset_replace_interval=2)
    assert made.validate() == plain.validate()
    found = made.windows.transitions
    assert found is not None
    np.testing.assert_array_equal(found.rewards_N, store.rewards_N[:80])


def test_weights_of_a_bundle_hold_the_critic(data: TrainingData, tmp_path: Path) -> None:
    from raybc.bundle import PolicyBundle

    made = trained(data, **CRITIC)
    made.bundle(0).save(tmp_path / "policy")
    policy = PolicyBundle.load(tmp_path / "policy").build()
    assert policy.critic is not None
    low, high = (getattr(policy.critic, f"action_{end}_MA")[0] for end in ("low", "high"))
    actions = made.windows.actions_NA
    torch.testing.assert_close(low, actions.min(0).values)
    torch.testing.assert_close(high, actions.max(0).values)
