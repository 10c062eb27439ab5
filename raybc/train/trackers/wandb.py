"""Weights & Biases. Needs the package wandb."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raybc.config import RunConfig
from raybc.extras import require_extra
from raybc.files import write_text
from raybc.train.trackers.base import FILES, Row, Tracker
from raybc.types import UserError

Mode = Literal["off", "offline", "online"]


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

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int) -> Tracker | None:
        return None if self.mode == "off" else WandbTracker(self, folder, config, run_id, step)


class WandbTracker(Tracker):
    """A run of Weights & Biases. Rows up to `step` were copied before."""

    def __init__(self, plan: WandbConfig, folder: Path, config: RunConfig, run_id: str, step: int) -> None:
        import wandb

        super().__init__(folder, dict.fromkeys(FILES, step))
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
                config=config.to_plain(),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {plan.mode}: {error}; use --wandb offline") from None
        self._run.define_metric("*", step_metric="step")
        where = self._run.url if plan.mode == "online" else f"wandb sync {Path(self._run.dir).parent}"
        write_text(folder / "wandb_url.txt", f"{where}\n")

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
