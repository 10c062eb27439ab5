"""Training with several workers through Ray Train; beside `elastic.py` the only file that knows it.

The workers run the loop of `PackTrainer` and write the same files as one process does: rank 0 logs, saves bundles at
every stop and then the state of all. Nothing is reported to Ray: a report is a barrier that moves every 2 seconds. When
a worker dies, Ray starts the group anew and everyone goes on from the state. So the run folder must be on a disk that
all machines see. Ranks never wait for an evaluation: the driver measures bundles as they appear. workers.csv has a row
for each start of a group.
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
from raybc.train import elastic
from raybc.train.ranks import Parallel, WorkerConfig
from raybc.types import UserError

#: Times that the group of workers is started anew from the last state after one of them died.
MAX_FAILURES = 3
FAILURE = "failed.json"


@dataclass(frozen=True)
class Job:
    """What every worker is told. stops: steps after which bundles and the state are saved, in order, the last at the
    end. folders: the run folder of each member."""

    members: tuple[RunConfig, ...]
    dataset: str
    fingerprint: str
    obs_keys: tuple[str, ...]
    environment: dict[str, str]
    stops: tuple[int, ...]
    folders: tuple[str, ...]
    state: str
    parallel: Parallel
    saved_as: tuple[tuple[str, ...], ...] = ()


class Workers:
    """Training in other processes for as long as the block lasts; `join` waits for its end."""

    def __init__(self, job: Job, workers: WorkerConfig, out: Path) -> None:
        scaling = ScalingConfig(
            num_workers=(workers.least, workers.most) if workers.elastic else workers.most,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if workers.use_gpu else {"CPU": 1},
            elastic_resize_monitor_interval_s=elastic.GROW_SECONDS,
        )
        self._out = out
        # A name of its own for every start: Ray Train goes on with a run of the same name, whatever it was.
        self._folder = out / "ray_train"
        run = RayRunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(self._folder.absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        )
        (out / FAILURE).unlink(missing_ok=True)
        self._told = len(elastic.starts(out))
        told = {"job": job, "out": str(out.absolute())}
        make = partial(elastic.ElasticTrainer, state=Path(job.state)) if workers.elastic else TorchTrainer
        self._trainer = make(train_loop, train_loop_config=told, scaling_config=scaling, run_config=run)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True, name="ray-train")

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.alive:
            shutil.rmtree(self._folder, ignore_errors=True)  # only Ray's own notes: our files are beside it

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised in the thread that waits
            self._error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def news(self) -> list[str]:
        """What happened to the group since this was asked last."""
        rows = elastic.starts(self._out)[self._told :]
        self._told += len(rows)
        return [f"from step {step}: workers {n}" if n else "waiting for room for more workers" for step, n in rows]

    def join(self) -> str:
        """Wait for the end; gives why the workers gave up, empty when they did not. Raises `Failed` when they died."""
        self._thread.join()
        reason = _read_failure(self._out)
        if self._error is not None and not reason:
            text = str(self._error).strip().splitlines()
            raise Failed(
                f"the training workers died {MAX_FAILURES + 1} times: {text[-1] if text else self._error!r}; "
                f"go on with --resume ({self._out})"
            )
        return reason


def train_loop(told: dict[str, Any]) -> None:
    """What each worker runs. Why training cannot go on is written down, since to try again would end there again."""
    import torch

    from raybc.train.step import NonFiniteLoss

    job, out = told["job"], Path(told["out"])
    if _read_failure(out):
        return
    try:
        _train(job, out)
    except (NonFiniteLoss, UserError) as error:  # on every rank alike
        _write_failure(out, str(error))
    except torch.cuda.OutOfMemoryError as error:  # perhaps on this one only: ended by dying, and not begun again
        _write_failure(out, f"a worker's GPU has not enough memory ({str(error).splitlines()[0]}); raise --accumulate")
        raise


def _train(job: Job, out: Path) -> None:
    import torch
    from ray.train.torch import get_device

    from raybc.data.load import read_for
    from raybc.registry import parse_env_name
    from raybc.train.checkpointing import save_checkpoint
    from raybc.train.data import TrainingData
    from raybc.train.log import MemberLog, log_pack
    from raybc.train.loop import PackTrainer
    from raybc.train.ranks import Ranks

    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    store = read_for(Path(job.dataset), parse_env_name(job.members[0].env_name).task)
    data = TrainingData(store, job.fingerprint, job.obs_keys, job.environment)
    ranks = Ranks.here(job.parallel)
    trainer = PackTrainer(job.members, data, device, ranks)
    state = Path(job.state)
    if state.exists():
        trainer.load_state(state, saved_as=job.saved_as)
    if ranks.rank == 0:
        elastic.note_start(out, trainer.step, ranks.world)
    folders = [Path(f) for f in job.folders]
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(MemberLog(f, f / "tensorboard", resume=trainer.step))
            for f in (folders if ranks.rank == 0 else ())
        ]
        for stop in (s for s in job.stops if s > trainer.step):
            if trainer.finished:
                break
            trainer.advance(stop, lambda progress: log_pack(logs, trainer, progress))
            save_checkpoint(trainer, folders, state)


def _write_failure(out: Path, reason: str) -> None:
    write_json(out / FAILURE, {"reason": reason})


def _read_failure(out: Path) -> str:
    """Why the workers gave up; empty when they did not."""
    return str(read_json(out / FAILURE)["reason"]) if (out / FAILURE).exists() else ""
