"""MLflow: runs of a tracking server, or of a database in a folder. Needs mlflow-skinny."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from raybc import cli
from raybc.config import RunConfig
from raybc.extras import require_extra
from raybc.files import expanded, read_json, write_json, write_text
from raybc.train.trackers.base import FILES, Row, Tracker
from raybc.types import UserError

#: File in a run folder that names its MLflow run.
NOTE = "mlflow.json"
#: Of each of `FILES`, columns of which every row has one (earlier releases wrote no eval/score).
_OF_FILES = (("train/actor_loss",), ("eval/score", "eval/success"), ("valid/error",), ("val_norm_gt",))
#: File -> these columns.
MARKS = dict(zip(FILES, _OF_FILES, strict=True))
#: MLflow's limits for one request.
MAX_METRICS, MAX_PARAMS = 1000, 100


@dataclass(frozen=True)
class MlflowConfig:
    """Settings of MLflow."""

    where: str = ""
    """URI of a tracking server or database, or a folder; empty: off."""
    experiment: str = "raybc"
    """Name of the experiment."""

    @property
    def _in_folder(self) -> bool:
        return "://" not in self.where and self.where != "databricks"

    @property
    def _folder(self) -> Path:
        return expanded(self.where, "--mlflow")

    @property
    def uri(self) -> str:
        # MLflow no longer accepts a folder of files as a store, but it accepts a database in a folder.
        return (
            f"sqlite:///{expanded(self.where, '--mlflow').absolute() / 'mlflow.db'}" if self._in_folder else self.where
        )

    def check(self) -> None:
        if self.where:
            self._experiment(self._client())

    def _client(self) -> Any:
        if self._in_folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        mlflow = _mlflow()
        try:
            return mlflow.MlflowClient(tracking_uri=self.uri)
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"--mlflow {self.where}: {_line(error)}") from None

    def _experiment(self, client: Any) -> str:
        """The id of the experiment, which is created if it does not exist."""
        mlflow = _mlflow()
        try:
            known = client.get_experiment_by_name(self.experiment)
            if known is not None:
                return str(known.experiment_id)
            artifacts = (self._folder.absolute() / "artifacts").as_uri() if self._in_folder else None
            return str(client.create_experiment(self.experiment, artifact_location=artifacts))
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"--mlflow {self.where}: {_line(error)}") from None

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int, name: str = "") -> Tracker | None:
        if not self.where:
            return None
        client = self._client()
        note = folder / NOTE
        before = read_json(note) if note.exists() else {}
        if before.get("uri") == self.uri and before.get("experiment") == self.experiment:
            client.update_run(before["run_id"], status="RUNNING")
            return MlflowTracker(client, before["run_id"], folder, self._done(client, before["run_id"]))
        experiment = self._experiment(client)
        tags = {"raybc.run_id": run_id, "raybc.run_group": config.run_group, "raybc.env_name": config.env_name}
        run = client.create_run(experiment, run_name=name or folder.name, tags=tags).info.run_id
        _params(client, run, config.to_plain())
        write_json(note, {"uri": self.uri, "experiment": self.experiment, "run_id": run})
        ui = f"mlflow ui --backend-store-uri {self.uri}" if self._in_folder else self.uri
        write_text(folder / "mlflow_url.txt", f"{ui} (experiment {self.experiment}, run {run})\n")
        return MlflowTracker(client, run, folder, dict.fromkeys(FILES, 0))

    def _done(self, client: Any, run: str) -> dict[str, int]:
        """The last copied step of each file, read from MLflow, since a killed process may have copied more or less."""
        steps = {
            file: [m.step for mark in marks for m in client.get_metric_history(run, mark)]
            for file, marks in MARKS.items()
        }
        return {file: max(of, default=0) for file, of in steps.items()}


class MlflowTracker(Tracker):
    """A run of MLflow. If its server does not answer, training continues and rows are copied later."""

    def __init__(self, client: Any, run: str, folder: Path, done: dict[str, int]) -> None:
        super().__init__(folder, done)
        self._client, self._run, self._warned = client, run, False
        self._exceptions = _mlflow().exceptions

    def _copy(self, rows: list[Row]) -> bool:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, step) for step, values in rows for key, value in values.items()]
        try:
            for first in range(0, len(metrics), MAX_METRICS):
                self._client.log_batch(self._run, metrics=metrics[first : first + MAX_METRICS])
        except self._exceptions.MlflowException as error:
            return self._failed(error)
        return True

    def videos(self, step: int, paths: Iterable[Path]) -> None:
        try:
            for path in paths:
                self._client.log_artifact(self._run, str(path), f"videos/step_{step}")
        except self._exceptions.MlflowException as error:
            self._failed(error)

    def close(self) -> None:
        self.sync(at_once=True)
        try:
            self._client.set_terminated(self._run)
        except self._exceptions.MlflowException as error:
            self._failed(error)

    def _failed(self, error: Exception) -> bool:
        if not self._warned:
            cli.console.print(f"warning: --mlflow: {_line(error)}; rows are copied later", style="yellow")
        self._warned = True
        return False


def _mlflow() -> ModuleType:
    """The package mlflow, without telemetry, without log messages of its database, and with short timeouts."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return require_extra("--mlflow", "mlflow", "mlflow", "sqlalchemy", "alembic")[0]


def _params(client: Any, run: str, config: dict[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, str(value)) for key, value in config.items()]
    for first in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=params[first : first + MAX_PARAMS])


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
