"""`raybc.Run`: a training run, read from its folder."""

from __future__ import annotations

import math
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybc.api.curves import Panel, Series, panel
from raybc.api.figures import Backend, figure_of, frame_of
from raybc.api.show import Facts, Video, nth
from raybc.files import expanded
from raybc.metric import METRICS
from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import read_rows
from raybc.train.schedule import round_of
from raybc.train.stored import SavedRun, saved_in
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.api.evaluations import Evaluation
    from raybc.config import RunConfig
    from raybc.inference.policy import Policy

#: Columns of files -> names in `Run.history`.
_NAMES = {
    "train/actor_loss": "loss", "train/lr": "lr", "train/steps_per_sec": "steps_per_sec", "valid/loss": "valid_loss",
    "valid/error": "valid_error", "low": "valid_error_low", "high": "valid_error_high", "eval/success": "success",
    "wilson_low": "success_low", "wilson_high": "success_high", "eval/return": "return", "eval/length": "length",
    "eval/score": "score", "valid/score": "score",
}  # fmt: skip
#: Shown numbers of a step in the plain text.
_SHOWN = ("success", "score", "valid_error", "valid_loss", "loss")


class Run:
    """A training run with one seed or several, read from its folder, also from that of another session.

    Args:
        folder: what `raybc train` and `raybc.fit` wrote, also in earlier releases.

    Raises `UserError` where there is no training run.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder: Path = expanded(os.fspath(folder), "folder")
        self._members: list[SavedRun] = saved_in(self.folder)
        if not self._members:
            raise UserError(f"{self.folder}: expected the folder of a training run (with flags.json), found none")

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig:
        """The options, with the first seed."""
        return self._members[0].config

    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, flat."""
        from raybc.config.run import changed_options

        return dict(changed_options(self.config))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each member."""
        return tuple(member.config.seed for member in self._members)

    @property
    def step(self) -> int:
        """Gradient steps of the latest checkpoint; 0 before the first."""
        return max(self._folder(None).checkpoints(), default=0)

    @property
    def training_steps(self) -> int:
        """Gradient steps that were asked for."""
        return self.config.training_steps

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, which early stopping may bring forward."""
        final = self._folder(None).final_model
        return final.exists() and final.resolve() == self._folder(None).checkpoints().get(self.step, Path()).resolve()

    def _member(self, seed: int | None) -> SavedRun:
        found = [member for member in self._members if seed in (None, member.config.seed)]
        if not found:
            raise UserError(f"{self.folder}: seed: expected one of {list(self.seeds)}, got {seed}")
        return found[0]

    def member_folder(self, seed: int | None = None) -> Path:
        """The folder of the member with this seed (default: the first); with one seed it is `folder`."""
        return self._member(seed).folder

    def _folder(self, seed: int | None) -> TrainingFolder:
        return TrainingFolder(self._member(seed).folder)

    # --- what it learned ----------------------------------------------------------------------------------------------

    def policy(self, checkpoint: str | int = "", seed: int | None = None, **changes: Any) -> Policy:
        """The policy, see `raybc.load`.

        Args:
            checkpoint: latest (the default), best, final, or a step.
            seed: of the member (default: the first).
            changes: further arguments of `raybc.load`, such as `flow_steps=1` or `device="cuda"`.
        """
        import raybc

        return raybc.load(self.member_folder(seed), str(checkpoint), **changes)

    def evaluate(
        self, task: str = "", checkpoint: str | int = "", seed: int | None = None, **options: Any
    ) -> Evaluation:
        """Measure the policy, see `raybc.evaluate`. checkpoint, seed: as for `policy`."""
        import raybc

        return raybc.evaluate(self.member_folder(seed), task, checkpoint=str(checkpoint), **options)

    def resume(self, **changes: Any) -> Run:
        """Continue this run: where it was interrupted, or to more `training_steps`, `epochs` or `num_rounds`. Every
        option has the value of the run, and only what changes is named, see `raybc.fit`."""
        import raybc

        return raybc.fit(out=self.folder, resume=True, **changes)

    # --- how it went --------------------------------------------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """A row for each seed and step that was logged or measured: `seed`, `step`, `round`, `loss`, `lr`,
        `valid_loss`, and where it was measured `valid_error` or `success`, `score`, `return`, with the ends of their
        95 % intervals (`_low`, `_high`). What was not measured at a step is missing in its row."""
        return [row for member in self._members for row in _history(member)]

    def frame(self) -> Any:
        """`history` as a `pandas.DataFrame`. Raises `UserError` where pandas is not installed."""
        return frame_of(self.history(), "Run")

    def plot(self, backend: Backend = "plotly") -> Any:
        """Loss and score over steps, with intervals: a figure of plotly, or with "matplotlib" of Matplotlib."""
        return figure_of(self._panels(), backend, f"{self.folder}")

    def videos(self) -> list[Video]:
        """The films of the latest evaluation that was filmed."""
        folders = [TrainingFolder(member.folder).videos for member in self._members]
        found = sorted(path for folder in folders for path in folder.rglob("*.mp4") if path.stem != "grid")
        return [Video(path, path.stem.replace("_", " ")) for path in found]

    def video(self, i: int = 0) -> Video:
        """Film `i`. Raises `UserError` where no episode was filmed."""
        return nth(self.videos(), i, f"{self.folder}", "fit(video_episodes=2, ...) films the last evaluation")

    def _panels(self) -> list[Panel]:
        rows = {member.config.seed: _history(member) for member in self._members}
        many = len(rows) > 1

        def series(key: str, name: str) -> list[Series]:
            return [
                Series(f"{name} {seed}" if many else name, *_points(part, key), _intervals(part, key))
                for seed, part in rows.items()
            ]

        score, label = _compared(_latest([row for part in rows.values() for row in part]))
        losses = [*series("loss", "seed" if many else "loss"), *([] if many else series("valid_loss", "held out"))]
        return [
            *panel("loss", "step", *losses, log=True),
            *panel(label, "step", *series(score, "seed" if many else label), percent=score == "success"),
        ]

    # --- shown --------------------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        config, last = self.config, {member.config.seed: _latest(_history(member)) for member in self._members}
        where = config.dataset if not config.has_environment else config.env_name
        state = "finished" if self.finished else "not finished"
        rounds = f", round {round_of(config, self.step)} of {config.num_rounds}" if config.epochs_per_round else ""
        facts = [
            ("folder", str(self.folder)),
            ("task" if config.has_environment else "data", where),
            ("step", f"{self.step} of {self.config.total_steps}{rounds} ({state})"),
            ("policy", f"{config.policy.kind}, chunks of {config.chunk_length}"),
        ]
        rows = [(str(seed), *(_cell(found, name) for name in _SHOWN)) for seed, found in last.items()]
        used = [place for place, name in enumerate(_SHOWN, 1) if any(row[place] for row in rows)]
        labels = {"score": next((_compared(found)[1] for found in last.values()), "")}
        names = (_SHOWN[place - 1] for place in used)
        header = ("seed", *(labels.get(name) or name.replace("_", " ") for name in names))
        return Facts("Training run", tuple(facts), header, tuple((row[0], *(row[p] for p in used)) for row in rows))

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        facts = self._facts()
        pairs = [(row[0], zip(facts.header[1:], row[1:], strict=True)) for row in facts.rows]
        lines = [f"  seed {seed}: {', '.join(f'{name} {cell}' for name, cell in cells)}" for seed, cells in pairs]
        return "\n".join([facts.text(), *lines])

    def _repr_html_(self) -> str:
        films = self.videos()
        return self._facts().html(self._panels(), films[0] if films else None)


def _history(member: SavedRun) -> list[dict[str, Any]]:
    folder = TrainingFolder(member.folder)
    found: dict[int, dict[str, Any]] = {}
    for path in (folder.train_csv, folder.offline_csv, folder.eval_csv):
        for row in read_rows(path):
            step = int(row["step"])
            values = {_NAMES.get(k, k.removeprefix("train/")): _number(text) for k, text in row.items() if text}
            known = found.setdefault(step, {"seed": member.config.seed, "step": step})
            known |= {name: value for name, value in values.items() if name != "step"}
    return [found[step] for step in sorted(found)]


def _number(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and "." not in text and "e" not in text else number


def _points(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [row for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    return [row["step"] for row in known], [row[key] for row in known]


def _interval(row: dict[str, Any], key: str) -> tuple[float, float] | None:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return (low, high) if isinstance(low, int | float) and isinstance(high, int | float) else None


def _intervals(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float] | None]:
    found = [_interval(row, key) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    return found if any(pair is not None for pair in found) else []


def _latest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The latest value of every column."""
    found: dict[str, Any] = {}
    for row in rows:
        found |= row
    return found


def _compared(found: dict[str, Any]) -> tuple[str, str]:
    """The column that checkpoints are compared by, and its label; "" where nothing was measured."""
    metric = METRICS.get(str(found.get("metric")), METRICS["valid_error" if "valid_error" in found else "success"])
    if metric.name in ("success", "valid_error"):
        return (metric.name, metric.label) if metric.name in found else ("", "")
    return ("score", metric.label) if "score" in found else ("", "")


def _cell(found: dict[str, Any], name: str) -> str:
    """A number with its interval; "" where it was not measured, and for a score that has a column of its own."""
    value = found.get(name)
    if not isinstance(value, int | float) or (name == "score" and _compared(found)[0] != "score"):
        return ""
    metric = METRICS[{"success": "success", "score": str(found.get("metric"))}.get(name, "valid_error")]
    interval = _interval(found, name)
    return metric.show(value) + (f" (95 % {metric.show_range(interval)})" if interval else "")
