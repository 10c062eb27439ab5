"""Where in the state space unsolved episodes end: clusters of their last observations. No Ray, no files.

The method is deterministic. Of each task, the last low-dimensional observations of all arms' valid episodes are scaled:
every dimension by its standard deviation over them (constant ones are left out), times the share of its variance that
solved episodes alone do not have, so that what varies anyway counts little; and every observation by the root of its
number of dimensions, so that observations count alike. Unsolved episodes are joined by Ward's linkage (J. H. Ward, JASA
58, 1963). The tree is cut where the mean silhouette is largest (P. J. Rousseeuw, J. Comput. Appl. Math. 20, 1987); if
no cut into at most `MOST` clusters reaches `STRUCTURE`, they are one cluster.
Letters: E episodes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

#: Most clusters of a task.
MOST = 6
#: Mean silhouette of "a reasonable structure" (Kaufman, Rousseeuw: Finding Groups in Data, 1990); cuts through a single
#: cloud of points often reach 0.3.
STRUCTURE = 0.5
#: Unsolved episodes of a task that are clustered, the first ones; distances of all pairs are kept.
MOST_EPISODES = 2000
#: Solved episodes from which on their variance is known well enough.
ENOUGH = 5
#: Observations that are named for a cluster, and by how many standard deviations they must at least differ.
NAMED, LEAST = 3, 0.5

#: (arm, start).
Key = tuple[str, str]


@dataclass(frozen=True)
class Deviation:
    """A dimension in which a cluster differs from solved episodes."""

    name: str
    """`object[2]`."""
    here: float
    """Mean of the cluster."""
    solved: float
    """Mean of solved episodes."""
    deviations: float
    """Their difference in standard deviations over all last observations."""


@dataclass(frozen=True)
class Cluster:
    """Unsolved episodes that ended in similar states."""

    task: str
    """"" where there is one task."""
    counts: dict[str, int]
    """Arm -> its episodes."""
    median_steps: float | None
    """After how many steps they ended."""
    outcomes: dict[str, int]
    """`timeout`, `failure` -> episodes."""
    differs: list[Deviation]
    """Where it differs most from solved episodes; [] if none was solved."""
    example: Key
    """The episode that is nearest to the cluster's mean: of those with a video, if there are any."""

    @property
    def size(self) -> int:
        return sum(self.counts.values())


def failure_clusters(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], filmed: Iterable[Key] = ()) -> list[Cluster]:
    """Clusters of the unsolved episodes, the largest first; [] where no row has its last observation.

    rows: arm -> start -> `raybc.rows.EpisodeRow`. filmed: episodes that have a video.
    """
    groups: dict[tuple[str, tuple[tuple[str, int], ...]], list[tuple[Key, Mapping[str, Any]]]] = {}
    for arm, part in rows.items():
        for start, row in part.items():
            sizes = _sizes(row.get("final_obs")) if row["outcome"] != "error" else ()
            if sizes:
                groups.setdefault((row.get("task", ""), sizes), []).append(((arm, start), row))
    several = len({task for task, _ in groups}) > 1
    found = [
        cluster
        for (task, sizes), members in groups.items()
        for cluster in _of_task(task if several else "", sizes, members, frozenset(filmed))
    ]
    return sorted(found, key=lambda cluster: -cluster.size)  # stable: of equals, the one found first


def _sizes(final_obs: Any) -> tuple[tuple[str, int], ...]:
    """(observation, its dimensions) in order; () where there are none, or not only finite numbers."""
    if not isinstance(final_obs, Mapping) or not final_obs:
        return ()
    try:
        arrays = {str(name): np.asarray(values, np.float64) for name, values in final_obs.items()}
    except (TypeError, ValueError):
        return ()
    if any(array.ndim != 1 or not np.isfinite(array).all() for array in arrays.values()):
        return ()
    return tuple(sorted((name, len(array)) for name, array in arrays.items()))


def _of_task(
    task: str,
    sizes: Sequence[tuple[str, int]],
    members: Sequence[tuple[Key, Mapping[str, Any]]],
    filmed: frozenset[Key],
) -> list[Cluster]:
    obs_ED = np.array(
        [np.concatenate([np.asarray(row["final_obs"][name], np.float64) for name, _ in sizes]) for _, row in members]
    )
    solved_E = np.array([row["outcome"] == "success" for _, row in members])
    unsolved = np.flatnonzero(~solved_E)[:MOST_EPISODES]
    if not len(unsolved):
        return []
    spread_D = obs_ED.std(axis=0)
    varies_D = spread_D > 1e-9 * (1 + np.abs(obs_ED).max(axis=0))
    weight_D = np.concatenate([np.full(n, 1 / np.sqrt(n)) for _, n in sizes])
    if solved_E.sum() >= ENOUGH:
        share_D = obs_ED[solved_E].var(axis=0) / np.where(varies_D, spread_D, 1.0) ** 2
        weight_D *= np.maximum(0.0, 1 - share_D)
    scaled_ED = (obs_ED / np.where(varies_D, spread_D, 1.0) * weight_D)[:, varies_D]
    labels_E = _labels(scaled_ED[unsolved])
    names = [f"{name}[{i}]" if n > 1 else name for name, n in sizes for i in range(n)]
    found = []
    for label in dict.fromkeys(labels_E.tolist()):
        mine = unsolved[labels_E == label]
        rows = [members[i] for i in mine]
        near = np.linalg.norm(scaled_ED[mine] - scaled_ED[mine].mean(axis=0), axis=1)
        shown = [j for j, (key, _) in enumerate(rows) if key in filmed] or range(len(rows))
        steps = [row["steps"] for _, row in rows if row.get("steps")]
        found.append(
            Cluster(
                task=task,
                counts=_count(key[0] for key, _ in rows),
                median_steps=float(median(steps)) if steps else None,
                outcomes=_count(row["outcome"] for _, row in rows),
                differs=_deviations(names, obs_ED[mine], obs_ED[solved_E], spread_D, varies_D),
                example=rows[min(shown, key=lambda j: float(near[j]))][0],
            )
        )
    return found


def _count(values: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found


def _deviations(
    names: Sequence[str], here_ED: np.ndarray, solved_ED: np.ndarray, spread_D: np.ndarray, varies_D: np.ndarray
) -> list[Deviation]:
    if not len(solved_ED):
        return []
    here_D, solved_D = here_ED.mean(axis=0), solved_ED.mean(axis=0)
    by_D = np.where(varies_D, (here_D - solved_D) / np.where(varies_D, spread_D, 1.0), 0.0)
    order = np.argsort(-np.abs(by_D), kind="stable")[:NAMED]
    return [
        Deviation(names[d], float(here_D[d]), float(solved_D[d]), float(by_D[d]))
        for d in order
        if abs(by_D[d]) >= LEAST
    ]


def _labels(points_ED: np.ndarray) -> np.ndarray:
    """The cluster of each point, (E,)."""
    one = np.zeros(len(points_ED), np.int64)
    if len(points_ED) < 4 or not points_ED.shape[1]:
        return one
    # Not at the top: half a second, which a sweep would wait for before its first training.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist, squareform

    distances = pdist(points_ED)
    if not distances.max() > 0:
        return one
    tree, square_EE = linkage(points_ED, "ward"), squareform(distances)
    cuts = [fcluster(tree, k, "maxclust") for k in range(2, min(MOST, len(points_ED) - 1) + 1)]
    scores = [silhouette(square_EE, labels) for labels in cuts]
    best = int(np.argmax(scores))  # the first of equals: fewest clusters
    return cuts[best] if scores[best] >= STRUCTURE else one


def silhouette(distances_EE: np.ndarray, labels_E: np.ndarray) -> float:
    """The mean silhouette of a clustering; 0 for a point that is alone in its cluster (Rousseeuw 1987)."""
    kinds = np.unique(labels_E)
    if len(kinds) < 2:
        return 0.0
    member_EK = labels_E[:, None] == kinds
    sizes_K = member_EK.sum(axis=0)
    sums_EK = distances_EE @ member_EK
    own_E = np.argmax(member_EK, axis=1)
    every = np.arange(len(labels_E))
    inside_E = sums_EK[every, own_E] / np.maximum(sizes_K[own_E] - 1, 1)
    others_EK = sums_EK / sizes_K
    others_EK[every, own_E] = np.inf
    outside_E = others_EK.min(axis=1)
    most_E = np.maximum(inside_E, outside_E)
    values_E = np.where(
        (sizes_K[own_E] > 1) & (most_E > 0), (outside_E - inside_E) / np.where(most_E > 0, most_E, 1), 0
    )
    return float(values_E.mean())
