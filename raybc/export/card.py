"""The model card of a policy: what it is, how it was evaluated, its inputs and outputs, how it was trained."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raybc._version import __version__
from raybc.bundle import PolicyBundle
from raybc.config import RunConfig, changed_options
from raybc.config.data import INPUTS
from raybc.data.episodes import format_shape
from raybc.export.film import REPLAY, Film, film_of_rollouts, film_of_sweep
from raybc.export.install import install_lines
from raybc.files import read_json
from raybc.inference.metadata import policy_metadata
from raybc.metric import METRICS, SUCCESS, Interval, Metric, metric_name
from raybc.report.read import load_run
from raybc.report.sampling import head
from raybc.report.tables import leaderboard, selection_rule, winner_line
from raybc.report.text import percent, percent_range
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import setting_of
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class Measured:
    """A score of some episodes."""

    value: float | None
    interval: Interval | None
    """95 % interval; None where it is not known."""
    episodes: int
    """Valid ones."""


@dataclass(frozen=True)
class Evidence:
    """What is known about a policy's success."""

    text: str
    """Paragraphs of Markdown."""
    rate: float | None = None
    """Score on final starts with the shared sample setting; None if it was not measured."""
    metric: Metric = SUCCESS
    """What `rate` is."""
    episodes: int = 0
    """Valid episodes behind `rate`."""
    interval: Interval | None = None
    """Of `rate`."""
    suite: str = ""
    """Where the tasks are those of a suite."""
    tasks: Mapping[str, Measured] = dataclasses.field(default_factory=dict)
    """Of several tasks: the score on each, of which `rate` is the mean."""
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The contents of versions.json."""
    film: Film | None = None
    """An episode of the policy; None where none was filmed."""


def evidence_for(
    source: Path, bundle: PolicyBundle, setting: SampleSetting, evaluation: EvaluationFolder, chosen: bool = False
) -> Evidence:
    """The evidence for a policy: of a sweep's winner the sweep's own numbers, followed by its evaluation by
    `raybc.rollout` if there is one; of other policies the evaluation, else the training run.

    The number that is quoted for a winner is the sweep's own, however many episodes were measured later. Only a sweep
    that has no number at `setting`, or an evaluation that the user chose, leaves it to the evaluation.

    Args:
        source: the folder of the bundle.
        bundle: the policy.
        setting: its sample setting.
        evaluation: where an evaluation may be.
        chosen: whether the user named that evaluation.

    Raises `UserError` if the evaluation is of another policy.
    """
    again = _of_rollouts(evaluation, bundle, setting) if evaluation.metrics.is_file() else None
    sweep = _sweep_of(source)
    if sweep is not None:
        own = _of_sweep(sweep, setting)
        if again is None:
            return own
        quoted = again if again.rate is not None and (chosen or own.rate is None) else own
        text = f"{own.text}\n### Measured again\n\n{again.text}"
        return dataclasses.replace(quoted, text=text, versions=own.versions, film=own.film or again.film)
    if again is not None:
        return again
    return _of_training(TrainingFolder(source.parent), bundle.step)


def _sweep_of(source: Path) -> SweepFolder | None:
    """The sweep whose winner the bundle in the folder `source` is; None for other bundles."""
    sweep = SweepFolder(source.resolve().parent)
    if not (sweep.winner_json.is_file() and sweep.trials_csv.is_file()):
        return None
    winner = read_json(sweep.winner_json)
    return sweep if (sweep.path / winner["bundle"]).resolve() == source.resolve() else None


def _of_rollouts(evaluation: EvaluationFolder, bundle: PolicyBundle, setting: SampleSetting) -> Evidence:
    found = read_json(evaluation.metrics)
    if (found["run_id"], found["step"]) != (bundle.run_id, bundle.step):
        raise UserError(
            f"{evaluation.path}: expected an evaluation of run {bundle.run_id}, step {bundle.step}; got run "
            f"{found['run_id']}, step {found['step']}"
        )
    text = f"{_how_measured(found)} A timeout counts as a failure; errors are counted apart.\n\n"
    rows, quoted, metric = [], Evidence(""), SUCCESS
    several = "tasks" in found
    has_success = any(row["success_rate"] is not None for row in found["settings"])
    scored = any(row.get("normalized_score") is not None for row in found["settings"])
    for row in found["settings"]:
        metric = METRICS[metric_name(row) or "success"]
        value = row.get("score") if metric_name(row) else row["success_rate"]  # metrics of earlier releases
        if setting_of(row) == setting and value is not None and found["starts"] == "final":
            tasks = {name: _measured(one, metric) for name, one in row.get("tasks", {}).items()}
            quoted = Evidence(
                "", value, metric, row["episodes"], _measured(row, metric).interval, found.get("suite") or "", tasks
            )
        for task, one in [*row.get("tasks", {}).items(), ("all tasks", row)]:
            cells = [setting_of(row).label(), *([task] if several else [])]
            if has_success:
                known, interval = one["success_rate"] is not None, _success_interval(one)
                cells += [
                    percent(one["success_rate"]),
                    percent_range(interval) if known and interval else "-",
                    f"{one['successes']}/{one['episodes']}" if known else "-",
                ]
            cells += _mean("return", one["mean_return"], one.get("mean_return_interval"))
            if scored:
                cells += _mean("normalized_score", one["normalized_score"], one.get("normalized_score_interval"))
            rows.append([*cells, *([] if has_success else [one["episodes"]]), one["failure_counts"]["exception"]])
    wilson = "95 % interval" if several else "95 % interval (Wilson)"
    heads = ["setting", *(["task"] if several else []), *(("success", wilson, "solved") if has_success else ())]
    heads += ["mean return", "95 % interval", *(("D4RL score", "95 % interval") if scored else ())]
    text += table([*heads, *([] if has_success else ["episodes"]), "errors"], rows)
    if found["until_halfwidth"]:
        text += f"\nEach evaluation ended when half the width of its interval was at most {found['until_halfwidth']}.\n"
    film = film_of_rollouts(evaluation, found["starts"], setting)
    return dataclasses.replace(quoted, text=text, metric=metric, versions=_versions(evaluation.versions), film=film)


def _how_measured(found: Mapping[str, Any]) -> str:
    """A sentence about the starts of an evaluation; `found` is its metrics.json."""
    starts = f"Measured with `python -m raybc.rollout` on the {found['starts']} starts from {found['first']} on of"
    if "tasks" not in found:
        return f"{starts} `{found['task']}`, at most {found['max_steps']} steps each."
    limits = sorted({one["max_steps"] for one in found["tasks"].values()})
    limit = f"{limits[0]}-{limits[-1]}" if len(limits) > 1 else str(limits[0])
    which = f" (`{found['suite']}`)" if found.get("suite") else ""
    return (
        f"{starts} {len(found['tasks'])} tasks{which}, {found['episodes_per_task']} of each, at most {limit} steps "
        "each; rates and means of all tasks are means over the tasks."
    )


def _success_interval(row: Mapping[str, Any]) -> Interval | None:
    """Of a task; of several tasks that of the mean of their rates."""
    if "success_interval" in row:
        ends = row["success_interval"]
        return None if ends is None else (ends[0], ends[1])
    return row["wilson_low"], row["wilson_high"]


def _measured(row: Mapping[str, Any], metric: Metric) -> Measured:
    """The score of a sample setting in metrics.json, or of one of its tasks."""
    if metric.is_rate:
        known = row["success_rate"] is not None
        return Measured(row["success_rate"], _success_interval(row) if known else None, row["episodes"])
    kind = {"return": "mean_return", "largest_reward": "mean_max_reward"}.get(metric.name, metric.name)
    ends = row.get(f"{kind}_interval")
    return Measured(row.get("score"), (ends[0], ends[1]) if ends else None, row["episodes"])


def _mean(name: str, mean: float | None, interval: Sequence[float] | None) -> list[str]:
    """Two cells: a mean and its interval."""
    metric = METRICS[name]
    return [metric.show(mean), metric.show_range((interval[0], interval[1]) if interval else None)]


def _versions(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _of_sweep(sweep: SweepFolder, setting: SampleSetting) -> Evidence:
    run = load_run(sweep.path)
    rows = leaderboard(run)
    winner = next((row for row in rows if row.is_winner), None)
    text = f"{winner_line(run, rows)}\n\n{selection_rule(run)}\n"
    film = film_of_sweep(run, setting)
    if winner is None or winner.final is None:
        return Evidence(text, versions=run.versions, film=film)
    metric, final = run.metric, winner.final
    count = "solved" if metric.is_rate else "episodes"
    shown = head(winner.per_sampling)
    measured = [
        (*at.cells(shown), score.text, score.range_text,
         f"{score.successes}/{score.episodes}" if metric.is_rate else score.episodes, score.errors)
        for at, score in winner.per_sampling.items()
    ]  # fmt: skip
    if metric.from_episodes:
        text += f"\nThe {'rate' if metric.is_rate else 'mean'} is that of the recipe over all its seeds; this policy "
        text += "is the seed that did best on the search starts.\n\n"
        names = (*shown, metric.label, f"95 % interval ({metric.interval_name})", count, "errors")
        text += table(names, measured)
    tasks = {name: Measured(one.value, one.interval, one.episodes) for name, one in final.tasks.items()}
    rate = final.value if winner.setting == setting else None
    return Evidence(
        text,
        rate,
        metric,
        final.episodes,
        final.interval,
        (run.config.get("eval") or {}).get("suite") or "",
        tasks,
        run.versions,
        film,
    )


def _of_training(run: TrainingFolder, step: int) -> Evidence:
    versions = _versions(run.versions)
    rows = []
    if run.offline_csv.is_file():
        with run.offline_csv.open(newline="") as handle:
            return _offline([r for r in csv.DictReader(handle) if r["step"] == str(step)], versions)
    if run.eval_csv.is_file():
        with run.eval_csv.open(newline="") as handle:
            rows = [r for r in csv.DictReader(handle) if r["step"] == str(step)]
            rows = [r for r in rows if r["eval/success"] or r.get("eval/score")]
    if not rows:
        return Evidence("It was not evaluated.\n", versions=versions)
    row = rows[0]
    metric = METRICS[metric_name(row) or "success"]
    names = ("eval/success", "wilson_low", "wilson_high") if metric.is_rate else ("eval/score", "score_low",
                                                                                    "score_high")  # fmt: skip
    value, low, high = (float(row[name]) if row[name] else None for name in names)
    interval = None if low is None or high is None else (low, high)
    what = f"{metric.show(value)} of" if metric.is_rate else f"{metric.label} {metric.show(value)} over"
    text = (
        f"{what} {row['episodes']} episodes on search starts (95 % interval {metric.show_range(interval)}), "
        "measured during training. The checkpoint may have been chosen by this number, which biases it; it was not "
        "measured on final starts.\n"
    )
    return Evidence(text, versions=versions)


def _offline(rows: Sequence[Mapping[str, str]], versions: Mapping[str, Any]) -> Evidence:
    """Of a run without a simulator. rows: of offline.csv at the step of the policy."""
    text = "No success rate was measured: there is no environment.\n"
    if not rows:
        return Evidence(text, versions=versions)
    row, metric = rows[0], METRICS["valid_error"]
    chosen = METRICS[metric_name(row) or metric.name]
    if chosen is not metric:
        between = (float(row["score_low"]), float(row["score_high"])) if row["score_low"] else None
        text += (
            f"\n{chosen.label.capitalize()} {chosen.show(float(row['valid/score']))} (95 % interval "
            f"{chosen.show_range(between)}): {chosen.meaning}.\n"
        )
    interval = (float(row["low"]), float(row["high"])) if row["low"] and row["high"] else None
    text += (
        f"\nHeld-out error {metric.show(float(row['valid/error']))} on {row['episodes']} episodes (95 % interval "
        f"{metric.show_range(interval)}): root mean squared error of the actions, each dimension divided by its "
        "standard deviation (1: no better than the mean action). The checkpoint may have been chosen by this number.\n"
    )
    return Evidence(text, versions=versions)


def _chosen(setting: SampleSetting) -> str:
    """What best_of_n means, for people who do not know it."""
    if setting.best_of_n == 1:
        return ""
    return f": of {setting.best_of_n} sampled chunks the one that the policy's critic values most is executed"


def card(name: str, bundle: PolicyBundle, setting: SampleSetting, evidence: Evidence) -> str:
    """The contents of README.md for the repository `name` (OWNER/NAME)."""
    config, described = bundle.config, policy_metadata(bundle, setting)
    parts = [
        f"---\n{yaml.safe_dump(_front(name, _subject(config), config.policy.kind, evidence), sort_keys=False)}---\n",
        f"# {name.partition('/')[2]}\n",
        f"A policy for `{_subject(config)}`, trained by behaviour cloning ({config.policy.kind}, chunks of "
        f"{bundle.spec.ahead} actions) with raybc {__version__}: run `{bundle.run_id}`, step {bundle.step}.\n",
        *_film(name, evidence.film),
        f"## {_heading(evidence)}\n\n{evidence.text}",
        "## Use\n",
        "```bash\n" + "".join(f"{line}\n" for line in install_lines(bundle)) + "```\n",
        "```python\nimport raybc\nfrom huggingface_hub import snapshot_download\n\n"
        f'policy = raybc.load(snapshot_download("{name}"))\naction = policy.act(obs)\n```\n',
        f"Actions are drawn with {setting.label()}{_chosen(setting)}.\n",
        table(
            ("observation", "shape", "dtype", "meaning"),
            [
                (f"`{k}`", format_shape(tuple(v["shape"][1:])), v["dtype"], v["meaning"])
                for k, v in described["observations"].items()
            ],
        ),
        f"Actions: {bundle.action_size} numbers, {described['actions']['meaning']}"
        + (f"; {described['fps']:g} a second.\n" if described["fps"] else ".\n"),
        *_instructions(bundle),
        "## Training\n",
        f"Data: fingerprint `{bundle.data_fingerprint}`. Flags that differ from raybc's defaults:\n",
        table(("flag", "value"), [(f"`--{key}`", f"`{value}`") for key, value in _changed(config).items()]),
        "## Versions\n",
        table(("", ""), list(_flat(evidence.versions or {"raybc": __version__, "simulator": bundle.environment}))),
    ]
    return "\n".join(parts)


def _film(name: str, film: Film | None) -> list[str]:
    """The film as the Hub plays it: a video tag needs the whole address."""
    if film is None:
        return []
    address = f"https://huggingface.co/{name}/resolve/main/{REPLAY}"
    return [f'<video src="{address}" controls loop muted width="480"></video>\n', f"{film.caption}.\n"]


def _instructions(bundle: PolicyBundle) -> list[str]:
    """The instructions that the policy knows."""
    if bundle.instructions is None:
        return []
    known = "".join(f"- {text}\n" for text in bundle.instructions.texts)
    return [f"`policy.reset(instruction=...)` says what to do ({bundle.instructions.config.kind}):\n\n{known}"]


def _subject(config: RunConfig) -> str:
    """What the policy is for: its environment, or without one its data."""
    return config.env_name if config.has_environment else Path(config.dataset).name


def _heading(evidence: Evidence) -> str:
    label = evidence.metric.label
    return label[:1].upper() + label[1:]


def _front(name: str, env_name: str, kind: str, evidence: Evidence) -> dict[str, Any]:
    """The card's metadata. env_name: the environment or the data. kind: of the policy."""
    front: dict[str, Any] = {
        "library_name": "raybc",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "behavior-cloning", *(["flow-matching"] if kind.startswith("flow") else []), env_name],
    }
    if evidence.rate is not None:
        task = {"type": "robotics", "name": env_name}
        metric = evidence.metric
        metric_kind, what = ("success_rate", "success rate") if metric.is_rate else (metric.name, metric.label)
        where = " on final starts" if metric.from_episodes else ""
        measured = {"type": metric_kind, "name": f"{what}{where}", "value": evidence.rate}
        whole = (evidence.suite or f"{len(evidence.tasks)} tasks") if evidence.tasks else env_name
        results = [{"task": task, "dataset": {"type": whole, "name": whole}, "metrics": [measured]}]
        results += [
            {
                "task": task,
                "dataset": {"type": one, "name": one},
                "metrics": [{"type": metric_kind, "name": f"{what}{where}", "value": score.value}],
            }
            for one, score in evidence.tasks.items()
            if score.value is not None
        ]
        front["model-index"] = [{"name": name.partition("/")[2], "results": results}]
    return front


def _changed(config: RunConfig) -> dict[str, Any]:
    """Values that differ from the defaults, without the paths of the machine that trained the policy."""
    values = config.to_plain()
    for name in (name for name in INPUTS if name in values):  # some belong to one kind of encoder
        if Path(values[name]).is_absolute():
            values[name] = Path(values[name]).name
    hidden = ("save_dir", "device", "keep")
    return {k: values[k] for k in changed_options(config) if k not in hidden}


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += [(f"{key}: {k}", v) for k, v in _flat(value)] if isinstance(value, Mapping) else [(key, value)]
    return rows


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table. columns: the header cells."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
