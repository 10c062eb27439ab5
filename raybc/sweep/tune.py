"""The search on Ray Tune; the only file that knows it.

The ledger is the truth. When a search starts or goes on, the Optuna study, the pruning rule and Tune's queue are told
what the ledger holds; Tune's own restore is never used (with a persistent Optuna study it crashes or doubles rows).

    Tune asks `_Searcher` for trials      <- unfinished trials of the ledger first, then the study
    Tune shows `_Scheduler` each result   -> the pruning rule decides, one ledger line records result *and* decision
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from raybc.rollout.pool import RolloutPool
from raybc.sweep.config import PruneConfig, SweepConfig
from raybc.sweep.ledger import FILE, Evaluation, Ledger, SweepState, TrialState, read_events
from raybc.sweep.space import recipe
from raybc.sweep.study import Proposer
from raybc.sweep.trial import TrialPlan, read_failure, rivals_of, run_trial, write_failure

#: Free bytes below which a failed trial is put down to the disk.
FULL_DISK = 20 * 2**20
METRIC = "success"
TIME = "evaluation"

OnEvent = Callable[[], None]


# --- pruning: Tune's rules, on rollout success ----------------------------------------------------------------------


@dataclass(frozen=True)
class _TrialStub:
    """What Tune's rules know of a trial: they use it as a key."""

    trial_id: str


class _ControllerStub:
    def get_live_trials(self) -> list[Any]:
        return []


class Pruner:
    """Tune's ASHA or median rule, told from the ledger; it never sees Tune's trials, which differ after a restart."""

    def __init__(self, prune: PruneConfig, evaluations: int, state: SweepState) -> None:
        self._rule = self._make(prune, evaluations)
        self._rule.set_search_properties(METRIC, "max")
        self._evaluations = evaluations
        self._known: set[int] = set()
        self._controller: Any = _ControllerStub()
        for trial in sorted(state.trials.values(), key=lambda t: t.number):
            for evaluation in trial.evaluations:
                self.decide(trial.number, evaluation.evaluation, evaluation.score)

    @staticmethod
    def _make(prune: PruneConfig, evaluations: int) -> TrialScheduler:
        if prune.scheduler == "asha":
            return ASHAScheduler(
                time_attr=TIME,
                max_t=evaluations,
                grace_period=min(prune.grace_evaluations, evaluations),
                reduction_factor=prune.reduction_factor,
            )
        if prune.scheduler == "median":
            return MedianStoppingRule(
                time_attr=TIME, grace_period=prune.grace_evaluations, min_samples_required=prune.min_trials
            )
        return FIFOScheduler()

    def decide(self, number: int, evaluation: int, score: float) -> str:
        """Status of the trial after this evaluation: running, pruned or completed."""
        stub: Any = _TrialStub(f"{number:05d}")
        if number not in self._known:
            self._known.add(number)
            self._rule.on_trial_add(self._controller, stub)
        decision = self._rule.on_trial_result(self._controller, stub, {TIME: evaluation, METRIC: score})
        if evaluation >= self._evaluations:
            return "completed"
        return "pruned" if decision == TrialScheduler.STOP else "running"


# --- joining both with the ledger -----------------------------------------------------------------------------------


class Recorder:
    """Every event of the search goes through here: first into the ledger, then to state, study and listeners."""

    def __init__(self, config: SweepConfig, plan: TrialPlan, ledger: Ledger, state: SweepState, on_event: OnEvent):
        self.config, self.plan, self.state = config, plan, state
        self._ledger, self._on_event = ledger, on_event
        run_dir = Path(plan.run_dir)
        self.proposer = Proposer(config, run_dir, state)
        self.pruner = Pruner(config.prune, config.eval.evaluations, state)
        self._resume = [t.number for t in sorted(state.unfinished(), key=lambda t: t.number)]
        self.fatal: BaseException | None = None

    def record(self, event: dict[str, Any]) -> None:
        self._ledger.append(event)
        self.state.apply(event)
        self._on_event()

    def next_trial(self) -> TrialState | None:
        """An unfinished trial of an earlier process, else a new one; None when the asked number is started."""
        if self._resume:
            return self.state.trials[self._resume.pop(0)]
        number = len(self.state.trials)
        if number >= self.config.search.trials:
            return None
        origin, params = self.proposer.propose(number)
        self.record({"event": "start", "trial": number, "params": params, "origin": origin})
        return self.state.trials[number]

    def evaluated(self, number: int, evaluation: Evaluation) -> str:
        """Record a result with the decision about its trial; a result that is already there changes nothing."""
        trial = self.state.trials[number]
        if evaluation.evaluation <= len(trial.evaluations) or trial.finished:
            return trial.status
        status = self.pruner.decide(number, evaluation.evaluation, evaluation.score)
        if evaluation.beaten:  # shown to be worse on the same starts: not one of those that are ranked
            status = "pruned"
        self.record({"event": "evaluation", "trial": number, "status": status, **asdict(evaluation)})
        self.proposer.told(number, evaluation, status)
        return status

    def failed(self, number: int) -> None:
        if self.state.trials[number].finished:
            return
        free = shutil.disk_usage(self.plan.run_dir).free
        if free < FULL_DISK:  # not the recipe's fault: the trial stays unfinished and the search ends
            (self.plan.folder(number) / "failed.json").unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, f"trial {number} was stopped; free some room and go on with --resume")
        reason = read_failure(self.plan.folder(number)) or (
            f"its process died {self.config.resources.trial_retries + 1} times (killed, or out of memory)"
        )
        self.record({"event": "failed", "trial": number, "reason": reason})
        self.proposer.failed(number)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Tune reports what is raised in its hooks in its own way; keep the cause, to raise it after the search."""
        try:
            yield
        except BaseException as error:
            self.fatal = self.fatal or error
            raise


class _NotPickled:
    """Tune pickles searcher and scheduler for its own restore, which is never used: nothing of ours goes there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_NotPickled, Searcher):
    """Tune's source of trials."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._recorder = recorder
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._recorder.guarded():
            trial = self._recorder.next_trial()
            if trial is None:
                return Searcher.FINISHED
            self._numbers[trial_id] = trial.number
            self._recorder.proposer.link(trial.number, trial_id)
            return {"trial": trial.number, "params": trial.params}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            with self._recorder.guarded():
                self._recorder.failed(self._numbers[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on the disk already."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("searches go on from the ledger")


class _Scheduler(_NotPickled, FIFOScheduler):
    """Tune's ear for results."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "payload" not in result:
            return TrialScheduler.CONTINUE
        with self._recorder.guarded():
            evaluation = Evaluation(**json.loads(result["payload"]))
            status = self._recorder.evaluated(trial.config["trial"], evaluation)
        return TrialScheduler.CONTINUE if status == "running" else TrialScheduler.STOP


def search(recorder: Recorder, pool: RolloutPool, session: int, gpus_per_trial: float) -> None:
    """Run trials until the asked number is finished (or Ctrl-C: then some are not)."""
    config, plan = recorder.config, recorder.plan
    missing = config.search.trials - len(recorder.state.finished())
    if missing <= 0:
        return
    resources = {"cpu": config.resources.trial_cpus} | ({"gpu": gpus_per_trial} if gpus_per_trial else {})
    storage = Path(plan.run_dir) / "tune"
    tuner = tune.Tuner(
        tune.with_resources(_trainable(config, plan, pool), resources),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(recorder),
            scheduler=_Scheduler(recorder),
            num_samples=missing,
            max_concurrent_trials=config.search.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial_{trial.config['trial']:04d}",
        ),
        run_config=tune.RunConfig(
            name=f"session_{session:03d}",  # never an earlier one's: Tune would take its trials for ours
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=config.resources.trial_retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:  # Tune raises what its hooks raised in its own words; the cause was kept, see `guarded`
        if recorder.fatal is None:
            raise
    if recorder.fatal is not None:
        raise recorder.fatal


def _trainable(config: SweepConfig, plan: TrialPlan, pool: RolloutPool) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs in (re-used) trial processes."""

    def trial(tune_config: dict[str, Any]) -> None:
        number, folder = tune_config["trial"], plan.folder(tune_config["trial"])
        reason = read_failure(folder)
        if reason:  # this trial raised, Tune tries again: the same would come of it
            raise RuntimeError(reason)
        known = SweepState.from_events(read_events(Path(plan.run_dir) / FILE)).trials[number]

        def report(evaluation: Evaluation) -> None:
            tune.report(
                {
                    METRIC: evaluation.score,
                    TIME: evaluation.evaluation,
                    "payload": json.dumps(asdict(evaluation)),
                }
            )

        try:
            run_trial(
                plan,
                number,
                recipe(config, tune_config["params"]),
                len(known.evaluations),
                pool.evaluate,
                report,
                lambda k: rivals_of(SweepState.from_events(read_events(Path(plan.run_dir) / FILE)), number, k),
            )
        except ray.exceptions.RayError:
            raise  # the cluster's fault, not the recipe's: Tune starts the trial again
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            write_failure(folder, reason)
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            raise RuntimeError(reason) from error

    trial.__name__ = config.name
    return trial
