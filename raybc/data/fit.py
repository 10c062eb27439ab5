"""Whether a data set fits the action range that it declares, and the environment that it is for.

Letters: A action dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raybc.data import units
from raybc.data.control import advice_for, mismatch
from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.findings import Finding, Severity
from raybc.data.formats.base import DatasetInfo
from raybc.data.gains import Gain, barely_used, text_of
from raybc.data.normalize import CONSTANT, Normalizer
from raybc.data.seen import Seen
from raybc.envs.base import Task
from raybc.envs.robosuite_control import is_absolute
from raybc.envs.spec import EnvSpec, observation_shapes
from raybc.types import UserError


@dataclass(frozen=True)
class TaskView:
    """The environment that a data set is compared with."""

    task: Task
    """The task that the data are for."""
    probe: EnvSpec
    """Sizes, action space and starts of its simulator."""
    gains: tuple[Gain, ...] = ()
    """How far actions of the data move observations, in the data and in the simulator; () where it was not played."""
    chosen_action: bool = False
    """Whether the action was chosen by hand (`--action_key`), so that `env_args` need not describe it."""


def _action_findings(
    seen: Seen, low_A: np.ndarray, high_A: np.ndarray, whose: str, severity: Severity
) -> list[Finding]:
    """Actions in other units than a range, or else those that exceed it."""
    usual_low, usual_high = seen.usual_actions()
    other = units.other_actions(usual_low, usual_high, low_A, high_A, units.MAX_SPAN)
    if other is not None:
        looks = "look normalised" if max(abs(usual_low[other]), abs(usual_high[other])) < 5 else "look not normalised"
        advice = "convert the actions to the units of that range; a policy trained on these would solve nothing"
        expected = f"{low_A[other]:g} to {high_A[other]:g}, the range of {whose}"
        found = f"{usual_low[other]:g} to {usual_high[other]:g} in most episodes: these {looks}"
        return [seen.finding("error", "action_units", f"actions[{other}]", (), expected, found, advice)]
    exceeding = seen.outside(low_A, high_A)
    if not exceeding:
        return []
    advice = "check the recorder's units; an environment clips or refuses such actions"
    dims = [a for a, _, _ in exceeding]
    shares = {a: seen.share_outside(a) for a in dims} if severity == "warning" else {}
    got = [
        f"{value:g} in dimension {a}" + (f" ({100 * share:.2g} % of the steps)" if (share := shares.get(a)) else "")
        for a, _, value in exceeding
    ]
    lows, highs = sorted({f"{low_A[a]:g}" for a in dims}), sorted({f"{high_A[a]:g}" for a in dims})
    one = len(lows) == len(highs) == 1
    bounds = [f"{low_A[a]:g} to {high_A[a]:g}" for a in (dims[:1] if one else dims)]
    episodes = sorted({episode for _, those, _ in exceeding for episode in those})
    key = f"actions[{', '.join(map(str, dims))}]"
    expected = f"{', '.join(bounds)}, the range of {whose}"
    return [seen.finding(severity, "action_range", key, episodes, expected, "; ".join(got), advice)]


def declared(seen: Seen, about: DatasetInfo) -> list[Finding]:
    if about.action_range is None:
        return []
    low, high = about.action_range
    return _action_findings(seen, low, high, "the data themselves", "error")


def environment(seen: Seen, view: TaskView, about: DatasetInfo) -> list[Finding]:
    """Names, sizes and units compared with the task. Actions outside its space are a warning: people record them, and
    simulators clip them."""
    name, probe = view.task.name, view.probe
    block = seen.first_block
    assert block is not None
    obs = {k.removeprefix("obs/"): v for k, v in block.arrays.items() if k.startswith("obs/")}
    # Images were read only if they are checked.
    shapes = {
        k: s for k, s in observation_shapes(probe, view.task.obs_keys).items() if k in obs or k not in probe.images
    }
    sample = EpisodeStore(
        obs, block.arrays["actions"], block.arrays["rewards"], np.cumsum(block.lengths), source=seen.path, checked=True
    )
    try:
        check_matches_task(sample, shapes, probe.action_size, name)
    except UserError as error:
        advice = "name the task that the data were recorded in with --env_name"
        expected = f"the observations and actions of {name}"
        return [seen.finding("error", "task", "", (), expected, str(error), advice)]
    found = (
        _control(seen, view, about)
        or _moved(seen, view)
        or _action_findings(seen, probe.action_low, probe.action_high, f"environment {name}", "warning")
    )
    found += _version(seen, view, about) + _long(seen, view)
    for key in (k for k in shapes if k in probe.obs_sizes):
        found += _observation_findings(seen, key, probe.starts[key], name)
    return found


def _control(seen: Seen, view: TaskView, about: DatasetInfo) -> list[Finding]:
    """Deltas where the environment takes poses, or the reverse."""
    found = None if view.chosen_action else mismatch(about.env_args, view.probe.env_args)
    if found is None:
        return []
    was, now = found
    return [
        seen.finding(
            "error", "control", "actions", (), f"{now}, as {view.task.name} takes", str(was), advice_for(was, now)
        )
    ]


def _version(seen: Seen, view: TaskView, about: DatasetInfo) -> list[Finding]:
    """Data that were recorded in another environment, or another version of it, whose sizes may agree all the same."""
    was, now = (str(args.get("env_name") or "") for args in (about.env_args, view.probe.env_args))
    if not was or not now or was.lower().removeprefix("gym:") == now.lower().removeprefix("gym:"):
        return []
    advice = "name the environment that they were recorded in; equal sizes do not mean equal observations"
    return [seen.finding("warning", "version", "", (), f"data of {now}, the environment", f"data of {was}", advice)]


def _long(seen: Seen, view: TaskView) -> list[Finding]:
    limit = view.task.max_steps
    long = seen.longer_than(limit)
    if not long:
        return []
    advice = "a policy that is as slow as these demonstrations cannot succeed within the limit"
    expected = f"at most the {limit} steps that an evaluation in {view.task.name} takes"
    return [seen.finding("warning", "long", "", long, expected, f"{len(long)} longer episodes", advice)]


def _moved(seen: Seen, view: TaskView) -> list[Finding]:
    """Actions that moved observations by other distances than they do in the environment, and those that may have
    other units, where nothing shows how far they moved."""
    other = [gain for gain in view.gains if not gain.fits]
    if other:
        dims = ", ".join(str(gain.action) for gain in other)
        expected = f"the distances of environment {view.task.name} for each unit of action"
        advice = "convert the actions to its units; a policy trained on these would solve nothing"
        return [seen.finding("error", "action_units", f"actions[{dims}]", (), expected, text_of(other), advice)]
    if is_absolute(view.probe.env_args):  # poses use a part of the space
        return []
    low, high = view.probe.action_low, view.probe.action_high
    lowest, highest = np.nanmin(np.stack(seen.lowest), axis=0), np.nanmax(np.stack(seen.highest), axis=0)
    shown = {gain.action for gain in view.gains}
    dims_barely = [a for a in barely_used(lowest, highest, low, high) if a not in shown]
    if not dims_barely:
        return []
    a = dims_barely[0]
    key = f"actions[{', '.join(map(str, dims_barely))}]"
    expected = f"actions that use the range of environment {view.task.name}, {low[a]:g} to {high[a]:g}, as others do"
    got = f"{lowest[a]:g} to {highest[a]:g}"
    advice = (
        "check whether they are in metres and radians where the environment takes normalised numbers; if they are "
        "right, the demonstrations are slow"
    )
    return [seen.finding("error", "action_units", key, (), expected, got, advice)]


def _far(seen: Seen, key: str, starts: np.ndarray, name: str) -> list[Finding]:
    """Single dimensions whose starts are far from all of the data, as training normalises them."""
    moments = seen.moments[f"obs/{key}"]
    size = len(moments.mean)
    plain = Normalizer(moments.mean.astype(np.float32), np.where(moments.std < CONSTANT, 1.0, moments.std).astype("f4"))
    used = plain.with_floor(moments.min, moments.max, ["mean_std"] * size, [size])
    advice = "check how it was recorded; a policy never saw such values: leave the observation out, or record others"
    return [
        seen.finding(
            "warning", "scale", f"{key}[{d}]", (), f"values as at a start of {name}, {starts[0, d]:g}",
            f"{moments.min[d]:g} to {moments.max[d]:g}: the start is {distance:.0f} scales away", advice,
        )
        for d, distance in units.far_dimensions(starts, used.offset, used.scale)
    ]  # fmt: skip


def _observation_findings(seen: Seen, key: str, starts: np.ndarray, name: str) -> list[Finding]:
    moments, recorded = seen.moments[f"obs/{key}"], np.stack(seen.starts[f"obs/{key}"])
    advice = "convert the observations to the environment's units, or name another task"
    scale = np.where(moments.std < CONSTANT, 1.0, moments.std)
    far = units.far_starts(starts, moments.mean, scale)
    if far is not None:
        d, distance = far
        expected = f"values as at a start of {name}, {starts[0, d]:g}"
        got = f"{moments.mean[d]:g} with standard deviation {moments.std[d]:g}: {distance:.0f} standard deviations away"
    else:
        spread = units.other_spread(starts, recorded)
        if spread is None:
            return _far(seen, key, starts, name)
        d, ratio = spread
        expected = f"starts that vary like those of {name}, standard deviation {starts[:, d].std():g}"
        got = f"{recorded[:, d].std():g}, {ratio:.3g} times as much"
    return [seen.finding("error", "observation_units", f"{key}[{d}]", (), expected, got, advice)]
