"""Arms as users write them, `[NAME=]PATH[@CHECKPOINT][:OPTION=VALUE,...]`, and whether they may be compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raybc.compare.conditions import differing, of_task, of_tasks
from raybc.compare.files import Finished, is_finished, read_finished
from raybc.config import SAMPLE_AXES, RunConfig
from raybc.files import expanded, read_json
from raybc.find_bundle import find_bundle
from raybc.foreign.measured import foreign_policy, measured_policy
from raybc.foreign.reference import TIMEOUT, Reference, prefix_of
from raybc.registry import parse_env_name
from raybc.rollout.policy import MeasuredPolicy
from raybc.run_folder import SweepFolder, TrainingFolder, is_policy
from raybc.strict import check_type, did_you_mean, type_hints
from raybc.types import SampleSetting, UserError

_SETTING = re.compile(r"(?P<rest>.*?):(?P<setting>\w+=[^,:=]+(?:,\w+=[^,:=]+)*)")
_NAMED = re.compile(r"(?P<name>[\w.+-]+)=(?P<rest>.+)", re.DOTALL)
#: What may differ between arms, and what --allow accepts.
FIELDS = ("task", "max_steps", "render", "physics", "starts", "leak")
ALLOWED = ("max_steps", "physics", "starts", "leak", "render")


class NotComparable(RuntimeError):
    """The arms were measured under different conditions (status 4)."""


@dataclass(frozen=True)
class Training:
    """One trained policy of an arm."""

    policy: MeasuredPolicy
    setting: SampleSetting


@dataclass(frozen=True)
class Arm:
    """What takes part in a comparison: trained policies that will be run, or a finished measurement."""

    name: str
    text: str
    """As it was typed."""
    trainings: tuple[Training, ...] = ()
    finished: Finished | None = None
    chosen_on_search: str = ""
    """Why search starts are not new to it; "" if they are."""
    conditions: dict[str, str] = field(default_factory=dict)
    """Field -> value, as far as it is known before anything is run."""

    @property
    def task(self) -> str:
        """The task of the policies, with its variant; "" of a finished measurement."""
        env_name = self.trainings[0].policy.env_name if self.trainings else ""
        return parse_env_name(env_name).task if env_name else ""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Arms with the same are one arm."""
        if self.finished is not None:
            return self.finished.name, str(Path(_parts(self.text)[1]).resolve()), _parts(self.text)[3]
        return tuple(sorted((*t.policy.identity, t.setting.slug()) for t in self.trainings))

    def to_plain(self) -> dict[str, Any]:
        """For the request of a comparison."""
        about: dict[str, Any] = {"name": self.name, "source": self.text}
        if self.trainings:
            about["policies"] = [{**t.policy.to_plain(), "setting": t.setting.to_plain()} for t in self.trainings]
        return about


def read_arms(
    texts: Sequence[str], env_name: str = "", timeout: float = TIMEOUT, inputs: str = "", has_tasks: bool = False
) -> list[Arm]:
    """The arms that the texts mean, with different names. Raises `UserError` for a mistake, such as one arm twice.

    Args:
        texts: as they were typed.
        env_name: where policies of others are measured; "": where the others are.
        timeout: seconds to wait for an answer of a policy on a server.
        inputs: what policies on servers are sent; "": the default of their kind.
        has_tasks: whether tasks are named beside the arms.
    """
    own = {text: _read(text) for text in dict.fromkeys(texts) if not _is_foreign(text)}
    known = [t.policy.env_name for arms in own.values() for arm in arms for t in arm.trainings]
    place = env_name or (known[0] if known else "")
    foreign = {
        text: [_foreign_arm(text, env_name, place, has_tasks, timeout=timeout, inputs=inputs)]
        for text in dict.fromkeys(texts)
        if text not in own
    }
    arms = [arm for text in texts for arm in (own | foreign)[text]]
    if len(arms) < 2:
        raise UserError(f"expected two arms or more, got {len(arms)}: raybc compare A B; see --help")
    arms = _named(arms)
    seen: dict[tuple[Any, ...], Arm] = {}
    for arm in arms:
        same = seen.setdefault(arm.identity, arm)
        if same is not arm:
            raise UserError(f"{arm.text}: expected different arms, got the same policy as {same.text}")
    return arms


def _parts(text: str) -> tuple[str, str, str, str]:
    """(name, path, checkpoint, setting) of what was typed; "" where it has none."""
    rest, name, setting, checkpoint = text, "", "", ""
    if not Path(rest).exists() and (match := _NAMED.fullmatch(rest)) and not Path(match["rest"]).name.startswith("="):
        name, rest = match["name"], match["rest"]
    if not Path(rest).exists() and (match := _SETTING.fullmatch(rest)):
        rest, setting = match["rest"], match["setting"]
    if not Path(rest).exists() and "@" in rest:
        rest, _, checkpoint = rest.rpartition("@")
    return name, rest, checkpoint, setting


def _foreign_parts(text: str) -> tuple[str, str, str]:
    """(name, KIND:WHERE, setting) of an arm that is a policy of others."""
    match = _NAMED.fullmatch(text)
    name, rest = (match["name"], match["rest"]) if match and prefix_of(match["rest"]) else ("", text)
    match = _SETTING.fullmatch(rest)
    return (name, match["rest"], match["setting"]) if match else (name, rest, "")


def _is_foreign(text: str) -> bool:
    return bool(prefix_of(_foreign_parts(text)[1]))


def _foreign_arm(text: str, env_name: str, place: str, has_tasks: bool, **of_servers: Any) -> Arm:
    """A policy of others; place: where it is measured unless `env_name` or the policy itself say. of_servers: fields of
    a `Reference` for policies on servers."""
    name, rest, setting_text = _foreign_parts(text)
    parts = [part for part in setting_text.split(",") if part]
    argument = next((part.partition("=")[2] for part in parts if part.startswith("argument=")), "")
    more = of_servers if "inputs" in Reference(prefix_of(rest), "").load_kind().options else {}
    policy = foreign_policy(rest, env_name, argument=argument, **more)
    assert policy is not None
    if not policy.env_name:
        policy.env_name = place
    if not (policy.env_name or has_tasks):
        raise UserError(f"{text}: expected --env_name NAME (or --suite, --tasks): where to measure it")
    given = _setting(",".join(part for part in parts if not part.startswith("argument=")), text)
    training = Training(policy, _setting_of(policy, given, text))
    found_name = name or "_".join([policy.run_id, setting_text.replace("=", "_").replace(",", "_")]).strip("_")
    conditions = of_task(parse_env_name(policy.env_name).task) if policy.env_name else {}
    return Arm(found_name, text, (training,), None, "", conditions)


def _read(text: str) -> list[Arm]:
    name, path_text, checkpoint, setting_text = _parts(text)
    path = expanded(path_text, "arm")
    if not path.exists():
        raise UserError(
            f"{text}: expected a bundle, a run, a sweep or a finished measurement, found nothing at {path}; an arm is "
            "[NAME=]PATH[@CHECKPOINT][:OPTION=VALUE,...]"
        )
    setting = _setting(setting_text, text)
    if is_finished(path):
        if checkpoint:
            raise UserError(f"{text}: @{checkpoint}: a finished measurement has no checkpoints")
        arms = read_finished(path, setting)
        if name and len(arms) > 1:
            raise UserError(f"{text}: expected no name, since {path} has the arms {', '.join(a.name for a in arms)}")
        default = path.parent.name if path.stem in ("episodes", "eval_info") and path.parent.name else path.stem
        return [Arm(name or found.name or default, text, finished=found, conditions=_of_file(found)) for found in arms]
    trainings, chosen = _trainings(path, checkpoint, setting, text)
    found_name = name or _default_name(path, checkpoint, setting_text)
    return [
        Arm(
            found_name,
            text,
            tuple(trainings),
            None,
            chosen,
            of_task(parse_env_name(trainings[0].policy.env_name).task),
        )
    ]


def _default_name(path: Path, checkpoint: str, setting: str) -> str:
    parent = path.resolve().parent.name
    inside = path.name.startswith(("checkpoint_", "seed_", "sd")) or path.name in (
        "winner",
        "final_model",
        "best",
        "latest",
    )
    base = f"{parent}_{path.name}" if inside or path.name.isdigit() else path.resolve().name
    return "_".join(
        [
            base,
            *([checkpoint] if checkpoint else []),
            *([setting.replace("=", "_").replace(",", "_")] if setting else []),
        ]
    )


def _named(arms: Sequence[Arm]) -> list[Arm]:
    """Names are made different by numbers, and safe as folder names."""
    found: list[Arm] = []
    for arm in arms:
        name = re.sub(r"[^\w.+-]+", "_", arm.name).strip("._") or "arm"
        taken = {a.name for a in found}
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        found.append(replace(arm, name=unique))
    return found


def _setting(text: str, where: str) -> dict[str, Any]:
    """Fields of the sample setting that an arm names."""
    found: dict[str, Any] = {}
    hints = type_hints(SampleSetting)
    for part in text.split(",") if text else []:
        name, _, value = part.partition("=")
        if name not in SAMPLE_AXES:
            raise UserError(f"{where}: expected a sample axis, got {name!r}: {did_you_mean(name, SAMPLE_AXES)}")
        kind = hints[name]
        try:
            found[name] = kind(value) if kind in (int, float) else value
        except ValueError:
            raise UserError(f"{where}: {name}: expected {kind.__name__}, got {value!r}") from None
    return found


def _trainings(path: Path, checkpoint: str, setting: dict[str, Any], where: str) -> tuple[list[Training], str]:
    """The policies at a path, and why search starts are not new to them."""
    members = _members(path)
    chosen = "the best checkpoint was chosen on them" if checkpoint == "best" else ""
    if members:
        found = [_training(member, checkpoint, setting, where) for member in members]
    else:
        found = [_training(path, checkpoint, setting, where)]
    parents = [path.resolve(), *path.resolve().parents]
    if any(SweepFolder(folder).ledger.is_file() for folder in parents[:4]):
        chosen = "the sweep chose and pruned by them"
    return found, chosen


def _members(path: Path) -> list[Path]:
    """The trainings of a run with several seeds, or of a sweep's trial."""
    pack = TrainingFolder(path).pack
    if pack.is_file():
        return [path / name for name in read_json(pack)["members"].values()]
    if is_policy(path):
        return []
    return sorted(folder for folder in path.glob("seed_*") if TrainingFolder(folder).checkpoints())


def _training(path: Path, checkpoint: str, given: dict[str, Any], where: str) -> Training:
    found, chosen = find_bundle(path, checkpoint)
    policy = measured_policy(found, chosen)
    return Training(policy, _setting_of(policy, given, where))


def _setting_of(policy: MeasuredPolicy, given: dict[str, Any], where: str) -> SampleSetting:
    """The policy's own setting, changed by what an arm names."""
    policy.check_sampling(given, f"{where}: ")
    hints = type_hints(RunConfig)
    checked = {name: check_type(v, hints[name], f"{where}: {name}") for name, v in given.items()}
    setting = replace(policy.setting, **checked)
    policy.check_setting(setting, f"{where}: ")
    return setting


# --- conditions -------------------------------------------------------------------------------------------------------


def _of_file(found: Finished) -> dict[str, str]:
    return {**found.conditions, **(of_tasks(found.tasks) if found.tasks else {})}


def check_seen(live: Sequence[Arm]) -> None:
    """Raise `NotComparable` unless all arms see the same images, as arms do that are run together on one task."""
    seen = {arm.name: arm.conditions["render"] for arm in live}
    if len(set(seen.values())) > 1:
        shown = ", ".join(f"{name} {value}" for name, value in seen.items())
        raise NotComparable(f"these differ: render ({shown}); policies that are run together see the same")


def check_comparable(arms: Sequence[Arm], starts: str, allowed: Sequence[str] = ()) -> list[str]:
    """Notes about what differs between arms but was allowed. Raises `NotComparable` for the rest.

    starts: the set of starts of arms that will be run; "" where none is.
    """
    unknown = [name for name in allowed if name not in ALLOWED]
    if unknown:
        raise UserError(f"--allow: expected some of {', '.join(ALLOWED)}, got {unknown[0]!r}")
    values = [{**arm.conditions, **({"starts": starts} if arm.trainings else {})} for arm in arms]
    problems = differing({arm.name: known for arm, known in zip(arms, values, strict=True)})
    for arm, known in zip(arms, values, strict=True):
        if "search" in known.get("starts", "") and arm.chosen_on_search:
            text = f"leak ({arm.name} on search starts: {arm.chosen_on_search}; use --starts final)"
            problems.setdefault("leak", []).append(text)
        if "demos" in known.get("starts", ""):
            text = f"leak ({arm.name} on the starts of demonstrations, from which policies learn; use --starts final)"
            problems.setdefault("leak", []).append(text)
    refused = {name: texts for name, texts in problems.items() if name not in allowed}
    if refused:
        shown = "; ".join(text for texts in refused.values() for text in texts)
        may = [name for name in refused if name in ALLOWED]
        advice = f"; --allow {','.join(may)} compares nevertheless" if len(may) == len(refused) else ""
        raise NotComparable(f"these differ: {shown}{advice}")
    return [f"compared although these differ: {text}" for texts in problems.values() for text in texts]
