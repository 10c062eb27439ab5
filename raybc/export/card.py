"""The model card of a policy: what it is, how it was measured, what it takes, how it was made."""

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
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class Measured:
    """What is known of a policy's success. text: paragraphs of Markdown. rate: on final starts, of the sample setting
    that is shared; None where that was not measured. versions: as versions.json has them."""

    text: str
    rate: float | None = None
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def measured_by(path: Path, folder: Path, bundle: PolicyBundle, setting: SampleSetting, measurement: Path) -> Measured:
    """Of the policy in `folder`, which was asked for as `path`: from a measurement (what `raybc.rollout` left; it must
    be of this policy), else the sweep, else the training run; the best there is."""
    if (measurement / "metrics.json").is_file():
        return _of_rollouts(measurement, bundle, setting)
    if (path / "winner.json").is_file() and (path / "trials.csv").is_file():
        return _of_sweep(path, setting)
    return _of_training(folder.parent, bundle.step)


def _of_rollouts(measurement: Path, bundle: PolicyBundle, setting: SampleSetting) -> Measured:
    found = read_json(measurement / "metrics.json")
    if (found["run_id"], found["step"]) != (bundle.run_id, bundle.step):
        raise UserError(
            f"{measurement}: expected a measurement of run {bundle.run_id}, step {bundle.step}; got run "
            f"{found['run_id']}, step {found['step']}"
        )
    text = (
        f"Measured with `python -m raybc.rollout` on starts {found['first']} and following of the {found['starts']} "
        f"starts of `{found['task']}`, at most {found['max_steps']} steps each. A timeout counts as a failure; "
        "errors of the simulator are counted apart.\n\n"
    )
    rows, rate = [], None
    for row in found["settings"]:
        same = all(row[name] == value for name, value in dataclasses.asdict(setting).items())
        known = row["success_rate"] is not None
        if same and known and found["starts"] == "final":
            rate = row["success_rate"]
        interval = percent_range((row["wilson_low"], row["wilson_high"])) if known else "-"
        label = SampleSetting(**{f.name: row[f.name] for f in dataclasses.fields(SampleSetting)}).label()
        rows.append(
            (label, percent(row["success_rate"]), interval, f"{row['successes']}/{row['episodes']}" if known else "-",
             "-" if row["mean_return"] is None else f"{row['mean_return']:.2f}", row["failure_counts"]["exception"])
        )  # fmt: skip
    text += table(("setting", "success", "95 % interval (Wilson)", "solved", "mean return", "errors"), rows)
    if found["until_halfwidth"]:
        text += f"\nEach measurement ended when its interval was at most -+ {found['until_halfwidth']} wide.\n"
    versions = measurement / "versions.json"
    return Measured(text, rate, read_json(versions) if versions.is_file() else {})


def _of_sweep(path: Path, setting: SampleSetting) -> Measured:
    run = load_run(path)
    rows = leaderboard(run)
    winner = next((row for row in rows if row.is_winner), None)
    text = f"{winner_line(run, rows)}\n\n{selection_rule(run)}\n"
    if winner is None or winner.final is None:
        return Measured(text, versions=run.versions)
    flows = [
        (steps, percent(rate.rate), percent_range(rate.interval), f"{rate.successes}/{rate.episodes}", rate.errors)
        for steps, rate in winner.per_flow_steps.items()
    ]
    text += "\nThe rate is that of the recipe, over all of its seeds; this policy is the seed that did best on the "
    text += "search starts.\n\n"
    text += table(("flow_steps", "success", "95 % interval (Wilson)", "solved", "errors"), flows)
    return Measured(text, winner.final.rate if winner.setting == setting else None, run.versions)


def _of_training(run: Path, step: int) -> Measured:
    versions = read_json(run / "versions.json") if (run / "versions.json").is_file() else {}
    rows = []
    if (run / "eval.csv").is_file():
        with (run / "eval.csv").open(newline="") as handle:
            rows = [r for r in csv.DictReader(handle) if r["step"] == str(step) and r["eval/success"]]
    if not rows:
        return Measured("It was not measured.\n", versions=versions)
    row = rows[0]
    interval = percent_range((float(row["wilson_low"]), float(row["wilson_high"])))
    text = (
        f"{percent(float(row['eval/success']))} of {row['episodes']} episodes on search starts (95 % interval "
        f"{interval}), measured during training. Checkpoints may have been chosen by it, which makes it lucky; it "
        "was not measured on final starts.\n"
    )
    return Measured(text, versions=versions)


def card(name: str, bundle: PolicyBundle, setting: SampleSetting, measured: Measured) -> str:
    """README.md of the repository `name` (OWNER/NAME)."""
    config, described = bundle.config, policy_metadata(bundle, setting)
    parts = [
        f"---\n{yaml.safe_dump(_front(name, config.env_name, measured), sort_keys=False)}---\n",
        f"# {name.partition('/')[2]}\n",
        f"A policy for `{config.env_name}`, trained by behaviour cloning (flow matching, chunks of "
        f"{bundle.spec.horizon} actions) with raybc {__version__}: run `{bundle.run_id}`, step {bundle.step}.\n",
        f"## Success\n\n{measured.text}",
        "## Use\n",
        "```python\nimport raybc\nfrom huggingface_hub import snapshot_download\n\n"
        f'policy = raybc.load(snapshot_download("{name}"))\naction = policy.act(obs)\n```\n',
        f"Actions are drawn with {setting.label()}.\n",
        table(
            ("observation", "shape", "dtype", "what"),
            [
                (f"`{k}`", format_shape(tuple(v["shape"][1:])), v["dtype"], v["meaning"])
                for k, v in described["observations"].items()
            ],
        ),
        f"Actions: {bundle.action_size} numbers, {described['actions']['meaning']}"
        + (f"; {described['fps']:g} a second.\n" if described["fps"] else ".\n"),
        "## Training\n",
        f"Data: fingerprint `{bundle.data_fingerprint}`. What differs from raybc's defaults:\n",
        table(("flag", "value"), [(f"`--{key}`", f"`{value}`") for key, value in _changed(config).items()]),
        "## Versions\n",
        table(("", ""), list(_flat(measured.versions or {"raybc": __version__, "simulator": bundle.environment}))),
    ]
    return "\n".join(parts)


def _front(name: str, env_name: str, measured: Measured) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "raybc",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "behavior-cloning", "flow-matching", env_name],
    }
    if measured.rate is not None:
        task = {"type": "robotics", "name": env_name}
        metric = {"type": "success_rate", "name": "success rate on final starts", "value": measured.rate}
        result = {"task": task, "dataset": {"type": env_name, "name": env_name}, "metrics": [metric]}
        front["model-index"] = [{"name": name.partition("/")[2], "results": [result]}]
    return front


def _changed(config: RunConfig) -> dict[str, Any]:
    """Values that are not the defaults; where the trainer kept its files is nobody's business."""
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
    """Of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
