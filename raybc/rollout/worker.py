"""What a simulator process does: roll out policies, film them, and let the expert demonstrate. No Ray in here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.envs.base import RenderOptions, SimEnv
from raybc.registry import get_task
from raybc.types import EpisodeSpec, SampleSetting

#: Bundles a worker keeps in memory: the arms that are measured side by side.
KEEP_AGENTS = 16


@dataclass(frozen=True)
class Rollout:
    """Episodes of one policy with one sample setting. `video`: folder for mp4s (needs a rendering worker)."""

    bundle: str
    setting: SampleSetting
    video: str = ""
    video_frame_skip: int = 3


@dataclass(frozen=True)
class Demonstration:
    """Episodes of the scripted expert, each written to `folder`."""

    folder: str
    noise: float


Work = Rollout | Demonstration


class SimWorker:
    """Owns one simulator of one task; every call carries whole episodes."""

    def __init__(self, task: str, render: RenderOptions | None) -> None:
        self._task_name, self._render = task, render
        self._env: SimEnv | None = None
        self._agents: OrderedDict[str, Any] = OrderedDict()

    def warm_up(self) -> dict[str, Any]:
        """Build the simulator; returns what it is (`Probe` as a dict)."""
        from raybc.rollout.probe import probe_env

        return probe_env(self._get_env())

    def run(self, work: Work, specs: Sequence[EpisodeSpec]) -> list[dict[str, Any]]:
        """One row for each spec, in order. An exception of the simulator is a row with `exception`."""
        rows = []
        for spec in specs:
            try:
                row = self._rollout(work, spec) if isinstance(work, Rollout) else self._demonstrate(work, spec)
            except Exception as error:  # not swallowed: the harness retries the spec in a fresh process, then reports
                rows.append({"exception": f"{type(error).__name__}: {error}"})
                break  # this simulator is not to be trusted any more
            rows.append(row)
        return rows

    def _get_env(self) -> SimEnv:
        if self._env is None:
            self._env = get_task(self._task_name).make(self._render)
        return self._env

    def _agent(self, path: str) -> Any:
        import torch

        from raybc.bundle import META, PolicyBundle
        from raybc.rollout.episode import Agent

        torch.set_num_threads(1)  # one simulator a core; also: the same sums wherever an episode runs
        key = f"{path}@{(Path(path) / META).stat().st_mtime_ns}"
        if key not in self._agents:
            self._agents[key] = Agent(PolicyBundle.load(Path(path)))
            while len(self._agents) > KEEP_AGENTS:
                self._agents.popitem(last=False)
        self._agents.move_to_end(key)
        return self._agents[key]

    def _rollout(self, work: Rollout, spec: EpisodeSpec) -> dict[str, Any]:
        from raybc.rollout.episode import run_episode

        task, env, agent = get_task(self._task_name), self._get_env(), self._agent(work.bundle)
        if not work.video:
            return run_episode(env, agent, spec, work.setting, task.max_steps).to_row()
        return self._film(work, spec)

    def _film(self, work: Rollout, spec: EpisodeSpec) -> dict[str, Any]:
        from raybc.rollout.episode import run_episode
        from raybc.rollout.video import VideoWriter

        task, env = get_task(self._task_name), self._get_env()
        skip = work.video_frame_skip
        video = VideoWriter(Path(work.video), fps=task.fps / skip)

        def on_step(step: int, env: SimEnv) -> None:
            if step % skip == 0:
                video.add(np.asarray(env.render()))

        result = run_episode(env, self._agent(work.bundle), spec, work.setting, task.max_steps, on_step)
        video.add(np.asarray(env.render()))  # the last state, where the outcome shows
        name = f"{task.name}_{spec.index}_{result.outcome}.mp4"
        video.path = Path(work.video) / name
        video.close()
        return result.to_row() | {"video": name}

    def _demonstrate(self, work: Demonstration, spec: EpisodeSpec) -> dict[str, Any]:
        from raybc.demos import demonstrate

        return demonstrate(get_task(self._task_name), self._get_env(), spec, work.noise, Path(work.folder))
