"""Options of a run as command-line flags, in groups; a YAML file can give their defaults."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from raybc import cli
from raybc.config import flat
from raybc.config.component import Component, find_kind, kind_of
from raybc.config.data import DataOptions, PlanOptions, implied_environment
from raybc.config.options import options_in
from raybc.config.output import OutputOptions
from raybc.config.run import SAMPLE_AXES, RunConfig
from raybc.config.sampling import ChunkOptions, SampleOptions
from raybc.config.training import ArithmeticOptions, BudgetOptions, InitOptions, OptimizerOptions, PhaseOptions
from raybc.files import expanded
from raybc.flags import grouped
from raybc.metric import KEY
from raybc.recipes.read import options_of
from raybc.strict import check_type
from raybc.types import UserError
from raybc.yaml_text import read_yaml

A = TypeVar("A")
#: Flags of other trainers -> what they are called here.
FOREIGN = {"dataset_root": "dataset", "data_root": "dataset", "out_dir": "out", "output_dir": "out"}
#: Title of a group -> its options, in the order of --help; those of the policy and the encoder follow the data.
GROUPS: dict[str, type] = {
    "data": DataOptions, "chunk": ChunkOptions, "sampling": SampleOptions, "budget": BudgetOptions,
    "optimizer": OptimizerOptions, "initial weight": InitOptions, "phase": PhaseOptions,
    "arithmetic": ArithmeticOptions, "sampling plan": PlanOptions, "evaluation and output": OutputOptions,
}  # fmt: skip


def parse_run(
    own: type[A], argv: Sequence[str], prog: str, description: str, stored: Mapping[str, Any] = MappingProxyType({})
) -> tuple[RunConfig, A]:
    """Parse the options of a run and the command's own flags.

    `--config FILE.yaml` gives values for options that are not on the command line, `--recipe NAME` for those that are
    in neither. Raises `UserError` for options of a policy or encoder that is not chosen, and for options that have no
    effect.

    Args:
        own: dataclass of the command's own flags; no field may have the name of an option. Its `recipe` is that of
            --recipe or of the file.
        argv: the arguments.
        prog: see `cli.parse`.
        description: see `cli.parse`.
        stored: options of the run that is continued, which count where nothing else says something.
    """
    argv = _current_names(list(argv))
    base, named, preset = _read_file(last_value(argv, "config"), last_value(argv, "recipe"))
    explicit = {*base, *names_of(argv)}
    given = base | {name: value for name in (*flat.COMPONENTS, *flat.TASK) if (value := last_value(argv, name))}
    base = _over(given, preset, stored)
    kinds = {what: str(base.pop(what, "")) for what in flat.COMPONENTS}
    parts = {
        what: find_kind(what, kind, f"--{what}") if kind else flat.default_kind(RunConfig, what)
        for what, kind in kinds.items()
    }
    start = RunConfig.from_plain(base | {what: kind_of(cls) for what, cls in parts.items()}, "--")
    _refuse_foreign(argv, start, own)
    made, places = _all_flags(own, start, parts)
    parsed = cli.parse(made, argv, prog, description)
    chosen: dict[str, Any] = {}
    for place in places:
        part = getattr(parsed, place)
        chosen |= {name: getattr(part, name) for name in options_in(type(part))}
    config = RunConfig.from_plain(chosen | {what: getattr(parsed, what) for what in flat.COMPONENTS}, "--")
    config = _effective(config, preset, explicit, bool(stored))
    command = parsed.command
    return config, dataclasses.replace(command, recipe=named) if hasattr(command, "recipe") else command


def run_of(
    given: Mapping[str, Any],
    file: str = "",
    recipe: str = "",
    stored: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[RunConfig, str]:
    """(the run that `parse_run` makes of the same options, its recipe), from values in place of flags.

    Args:
        given: option -> value, flat.
        file: see --config.
        recipe: see --recipe.
        stored: as for `parse_run`.

    Raises `UserError` as `parse_run` does, also for unknown options and wrong types.
    """
    base, named, preset = _read_file(file, recipe)
    given = base | flat.todays_names(RunConfig, given, "--")
    config = RunConfig.from_plain(_over(given, preset, stored), "--")
    return _effective(config, preset, given, bool(stored)), named


def _over(given: Mapping[str, Any], preset: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, over those of a recipe, over those of the run that is continued; with the
    environment that they imply."""
    flat.check_task(preset, given, "--")
    found = flat.over_recipe(RunConfig, preset, given, "--")
    found = flat.over_recipe(RunConfig, stored, found, "--") if stored else found
    return found | implied_environment(found)


def _effective(config: RunConfig, preset: Mapping[str, Any], explicit: Collection[str], resumes: bool) -> RunConfig:
    """The run without what has no effect on it of a recipe; of other options that is refused."""
    config = _without_idle(config, preset.keys() - set(explicit))
    check_effective(config, "--", explicit if resumes else None)
    return config


def all_flags(own: type) -> type:
    """The flags of a command of a run of the default kinds: options and the command's own."""
    parts = {what: flat.default_kind(RunConfig, what) for what in flat.COMPONENTS}
    return _all_flags(own, RunConfig(), parts)[0]


def _all_flags(own: type, start: RunConfig, parts: Mapping[str, type[Component]]) -> tuple[Any, list[str]]:
    """(a dataclass of groups of flags, the names of the groups of options). start: the defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for what, cls in parts.items():
        fields.append((what, cli.described(flat.kind_option(what, cls).doc), kind_of(cls)))
    boxes = [(title, _group_of(start, group)) for title, group in GROUPS.items()]
    kinds_of = [(f"{what} {kind_of(cls)}", getattr(start, what)) for what, cls in parts.items() if options_in(cls)]
    boxes[1:1] = kinds_of
    fields.append(("command", grouped(own, "command"), own()))
    places = [f"options_{number}" for number in range(len(boxes))]
    fields += [(place, grouped(type(box), title), box) for place, (title, box) in zip(places, boxes, strict=True)]
    made: Any = dataclasses.make_dataclass("Flags", fields, frozen=True)
    made.EXAMPLES = getattr(own, "EXAMPLES", ())
    return made, places


def _without_idle(config: RunConfig, from_recipe: Collection[str]) -> RunConfig:
    """The run without options of its recipe that other options have made ineffective, which is said."""
    options = config.options()
    for name, why in without_effect(config).items():
        if name in from_recipe and config.get(name) != options[name].default:
            cli.print_notes([f"{name}={config.get(name)} of the recipe is left out: it has no effect {why}"])
            config = config.changed(**{name: options[name].default})
    return config


def check_effective(config: RunConfig, where: str, names: Collection[str] | None = None) -> None:
    """Raise `UserError` for options that are set but have no effect. names: the ones to look at (None: all)."""
    place = where if where == "--" else f"{where}."
    for name, why in without_effect(config).items():
        if (names is None or name in names) and config.get(name) != config.options()[name].default:
            raise UserError(f"{place}{name}: has no effect {why}")


def without_effect(config: RunConfig) -> dict[str, str]:
    """Option without an effect on this run -> reason."""
    found = {}
    if not config.action_chunking:
        found["horizon_length"] = "while action_chunking is off; set it to true"
    without = [name for name in SAMPLE_AXES if name not in config.sample_axes]
    return found | {name: config.why_idle(name) for name in without}


def _group_of(run: RunConfig, group: type) -> Any:
    return group(**{name: getattr(run, name) for name in options_in(group)})


def _current_names(argv: list[str]) -> list[str]:
    """Replace old names of flags by their current names; flags may have dashes."""
    renamed = flat.aliases(RunConfig)
    found = []
    for token, following in itertools.pairwise([*argv, ""]):
        name, equals, value = token.partition("=")
        bare = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and flat.was_metric(bare, value if equals else following):
            found.append(f"--{KEY}{equals}{value}")
            continue
        found.append(f"--{renamed[bare]}{equals}{value}" if name.startswith("--") and bare in renamed else token)
    return found


def names_of(argv: Sequence[str]) -> list[str]:
    """The options that flags set, by the names of today."""
    flags = [token.partition("=")[0] for token in _current_names(list(argv)) if token.startswith("--")]
    return [flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in flags]


def last_value(argv: Sequence[str], name: str) -> str:
    """The last value of the flag --name, by its name of today; empty without one."""
    value = ""
    for token, following in itertools.pairwise([*_current_names(list(argv)), ""]):
        flag, equals, rest = token.partition("=")
        if flag.replace("-", "_") == f"__{name}":
            value = rest if equals else following
    return value


def _read_file(path: str, recipe: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """(the options in the YAML file of --config, the recipe beneath them, its options).

    The file is a mapping of options, a sweep file, of which `recipe:` and `train:` are read, or a recipe, of which
    `options:` are. recipe: the one on the command line, which counts more than the file's.
    """
    values: dict[str, Any] = {}
    named = recipe
    if path:
        if not expanded(path, "--config").exists():
            raise UserError(f"--config {path}: expected a YAML file with options of a run, found none")
        found = read_yaml(expanded(path, "--config"), "a YAML file with options of a run")
        if not isinstance(found, dict):
            raise UserError(f"--config {path}: expected keys and values, got {type(found).__name__}")
        parts = [found[key] for key in ("train", "options") if isinstance(found.get(key), dict)]
        if parts and not recipe:
            named = check_type(found.get("recipe", ""), str, f"{path}: recipe")
        values = flat.todays_names(RunConfig, parts[0] if parts else found, path)
    preset = flat.todays_names(RunConfig, options_of(named, "--recipe" if recipe else f"{path}: recipe"), named)
    if path:
        RunConfig.from_plain(flat.over_recipe(RunConfig, preset, values, path), path)
    return values, named, preset


def _refuse_foreign(argv: Sequence[str], run: RunConfig, own: type) -> None:
    """Raise `UserError` for a flag of a kind that is not chosen, naming that kind."""
    known = {*run.options(), *(f.name for f in dataclasses.fields(own))}
    for token in argv:
        name = token.partition("=")[0].removeprefix("--").replace("-", "_")
        if token.startswith("--") and name not in known and FOREIGN.get(name) in known:
            raise UserError(f"--{name}: there is no such flag; here it is called --{FOREIGN[name]}")
        if token.startswith("--") and name not in known and flat.owners(name):
            raise UserError(f"--{flat.unknown_option(name, run.options(), flat.parts_of(run))}")
