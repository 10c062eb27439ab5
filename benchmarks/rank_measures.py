"""How well measures on held-out episodes order recipes: rank correlations with success, and what choosing by them
costs.

Called by `benchmarks/offline_measures.py --part show`. A recipe's success is its mean over seeds and starts, its
measure the mean over seeds. Correlations have the sign with which 1 means that the measure orders recipes as success
does.

Intervals are 95 % percentiles of two bootstraps. *recipes*: over recipes alone, whose numbers have the noise of their
seeds and starts already. *all*: also over the seeds of each recipe, over starts and over held-out episodes (these two
in common for all recipes, as they were measured), which counts that noise twice. Differences from `error` come from the
same draws.

Letters: R recipes, S seeds, I starts, E held-out episodes, D draws.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, rankdata

from raybc.inference.offline_measures import MEASURES

DRAWS, FEW = 4000, 8
#: A measure on windows of the training's own loss, which `MEASURES` does not have.
LOSS = "loss"


@dataclass(frozen=True)
class Study:
    """All recipes of a task."""

    score_RSI: np.ndarray
    """Score of each start, float64."""
    measures_RSE: Mapping[str, np.ndarray]
    """Name -> the number of each held-out episode before the root, float64; E = 1 for the loss."""
    policies: tuple[str, ...]
    """Policy of each recipe."""

    @classmethod
    def read(cls, folder: Path, score: str) -> Study | None:
        """Of the recipes that are measured; None without any."""
        trained, measured, played = (
            [json.loads(line) for line in (folder / name).read_text().splitlines()] if (folder / name).is_file() else []
            for name in ("trained.jsonl", "measures.jsonl", "episodes.jsonl")
        )
        starts = 1 + max((row["index"] for row in played), default=-1)
        scores = {(row["recipe"], row["seed"], row["index"]): row[score] for row in played}
        seeds = sorted({row["seed"] for row in measured})
        found = {(row["recipe"], row["seed"]): row for row in measured}
        complete = [
            row for row in trained
            if all(
                (row["recipe"], seed) in found and (row["recipe"], seed, i) in scores
                for seed in seeds for i in range(starts)
            )
        ]  # fmt: skip
        if not seeds or not complete:
            return None
        numbers = [row["recipe"] for row in complete]
        return cls(
            np.array([[[scores[r, s, i] for i in range(starts)] for s in seeds] for r in numbers]),
            {name: np.array([[np.atleast_1d(found[r, s][name]) for s in seeds] for r in numbers], float)
             for name in (*MEASURES, LOSS)},
            tuple(row["options"]["policy"] for row in complete),
        )  # fmt: skip

    def values(self, name: str, values_RSE: np.ndarray) -> np.ndarray:
        """The measure of each recipe and seed, float64 (R, S)."""
        if name == LOSS:
            return values_RSE.mean(-1)
        with np.errstate(invalid="ignore"):
            mean_RS = np.nanmean(values_RSE, -1)
        return np.sqrt(mean_RS) if MEASURES[name].root else mean_RS


def spearman(a_DR: np.ndarray, b_DR: np.ndarray) -> np.ndarray:
    """Of each row, float64 (D,); nan where all values of one are equal."""
    ranks = [rankdata(x, axis=1) for x in (a_DR, b_DR)]
    ranks = [x - x.mean(1, keepdims=True) for x in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (ranks[0] * ranks[1]).sum(1) / np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return found


def kendall(a_DR: np.ndarray, b_DR: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row, float64 (D,)."""
    return np.array([kendalltau(a, b).statistic for a, b in zip(a_DR, b_DR, strict=True)])


def drawn(study: Study, draws: int, nested: bool) -> dict[str, np.ndarray]:
    """Scores ("score") and measures of recipes in each draw, float64 (D, R). nested: draw seeds, starts and held-out
    episodes again, too."""
    rng = np.random.default_rng(0)
    recipes, seeds, starts = study.score_RSI.shape
    names = [name for name, values in study.measures_RSE.items() if not np.isnan(values).all()]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("score", *names)}
    episodes = max(values.shape[-1] for values in study.measures_RSE.values())
    for _ in range(draws):
        r = rng.integers(recipes, size=recipes)
        s = rng.integers(seeds, size=(recipes, seeds)) if nested else np.tile(np.arange(seeds), (recipes, 1))
        i = rng.integers(starts, size=starts) if nested else np.arange(starts)
        e = rng.integers(episodes, size=episodes) if nested else np.arange(episodes)
        found["score"].append(study.score_RSI[r[:, None], s][..., i].mean((1, 2)))
        for name in names:
            values_RSE = study.measures_RSE[name][r[:, None], s]
            values_RSE = values_RSE if name == LOSS else values_RSE[..., e]
            found[name].append(study.values(name, values_RSE).mean(1))
    return {name: np.array(values) for name, values in found.items()}


def whole(study: Study) -> dict[str, np.ndarray]:
    """The same of the study itself, float64 (R,)."""
    found = {"score": study.score_RSI.mean((1, 2))}
    for name, values_RSE in study.measures_RSE.items():
        if not np.isnan(values_RSE).all():
            found[name] = study.values(name, values_RSE).mean(1)
    return found


def lost(found: Mapping[str, np.ndarray], name: str) -> float:
    """Mean score that is lost by choosing the best of `FEW` random recipes by a measure instead of by the score."""
    rng, score_R = np.random.default_rng(0), found["score"]
    some = np.array([rng.permutation(len(score_R))[:FEW] for _ in range(DRAWS)])
    chosen = some[np.arange(DRAWS), found[name][some].argmin(1)]
    return float((score_R[some].max(1) - score_R[chosen]).mean())


def interval(values: np.ndarray, level: float = 0.05) -> str:
    """The percentile interval of the draws that leaves out the share `level`."""
    low, high = np.nanpercentile(values, [50 * level, 100 - 50 * level])
    return f"{low:+.2f} to {high:+.2f}"


def show(out: Path, scores: Mapping[str, str]) -> None:
    """Print the tables of all tasks that are there, and of the mean over tasks."""
    studies = {task: Study.read(out / task, score) for task, score in scores.items()}
    known = {task: study for task, study in studies.items() if study is not None}
    rhos, apart = dict[str, dict[str, float]](), dict[str, dict[str, np.ndarray]]()
    for task, study in known.items():
        found, many, single = whole(study), drawn(study, DRAWS, nested=True), drawn(study, DRAWS, nested=False)
        shape, rates = study.score_RSI.shape, np.sort(found["score"])
        print(f"\n### {task}: {shape[0]} recipes, {shape[1]} seeds, {shape[2]} starts; "
              f"scores {rates[0]:.2f} to {rates[-1]:.2f}, median {np.median(rates):.2f}\n")  # fmt: skip
        print("| measure | Spearman (recipes; all) | minus error (recipes; all) | Kendall (all) | lost |")
        print("|---|---|---|---|---|")
        rhos[task], apart[task] = {}, {}
        reference = [spearman(-x["error"], x["score"]) for x in (single, many)]
        rows = []
        for name in (name for name in found if name != "score"):
            rho = float(spearman(-found[name][None], found["score"][None])[0])
            rho_D = [spearman(-x[name], x["score"]) for x in (single, many)]
            tau = kendalltau(-found[name], found["score"]).statistic
            tau_D = kendall(-many[name][:300], many["score"][:300])
            gaps = [a - b for a, b in zip(rho_D, reference, strict=True)]
            rhos[task][name], apart[task][name] = rho, gaps[1]
            gap = "" if name == "error" else f"{interval(gaps[0])}; {interval(gaps[1])}"
            rows.append((-rho, f"| {name} | {rho:.2f} ({interval(rho_D[0])}; {interval(rho_D[1])}) | {gap} | "
                         f"{tau:.2f} ({interval(tau_D)}) | {lost(found, name):.3f} |"))  # fmt: skip
        print("\n".join(text for _, text in sorted(rows)))
    common = [name for name in next(iter(rhos.values()), {}) if all(name in rho for rho in rhos.values())]
    if len(known) > 1:
        print("\n### mean over tasks\n\n| measure | Spearman | minus error (all) | corrected (Bonferroni) |")
        print("|---|---|---|---|")
        for name in sorted(common, key=lambda name: -float(np.mean([rho[name] for rho in rhos.values()]))):
            gap = np.mean([gaps[name] for gaps in apart.values()], axis=0)
            mean = np.mean([rho[name] for rho in rhos.values()])
            both = ("", "") if name == "error" else (interval(gap), interval(gap, 0.05 / (len(common) - 1)))
            print(f"| {name} | {mean:.2f} | {both[0]} | {both[1]} |")
