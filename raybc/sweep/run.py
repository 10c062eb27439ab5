"""A sweep from start to end: check, demonstrate, search, measure, film, report.

What takes seconds is done side by side: Ray starts while a simulator is looked at, and Tune is imported while
demonstrations are made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from raybc import cli
from raybc.cluster.capacity import allocate_sweep, machines, trials_with_room
from raybc.cluster.nodes import check_shared
from raybc.cluster.session import ray_beside
from raybc.data.control import refuse_other_control
from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.gains import far_starts_of, refuse_other_units
from raybc.data.instructions import check_language, language_notes
from raybc.data.notes import write_data_notes
from raybc.demos.generate import generate_shown
from raybc.demos.spec import DemosSpec, check_source, source_of
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, observation_shapes, spec_of_task
from raybc.files import free_space_for, write_json
from raybc.registry import parse_env_name
from raybc.report.read import load_run
from raybc.report.tables import leaderboard, winner_line
from raybc.rollout.measured import check_tasks
from raybc.rollout.on_gpu import gpu_left
from raybc.rollout.pool import RolloutPool
from raybc.run_start import check_folder, starting
from raybc.sweep.begin import (
    Launch,
    check_resume,
    check_trials,
    holding_out,
    is_complete,
    offline_source,
    with_metric,
)
from raybc.sweep.config import SweepConfig
from raybc.sweep.heartbeat import heartbeat
from raybc.sweep.ledger import Ledger, SweepState, read_events
from raybc.sweep.recipes import check_effects
from raybc.sweep.space import check_corners, eval_tasks, task_of
from raybc.sweep.stages import Stages
from raybc.sweep.study import check_sampler
from raybc.train.source import observed, read_data
from raybc.versions import versions
from raybc.waiting import waiting

#: Free disk that a sweep needs to start.
MEGABYTES = 300


def run_sweep(config: SweepConfig, launch: Launch) -> Path:
    """Run or resume a sweep; returns its folder. What needs no simulator is checked before one is built."""
    task = task_of(config)
    folder = launch.folder
    if task is not None:
        cli.print_notes(task.notes)
        named = config.train.dataset or config.train.ogbench_dataset_dir
        check_source(parse_env_name(config.train.env_name), named)
    else:
        config = holding_out(config)
    config, metric = with_metric(config, launch, task)
    _check_without_data(config)
    if launch.overwrite or not folder.config.is_file():  # sweeps of earlier releases go on as they began
        check_effects(config)
    check_folder(folder, folder.config, launch.resume, launch.overwrite, launch.inputs)
    if launch.resume != "False":
        events = list(read_events(folder.ledger))
        known = SweepState.from_events(events, metric)
        check_trials(config, folder, known)
        if is_complete(config, folder, events, known):
            run = load_run(folder.path)
            cli.console.print(
                f"nothing to do: all {len(known.trials)} trials have finished; more: --set search.trials=N"
            )
            cli.console.print(f"\n{winner_line(run, leaderboard(run))}\nreport: {folder.report}")
            return folder.path
    free_space_for(folder.path, MEGABYTES)
    with starting(folder, launch.overwrite, launch.inputs) as begun, heartbeat(folder.path.resolve()):
        check_resume(config, folder)
        dataset, demos = source_of(config.train, config.demos) if task is not None else offline_source(config)
        store = None
        if demos is None or dataset.exists():
            store = read_data(config.train, dataset, cli.console.print, cli.episodes_bar)
        began = time.time()
        state = SweepState(metric=metric)
        try:
            with ray_beside(launch.address, launch.cpus, launch.ray_dashboard) as connected:
                with waiting("Starting Ray" + (f" and building a simulator of {task.name}" if task else "")):
                    env_spec = spec_of_task(task) if task is not None else None
                    task = _observing(task, env_spec, config)
                    instructions = _instructions(config, env_spec, task)
                    if store is not None:
                        _check_data(config, store, env_spec, task, instructions)
                        if task is not None and env_spec is not None and config.train.dataset:
                            refuse_other_control(store, env_spec.env_args, task.name, config.train.action_key)
                            cli.print_notes(refuse_other_units(store, task, env_spec))
                            cli.print_notes(far_starts_of(store, env_spec, task.obs_keys))
                    connected()
                write_json(folder.config, config.to_dict())
                write_json(folder.versions, versions(env_spec.identity if env_spec is not None else {}))
                with contextlib.closing(Ledger(folder.ledger)) as ledger:
                    state = SweepState.from_events(read_events(folder.ledger), metric)
                    sweep = _Sweep(config, launch, task, env_spec, instructions, dataset, demos, ledger, state, began)
                    _run(sweep, store, begun)
        except KeyboardInterrupt:
            if not state.trials:
                raise cli.Interrupted("no trial had begun; run the same command again") from None
            raise cli.Interrupted(f"finished work is kept; continue with --resume ({folder.path})") from None
    return folder.path


def _check_without_data(config: SweepConfig) -> None:
    config.validate()
    check_sampler(config)
    check_corners(config)


def _observing(task: Task | None, env_spec: EnvSpec | None, config: SweepConfig) -> Task | None:
    """The task with the observations that the policies see."""
    if task is None or env_spec is None:
        return task
    return dataclasses.replace(task, obs_keys=observed(config.train, env_spec, task.obs_keys))


def _instructions(config: SweepConfig, env_spec: EnvSpec | None, task: Task | None) -> dict[str, str]:
    """Task -> instruction of what recipes are measured on, each looked at once where there are several."""
    if task is None or env_spec is None:
        return {}
    several = eval_tasks(config)
    if not several:
        return {task.name: env_spec.instruction or task.instruction}
    return check_tasks(several, observation_shapes(env_spec, task.obs_keys), env_spec.action_size, task.name)


def _check_data(
    config: SweepConfig,
    store: EpisodeStore,
    env_spec: EnvSpec | None,
    task: Task | None,
    instructions: Mapping[str, str],
) -> None:
    if task is not None and env_spec is not None:
        shapes = observation_shapes(env_spec, task.obs_keys)
        check_matches_task(store, shapes, env_spec.action_size, config.train.env_name)
        for kind in config.kinds("language"):
            check_language(config.train.changed(language=kind), store, instructions)
    check_corners(config, store)


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """What has been checked."""

    config: SweepConfig
    launch: Launch
    task: Task | None
    env_spec: EnvSpec | None
    instructions: Mapping[str, str]
    dataset: Path
    demos: DemosSpec | None
    ledger: Ledger
    state: SweepState
    began: float
    """When Ray began to start (unix time)."""


def _run(sweep: _Sweep, store: EpisodeStore | None, begun: Callable[[], None]) -> None:
    """With Ray: simulators and demonstrations, then the search. store: the data, if they are there."""
    config, launch, task, state = sweep.config, sweep.launch, sweep.task, sweep.state
    folder, dataset = launch.folder, sweep.dataset
    if state.trials:
        cli.console.print(f"resuming: {len(state.finished())} of {config.search.trials} trials have finished")
    timing = Stages(sweep.ledger, state)
    with contextlib.ExitStack() as stack:
        resources = config.resources
        trials = trials_with_room(
            machines(), config.search.max_concurrent, resources.trial_cpus, resources.worker_cpus, task is not None
        )
        if trials < config.search.max_concurrent:
            cli.console.print(
                f"this machine has one CPU: trials are run {trials} at a time instead of {config.search.max_concurrent}"
            )
        allocation = allocate_sweep(
            machines(),
            trials=trials,
            trial_cpus=resources.trial_cpus,
            workers=resources.workers,
            worker_cpus=resources.worker_cpus,
            device=config.train.device,
            simulators=task is not None,
            gpu_left=gpu_left([task.name, *eval_tasks(config)]) if task is not None else 1.0,
        )
        workers = allocation.workers
        check_shared(folder.path, dataset)
        pool_options = {
            "worker_cpus": resources.worker_cpus,
            "deadline": resources.episode_deadline,
            "reserved": trials * resources.trial_cpus,
        }
        pool = None
        if task is not None:
            pool = stack.enter_context(RolloutPool.start(task.name, workers, eval_tasks(config), **pool_options))
        timing.add("start", sweep.began)
        if pool is not None and sweep.demos is not None and store is None:
            with timing.stage("demonstrations"):
                made = generate_shown(sweep.demos, dataset, pool, meanwhile=_import_search)
            cli.console.print(
                f"the expert solved {made['successes']} of {made['attempts']} starts; demonstrations are in {dataset}"
            )
        else:
            with waiting("Loading the search"):
                _import_search()
        if store is None:
            store = read_data(config.train, dataset)
        notes = language_notes(config.train, store) if config.trainer is None else ()
        cli.print_notes((*store.remarks(), *notes))
        write_data_notes(folder.data_notes, store)
        _check_data(config, store, sweep.env_spec, task, sweep.instructions)
        begun()  # what can be refused has been: the machines, their devices, the data
        from raybc.sweep.search import Search, search_and_measure

        search_and_measure(
            Search(
                config=config,
                launch=launch,
                task=task,
                env_spec=sweep.env_spec,
                dataset=dataset,
                store=store,
                pool=pool,
                pool_options=pool_options,
                allocation=allocation,
                concurrent=trials,
                ledger=sweep.ledger,
                state=state,
                timing=timing,
                began=sweep.began,
            )
        )


def _import_search() -> None:
    """Import what searches: Tune takes seconds."""
    import raybc.sweep.search  # noqa: F401
