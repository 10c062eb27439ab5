"""Data in which the words decide, and a fast encoder of texts.

Two instructions, the same observations, opposite actions: only a policy that reads can be right about both.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raybc.config import LanguageConfig
from raybc.data.episodes import EpisodeStore
from raybc.inference.agent import Agent
from raybc.language.base import TextEncoder
from raybc.train.loop import PackTrainer
from raybc.types import Observation, SampleSetting
from tests.helpers import tiny_data, tiny_trainer

LEFT, RIGHT = "push the cube to the left", "push the cube to the right"
#: The action on the left; on the right it is the opposite.
ACTION = np.array([0.8, -0.4], np.float32)
EPISODES, STEPS = 16, 8


def words_store(texts: Sequence[str] = (LEFT, RIGHT), episodes: int = EPISODES, **changes: Any) -> EpisodeStore:
    """Episode e has instruction e modulo their number; every second instruction has the opposite action."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((EPISODES, STEPS, 5)).astype(np.float32)
    obs = np.concatenate([seen[e // 2 % EPISODES] for e in range(episodes)])  # pairs see the same
    signs = np.repeat([1 - 2 * (e % len(texts) % 2) for e in range(episodes)], STEPS)
    fields: dict[str, Any] = {
        "obs": {"arm": obs[:, :3], "cube": obs[:, 3:]},
        "actions_NA": (signs[:, None] * ACTION).astype(np.float32),
        "rewards_N": np.zeros(episodes * STEPS, np.float32),
        "episode_ends": np.arange(1, episodes + 1) * STEPS,
        "tasks": tuple(texts[e % len(texts)] for e in range(episodes)),
        "source": Path("words.hdf5"),
    }
    return EpisodeStore(**{**fields, **changes})


def words_trainer(seeds: Sequence[int] = (0,), store: EpisodeStore | None = None, **changes: Any) -> PackTrainer:
    values = {"language": "tests.words:Letters", "normalization": "identity", **changes}
    return tiny_trainer(seeds, tiny_data(words_store() if store is None else store), **values)


def chunk(agent: Agent, *texts: str) -> np.ndarray:
    """What a policy does after the same observation with different instructions, (texts, H, A)."""
    spec = agent.bundle.spec
    rows = len(texts)
    low_dim = np.zeros((rows, spec.obs_steps, spec.low_dim_size), np.float32)
    setting = agent.bundle.config.in_effect(SampleSetting(flow_steps=4))
    noise = np.zeros((rows, spec.horizon, spec.action_size), np.float32)
    return agent.chunks(Observation(low_dim, instruction=texts), noise, setting)


class LetterEncoder(TextEncoder):
    """How often each letter occurs."""

    calls: ClassVar[list[str]] = []

    @property
    def identity(self) -> str:
        return "letters 1"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.extend(texts)
        return np.array([[text.count(c) for c in string.ascii_lowercase] for text in texts], np.float32)


@dataclass(frozen=True)
class Letters(LanguageConfig):
    """An encoder that needs no package."""

    builder: ClassVar[str] = "tests.words:build"


def build(config: LanguageConfig) -> LetterEncoder:
    return LetterEncoder()
