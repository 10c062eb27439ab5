"""Proposing recipes: an Optuna study fed from the ledger; the only file of a sweep that knows Optuna."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from raybc.files import replacing
from raybc.rows import TrialStatus, VideoRow, video_setting
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation, SweepState, TrialState
from raybc.sweep.recipes import finite_recipes, may_repeat
from raybc.sweep.space import active, first_points, is_conditional, recipe_key, train_axes
from raybc.types import UserError

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


def make_sampler(
    config: SweepConfig, trial: int, earlier: list[optuna.trial.FrozenTrial], attempt: int = 0
) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `trial`; attempt: how often it has proposed a known recipe before.

    Its seed belongs to the trial, not to the process: proposals depend on the seed of the search and on the trials in
    the study only, also after a restart. earlier: trials completed by earlier processes, for samplers that keep a
    state.
    """
    from raybc.train.step import stream_seed  # here: it imports PyTorch, which the dashboard does without

    names = ("sampler", trial, *((attempt,) if attempt else ()))
    seed = stream_seed(config.search.seed, *names) % 2**32
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
                source_trials=earlier or None,
            )
        waiting = config.search.max_concurrent > 1 or config.search.pack > 1
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=is_conditional(config), constant_liar=waiting
        )


def check_sampler(config: SweepConfig) -> None:
    """Refuse a sampler whose package is missing, or that cannot search this space."""
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
    """A finished trial as Optuna stores it. axes: `distributions` of the sweep."""
    return optuna.trial.create_trial(
        state=_STATES[trial.status],
        value=trial.score if trial.status == "completed" else None,
        params=trial.params,
        distributions={name: axes[name] for name in trial.params},
        intermediate_values={e.evaluation: e.score for e in trial.evaluations},
        user_attrs={"origin": trial.origin},
    )


def attach_videos(folder: SweepFolder, videos: Sequence[VideoRow]) -> None:
    """Attach the videos of a finished sweep to the trials of its study, as Optuna artifacts.

    Optuna accepts artifacts for running trials only, and videos are made when all trials have finished. So the study is
    copied, the trials with videos are run again in the copy with their results, and the copy replaces the study.
    videos: entries of videos.json; those whose file is missing are skipped.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder.study)))
    old = optuna.load_study(study_name=None, storage=storage)
    shutil.rmtree(folder.artifacts, ignore_errors=True)
    folder.artifacts.mkdir()
    store = FileSystemArtifactStore(folder.artifacts)
    with replacing(folder.study) as temporary:
        copy = JournalStorage(JournalFileBackend(str(temporary)))
        study = optuna.create_study(storage=copy, study_name=old.study_name, direction=old.direction)
        if old.metric_names:
            _name_metric(study, old.metric_names[0])
        for finished in old.get_trials(deepcopy=False):
            shown = [v for v in videos if v["trial"] == finished.number and (folder.path / v["file"]).is_file()]
            if not shown or not finished.state.is_finished():
                study.add_trial(finished)
                continue
            study.enqueue_trial(finished.params, user_attrs=finished.user_attrs)
            trial = study.ask(finished.distributions)
            assert trial.number == finished.number
            for video in shown:
                _attach(store, trial, folder, video)
            for step, value in finished.intermediate_values.items():
                trial.report(value, step)
            score = finished.value if finished.state == OptunaState.COMPLETE else None
            study.tell(trial, score, state=finished.state)


def _attach(store: FileSystemArtifactStore, trial: optuna.Trial, folder: SweepFolder, video: VideoRow) -> None:
    """Attach a video to a trial, under a name that says what it shows."""
    source, setting = folder.path / video["file"], video_setting(video).slug()
    name = f"{video['outcome']}_seed_{video['seed']}_{video['split']}_start_{video['index']}_{setting}{source.suffix}"
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copy(source, f"{temporary}/{name}")  # optuna-dashboard shows the name of the file
        upload_artifact(artifact_store=store, file_path=copy, study_or_trial=trial)


def _suggest(trial: optuna.Trial, name: str, axis: BaseDistribution) -> Any:
    if isinstance(axis, CategoricalDistribution):
        return trial.suggest_categorical(name, axis.choices)
    if isinstance(axis, IntDistribution):
        return trial.suggest_int(name, axis.low, axis.high, log=axis.log)
    assert isinstance(axis, FloatDistribution)
    return trial.suggest_float(name, axis.low, axis.high, log=axis.log)


def _name_metric(study: optuna.Study, name: str) -> None:
    """What Optuna's pages call the values of a study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([name])


#: Proposals of a known recipe after which a new one is drawn from the recipes that are left.
ATTEMPTS = 20
#: Spaces with more combinations of values are not listed; no sweep tries that many.
LISTED = 5000


class Proposer:
    """An Optuna study fed from the ledger, with our trial numbers. No recipe is proposed twice."""

    def __init__(self, config: SweepConfig, folder: SweepFolder, state: SweepState) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._distributions = config, distributions(config)
        self._points = first_points(config)
        self._tried = {recipe_key(config, trial.params) for trial in state.trials.values()}
        self._direction = state.metric.direction
        self._all = finite_recipes(config, LISTED)
        self._repeats = may_repeat(config)
        self._open: dict[int, optuna.Trial] = {}
        # Built from the ledger by every process, so a journal torn by a kill does no harm.
        for leftover in folder.path.glob(f"{folder.study.name}*"):
            leftover.unlink()
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder.study))),
            study_name=config.name,
            direction=state.metric.direction,
        )
        _name_metric(self._study, state.metric.label)
        self._earlier: list[optuna.trial.FrozenTrial] = []  # completed by earlier processes
        for number in sorted(state.trials):
            trial = state.trials[number]
            if trial.finished:
                self._study.add_trial(frozen(trial, self._distributions))
            else:
                self._ask_fixed(trial.number, trial.params)
                for evaluation in trial.evaluations:
                    self._open[number].report(evaluation.score, evaluation.evaluation)
        self._earlier = [self._ranges_only(t) for t in state.trials.values() if t.status == "completed"]

    def _ranges_only(self, trial: TrialState) -> optuna.trial.FrozenTrial:
        """A completed trial as CMA-ES needs it: it searches ranges and refuses trials with anything else."""
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

    @property
    def exhausted(self) -> bool:
        """Whether the space is finite and every different recipe of it has been started."""
        return self._all is not None and self._all.keys() <= self._tried

    def propose(self, number: int) -> tuple[str, dict[str, Any]] | None:
        """(origin, params) of a new trial, a recipe that no earlier trial has; None if there is none left."""
        if self.exhausted:
            return None
        for origin, params in self._points:
            if recipe_key(self._config, params) not in self._tried:
                return self._fixed(number, origin, params)
        if not self._repeats:
            trial, params = self._draw(self._study, number)
            self._open[number] = trial
            self._tried.add(recipe_key(self._config, params))
            return "sampler", params
        for attempt in range(ATTEMPTS):
            _, params = self._draw(self._copy(), number, attempt)
            if recipe_key(self._config, params) not in self._tried:
                return self._fixed(number, "sampler", params)
        return self._fixed(number, "sampler", self._left(number))

    def _fixed(self, number: int, origin: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self._tried.add(recipe_key(self._config, params))
        self._ask_fixed(number, params)
        return origin, params

    def _copy(self) -> optuna.Study:
        """The study in memory: what is drawn there leaves no trace if it is a known recipe."""
        study = optuna.create_study(direction=self._direction)
        study.add_trials(self._study.get_trials(deepcopy=False))
        return study

    def _left(self, number: int) -> dict[str, Any]:
        """One of the recipes that were not tried, at random; the sampler insists on known ones."""
        from raybc.train.step import stream_seed  # here: it imports PyTorch, which the dashboard does without

        if self._all is not None:
            left = [key for key in sorted(self._all) if key not in self._tried]
            return self._all[left[stream_seed(self._config.search.seed, "left", number) % len(left)]]
        study = self._copy()
        for attempt in itertools.count():  # the space is infinite, so this ends
            seed = stream_seed(self._config.search.seed, "left", number, attempt) % 2**32
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
            params = self._asked(study)[1]
            if recipe_key(self._config, params) not in self._tried:
                return params
        raise AssertionError

    def _draw(self, study: optuna.Study, number: int, attempt: int = 0) -> tuple[optuna.Trial, dict[str, Any]]:
        study.sampler = make_sampler(self._config, number, self._earlier, attempt)
        trial, params = self._asked(study)
        assert attempt or trial.number == number
        return trial, params

    def _asked(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
        if not is_conditional(self._config):
            trial = study.ask(self._distributions)
            return trial, dict(trial.params)
        trial = study.ask()
        chosen: dict[str, Any] = {}
        for name in self._distributions:  # an axis that depends on another stands behind it
            if active(self._config, chosen, name):
                chosen[name] = _suggest(trial, name, self._distributions[name])
        return trial, chosen

    def link(self, number: int, tune_trial_id: str) -> None:
        """Store the id of the Tune trial in the Optuna trial (Tune's config has our number)."""
        self._open[number].set_user_attr("tune_trial_id", tune_trial_id)

    def report(self, number: int, evaluation: Evaluation, status: TrialStatus) -> None:
        """Tell Optuna a result that is in the ledger."""
        self._open[number].report(evaluation.score, evaluation.evaluation)
        if status == "completed":
            self._study.tell(self._open.pop(number), evaluation.score)
        elif status == "pruned":
            self._study.tell(self._open.pop(number), state=OptunaState.PRUNED)

    def failed(self, number: int) -> None:
        self._study.tell(self._open.pop(number), state=OptunaState.FAIL)
