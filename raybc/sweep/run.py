"""A sweep from start to end: check, demonstrate, search, measure, film, report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.cluster.capacity import allocate_sweep, machines, total
from raybc.cluster.nodes import check_shared
from raybc.cluster.session import ray_session
from raybc.data.control import refuse_other_control
from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.gains import far_starts_of, refuse_other_units
from raybc.data.instructions import check_language, language_notes
from raybc.data.notes import write_data_notes
from raybc.demos.spec import DemosSpec, check_source, source_of
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, observation_shapes, spec_of_task
from raybc.files import free_space_for, write_json
from raybc.registry import parse_env_name
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md
from raybc.report.read import load_run
from raybc.report.tables import NO_RATE, leaderboard, winner_line
from raybc.rollout.measured import check_tasks
from raybc.rollout.on_gpu import gpu_left
from raybc.rollout.pool import RolloutPool
from raybc.rollout.race import NO_RACE
from raybc.run_folder import SweepFolder
from raybc.run_start import check_folder, starting
from raybc.sweep.begin import (
    Launch,
    check_resume,
    check_trials,
    earlier_options,
    holding_out,
    is_complete,
    offline_source,
    with_metric,
)
from raybc.sweep.config import SweepConfig
from raybc.sweep.final import evaluate_final, film, list_videos, write_winner
from raybc.sweep.health import measured_again
from raybc.sweep.ledger import Ledger, SweepState, read_events
from raybc.sweep.live import LiveTable
from raybc.sweep.progress import Progress
from raybc.sweep.recipes import check_effects
from raybc.sweep.space import check_corners, eval_tasks, first_points, race_comparisons, sample_settings, task_of
from raybc.sweep.stages import Stages, Tables, counters, demonstrate
from raybc.sweep.study import attach_videos, check_sampler
from raybc.sweep.trackers import SweepTrackers
from raybc.sweep.trial import TrialContext
from raybc.sweep.tune import Recorder, search
from raybc.sweep.views import command_line, write_timeline, write_timing
from raybc.train.source import observed, read_data, recorded_observations
from raybc.versions import versions

#: Free disk that a sweep needs to start.
MEGABYTES = 300


def run_sweep(config: SweepConfig, launch: Launch) -> Path:
    """Run or resume a sweep; returns its folder. Everything that can be checked is checked before Ray starts."""
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
    with starting(folder, launch.overwrite, launch.inputs) as begun:
        check_resume(config, folder)
        env_spec = spec_of_task(task) if task is not None else None
        task = _observing(task, env_spec, config)
        instructions = _instructions(config, env_spec, task)
        dataset, demos = source_of(config.train, config.demos) if task is not None else offline_source(config)
        if demos is None or dataset.exists():
            store = read_data(config.train, dataset, cli.console.print, cli.episodes_bar)
            _check_data(config, store, env_spec, task, instructions)
            if task is not None and env_spec is not None and config.train.dataset:
                refuse_other_control(store, env_spec.env_args, task.name, config.train.action_key)
                cli.print_notes(refuse_other_units(store, task, env_spec))
                cli.print_notes(far_starts_of(store, env_spec, task.obs_keys))
        write_json(folder.config, config.to_dict())
        write_json(folder.versions, versions(env_spec.identity if env_spec is not None else {}))
        ledger = Ledger(folder.ledger)
        state = SweepState.from_events(read_events(folder.ledger), metric)
        try:
            _run(config, launch, env_spec, instructions, dataset, demos, ledger, state, begun)
        except KeyboardInterrupt:
            if not state.trials:
                raise cli.Interrupted("no trial had begun; run the same command again") from None
            raise cli.Interrupted(f"finished work is kept; continue with --resume ({folder.path})") from None
        finally:
            ledger.close()
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


def _run(
    config: SweepConfig,
    launch: Launch,
    env_spec: EnvSpec | None,
    instructions: Mapping[str, str],
    dataset: Path,
    demos: DemosSpec | None,
    ledger: Ledger,
    state: SweepState,
    begun: Callable[[], None],
) -> None:
    """With Ray: demonstrations, search, final evaluation, videos; then the report, without Ray."""
    folder = launch.folder
    task = _observing(task_of(config), env_spec, config)
    say = cli.console.print
    if state.trials:
        say(f"resuming: {len(state.finished())} of {config.search.trials} trials have finished")
    began = time.time()
    timing = Stages(ledger, state)
    note = ""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_session(launch.address, launch.cpus, launch.ray_dashboard))
        resources = config.resources
        allocation = allocate_sweep(
            machines(),
            trials=config.search.max_concurrent,
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
            "reserved": config.search.max_concurrent * resources.trial_cpus,
        }
        pool = None
        if task is not None:
            pool = stack.enter_context(RolloutPool.start(task.name, workers, eval_tasks(config), **pool_options))
        timing.add("start", began)
        if pool is not None and demos is not None and not dataset.exists():
            with timing.stage("demonstrations"):
                demonstrate(demos, dataset, pool)
        store = read_data(config.train, dataset)
        cli.print_notes((*store.remarks(), *(language_notes(config.train, store) if config.trainer is None else ())))
        write_data_notes(folder.data_notes, store)
        _check_data(config, store, env_spec, task, instructions)
        begun()  # what can be refused has been: the machines, their devices, the data
        context = TrialContext(
            folder=SweepFolder(folder.path.absolute()),
            train=config.train,
            task=task.name if task is not None else "",
            dataset=str(dataset.absolute()),
            fingerprint=store.fingerprint(bar=cli.images_bar),
            obs_keys=task.obs_keys if task is not None else recorded_observations(config.train, store),
            environment=env_spec.identity if env_spec is not None else {},
            seeds=config.seeds,
            steps=tuple(config.evaluation_step(k) for k in range(1, config.eval.evaluations + 1)),
            settings=tuple(sample_settings(config)),
            episodes=config.eval.episodes,
            race_comparisons=race_comparisons(config, state.metric),
            metric=state.metric,
            threads=allocation.threads,
            earlier_options=tuple(earlier_options(folder)),
            eval_tasks=eval_tasks(config),
            env_spec=env_spec,
            working_folder=str(Path.cwd()),
        )
        facts = {
            "command": command_line(),
            "cpus": total("CPU"),
            "gpus": total("GPU"),
            "threads": context.threads,
            "workers": workers,
            **({"max_steps": task.max_steps} if task is not None else {}),
            "data": {
                "path": str(dataset),
                "episodes": store.num_episodes,
                "transitions": len(store.actions_NA),
                "fingerprint": context.fingerprint,
            },
        }
        progress = Progress(folder, facts, lambda: counters(pool.stats()) if pool is not None else {})
        tables = Tables(folder, config, state)
        if config.search.trials > len(state.finished()):
            say(
                f"searching {config.search.trials} recipes x {len(config.seeds)} seeds on {store.num_episodes} "
                f"demonstrations of {config.train.env_name if task else dataset}; {workers} simulators; results in "
                f"{folder.path}{f'; trained by {config.trainer.function}' if config.trainer else ''}"
            )
            say(f"recipes are compared by {state.metric.label}: {state.metric.meaning}")
            if not state.metric.from_episodes:
                say(NO_RATE)
            elif config.eval.race and not context.race_comparisons:
                worst = state.metric.over_tasks == "worst"
                say(f"racing is off: {'means of starts say nothing about the worst task' if worst else NO_RACE}")
            if not any(origin == "defaults" for origin, _ in first_points(config)):
                say("the defaults are outside the space and are not tried")
        live = LiveTable(cli.console, state, config.search.trials, config.eval.evaluations)

        trackers = SweepTrackers(launch.trackers, config, folder, state)
        stack.callback(trackers.close)

        def on_event() -> None:
            tables.update()
            trackers.update()
            progress.update()
            live.refresh()

        for event in measured_again(state):
            say(f"trial {event['trial']} is measured again, because most of its episodes ended in errors")
            ledger.append(event)
            state.apply(event)
        recorder = Recorder(config, context, ledger, state, on_event)
        try:
            with timing.stage("search"), live:
                search(recorder, pool, folder.next_tune_session(), gpus_per_trial=allocation.gpus)
            missing = config.search.trials - len(state.finished())
            if recorder.exhausted:
                say(
                    f"the space has only {len(state.trials)} different recipes; all of them were tried, so the search "
                    f"ends after {len(state.finished())} of {config.search.trials} trials"
                )
            if missing > 0 and not (recorder.exhausted and not state.unfinished()):
                raise cli.Interrupted(
                    f"{len(state.finished())} of {config.search.trials} trials have finished; continue with --resume "
                    f"({folder.path})"
                )
            spans: list[tuple[float, float]] = []
            measured: dict[str, Any] = {}
            if pool is not None:
                with timing.stage("final"):
                    evaluate_final(recorder, pool, say)
                stats = pool.stats()
                spans, measured = stats["spans"], counters(stats)
                pool.close()
            winner = write_winner(folder, state)
            if pool is not None and winner is not None and config.final.videos:
                with timing.stage("videos"):
                    note, filmed = film(config, context, state, workers, pool_options)
                    spans = [*spans, *filmed]
                attach_videos(folder, list_videos(folder))
            trackers.update()
            trackers.finish(list_videos(folder))
        finally:
            tables.update(now=True)
            progress.end()
        if note:
            say(f"videos: {note}")
        timing.add("whole", began)
    facts |= {"video_note": note or None, "rollouts": measured}
    write_timeline(folder, state, began, spans)
    _report(folder, state, facts)


def _report(folder: SweepFolder, state: SweepState, facts: dict[str, Any]) -> None:
    write_timing(folder, state, facts)
    write_leaderboard_md(folder.path)
    page = write_report(folder.path)
    run = load_run(folder.path)
    cli.console.print(f"\n{winner_line(run, leaderboard(run))}\nreport: {page}")
    best = next(iter(state.ranking()), None)
    final = state.final_score(best) if best is not None else None
    if best is not None and final is not None and final.too_many_errors:
        message = next((row["first_error"]["message"] for row in best.final_rows if "first_error" in row), "unknown")
        raise cli.Failed(
            f"no winner was declared, because {final.errors_text}: {message}; when the simulator is mended, the same "
            "command with --resume measures these episodes again"
        )
    if not any(t.status in ("completed", "pruned") for t in state.trials.values()):
        reasons = "; ".join(dict.fromkeys(t.reason for t in state.trials.values()))
        raise cli.Failed(f"every trial failed: {reasons}")
