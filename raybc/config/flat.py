"""Options as users write them: flat, without their groups."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from raybc.config.component import Component, find_kind, kind_of, kinds
from raybc.config.options import Option, OptionInfo, flag_path, options_in
from raybc.metric import FORMER_KEY, KEY, MetricName
from raybc.strict import check_type, did_you_mean
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

R = TypeVar("R", bound="RunConfig")
#: The options that name a task and its data.
TASK = ("env_name", "dataset", "ogbench_dataset_dir")
#: The options that choose a kind.
COMPONENTS = ("policy", "encoder", "language", "critic")


def common_options(cls: type) -> dict[str, OptionInfo]:
    """Options of every run."""
    takes = getattr(cls, "takes", None)
    return {n: i for n, i in options_in(cls).items() if n not in COMPONENTS and (takes is None or n in takes)}


def default_kind(cls: type, what: str) -> type[Component]:
    """The default class of a component."""
    default: Component = cls.__dataclass_fields__[what].default  # type: ignore[attr-defined]
    return type(default)


def parts_of(run: RunConfig) -> dict[str, Component]:
    """policy, encoder, language, critic -> its options."""
    return {what: getattr(run, what) for what in COMPONENTS}


def kind_option(what: str, default: type[Component]) -> OptionInfo:
    """The option that chooses the kind of a component."""
    names = ", ".join(kinds(what))
    doc = {
        "policy": "Kind of policy",
        "encoder": "Network that reads images, where the task observes any",
        "language": "Encoder of instructions",
        "critic": "Critic that is trained beside the policy and chooses among its chunks",
    }[what]
    text = f"{doc}: {names}, or module:Class of your own."
    return OptionInfo(what, str, kind_of(default), Option(), text, default.__name__)


def options_of(run: RunConfig) -> dict[str, OptionInfo]:
    """Name -> option of a run: the common ones, the kinds, and those of the chosen kinds."""
    found = common_options(type(run))
    for what in COMPONENTS:
        found[what] = kind_option(what, default_kind(type(run), what))
        found |= options_in(type(getattr(run, what)))
    return found


def owners(name: str) -> list[str]:
    """The built-in kinds with an option of this name, e.g. `policy flow` or `encoder impala`."""
    return [f"{what} {kind}" for what in COMPONENTS for kind, cls in kinds(what).items() if name in options_in(cls)]


def aliases(cls: type) -> dict[str, str]:
    """Old name -> current name of all options that were renamed."""
    if getattr(cls, "takes", None) is not None:  # names of others are theirs
        return {}
    return dict(_aliases_of((cls, *(c for what in COMPONENTS for c in kinds(what).values()))))


@functools.cache  # a long ledger asks for every trial
def _aliases_of(groups: tuple[type, ...]) -> dict[str, str]:
    return {old: name for group in groups for name, info in options_in(group).items() for old in info.option.aliases}


def was_metric(key: Any, value: Any) -> bool:
    """Whether this is the option `metric` under the name that it had before policies had an `objective`."""
    return bool(key == FORMER_KEY and (value is None or value in get_args(MetricName)))


def todays_names(cls: type, values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """`values` with current option names. Raises `UserError` if an option has both its old and its current name."""
    renamed = aliases(cls)
    found: dict[str, Any] = {}
    former: dict[str, str] = {}
    for key, value in values.items():
        name = KEY if renamed and was_metric(key, value) else renamed.get(str(key), str(key))
        if name != key:
            former[name] = str(key)
        if name in found:
            raise UserError(f"{flag_path(where)}{name}: stands twice: {former[name]} is an earlier name of it")
        found[name] = value
    return found


def write(run: RunConfig) -> dict[str, Any]:
    """See `RunConfig.to_plain`."""
    values: dict[str, Any] = {name: getattr(run, name) for name in common_options(type(run))}
    for what in COMPONENTS:
        part = getattr(run, what)
        values |= {what: part.kind, **{name: getattr(part, name) for name in options_in(type(part))}}
    return values


def get(run: RunConfig, name: str) -> Any:
    """See `RunConfig.get`. Raises `KeyError` for an unknown option."""
    if name in COMPONENTS:
        return getattr(run, name).kind
    if name in common_options(type(run)):
        return getattr(run, name)
    for part in parts_of(run).values():
        if name in options_in(type(part)):
            return getattr(part, name)
    raise KeyError(name)


def read(cls: type[R], values: Any, where: str) -> R:
    """See `RunConfig.from_plain`."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where or 'file'}: expected a mapping of keys, got {type(values).__name__}")
    given = todays_names(cls, values, where)
    parts: dict[str, Any] = {}
    known = common_options(cls)
    for what in COMPONENTS:
        kind = check_type(given.pop(what, kind_of(default_kind(cls, what))), str, f"{flag_path(where)}{what}")
        component = find_kind(what, kind, f"{flag_path(where)}{what}")
        own = options_in(component)
        hidden = [name for name in own if name in known or name in COMPONENTS]
        if hidden:
            raise UserError(
                f"{flag_path(where)}{what}: {kind!r}: there is an option {hidden[0]!r} already; choose another name"
            )
        chosen = {name: given.pop(name) for name in own if name in given}
        parts[what] = component(
            **{name: check_type(value, own[name].hint, f"{flag_path(where)}{name}") for name, value in chosen.items()}
        )
        known |= own
    for name in given:
        if name not in known:
            raise UserError(f"{flag_path(where)}{unknown_option(name, known, parts)}")
    own = common_options(cls)
    checked = {name: check_type(value, own[name].hint, f"{flag_path(where)}{name}") for name, value in given.items()}
    return cls(**checked, **parts)


def over_recipe(cls: type[R], recipe: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a recipe under those that were given. A given kind of policy or encoder keeps of the recipe the
    options that both kinds have, as `RunConfig.changed` does. Both have the names of today."""
    merged, known = {**recipe, **given}, set(common_options(cls))
    for what in COMPONENTS:
        kind = check_type(merged.get(what, kind_of(default_kind(cls, what))), str, f"{flag_path(where)}{what}")
        known |= {what, *options_in(find_kind(what, kind, f"{flag_path(where)}{what}"))}
    return {name: value for name, value in merged.items() if name in given or name in known}


def check_task(recipe: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` where a recipe leaves the task open and nothing names it."""
    if recipe and not any(values.get(name) for name in TASK for values in (recipe, given)):
        raise UserError(f"{flag_path(where)}env_name: expected a task (or a dataset), since the recipe leaves it open")


def unknown_option(name: str, known: Mapping[str, OptionInfo], parts: Mapping[str, Component]) -> str:
    """Error message for an option that belongs to another kind or does not exist."""
    belongs = owners(name)
    if belongs:
        what = belongs[0].split()[0]
        others = ", ".join(owner.split(" ", 1)[1] for owner in belongs)
        return f"{name}: has no effect with {what} {parts[what].kind}; it belongs to {others}"
    return f"{name}: unknown key {name!r}: {did_you_mean(name, [*known, *COMPONENTS])}"


def replace(run: R, values: Mapping[str, Any]) -> R:
    """See `RunConfig.changed`."""
    current = write(run)
    for what in COMPONENTS:
        if values.get(what, current[what]) != current[what]:
            new = options_in(find_kind(what, values[what], what))
            for name in options_in(type(getattr(run, what))):
                if name not in new:
                    del current[name]
    own, parts = dict(current | dict(values)), dict[str, Component]()
    for what in COMPONENTS:
        kind, component = own.pop(what), type(getattr(run, what))
        if kind != getattr(run, what).kind:
            component = find_kind(what, kind, what)
        parts[what] = component(**{name: own.pop(name) for name in options_in(component) if name in own})
    known = common_options(type(run))
    unknown = [name for name in own if name not in known]
    if unknown:
        raise UserError(unknown_option(unknown[0], options_of(run), parts))
    changes: dict[str, Any] = {**own, **parts}
    return dataclasses.replace(run, **changes)
