"""Racing on arms whose truth is known: how often is the best one dropped, and how many episodes does it save?

    python benchmarks/racing.py [--sweeps 2000] [--starts 20 50 100 200] [--blocks 1 5 10] [--full]

Simulated sweeps of Bernoulli arms on paired starts. Arm a solves start i if

    sqrt(rho) u_i + sqrt(1 - rho) v_{a,i} < quantile(p_a),   u, v ~ N(0, 1)

so p_a is its success rate and rho says how much the difficulty of the start decides (a Gaussian copula). Two ways to
race: *together* (all arms advance block by block and race each other) and *in turn* (arms come one after another in a
random order and race all earlier ones, as in a sweep). In the scenario "search" arms are proposed in turn near those
that did well on the same starts, as a sampler does; the guarantee does not cover this, so it is measured.

Scores other than success race where their range is known (the scenarios "scores": x = 1 / (1 + exp(-m_a - 1.5 z)) with
the same z as above, so that arms have means of .2 to .9). Where the range is unknown, as for returns of D4RL's
locomotion, there is no racing and nothing to measure: no test of a mean keeps its level without it (see
`raybc/rollout/race.py`).

Printed per row: the share of sweeps in which the best arm (arm 0 of equal ones) was dropped, with its Wilson interval;
episodes saved against measuring all arms on all starts; how often the arm with the highest measured rate is the one
that measuring everything would have chosen, and the true rate lost by the choice with racing and without.

Letters: S sweeps, K arms, N starts. Without --full each line is the worst of the values of rho and the blocks for wrong
drops, and the range of the others.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raybc.rollout.race import BETS, log_e_values
from raybc.statistics import wilson_interval

#: Arms with scores in [0, 1] -> m_a.
SCORES: dict[str, tuple[float, ...]] = {
    "scores: 12 equal": (1.2,) * 12,
    "scores: 12 from .2 to .9": tuple(float(m) for m in np.linspace(3.2, -2.0, 12)),
    "scores: one better, 11 equal": (2.0,) + (1.2,) * 11,
}
#: Share of the range that the noise of a score covers.
SPREAD = 1.5
NEVER = np.iinfo(np.int64).max
RHOS = (0.0, 0.5, 0.9)
SCENARIOS: dict[str, tuple[float, ...]] = {
    "equal: 12 of .7": (0.7,) * 12,
    "spread: 12 of .2 to .9": tuple(float(p) for p in np.linspace(0.9, 0.2, 12)),
    "close: .9, 11 of .85": (0.9,) + (0.85,) * 11,
    "mostly bad: .9, .8, 10 of .02": (0.9, 0.8) + (0.02,) * 10,
}


@dataclass(frozen=True)
class Figures:
    """Results of S simulated sweeps of one scenario, one way to race, one number of starts, one size of blocks."""

    wrong: int
    sweeps: int
    saved: float
    same: float
    lost_racing: float
    lost_fixed: float


def quantiles(p: np.ndarray) -> np.ndarray:
    """Standard normal quantiles of probabilities of any shape."""
    inverse = NormalDist().inv_cdf
    values, back = np.unique(p, return_inverse=True)
    return np.array([inverse(min(max(float(v), 1e-12), 1 - 1e-12)) for v in values])[back].reshape(p.shape)


def draw(p_SK: np.ndarray, starts: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Outcomes (S, K, N) bool of arms with success rates p_SK on shared starts."""
    sweeps, arms = p_SK.shape
    u_SN = rng.standard_normal((sweeps, 1, starts), dtype=np.float32)
    v_SKN = rng.standard_normal((sweeps, arms, starts), dtype=np.float32)
    return math.sqrt(rho) * u_SN + math.sqrt(1 - rho) * v_SKN < quantiles(p_SK)[:, :, None]


def log_e_table(starts: int) -> np.ndarray:
    """log E after w starts that only b solved and l that only a solved: (N + 1, N + 1), [w, l].

    With outcomes 0 and 1 the e-value depends on these counts alone; `raybc.rollout.race.log_e_values` gives the same.
    """
    count = np.arange(starts + 1.0)
    logs = [count[:, None] * math.log1p(bet) + count[None, :] * math.log1p(-bet) for bet in BETS]
    return np.logaddexp.reduce(logs, axis=0) - math.log(len(BETS))


def crossings(x_SKN: np.ndarray, threshold: float, table: np.ndarray) -> np.ndarray:
    """(S, K, K) the number of starts at which E(a vs b) reaches the threshold, [s, a, b]; NEVER if it does not."""
    sweeps, arms, _ = x_SKN.shape
    passed = table >= math.log(threshold)
    out_SKK = np.full((sweeps, arms, arms), NEVER)
    for a in range(arms):
        for b in range(arms):
            if a != b:
                wins_SN = np.cumsum(x_SKN[:, b] & ~x_SKN[:, a], axis=1, dtype=np.int16)
                losses_SN = np.cumsum(x_SKN[:, a] & ~x_SKN[:, b], axis=1, dtype=np.int16)
                hit_SN = passed[wins_SN, losses_SN]
                out_SKK[:, a, b] = np.where(hit_SN.any(1), hit_SN.argmax(1) + 1, NEVER)
    return out_SKK


def draw_scores(m_SK: np.ndarray, starts: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Scores (S, K, N) float32 in [0, 1] of arms on shared starts."""
    sweeps, arms = m_SK.shape
    u_SN = rng.standard_normal((sweeps, 1, starts), dtype=np.float32)
    v_SKN = rng.standard_normal((sweeps, arms, starts), dtype=np.float32)
    z_SKN = math.sqrt(rho) * u_SN + math.sqrt(1 - rho) * v_SKN
    return 1 / (1 + np.exp(-m_SK[:, :, None].astype(np.float32) - SPREAD * z_SKN))


def score_crossings(x_SKN: np.ndarray, threshold: float) -> np.ndarray:
    """As `crossings`, for scores."""
    sweeps, arms, _ = x_SKN.shape
    out_SKK = np.full((sweeps, arms, arms), NEVER)
    for a in range(arms):
        for b in range(arms):
            if a != b:
                hit_SN = log_e_values(x_SKN[:, b] - x_SKN[:, a]) >= math.log(threshold)
                out_SKK[:, a, b] = np.where(hit_SN.any(1), hit_SN.argmax(1) + 1, NEVER)
    return out_SKK


def race_together(cross_SKK: np.ndarray, starts: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(stop_SK, kept_SK): how many starts each arm was measured on when all advance together, and who stayed."""
    sweeps, arms, _ = cross_SKK.shape
    kept_SK = np.ones((sweeps, arms), bool)
    stop_SK = np.full((sweeps, arms), starts)
    for now in [*range(block, starts, block), starts]:
        measured_SK = np.minimum(stop_SK, now)
        seen_SKK = cross_SKK <= np.minimum(measured_SK[:, :, None], measured_SK[:, None, :])
        drop_SK = kept_SK & seen_SKK.any(2)
        empty_S = ~(kept_SK & ~drop_SK).any(1)
        if empty_S.any():  # the arm accused last stays
            last_SK = np.where(drop_SK, np.where(seen_SKK, cross_SKK, NEVER).min(2), -1)
            drop_SK[empty_S, last_SK.argmax(1)[empty_S]] = False
        stop_SK[drop_SK] = now
        kept_SK &= ~drop_SK
    return stop_SK, kept_SK


def race_in_turn(
    cross_SKK: np.ndarray, starts: int, block: int, order_SK: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As race_together, but arms come one after another (in `order_SK`) and race against all that came before."""
    sweeps, arms, _ = cross_SKK.shape
    if order_SK is None:
        order_SK = np.tile(np.arange(arms), (sweeps, 1))
    stop_SK = np.full((sweeps, arms), starts)
    kept_SK = np.ones((sweeps, arms), bool)
    s = np.arange(sweeps)
    for k in range(1, arms):
        arm_S = order_SK[:, k]
        first_S = np.full(sweeps, NEVER)
        for j in range(k):
            other_S = order_SK[:, j]
            at_S = cross_SKK[s, arm_S, other_S]
            first_S = np.where(at_S <= stop_SK[s, other_S], np.minimum(first_S, at_S), first_S)
        dropped_S = first_S <= starts
        stop_SK[s, arm_S] = np.where(dropped_S, np.minimum(-(-first_S // block) * block, starts), starts)
        kept_SK[s, arm_S] = ~dropped_S
    return stop_SK, kept_SK


def figures(p_SK: np.ndarray, x_SKN: np.ndarray, stop_SK: np.ndarray, kept_SK: np.ndarray) -> Figures:
    """x_SKN: the outcomes on the starts at hand. Of equal rates the first arm counts, in the truth as in the choice."""
    sweeps, _, starts = x_SKN.shape
    s = np.arange(sweeps)
    rate_SK = x_SKN.mean(2)
    fixed_S = rate_SK.argmax(1)
    chosen_S = np.where(kept_SK, rate_SK, -1.0).argmax(1)
    best_S = p_SK.argmax(1)
    top_S = p_SK.max(1)
    return Figures(
        wrong=int((~kept_SK[s, best_S]).sum()),
        sweeps=sweeps,
        saved=1 - float(stop_SK.mean()) / starts,
        same=float((fixed_S == chosen_S).mean()),
        lost_racing=float((top_S - p_SK[s, chosen_S]).mean()),
        lost_fixed=float((top_S - p_SK[s, fixed_S]).mean()),
    )


def simulate(
    p_K: Sequence[float],
    rho: float,
    starts: Sequence[int],
    blocks: Sequence[int],
    sweeps: int,
    seed: int,
    alpha: float,
    scores: bool = False,
) -> dict[tuple[str, int, int], Figures]:
    """Figures per (way, number of starts, size of blocks) of one scenario. All share the same outcomes. scores: p_K are
    the m_a of `SCORES`."""
    rng = np.random.default_rng(seed)
    p_SK = np.tile(np.asarray(p_K), (sweeps, 1))
    if scores:
        x_SKN = draw_scores(p_SK, max(starts), rho, rng)
        z = np.random.default_rng(0).standard_normal(200_000)
        p_SK = np.tile([float(np.mean(1 / (1 + np.exp(-m - SPREAD * z)))) for m in p_K], (sweeps, 1))
    else:
        x_SKN = draw(p_SK, max(starts), rho, rng)
    order_SK = rng.permuted(np.tile(np.arange(len(p_K)), (sweeps, 1)), axis=1)
    threshold = (len(p_K) - 1) / alpha
    cross_SKK = score_crossings(x_SKN, threshold) if scores else crossings(x_SKN, threshold, log_e_table(max(starts)))
    out = {}
    for n in starts:
        for block in blocks:
            together = race_together(cross_SKK, n, block)
            in_turn = race_in_turn(cross_SKK, n, block, order_SK)
            out["together", n, block] = figures(p_SK, x_SKN[:, :, :n], *together)
            out["in turn", n, block] = figures(p_SK, x_SKN[:, :, :n], *in_turn)
    return out


def search(arms: int, rho: float, starts: int, block: int, sweeps: int, seed: int, alpha: float) -> Figures:
    """Arms in turn, proposed from what was seen on the same starts: an axis t in [0, 1], success rate
    0.9 exp(-(t - centre)^2 / 0.08); three times of four the next t lies near the one with the highest measured rate."""
    rng = np.random.default_rng(seed)
    s = np.arange(sweeps)
    centre_S = rng.uniform(0.2, 0.8, sweeps)
    u_SN = rng.standard_normal((sweeps, starts))
    table = log_e_table(starts)
    t_SK, p_SK, rate_SK = (np.zeros((sweeps, arms)) for _ in range(3))
    x_SKN = np.zeros((sweeps, arms, starts), bool)
    stop_SK = np.full((sweeps, arms), starts)
    kept_SK = np.ones((sweeps, arms), bool)
    passed = table >= math.log((arms - 1) / alpha)
    for k in range(arms):
        t_S = rng.uniform(0, 1, sweeps)
        if k:
            near_S = np.clip(t_SK[s, rate_SK[:, :k].argmax(1)] + rng.normal(0, 0.08, sweeps), 0, 1)
            t_S = np.where(rng.uniform(size=sweeps) < 0.75, near_S, t_S)
        t_SK[:, k] = t_S
        p_SK[:, k] = 0.9 * np.exp(-((t_S - centre_S) ** 2) / 0.08)
        noise_SN = rng.standard_normal((sweeps, starts))
        x_SKN[:, k] = math.sqrt(rho) * u_SN + math.sqrt(1 - rho) * noise_SN < quantiles(p_SK[:, k])[:, None]
        first_S = np.full(sweeps, NEVER)
        for j in range(k):
            wins_SN = np.cumsum(x_SKN[:, j] & ~x_SKN[:, k], axis=1)
            losses_SN = np.cumsum(x_SKN[:, k] & ~x_SKN[:, j], axis=1)
            hit_SN = passed[wins_SN, losses_SN] & (np.arange(starts) < stop_SK[:, j, None])
            first_S = np.where(hit_SN.any(1), np.minimum(first_S, hit_SN.argmax(1) + 1), first_S)
        dropped_S = first_S <= starts
        stop_SK[:, k] = np.where(dropped_S, np.minimum(-(-first_S // block) * block, starts), starts)
        kept_SK[:, k] = ~dropped_S
        seen_SN = np.arange(starts) < stop_SK[:, k, None]
        rate_SK[:, k] = (x_SKN[:, k] & seen_SN).sum(1) / stop_SK[:, k]
    return figures(p_SK, x_SKN, stop_SK, kept_SK)


def line(labels: Sequence[str], rows: Sequence[Figures]) -> str:
    """One line of the table: of several rows the worst for wrong drops, the range of the others."""
    worst = max(rows, key=lambda r: r.wrong)
    low, high = wilson_interval(worst.wrong, worst.sweeps)

    def span(value: Callable[[Figures], float], digits: int = 0) -> str:
        low, high = (f"{100 * end(value(r) for r in rows):.{digits}f}" for end in (min, max))
        return low if low == high else f"{low}-{high}"

    cells = [
        *labels,
        f"{100 * worst.wrong / worst.sweeps:.2f} ({100 * low:.2f}-{100 * high:.2f})",
        span(lambda r: r.saved),
        span(lambda r: r.same, 1),
        span(lambda r: r.lost_racing, 2),
        span(lambda r: r.lost_fixed, 2),
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--starts", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="one line for every rho and block")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    heads = ["arms", "way", "starts", *(["rho", "block"] if options.full else [])]
    heads += ["best dropped, % (95 % CI)", "saved, %", "same choice, %", "rate lost racing, points", "fixed, points"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name, p_K in (SCENARIOS | SCORES).items():
        found = {
            rho: simulate(
                p_K, rho, options.starts, options.blocks, options.sweeps, options.seed, options.alpha, name in SCORES
            )
            for rho in RHOS
        }
        show(name, ("together", "in turn"), found, options)
    found = {
        rho: {
            ("in turn", n, block): search(12, rho, n, block, options.sweeps, options.seed, options.alpha)
            for n in options.starts
            for block in options.blocks
        }
        for rho in RHOS
    }
    show("search: 12 proposed", ("in turn",), found, options)
    print(f"\n{options.sweeps} sweeps a line, alpha = {options.alpha}, {time.perf_counter() - began:.0f} s")


def show(
    name: str,
    ways: Sequence[str],
    found: dict[float, dict[tuple[str, int, int], Figures]],
    options: argparse.Namespace,
) -> None:
    for way in ways:
        for n in options.starts:
            rows = {(rho, block): found[rho][way, n, block] for rho in RHOS for block in options.blocks}
            if options.full:
                for (rho, block), row in rows.items():
                    print(line([name, way, str(n), str(rho), str(block)], [row]))
            else:
                print(line([name, way, str(n)], list(rows.values())))


if __name__ == "__main__":
    main()
