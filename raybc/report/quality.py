"""The scores of a data set's episodes as a page: accuracy, calibration, scores over time, and a table.

Letters: E episodes, K classes, n windows, N transitions.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc._version import __version__
from raybc.data.episodes import EpisodeStore
from raybc.data.overview import choose
from raybc.files import write_text
from raybc.report.data import CURVE_HEIGHT, number
from raybc.report.page import Figure, environment, make_figure, safe_json

if TYPE_CHECKING:  # it imports PyTorch
    from raybc.data.quality.run import Judgement, Quality

#: Episodes whose scores are shown over time, and steps of each.
CURVE_EPISODES, CURVE_STEPS = 60, 1000
#: Episodes that the table lists; scores.csv has all.
TABLE_EPISODES = 500
_BLUE, _ORANGE, _GREY = "#2878d0", "#c9790b", "#8a8f98"


def write_quality_page(found: Quality, store: EpisodeStore, path: Path, name: str) -> None:
    """Write a self-contained HTML page.

    Args:
        found: the scores.
        store: the data that they are of.
        path: the page.
        name: what the user called the data.
    """
    judged = found.judgement
    context = {
        "version": __version__,
        "name": found.scores.dataset,
        "typed": name,
        "facts": _facts(found, store),
        "notes": found.notes,
        "columns": _columns(found),
        "judged": judged,
        "confusions": [] if judged is None else _confusions(judged),
        "reliability": None if judged is None else _reliability(judged),
        "history": None if judged is None else _history(judged),
        "figure": make_figure(
            "curves", "Scores over time", "Line chart of the chosen episode; the lists above choose another.",
            [], {}, {}, CURVE_HEIGHT,
        ),
        "curves": _curves(found, store),
        "rows": _rows(found, store),
        "left": max(0, store.num_episodes - TABLE_EPISODES),
        "first": _first(found),
        "plotly": Markup(get_plotlyjs()),
    }  # fmt: skip
    write_text(path, environment().get_template("quality.html.j2").render(context))


def _facts(found: Quality, store: EpisodeStore) -> dict[str, str]:
    facts = {"Episodes": f"{store.num_episodes:,}", "Transitions": f"{len(store.actions_NA):,}"}
    if found.labels is not None:
        counts = zip(found.labels.classes, found.labels.counts().tolist(), strict=True)
        facts["Labels"] = f"{found.labels.source}: " + ", ".join(f"{n:,} {k}" for k, n in counts)
    judged = found.judgement
    if judged is not None:
        total = int(judged.confusion_KK.sum())
        facts["Accuracy on held-out episodes"] = f"{judged.accuracy:.1%} of {total:,}"
        facts["Always the most frequent class"] = f"{judged.chance:.1%}"
        if judged.svm_accuracy is not None:
            facts["SVM on the classifier's features"] = f"{judged.svm_accuracy:.1%}"
        facts["Expected calibration error"] = f"{judged.ece:.3f}"
    facts["Path of"] = found.position or "all observed numbers, standardised"
    facts["scores_sha256"] = found.scores.sha256
    return {key: text.replace("%", "\N{NO-BREAK SPACE}%") for key, text in facts.items()}


def _first(found: Quality) -> str:
    """The column by which episodes are listed."""
    return "quality" if "quality" in found.scores.columns else next(iter(found.scores.columns))


def _columns(found: Quality) -> list[dict[str, str]]:
    rows = []
    for name, column in found.scores.columns.items():
        values = found.scores.values[name]
        rows.append(
            {
                "name": name, "about": column.about, "better": column.better, "lowest": number(float(values.min())),
                "median": number(float(np.median(values))), "highest": number(float(values.max())),
                "auc": "" if found.judgement is None else f"{found.judgement.auc[name]:.3f}",
            }
        )  # fmt: skip
    return rows


def _confusions(judged: Judgement) -> list[dict[str, Any]]:
    parts = [("Network", judged.confusion_KK, judged.accuracy)]
    if judged.svm_confusion_KK is not None and judged.svm_accuracy is not None:
        parts.append(("SVM on its features", judged.svm_confusion_KK, judged.svm_accuracy))
    return [
        {
            "title": title,
            "accuracy": f"{accuracy:.1%}".replace("%", "\N{NO-BREAK SPACE}%"),
            "rows": list(zip(judged.classes, counts.tolist(), strict=True)),
        }
        for title, counts, accuracy in parts
    ]


def _reliability(judged: Judgement) -> Figure:
    bins = judged.bins
    traces = [
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", name="perfect", line={"color": _GREY, "dash": "dot"}, hoverinfo="skip"
        ),
        go.Scatter(
            x=[b.confidence for b in bins],
            y=[b.accuracy for b in bins],
            mode="lines+markers",
            name="episodes",
            line={"color": _BLUE},
            marker={"size": [6 + 14 * (b.episodes / max(c.episodes for c in bins)) ** 0.5 for b in bins]},
            customdata=[b.episodes for b in bins],
            hovertemplate="confidence %{x:.2f}, accuracy %{y:.2f}, %{customdata} episodes<extra></extra>",
        ),
    ]
    words = ", ".join(f"{b.accuracy:.2f} at {b.confidence:.2f} ({b.episodes})" for b in bins)
    label = f"Reliability diagram: accuracy at mean confidence, with episodes: {words}."
    low = min(0.5, *(min(b.confidence, b.accuracy) for b in bins)) - 0.03
    x, y = ({"title_text": text, "range": [low, 1.03]} for text in ("confidence", "accuracy"))
    return make_figure("reliability", "Calibration", label, traces, x, y, 320)


def _history(judged: Judgement) -> Figure:
    epochs = [row["epoch"] for row in judged.history]
    traces: list[Any] = []
    for key, name, colour, dash in (
        ("valid_accuracy", "validation accuracy", _BLUE, "solid"),
        ("train_accuracy", "training accuracy", _BLUE, "dot"),
        ("valid_loss", "validation loss", _ORANGE, "solid"), ("train_loss", "training loss", _ORANGE, "dot"),
    ):  # fmt: skip
        values = [row[key] for row in judged.history]
        mode = "lines" if len(values) > 1 else "markers"
        hover = f"epoch %{{x}}: {name} %{{y:.3f}}<extra></extra>"
        line = {"color": colour, "dash": dash}
        traces.append(go.Scatter(x=epochs, y=values, mode=mode, name=name, line=line, hovertemplate=hover))
    last = judged.history[-1]
    label = (
        f"Line chart of loss and accuracy over {len(epochs)} epochs, means over folds; at the end validation accuracy "
        f"{last['valid_accuracy']:.3f}, loss {last['valid_loss']:.3f}."
    )
    top = max(1.5, *(row["valid_accuracy"] for row in judged.history))
    y = {"range": [0, top], "title_text": "accuracy, loss"}
    return make_figure("history", "Training", label, traces, {"title_text": "epoch"}, y, 320)


def _over_time(found: Quality, store: EpisodeStore, episode: int) -> list[tuple[str, np.ndarray]]:
    """(name, value at each step of the episode): the quality of the windows that hold the step, and disagreement."""
    begin, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
    parts = []
    if found.windows is not None and found.quality_n is not None:
        sums, counts = np.zeros(end - begin), np.zeros(end - begin)
        for w in np.flatnonzero(found.windows.episode_n == episode):
            steps = np.unique(found.windows.rows_nW[w]) - begin
            sums[steps] += found.quality_n[w]
            counts[steps] += 1
        parts.append(("quality", sums / np.maximum(counts, 1)))
    if found.disagreement_N is not None:
        parts.append(("disagreement", found.disagreement_N[begin:end]))
    return parts


def _curves(found: Quality, store: EpisodeStore) -> Markup | None:
    """What data.js draws; None where nothing is scored over time."""
    labels = found.labels
    best_E = None if labels is None else labels.of_E == len(labels.classes) - 1
    chosen = choose(store.num_episodes, min(CURVE_EPISODES, store.num_episodes), best_E)
    names = [name for name, _ in _over_time(found, store, int(chosen[0]))]
    if not names:
        return None
    episodes = []
    for episode in chosen.tolist():
        values = [value for _, value in _over_time(found, store, episode)]
        stride = -(-len(values[0]) // CURVE_STEPS)
        packed = [base64.b64encode(v[::stride].astype("<f4").tobytes()).decode("ascii") for v in values]
        best = None if best_E is None else bool(best_E[episode])
        episodes.append(
            {"number": episode, "name": _name(found, episode), "stride": stride, "success": best, "values": packed}
        )
    outcome = "" if labels is None else f"green: {labels.classes[-1]}, red: others"
    return safe_json(
        {"keys": [{"name": name, "dimensions": [""]} for name in names], "episodes": episodes, "outcome": outcome}
    )


def _name(found: Quality, episode: int) -> str:
    parts = [f"episode {episode}"]
    if found.labels is not None:
        parts.append(f"labelled {found.labels.words[episode]}" if found.labels.words[episode] else "no label")
    first = _first(found)
    return ", ".join([*parts, f"{first} {number(float(found.scores.values[first][episode]))}"])


def _rows(found: Quality, store: EpisodeStore) -> list[dict[str, Any]]:
    """Episodes from the best to the worst; of many those at both ends."""
    order: Sequence[int] = (-found.scores.goodness(_first(found))).argsort(kind="stable").tolist()
    if len(order) > TABLE_EPISODES:
        order = [*order[: TABLE_EPISODES // 2], *order[-(TABLE_EPISODES // 2) :]]
    words = found.scores.labels or ("",) * store.num_episodes
    return [
        {
            "episode": e,
            "label": words[e],
            "values": [number(float(found.scores.values[name][e])) for name in found.scores.columns],
        }
        for e in order
    ]
