"""Changes of one episode's state: boundaries of stages and gripper events.

Letters: L frames of an episode, D dimensions of the state, C frames that are candidates.
"""

from __future__ import annotations

import numpy as np

from raybc.data.plan.config import PlanConfig


def back(values: np.ndarray, delta: int) -> np.ndarray:
    """`values[t - delta]` for each frame t, (L, ...); the first frame is repeated before the beginning, as in
    windows."""
    return values[np.maximum(np.arange(len(values)) - delta, 0)]


def peaks(score_L: np.ndarray, gap: int, most: int | None = None, floor: float = 0.0) -> np.ndarray:
    """Frames of the highest local maxima of a score, int64, ascending; at most `most` of them (None: all).

    A local maximum is a run of equal scores with lower ones on both sides (the ends of the episode count as lower); its
    frame is the first of the run, where a jump begins. Only scores above 0 and at least `floor` count, and a constant
    score has no maximum. Non-maximum suppression: from the highest on (the earliest of equal ones), maxima less than
    `gap` frames from an accepted one are dropped.
    """
    first_C = np.flatnonzero(np.diff(score_L, prepend=np.nan) != 0)
    if len(first_C) < 2:
        return np.zeros(0, np.int64)
    run_C = score_L[first_C]
    around = np.concatenate([[-np.inf], run_C, [-np.inf]])
    is_peak_C = (run_C > around[:-2]) & (run_C > around[2:]) & (run_C > 0) & (run_C >= floor)
    frames_C, heights_C = first_C[is_peak_C], run_C[is_peak_C]
    accepted: list[int] = []
    free_L = np.ones(len(score_L), bool)
    for frame in frames_C[np.argsort(-heights_C, kind="stable")]:
        if len(accepted) == most:
            break
        if free_L[frame]:
            accepted.append(int(frame))
            free_L[max(0, frame - gap + 1) : frame + gap] = False
    return np.array(sorted(accepted), np.int64)


def change_points(state_LD: np.ndarray, config: PlanConfig) -> np.ndarray:
    """Boundaries between the stages of an episode, frames, int64, ascending: K - 1, or fewer where the state has fewer
    peaks. score[t] = ||s[t] - s[t - delta]||_2 (units of the state)."""
    state_LD = state_LD.astype(np.float64)
    score_L = np.linalg.norm(state_LD - back(state_LD, config.change_point_delta), axis=1)
    return peaks(score_L, config.change_point_min_gap, config.num_stages_K - 1)


def gripper_events(state_LD: np.ndarray, config: PlanConfig) -> np.ndarray:
    """Frames at which a gripper begins to open or close, int64, ascending; none in an episode of at most
    max(delta1, delta2) frames, and none if the gripper does not move.

        g[t] = max_d |s[t, d]|, d in gripper_dims; smoothed by a running median
        d[t] = max(|g[t] - g[t - delta1]|, |g[t] - g[t - delta2]|)
        tau  = quantile(d[max(delta1, delta2):], q);  events = peaks of d >= tau
    """
    grip_L = median_filter(np.abs(state_LD[:, config.dims].astype(np.float64)).max(1), config.gripper_smooth_window)
    longest = max(config.gripper_delta1, config.gripper_delta2)
    if len(grip_L) <= longest:
        return np.zeros(0, np.int64)
    differences = [np.abs(grip_L - back(grip_L, delta)) for delta in (config.gripper_delta1, config.gripper_delta2)]
    moved_L = np.maximum(*differences)
    # Not `>`: where a gripper has two positions and more than 1 - q of the frames lie within delta of a jump, tau is
    # the height of that very jump.
    tau = float(np.quantile(moved_L[longest:], config.gripper_quantile_q))
    return peaks(moved_L, config.gripper_min_gap, floor=tau)


def median_filter(values_L: np.ndarray, window: int) -> np.ndarray:
    """Running median over an odd window, float64 (L,); beyond the ends their values are repeated."""
    padded = np.pad(values_L, window // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)


def distances(frames: np.ndarray, events: np.ndarray, horizon: int) -> np.ndarray:
    """Steps from each window [f, f + H - 1] to the nearest event, float64: 0 inside, inf without events."""
    if not len(events):
        return np.full(len(frames), np.inf)
    outside = np.maximum(frames[:, None] - events, events - (frames[:, None] + horizon - 1))
    return np.maximum(outside, 0).min(1).astype(np.float64)
