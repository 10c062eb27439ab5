"""Find, resume and extend the run folders of training runs.

A run is found by its identity, not by the name of its folder. Output options may change, the budget may grow, and runs
of earlier releases are found, too.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raybc._version import __version__
from raybc.config import RunConfig
from raybc.config.identity import SCHEMA, extends
from raybc.default_folder import folder_word
from raybc.files import expanded, read_json, write_json
from raybc.run_folder import TrainingFolder
from raybc.strict import digest
from raybc.train.choices import ExtendSchedule
from raybc.train.language import continued_language
from raybc.train.pretrained import continued
from raybc.train.stored import SavedRun, saved_in
from raybc.types import UserError

#: Names and passwords in URIs, such as that of a tracking server.
_CREDENTIALS = re.compile(r"(\w+://)[^\s/@]+@")


class TrainedFurther(UserError):
    """The run that is asked for has been trained for more steps than that."""

    out: Path
    """Its run folder."""


@dataclass(frozen=True)
class RunPlace:
    """The run folders of a pack."""

    out: Path
    """The run folder; with several members the parent of their folders."""
    folders: tuple[Path, ...]
    """The folder of each member."""
    members: tuple[RunConfig, ...]
    saved: tuple[SavedRun, ...] = ()
    """The runs to resume; () for a new run."""
    recipe: str = ""
    """The recipe that the options started from, for flags.json; it is no part of the identity."""

    @property
    def earlier_ids(self) -> list[tuple[str, ...]]:
        """For each member, all run_ids that its saved files may carry; () for a new run."""
        return [run.run_ids for run in self.saved] or [()] * len(self.members)

    @property
    def state(self) -> Path:
        return TrainingFolder(self.out).state

    def write_flags(self, fingerprint: str) -> None:
        """Write flags.json of each member, and pack.json for several. fingerprint: of the training data."""
        for config, folder, earlier in zip(self.members, self.folders, self.earlier_ids, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            run_id = config.run_id(fingerprint)
            facts = {
                "schema": SCHEMA,
                "raybc": __version__,
                "run_id": run_id,
                "earlier_run_ids": [other for other in earlier if other != run_id],
                "data_fingerprint": fingerprint,
                **({"recipe": self.recipe} if self.recipe else {}),
            }
            write_json(TrainingFolder(folder).flags, config.to_plain() | facts)
        if len(self.members) > 1:
            names = {str(c.seed): str(f.relative_to(self.out)) for c, f in zip(self.members, self.folders, strict=True)}
            write_json(TrainingFolder(self.out).pack, {"members": names})

    def write_args(self, argv: Sequence[str]) -> None:
        """Write run_args.json of each member. argv: the arguments of this command, which are added to those of the
        commands before."""
        command = _CREDENTIALS.sub(r"\1***@", shlex.join(["raybc", "train", *argv]))
        for config, folder in zip(self.members, self.folders, strict=True):
            path = TrainingFolder(folder).run_args
            earlier = read_json(path).get("commands", []) if path.is_file() else []
            write_json(path, config.to_plain() | {"commands": [*earlier, command]})


def group_folder(config: RunConfig) -> Path:
    """SAVE_DIR/bc_training/RUN_GROUP/ENV_NAME, with _ for what some systems forbid in names of folders."""
    group = "/".join(map(folder_word, config.run_group.split("/")))
    return expanded(config.save_dir, "save_dir") / "bc_training" / group / folder_word(config.env_name)


def _groups(config: RunConfig) -> list[Path]:
    """`group_folder`, and where earlier releases had it."""
    former = expanded(config.save_dir, "save_dir") / "bc_training" / config.run_group / config.env_name
    return list(dict.fromkeys((group_folder(config), former)))


def _folders(config: RunConfig) -> list[Path]:
    """What is in the group of `config`."""
    return sorted(path for group in _groups(config) for path in group.glob("*") if path.is_dir())


def new_place(members: Sequence[RunConfig], fingerprint: str, out: Path | None) -> RunPlace:
    """The folders of a new run: `out`, or by default GROUP/sdSEED_RUNID, for several members GROUP/pack_ID."""
    names = [f"sd{config.seed:03d}_{config.run_id(fingerprint)}" for config in members]
    if out is None:
        pack = f"pack_{digest([m.run_id(fingerprint) for m in members])[:16]}"
        out = group_folder(members[0]) / (names[0] if len(members) == 1 else pack)
    folders = (out,) if len(members) == 1 else tuple(out / name for name in names)
    return RunPlace(out, folders, tuple(members))


def find_run(members: Sequence[RunConfig], fingerprint: str, extend: ExtendSchedule) -> Path | None:
    """The folder in the group of `members` with the same run, or with a run that it extends; None without one."""
    extended: Path | None = None
    for folder in _folders(members[0]):
        try:
            place = resumed(members, fingerprint, folder, extend)
        except UserError as error:  # another run, or one that this release cannot read
            if isinstance(error, TrainedFurther) or _is_extended(members, fingerprint, folder):
                extended = folder  # found, but refused: that reason helps more than "nothing to resume"
            continue
        if place is None:
            continue
        if not any(extends(new, old.config) for new, old in zip(members, place.saved, strict=True)):
            return folder
        extended = folder
    return extended


def _is_extended(members: Sequence[RunConfig], fingerprint: str, folder: Path) -> bool:
    try:
        saved = {run.config.seed: run for run in saved_in(folder)}
    except UserError:
        return False
    return saved.keys() == {m.seed for m in members} and all(
        extends(new, saved[new.seed].config) and saved[new.seed].data_fingerprint == fingerprint for new in members
    )


def resumed(
    members: Sequence[RunConfig], fingerprint: str, out: Path, extend: ExtendSchedule = "no"
) -> RunPlace | None:
    """The folders of the run in `out` that `members` resume or extend; None if `out` holds no run.

    Args:
        members: the runs as requested.
        fingerprint: of the training data.
        out: the run folder.
        extend: how a cosine schedule continues after its end.

    Raises `UserError` if `out` holds another run, or if the run cannot be extended; `TrainedFurther` if it is the same
    one with a larger budget.
    """
    saved = {run.config.seed: run for run in saved_in(out)}
    if not saved:
        return None
    if sorted(saved) != sorted(m.seed for m in members):
        raise UserError(
            f"{out}: holds the seeds {sorted(saved)}, expected {sorted(m.seed for m in members)}; use another --out"
        )
    runs = tuple(saved[m.seed] for m in members)
    try:
        new = tuple(_continued(m, run, fingerprint, extend) for m, run in zip(members, runs, strict=True))
    except TrainedFurther as error:
        error.out = out
        raise
    return RunPlace(out, tuple(run.folder for run in runs), new, runs)


def _continued(member: RunConfig, saved: SavedRun, fingerprint: str, extend: ExtendSchedule) -> RunConfig:
    """`member` as the continuation of `saved`. Raises `UserError` if it is another run."""
    old = saved.config
    member = continued_language(continued(member, old), old)
    is_rsqrt = old.lr_schedule == member.lr_schedule == "rsqrt"
    if (extend != "no" or is_rsqrt) and old.schedule_steps and not member.schedule_steps:  # extended before
        member = dataclasses.replace(member, schedule_steps=old.schedule_steps, schedule_after=old.schedule_after)
    if saved.data_fingerprint == fingerprint and extends(member, old):
        if old.plan_aware_lr_scale:
            raise UserError(
                f"{saved.folder}: training_steps: cannot be extended with plan_aware_lr_scale: the learning rate of "
                "every step depends on the number of steps"
            )
        if old.lr_schedule == "rsqrt" and not member.schedule_steps:  # it continues unchanged
            return dataclasses.replace(member, schedule_steps=old.schedule_steps or old.training_steps)
        if old.lr_schedule == "cosine" and not member.schedule_steps:
            if extend == "no":
                raise UserError(
                    f"{saved.folder}: training_steps: the cosine schedule ended at step {old.training_steps}; say how "
                    "the learning rate continues with --extend_schedule hold (at min_lr) or --extend_schedule restart "
                    "(one more cosine from lr)"
                )
            member = dataclasses.replace(member, schedule_steps=old.training_steps, schedule_after=extend)
        return member
    differing = saved.differences(member, fingerprint)
    if differing:
        is_longer = saved.data_fingerprint == fingerprint and extends(old, member)
        raise (TrainedFurther if is_longer else UserError)(
            f"{saved.folder}: --resume continues the same run, but {'; '.join(differing)}; use another --out, or "
            "--overwrite to start again"
        )
    return member


def nothing_to_resume(members: Sequence[RunConfig], fingerprint: str, out: Path | None) -> UserError:
    """An error that names the searched folder and the most similar run."""
    where = out or group_folder(members[0])
    nearest = ""
    folders = [out] if out is not None else _folders(members[0])
    found: list[tuple[int, str]] = []
    for folder in folders:
        try:
            runs = [run for run in saved_in(folder) if run.config.seed == members[0].seed]
        except UserError:
            continue
        for run in runs:
            differing = run.differences(members[0], fingerprint)
            found.append((len(differing), f"{run.folder} ({'; '.join(differing[:3])})"))
    if found:
        nearest = f"; the nearest run is {min(found)[1]}"
    return UserError(
        f"--resume: nothing to resume in {where}{nearest}; leave --resume out to start a new run, or use "
        "--resume=auto to resume a saved run or else start one"
    )
