"""An evaluation from start to end: film the first starts, run the rest, save every row as soon as its episode ends."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from raybc import cli
from raybc.cluster.capacity import total
from raybc.cluster.nodes import check_visible
from raybc.envs.base import RenderOptions
from raybc.files import read_json, write_json, write_text
from raybc.metric import FORMER_KEY, KEY, Metric
from raybc.rollout.engine import Rollout
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.policy import MeasuredPolicy
from raybc.rollout.pool import RolloutPool
from raybc.rollout.recorder import recorded_file
from raybc.rollout.simulator_flags import SimulatorFlags
from raybc.rollout.stop import StopRule, UntilHalfwidth
from raybc.rollout.video import write_grid
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec, SampleSetting, UserError

#: Maximum number of videos in a grid.
GRID = 100
#: Rows by number of the job (sample setting) and of the start.
Known = dict[tuple[int, int], EpisodeRow]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured and how; see the flags of `python -m raybc.rollout`."""

    policy: MeasuredPolicy
    settings: tuple[SampleSetting, ...]
    specs: tuple[EpisodeSpec, ...]
    videos: int
    video_frame_skip: int
    render: RenderOptions
    until_halfwidth: float
    metric: Metric
    """Whose interval `until_halfwidth` narrows."""
    simulators: SimulatorFlags
    instruction: str = ""
    """See `Rollout.instruction`."""

    suite: str = ""
    """Where the tasks are those of a suite."""
    video_folder: Path | None = None
    """Folder for videos (None: in the folder of the evaluation)."""

    record_folder: Path | None = None
    """Folder for a file of each episode (None: not recorded)."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags that are kept beside the request, see `raybc.stored_flags`."""

    @property
    def task(self) -> str:
        """The (first) task."""
        return self.specs[0].task

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, whose starts take turns."""
        return tuple(dict.fromkeys(spec.task for spec in self.specs))

    @functools.cached_property
    def places(self) -> dict[tuple[str, int], int]:
        """Task and index of a start -> its place in `specs`."""
        return {(spec.task, spec.index): place for place, spec in enumerate(self.specs)}

    @property
    def rule(self) -> UntilHalfwidth | None:
        """What ends the jobs before their last starts, if anything does."""
        return UntilHalfwidth(self.until_halfwidth, self.metric) if self.until_halfwidth else None

    def jobs(self) -> list[Rollout]:
        path = self.policy.reference
        folder = "" if self.record_folder is None else str(self.record_folder.absolute())
        return [
            Rollout(path, setting, instruction=self.instruction, final_obs=True, record=folder)
            for setting in self.settings
        ]

    def request(self) -> dict[str, Any]:
        """Everything that decides the rows; an evaluation is only resumed with the same request."""
        return {
            **self.policy.to_plain(),
            **({"tasks": list(self.tasks)} if len(self.tasks) > 1 else {"task": self.task}),
            "settings": [s.to_plain() for s in self.settings],
            "starts": {
                "set": self.specs[0].split,
                "first": self.specs[0].index,
                "episodes": len(self.specs) // len(self.tasks),
            },
            "until_halfwidth": self.until_halfwidth,
            **({"metric": self.metric.name} if self.until_halfwidth and not self.metric.is_rate else {}),
            "videos": self.videos,
            **({"instruction": self.instruction} if self.instruction else {}),
        }

    def differences(self, before: dict[str, Any]) -> list[str]:
        """What makes this evaluation another one than the one with the request `before`; empty for the same."""
        request = self.request()
        if FORMER_KEY in before:
            before = before | {KEY: before[FORMER_KEY]}
        if before.get("run_id") in self.policy.run_ids:  # perhaps the id that an earlier release gave it
            before = before | {"run_id": self.policy.run_id}
        names = (*request, *(name for name in ("instruction",) if name not in request))
        pairs = [(name, before.get(name), request.get(name)) for name in names]
        return [f"{name}: was {was!r}, is {now!r}" for name, was, now in pairs if was != now]


def run_evaluation(
    config: EvaluationConfig, out: EvaluationFolder, begun: Callable[[], None] = lambda: None
) -> list[list[EpisodeRow]]:
    """Rows of each setting in the order of the starts. Ctrl-C and kill -9 lose no finished episode.

    begun: called when nothing can be refused any more.
    """
    known = _resume(config, out)
    if known:
        cli.console.print(f"resuming: {len(known)} episodes are already measured")
    try:
        with contextlib.ExitStack() as stack:
            workers, options = 0, {}
            if measured_rows(known, len(config.settings), len(config.specs), config.rule) is None:
                workers = stack.enter_context(config.simulators.ray())
                for path in config.policy.files:
                    check_visible(path)
                options = config.simulators.pool_options(config.policy.parameters)
            begun()
            if options.get("shared"):
                cli.console.print(f"inference: one actor for all simulators ({'GPU' if total('GPU') else 'CPU'})")
            progress, bar = stack.enter_context(progress_bar())
            run = EvaluationRun(config, out, known, progress, bar, options)
            if config.videos:
                run.film(workers)
            return run.measure(workers)
    except KeyboardInterrupt:
        raise cli.Interrupted(f"finished episodes are kept; continue with --resume ({out.path})") from None


def _resume(config: EvaluationConfig, out: EvaluationFolder) -> Known:
    """The rows of an earlier process that was interrupted."""
    if out.request.exists():
        differing = config.differences(read_json(out.request))
        if differing:
            raise UserError(f"{out.path}: --resume continues the same evaluation, but {'; '.join(differing)}")
    write_json(out.request, config.request() | {"flags": dict(config.flags)})
    known: Known = {}
    for path in (out.episodes, out.partial):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):  # torn: the episode is run again
                continue
            try:
                known |= _parse(line, config)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number} is damaged; start over with --overwrite") from None
    if config.record_folder is not None:  # an episode that was measured without --record is run again
        kept = [recorded_file(config.record_folder, spec).is_file() for spec in config.specs]
        known = {key: row for key, row in known.items() if kept[key[1]]}
    write_text(out.partial, "".join(_line(config, job, row) for (job, _), row in sorted(known.items())))
    return known


def _parse(line: str, config: EvaluationConfig) -> Known:
    row = json.loads(line)
    setting = SampleSetting(**{name: row.pop(name) for name in asdict(SampleSetting()) if name in row})
    key = config.settings.index(setting), config.places[row.get("task", config.task), row["index"]]
    return {} if row["outcome"] == "error" else {key: cast(EpisodeRow, row)}


def _line(config: EvaluationConfig, job: int, row: EpisodeRow) -> str:
    return json.dumps({**config.settings[job].to_plain(), **row}) + "\n"


def measured_rows(known: Known, jobs: int, starts: int, rule: StopRule | None) -> list[list[EpisodeRow]] | None:
    """The rows of each job if all of them are known; None if some have to be measured."""
    rows: list[list[EpisodeRow]] = [[] for _ in range(jobs)]
    for (j, s), row in sorted(known.items()):
        if s == len(rows[j]):  # without gaps from the first start on
            rows[j].append(row)
    ends = {} if rule is None else rule.update([[rule.value_of(row) for row in part] for part in rows])
    rows = [part[: ends.get(j, starts)] for j, part in enumerate(rows)]
    return rows if all(len(part) == ends.get(j, starts) for j, part in enumerate(rows)) else None


@contextlib.contextmanager
def progress_bar() -> Iterator[tuple[Progress, TaskID]]:
    """A bar of episodes with a field `rate`."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with cli.progress(*columns) as progress:
        yield progress, progress.add_task("episodes", total=None, rate="")


class EvaluationRun:
    """The part of an evaluation that needs Ray."""

    def __init__(
        self,
        config: EvaluationConfig,
        out: EvaluationFolder,
        known: Known,
        progress: Progress,
        bar: TaskID,
        options: Mapping[str, Any],
    ) -> None:
        """options: of each `RolloutPool`; not needed where all rows are known."""
        self._config, self._out, self._known, self._progress, self._bar = config, out, known, progress, bar
        self._options = options
        progress.update(bar, total=len(config.settings) * len(config.specs))
        self._show()

    def film(self, workers: int) -> None:
        """Run the first starts in simulators that render. Filmed episodes count like all others; if rendering fails,
        `measure` runs them without it."""
        config = self._config
        jobs = [
            replace(
                job,
                video=str(self._videos(job.setting).absolute()),
                video_frame_skip=config.video_frame_skip,
            )
            for job in config.jobs()
        ]
        specs = config.specs[: config.videos * len(config.tasks)]
        rows = self._evaluate("film", jobs, specs, workers=min(workers, len(specs)), render=config.render)
        failed = {(j, s): row for j, part in enumerate(rows) for s, row in enumerate(part) if row["outcome"] == "error"}
        for key in failed:  # perhaps only rendering is at fault, so they are measured again without it
            del self._known[key]
        if failed:
            which = "none" if len(failed) == len(jobs) * len(specs) else f"{len(failed)} could not be made"
            cli.console.print(f"videos: {which}: {next(iter(failed.values()))['message']}", style="yellow")
        for setting, part in zip(config.settings, rows, strict=True):
            folder = self._videos(setting)
            films = [(folder / r["video"], r["outcome"]) for r in part if r.get("video")]
            films = [(path, outcome) for path, outcome in films if path.is_file()][:GRID]
            if films:
                write_grid(films, folder / "grid.mp4")

    def measure(self, workers: int) -> list[list[EpisodeRow]]:
        config = self._config
        slots = config.simulators.slots or None
        return self._evaluate("run", config.jobs(), config.specs, workers=workers, rule=config.rule, slots=slots)

    def _videos(self, setting: SampleSetting) -> Path:
        if self._config.video_folder is None:
            return self._out.videos(setting)
        several = len(self._config.settings) > 1
        return self._config.video_folder / setting.slug() if several else self._config.video_folder

    def _evaluate(
        self,
        key: str,
        jobs: list[Rollout],
        specs: tuple[EpisodeSpec, ...],
        *,
        workers: int,
        rule: UntilHalfwidth | None = None,
        **options: Any,
    ) -> list[list[EpisodeRow]]:
        known = {k: row for k, row in self._known.items() if k[1] < len(specs)}
        found = measured_rows(known, len(jobs), len(specs), rule)
        if found is not None:
            return found
        saved = 0
        with (
            RolloutPool.start(self._config.task, workers, self._config.tasks, **self._options, **options) as pool,
            self._out.partial.open("a", encoding="utf-8") as partial,
        ):

            def save_finished() -> None:
                nonlocal saved
                for job, start, row in pool.finished(key, saved):
                    saved += 1
                    partial.write(_line(self._config, job, row))
                    self._known[job, start] = row
                partial.flush()
                self._show()

            rows = pool.evaluate(key, jobs, specs, rule, known, save_finished)
        for job, part in enumerate(rows):
            for start, row in enumerate(part):
                self._known[job, start] = row
        self._show()
        return rows

    def _show(self) -> None:
        rows = [row for row in self._known.values() if row["outcome"] != "error"]
        solved = sum(row["outcome"] == "success" for row in rows)
        rate = ""
        if rows and self._config.metric.has_success:
            rate = f"{solved} solved ({100 * solved / len(rows):.0f} %)"
        elif rows:
            rate = f"return {fmean(row['return'] for row in rows):.4g}"
        errors = len(self._known) - len(rows)
        rate += f"{', ' if rate else ''}{errors} error{'s' * (errors != 1)}" if errors else ""
        self._progress.update(self._bar, completed=len(self._known), rate=rate)
