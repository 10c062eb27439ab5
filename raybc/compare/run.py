"""A comparison from start to end: read the arms, check them, run what has to be run, judge, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc import cli
from raybc.compare import text
from raybc.compare.arms import Arm, NotComparable, check_comparable, check_seen, read_arms
from raybc.compare.clusters import failure_clusters
from raybc.compare.conditions import of_tasks
from raybc.compare.design import Design
from raybc.compare.finished import metric_of_files, rows_of_files, scores_of_file, scores_of_files, videos_of_files
from raybc.compare.folder import CompareFolder
from raybc.compare.planning import Rule
from raybc.compare.result import Comparison, Scores, compare
from raybc.compare.tasks import limits_text, name_of, on_each_task, physics_of, start_name, start_of, unequal
from raybc.default_folder import request_suffix
from raybc.envs.base import RenderOptions
from raybc.envs.variant import limited
from raybc.files import read_json, write_json
from raybc.foreign.measured import seconds_to_wait
from raybc.metric import Metric
from raybc.registry import get_task
from raybc.report.comparison import write_comparison_page
from raybc.rollout.measured import MeasuredTask, changes_of, measured_tasks, refuse_flags
from raybc.rows import EpisodeRow, setting_fields
from raybc.run_start import check_folder, starting
from raybc.statistics import too_many_errors
from raybc.stored_flags import changed_flags
from raybc.suites import choose_tasks, resolve_over
from raybc.types import EpisodeSpec, UserError
from raybc.versions import versions

if TYPE_CHECKING:
    from raybc.compare.__main__ import Args
    from raybc.compare.measure import Measurement


#: Flags that change no result, or that the names of the arms mention.
_NOT_IN_NAME = (
    "arms", "policy_inputs", "policy_timeout", "power", "plan", "correlation", "workers", "slots", "inference",
    "recycle", "deadline", "out", "resume", "overwrite", "address", "ray_dashboard",
)  # fmt: skip


def run(args: Args) -> int:
    """Compare and return the exit status. Raises `NotComparable`, `UserError`, `cli.Interrupted`."""
    timeout = seconds_to_wait(args.policy_timeout, args.deadline)
    arms = read_arms(args.arms, args.env_name, timeout, args.policy_inputs, bool(args.suite or args.tasks))
    out = CompareFolder(args.out or _default_out(args, arms))
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
    metric = metric_of_files(args, arms)
    design = _design(args, metric, arms, 0)
    scores, more = scores_of_files(arms, metric, args.paired)
    starts = len({start for arm in scores for start in arm.starts})
    design = replace(design, starts=starts, planned=0)
    _check_same_arms(args, arms, out)
    with starting(out, args.overwrite) as begun:
        rows, examples = rows_of_files(arms, scores), videos_of_files(arms, scores)
        comparison = _compared(scores, rows, design, [*notes, *more])
        comparison = replace(comparison, clusters=failure_clusters(rows, examples))
        request = _request(args, arms, design, ())
        write_json(out.request, request | {"flags": changed_flags(args)})
        begun()
        _write(out, comparison, design, {})
        write_comparison_page(out, comparison, design, rows, {}, request, examples)
    return _print(comparison, design, out)


def _inputs(arms: Sequence[Arm]) -> list[Path]:
    """Files and folders that the policies of arms are read from."""
    return [path for arm in arms for training in arm.trainings for path in training.policy.inputs]


def _compared(
    scores: Sequence[Scores], rows: Mapping[str, Mapping[str, Mapping[str, Any]]], design: Design, notes: Sequence[str]
) -> Comparison:
    """The comparison, with the arms on each task. rows: arm -> start -> its row, which names the task."""
    tasks = {start: name_of(row["task"]) for part in rows.values() for start, row in part.items() if "task" in row}
    return replace(
        compare(scores, design, [*notes, *unequal(scores, tasks)]), tasks=on_each_task(scores, tasks, design)
    )


def _default_out(args: Args, arms: Sequence[Arm]) -> Path:
    """A folder of this comparison. One that an earlier release began, without what is asked in its name, is resumed."""
    names = [arm.name for arm in arms[:4]] + (["others"] if len(arms) > 4 else [])
    former = Path("runs/compare") / "_vs_".join(names)
    out = former.with_name(former.name + request_suffix(args, _NOT_IN_NAME))
    return former if args.resume != "False" and former.exists() and not out.exists() else out


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
    return Design(rule, args.count, metric, args.level, args.power, walks, planned)


def _request(args: Args, arms: Sequence[Arm], design: Design, tasks: Sequence[str]) -> dict[str, Any]:
    """Everything that decides the result; a comparison is only resumed with the same request."""
    return {
        "arms": [arm.to_plain() for arm in arms],
        "task": tasks[0] if len(tasks) == 1 else "",
        **({"tasks": list(tasks)} if len(tasks) > 1 else {}),
        "starts": {"set": args.starts, "first": args.first, "episodes": args.count} if tasks else {},
        "rule": design.rule,
        "level": design.level,
        "metric": design.metric.name,
        "bounds": list(design.metric.bounds) if design.metric.bounds else None,
        "planned": design.planned or design.starts,
    }


# --- arms that are run ------------------------------------------------------------------------------------------------


def _run_live(args: Args, arms: list[Arm], out: CompareFolder) -> int:
    from raybc.compare.measure import Measurement, MeasureOptions, write_rows  # here, because it imports Ray

    live = [arm for arm in arms if arm.trainings]
    names = _tasks(args, live)
    metric = resolve_over(args.metric, [get_task(name) for name in names], "--metric")
    if not metric.from_episodes:
        raise UserError(f"--metric: expected a measure of rollouts, got {metric.name}, which is that of held-out data")
    planned = int(read_json(out.request).get("planned", 0)) if out.request.is_file() and args.resume != "False" else 0
    design = _design(args, metric, arms, planned)
    if args.suite or args.tasks:
        check_seen(live)
    measured, notes = _check_policies(args, live, names)
    identity = {name: value for one in measured for name, value in one.env_spec.identity.items()}
    conditions = of_tasks(names) if args.suite or args.tasks else {}
    conditions |= {"max_steps": limits_text({one.name: one.task.max_steps for one in measured})}
    conditions |= {f"physics: {name}": value for name, value in physics_of(identity, len(names)).items()}
    arms = [replace(arm, conditions=arm.conditions | conditions) if arm.trainings else arm for arm in arms]
    notes += check_comparable(arms, args.starts, _allowed(args))
    specs = [EpisodeSpec(name, args.starts, args.first + i) for i in range(args.count) for name in names]
    named = len(names) > 1
    specs = _starts_of_all(arms, specs, named, notes)
    design = replace(design, starts=len(specs), tasks=len(names))
    request = _request(args, arms, design, names)
    _check_resumed(out, request, design)
    finished = {arm.name: scores_of_file(arm, metric) for arm in arms if arm.finished is not None}
    keys = [start_name(spec.seed, spec.task if named else "") for spec in specs]
    on_scale = {name: np.array([_scaled(v, design) for v in scores.on(keys)[0]]) for name, scores in finished.items()}
    options = MeasureOptions(
        simulators=args,
        videos=args.videos,
        video_frame_skip=args.video_frame_skip,
        render=RenderOptions(args.video_size, args.video_size, args.camera or None),
    )
    with starting(out, args.overwrite, _inputs(live)) as begun:

        def begin() -> None:
            write_json(out.request, request | {"flags": changed_flags(args)})
            begun()

        measurement = Measurement(arms, design, specs, on_scale, options, out)
        rows = measurement.run(begin)
        scores = [_scores_of_rows(arm, rows, finished, keys, metric) for arm in arms]
        by_start, examples = rows_of_files(arms, scores), videos_of_files(arms, scores)
        by_start |= {name: {start_of(row): row for row in parts[0]} for name, parts in rows.items()}
        comparison = _compared(scores, by_start, design, [*notes, *_error_notes(scores)])
        videos, problem = _film(args, measurement, comparison)
        if problem:
            cli.console.print(f"videos: some could not be made: {problem}", style="yellow")
        for arm in live:
            for row in rows[arm.name][0]:
                if (arm.name, start_of(row)) in videos:
                    row["video"] = videos[arm.name, start_of(row)]
            settings = [setting_fields(t.setting) for t in arm.trainings]
            write_rows(out.episodes(arm.name), rows[arm.name], settings)
        write_json(out.versions, versions(identity))
        examples |= {key: out.videos(key[0]) / name for key, name in videos.items()}
        comparison = replace(comparison, clusters=failure_clusters(by_start, examples))
        _write(out, comparison, design, videos)
        write_comparison_page(out, comparison, design, by_start, videos, request, examples)
        measurement.discard_partial()
    return _print(comparison, design, out)


def _scaled(value: float, design: Design) -> float:
    return value if design.rule == "fixed" else design.metric.unit_value(value)


def _tasks(args: Args, live: Sequence[Arm]) -> tuple[str, ...]:
    """The tasks that arms are measured on: those of --suite and --tasks, else the one that they were trained on."""
    env_name = live[0].trainings[0].policy.env_name
    named = choose_tasks(args.suite, args.tasks, args.num_tasks, env_name, args.max_steps)
    if named:
        return named
    tasks = {arm.name: limited(arm.task, args.max_steps) if args.max_steps else arm.task for arm in live}
    _check_one_task(live, tasks)
    return (tasks[live[0].name],)


def _check_one_task(live: Sequence[Arm], tasks: Mapping[str, str]) -> None:
    """Simulators of a comparison are of one task."""
    if len(set(tasks.values())) > 1:
        try:
            check_comparable([replace(arm, conditions=arm.conditions) for arm in live], "", ())
        except NotComparable as error:
            what = str(error).partition("; --allow")[0]
        else:
            what = "these differ: max_steps (" + ", ".join(f"{n} {t}" for n, t in tasks.items()) + "; see --max_steps)"
        raise NotComparable(
            f"{what}; policies that are run together need one task, or --suite or --tasks, on which all are measured"
        )


def _check_policies(args: Args, live: Sequence[Arm], names: Sequence[str]) -> tuple[Sequence[MeasuredTask], list[str]]:
    """Refuse what does not fit the tasks `names`. Returns them, and notes about what has changed since a policy was
    trained."""
    notes = []
    measured: Sequence[MeasuredTask] = ()
    for arm in live:
        for training in arm.trainings:
            measured = measured_tasks(names, training.policy, known=measured)
            training.policy.check_setting(training.setting, f"{arm.text}: ")
        policy = arm.trainings[0].policy
        cli.print_notes(f"{arm.name}: {note}" for note in policy.remarks([one.env_spec for one in measured]))
        for since, name, before, now in changes_of(measured, policy):
            notes.append(f"{arm.name}: {name} is {now}; when {since}, it was {before}")
    refuse_flags(measured, camera=args.camera, films=args.videos > 0, inference=args.inference)
    cli.print_notes(dict.fromkeys(note for one in measured for note in one.task.notes))
    return measured, notes


def _starts_of_all(arms: Sequence[Arm], specs: list[EpisodeSpec], named: bool, notes: list[str]) -> list[EpisodeSpec]:
    """The first starts, without gaps, that all finished arms were measured on."""
    for arm in arms:
        if arm.finished is None:
            continue
        known = arm.finished.rows
        n = next(
            (i for i, s in enumerate(specs) if start_name(s.seed, s.task if named else "") not in known), len(specs)
        )
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


def _check_same_arms(args: Args, arms: Sequence[Arm], out: CompareFolder) -> None:
    """Finished measurements are judged again with --resume, which must not replace the result of others."""
    if args.resume == "False" or not out.request.is_file():
        return
    before, now = ([arm["source"] for arm in found] for found in (
        read_json(out.request)["arms"], [arm.to_plain() for arm in arms]
    ))  # fmt: skip
    if before != now:
        raise UserError(
            f"{out.path}: --resume continues the same comparison, but the arms were {', '.join(before)} and are "
            f"{', '.join(now)}; choose another --out, or replace it with --overwrite"
        )


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
                f"{errors} of {arm.values_KN.size} episodes of {arm.name} ended in errors: do not report its rate"
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
    if comparison.tasks:
        cli.print_whole(text.tasks_table(comparison.tasks, design))
    cli.print_notes(comparison.notes)
    for line in text.lines(comparison, design):
        cli.console.print(line)
    cli.console.print(f"results: {out.path}, as a page: {out.page}")
    return comparison.status
