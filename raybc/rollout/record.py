"""`raybc rollout --record`: the episodes of an evaluation as one data set, assembled from one file for each.

Only one episode is in memory at a time: the files become a converted store on disk (`raybc.data.store`), from which the
formats' own writers write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.data import store
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write, robomimic
from raybc.data.formats.base import DatasetInfo, EpisodeChunk
from raybc.extras import require_extra
from raybc.files import expanded, read_json, replacing, write_json
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.recorder import read_recorded, recorded_file, shapes_of
from raybc.rows import EpisodeRow
from raybc.strict import did_you_mean
from raybc.types import EpisodeSpec, UserError

#: Kind -> what its files end in ("": a folder).
KINDS = {"lerobot": (), "robomimic": (".hdf5", ".h5"), "rrd": (".rrd",)}


@dataclass(frozen=True)
class Target:
    """A data set to write."""

    kind: str
    path: Path

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{self.kind}:{self.path}"


def read_targets(texts: Sequence[str]) -> list[Target]:
    """The data sets that `--record` names. Raises `UserError` for unknown kinds, wrong endings and missing packages."""
    found = []
    for text in texts:
        kind, colon, name = text.partition(":")
        if not colon or not name or kind not in KINDS:
            near = f": {did_you_mean(kind, KINDS)}" if colon and kind not in KINDS else ""
            raise UserError(f"--record: expected lerobot:DIR, robomimic:FILE.hdf5 or rrd:FILE.rrd, got {text!r}{near}")
        path = expanded(name, "--record")
        if KINDS[kind] and path.suffix not in KINDS[kind]:
            raise UserError(f"--record: {kind}: expected a file that ends in {KINDS[kind][0]}, got {path}")
        if kind == "rrd":
            require_extra("--record rrd", "rerun", "rerun")
        found.append(Target(kind, path))
    paths = [target.path.resolve() for target in found]
    if len(set(paths)) < len(paths):
        raise UserError(f"--record: expected different places, got {', '.join(t.text for t in found)}")
    return found


def targets_left(targets: Sequence[Target], out: EvaluationFolder, resumes: bool) -> list[Target]:
    """The data sets that have not been written completely. Raises `UserError` for a place where something else is.

    out: the evaluation that this one resumes or overwrites, if it exists. resumes: whether it is resumed.
    """
    before: Mapping[str, Any] = read_json(out.recorded_json) if out.recorded_json.is_file() else {}
    left = []
    for target in targets:
        known = before.get(str(target.path.resolve()))
        if target.path.exists() and known is None:
            raise UserError(
                f"--record: {target.path} exists, and this evaluation did not write it; choose another place"
            )
        if resumes and known and known.get("complete") and target.path.exists():
            cli.console.print(f"already recorded: {target.path}")
            continue
        left.append(target)
    _check_places(targets, out)
    return left


def _check_places(targets: Sequence[Target], out: EvaluationFolder) -> None:
    """Before any episode: data sets must not replace the evaluation or each other, and their folders can be made."""
    places = {"the evaluation": out.path.resolve()}
    for target in targets:
        path = target.path.resolve()
        for what, place in places.items():
            if path.is_relative_to(place) or place.is_relative_to(path):
                raise UserError(f"--record: {target.text} and {what} ({place}) overlap; choose another place")
        places[target.text] = path
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"--record: {target.text}: expected a folder that can be written, got {above}")


def write_recordings(
    targets: Sequence[Target],
    out: EvaluationFolder,
    specs: Sequence[EpisodeSpec],
    rows: Sequence[EpisodeRow],
    fps: float,
) -> None:
    """Write the valid episodes to every target, and say what was left out. rows: in the order of specs, perhaps fewer.

    The files of episodes are deleted when all of them are in the data sets; where some ended in errors, they stay for
    `--resume`.
    """
    pairs = list(zip(specs, rows, strict=False))
    files = [recorded_file(out.recorded, spec) for spec, row in pairs if row["outcome"] != "error"]
    left_out = len(pairs) - len(files)
    errors = f"; {left_out} that ended in errors left out" if left_out else ""
    if not files:
        cli.console.print(f"recorded: nothing, since no episode was valid{errors}", style="yellow")
        return
    whole = out.recorded / "store"
    if whole.exists():
        shutil.rmtree(whole)  # of a process that was killed
    found = _as_store(files, whole)
    known = read_json(out.recorded_json) if out.recorded_json.is_file() else {}
    for target in targets:
        known[str(target.path.resolve())] = {"kind": target.kind, "complete": False}
        write_json(out.recorded_json, known)  # before, so that a process that resumes may replace it
        _WRITERS[target.kind](target.path, found, fps)
        known[str(target.path.resolve())]["complete"] = not left_out
        write_json(out.recorded_json, known)
        cli.console.print(f"recorded: {found.num_episodes} episodes{errors}: {target.path}")
    shutil.rmtree(whole if left_out else out.recorded)


def _as_store(files: Sequence[Path], target: Path) -> EpisodeStore:
    """The episodes as a store on disk, with the observations that all of them have."""
    common = shapes_of(files[0])
    every = set(common)
    for file in files[1:]:
        shapes = shapes_of(file)
        every |= set(shapes)
        common = {key: shape for key, shape in common.items() if shapes.get(key) == shape}
    different = sorted(every - set(common))
    if different:
        cli.console.print(
            f"recorded without these observations, whose sizes differ between tasks: {', '.join(different)}",
            style="yellow",
        )
    if not common:
        raise UserError("--record: expected observations that all tasks have, got none of one size")
    keys = tuple(common)
    about = DatasetInfo(env_args=read_recorded(files[0], keys[:1]).env_args)
    return store.write_parts(target, _chunks(files, keys), lambda: about, Path("rollouts"))


def _chunks(files: Sequence[Path], keys: tuple[str, ...]) -> Iterator[EpisodeChunk]:
    for file in files:
        one = read_recorded(file, keys)
        yield EpisodeChunk(
            file.stem, one.obs, one.actions, rewards=one.rewards, terminals=one.terminals, tasks=(one.instruction,),
            success=(one.row["outcome"] == "success",),
        )  # fmt: skip


def _lerobot(path: Path, found: EpisodeStore, fps: float) -> None:
    lerobot_write.write_store(path, found, fps=max(1, round(fps)))


def _robomimic(path: Path, found: EpisodeStore, fps: float) -> None:
    robomimic.write_store(path, found)


def _rerun(path: Path, found: EpisodeStore, fps: float) -> None:
    """One recording: `episode_0/obs/NAME`, `/action`, `/reward` over the timelines `step` and `time`."""
    import numpy as np
    import rerun as rr

    from raybc.data.videos import encode_png

    starts, ends = found.episode_starts, found.episode_ends
    assert found.success_E is not None
    with replacing(path) as temporary:
        stream = rr.RecordingStream("raybc", recording_id=found.fingerprint())
        stream.save(str(temporary))
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            root, steps = f"episode_{i}", np.arange(end - start)
            said = (
                f"{'success' if found.success_E[i] else 'not solved'}{'; ' + found.tasks[i] if found.tasks[i] else ''}"
            )
            stream.log(root, rr.TextDocument(said), static=True)
            times = [rr.TimeColumn("step", sequence=steps), rr.TimeColumn("time", duration=steps / fps)]
            for name, array in found.arrays().items():
                values = np.asarray(array[start:end])
                if name.removeprefix("obs/") in found.images and name.startswith("obs/"):
                    pixels = [encode_png(image) for image in values]
                    columns: Any = rr.EncodedImage.columns(blob=pixels, media_type=["image/png"] * len(pixels))
                else:
                    numbers = values.astype(np.float64).reshape(len(values), -1)
                    columns = rr.Scalars.columns(scalars=numbers)
                stream.send_columns(f"{root}/{name}", indexes=times, columns=columns)
            stream.flush()
        stream.disconnect()


_WRITERS = {"lerobot": _lerobot, "robomimic": _robomimic, "rrd": _rerun}
