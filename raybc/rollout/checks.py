"""What is refused before a simulator process starts: bundles that are not there, or do not fit the environment."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc.bundle import META, PolicyBundle
from raybc.data.episodes import format_shape
from raybc.data.units import far_starts, other_actions
from raybc.files import read_json
from raybc.types import SampleSetting, UserError

if TYPE_CHECKING:  # acting with a bundle needs no simulator
    from raybc.envs.spec import EnvSpec

#: The folder of a checkpoint: its step, and the round that it ends.
CHECKPOINT = re.compile(r"checkpoint_(\d+)(?:_round_\d+)?")
#: What of a dataset's `env_args` a result depends on.
DATA_ENV = ("robots", "controller_configs", "control_freq")


def find_bundle(path: Path, checkpoint: str = "") -> tuple[Path, SampleSetting | None]:
    """The bundle at `path`: itself, the winner of a sweep with the sample setting that was chosen, or one of a training
    run's checkpoints: the latest (also -1), the best (highest success in eval.csv, of equals the latest) or the one of
    a step."""
    if (path / META).is_file():
        if checkpoint:
            raise UserError(f"--checkpoint: {path} is one bundle; expected the folder of a training run")
        return path, None
    if (path / "winner.json").is_file():
        if checkpoint:
            raise UserError(
                f"--checkpoint: {path} is a sweep, whose winner is measured; name a training run, or a bundle below "
                f"{path / 'trials'}"
            )
        winner = read_json(path / "winner.json")
        return path / winner["bundle"], SampleSetting(**winner["setting"])
    steps = checkpoints(path)
    if not steps:
        return path, None  # PolicyBundle.load says what is missing
    if checkpoint in ("", "latest", "-1"):
        return steps[max(steps)], None
    if checkpoint == "best":
        best = best_step(path)
        if best is None:
            raise UserError(
                f"--checkpoint best: {path / 'eval.csv'} has no evaluation of a checkpoint that is left, so nothing "
                "says which is the best; use latest or a step"
            )
        return steps[best], None
    if checkpoint.isdigit() and int(checkpoint) in steps:
        return steps[int(checkpoint)], None
    known = ", ".join(map(str, sorted(steps)))
    raise UserError(f"--checkpoint: expected latest, best, -1 or one of the steps {known}; got {checkpoint!r}")


def checkpoints(run: Path) -> dict[int, Path]:
    """step -> bundle, of a training run's folder or of a sweep trial's seed folder."""
    found = ((CHECKPOINT.fullmatch(f.name), f) for f in run.glob("checkpoint_*") if (f / META).is_file())
    return {int(name[1]): f for name, f in found if name}


def best_step(run: Path) -> int | None:
    """Of the checkpoints that are left, the step with the highest success in eval.csv, of equals the latest; None where
    none was measured."""
    path = run / "eval.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as handle:
        rates = {int(r["step"]): float(r["eval/success"]) for r in csv.DictReader(handle) if r["eval/success"]}
    return max((s for s in checkpoints(run) if s in rates), key=lambda step: (rates[step], step), default=None)


def check_fits(bundle: PolicyBundle, probe: EnvSpec, path: Path) -> None:
    """Refuse a bundle whose observations, actions or statistics are not those of the environment."""
    name = bundle.config.env_name
    here = {**{key: (size,) for key, size in probe.obs_sizes.items()}, **probe.images}
    expected = {**{key: (size,) for key, size in bundle.obs_sizes.items()}, **bundle.images}
    for key, shape in expected.items():
        if here.get(key) != shape:
            got = format_shape(here[key]) if key in here else "none of that name"
            raise UserError(
                f"{path}: observation {key!r}: the policy expects size {format_shape(shape)}, environment {name!r} has "
                f"{got}"
            )
    if bundle.action_size != probe.action_size:
        raise UserError(
            f"{path}: actions: the policy gives {bundle.action_size} numbers, environment {name!r} takes "
            f"{probe.action_size}"
        )
    check_statistics(bundle, probe, path)


def check_statistics(bundle: PolicyBundle, probe: EnvSpec, path: Path) -> None:
    """Refuse statistics of other units than the environment's: such a policy would run, and solve nothing.

    Starts of the environment must look like something training has seen, and the actions that the statistics stand for
    must lie in the action space and reach a fair part of it.
    """
    far = None
    if bundle.obs_sizes:
        starts = np.concatenate([probe.starts[key] for key in bundle.obs_sizes], axis=1)
        far = far_starts(starts, bundle.obs_normalizer.offset, bundle.obs_normalizer.scale)
    if far is not None:
        worst, distance = far
        key, place = _name_of(bundle.obs_sizes, worst)
        raise UserError(
            f"{path}: normalisation of observations does not fit environment {bundle.config.env_name!r}: "
            f"{key}[{place}] is {starts[0, worst]:g} at a start, {distance:.0f} scales from the "
            f"{bundle.obs_normalizer.offset[worst]:g} of the training data; was the data in other units, or normalised "
            "twice?"
        )
    low, high = probe.action_low, probe.action_high
    offset, scale = bundle.action_normalizer.offset, bundle.action_normalizer.scale
    other = other_actions(offset - 5 * scale, offset + 5 * scale, low, high)
    if other is not None:
        raise UserError(
            f"{path}: normalisation of actions does not fit environment {bundle.config.env_name!r}: action {other} is "
            f"{offset[other]:g} -+ {scale[other]:g} in the training data, the environment takes {low[other]:g} to "
            f"{high[other]:g}; was the data in other units, or normalised twice?"
        )


def _name_of(sizes: dict[str, int], place: int) -> tuple[str, int]:
    for key, size in sizes.items():
        if place < size:
            return key, place
        place -= size
    raise IndexError(place)


def version_changes(bundle: PolicyBundle, probe: EnvSpec) -> list[tuple[str, str, str, str]]:
    """(since, name, then, now) of what a score depends on and is not as it was when the policy was trained or its data
    was recorded."""
    now = probe.identity
    names = sorted(bundle.environment.keys() | now.keys())
    changes = [("the policy was trained", n, bundle.environment.get(n, "absent"), now.get(n, "absent")) for n in names]
    data, here = bundle.data_env, probe.env_args
    if data and here:
        pairs = [(n, data.get(n), here.get(n)) for n in ("env_name", "env_version")]
        old, new = data.get("env_kwargs", {}), here.get("env_kwargs", {})
        pairs += [(n, old[n], new.get(n)) for n in DATA_ENV if n in old and n in new]
        changes += [("the data was recorded", n, _short(a), _short(b)) for n, a, b in pairs]
    return [change for change in changes if change[2] != change[3]]


def _short(value: Any) -> str:
    """A value to compare and print; a controller's configuration by its types."""
    if isinstance(value, dict):
        kinds = [value.get("type"), *(part.get("type") for part in value.get("body_parts", {}).values())]
        return json.dumps([k for k in kinds if k] or value, sort_keys=True)
    return str(value)
