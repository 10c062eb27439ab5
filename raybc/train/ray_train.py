"""Training with several workers through Ray Train. Only this file and `elastic.py` import Ray Train.

The workers run the loop of `PackTrainer` and write the same files as a single process: rank 0 writes logs, and at each
stop the bundles and then the state. Workers report nothing to Ray, because a report is a barrier that is polled every 2
seconds. When a worker dies, Ray restarts the group, and all workers continue from the saved state. The run folder must
therefore be on a disk that all machines share. Workers never wait for an evaluation: the driver evaluates bundles as
they appear. workers.csv has a row for each start of a group.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from raybc.cli import Failed
from raybc.config import RunConfig
from raybc.files import read_json, write_json
from raybc.run_folder import TrainingFolder
from raybc.train import elastic
from raybc.train.choices import Parallel
from raybc.train.ranks import WorkerConfig
from raybc.types import UserError

#: Number of restarts of the worker group from the last state after a worker died.
MAX_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to train. Paths are absolute."""

    members: tuple[RunConfig, ...]
    dataset: str
    """Path of the dataset, readable on every machine."""
    fingerprint: str
    """See `TrainingData`."""
    obs_keys: tuple[str, ...]
    """See `TrainingData`."""
    environment: dict[str, str]
    """See `TrainingData`."""
    stops: tuple[int, ...]
    """Steps after which bundles and the state are saved, ascending; the last one is the end of training."""
    folders: tuple[str, ...]
    """The run folder of each member."""
    state: str
    """Path of the training state."""
    parallel: Parallel
    saved_as: tuple[tuple[str, ...], ...] = ()
    """Further run_ids that the state of each member may carry, see `PackTrainer.load_state`."""


class Workers:
    """A context manager that trains in worker processes; `join` waits for the end of training."""

    def __init__(self, job: Job, workers: WorkerConfig, out: Path) -> None:
        scaling = ScalingConfig(
            num_workers=(workers.min_workers, workers.max_workers) if workers.elastic else workers.max_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if workers.use_gpu else {"CPU": 1},
            elastic_resize_monitor_interval_s=elastic.GROW_SECONDS,
        )
        self._out = out
        # Ray Train would continue any earlier run of the same name, so every start gets a new name.
        self._folder = TrainingFolder(out).ray_train
        run = RayRunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(self._folder.absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        )
        TrainingFolder(out).failure.unlink(missing_ok=True)
        self._reported_starts = len(elastic.starts(out))
        loop_config = {"job": job, "out": str(out.absolute())}
        make = partial(elastic.ElasticTrainer, state=Path(job.state)) if workers.elastic else TorchTrainer
        self._trainer = make(train_loop, train_loop_config=loop_config, scaling_config=scaling, run_config=run)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True, name="ray-train")

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.alive:
            shutil.rmtree(self._folder, ignore_errors=True)  # only Ray's own files

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # `join` reports it
            self._error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def news(self) -> list[str]:
        """Messages about starts of the group since the last call."""
        rows = elastic.starts(self._out)[self._reported_starts :]
        self._reported_starts += len(rows)
        return [f"from step {step}: workers {n}" if n else "waiting for room for more workers" for step, n in rows]

    def join(self) -> str:
        """Wait for the end of training.

        Returns why the workers stopped early, or "" on success. Raises `cli.Failed` if they died too often.
        """
        self._thread.join()
        reason = _read_failure(self._out)
        if self._error is not None and not reason:
            text = str(self._error).strip().splitlines()
            raise Failed(
                f"the training workers died {MAX_FAILURES + 1} times: {text[-1] if text else self._error!r}; "
                f"go on with --resume ({self._out})"
            )
        return reason


def train_loop(loop_config: dict[str, Any]) -> None:
    """Entry point of each worker.

    loop_config: `job` (`Job`) and `out` (the run folder). A failure that a restart would repeat is written to a file.
    """
    import torch

    from raybc.train.step import NonFiniteLoss

    job, out = loop_config["job"], Path(loop_config["out"])
    if _read_failure(out):
        return
    try:
        _train(job, out)
    except (NonFiniteLoss, UserError) as error:  # the same on every rank
        _write_failure(out, str(error))
    except torch.cuda.OutOfMemoryError as error:  # maybe on this rank only: raise, so that the others end, too
        _write_failure(out, f"a worker's GPU has not enough memory ({str(error).splitlines()[0]}); raise --accumulate")
        raise


def _train(job: Job, out: Path) -> None:
    import torch
    from ray.train.torch import get_device

    from raybc.train.action_metrics import SampleError
    from raybc.train.checkpointing import save_checkpoint
    from raybc.train.data import TrainingData
    from raybc.train.epoch_log import PackEpochLog
    from raybc.train.log import MemberLog, log_pack
    from raybc.train.loop import PackTrainer
    from raybc.train.ranks import Ranks
    from raybc.train.source import read_data

    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    store = read_data(job.members[0], Path(job.dataset))
    data = TrainingData(store, job.fingerprint, job.obs_keys, job.environment)
    ranks = Ranks.here(job.parallel)
    state = Path(job.state)
    resumes = state.exists()
    trainer = PackTrainer(job.members, data, device, ranks, resumes)
    if resumes:
        trainer.load_state(state, saved_as=job.saved_as)
    if ranks.rank == 0:
        elastic.note_start(out, trainer.step, ranks.world)
    folders = [Path(f) for f in job.folders]
    if ranks.rank == 0:
        trainer.prepared.write_statistics(folders)
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(MemberLog(f, TrainingFolder(f).tensorboard, resume=trainer.step))
            for f in (folders if ranks.rank == 0 else ())
        ]
        on_epoch = PackEpochLog(trainer, folders if ranks.rank == 0 else (), logs)
        sampled = SampleError(trainer)
        for stop in (s for s in job.stops if s > trainer.step):
            if trainer.finished:
                break
            trainer.advance(stop, lambda progress: log_pack(logs, trainer, sampled.added(progress)), on_epoch)
            save_checkpoint(trainer, folders, state)


def _write_failure(out: Path, reason: str) -> None:
    write_json(TrainingFolder(out).failure, {"reason": reason})


def _read_failure(out: Path) -> str:
    """Why the workers stopped early; "" if they did not."""
    path = TrainingFolder(out).failure
    return str(read_json(path)["reason"]) if path.exists() else ""
