"""The search on Ray Tune; the only file that knows it.

The ledger is the truth. When a search starts or resumes, the Optuna study, the pruning rule and Tune's queue are filled
from it. Tune's own restore is never used (with a persistent Optuna study it crashes or doubles rows).

    Tune requests trials from `_Searcher`     <- unfinished trials of the ledger first, then the study
    Tune passes each result to `_Scheduler`   -> the pruning rule decides, one ledger line records result *and* decision
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from raybc import cli
from raybc.cluster.capacity import TRAINER, placement
from raybc.cluster.metrics import SweepMetrics
from raybc.config import RunConfig
from raybc.rollout.pool import RolloutPool
from raybc.rows import EpisodeRow, FailedEvent, LedgerEvent, TrialStatus
from raybc.sweep.config import PruneConfig, SweepConfig
from raybc.sweep.health import why_to_end
from raybc.sweep.ledger import Evaluation, Ledger, SweepState, TrialState, read_events
from raybc.sweep.space import recipe
from raybc.sweep.study import Proposer
from raybc.sweep.training import Job, alike
from raybc.sweep.trial import TrialContext, rivals_of

#: Free bytes below which a full disk is blamed for a failed trial.
FULL_DISK = 20 * 2**20
METRIC = "score"
TIME = "evaluation"
#: Direction of a metric -> Tune's word.
MODES = {"maximize": "max", "minimize": "min"}

OnEvent = Callable[[], None]


# --- pruning: Tune's rules, on the metric ------------------------------------------------------------------------


@dataclass(frozen=True)
class _TrialStub:
    """A trial for Tune's rules, which use it only as a key."""

    trial_id: str


class _ControllerStub:
    def get_live_trials(self) -> list[Any]:
        return []


class Pruner:
    """Tune's ASHA or median rule, fed from the ledger; it never sees Tune's trials, which differ after a restart."""

    def __init__(self, prune: PruneConfig, evaluations: int, state: SweepState) -> None:
        self._rule = self._make(prune, evaluations)
        self._rule.set_search_properties(METRIC, MODES[state.metric.direction])
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

    def decide(self, number: int, evaluation: int, score: float) -> TrialStatus:
        """Status of the trial after this evaluation: running, pruned or completed."""
        stub: Any = _TrialStub(f"{number:05d}")
        if number not in self._known:
            self._known.add(number)
            self._rule.on_trial_add(self._controller, stub)
        decision = self._rule.on_trial_result(self._controller, stub, {TIME: evaluation, METRIC: score})
        if evaluation >= self._evaluations:
            return "completed"
        return "pruned" if decision == TrialScheduler.STOP else "running"


# --- the ledger, the study and Tune -----------------------------------------------------------------------------------


class Recorder:
    """Handles every event of the search: first writes it to the ledger, then updates state, study and listeners."""

    def __init__(
        self, config: SweepConfig, context: TrialContext, ledger: Ledger, state: SweepState, on_event: OnEvent
    ) -> None:
        self.config, self.context, self.state = config, context, state
        self._ledger, self._on_event = ledger, on_event
        self.proposer = Proposer(config, context.folder, state)
        self.pruner = Pruner(config.prune, config.eval.evaluations, state)
        self._packs = self._into_packs(sorted(state.unfinished(), key=lambda t: t.number))
        self.fatal: BaseException | None = None
        self._metrics = SweepMetrics(config.name)

    def record(self, event: LedgerEvent) -> None:
        self._ledger.append(event)
        self.state.apply(event)
        self._on_event()

    def next_pack(self) -> list[TrialState]:
        """Trials that one process trains: unfinished ones of an earlier process first, then new ones; none if all
        `search.trials` have been started."""
        if not self._packs:
            last = min(self.config.search.trials, len(self.state.trials) + self.config.search.pack)
            started = [self._start(number) for number in range(len(self.state.trials), last)]
            self._packs = self._into_packs([trial for trial in started if trial is not None])
        return self._packs.pop(0) if self._packs else []

    @property
    def exhausted(self) -> bool:
        """Whether every different recipe of the space has been started, so that there is nothing left to try."""
        return self.proposer.exhausted

    def _start(self, number: int) -> TrialState | None:
        """Start a new trial; None if no recipe is left."""
        proposed = self.proposer.propose(number)
        if proposed is None:
            return None
        origin, params = proposed
        self.record(TrialState(number, params, origin, of_trainer=self.config.trainer is not None).start)
        return self.state.trials[number]

    def _into_packs(self, trials: Sequence[TrialState]) -> list[list[TrialState]]:
        """Groups that can be one program and have equally many evaluations, in the order of their first trials."""
        groups: dict[tuple[RunConfig, int], list[TrialState]] = {}
        for trial in trials:
            groups.setdefault((alike(recipe(self.config, trial.params)), len(trial.evaluations)), []).append(trial)
        size = self.config.search.pack
        return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]

    def evaluated(self, number: int, evaluation: Evaluation) -> TrialStatus:
        """Record a result with the decision about its trial; a result that is recorded already changes nothing."""
        trial = self.state.trials[number]
        if evaluation.evaluation <= len(trial.evaluations) or trial.finished:
            return trial.status
        status = self.pruner.decide(number, evaluation.evaluation, evaluation.score)
        if evaluation.beaten:  # shown to be worse on the same starts, so it must not be ranked
            status = "pruned"
        self.record(
            {
                "event": "evaluation",
                "trial": number,
                "status": status,
                "evaluation": evaluation.evaluation,
                "step": evaluation.step,
                "score": evaluation.score,
                "rows": evaluation.rows,
                "timing": evaluation.timing,
                "beaten": evaluation.beaten,
            }
        )
        steps = self.config.evaluation_step
        k = evaluation.evaluation
        self._metrics.trained(len(self.config.seeds) * (steps(k) - steps(k - 1)))
        if status != "running":
            self._metrics.over(status)
        self.proposer.report(number, evaluation, status)
        self._check_health()
        return status

    def _check_health(self) -> None:
        reason = why_to_end(self.state, self.config.search.trials)
        if reason:
            again = (
                f"mend it and continue with --resume, which measures these trials again ({self.context.folder.path})"
            )
            raise cli.Failed(f"{reason}; {again}")

    def failed(self, number: int, reason: str = "", errors: int = 0) -> None:
        """Record that a trial failed. reason: empty if its process died. errors: its episodes, if all ended in errors.

        Raises `cli.Failed` where the environment is at fault."""
        if self.state.trials[number].finished:
            return
        free = shutil.disk_usage(self.context.folder.path).free
        if free < FULL_DISK:  # not the recipe's fault: leave the trial unfinished and end the search
            raise OSError(errno.ENOSPC, f"trial {number} was stopped; free some disk space and continue with --resume")
        died = f"its process died {self.config.resources.trial_retries + 1} times (killed, or out of memory)"
        event: FailedEvent = {"event": "failed", "trial": number, "reason": reason or died}
        self.record(event | {"errors": errors} if errors else event)
        self._metrics.over("failed")
        self.proposer.failed(number)
        self._check_health()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep an exception raised in one of Tune's hooks, to raise it after the search: Tune would only log it."""
        try:
            yield
        except BaseException as error:
            self.fatal = self.fatal or error
            raise


class _NotPickled:
    """Tune pickles searcher and scheduler for its own restore, which is never used, so there is nothing to pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_NotPickled, Searcher):
    """Tune's source of trials."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(metric=METRIC, mode=MODES[recorder.context.metric.direction])
        self._recorder = recorder
        self._numbers: dict[str, list[int]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._recorder.guarded():
            trials = self._recorder.next_pack()
            if not trials:
                return Searcher.FINISHED
            self._numbers[trial_id] = [trial.number for trial in trials]
            for trial in trials:
                self._recorder.proposer.link(trial.number, trial_id)
            return {"trials": [{"trial": trial.number, "params": trial.params} for trial in trials]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            with self._recorder.guarded():
                for number in self._numbers[trial_id]:
                    self._recorder.failed(number)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("searches resume from the ledger")


class _Scheduler(_NotPickled, FIFOScheduler):
    """Receives results from Tune."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "payload" not in result:
            return TrialScheduler.CONTINUE
        numbers = [proposed["trial"] for proposed in trial.config["trials"]]
        with self._recorder.guarded():
            found = json.loads(result["payload"])
            if "reason" in found:
                self._recorder.failed(found["trial"], found["reason"], found["errors"])
            else:
                self._recorder.evaluated(found["trial"], Evaluation(**found["evaluation"]))
            over = all(self._recorder.state.trials[number].finished for number in numbers)
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE


def search(recorder: Recorder, pool: RolloutPool | None, session: int, gpus_per_trial: float, concurrent: int) -> None:
    """Run trials until `search.trials` of them have finished, or until Ctrl-C. pool: None without a simulator.
    concurrent: at the same time."""
    config, context = recorder.config, recorder.context
    missing = config.search.trials - len(recorder.state.finished())
    if missing <= 0 or (recorder.exhausted and not recorder.state.unfinished()):
        return
    resources = {"cpu": config.resources.trial_cpus, **placement(TRAINER)}
    if gpus_per_trial:
        resources["gpu"] = gpus_per_trial
    tuner = tune.Tuner(
        tune.with_resources(_trainable(config, context, pool), resources),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(recorder),
            scheduler=_Scheduler(recorder),
            num_samples=missing,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial_{trial.config['trials'][0]['trial']:04d}",
        ),
        run_config=tune.RunConfig(
            name=f"session_{session:03d}",  # a new one: Tune would confuse the trials of an earlier session with ours
            storage_path=str(context.folder.tune),
            failure_config=tune.FailureConfig(max_failures=config.resources.trial_retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:  # Tune replaces exceptions of its hooks by its own; the original was kept, see `guarded`
        if recorder.fatal is None:
            raise
    if recorder.fatal is not None:
        raise recorder.fatal


def no_rollouts(*_: Any) -> list[list[EpisodeRow]]:
    raise RuntimeError("a sweep without a simulator rolls nothing out")


def _trainable(
    config: SweepConfig, context: TrialContext, pool: RolloutPool | None
) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs in (reused) trial processes."""

    def known() -> SweepState:
        return SweepState.from_events(read_events(context.folder.ledger), context.metric)

    def send(number: int, score: float, k: int, **found: Any) -> None:
        tune.report({METRIC: score, TIME: k, "payload": json.dumps({"trial": number, **found})})

    def report(number: int, evaluation: Evaluation) -> bool:
        send(number, evaluation.score, evaluation.evaluation, evaluation=asdict(evaluation))
        return not known().trials[number].finished  # `tune.report` returns when the result is in the ledger

    def fail(number: int, reason: str, errors: int = 0) -> None:
        send(number, 0.0, 0, reason=reason, errors=errors)

    def rivals(number: int, k: int) -> dict[str, list[float]]:
        return rivals_of(known(), number, k, context.metric)

    def trial(tune_config: dict[str, Any]) -> None:
        # Here, because it imports torch, which the driver does not need.
        from raybc.sweep.pack import run_pack
        from raybc.sweep.trainer import run_trainer

        state = known()
        jobs = [
            Job(number, recipe(config, proposed["params"]), len(state.trials[number].evaluations))
            for proposed in tune_config["trials"]
            if not state.trials[number := proposed["trial"]].finished
        ]
        try:
            run = run_pack if config.trainer is None else run_trainer
            run(context, jobs, no_rollouts if pool is None else pool.evaluate, report, fail, rivals)
        except ray.exceptions.RayError:
            raise  # the cluster's fault, not the recipe's: Tune restarts the pack
        except Exception as error:
            after = known()
            for job in jobs:
                if not after.trials[job.trial].finished:
                    path = context.folder.traceback(job.trial)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(OSError):  # a full disk: the reason is reported all the same
                        path.write_text(traceback.format_exc(), encoding="utf-8")
                    fail(job.trial, f"{type(error).__name__}: {error}")

    trial.__name__ = config.name
    return trial
