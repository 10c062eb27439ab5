"""The evaluation of a policy that its model card quotes unless --measured names one."""

from __future__ import annotations

import re
from pathlib import Path

from raybc.bundle import PolicyBundle
from raybc.files import read_json
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import setting_of
from raybc.types import SampleSetting


def evaluation_of(bundle: PolicyBundle, setting: SampleSetting) -> EvaluationFolder:
    """The policy's evaluation on its own task and final starts with this sample setting, from where
    `python -m raybc.rollout` writes it without --out; of several the one with the most episodes."""
    plain = Path("runs/rollouts") / f"{bundle.run_id}_step_{bundle.step}_final"
    others = [folder for folder in sorted(plain.parent.glob(f"{plain.name}_*")) if _is_plain(folder, plain.name)]
    return max(map(EvaluationFolder, (plain, *others)), key=lambda folder: _episodes(folder, setting))


def _is_plain(folder: Path, name: str) -> bool:
    """Whether the evaluation in `folder` ran as many starts as were asked for, from the first one on, of the policy's
    own task with its own step limit and instruction."""
    metrics = EvaluationFolder(folder).metrics
    if not metrics.is_file() or re.match(r"_\d+(_|$)", folder.name.removeprefix(name)):  # its own number of steps
        return False
    about = read_json(metrics)
    return not any(about.get(key) for key in ("first", "until_halfwidth", "instruction", "tasks"))


def _episodes(folder: EvaluationFolder, setting: SampleSetting) -> int:
    """Episodes that were measured with `setting`; 0 for none."""
    rows = read_json(folder.metrics)["settings"] if folder.metrics.is_file() else []
    return max((int(row["episodes"]) for row in rows if setting_of(row) == setting), default=0)
