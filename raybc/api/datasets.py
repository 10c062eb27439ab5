"""`raybc.Dataset`: demonstrations that were read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raybc.api.curves import Panel, Series, panel
from raybc.api.figures import Backend, figure_of, frame_of
from raybc.api.show import Facts, Video
from raybc.data.episodes import EpisodeStore
from raybc.files import home
from raybc.rollout.video import encode
from raybc.types import UserError

#: Dimensions of actions and observations that are drawn, at most.
MOST_LINES = 8
#: Frames of a second in a film of recorded images, where the data do not say it.
FPS = 20


class Dataset:
    """Demonstrations in physical units: a sequence of episodes.

    >>> import raybc
    >>> found = raybc.read(demos)
    >>> len(found)
    6
    >>> episode = found[0]
    >>> episode["actions"].shape, episode["obs"]["state"].shape
    ((12, 2), (12, 2))
    """

    def __init__(self, path: Path, store: EpisodeStore, name: str = "") -> None:
        """
        Args:
            path: where the data are; `raybc.fit(data=...)` reads them there.
            store: what was read.
            name: what the data are called, for people (default: the path).
        """
        self.path, self.store, self.name = path, store, name or str(path)

    def __len__(self) -> int:
        """The number of episodes."""
        return self.store.num_episodes

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Episode `i` (T steps): `obs`, name -> float32 (T, size), or uint8 (T, height, width, channels) for images;
        `actions` float32 (T, A); `rewards` float32 (T,); and where they are known `instruction` and `success`. Raises
        `IndexError` beyond the last."""
        store = self.store
        place = i + len(self) if i < 0 else i
        if not 0 <= place < len(self):
            raise IndexError(f"episode {i}: expected 0..{len(self) - 1}")
        rows = slice(int(store.episode_starts[place]), int(store.episode_ends[place]))
        found: dict[str, Any] = {
            "obs": {name: array[rows] for name, array in store.obs.items()},
            "actions": store.actions_NA[rows],
            "rewards": store.rewards_N[rows],
        }
        if store.tasks:
            found["instruction"] = store.tasks[place]
        if store.success_E is not None:
            found["success"] = bool(store.success_E[place])
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each episode: `episode`, `steps`, `return`, `split`, and where they are known `success` and
        `instruction`."""
        store = self.store
        split = {int(e): name for name, episodes in store.splits.items() for e in episodes}
        starts = store.episode_starts
        returns = np.add.reduceat(store.rewards_N.astype(np.float64), starts)
        found = []
        for e, (start, end) in enumerate(zip(starts.tolist(), store.episode_ends.tolist(), strict=True)):
            row: dict[str, Any] = {"episode": e, "steps": end - start, "return": float(returns[e])}
            row |= {"split": split.get(e, "")} if split else {}
            row |= {"success": bool(store.success_E[e])} if store.success_E is not None else {}
            found.append(row | ({"instruction": store.tasks[e]} if store.tasks else {}))
        return found

    def frame(self) -> Any:
        """`rows` as a `pandas.DataFrame`. Raises `UserError` where pandas is not installed."""
        return frame_of(self.rows(), "Dataset")

    def plot(self, episode: int = 0, backend: Backend = "plotly") -> Any:
        """Actions and observations of an episode over its steps: a figure of plotly or Matplotlib."""
        return figure_of(self._panels(episode), backend, self.name)

    def video(self, episode: int = 0, key: str = "", fps: float = 0) -> Video:
        """The images of an episode as a film, which is kept in raybc's cache.

        Args:
            episode: its number.
            key: the observation (default: the first that is an image).
            fps: frames of a second (0: as many as there were steps).

        Raises `UserError` for data without images, which `raybc.read(data, images=True)` reads where there are any.
        """
        images = self.store.images
        if not images:
            raise UserError(f"{self.name}: video: expected images, got none; raybc.read(data, images=True) reads them")
        if key and key not in images:
            raise UserError(f"{self.name}: video: key: expected one of {', '.join(images)}, got {key!r}")
        name = key or images[0]
        frames = np.asarray(self[episode]["obs"][name])
        fps = fps or self.store.frequency or FPS
        mark = hashlib.sha256(f"{self.path.resolve()} {len(self.store.actions_NA)} {name} {fps}".encode()).hexdigest()
        path = home() / "films" / mark[:16] / f"episode_{episode % len(self)}.mp4"
        if not path.is_file():
            height, width = (size - size % 2 for size in frames.shape[1:3])  # H.264 halves both
            encode(path, fps, np.broadcast_to(frames[:, :height, :width], (len(frames), height, width, 3)))
        return Video(path, f"episode {episode}: {name}, {len(frames)} steps")

    def _panels(self, episode: int) -> list[Panel]:
        found = self[episode]
        arrays = {"actions": found["actions"], **{k: v for k, v in found["obs"].items() if v.ndim == 2}}
        steps = list(range(len(found["actions"])))
        panels: list[Panel] = []
        for name, values in arrays.items():
            shown = range(min(MOST_LINES, values.shape[1]))
            lines = [Series(f"{name}[{d}]", steps, values[:, d].tolist()) for d in shown]
            panels += panel(f"{name}, episode {episode}", "step", *lines)
        return panels

    # --- shown --------------------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        store = self.store
        steps = store.episode_ends - store.episode_starts
        solved = "" if store.success_E is None else f", {int(store.success_E.sum())} successful"
        splits = ", ".join(f"{name} {len(episodes)}" for name, episodes in store.splits.items())
        facts = [
            ("data", self.name),
            ("episodes", f"{len(self)}{solved}"),
            ("steps", f"{len(store.actions_NA)} ({steps.min()} to {steps.max()} in an episode)"),
            *([] if store.frequency is None else [("frequency", f"{store.frequency:g} Hz")]),
            *([("splits", splits)] if splits else []),
            *([("instructions", f"{len(set(store.tasks))}, e.g. {store.tasks[0]!r}")] if store.tasks else []),
            *(("note", text) for text in store.remarks()),
        ]
        rows = tuple((name, str(array.dtype), str(tuple(array.shape[1:]))) for name, array in store.arrays().items())
        return Facts("Demonstrations", tuple(facts), ("array", "type", "shape of a step"), rows)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        facts = self._facts()
        return "\n".join([facts.text(), *(f"  {name}: {dtype} {shape}" for name, dtype, shape in facts.rows)])

    def _repr_html_(self) -> str:
        return self._facts().html(self._panels(0))
