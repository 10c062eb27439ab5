"""Scores from policies of raybc itself: disagreement of an ensemble, its error, and influence by leaving out.

Policies are small perceptrons that predict the next action by regression; the members of an ensemble are the seeds of
one packed training. Letters: N transitions, E episodes, M members, A action dim.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.scores import Column
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.types import Observation, SampleSetting, UserError

#: Name -> what the column means.
COLUMNS = {
    "disagreement": Column("lower", "standard deviation of the actions of policies trained on other episodes, mean"),
    "error": Column(
        "lower", "distance of the action from the mean of policies trained on other episodes, root mean square"
    ),
}
INFLUENCE = {
    "influence": Column("higher", "how much the loss on held-out episodes rises when this one is left out"),
}
#: Rows that are predicted at a time.
ROWS = 4096
#: Steps that are timed to say what leaving out costs.
TIMED = 20


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: networks this small are faster so, and results do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def can_train(store: EpisodeStore) -> bool:
    """Whether there are at least two episodes, and observations of numbers."""
    return store.num_episodes > 1 and any(name not in store.images for name in store.obs)


def _config(store: EpisodeStore, steps: int) -> RunConfig:
    return RunConfig.of(
        env_name="none", dataset=str(store.source), policy="regression", training_steps=steps, batch_size=256, lr=1e-3,
        lr_schedule="cosine", hidden_width=128, hidden_depth=2, device="cpu",
    )  # fmt: skip


def _trainer(
    store: EpisodeStore, train: np.ndarray, valid: np.ndarray, members: int, steps: int, seed: int
) -> PackTrainer:
    """A pack on the episodes `train`, with `valid` held out; nothing is copied."""
    keys = tuple(name for name in sorted(store.obs) if name not in store.images)
    splits = {"train": train} | ({"valid": valid} if len(valid) else {})
    part = dataclasses.replace(
        store, obs={name: store.obs[name] for name in keys}, splits=splits, files=(), checked=True
    )
    seeds = range(seed * 1000, seed * 1000 + members)
    return PackTrainer(with_seeds(_config(store, steps), seeds), TrainingData(part, "", keys, {}), torch.device("cpu"))


def _predicted(trainer: PackTrainer, store: EpisodeStore, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions of all members (M, n, A) and recorded ones (n, A), normalised."""
    prepared, keys = trainer.prepared, trainer.data.obs_keys
    seen = torch.from_numpy(prepared.obs_normalizer.apply(store.observation(keys, rows)))
    members = len(trainer.members)
    wide = Observation(seen[None, :, None].expand(members, -1, -1, -1))
    actions = prepared.action_normalizer.apply(store.actions_NA[rows])
    noise = torch.zeros(members, len(rows), 1, actions.shape[1])
    with torch.no_grad():
        predicted = trainer.policy.sample(wide, noise, SampleSetting())
    return predicted[:, :, 0].numpy().astype(np.float64), actions.astype(np.float64)


def disagreement(
    store: EpisodeStore, members: int, steps: int, seed: int = 0, on_half: Callable[[int], None] = lambda _: None
) -> tuple[np.ndarray, np.ndarray]:
    """Train an ensemble on each half of the episodes, and compare it with the other half.

    Args:
        store: the data.
        members: M of each ensemble, at least 2.
        steps: gradient steps.
        seed: of the halves and the ensembles.
        on_half: called with the number of finished halves.

    Returns:
        Of each step, float64 (N,): the standard deviation of the members' actions, and the distance of their mean from
        the recorded action; both root mean squares over action dimensions, which are normalised.
    """
    apart_N, error_N = np.zeros(len(store.actions_NA)), np.zeros(len(store.actions_NA))
    order = np.random.default_rng([seed, 3]).permutation(store.num_episodes)
    halves = np.sort(order[::2]), np.sort(order[1::2])
    nobody = np.zeros(0, np.int64)
    with one_thread():
        for number, (train, others) in enumerate((halves, halves[::-1]), start=1):
            trainer = _trainer(store, train, nobody, members, steps, seed)
            trainer.advance(steps)
            rows = np.concatenate([np.arange(store.episode_starts[e], store.episode_ends[e]) for e in others])
            for first in range(0, len(rows), ROWS):
                part = rows[first : first + ROWS]
                predicted, actions = _predicted(trainer, store, part)
                apart_N[part] = np.sqrt((predicted.std(axis=0) ** 2).mean(axis=1))
                error_N[part] = np.sqrt(((predicted.mean(axis=0) - actions) ** 2).mean(axis=1))
            on_half(number)
    return apart_N, error_N


def episode_means(disagreement_N: np.ndarray, error_N: np.ndarray, store: EpisodeStore) -> dict[str, np.ndarray]:
    """Column of `COLUMNS` -> float64 (E,): the mean disagreement, and the root mean square of the error."""
    lengths_E = store.episode_ends - store.episode_starts
    squares_E = np.add.reduceat(error_N**2, store.episode_starts)
    return {
        "disagreement": np.add.reduceat(disagreement_N, store.episode_starts) / lengths_E,
        "error": np.sqrt(squares_E / lengths_E),
    }


def influence_cost(store: EpisodeStore, members: int, steps: int, seed: int = 0) -> float:
    """Seconds that `influence` will take, from a few timed steps."""
    with one_thread():
        trainer = _trainer(store, np.arange(store.num_episodes), np.zeros(0, np.int64), members, steps, seed)
        trainer.advance(2)
        started = time.perf_counter()
        trainer.advance(2 + min(TIMED, steps))
    return (time.perf_counter() - started) / min(TIMED, steps) * steps * (store.num_episodes + 2)


def influence(
    store: EpisodeStore, members: int, steps: int, seed: int = 0, on_training: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """How much the loss on held-out episodes rises when an episode is left out, float64 (E,): above 0 where it helps.

    A fifth of the episodes is held out; these are left out themselves in trainings that hold another fifth out. Takes
    E + 2 trainings of `members` seeds, over which differences are averaged. Raises `UserError` for fewer than 10
    episodes.
    """
    if store.num_episodes < 10:
        raise UserError(
            f"--influence: expected at least 10 episodes, of which a fifth is held out, got {store.num_episodes}"
        )
    fifth_E = np.random.default_rng([seed, 4]).permutation(store.num_episodes) % 5
    found_E, done = np.zeros(store.num_episodes), 0

    def loss(without: int, held: np.ndarray) -> np.ndarray:
        nonlocal done
        train = np.setdiff1d(np.arange(store.num_episodes), [*held.tolist(), without])
        trainer = _trainer(store, train, held, members, steps, seed)
        trainer.advance(steps)
        done += 1
        on_training(done)
        return np.array(trainer.validate())

    with one_thread():
        for part in (0, 1):
            held = np.flatnonzero(fifth_E == part)
            judged = np.flatnonzero(fifth_E != 0) if part == 0 else np.flatnonzero(fifth_E == 0)
            whole = loss(-1, held)
            for episode in judged.tolist():
                found_E[episode] = float((loss(episode, held) - whole).mean())
    return found_E
