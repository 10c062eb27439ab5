"""Options of a trainer of others: `trainer: module:function` in a sweep file. No torch in here.

A trainer declares its options as parameters, or as the fields of a dataclass. They stand beside those that every sweep
has (`SHARED`), flat, and are recipes like any other: axes, identities and tables come from the same declarations.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from raybc.config.component import SAMPLE_OPTIONS, PolicyConfig, kinds
from raybc.config.flat import COMPONENTS, common_options
from raybc.config.options import OptionInfo, check_bounds, flag_path, option, options_in
from raybc.config.run import RunConfig
from raybc.strict import check_type, did_you_mean, digest
from raybc.types import SampleSetting, UserError

#: Options of raybc that keep their meaning beside a trainer: the task, its data, the budget, how actions are sampled.
SHARED = frozenset(
    {
        *("env_name", "dataset", "ogbench_dataset_dir", "action_key", "obs_keys", "skip_bad_episodes", "videos"),
        *("memory_limit", "training_steps", "seed", "device", "video_frame_skip", "run_group"),
        *("eval_tasks", "eval_suite", "task_score", "metric"),
        *SAMPLE_OPTIONS,
        "best_of_n",
    }
)
#: Sampling options that every policy has. The others have an effect where a sweep names them.
ALWAYS = ("execute_steps", "temporal_ensemble")
#: Steps of a chunk, which are not known before a policy is there.
UNKNOWN = 2**31
_PLAIN: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
#: Trainer that this process has imported -> the dataclass of its options, which may refuse values.
_DATACLASSES: dict[str, type] = {}
_HOW = "def train(job, width: int = 64, lr: float = 1e-3)"


@dataclass(frozen=True)
class TrainerOptions(PolicyConfig):
    """The options of one trainer; `options_class` derives a class for it."""

    name: ClassVar[str] = ""
    """How users name the trainer."""
    sample_axes: ClassVar[tuple[str, ...]] = ALWAYS

    @property
    def kind(self) -> str:
        return type(self).name

    def evaluations(self, setting: SampleSetting) -> int:
        return setting.evaluations or 1

    def without_effect(self, name: str) -> str:
        return f"with trainer {self.kind}"


@dataclass(frozen=True)
class TrainerRun(RunConfig):
    """A recipe of a trainer of others: its own options (`policy`) and those of `SHARED`."""

    takes: ClassVar[frozenset[str] | None] = SHARED

    policy: PolicyConfig = TrainerOptions()
    """The options of the trainer."""

    @property
    def chunk_length(self) -> int:
        return UNKNOWN

    def check_encoder(self, images: Any, where: str = "run") -> None:
        """The trainer sees to images itself."""

    def validate(self, where: str = "run") -> None:
        if not self.has_environment:
            raise UserError(
                f"{flag_path(where)}env_name: expected a task, since policies of a trainer are measured by rollouts, "
                "got none"
            )
        check_bounds(self, where)
        cls = _DATACLASSES.get(self.policy.kind)
        try:
            if cls is not None:
                cls(**self.own_options())
        except Exception as error:  # whatever its __post_init__ raises
            raise UserError(f"{where}: trainer {self.policy.kind}: {' '.join(str(error).split())}") from error

    def own_options(self) -> dict[str, Any]:
        """Option of the trainer -> its value."""
        return {name: getattr(self.policy, name) for name in options_in(type(self.policy))}


@dataclass(frozen=True)
class TrainerConfig:
    """A trainer, and what it declares; saved with a sweep, so that reading one needs none of the trainer's code."""

    function: str
    """`module:function`, or `path/to/file.py:function`."""
    options: dict[str, dict[str, Any]]
    """Option -> {"type": int, float, bool, str or a list of choices, "default": value}."""
    sampling: tuple[str, ...] = ALWAYS
    """Sampling options that have an effect."""

    @classmethod
    def from_plain(cls, values: Any, where: str) -> TrainerConfig:
        """As saved in config.json."""
        try:
            options = {
                str(name): {"type": one["type"], "default": one["default"]} for name, one in values["options"].items()
            }
            return cls(str(values["function"]), options, tuple(map(str, values["sampling"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: expected a trainer as raybc saves it, got {values!r:.80} ({error!r})") from None

    @classmethod
    def of(cls, function: str, named: typing.Iterable[str], where: str) -> TrainerConfig:
        """A trainer by its name, imported to read its declaration. named: options that the sweep names.

        Raises `UserError`.
        """
        place = f"{where} {function!r}"
        trainer = load_function(function, where)
        options, checked = declared(trainer, place), dataclass_of(trainer)
        if checked is not None:
            _DATACLASSES[function] = checked
        sampling = tuple(name for name in SAMPLE_OPTIONS if name in ALWAYS or name in named)
        return cls(function, options, sampling)

    def files(self) -> list[Path]:
        """The file that holds it, where the sweep names one."""
        path = Path(self.function.rpartition(":")[0]).expanduser()
        return [path] if path.suffix == ".py" else []

    def options_class(self) -> type[TrainerOptions]:
        """The class of its options."""
        fields = [(name, _hint(one["type"]), option(one["default"])) for name, one in self.options.items()]
        return dataclasses.make_dataclass(
            "TrainerOptions",
            fields,
            bases=(TrainerOptions,),
            frozen=True,
            namespace={"name": self.function, "sample_axes": self.sampling, "__module__": __name__},
        )

    def run(self, values: Any, where: str) -> TrainerRun:
        """What all recipes share, from plain values. Raises `UserError` for names that the trainer does not take."""
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: expected a mapping of keys, got {type(values).__name__}")
        cls = self.options_class()
        common, own = common_options(TrainerRun), options_in(cls)
        for name in map(str, values):
            if name not in common and name not in own:
                raise UserError(f"{flag_path(where)}{self.refusal(name)}")

        def checked(known: Mapping[str, OptionInfo]) -> dict[str, Any]:
            return {n: check_type(values[n], i.hint, f"{flag_path(where)}{n}") for n, i in known.items() if n in values}

        return TrainerRun(**checked(common), policy=cls(**checked(own)))

    def refusal(self, name: str) -> str:
        """Why an option is not taken, after the place where it stands."""
        takes = f"which takes {', '.join(self.options)}" if self.options else "which takes none"
        parts: tuple[type, ...] = (RunConfig, *(cls for what in COMPONENTS for cls in kinds(what).values()))
        if name in COMPONENTS or any(name in options_in(part) for part in parts):
            return f"{name}: has no effect with trainer {self.function}, {takes}"
        return (
            f"{name}: unknown key {name!r} with trainer {self.function}: {did_you_mean(name, [*self.options, *SHARED])}"
        )


def load_function(function: str, where: str) -> Callable[..., Any]:
    """The function that `module:function` or `FILE.py:function` names. Raises `UserError`."""
    module, colon, name = function.rpartition(":")
    if not (colon and module and name):
        raise UserError(f"{where}: expected module:function or FILE.py:function, got {function!r}")
    try:
        found = getattr(_module(module, function, where), name)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise UserError(f"{where}: {function!r}: importing {module} failed: no module {error.name!r}") from error
        raise UserError(f"{where}: {function!r}: there is no module {module!r} here or in PYTHONPATH") from None
    except AttributeError as error:
        if error.name != name:
            raise UserError(f"{where}: {function!r}: importing {module} raised {error!r}") from error
        raise UserError(f"{where}: {function!r}: {module} has no {name!r}") from None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # anything that the user's module raises, e.g. by parsing arguments
        raise UserError(f"{where}: {function!r}: importing {module} raised {type(error).__name__}: {error}") from error
    if not callable(found) or isinstance(found, type):
        raise UserError(f"{where}: {function!r}: expected a function, such as `{_HOW}`, got {found!r:.80}")
    return typing.cast(Callable[..., Any], found)


def _module(name: str, function: str, where: str) -> Any:
    if not name.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        return importlib.import_module(name)
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{where}: {function!r}: there is no file {name}")
    known = f"raybc_trainer_{digest(str(path))[:12]}"
    if known in sys.modules:
        return sys.modules[known]
    if str(path.parent) not in sys.path:  # what stands beside a script can be imported from it
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[known] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module


def in_folder(function: str, folder: Path) -> str:
    """The name of a trainer for a process in any folder; folder: where a relative path starts."""
    module, _, name = function.rpartition(":")
    return f"{folder / Path(module).expanduser()}:{name}" if module.endswith(".py") else function


def declared(function: Callable[..., Any], where: str) -> dict[str, dict[str, Any]]:
    """`TrainerConfig.options` of a trainer: its parameters after the first, or the fields of the dataclass that the
    second one is. Raises `UserError` for what cannot be an option."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise UserError(f"{where}: expected a function of a job and of options, such as `{_HOW}`")
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # a name that does not exist, or anything else that an annotation raises
        raise UserError(f"{where}: its annotations cannot be read: {error}") from error
    cls = dataclass_of(function)
    if cls is not None:
        hints = typing.get_type_hints(cls)
        defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.init}
    else:
        for parameter in parameters[1:]:
            if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                raise UserError(f"{where}: {parameter}: expected options by name, such as `{_HOW}`")
        defaults = {p.name: p.default for p in parameters[1:]}
    return {name: _declaration(name, hints.get(name), value, where) for name, value in defaults.items()}


def dataclass_of(function: Callable[..., Any]) -> type | None:
    """The dataclass with the options of a trainer, its only parameter after the job; None where it has parameters."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        return None
    hint = typing.get_type_hints(function).get(parameters[1].name)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _declaration(name: str, hint: Any, default: Any, where: str) -> dict[str, Any]:
    if name in SHARED or name in COMPONENTS or name.startswith("_") or hasattr(TrainerOptions, name):
        known = "the job has it" if name in ("seed", "dataset", "device") else "it means something in every sweep"
        raise UserError(f"{where}: option {name}: expected another name, because {known}")
    if default in (inspect.Parameter.empty, dataclasses.MISSING):
        raise UserError(f"{where}: option {name}: expected a default, which is what the first trial has")
    hint = type(default) if hint is None else hint
    if typing.get_origin(hint) is Literal:
        kind: Any = list(typing.get_args(hint))
    else:
        kind = next((known for known, plain in _PLAIN.items() if plain is hint), None)
    if kind is None:
        raise UserError(f"{where}: option {name}: expected int, float, bool, str or a Literal, got {hint}")
    return {"type": kind, "default": check_type(default, hint, f"{where}: option {name}")}


def _hint(kind: Any) -> Any:
    return _PLAIN[kind] if isinstance(kind, str) else Literal[tuple(kind)]
