"""A sweep on a task without success: Hopper, compared by D4RL's score.

    python -m benchmarks.hopper_sweep data DATA.hdf5 [--seconds 150]
    raybc sweep benchmarks/hopper.yaml --set train.dataset=DATA.hdf5

`data` tunes a linear policy by augmented random search (Mania, Guy and Recht 2018, arXiv:1803.07055, V1-t with
normalised observations) and records episodes of it at several stages, with noise on the actions: a data set of mixed
quality, in D4RL's layout. Cloning all of it is worse than cloning its best episodes, so recipes differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import h5py
import numpy as np

from raybc.registry import get_task

#: Directions tried at each update, those that are used, step size, and size of the perturbations.
DIRECTIONS, USED, STEP, NOISE = 8, 4, 0.02, 0.03
#: Stages of the tuning, as shares of its time, and episodes recorded at each.
STAGES, EPISODES = (0.1, 0.4, 1.0), 20


class Linear:
    """actions = W (observation - mean) / std."""

    def __init__(self, weights_AO: np.ndarray, mean_O: np.ndarray, std_O: np.ndarray) -> None:
        self.weights_AO, self.mean_O, self.std_O = weights_AO, mean_O, std_O

    def act(self, state_O: np.ndarray) -> np.ndarray:
        return np.clip(self.weights_AO @ ((state_O - self.mean_O) / self.std_O), -1, 1).astype(np.float32)


def episode(env, policy: Linear, seed: int, noise: float = 0.0, steps: int = 1000):  # type: ignore[no-untyped-def]
    """States (T, O), actions (T, A), rewards (T,) and whether the environment ended the episode."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    states, actions, rewards, ended = [], [], [], False
    while not ended and len(rewards) < steps:
        action = policy.act(obs["state"])
        action = np.clip(action + noise * rng.standard_normal(len(action)), -1, 1).astype(np.float32)
        states.append(obs["state"])
        obs, reward, ended, _, _ = env.step(action)
        actions.append(action)
        rewards.append(reward)
    return np.array(states, np.float32), np.array(actions, np.float32), np.array(rewards, np.float32), ended


def tune(env, seconds: float) -> list[Linear]:  # type: ignore[no-untyped-def]
    """The policies at `STAGES`."""
    rng = np.random.default_rng(0)
    size, action_size = env.observation_space["state"].shape[0], env.action_space.shape[0]
    weights, seen, found = np.zeros((action_size, size)), [np.zeros((1, size))], []
    mean, std = np.zeros(size), np.ones(size)
    began, updates = time.monotonic(), 0
    while len(found) < len(STAGES):
        deltas = rng.standard_normal((DIRECTIONS, action_size, size))
        scores = np.zeros((DIRECTIONS, 2))
        for i, delta in enumerate(deltas):
            for j, sign in enumerate((1, -1)):
                policy = Linear(weights + sign * NOISE * delta, mean, std)
                states, _, rewards, _ = episode(env, policy, int(rng.integers(500_000)))
                scores[i, j] = rewards.sum() - len(rewards)  # without the reward for staying upright
                seen.append(states[::10])
        best = np.argsort(-scores.max(1))[:USED]
        spread = scores[best].std() + 1e-6
        weights = weights + STEP / (USED * spread) * np.einsum(
            "k,kij->ij", scores[best, 0] - scores[best, 1], deltas[best]
        )
        every = np.concatenate(seen[-2000:])
        mean, std = every.mean(0), every.std(0) + 1e-3
        updates += 1
        if time.monotonic() - began >= STAGES[len(found)] * seconds:
            found.append(Linear(weights.copy(), mean.copy(), std.copy()))
            total = np.mean([episode(env, found[-1], s)[2].sum() for s in range(5)])
            print(f"{time.monotonic() - began:.0f} s, {updates} updates: return {total:.0f}", flush=True)
    return found


def record(env, policies: list[Linear], out: Path) -> None:  # type: ignore[no-untyped-def]
    """Write `EPISODES` episodes of each policy in D4RL's layout."""
    parts: dict[str, list[np.ndarray]] = {
        k: [] for k in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    returns = []
    for stage, policy in enumerate(policies):
        for i in range(EPISODES):
            states, actions, rewards, ended = episode(env, policy, 1000 * stage + i, noise=0.1)
            last = np.zeros(len(rewards), bool)
            last[-1] = True
            parts["observations"].append(states)
            parts["actions"].append(actions)
            parts["rewards"].append(rewards)
            parts["terminals"].append(last if ended else ~last & last)
            parts["timeouts"].append(~last & last if ended else last)
            returns.append(rewards.sum())
    with h5py.File(out, "w") as file:
        for name, arrays in parts.items():
            file[name] = np.concatenate(arrays)
    print(f"{out}: {len(returns)} episodes, {len(np.concatenate(parts['rewards']))} transitions, returns", flush=True)
    print([round(float(np.mean(returns[i : i + EPISODES]))) for i in range(0, len(returns), EPISODES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["data"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    options = parser.parse_args()
    env = get_task("hopper").make(None)
    record(env, tune(env, options.seconds), options.out)


if __name__ == "__main__":
    main()
