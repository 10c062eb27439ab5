"""Weights & Biases. Needs the package wandb."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.extras import require_extra
from raybc.files import read_json, write_json, write_text
from raybc.strict import digest
from raybc.train.choices import Mode
from raybc.train.trackers.base import FILES, Row, Tracker
from raybc.types import UserError

#: Files in a run folder: the id of its run, and where to see it.
NOTE, URL = "wandb.json", "wandb_url.txt"


@dataclass(frozen=True)
class WandbConfig:
    """Settings of Weights & Biases."""

    mode: Mode = "off"
    """offline: copy to the run folder, for `wandb sync`."""
    project: str = "raybc"

    def check(self) -> None:
        """Raise `UserError` if the package is missing, or if no account is configured."""
        if self.mode == "off":
            return
        (wandb,) = require_extra(f"--wandb {self.mode}", "wandb", "wandb")
        if self.mode == "online":
            try:
                wandb.Api()
            except wandb.errors.Error:
                raise UserError(
                    "--wandb online: no account is known here; run `wandb login`, or use --wandb offline"
                ) from None

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int, name: str = "") -> Tracker | None:
        return None if self.mode == "off" else WandbTracker(self, folder, config, run_id, step, name)


def wandb_id(folder: Path, config: RunConfig, run_id: str) -> str:
    """The id of a run of Weights & Biases, kept in the run folder.

    The same recipe, seed and data in two run groups are two runs, so the id has the group in it. Runs that an earlier
    release began are known by their run_id alone.
    """
    note = folder / NOTE
    if note.is_file():
        return str(read_json(note)["id"])
    old = (folder / URL).is_file() or config.run_group == RunConfig.run_group
    found = run_id if old else f"{run_id}-{digest(config.run_group)[:8]}"
    write_json(note, {"id": found})
    return found


class WandbTracker(Tracker):
    """A run of Weights & Biases. Rows up to `step` were copied before."""

    def __init__(self, plan: WandbConfig, folder: Path, config: RunConfig, run_id: str, step: int, name: str) -> None:
        import wandb

        super().__init__(folder, dict.fromkeys(FILES, step))
        try:
            self._run = wandb.init(
                project=plan.project,
                group=config.run_group,
                name=name or folder.name,
                id=wandb_id(folder, config, run_id),
                resume="allow",
                reinit="create_new",  # one for each member
                mode="offline" if plan.mode == "offline" else "online",
                dir=folder,
                config=config.to_plain(),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {plan.mode}: {error}; use --wandb offline") from None
        self._run.define_metric("*", step_metric="step")
        where = self._run.url if plan.mode == "online" else f"wandb sync {Path(self._run.dir).parent}"
        write_text(folder / URL, f"{where}\n")

    def _copy(self, rows: list[Row]) -> bool:
        for step, values in rows:
            self._run.log({"step": step, **values})
        return True

    def videos(self, step: int, paths: Iterable[Path]) -> None:
        import wandb

        films: list[Any] = [wandb.Video(str(path), format="mp4") for path in paths]
        if films:
            self._run.log({"step": step, "eval/video": films})

    def close(self) -> None:
        self.sync(at_once=True)
        self._run.finish()
