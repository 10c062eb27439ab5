"""The folder of `raybc data quality`: which files are in it, and the state that a second call continues from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from raybc._version import __version__
from raybc.data.scores import CSV, META
from raybc.files import parse_json, read_json, replacing, write_json, write_text
from raybc.train.checkpointing import digest_of
from raybc.types import UserError


@dataclass(frozen=True)
class QualityFolder:
    """Paths in the folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """What was asked for, by which a second call knows that it is the same."""
        return self.path / "settings.json"

    @property
    def report(self) -> Path:
        """Accuracy, confusion matrix and calibration on episodes that were held out."""
        return self.path / "quality.json"

    @property
    def state(self) -> Path:
        """The state of the classifier's training."""
        return self.path / "classifier.safetensors"

    @property
    def history(self) -> Path:
        """Loss and accuracy after each epoch."""
        return self.path / "history.csv"

    @property
    def features(self) -> Path:
        """The features of each episode in each network, from which the SVM is fitted again."""
        return self.path / "features.safetensors"

    @property
    def measures(self) -> Path:
        """Disagreement and error of the ensemble at each step, and influence of each episode."""
        return self.path / "measures.safetensors"

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / "quality.html"

    def _own(self) -> set[str]:
        files = (self.settings, self.report, self.state, self.history, self.features, self.measures, self.page)
        return {path.name for path in files} | {CSV, META}

    def check(self, wanted: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Whether a call with the settings `wanted` continues an earlier one in this folder; changes nothing.

        Raises `UserError` for files of others, and for a folder with other settings, unless it is to be replaced.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: expected a folder, got a file; choose another --out")
        inside = {p.name for p in self.path.iterdir()} - {".lock"} if self.path.is_dir() else set()
        foreign = sorted(name for name in inside - self._own() if not name.endswith(".tmp"))
        if foreign:
            raise UserError(
                f"{self.path}: contains {foreign[0]!r}, which raybc data quality did not write; nothing was changed: "
                "choose another --out"
            )
        if overwrite or not inside:
            return False
        if not self.settings.is_file():
            raise UserError(f"{self.path}: {self.settings.name} is missing there; choose another --out, or --overwrite")
        was = read_json(self.settings)
        changed = [n for n in (*was, *wanted) if was.get(n) != wanted.get(n)] if isinstance(was, dict) else ["?"]
        if changed:
            raise UserError(
                f"{self.path}: was made with other settings ({_differences(was, wanted, changed)}); choose another "
                "--out, or replace it with --overwrite"
            )
        return True

    def begin(self, wanted: Mapping[str, Any], overwrite: bool = False) -> bool:
        """`check`, then write the settings of a new call, after deleting what it replaces; in a locked folder."""
        continues = self.check(wanted, overwrite)
        if overwrite:
            for name in self._own():
                (self.path / name).unlink(missing_ok=True)
        if not continues:
            write_json(self.settings, dict(wanted))
        return continues

    # --- state of the classifier ------------------------------------------------------------------------------------

    def save_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state atomically, and history.csv after it."""
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {"format": "1", "raybc": __version__, "facts": json.dumps(facts)}
        with replacing(self.state) as temporary:
            save_tensors(whole, temporary, metadata=metadata | {"sha256": digest_of(whole, metadata)})
        self.write_history(facts["history"])

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state. Raises `UserError` for a damaged one."""
        try:
            with safe_open(self.state, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.state}: not readable as the state of a classifier: {error}") from None
        if metadata.pop("sha256", "") != digest_of(tensors, metadata) or metadata.get("format") != "1":
            raise UserError(f"{self.state}: damaged, or of a newer release; use --overwrite to start again")
        facts = parse_json(metadata["facts"], f"{self.state}: facts")
        return tensors, facts

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write history.csv."""
        text = io.StringIO()
        names = list(rows[0]) if rows else []
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[f"{row[name]:.10g}" for name in names] for row in rows])
        write_text(self.history, text.getvalue())

    # --- arrays -----------------------------------------------------------------------------------------------------

    def save_measures(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what takes long, so that a second call need not compute it again."""
        with replacing(self.measures) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)

    def load_measures(self) -> dict[str, np.ndarray]:
        """What `save_measures` wrote; {} where there is nothing. Raises `UserError` for a damaged file."""
        if not self.measures.is_file():
            return {}
        try:
            return dict(load_file(self.measures))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{self.measures}: not readable: {error}; use --overwrite to start again") from None

    def save_features(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the features of episodes."""
        with replacing(self.features) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)


def _differences(was: Any, wanted: Mapping[str, Any], changed: Sequence[str]) -> str:
    if not isinstance(was, dict):
        return "its settings.json is not readable"
    shown = [
        f"{name}: {_short(was.get(name))} there, {_short(wanted.get(name))} here" for name in dict.fromkeys(changed)
    ]
    return "; ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
