"""Weights & Biases: what stands in a member's train.csv and eval.csv, and its videos, as a run there.

The files are the truth and this a copy of them, so it does not matter which process trains. Needs the package wandb.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from raybc.config import RunConfig
from raybc.files import write_text
from raybc.types import UserError

Mode = Literal["off", "offline", "online"]
#: Seconds between looks at the files.
INTERVAL = 10.0


@dataclass(frozen=True)
class WandbPlan:
    """Whether and where runs are copied to. offline: into the run folder, for `wandb sync`."""

    mode: Mode = "off"
    project: str = "raybc"

    def check(self) -> None:
        """Raises `UserError` where the package is missing, or no account is known."""
        if self.mode == "off":
            return
        try:
            import wandb
        except ImportError:
            raise UserError(f"--wandb {self.mode}: needs the package wandb: pip install 'raybc[wandb]'") from None
        if self.mode == "online":
            try:
                wandb.Api()
            except wandb.errors.Error:
                raise UserError(
                    "--wandb online: no account is known here; run `wandb login`, or use --wandb offline"
                ) from None

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int) -> Mirror | None:
        return None if self.mode == "off" else Mirror(self, folder, config, run_id, step)


class Mirror:
    """The copy of one member's run folder. Rows up to `step` were copied before."""

    def __init__(self, plan: WandbPlan, folder: Path, config: RunConfig, run_id: str, step: int) -> None:
        import wandb

        self._folder = folder
        self._done = {"train.csv": step, "eval.csv": step}
        self._looked = time.monotonic()
        try:
            self._run = wandb.init(
                project=plan.project,
                group=config.run_group,
                name=folder.name,
                id=run_id,
                resume="allow",
                reinit="create_new",  # one for each member
                mode="offline" if plan.mode == "offline" else "online",
                dir=folder,
                config=asdict(config),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {plan.mode}: {error}; use --wandb offline") from None
        self._run.define_metric("*", step_metric="step")
        where = self._run.url if plan.mode == "online" else f"wandb sync {Path(self._run.dir).parent}"
        write_text(folder / "wandb_url.txt", f"{where}\n")

    def look(self, at_once: bool = False) -> None:
        """Copy the rows that are new, now and then."""
        if not at_once and time.monotonic() < self._looked + INTERVAL:
            return
        self._looked = time.monotonic()
        for name, done in self._done.items():
            for row in _rows(self._folder / name):
                step = int(row.pop("step"))
                if step > done:
                    self._run.log({"step": step, **{k: float(v) for k, v in row.items() if v}})
                    self._done[name] = step

    def videos(self, step: int, paths: Iterable[Path]) -> None:
        import wandb

        films: list[Any] = [wandb.Video(str(path), format="mp4") for path in paths]
        if films:
            self._run.log({"step": step, "eval/video": films})

    def close(self) -> None:
        self.look(at_once=True)
        self._run.finish()


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows that are whole: another process may be writing the last."""
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
