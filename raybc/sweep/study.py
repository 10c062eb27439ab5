"""Proposing recipes: an Optuna study told from the ledger; the only file that knows Optuna."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from raybc.config import RunConfig
from raybc.strict import type_hints
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation, SweepState, TrialState
from raybc.sweep.space import first_points, train_axes
from raybc.train.step import stream_seed
from raybc.types import UserError

#: Optuna's journal: `optuna-dashboard RUN/study.journal --storage-class JournalFileStorage` opens it.
STUDY_FILE = "study.journal"


def distributions(config: SweepConfig) -> dict[str, BaseDistribution]:
    """The train axes as Optuna distributions."""
    result: dict[str, BaseDistribution] = {}
    for name, axis in train_axes(config).items():
        if axis.values:
            result[name] = CategoricalDistribution(axis.values)
            continue
        assert axis.low is not None
        assert axis.high is not None
        if type_hints(RunConfig)[name] is int:
            result[name] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            result[name] = FloatDistribution(axis.low, axis.high, log=axis.log)
    return result


def make_sampler(config: SweepConfig, trial: int, told: list[optuna.trial.FrozenTrial]) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `trial`.

    Its seed belongs to the trial, not to the process: what is proposed depends on the seed of the search and on what
    the study holds, also after a restart. `told`: trials of earlier processes, for samplers with a state of their own.
    """
    seed = stream_seed(config.search.seed, "sampler", trial) % 2**32
    startup = min(10, max(3, config.search.trials // 3))
    kind = config.search.sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if kind == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if kind == "cmaes":
            independent = optuna.samplers.RandomSampler(seed=seed)
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=startup,
                independent_sampler=independent,
                warn_independent_sampling=False,  # lists are drawn at random beside CMA-ES, as the docs say
                source_trials=told or None,
            )
        waiting = config.search.max_concurrent > 1 or config.search.pack > 1
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=waiting)


def check_sampler(config: SweepConfig) -> None:
    """Refuse a sampler whose package is missing or that cannot search this space."""
    needs = {"gp": ("scipy", "gp"), "cmaes": ("cmaes", "cmaes")}.get(config.search.sampler)
    if needs and importlib.util.find_spec(needs[0]) is None:
        raise UserError(f"search.sampler {config.search.sampler}: needs {needs[0]}: pip install 'raybc[{needs[1]}]'")
    if not train_axes(config):
        raise UserError("space: expected at least one train axis (lr, horizon_length, hidden_width, ...), got none")
    ranges = [n for n, axis in train_axes(config).items() if not axis.values]
    if config.search.sampler == "cmaes" and len(ranges) < 2:
        raise UserError(
            f"search.sampler cmaes: expected at least two ranges (low/high) in the space, got {len(ranges)}"
        )


class Proposer:
    """An Optuna study told from the ledger, in which Optuna's trial numbers are ours."""

    def __init__(self, config: SweepConfig, run_dir: Path, state: SweepState) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._distributions = config, distributions(config)
        self._points = first_points(config)
        self._open: dict[int, optuna.Trial] = {}
        # Anew from the ledger each time: a journal torn by a kill is of no consequence.
        for leftover in run_dir.glob(STUDY_FILE + "*"):
            leftover.unlink()
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(run_dir / STUDY_FILE))),
            study_name=config.name,
            direction="maximize",
        )
        self._told: list[optuna.trial.FrozenTrial] = []  # completed by earlier processes
        for number in sorted(state.trials):
            trial = state.trials[number]
            if trial.finished:
                self._study.add_trial(self._frozen(trial))
            else:
                self._ask_fixed(trial.number, trial.params)
                for evaluation in trial.evaluations:
                    self._open[number].report(evaluation.score, evaluation.evaluation)
        self._told = [self._ranges_only(t) for t in state.trials.values() if t.status == "completed"]

    def _frozen(self, trial: TrialState) -> optuna.trial.FrozenTrial:
        state = {
            "completed": OptunaState.COMPLETE,
            "pruned": OptunaState.PRUNED,
            "failed": OptunaState.FAIL,
        }[trial.status]
        return optuna.trial.create_trial(
            state=state,
            value=trial.score if trial.status == "completed" else None,
            params=trial.params,
            distributions=self._distributions,
            intermediate_values={e.evaluation: e.score for e in trial.evaluations},
            user_attrs={"origin": trial.origin},
        )

    def _ranges_only(self, trial: TrialState) -> optuna.trial.FrozenTrial:
        """A completed trial as CMA-ES sees it: it searches ranges and refuses trials that have anything else."""
        ranges = {n: d for n, d in self._distributions.items() if not isinstance(d, CategoricalDistribution)}
        return optuna.trial.create_trial(
            value=trial.score, params={n: trial.params[n] for n in ranges}, distributions=ranges
        )

    def _ask_fixed(self, number: int, params: dict[str, Any]) -> None:
        self._study.enqueue_trial(params)
        self._open[number] = self._study.ask(self._distributions)
        assert self._open[number].number == number

    def propose(self, number: int) -> tuple[str, dict[str, Any]]:
        """(origin, params) of a new trial."""
        if number < len(self._points):
            origin, params = self._points[number]
            self._ask_fixed(number, params)
            return origin, params
        self._study.sampler = make_sampler(self._config, number, self._told)
        self._open[number] = self._study.ask(self._distributions)
        assert self._open[number].number == number
        return "sampler", dict(self._open[number].params)

    def link(self, number: int, tune_trial_id: str) -> None:
        """Let the Optuna trial carry the id of the Tune trial (Tune's config carries the number)."""
        self._open[number].set_user_attr("tune_trial_id", tune_trial_id)

    def told(self, number: int, evaluation: Evaluation, status: str) -> None:
        """Pass on a result that is in the ledger."""
        self._open[number].report(evaluation.score, evaluation.evaluation)
        if status == "completed":
            self._study.tell(self._open.pop(number), evaluation.score)
        elif status == "pruned":
            self._study.tell(self._open.pop(number), state=OptunaState.PRUNED)

    def failed(self, number: int) -> None:
        self._study.tell(self._open.pop(number), state=OptunaState.FAIL)
