"""A data set as a page: what is in it, episodes as curves and images, values, findings, and a sampling plan.

Letters: D dimensions of a key, B bins, E episodes, n steps of an episode that are kept.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc._version import __version__
from raybc.cli import as_typed
from raybc.data.bounds import size as bytes_as_text
from raybc.data.labels import Label
from raybc.data.load import size_on_disk
from raybc.data.overview import BINS, KeyNumbers, Overview
from raybc.data.plan.plan import SamplingPlan
from raybc.data.stills import Stills
from raybc.data.units import MAX_SCALES
from raybc.files import write_text
from raybc.report.page import environment, make_figure, safe_json
from raybc.report.plan import drawn

#: Findings, instructions and episodes of a finding that are listed; of the others only the number.
MAX_FINDINGS, MAX_TASKS, MAX_LISTED = 100, 20, 8
#: Height and width of a histogram, in its own units.
WIDTH, HEIGHT = 200, 56
#: With more dimensions than this, only the first keys are open.
MAX_OPEN = 48
#: Height of the curves in pixels.
CURVE_HEIGHT = 400


@dataclass(frozen=True)
class Dimension:
    """A dimension of a key, as the page shows it."""

    name: str
    """Its number, with its name and unit where they are known."""
    unit: str
    """"" where it is not known."""
    bars: str
    """The histogram as an SVG path."""
    low: str
    """Lowest value, as text, as are the next three."""
    high: str
    """Highest value."""
    mean: str
    """Mean."""
    std: str
    """Standard deviation."""
    zero: float | None
    """Place of 0 in the histogram, in its own units; None where it is outside."""
    marks: tuple[str, ...]
    """What is odd: "constant", "hardly moves", "outliers, 15 std"."""
    normalised: tuple[str, str, str]
    """What mean_std, min_max and quantile make of it; "" for what is not normalised."""
    label: str
    """The histogram in words."""


@dataclass(frozen=True)
class Key:
    """An array."""

    name: str
    """As commands call it."""
    size: int
    """Its number of dimensions; more than are shown in large ones."""
    dimensions: tuple[Dimension, ...]
    """Those that are shown."""
    open: bool
    """Whether its histograms are seen at once."""


def number(value: float) -> str:
    """Four digits, as people write them: 0.1234, 1,234, 8.3e-05."""
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def write_data_page(
    view: Overview,
    labels: Mapping[str, Sequence[Label]],
    stills: Stills,
    path: Path,
    notes: Sequence[str] = (),
    plan: SamplingPlan | None = None,
    name: str = "",
) -> None:
    """Write a self-contained HTML page.

    Args:
        view: the data set.
        labels: key -> names and units of its dimensions.
        stills: frames of its images.
        path: the page.
        notes: what to say first, one sentence each.
        plan: a sampling plan of the data set.
        name: what the user called the data (default: their path).
    """
    about, source = view.about, view.source
    context = {
        "version": __version__,
        "name": source.path.resolve().name,
        "format": source.format,
        "facts": _facts(view, stills),
        "notes": [*notes, *view.report.remarks, *_image_remarks(view)],
        "scope": _scope(view, stills),
        "findings": [_finding(finding) for finding in view.report.findings[:MAX_FINDINGS]],
        "findings_left": max(0, len(view.report.findings) - MAX_FINDINGS),
        "commands": _commands(name or str(source.path), view),
        "lengths": _episode_histogram("Length", view.lengths_E.astype(np.float64), "steps"),
        "returns": None if view.returns_E is None else _episode_histogram("Return", view.returns_E, "sum of rewards"),
        "splits": _splits(view),
        "tasks": _tasks(about.tasks),
        "keys": _keys(view, labels),
        "trained": view.train,
        "cameras": _filmstrips(view, stills),
        "curves": _curves(view, labels),
        "curve_figure": make_figure(
            "curves", "Episodes as curves", "Line chart of the chosen episode; the lists above choose another.",
            [], {}, {}, CURVE_HEIGHT,
        ),
        "plan": plan,
        "drawn": None if plan is None else drawn(plan),
        "width": WIDTH,
        "height": HEIGHT,
        "plotly": Markup(get_plotlyjs()),
    }  # fmt: skip
    write_text(path, environment().get_template("data.html.j2").render(context))


def _facts(view: Overview, stills: Stills) -> dict[str, str | list[str]]:
    """Name -> text, or several short ones."""
    about, lengths_E, success_E = view.about, view.lengths_E, view.about.success_E
    args = about.env_args
    limits = about.action_range
    cameras = [f"{name}: {' x '.join(map(str, size))}" for name, size in stills.sizes.items()]
    sizes = {k.removeprefix("obs/"): numbers.size for k, numbers in view.numbers.items() if k.startswith("obs/")}
    episodes = f"{len(lengths_E):,}"
    if success_E is not None:
        episodes += f", {int(success_E.sum()):,} successful ({success_E.mean():.1%})".replace("%", " %")
    found: dict[str, str | list[str]] = {
        "Episodes": episodes,
        "Transitions": f"{int(lengths_E.sum()):,}",
        "Length": f"{lengths_E.min():,} to {lengths_E.max():,} steps, median {np.median(lengths_E):g}",
        "Actions": f"{view.numbers['actions'].size} dimensions",
        "Success": "not known" if success_E is None else "",
        "Environment": " ".join(str(args[k]) for k in ("env_name", "env_version") if args.get(k)),
        "Declared actions": "" if limits is None else f"{number(limits[0].min())} to {number(limits[1].max())}",
        "On disk": bytes_as_text(size_on_disk(view.source.path)),
        "Observations": [f"{name}: {size}" for name, size in sizes.items()],
        "Images": cameras,
    }
    return {key: text for key, text in found.items() if text}


def _image_remarks(view: Overview) -> list[str]:
    return [f"{n.key}: {n.text}" for n in view.about.notes if n.kind == "image"]


def _scope(view: Overview, stills: Stills) -> str:
    """What the page is made of."""
    total = len(view.lengths_E)
    parts = [f"Histograms and numbers of all {int(view.lengths_E.sum()):,} steps"]
    strides = {curve.stride for curve in view.curves}
    steps = "" if strides == {1} else ", longer ones thinned" if 1 in strides else ", thinned"
    parts.append(f"curves of {_of(len(view.curves), total)}{steps}")
    if stills.frames:
        parts.append(f"images of {_of(len(stills.frames), total)}")
    return f"{'; '.join(parts)}."


def _of(count: int, total: int) -> str:
    return f"all {total:,} episodes" if count == total else f"{count:,} of {total:,} episodes"


def _finding(finding: Any) -> dict[str, str]:
    listed = ", ".join(map(str, finding.episodes[:MAX_LISTED]))
    more = len(finding.episodes) - MAX_LISTED
    return {
        "severity": finding.severity,
        "kind": finding.kind,
        "key": finding.key or "-",
        "episodes": (f"{listed} and {more:,} more" if more > 0 else listed) or "all",
        "expected": finding.expected,
        "found": finding.found,
        "advice": finding.advice,
    }


def _commands(name: str, view: Overview) -> list[tuple[str, str]]:
    """(what it checks, the command) of checks that take longer, or need a simulator."""
    base = f"python -m raybc.data verify {shlex.quote(name)}"
    task = view.source.task or "TASK"
    found = [
        ("Every image, and checksums of converted data", f"{base} --images"),
        ("Units and starts against a task, and recorded actions replayed", f"{base} --env_name {task} --replay 8"),
        ("Fingerprint", f"python -m raybc.data info {shlex.quote(name)}"),
    ]
    return [(what, as_typed(command)) for what, command in found]


def _path(counts_B: np.ndarray) -> str:
    """The bars of a histogram; what holds anything is at least a unit high."""
    top, width = max(1, int(counts_B.max())), WIDTH / len(counts_B)
    bars = []
    for b in np.flatnonzero(counts_B):
        height = max(1.0, float(counts_B[b]) / top * HEIGHT)
        bars.append(f"M{b * width:g} {HEIGHT}v-{height:.4g}h{width:g}v{height:.4g}z")
    return "".join(bars)


def _episode_histogram(title: str, values_E: np.ndarray, unit: str) -> dict[str, Any]:
    low, high = float(values_E.min()), float(values_E.max())
    around = (low, high) if high > low else (low - 0.5, low + 0.5)
    counts = np.histogram(values_E, bins=BINS, range=around)[0]
    median, mean = number(float(np.median(values_E))), number(float(values_E.mean()))
    text = f"{number(low)} to {number(high)}, median {median}, mean {mean}"
    text = text if high > low else f"{number(low)} in every episode"
    return {
        "title": title,
        "bars": _path(counts),
        "low": number(low),
        "high": number(high),
        "unit": unit,
        "text": text,
        "label": f"Histogram of {title.lower()}s of {len(values_E):,} episodes, {unit}: {text}.",
    }


def _splits(view: Overview) -> list[dict[str, str]]:
    """The episodes of each split, and all."""
    success_E, returns_E = view.about.success_E, view.returns_E
    groups: dict[str, np.ndarray] = {"all": np.arange(len(view.lengths_E)), **view.about.splits}
    return [
        {
            "name": name,
            "episodes": f"{len(of):,}",
            "steps": f"{int(view.lengths_E[of].sum()):,}",
            "success": "-" if success_E is None or not len(of) else f"{100 * success_E[of].mean():.1f} %",
            "length": "-" if not len(of) else number(float(view.lengths_E[of].mean())),
            "return": "-" if returns_E is None or not len(of) else number(float(returns_E[of].mean())),
        }
        for name, of in groups.items()
    ]


def _tasks(tasks: Sequence[str]) -> dict[str, Any]:
    """Instructions, the most frequent first."""
    words, counts = np.unique(np.array(tasks, dtype=str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = [(str(words[i]) or "(empty)", f"{counts[i]:,}") for i in order[:MAX_TASKS]]
    return {"listed": listed, "left": max(0, len(words) - MAX_TASKS)}


def _keys(view: Overview, labels: Mapping[str, Sequence[Label]]) -> list[Key]:
    """Actions first, then observations, then rewards."""
    order = sorted(view.numbers, key=lambda k: (k != "actions", k == "rewards"))
    keys: list[Key] = []
    shown = 0
    for name in order:
        numbers = view.numbers[name]
        shown += len(numbers.mean_D)
        dimensions = tuple(
            _dimension(name, numbers, d, labels[name][d]) for d in range(len(numbers.mean_D))
        )  # fmt: skip
        keys.append(Key(name.removeprefix("obs/"), numbers.size, dimensions, shown <= MAX_OPEN or not keys))
    return keys


def _dimension(key: str, numbers: KeyNumbers, d: int, label: Label) -> Dimension:
    low, high, mean, std = (float(v[d]) for v in (numbers.min_D, numbers.max_D, numbers.mean_D, numbers.std_D))
    name = f"[{d}]" + (f" {label.name}" if label.name else "")
    standard = numbers.mapped["mean_std"]
    farthest = max(abs(float(standard.low_D[d])), abs(float(standard.high_D[d])))
    marks = []
    if not high > low:
        marks.append("constant")
    elif numbers.hardly_D[d]:
        marks.append("hardly moves")
    elif farthest > MAX_SCALES and not standard.constant_D[d] and key != "rewards":
        marks.append(f"outliers, {farthest:.0f} std")
    words = f"{number(low)} to {number(high)}, mean {number(mean)}, standard deviation {number(std)}"
    return Dimension(
        name,
        label.unit,
        _path(numbers.counts_DB[d]),
        number(low),
        number(high),
        number(mean),
        number(std),
        -low / (high - low) * WIDTH if low < 0 < high else None,
        tuple(marks),
        _normalised(numbers, d) if key != "rewards" else ("", "", ""),
        f"Histogram of {key.removeprefix('obs/')}{name}: {words}.",
    )


def _normalised(numbers: KeyNumbers, d: int) -> tuple[str, str, str]:
    """What each kind of `KINDS` makes of a dimension of the training split."""
    found = []
    for kind, mapped in numbers.mapped.items():
        low, high = float(mapped.low_D[d]), float(mapped.high_D[d])
        if mapped.constant_D[d]:
            found.append(f"shifted only: {number(low)} to {number(high)}" if high > low else "0")
            continue
        if kind == "min_max" and not numbers.hardly_D[d]:
            ends = float(numbers.training.q01[d]), float(numbers.training.q99[d])
            least, most = float(numbers.training.min[d]), float(numbers.training.max[d])
            inner = [2 * (end - least) / (most - least) - 1 for end in ends]
            found.append(f"98 % in {inner[0]:.2f} to {inner[1]:.2f}")
        elif kind == "quantile" and not numbers.hardly_D[d]:
            found.append(f"{low:.2f} to {high:.2f}, {100 * numbers.outside_D[d]:.1f}\N{NO-BREAK SPACE}% beyond ±1")
        else:
            found.append(f"{low:.2f} to {high:.2f}")
    return found[0], found[1], found[2]


def _episode_name(view: Overview, episode: int) -> str:
    """An episode with what is known about it."""
    about = view.about
    parts = [f"episode {episode}", f"{int(view.lengths_E[episode]):,} steps"]
    if about.success_E is not None:
        parts.append("success" if about.success_E[episode] else "no success")
    if view.returns_E is not None:
        parts.append(f"return {number(float(view.returns_E[episode]))}")
    parts += [name for name, of in about.splits.items() if episode in of][:3]
    return ", ".join(parts)


def _filmstrips(view: Overview, stills: Stills) -> list[dict[str, Any]]:
    found = []
    for episode, cameras in stills.frames.items():
        strips = [
            {
                "camera": camera,
                "frames": [
                    (still.step, "data:image/jpeg;base64," + base64.b64encode(still.jpeg).decode("ascii"))
                    for still in frames
                ],
            }
            for camera, frames in cameras.items()
        ]
        task = view.about.tasks[episode] if view.about.tasks else ""
        found.append({"name": _episode_name(view, episode), "task": task, "strips": strips})
    return found


def _curves(view: Overview, labels: Mapping[str, Sequence[Label]]) -> Markup:
    """Names and values of the curves as JSON; values are float32 in base64, row after row."""
    keys = sorted(view.numbers, key=lambda k: (k != "actions", k == "rewards"))
    success_E = view.about.success_E
    return safe_json(
        {
            "keys": [
                {
                    "name": key.removeprefix("obs/"),
                    "dimensions": [
                        f"[{d}]" + (f" {labels[key][d].name}" if labels[key][d].name else "")
                        for d in range(len(view.numbers[key].mean_D))
                    ],
                }
                for key in keys
            ],
            "episodes": [
                {
                    "number": curve.episode,
                    "name": _episode_name(view, curve.episode),
                    "stride": curve.stride,
                    "success": None if success_E is None else bool(success_E[curve.episode]),
                    "values": [
                        base64.b64encode(curve.values[key].astype("<f4").tobytes()).decode("ascii") for key in keys
                    ],
                }
                for curve in view.curves
            ],
        }
    )
