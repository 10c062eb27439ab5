"""Proposing recipes: an Optuna study told from the ledger; the only file of a sweep that knows Optuna."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from raybc.files import replacing
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation, SweepState, TrialState
from raybc.sweep.space import active, first_points, is_conditional, train_axes
from raybc.types import UserError

#: Optuna's journal: `optuna-dashboard RUN/study.journal --storage-class JournalFileStorage` opens it.
STUDY_FILE = "study.journal"
#: Videos as Optuna keeps them: `--artifact-dir RUN/artifacts` shows them there.
ARTIFACTS = "artifacts"

_STATES = {
    "running": OptunaState.RUNNING,
    "completed": OptunaState.COMPLETE,
    "pruned": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}


def distributions(config: SweepConfig) -> dict[str, BaseDistribution]:
    """The train axes as Optuna distributions."""
    result: dict[str, BaseDistribution] = {}
    for name, axis in train_axes(config).items():
        if axis.values:
            result[name] = CategoricalDistribution(axis.values)
            continue
        assert axis.low is not None
        assert axis.high is not None
        if config.axis_option(name).plain_type is int:
            result[name] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            result[name] = FloatDistribution(axis.low, axis.high, log=axis.log)
    return result


def make_sampler(config: SweepConfig, trial: int, told: list[optuna.trial.FrozenTrial]) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `trial`.

    Its seed belongs to the trial, not to the process: what is proposed depends on the seed of the search and on what
    the study holds, also after a restart. `told`: trials of earlier processes, for samplers with a state of their own.
    """
    from raybc.train.step import stream_seed  # imports PyTorch, which those who only look at a study do without

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
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=is_conditional(config), constant_liar=waiting
        )


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


def frozen(trial: TrialState, axes: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    """A finished trial as Optuna keeps it. axes: `distributions` of the sweep."""
    return optuna.trial.create_trial(
        state=_STATES[trial.status],
        value=trial.score if trial.status == "completed" else None,
        params=trial.params,
        distributions={name: axes[name] for name in trial.params},
        intermediate_values={e.evaluation: e.score for e in trial.evaluations},
        user_attrs={"origin": trial.origin},
    )


def attach_videos(run_dir: Path, videos: Sequence[Mapping[str, Any]]) -> None:
    """Give the videos of a finished sweep to the trials of its study, as Optuna's artifacts.

    Optuna takes an artifact for a trial before it is told only, and videos are made when all are told. So the study is
    copied, the trials with videos are told anew there, and the copy takes its place.
    videos: entries of videos.json; one whose file is gone is left out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(run_dir / STUDY_FILE)))
    old = optuna.load_study(study_name=None, storage=storage)
    folder = run_dir / ARTIFACTS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    store = FileSystemArtifactStore(folder)
    with replacing(run_dir / STUDY_FILE) as temporary:
        copy = JournalStorage(JournalFileBackend(str(temporary)))
        study = optuna.create_study(storage=copy, study_name=old.study_name, direction=old.direction)
        for told in old.get_trials(deepcopy=False):
            shown = [v for v in videos if v["trial"] == told.number and (run_dir / v["file"]).is_file()]
            if not shown or not told.state.is_finished():
                study.add_trial(told)
                continue
            study.enqueue_trial(told.params, user_attrs=told.user_attrs)
            trial = study.ask(told.distributions)
            assert trial.number == told.number
            for video in shown:
                _attach(store, trial, run_dir, video)
            for step, value in told.intermediate_values.items():
                trial.report(value, step)
            study.tell(trial, told.value if told.state == OptunaState.COMPLETE else None, state=told.state)


def _attach(store: FileSystemArtifactStore, trial: optuna.Trial, run_dir: Path, video: Mapping[str, Any]) -> None:
    """Give a video to a trial, under a name that says what it shows."""
    source = run_dir / video["file"]
    name = f"{video['outcome']}_seed_{video['seed']}_{video['split']}_start_{video['index']}{source.suffix}"
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(source, f"{folder}/{name}")  # the page shows the name of the file
        upload_artifact(artifact_store=store, file_path=copy, study_or_trial=trial)


def _suggest(trial: optuna.Trial, name: str, axis: BaseDistribution) -> Any:
    if isinstance(axis, CategoricalDistribution):
        return trial.suggest_categorical(name, axis.choices)
    if isinstance(axis, IntDistribution):
        return trial.suggest_int(name, axis.low, axis.high, log=axis.log)
    assert isinstance(axis, FloatDistribution)
    return trial.suggest_float(name, axis.low, axis.high, log=axis.log)


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
                self._study.add_trial(frozen(trial, self._distributions))
            else:
                self._ask_fixed(trial.number, trial.params)
                for evaluation in trial.evaluations:
                    self._open[number].report(evaluation.score, evaluation.evaluation)
        self._told = [self._ranges_only(t) for t in state.trials.values() if t.status == "completed"]

    def _ranges_only(self, trial: TrialState) -> optuna.trial.FrozenTrial:
        """A completed trial as CMA-ES sees it: it searches ranges and refuses trials that have anything else."""
        ranges = {
            n: d for n, d in self._distributions.items()
            if not isinstance(d, CategoricalDistribution) and n in trial.params
        }  # fmt: skip
        return optuna.trial.create_trial(
            value=trial.score, params={n: trial.params[n] for n in ranges}, distributions=ranges
        )

    def _ask_fixed(self, number: int, params: dict[str, Any]) -> None:
        self._study.enqueue_trial(params)
        self._open[number] = self._study.ask({name: self._distributions[name] for name in params})
        assert self._open[number].number == number

    def propose(self, number: int) -> tuple[str, dict[str, Any]]:
        """(origin, params) of a new trial."""
        if number < len(self._points):
            origin, params = self._points[number]
            self._ask_fixed(number, params)
            return origin, params
        self._study.sampler = make_sampler(self._config, number, self._told)
        if not is_conditional(self._config):
            self._open[number] = self._study.ask(self._distributions)
            assert self._open[number].number == number
            return "sampler", dict(self._open[number].params)
        trial = self._open[number] = self._study.ask()
        assert trial.number == number
        chosen: dict[str, Any] = {}
        for name in self._distributions:  # an axis that depends on another stands behind it
            if active(self._config, chosen, name):
                chosen[name] = _suggest(trial, name, self._distributions[name])
        return "sampler", chosen

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
