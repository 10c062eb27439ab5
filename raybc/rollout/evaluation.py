"""A measurement from beginning to end: film the first starts, run the rest, keep every row as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from raybc import cli
from raybc.bundle import WEIGHTS, PolicyBundle
from raybc.envs.base import RenderOptions
from raybc.files import read_json, write_json, write_text
from raybc.rollout.engine import Rollout
from raybc.rollout.stop import UntilHalfwidth
from raybc.rollout.video import write_grid
from raybc.types import EpisodeSpec, SampleSetting, UserError

#: Rows as they end; replaced by episodes.jsonl at the end. What it says is not measured again by --resume.
PARTIAL = "episodes.partial.jsonl"
RECORD = "rollout.json"

Known = dict[tuple[int, int], dict[str, Any]]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured and how; see the flags of `python -m raybc.rollout`."""

    bundle: Path
    settings: tuple[SampleSetting, ...]
    specs: tuple[EpisodeSpec, ...]
    videos: int
    video_frame_skip: int
    render: RenderOptions
    until_halfwidth: float
    workers: int
    slots: int | None
    inference: str
    recycle: int
    deadline: float
    address: str

    @property
    def task(self) -> str:
        return self.specs[0].task

    def works(self) -> list[Rollout]:
        return [Rollout(str(self.bundle.absolute()), setting) for setting in self.settings]

    def record(self, bundle: PolicyBundle) -> dict[str, Any]:
        """What decides the rows; a measurement is only gone on with when it is the same."""
        return {
            "bundle": str(self.bundle.absolute()),
            "run_id": bundle.run_id,
            "step": bundle.step,
            "task": self.task,
            "settings": [asdict(s) for s in self.settings],
            "starts": {
                "set": self.specs[0].split,
                "first": self.specs[0].index,
                "episodes": len(self.specs),
            },
            "until_halfwidth": self.until_halfwidth,
            "videos": self.videos,
        }


def run_evaluation(measurement: EvaluationConfig, bundle: PolicyBundle, out: Path) -> list[list[dict[str, Any]]]:
    """Rows of each setting in the order of the starts. Ctrl-C and kill -9 lose nothing that has ended."""
    known = _open(measurement, bundle, out)
    if known:
        cli.console.print(f"going on: {len(known)} episodes are measured")
    from raybc.cluster.nodes import check_visible
    from raybc.cluster.session import allocate_workers, ray_session

    try:
        with ray_session(measurement.address) as cpus, _progress() as (progress, bar):
            check_visible(measurement.bundle / WEIGHTS)
            workers = allocate_workers(cpus, trials=0, trial_cpus=0, workers=measurement.workers, worker_cpus=1.0)
            shared = _shared(measurement, bundle)
            if shared:
                cli.console.print(f"inference: one actor for all simulators ({'GPU' if _gpus() else 'CPU'})")
            sitting = EvaluationRun(measurement, out, known, progress, bar, shared)
            if measurement.videos:
                sitting.film(workers)
            return sitting.run(workers)
    except KeyboardInterrupt:
        raise cli.Interrupted(f"the episodes that ended are kept; go on with --resume ({out})") from None


def _open(measurement: EvaluationConfig, bundle: PolicyBundle, out: Path) -> Known:
    """What an earlier, interrupted measurement has left."""
    record = measurement.record(bundle)
    if (out / RECORD).exists():
        before = read_json(out / RECORD)
        if before.get("run_id") in bundle.run_ids:  # perhaps the id that an earlier release gave it
            before["run_id"] = bundle.run_id
        differing = [f"{k}: was {before.get(k)!r}, is {v!r}" for k, v in record.items() if before.get(k) != v]
        if differing:
            raise UserError(f"{out}: --resume continues the same measurement, but {'; '.join(differing)}")
    write_json(out / RECORD, record)
    known: Known = {}
    for name in ("episodes.jsonl", PARTIAL):
        path = out / name
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):  # torn: an episode that is run again
                continue
            try:
                known |= _parse(line, measurement)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number} is damaged; begin anew with --overwrite") from None
    write_text(out / PARTIAL, "".join(_line(measurement, w, row) for (w, _), row in sorted(known.items())))
    return known


def _parse(line: str, measurement: EvaluationConfig) -> Known:
    row = json.loads(line)
    setting = SampleSetting(**{name: row.pop(name) for name in asdict(SampleSetting())})
    key = measurement.settings.index(setting), row["index"] - measurement.specs[0].index
    return {} if row["outcome"] == "error" else {key: row}


def _line(measurement: EvaluationConfig, work: int, row: dict[str, Any]) -> str:
    return json.dumps(asdict(measurement.settings[work]) | row) + "\n"


@contextmanager
def _progress() -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=cli.console) as progress:
        yield progress, progress.add_task("episodes", total=None, rate="")


def _gpus() -> float:
    import ray

    return float(ray.cluster_resources().get("GPU", 0))


def _shared(measurement: EvaluationConfig, bundle: PolicyBundle) -> bool:
    from raybc.inference.shared import LARGE

    if measurement.inference != "auto":
        return measurement.inference == "shared"
    return bool(_gpus()) and sum(w.numel() for w in bundle.weights.values()) > LARGE


class EvaluationRun:
    """The measurement on a running Ray."""

    def __init__(
        self, measurement: EvaluationConfig, out: Path, known: Known, progress: Progress, bar: TaskID, shared: bool
    ) -> None:
        self._m, self._out, self._known, self._progress, self._bar = measurement, out, known, progress, bar
        self._options: dict[str, Any] = {
            "worker_cpus": 1.0,
            "deadline": measurement.deadline,
            "recycle": measurement.recycle,
            "shared": shared,
            "gpus": min(1.0, _gpus()) if shared else 0.0,
        }
        progress.update(bar, total=len(measurement.settings) * len(measurement.specs))
        self._show()

    def film(self, workers: int) -> None:
        """Run the first starts in simulators that render. Filmed episodes are counted episodes; where no image can
        be made, they are left to the others."""
        m = self._m
        works = [
            replace(w, video=str(self._folder(w.setting).absolute()), video_frame_skip=m.video_frame_skip)
            for w in m.works()
        ]
        specs = m.specs[: m.videos]
        rows = self._evaluate("film", works, specs, workers=min(workers, m.videos), render=m.render)
        failed = {(w, s): row for w, part in enumerate(rows) for s, row in enumerate(part) if row["outcome"] == "error"}
        for key in failed:  # perhaps only the image's fault: the others run them without
            del self._known[key]
        if failed:
            which = "none" if len(failed) == len(works) * len(specs) else f"{len(failed)} could not be made"
            cli.console.print(f"videos: {which}: {next(iter(failed.values()))['message']}", style="yellow")
        for setting, part in zip(m.settings, rows, strict=True):
            folder = self._folder(setting)
            films = [(folder / r["video"], r["outcome"]) for r in part if r.get("video")]
            films = [(path, outcome) for path, outcome in films if path.is_file()]
            if films:
                write_grid(films, folder / "grid.mp4")

    def run(self, workers: int) -> list[list[dict[str, Any]]]:
        rule = UntilHalfwidth(self._m.until_halfwidth) if self._m.until_halfwidth else None
        return self._evaluate("run", self._m.works(), self._m.specs, workers=workers, rule=rule, slots=self._m.slots)

    def _folder(self, setting: SampleSetting) -> Path:
        return self._out / "videos" / f"flow_{setting.flow_steps}"

    def _evaluate(
        self, key: str, works: list[Rollout], specs: tuple[EpisodeSpec, ...], *, workers: int,
        rule: UntilHalfwidth | None = None, **options: Any,
    ) -> list[list[dict[str, Any]]]:  # fmt: skip
        import ray

        from raybc.rollout.pool import RolloutPool

        known = {k: row for k, row in self._known.items() if k[1] < len(specs)}
        if rule is None and len(known) == len(works) * len(specs):
            return [[known[w, s] for s in range(len(specs))] for w in range(len(works))]
        with (
            RolloutPool.start(self._m.task, workers, **self._options, **options) as pool,
            (self._out / PARTIAL).open("a", encoding="utf-8") as partial,
        ):
            ref = pool.submit(key, works, specs, rule, known)
            seen = 0
            while not ray.wait([ref], timeout=0.3)[0]:
                fresh = pool.ended(key, seen)
                seen += len(fresh)
                for work, start, row in fresh:
                    partial.write(_line(self._m, work, row))
                    self._known[work, start] = row
                partial.flush()
                self._show()
            rows = ray.get(ref)
        for work, part in enumerate(rows):
            for start, row in enumerate(part):
                self._known[work, start] = row
        self._show()
        return rows

    def _show(self) -> None:
        rows = [row for row in self._known.values() if row["outcome"] != "error"]
        solved = sum(row["outcome"] == "success" for row in rows)
        rate = f"{solved} solved ({100 * solved / len(rows):.0f} %)" if rows else ""
        self._progress.update(self._bar, completed=len(self._known), rate=rate)
