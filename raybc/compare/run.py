"""A comparison from start to end: read the arms, check them, run what has to be run, judge, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc import cli
from raybc.compare import text
from raybc.compare.arms import Arm, NotComparable, check_comparable, read_arms
from raybc.compare.design import Design
from raybc.compare.folder import CompareFolder
from raybc.compare.planning import Rule
from raybc.compare.result import Comparison, Scores, compare
from raybc.envs.base import RenderOptions, Task
from raybc.envs.spec import EnvSpec, spec_of_task
from raybc.envs.variant import limited
from raybc.files import read_json, write_json
from raybc.metric import METRICS, Metric
from raybc.metric_choice import resolve
from raybc.registry import get_task
from raybc.report.comparison import write_comparison_page
from raybc.rollout.checks import check_camera
from raybc.rows import EpisodeRow, setting_fields
from raybc.run_start import check_folder, starting
from raybc.statistics import too_many_errors
from raybc.types import EpisodeSpec, UserError
from raybc.versions import versions

if TYPE_CHECKING:
    from raybc.compare.__main__ import Args
    from raybc.compare.measure import Measurement


def run(args: Args) -> int:
    """Compare and return the exit status. Raises `NotComparable`, `UserError`, `cli.Interrupted`."""
    arms = read_arms(args.arms)
    out = CompareFolder(args.out or _default_out(arms))
    check_folder(
        out,
        out.request,
        args.resume,
        args.overwrite,
        _inputs(arms),
    )
    live = [arm for arm in arms if arm.trainings]
    if live:
        return _run_live(args, arms, out)
    notes = check_comparable(arms, "", _allowed(args))
    metric = _metric_of_files(args, arms)
    design = _design(args, metric, arms, 0)
    scores, more = _scores_of_files(arms, metric, args.paired)
    starts = len({start for arm in scores for start in arm.starts})
    design = replace(design, starts=starts, planned=0)
    with starting(out, args.overwrite) as begun:
        comparison = compare(scores, design, [*notes, *more])
        request = _request(args, arms, design, "")
        write_json(out.request, request)
        begun()
        _write(out, comparison, design, {})
        write_comparison_page(out, comparison, design, _rows_of_files(arms, scores), {}, request)
    return _print(comparison, design, out)


def _inputs(arms: Sequence[Arm]) -> list[Path]:
    """Files and folders that the policies of arms are read from."""
    return [path for arm in arms for training in arm.trainings for path in training.policy.inputs]


def _default_out(arms: Sequence[Arm]) -> Path:
    names = [arm.name for arm in arms[:4]] + (["others"] if len(arms) > 4 else [])
    return Path("runs/compare") / "_vs_".join(names)


def _allowed(args: Args) -> list[str]:
    return [name.strip() for name in args.allow.split(",") if name.strip()]


def _design(args: Args, metric: Metric, arms: Sequence[Arm], planned: int) -> Design:
    live = any(arm.trainings for arm in arms)
    rule: Rule = args.rule if args.rule != "auto" else "sequential" if live else "fixed"
    if args.bounds is not None:
        metric = replace(metric, bounds=args.bounds)
    if rule != "fixed" and metric.bounds is None:
        raise UserError(
            f"--rule {rule}: expected a score whose lowest and highest value are known; those of the {metric.label} "
            "are not: give them with --bounds LOW HIGH, or use --rule fixed"
        )
    walks = metric.is_rate and all(len(arm.trainings) <= 1 for arm in arms)
    return Design(rule, args.episodes, metric, args.level, args.power, walks, planned)


def _request(args: Args, arms: Sequence[Arm], design: Design, task: str) -> dict[str, Any]:
    """Everything that decides the result; a comparison is only resumed with the same request."""
    return {
        "arms": [arm.to_plain() for arm in arms],
        "task": task,
        "starts": {"set": args.starts, "first": args.first, "episodes": args.episodes} if task else {},
        "rule": design.rule,
        "level": design.level,
        "metric": design.metric.name,
        "bounds": list(design.metric.bounds) if design.metric.bounds else None,
        "planned": design.planned or design.starts,
    }


# --- finished measurements --------------------------------------------------------------------------------------------


def _metric_of_files(args: Args, arms: Sequence[Arm]) -> Metric:
    kinds = {arm.finished.continuous for arm in arms if arm.finished is not None}
    if len(kinds) > 1:
        raise NotComparable("these differ: metric (some arms have success, others a score)")
    if kinds == {True}:
        if args.metric not in (None, "return"):
            raise UserError(f"--metric: expected none for files with a column score, got {args.metric}")
        return replace(METRICS["return"], label="score", bounds=args.bounds)
    metric = METRICS[args.metric or "success"]
    if not metric.from_episodes or metric.name == "normalized_score":
        raise UserError(
            f"--metric: expected success, return or largest_reward for finished measurements, got {metric.name}"
        )
    return metric


def _scores_of_files(arms: Sequence[Arm], metric: Metric, paired: bool) -> tuple[list[Scores], list[str]]:
    """Scores of finished arms, and notes about how they are paired."""
    notes: list[str] = []
    found = [_scores_of_file(arm, metric) for arm in arms]
    nameless = [arm.name for arm in arms if arm.finished is not None and not arm.finished.known_starts]
    if nameless and paired:
        sizes = {len(s.starts) for s in found}
        if len(nameless) < len(arms) or len(sizes) > 1:
            raise UserError(
                f"--paired: expected arms of the same number of episodes without names of starts, got "
                f"{', '.join(f'{s.name} {len(s.starts)}' for s in found)}"
            )
        found = [replace(s, starts=tuple(map(str, range(len(s.starts))))) for s in found]
        notes.append("paired by position, because --paired says that the rows are of the same starts")
    elif nameless:
        found = [
            replace(s, starts=tuple(f"{s.name} {start}" for start in s.starts)) if s.name in nameless else s
            for s in found
        ]
        notes.append(
            f"unpaired: {', '.join(nameless)} name no starts; if the rows are of the same starts in the same order, "
            "--paired needs fewer episodes"
        )
    elif paired:
        raise UserError("--paired: expected files without names of starts; these name them, and are paired by them")
    else:
        notes += _pairing(found)
    return found, notes


def _pairing(found: Sequence[Scores]) -> list[str]:
    shared = set(found[0].starts).intersection(*(s.starts for s in found[1:]))
    everything = {start for s in found for start in s.starts}
    if not shared:
        return ["unpaired where arms have no start in common"]
    if len(shared) < len(everything):
        return [f"paired on common starts: {len(shared)} of {len(everything)} are common to all arms"]
    return []


def _scores_of_file(arm: Arm, metric: Metric) -> Scores:
    assert arm.finished is not None
    rows = arm.finished.rows
    values = [metric.of_episode({"return": float("nan"), **row}) for row in rows.values()]
    return Scores(arm.name, tuple(rows), np.array([values], np.float64))


def _rows_of_files(arms: Sequence[Arm], scores: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """Arm -> start, as it is called in its scores -> row."""
    names = {arm.name: arm for arm in scores}
    return {
        arm.name: dict(zip(names[arm.name].starts, arm.finished.rows.values(), strict=False))
        for arm in arms
        if arm.finished is not None
    }


# --- arms that are run ------------------------------------------------------------------------------------------------


def _run_live(args: Args, arms: list[Arm], out: CompareFolder) -> int:
    from raybc.compare.measure import Measurement, MeasureOptions, write_rows  # here, because it imports Ray

    live = [arm for arm in arms if arm.trainings]
    tasks = {arm.name: limited(arm.task, args.max_steps) if args.max_steps else arm.task for arm in live}
    _check_one_task(live, tasks)
    task_name = tasks[live[0].name]
    task = get_task(task_name)
    metric = resolve(args.metric, task, "--metric")
    if not metric.from_episodes:
        raise UserError(f"--metric: expected a measure of rollouts, got {metric.name}, which is that of held-out data")
    planned = int(read_json(out.request).get("planned", 0)) if out.request.is_file() and args.resume != "False" else 0
    design = _design(args, metric, arms, planned)
    env_spec = spec_of_task(task)
    notes = _check_policies(args, live, task, env_spec)
    conditions = {"max_steps": str(task.max_steps)}
    conditions |= {f"physics: {name}": value for name, value in env_spec.identity.items()}
    arms = [replace(arm, conditions=arm.conditions | conditions) if arm.trainings else arm for arm in arms]
    notes += check_comparable(arms, args.starts, _allowed(args))
    specs = [EpisodeSpec(task_name, args.starts, args.first + i) for i in range(args.episodes)]
    specs = _starts_of_all(arms, specs, notes)
    design = replace(design, starts=len(specs))
    request = _request(args, arms, design, task_name)
    _check_resumed(out, request, design)
    finished = {arm.name: _scores_of_file(arm, metric) for arm in arms if arm.finished is not None}
    keys = [str(spec.seed) for spec in specs]
    on_scale = {name: np.array([_scaled(v, design) for v in scores.on(keys)[0]]) for name, scores in finished.items()}
    options = MeasureOptions(
        workers=0 if args.workers == "auto" else int(args.workers),
        slots=args.slots or None,
        inference=args.inference,
        recycle=args.recycle,
        deadline=args.deadline,
        address=args.address,
        ray_dashboard=args.ray_dashboard,
        videos=args.videos,
        video_frame_skip=args.video_frame_skip,
        render=RenderOptions(args.video_size, args.video_size, args.camera or None),
    )
    with starting(out, args.overwrite, _inputs(live)) as begun:

        def begin() -> None:
            write_json(out.request, request)
            begun()

        measurement = Measurement(arms, design, specs, on_scale, options, out)
        rows = measurement.run(begin)
        scores = [_scores_of_rows(arm, rows, finished, keys, metric) for arm in arms]
        comparison = compare(scores, design, [*notes, *_error_notes(scores)])
        videos, problem = _film(args, measurement, comparison)
        if problem:
            cli.console.print(f"videos: some could not be made: {problem}", style="yellow")
        for arm in live:
            for row in rows[arm.name][0]:
                if (arm.name, str(row["seed"])) in videos:
                    row["video"] = videos[arm.name, str(row["seed"])]
            settings = [setting_fields(t.setting) for t in arm.trainings]
            write_rows(out.episodes(arm.name), rows[arm.name], settings)
        write_json(out.versions, versions(env_spec.identity))
        _write(out, comparison, design, videos)
        by_start = _rows_of_files([arm for arm in arms if arm.finished is not None], scores)
        by_start |= {name: {str(row["seed"]): row for row in parts[0]} for name, parts in rows.items()}
        write_comparison_page(out, comparison, design, by_start, videos, request)
        measurement.discard_partial()
    return _print(comparison, design, out)


def _scaled(value: float, design: Design) -> float:
    return value if design.rule == "fixed" else design.metric.unit_value(value)


def _check_one_task(live: Sequence[Arm], tasks: Mapping[str, str]) -> None:
    """Simulators of a comparison are of one task."""
    if len(set(tasks.values())) > 1:
        try:
            check_comparable([replace(arm, conditions=arm.conditions) for arm in live], "", ())
        except NotComparable as error:
            what = str(error).partition("; --allow")[0]
        else:
            what = "these differ: max_steps (" + ", ".join(f"{n} {t}" for n, t in tasks.items()) + "; see --max_steps)"
        raise NotComparable(f"{what}; policies that are run together need one task")


def _check_policies(args: Args, live: Sequence[Arm], task: Task, env_spec: EnvSpec) -> list[str]:
    """Refuse what does not fit the environment; notes about what has changed since a policy was trained."""
    notes = []
    for arm in live:
        for training in arm.trainings:
            training.policy.check_env(env_spec, task.name, env_spec.instruction or task.instruction)
        policy = arm.trainings[0].policy
        cli.print_notes(f"{arm.name}: {note}" for note in policy.remarks([env_spec]))
        for since, name, before, now in policy.changes(env_spec):
            notes.append(f"{arm.name}: {name} is {now}; when {since}, it was {before}")
    if args.inference == "local" and task.environment is not None:
        raise UserError(
            f"--inference local: simulators of {task.name} are in environment {task.environment.name}, which has no "
            "PyTorch; use auto or shared"
        )
    check_camera(args.camera, env_spec, task.name)
    if args.videos and task.no_images:
        raise UserError(f"--videos: {task.no_images}")
    cli.print_notes(task.notes)
    return notes


def _starts_of_all(arms: Sequence[Arm], specs: list[EpisodeSpec], notes: list[str]) -> list[EpisodeSpec]:
    """The first starts, without gaps, that all finished arms were measured on."""
    for arm in arms:
        if arm.finished is None:
            continue
        n = next((i for i, spec in enumerate(specs) if str(spec.seed) not in arm.finished.rows), len(specs))
        if n == 0:
            raise NotComparable(
                f"these differ: starts ({arm.text} was not measured on {specs[0].split} start {specs[0].index}, where "
                "the others begin; see --first)"
            )
        if n < len(specs):
            notes.append(f"{arm.name} was measured on {n} of these {len(specs)} starts only")
            specs = specs[:n]
    return specs


def _check_resumed(out: CompareFolder, request: Mapping[str, Any], design: Design) -> None:
    if not out.request.is_file():
        return
    before = read_json(out.request)
    now = dict(request)
    if design.rule == "open" and before.get("starts", {}).get("episodes", 0) <= now["starts"]["episodes"]:
        before = {**before, "starts": now["starts"]}  # extended
    differing = [f"{k}: was {before.get(k)!r}, is {v!r}" for k, v in now.items() if before.get(k) != v]
    if differing and "starts" in differing[0] and design.rule != "open":
        raise UserError(
            f"{out.path}: --resume: the number of starts of --rule {design.rule} was fixed when the comparison began "
            f"({differing[0]}); a new comparison needs new starts (--first) and another --out"
        )
    if differing:
        raise UserError(f"{out.path}: --resume continues the same comparison, but {'; '.join(differing)}")


def _scores_of_rows(
    arm: Arm, rows: Mapping[str, Sequence[Sequence[EpisodeRow]]], finished: Mapping[str, Scores], keys: Sequence[str],
    metric: Metric,
) -> Scores:  # fmt: skip
    if arm.name in finished:
        return Scores(arm.name, tuple(keys), finished[arm.name].on(keys))
    parts = rows[arm.name]
    n = min(map(len, parts))
    values = np.array([[metric.of_episode(row) for row in part[:n]] for part in parts], np.float64).reshape(
        len(parts), n
    )
    return Scores(arm.name, tuple(keys[:n]), values)


def _error_notes(scores: Sequence[Scores]) -> list[str]:
    notes = []
    for arm in scores:
        errors = int(np.isnan(arm.values_KN).sum())
        if too_many_errors(errors, arm.values_KN.size):
            notes.append(
                f"{errors} of {arm.values_KN.size} episodes of {arm.name} ended in errors, too many to quote its rate"
            )
    return notes


def _film(args: Args, measurement: Measurement, comparison: Comparison) -> tuple[dict[tuple[str, str], str], str]:
    pair = comparison.pairs[0]
    if not args.videos or not pair.differing:
        return {}, ""
    return measurement.film((pair.a, pair.b), pair.differing[: args.videos])


# --- output -----------------------------------------------------------------------------------------------------------


def _write(out: CompareFolder, comparison: Comparison, design: Design, videos: Mapping[tuple[str, str], str]) -> None:
    several = len(comparison.arms) > 2
    write_json(
        out.result,
        {
            "rule": design.rule,
            "level": design.level,
            "power": design.power,
            "metric": design.metric.to_plain(),
            "starts": design.starts,
            **comparison.to_plain(),
            "text": text.lines(comparison, design),
            "for_a_paper": [text.for_a_paper(pair, comparison, design) for pair in comparison.pairs],
            "said": [text.pair_text(pair, design, several) for pair in comparison.pairs],
            "details": [text.details(pair, design) for pair in comparison.pairs],
            "videos": [
                {"arm": arm, "start": start, "file": str(out.videos(arm).relative_to(out.path) / name)}
                for (arm, start), name in videos.items()
            ],
        },
    )


def _print(comparison: Comparison, design: Design, out: CompareFolder) -> int:
    cli.print_whole(text.arms_table(comparison.arms, design))
    cli.print_notes(comparison.notes)
    for line in text.lines(comparison, design):
        cli.console.print(line)
    cli.console.print(f"results: {out.path}, as a page: {out.page}")
    return comparison.status
