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
from raybc.data.episodes import format_shape
from raybc.files import read_json
from raybc.inference.metadata import policy_metadata
from raybc.report.tables import leaderboard, load_run, percent, percent_range, selection_rule, winner_line
from raybc.rows import setting_of
from raybc.run_folder import EvaluationFolder, SweepFolder, TrainingFolder
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class Evidence:
    """What is known about a policy's success."""

    text: str
    """Paragraphs of Markdown."""
    rate: float | None = None
    """Success rate on final starts with the shared sample setting; None if it was not measured."""
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The contents of versions.json."""


def evidence_for(
    path: Path, source: Path, bundle: PolicyBundle, setting: SampleSetting, evaluation: EvaluationFolder
) -> Evidence:
    """The best evidence for a policy: its evaluation by `raybc.rollout` if there is one, else its sweep, else its
    training run.

    Args:
        path: the path that the user gave.
        source: the folder of the bundle.
        bundle: the policy.
        setting: its sample setting.
        evaluation: where an evaluation may be.

    Raises `UserError` if the evaluation is of another policy.
    """
    if evaluation.metrics.is_file():
        return _of_rollouts(evaluation, bundle, setting)
    sweep = SweepFolder(path)
    if sweep.winner_json.is_file() and sweep.trials_csv.is_file():
        return _of_sweep(sweep, setting)
    return _of_training(TrainingFolder(source.parent), bundle.step)


def _of_rollouts(evaluation: EvaluationFolder, bundle: PolicyBundle, setting: SampleSetting) -> Evidence:
    found = read_json(evaluation.metrics)
    if (found["run_id"], found["step"]) != (bundle.run_id, bundle.step):
        raise UserError(
            f"{evaluation.path}: expected an evaluation of run {bundle.run_id}, step {bundle.step}; got run "
            f"{found['run_id']}, step {found['step']}"
        )
    text = (
        f"Measured with `python -m raybc.rollout` on the {found['starts']} starts from {found['first']} on of "
        f"`{found['task']}`, at most {found['max_steps']} steps each. A timeout counts as a failure; errors of the "
        "simulator are counted apart.\n\n"
    )
    rows, rate = [], None
    for row in found["settings"]:
        known = row["success_rate"] is not None
        if setting_of(row) == setting and known and found["starts"] == "final":
            rate = row["success_rate"]
        interval = percent_range((row["wilson_low"], row["wilson_high"])) if known else "-"
        rows.append(
            (setting_of(row).label(), percent(row["success_rate"]), interval,
             f"{row['successes']}/{row['episodes']}" if known else "-",
             "-" if row["mean_return"] is None else f"{row['mean_return']:.2f}", row["failure_counts"]["exception"])
        )  # fmt: skip
    text += table(("setting", "success", "95 % interval (Wilson)", "solved", "mean return", "errors"), rows)
    if found["until_halfwidth"]:
        text += f"\nEach evaluation ended when half the width of its interval was at most {found['until_halfwidth']}.\n"
    return Evidence(text, rate, _versions(evaluation.versions))


def _versions(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _of_sweep(sweep: SweepFolder, setting: SampleSetting) -> Evidence:
    run = load_run(sweep.path)
    rows = leaderboard(run)
    winner = next((row for row in rows if row.is_winner), None)
    text = f"{winner_line(run, rows)}\n\n{selection_rule(run)}\n"
    if winner is None or winner.final is None:
        return Evidence(text, versions=run.versions)
    flows = [
        (steps, percent(rate.rate), percent_range(rate.interval), f"{rate.successes}/{rate.episodes}", rate.errors)
        for steps, rate in winner.per_flow_steps.items()
    ]
    text += "\nThe rate is that of the recipe over all its seeds; this policy is the seed that did best on the "
    text += "search starts.\n\n"
    text += table(("flow_steps", "success", "95 % interval (Wilson)", "solved", "errors"), flows)
    return Evidence(text, winner.final.rate if winner.setting == setting else None, run.versions)


def _of_training(run: TrainingFolder, step: int) -> Evidence:
    versions = _versions(run.versions)
    rows = []
    if run.eval_csv.is_file():
        with run.eval_csv.open(newline="") as handle:
            rows = [r for r in csv.DictReader(handle) if r["step"] == str(step) and r["eval/success"]]
    if not rows:
        return Evidence("It was not evaluated.\n", versions=versions)
    row = rows[0]
    interval = percent_range((float(row["wilson_low"]), float(row["wilson_high"])))
    text = (
        f"{percent(float(row['eval/success']))} of {row['episodes']} episodes on search starts (95 % interval "
        f"{interval}), measured during training. The checkpoint may have been chosen by this rate, which biases it "
        "upwards; it was not measured on final starts.\n"
    )
    return Evidence(text, versions=versions)


def card(name: str, bundle: PolicyBundle, setting: SampleSetting, evidence: Evidence) -> str:
    """The contents of README.md for the repository `name` (OWNER/NAME)."""
    config, described = bundle.config, policy_metadata(bundle, setting)
    parts = [
        f"---\n{yaml.safe_dump(_front(name, config.env_name, evidence), sort_keys=False)}---\n",
        f"# {name.partition('/')[2]}\n",
        f"A policy for `{config.env_name}`, trained by behaviour cloning (flow matching, chunks of "
        f"{bundle.spec.horizon} actions) with raybc {__version__}: run `{bundle.run_id}`, step {bundle.step}.\n",
        f"## Success\n\n{evidence.text}",
        "## Use\n",
        "```python\nimport raybc\nfrom huggingface_hub import snapshot_download\n\n"
        f'policy = raybc.load(snapshot_download("{name}"))\naction = policy.act(obs)\n```\n',
        f"Actions are drawn with {setting.label()}.\n",
        table(
            ("observation", "shape", "dtype", "meaning"),
            [
                (f"`{k}`", format_shape(tuple(v["shape"][1:])), v["dtype"], v["meaning"])
                for k, v in described["observations"].items()
            ],
        ),
        f"Actions: {bundle.action_size} numbers, {described['actions']['meaning']}"
        + (f"; {described['fps']:g} a second.\n" if described["fps"] else ".\n"),
        "## Training\n",
        f"Data: fingerprint `{bundle.data_fingerprint}`. Flags that differ from raybc's defaults:\n",
        table(("flag", "value"), [(f"`--{key}`", f"`{value}`") for key, value in _changed(config).items()]),
        "## Versions\n",
        table(("", ""), list(_flat(evidence.versions or {"raybc": __version__, "simulator": bundle.environment}))),
    ]
    return "\n".join(parts)


def _front(name: str, env_name: str, evidence: Evidence) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "raybc",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "behavior-cloning", "flow-matching", env_name],
    }
    if evidence.rate is not None:
        task = {"type": "robotics", "name": env_name}
        metric = {"type": "success_rate", "name": "success rate on final starts", "value": evidence.rate}
        result = {"task": task, "dataset": {"type": env_name, "name": env_name}, "metrics": [metric]}
        front["model-index"] = [{"name": name.partition("/")[2], "results": [result]}]
    return front


def _changed(config: RunConfig) -> dict[str, Any]:
    """Values that differ from the defaults, without the paths of the machine that trained the policy."""
    values = config.to_plain()
    for name in ("dataset", "ogbench_dataset_dir", "sampling_plan_path"):
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
