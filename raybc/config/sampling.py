"""Options of the action chunk and of how actions are drawn from a trained policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybc.config.options import Role, option


@dataclass(frozen=True)
class ChunkOptions:
    """Action chunks."""

    horizon_length: int = option(5, at_least=1, only_with=({"action_chunking": True},))
    """H, the steps of an action chunk (used with action_chunking)."""
    action_chunking: bool = False
    """Predict chunks of horizon_length steps; otherwise single actions."""
    past_actions: int = option(0, at_least=0, only_with=({"action_chunking": True},))
    """Steps of a chunk before the current one: learned and predicted, but never executed. obs_steps - 1 is the chunk of
    Diffusion Policy and LeRobot, which begins at the first observation."""
    pad_after: int = option(
        -1,
        at_least=-1,
        excluded_by=("sampling_plan_path", "the plan says which windows are drawn"),
        only_with=({"action_chunking": True},),
    )
    """Steps that the chunk of a window may reach beyond the end of its episode, where it repeats the last action; below
    horizon_length (-1: as many as needed, so every step begins a window)."""
    pad_loss: Literal["mask", "repeat"] = option("mask", only_with=({"action_chunking": True},))
    """Steps of a chunk beyond the end of its episode: left out of the loss, or the last action is their target."""

    @property
    def chunk_length(self) -> int:
        """H of the policy: horizon_length with action chunking, else 1."""
        return self.horizon_length if self.action_chunking else 1

    @property
    def ahead_length(self) -> int:
        """The steps of a chunk from the current one on, which can be executed."""
        return self.chunk_length - (self.past_actions if self.action_chunking else 0)


@dataclass(frozen=True)
class SampleOptions:
    """Sampling: needs no new training."""

    flow_steps: int = option(10, role=Role.SAMPLE, at_least=1)
    """Steps of the solver that integrates the flow, or of DDIM."""
    execute_steps: int = option(0, role=Role.SAMPLE, at_least=0, only_with=({"action_chunking": True},))
    """Steps of a chunk that are executed before the next one is sampled (0: all)."""
    eval_temperature: float = option(0.0, role=Role.SAMPLE, at_least=0)
    """Scale of the initial noise (0: deterministic)."""
    temporal_ensemble: float = option(
        -1.0, role=Role.SAMPLE, at_least=0, also=(-1,), off="off", only_with=({"action_chunking": True},)
    )
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest (-1: off)."""
    solver: Literal["euler", "midpoint", "heun", "rk4"] = option("euler", role=Role.SAMPLE)
    """Solver of the flow: 1 (euler), 2 (midpoint, heun) or 4 (rk4) evaluations of the network a step."""
    best_of_n: int = option(
        1, role=Role.SAMPLE, at_least=1, needs=("eval_temperature", "all samples would be equal; set it to 1")
    )
    """Sample as many chunks and execute the one that the critic values most (1: the cloned policy)."""
