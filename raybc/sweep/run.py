"""A sweep from start to end: check, demonstrate, search, measure, film, report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress as ProgressBar

from raybc import cli
from raybc.cluster.capacity import allocate_sweep, machines, total
from raybc.cluster.nodes import check_shared
from raybc.cluster.session import ray_session
from raybc.config import Role
from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.load import read_for
from raybc.data.notes import write_data_notes
from raybc.demos.generate import generate
from raybc.demos.spec import DemosSpec, check_source, source_of
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, observation_shapes, spec_of_task
from raybc.files import free_space_for, read_json, write_json
from raybc.objective import Objective, bind
from raybc.registry import get_task, parse_env_name
from raybc.report.html import write_report
from raybc.report.tables import leaderboard, load_run, winner_line, write_leaderboard_md
from raybc.rollout.pool import RolloutPool
from raybc.rollout.race import NO_RACE
from raybc.rows import PoolStats, StageEvent
from raybc.run_folder import SweepFolder
from raybc.run_start import Resume, check_folder, starting
from raybc.sweep.config import SweepConfig, to_plain
from raybc.sweep.final import evaluate_final, film, list_videos, write_winner
from raybc.sweep.health import measured_again
from raybc.sweep.ledger import Ledger, SweepState, read_events
from raybc.sweep.live import LiveTable
from raybc.sweep.load import saved_sweep
from raybc.sweep.progress import Progress
from raybc.sweep.recipes import check_effects
from raybc.sweep.space import check_corners, first_points, objective_of, race_comparisons, sample_settings
from raybc.sweep.study import attach_videos, check_sampler
from raybc.sweep.trial import TrialContext
from raybc.sweep.tune import Recorder, search
from raybc.sweep.views import command_line, write_tables, write_timeline, write_timing
from raybc.types import UserError
from raybc.versions import versions

#: Keys that may differ when a sweep is resumed: how many more trials, and which resources.
MAY_CHANGE = ("search.trials", "search.max_concurrent", "search.pack", "final", "resources")
#: Free disk that a sweep needs to start.
MEGABYTES = 300
#: Minimum seconds between two updates of the tables while the search runs.
TABLE_INTERVAL = 2.0


@dataclass(frozen=True)
class Launch:
    """How a sweep is run (not what it searches)."""

    folder: SweepFolder
    resume: Resume = "False"
    overwrite: bool = False
    address: str = ""
    cpus: int | None = None
    inputs: tuple[Path, ...] = ()
    """Files and folders that the sweep reads."""
    ray_dashboard: bool = False
    """Whether a local Ray serves its dashboard."""


def run_sweep(config: SweepConfig, launch: Launch) -> Path:
    """Run or resume a sweep; returns its folder. Everything that can be checked is checked before Ray starts."""
    name = parse_env_name(config.train.env_name)
    task = get_task(name.task)
    cli.print_notes(task.notes)
    check_source(name, config.train.dataset or config.train.ogbench_dataset_dir)
    folder = launch.folder
    config, objective = _with_objective(config, launch, task)
    _check_without_data(config)
    if launch.overwrite or not folder.config.is_file():  # sweeps of earlier releases go on as they began
        check_effects(config)
    check_folder(folder, folder.config, launch.resume, launch.overwrite, launch.inputs)
    free_space_for(folder.path, MEGABYTES)
    with starting(folder, launch.overwrite, launch.inputs) as begun:
        _check_resume(config, folder)
        env_spec = spec_of_task(task)
        dataset, demos = source_of(config.train, config.demos)
        if demos is None or dataset.exists():
            _check_data(
                config,
                read_for(dataset, name.task, skip_bad_episodes=config.train.skip_bad_episodes),
                env_spec,
                task.obs_keys,
            )
        write_json(folder.config, config.to_dict())
        write_json(folder.versions, versions(env_spec.identity))
        ledger = Ledger(folder.ledger)
        state = SweepState.from_events(read_events(folder.ledger), objective)
        try:
            _run(config, launch, env_spec, dataset, demos, ledger, state, begun)
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


def _with_objective(config: SweepConfig, launch: Launch, task: Task) -> tuple[SweepConfig, Objective]:
    """The sweep with its objective resolved, for config.json. A resumed sweep keeps the one it was started with: those
    of earlier releases compared recipes by success, whatever the task."""
    path = launch.folder.config
    if config.objective is None and launch.resume != "False" and not launch.overwrite and path.is_file():
        before = saved_sweep(read_json(path), str(path)).objective
        if before is not None:
            objective = bind(before, task)
            if before == "success" and not task.has_success:
                cli.console.print(
                    f"warning: {path} was started by a release that compared recipes by success, which {task.name} "
                    "does not tell; start it again with another --out",
                    style="yellow",
                )
            return dataclasses.replace(config, objective=objective.name), objective
    objective = objective_of(config)
    return dataclasses.replace(config, objective=objective.name), objective


def _check_resume(config: SweepConfig, folder: SweepFolder) -> None:
    """A sweep is resumed with the configuration it was started with, but for what changes no recipe."""
    path = folder.config
    if not path.exists():
        if folder.ledger.exists():
            raise UserError(f"{path}: missing, so it is unknown what this run searched; use --overwrite to start over")
        return
    before = saved_sweep(read_json(path), str(path))
    options = config.train.options()
    outputs = {f"train.{name}" for name, info in options.items() if info.option.role is Role.OUTPUT}
    differing = []
    changed = []
    for key, old, new in _differences(to_plain(before), config.to_dict()):
        if key in outputs:
            changed.append(f"{key}: was {old!r}, is {new!r}")
        elif not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            differing.append(f"{key}: was {old!r}, is {new!r}")
    if differing:
        raise UserError(
            f"{folder.path}: --resume continues the same sweep, but the configuration differs: {'; '.join(differing)}; "
            "use another --out, or --overwrite"
        )
    for change in changed:
        cli.console.print(f"same sweep, {change}")
    if changed:  # states of release 0.1.0 carry ids that covered these options, too
        earlier = earlier_options(folder)
        write_json(folder.earlier_options, [*earlier, before.train.to_plain()])


def earlier_options(folder: SweepFolder) -> list[dict[str, Any]]:
    """The options of a run with which earlier processes trained, where they were others."""
    return list(read_json(folder.earlier_options)) if folder.earlier_options.exists() else []


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def _check_data(config: SweepConfig, store: EpisodeStore, env_spec: EnvSpec, obs_keys: tuple[str, ...]) -> None:
    check_matches_task(store, observation_shapes(env_spec, obs_keys), env_spec.action_size, config.train.env_name)
    check_corners(config, store)


def _run(
    config: SweepConfig,
    launch: Launch,
    env_spec: EnvSpec,
    dataset: Path,
    demos: DemosSpec | None,
    ledger: Ledger,
    state: SweepState,
    begun: Callable[[], None],
) -> None:
    """With Ray: demonstrations, search, final evaluation, videos; then the report, without Ray."""
    folder = launch.folder
    name = parse_env_name(config.train.env_name)
    task = get_task(name.task)
    say = cli.console.print
    if state.trials:
        say(f"resuming: {len(state.finished())} of {config.search.trials} trials have finished")
    began = time.time()
    timing = _Stages(ledger, state)
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
        )
        workers = allocation.workers
        check_shared(folder.path, dataset)
        pool_options = {
            "worker_cpus": resources.worker_cpus,
            "deadline": resources.episode_deadline,
            "reserved": config.search.max_concurrent * resources.trial_cpus,
        }
        pool = stack.enter_context(RolloutPool.start(name.task, workers, **pool_options))
        timing.add("start", began)
        if demos is not None and not dataset.exists():
            with timing.stage("demonstrations"):
                _demonstrate(demos, dataset, pool)
        store = read_for(dataset, name.task, skip_bad_episodes=config.train.skip_bad_episodes)
        cli.print_notes(store.remarks())
        write_data_notes(folder.data_notes, store)
        _check_data(config, store, env_spec, task.obs_keys)
        begun()  # what can be refused has been: the machines, their devices, the data
        context = TrialContext(
            folder=SweepFolder(folder.path.absolute()),
            task=name.task,
            dataset=str(dataset.absolute()),
            fingerprint=store.fingerprint(),
            obs_keys=task.obs_keys,
            environment=env_spec.identity,
            skip_bad_episodes=config.train.skip_bad_episodes,
            seeds=config.seeds,
            steps=tuple(config.evaluation_step(k) for k in range(1, config.eval.evaluations + 1)),
            settings=tuple(sample_settings(config)),
            episodes=config.eval.episodes,
            race_comparisons=race_comparisons(config, state.objective),
            objective=state.objective,
            threads=allocation.threads,
            earlier_options=tuple(earlier_options(folder)),
        )
        facts = {
            "command": command_line(),
            "cpus": total("CPU"),
            "gpus": total("GPU"),
            "threads": context.threads,
            "workers": workers,
            "max_steps": task.max_steps,
            "data": {
                "path": str(dataset),
                "episodes": store.num_episodes,
                "transitions": len(store.actions_NA),
                "fingerprint": context.fingerprint,
            },
        }
        progress = Progress(folder, facts, lambda: counters(pool.stats()))
        tables = _Tables(folder, config, state)
        if config.search.trials > len(state.finished()):
            say(
                f"searching {config.search.trials} recipes x {len(config.seeds)} seeds on {store.num_episodes} "
                f"demonstrations of {config.train.env_name}; {workers} simulators; results in {folder.path}"
            )
            say(f"recipes are compared by {state.objective.label}: {state.objective.meaning}")
            if config.eval.race and not context.race_comparisons:
                say(f"racing is off: {NO_RACE}")
            if not any(origin == "defaults" for origin, _ in first_points(config)):
                say("the defaults are outside the space and are not tried")
        live = LiveTable(cli.console, state, config.search.trials, config.eval.evaluations)

        def on_event() -> None:
            tables.update()
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
            with timing.stage("final"):
                evaluate_final(recorder, pool, say)
            stats = pool.stats()
            pool.close()
            winner = write_winner(folder, state)
            if winner is not None and config.final.videos:
                with timing.stage("videos"):
                    note, filmed = film(config, context, state, workers, pool_options)
                    stats["spans"] += filmed
                attach_videos(folder, list_videos(folder))
        finally:
            tables.update(now=True)
            progress.end()
        if note:
            say(f"videos: {note}")
        timing.add("whole", began)
    facts |= {"video_note": note or None, "rollouts": counters(stats)}
    write_timeline(folder, state, began, stats["spans"])
    _report(folder, state, facts)


def counters(stats: PoolStats) -> dict[str, Any]:
    """The counters of a pool that are of interest to people."""
    return {k: v for k, v in stats.items() if k not in ("pids", "spans", "queued")}


class _Stages:
    """Records in the ledger how long each stage took."""

    def __init__(self, ledger: Ledger, state: SweepState) -> None:
        self._ledger, self._state = ledger, state

    def add(self, name: str, start: float) -> None:
        event: StageEvent = {"event": "stage", "name": name, "start": start, "end": time.time()}
        self._ledger.append(event)
        self._state.apply(event)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.time()
        try:
            yield
        finally:
            self.add(name, start)


class _Tables:
    """Updates the tables of the run folder, not too often."""

    def __init__(self, folder: SweepFolder, config: SweepConfig, state: SweepState) -> None:
        self._write: Callable[[], None] = lambda: write_tables(folder, config, state)
        self._last = 0.0

    def update(self, now: bool = False) -> None:
        if now or time.monotonic() - self._last > TABLE_INTERVAL:
            self._write()
            self._last = time.monotonic()


def _demonstrate(demos: DemosSpec, dataset: Path, pool: RolloutPool) -> None:
    with ProgressBar(console=cli.console) as progress:
        bar = progress.add_task(f"{demos.task} demonstrations", total=demos.config.episodes)
        made = generate(demos, dataset, pool, lambda done, total: progress.update(bar, completed=min(done, total)))
        progress.update(bar, completed=demos.config.episodes)
    cli.console.print(
        f"the expert solved {made['successes']} of {made['attempts']} starts; demonstrations are in {dataset}"
    )


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
