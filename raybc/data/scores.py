"""Scores of episodes as columns: what `raybc data quality` writes, and what filters and sampling plans read.

A folder holds scores.csv (a row for each episode) and scores.json (what the columns mean, the fingerprint of the data,
and `scores_sha256`, which identifies the contents). Letters: E episodes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.same import is_same
from raybc.files import expanded, read_json, read_text, write_json, write_text
from raybc.strict import did_you_mean, digest, from_mapping
from raybc.types import UserError

FORMAT = "raybc episode scores"
VERSION = 1
CSV, META = "scores.csv", "scores.json"
#: Columns of scores.csv that are no scores.
EPISODE, LABEL = "episode", "label"

Better = Literal["higher", "lower"]
Kind = Literal["probability", "measure"]


@dataclass(frozen=True)
class Column:
    """What a column of scores means."""

    better: Better
    """Whether higher or lower values are better."""
    about: str
    """What it measures and in which unit, one line."""
    kind: Kind = "measure"
    """probability: values from 0 (worst) to 1 (best), which are weights as they are; measure: values whose order
    counts."""


@dataclass(frozen=True)
class Scores:
    """Scores of all episodes of a data set. Raises `UserError` for columns that do not fit each other."""

    dataset: str
    """Name of the data set, for messages."""
    fingerprint: str
    """`EpisodeStore.fingerprint` of the data, as a training reads them."""
    columns: Mapping[str, Column]
    """Name -> what it means."""
    values: Mapping[str, np.ndarray]
    """Name -> float64 (E,), finite."""
    labels: tuple[str, ...] = field(default=())
    """The label of each episode, "" where it has none; or () without labels. Not part of `sha256`."""

    def __post_init__(self) -> None:
        if set(self.columns) != set(self.values) or not self.columns:
            raise UserError(f"scores: expected values of the columns {sorted(self.columns)}, got {sorted(self.values)}")
        for name, values_E in self.values.items():
            if name in (EPISODE, LABEL):
                raise UserError(f"scores: column {name!r}: expected another name, since scores.csv uses this one")
            if values_E.shape != (self.num_episodes,) or not np.isfinite(values_E).all():
                raise UserError(f"scores: column {name!r}: expected {self.num_episodes} finite numbers")
        if self.labels and len(self.labels) != self.num_episodes:
            raise UserError(f"scores: labels: expected {self.num_episodes}, got {len(self.labels)}")

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(next(iter(self.values.values())))

    @property
    def sha256(self) -> str:
        """Identifies what filters and plans use: the data, the columns and their values."""
        columns = {n: [c.better, c.kind, self.values[n].tolist()] for n, c in self.columns.items()}
        return digest({"format": FORMAT, "version": VERSION, "data": self.fingerprint, "columns": columns})

    def check_column(self, name: str, where: str) -> None:
        """Raise `UserError`, beginning with `where`, for a column that is not there."""
        if name not in self.columns:
            raise UserError(
                f"{where}: expected a column of the scores, got {name!r}: {did_you_mean(name, self.columns)}"
            )

    def goodness(self, name: str) -> np.ndarray:
        """A column, float64 (E,), negated where lower values are better: the best episode has the highest value."""
        values_E = self.values[name]
        return values_E if self.columns[name].better == "higher" else -values_E

    def weights(self, name: str, power: float = 1.0) -> np.ndarray:
        """How often to draw from each episode, float64 (E,), from above 0 to 1: a probability as it is (at least 1e-6),
        or the share of the episodes that are no better, equal ones sharing their ranks; to the power `power`."""
        good_E = self.goodness(name)
        if self.columns[name].kind == "probability":
            return np.asarray(np.clip(good_E, 1e-6, 1.0) ** power)
        below = np.searchsorted(np.sort(good_E), good_E, side="left")
        upto = np.searchsorted(np.sort(good_E), good_E, side="right")
        return np.asarray(((below + upto + 1) / 2 / len(good_E)) ** power)

    def check_data(self, fingerprint: str, store: EpisodeStore, where: str) -> None:
        """Raise `UserError`, beginning with `where`, for data that the scores are not of."""
        self.check_count(store, where)
        if not is_same(self.fingerprint, fingerprint, store):
            raise UserError(
                f"{where}: expected scores of these data ({fingerprint[:12]}), got those of {self.dataset} "
                f"({self.fingerprint[:12]}), whose contents differ; score them with raybc data quality, with the same "
                "flags of reading as here (--drop_idle, --skip_bad_episodes, --obs_keys)"
            )

    def check_count(self, store: EpisodeStore, where: str) -> None:
        """Raise `UserError`, beginning with `where`, for data with another number of episodes."""
        if self.num_episodes != store.num_episodes:
            raise UserError(
                f"{where}: expected scores of the {store.num_episodes} episodes of {store.source}, got "
                f"{self.num_episodes} of {self.dataset}; score them with raybc data quality"
            )


def save_scores(scores: Scores, folder: Path) -> None:
    """Write scores.csv and then scores.json to a folder, each completely or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([EPISODE, *([LABEL] if scores.labels else []), *scores.columns])
    for e in range(scores.num_episodes):
        label = [scores.labels[e]] if scores.labels else []
        writer.writerow([e, *label, *(repr(float(scores.values[name][e])) for name in scores.columns)])
    write_text(folder / CSV, text.getvalue())
    write_json(
        folder / META,
        {
            "format": FORMAT,
            "version": VERSION,
            "dataset": scores.dataset,
            "dataset_fingerprint": scores.fingerprint,
            "episodes": scores.num_episodes,
            "columns": {name: dataclasses.asdict(column) for name, column in scores.columns.items()},
            "scores_sha256": scores.sha256,
        },
    )


def scores_folder(path: Path | str, where: str = "scores") -> Path:
    """The folder of scores, given that folder, its scores.csv or its scores.json. Raises `UserError`, beginning with
    `where`, for other paths."""
    found = expanded(path, where)
    found = found.parent if found.name in (CSV, META) else found
    if not (found / META).is_file():
        raise UserError(f"{where}: {path}: expected a folder that raybc data quality wrote, with {CSV} and {META}")
    return found


def load_scores(path: Path | str, where: str = "scores") -> Scores:
    """The scores at `path` (see `scores_folder`). Raises `UserError` for missing, damaged or edited ones."""
    folder = scores_folder(path, where)
    meta = read_json(folder / META)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{folder / META}: expected {FORMAT}, got another JSON file")
    if meta.get("version") != VERSION:
        raise UserError(
            f"{folder / META}: expected version {VERSION}, got {meta.get('version')!r}; score the data again"
        )
    columns = _columns(meta, folder / META)
    rows = list(csv.reader(io.StringIO(read_text(folder / CSV, "the scores of episodes", "CSV"))))
    head, body = (rows[0], rows[1:]) if rows else ([], [])
    try:
        values = {name: np.array([float(row[head.index(name)]) for row in body], np.float64) for name in columns}
        numbers = [int(row[head.index(EPISODE)]) for row in body]
        labels = tuple(row[head.index(LABEL)] for row in body) if LABEL in head else ()
        scores = Scores(str(meta["dataset"]), str(meta["dataset_fingerprint"]), columns, values, labels)
    except (ValueError, LookupError) as error:
        raise UserError(f"{folder / CSV}: not readable as the scores that {META} describes: {error}") from None
    if scores.sha256 != meta.get("scores_sha256") or numbers != list(range(len(body))):
        raise UserError(
            f"{folder / CSV}: differs from its description in {META}; it was damaged or edited: score the data again "
            "(labels of your own belong into a file for --labels)"
        )
    return scores


def _columns(meta: Mapping[str, Any], where: Path) -> dict[str, Column]:
    described = meta.get("columns")
    if not isinstance(described, dict) or not described:
        raise UserError(f"{where}: columns: expected the columns of the scores, got {described!r}")
    return {str(name): from_mapping(Column, value, f"{where}: columns.{name}") for name, value in described.items()}


def best_first(values_E: np.ndarray) -> np.ndarray:
    """Episode numbers from the highest value to the lowest, int64 (E,); of equal ones the earlier first."""
    return np.argsort(-values_E, kind="stable")


def auc(better_E: np.ndarray, worse_E: np.ndarray) -> float:
    """Probability that a value of `better_E` exceeds one of `worse_E`, equal ones counting half; nan where one of both
    is empty."""
    if not len(better_E) or not len(worse_E):
        return math.nan
    pairs = np.sign(better_E[:, None] - worse_E[None, :])
    return float((pairs.mean() + 1) / 2)
