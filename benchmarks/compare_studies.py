"""Simulated comparisons of arms whose truth is known: false positives, power, starts, and coverage of intervals.

    python -m benchmarks.compare_studies [--studies 20000] [--parts false power coverage]

Arm a solves start i if  sqrt(rho) u_i + sqrt(1 - rho) v_{a,i} < quantile(p_a),  u, v ~ N(0, 1):  p_a is its success
rate, and rho says how much the difficulty of the start decides (a Gaussian copula, as in benchmarks/racing.py).

*false*: how often one of equally good arms is called better, at level .05, two-sided, with a look after every start.
Shares have Wilson intervals. *power*: beside what `fieldtrial` 0.3 publishes for its anytime-valid rule (400 studies a
row, at most 100 starts, two-sided .05), and beside its own test on the first 400 studies if it is installed.
*coverage*: the share of 95 % intervals that contain the truth.

False positives take half a minute on one core and power some seconds; coverage takes about five minutes.

Letters: S studies, N starts.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raybc.compare.design import Design, StopWatch
from raybc.compare.pairs import mcnemar, newcombe_interval, tango_interval, two_sided, unpaired_test
from raybc.compare.planning import Rule, only_one, plan
from raybc.compare.result import Scores, compare
from raybc.compare.sequential import bets_for, log_threshold
from raybc.compare.several import another_training
from raybc.metric import METRICS
from raybc.rollout.race import log_e_values
from raybc.statistics import wilson_interval

LEVEL = 0.05
RHOS = (0.0, 0.5, 0.9)
#: Rates of both arms -> power and mean starts that fieldtrial 0.3 publishes.
PUBLISHED = {(0.6, 0.75): (0.30, 86), (0.6, 0.9): (0.99, 40), (0.4, 0.9): (1.00, 20)}
MOST = 100


def outcomes(rates: tuple[float, ...], rho: float, studies: int, starts: int, seed: int) -> list[np.ndarray]:
    """Outcomes of each arm, (S, N) float64."""
    rng = np.random.default_rng(seed)
    shared = np.sqrt(rho) * rng.standard_normal((studies, starts))
    return [
        (shared + np.sqrt(1 - rho) * rng.standard_normal((studies, starts)) < ndtri(rate)).astype(np.float64)
        for rate in rates
    ]


def looked_at(
    a_SN: np.ndarray, b_SN: np.ndarray, rule: Rule, walks: bool = True, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(+1 A was called better, -1 B was, 0 neither; number of starts), both (S,)."""
    starts = a_SN.shape[1]
    bets = bets_for(starts)
    threshold = log_threshold(LEVEL / 2, starts if rule == "sequential" and walks else None, bets)
    found, ends = np.zeros(len(a_SN), np.int64), np.full(len(a_SN), starts)
    firsts = []
    for d_SN in (a_SN - b_SN, b_SN - a_SN):
        hit = log_e_values(d_SN, bets) >= threshold - 1e-12
        firsts.append(np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, starts + 1))
    for sign, first, other in ((1, *firsts), (-1, *firsts[::-1])):
        is_it = (first <= starts) & (first <= other)
        found[is_it] = sign
        ends[is_it] = np.minimum(-(-first[is_it] // every) * every, starts)
    return found, ends


def fixed(a_SN: np.ndarray, b_SN: np.ndarray) -> np.ndarray:
    """Exact McNemar at the end, as `looked_at`."""
    p_value = functools.cache(mcnemar)
    wins, losses = (a_SN > b_SN).sum(axis=1), (b_SN > a_SN).sum(axis=1)
    p = np.array([two_sided(p_value(int(w), int(x))) for w, x in zip(wins, losses, strict=True)])
    return np.where(p <= LEVEL, np.sign(wins - losses), 0)


def share(found: np.ndarray) -> str:
    low, high = wilson_interval(int(found.sum()), len(found))
    return f"{100 * found.mean():.2f} % ({100 * low:.2f}-{100 * high:.2f})"


# --- false positives --------------------------------------------------------------------------------------------------


def false_positives(studies: int) -> None:
    print(f"\nFalse positives, {studies} studies of equal arms, level 5 %, at most {MOST} starts\n")
    print("| rate | rho | sequential | open | fixed |\n|---|---|---|---|---|")
    for rate in (0.1, 0.5, 0.6, 0.9):
        for rho in RHOS:
            a, b = outcomes((rate, rate), rho, studies, MOST, 1)
            cells = [share(looked_at(a, b, rule)[0] != 0) for rule in ("sequential", "open")]
            print(f"| {rate} | {rho} | {cells[0]} | {cells[1]} | {share(fixed(a, b) != 0)} |", flush=True)
    print("\n| other studies | false positives |\n|---|---|")
    for starts in (20, 50, 300):
        a, b = outcomes((0.5, 0.5), 0.0, studies, starts, 2)
        print(f"| sequential, at most {starts} starts, rate .5 | {share(looked_at(a, b, 'sequential')[0] != 0)} |")
    rng = np.random.default_rng(3)
    a, b = rng.beta(2, 1, (studies, MOST)), rng.beta(2, 1, (studies, MOST))
    print(f"| open, scores in [0, 1], beta(2, 1) | {share(looked_at(a, b, 'open', walks=False)[0] != 0)} |")
    shared = rng.beta(0.5, 0.5, (studies, MOST))
    a, b = (np.clip(shared + rng.normal(0, 0.1, shared.shape), 0, 1) for _ in range(2))
    print(f"| open, scores in [0, 1], correlated | {share(looked_at(a, b, 'open', walks=False)[0] != 0)} |", flush=True)
    for n_a, n_b, rate in ((20, 35, 0.5), (20, 35, 0.8), (50, 30, 0.3)):
        counts = rng.binomial(n_a, rate, studies), rng.binomial(n_b, rate, studies)
        p = np.array([two_sided(unpaired_test(int(x), n_a, int(y), n_b)) for x, y in zip(*counts, strict=True)])
        print(f"| fixed, unpaired, {n_a} and {n_b} starts, rate {rate} | {share(p <= LEVEL)} |", flush=True)
    some = min(studies, 2000)
    design = Design("sequential", MOST, level=LEVEL)
    arms = outcomes((0.6,) * 4, 0.5, some, MOST, 4)
    watch = StopWatch(design, "abcd")
    dropped = np.array([bool(watch.ends({n: x[s] for n, x in zip("abcd", arms, strict=True)})) for s in range(some)])
    print(f"| sequential, four arms (Holm), {some} studies | {share(dropped)} |", flush=True)


# --- power ------------------------------------------------------------------------------------------------------------


def power(studies: int) -> None:
    print(f"\nPower and mean starts, {studies} studies, at most {MOST} starts, independent outcomes\n")
    theirs = _fieldtrial()
    head = [
        "rates",
        "sequential",
        "open",
        "fixed",
        "fieldtrial 0.3, published",
        *(["fieldtrial here"] if theirs else []),
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for (low, high), (their_power, their_starts) in PUBLISHED.items():
        a, b = outcomes((high, low), 0.0, studies, MOST, 5)
        cells = []
        rules: tuple[Rule, ...] = ("sequential", "open")
        for rule in rules:
            found, ends = looked_at(a, b, rule)
            exact = plan(rule, MOST, *only_one(high, low))
            cells.append(
                f"{np.mean(found > 0):.3f} / {ends.mean():.1f} (exact {exact.power:.3f} / {exact.mean_starts:.1f})"
            )
        cells.append(f"{np.mean(fixed(a, b) > 0):.3f} / {MOST}")
        cells.append(f"{their_power:.2f} / {their_starts}")
        if theirs:
            found_at = [theirs(a[s] - b[s], LEVEL).rejected_at for s in range(min(400, studies))]
            mean = np.mean([n or MOST for n in found_at])
            cells.append(f"{np.mean([n is not None for n in found_at]):.3f} / {mean:.1f} (400 studies at most)")
        print(f"| {low}, {high} | " + " | ".join(cells) + " |", flush=True)


def _fieldtrial() -> Any:
    """fieldtrial's own anytime-valid paired test, if it is installed."""
    try:
        return importlib.import_module("fieldtrial.stats.confseq").paired_anytime_test
    except ImportError:
        return None


# --- coverage ---------------------------------------------------------------------------------------------------------


def coverage(studies: int) -> None:
    print("\nCoverage of 95 % intervals of the difference\n")
    print("| interval | studies | coverage | mean width |\n|---|---|---|---|")

    def row(name: str, intervals: list[tuple[float, float]], truth: float) -> None:
        inside = np.array([low <= truth <= high for low, high in intervals])
        width = np.mean([high - low for low, high in intervals])
        print(f"| {name} | {len(intervals)} | {share(inside)} | {width:.3f} |", flush=True)

    tango, newcombe = functools.cache(tango_interval), functools.cache(newcombe_interval)
    for n, rates, rho in (
        (20, (0.6, 0.6), 0.0),
        (50, (0.9, 0.6), 0.0),
        (50, (0.9, 0.85), 0.9),
        (200, (0.75, 0.6), 0.5),
    ):
        a, b = outcomes(rates, rho, studies, n, 6)
        counts = zip((a > b).sum(axis=1), (b > a).sum(axis=1), strict=True)
        row(f"Tango, {n} starts, {rates[0]} and {rates[1]}, rho {rho}", [tango(int(x), int(y), n) for x, y in counts],
            rates[0] - rates[1])  # fmt: skip
    rng = np.random.default_rng(7)
    for n_a, n_b, p, q in ((20, 35, 0.6, 0.6), (50, 50, 0.9, 0.6), (100, 40, 0.95, 0.9)):
        counts = zip(rng.binomial(n_a, p, studies), rng.binomial(n_b, q, studies), strict=True)
        row(f"Newcombe, {n_a} and {n_b} starts, {p} and {q}",
            [newcombe(int(x), n_a, int(y), n_b) for x, y in counts], p - q)  # fmt: skip
    some = min(studies, 1000)
    for rates in ((0.6, 0.6), (0.62, 0.6), (0.75, 0.6), (0.9, 0.6)):
        a, b = outcomes(rates, 0.0, some, MOST, 8)
        _, ends = looked_at(a, b, "sequential")
        design = Design("sequential", MOST, level=LEVEL)
        at_stop = [_pair(a[s, :n], b[s, :n], design) for s, n in enumerate(ends)]
        row(f"confidence sequence where `sequential` stops, {rates[0]} and {rates[1]}",
            [pair.interval for pair in at_stop], rates[0] - rates[1])  # fmt: skip
        naive = [
            tango(int((a[s, :n] > b[s, :n]).sum()), int((b[s, :n] > a[s, :n]).sum()), int(n))
            for s, n in enumerate(ends)
        ]
        row(f"(Tango there, which is not used, {rates[0]} and {rates[1]})", naive, rates[0] - rates[1])
    scores = Design("fixed", MOST, METRICS["return"], LEVEL, walks=False)
    x, y = rng.beta(0.6, 0.3, (some, 40)), rng.beta(0.6, 0.6, (some, 40))
    row("Student's t, 40 starts, scores beta(.6, .3) and beta(.6, .6)",
        [_pair(x[s], y[s], scores).interval for s in range(some)], 2 / 3 - 1 / 2)  # fmt: skip
    for trainings in (2, 3, 5, 10):
        row(f"bootstrap over {trainings} trainings and 50 starts, rates .7 and .6, sd of trainings .08",
            [_trainings(trainings, rng, s) for s in range(some)], 0.1)  # fmt: skip


def _pair(a_N: np.ndarray, b_N: np.ndarray, design: Design) -> Any:
    names = tuple(map(str, range(len(a_N))))
    return compare([Scores("a", names, a_N[None]), Scores("b", names, b_N[None])], design).pairs[0]


def _trainings(trainings: int, rng: np.random.Generator, seed: int) -> tuple[float, float]:
    """Rates of trainings vary by a normal distribution, starts are shared and matter as in `outcomes` (rho .5)."""
    hard_N = np.sqrt(0.5) * rng.standard_normal(50)
    arms = []
    for mean in (0.7, 0.6):
        rates_K = np.clip(rng.normal(mean, 0.08, trainings), 0.01, 0.99)
        noise_KN = np.sqrt(0.5) * rng.standard_normal((trainings, 50))
        arms.append((hard_N + noise_KN < ndtri(rates_K)[:, None]).astype(np.float64))
    found = another_training(arms[0], arms[1], paired=True, seed=seed)
    return found or (-1.0, 1.0)  # nothing varied: nothing is said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--parts", nargs="+", default=["false", "power", "coverage"])
    args = parser.parse_args()
    for name, part in (("false", false_positives), ("power", power), ("coverage", coverage)):
        if name in args.parts:
            started = time.perf_counter()
            part(args.studies)
            print(f"\n({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
