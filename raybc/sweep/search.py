"""The search of a sweep and what follows it: the final evaluation, videos, the report.

`sweep/run.py` imports this module while demonstrations are made, since it imports Tune.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.cluster.capacity import SweepAllocation, total
from raybc.data.episodes import EpisodeStore
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md
from raybc.report.read import load_run
from raybc.report.tables import NO_RATE, leaderboard, winner_line
from raybc.rollout.pool import RolloutPool
from raybc.rollout.race import NO_RACE
from raybc.run_folder import SweepFolder
from raybc.sweep.begin import Launch, earlier_options
from raybc.sweep.config import SweepConfig
from raybc.sweep.final import evaluate_final, film, list_videos, rendering_pool, write_winner
from raybc.sweep.health import measured_again
from raybc.sweep.ledger import Ledger, SweepState
from raybc.sweep.live import LiveTable
from raybc.sweep.progress import Progress
from raybc.sweep.space import eval_tasks, first_points, race_comparisons, sample_settings
from raybc.sweep.stages import Stages, Tables, counters
from raybc.sweep.study import attach_videos
from raybc.sweep.trackers import SweepTrackers
from raybc.sweep.trial import TrialContext
from raybc.sweep.tune import Recorder, search
from raybc.sweep.views import write_timeline, write_timing
from raybc.train.source import recorded_observations
from raybc.waiting import waiting


@dataclass(frozen=True)
class Search:
    """What a sweep has when its search begins."""

    config: SweepConfig
    launch: Launch
    task: Task | None
    """With the observations that policies see; None without a simulator."""
    env_spec: EnvSpec | None
    dataset: Path
    store: EpisodeStore
    pool: RolloutPool | None
    pool_options: dict[str, Any]
    """Those of the pool, for another one that renders."""
    allocation: SweepAllocation
    concurrent: int
    """Trials at the same time."""
    ledger: Ledger
    state: SweepState
    timing: Stages
    began: float
    """Unix time at which this process began with the sweep."""

    @property
    def folder(self) -> SweepFolder:
        return self.launch.folder


def search_and_measure(given: Search) -> None:
    """Search, measure the best, film, and write the report."""
    config, folder, state, timing = given.config, given.folder, given.state, given.timing
    context = _context(given)
    facts = _facts(given, context)
    say = cli.console.print
    note = ""
    with contextlib.ExitStack() as stack:
        pool, workers = given.pool, given.allocation.workers
        progress = Progress(folder, facts, lambda: counters(pool.stats()) if pool is not None else {})
        tables = Tables(folder, config, state)
        if config.search.trials > len(state.finished()):
            _announce(given, context)
        live = LiveTable(cli.console, state, config.search.trials, config.eval.evaluations)

        trackers = SweepTrackers(given.launch.trackers, config, folder, state)
        stack.callback(trackers.close)

        def on_event() -> None:
            tables.update()
            trackers.update()
            progress.update()
            live.refresh()

        for event in measured_again(state):
            say(f"trial {event['trial']} is measured again, because most of its episodes ended in errors")
            given.ledger.append(event)
            state.apply(event)
        recorder = Recorder(config, context, given.ledger, state, on_event)
        try:
            with timing.stage("search"), live:
                search(
                    recorder,
                    pool,
                    folder.next_tune_session(),
                    gpus_per_trial=given.allocation.gpus,
                    concurrent=given.concurrent,
                )
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
            early = None
            if pool is not None:
                early = rendering_pool(config, context, workers, given.pool_options)
                if early is not None:
                    stack.callback(early.close)
                with timing.stage("final"), waiting("Measuring the best trials on the final starts"):
                    evaluate_final(recorder, pool, say)
                stats = pool.stats()
                spans, measured = stats["spans"], counters(stats)
                pool.close()
            winner = write_winner(folder, state)
            if pool is not None and winner is not None and config.final.videos:
                with timing.stage("videos"), waiting("Filming episodes"):
                    note, filmed = film(config, context, state, workers, given.pool_options, early)
                    spans = [*spans, *filmed]
                attach_videos(folder, list_videos(folder))
            trackers.update()
            trackers.finish(list_videos(folder))
        finally:
            tables.update(now=True)
            progress.end()
        if note:
            say(f"videos: {note}")
        timing.add("whole", given.began)
    facts |= {"video_note": note or None, "rollouts": measured}
    write_timeline(folder, state, given.began, spans)
    with waiting("Writing the report"):
        page = _pages(folder, state, facts)
    _conclude(folder, state, page)


def _context(given: Search) -> TrialContext:
    """What all trials share."""
    config, folder, task, env_spec, store = given.config, given.folder, given.task, given.env_spec, given.store
    dataset, allocation, metric = given.dataset, given.allocation, given.state.metric
    return TrialContext(
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
        race_comparisons=race_comparisons(config, metric),
        metric=metric,
        threads=allocation.threads,
        earlier_options=tuple(earlier_options(folder)),
        eval_tasks=eval_tasks(config),
        env_spec=env_spec,
        working_folder=str(Path.cwd()),
    )


def _facts(given: Search, context: TrialContext) -> dict[str, Any]:
    """Of the machines and the data, for progress.json and timing.json."""
    task, store = given.task, given.store
    return {
        "command": given.launch.command,
        "cpus": total("CPU"),
        "gpus": total("GPU"),
        "threads": context.threads,
        "workers": given.allocation.workers,
        **({"max_steps": task.max_steps} if task is not None else {}),
        "data": {
            "path": str(given.dataset),
            "episodes": store.num_episodes,
            "transitions": len(store.actions_NA),
            "fingerprint": context.fingerprint,
        },
    }


def _announce(given: Search, context: TrialContext) -> None:
    """Say what is searched, and how recipes are compared."""
    config, store, state, say = given.config, given.store, given.state, cli.console.print
    by = f"; trained by {config.trainer.function}" if config.trainer else ""
    say(
        f"searching {config.search.trials} recipes x {len(config.seeds)} seeds on {store.num_episodes} "
        f"demonstrations of {config.train.env_name if given.task else given.dataset}; "
        f"{given.allocation.workers} simulators; results in {given.folder.path}{by}"
    )
    say(f"recipes are compared by {state.metric.label}: {state.metric.meaning}")
    if not state.metric.from_episodes:
        say(NO_RATE)
    elif config.eval.race and not context.race_comparisons:
        worst = state.metric.over_tasks == "worst"
        say(f"racing is off: {'means of starts say nothing about the worst task' if worst else NO_RACE}")
    if not any(origin == "defaults" for origin, _ in first_points(config)):
        say("the defaults are outside the space and are not tried")


def _pages(folder: SweepFolder, state: SweepState, facts: dict[str, Any]) -> Path:
    """Write timing.json, leaderboard.md and report.html, and return the last one's path."""
    write_timing(folder, state, facts)
    write_leaderboard_md(folder.path)
    return write_report(folder.path)


def _conclude(folder: SweepFolder, state: SweepState, page: Path) -> None:
    """Print the result. Raises `cli.Failed` where there is none."""
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
