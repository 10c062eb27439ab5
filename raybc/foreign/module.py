"""`module:PKG.MOD:make_policy`, `module:FILE.py:make_policy`: a Python callable from an observation to actions.

`make_policy(about)` is called once for each simulator of a process (see `raybc.foreign.base.About`) and
returns a callable: name -> array, to an action (A,) or a chunk (H, A). Optional parts of the callable: `reset(seed)`
before each episode, `observe(obs)` at steps at which it is not asked, `batched = True` (one object for all episodes of
a process; arrays have a leading axis B), `observations` (names that it needs), `horizon` (steps of its chunks).
`make_policy.sample_axes = ("flow_steps",)` declares that `about.flow_steps` has an effect.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from raybc.envs.border import calling
from raybc.foreign.base import INSTRUCTION, OF_EPISODE, About, ForeignPolicy, Kind
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError
from raybc.strict import did_you_mean
from raybc.types import UserError

_HINT = "expected module:PACKAGE.MODULE:FUNCTION or module:FILE.py:FUNCTION; the module is the user's own"
#: What a callable may declare of its sample axes.
DECLARED = ("flow_steps",)


class CallablePolicy(ForeignPolicy):
    """A callable of the user's."""

    def __init__(self, act: Callable[..., Any], about: About) -> None:
        self._act, self._about = act, about
        self.batched = bool(getattr(act, "batched", False))
        self.sees_every_step = hasattr(act, "observe")
        self._horizon = getattr(act, "horizon", None)
        self._answer: Any = None

    def reset(self, seed: int) -> None:
        reset = getattr(self._act, "reset", None)
        if reset is not None:
            reset(seed) if inspect.signature(reset).parameters else reset()

    def ask(self, steps: Sequence[Mapping[str, Any]]) -> None:
        for obs in steps[:-1]:
            self._act.observe(obs)  # type: ignore[attr-defined]
        self._answer = self._checked(self._act(dict(steps[-1])))

    def answer(self) -> Any:
        return self._answer

    def act_together(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        stacked = {
            name: [row[name] for row in rows] if name == INSTRUCTION else np.stack([row[name] for row in rows])
            for name in rows[0]
        }
        found = self._act(stacked)
        if found is None or len(found) != len(rows):
            size = "nothing" if found is None else f"the shape {np.shape(found)}"
            raise PolicyError(f"the policy: expected actions for {len(rows)} rows (it is batched), got {size}")
        return [self._checked(row) for row in found]

    def _checked(self, actions: Any) -> Any:
        if actions is None:
            raise PolicyError(f"the policy: expected {self._about.action_size} numbers, got nothing (None)")
        if self._horizon is not None and np.ndim(actions) == 2 and len(actions) != self._horizon:
            raise PolicyError(
                f"the policy: expected chunks of {self._horizon} steps, as it declares, got {len(actions)}"
            )
        return actions


class _Module(Kind):
    def parse(self, reference: Reference) -> Reference:
        name, colon, attribute = reference.where.rpartition(":")
        if not colon or not name or not attribute:
            raise UserError(f"{reference.shown}: {_HINT}")
        if name.endswith(".py"):
            path = Path(name).expanduser().absolute()
            if not path.is_file():
                raise UserError(f"{reference.shown}: there is no file {path}; {_HINT}")
            found = Reference(**{**vars(reference), "where": f"{path}:{attribute}"})
        else:
            found = Reference(**{**vars(reference), "folder": str(Path.cwd())})
        self.factory(found)
        return found

    def factory(self, reference: Reference) -> Callable[..., Any]:
        """The user's function. Raises `UserError` if there is none."""
        name, _, attribute = reference.where.rpartition(":")
        module = _module(reference, name)
        if not hasattr(module, attribute):
            near = did_you_mean(attribute, [n for n in vars(module) if not n.startswith("_")] or [attribute])
            raise UserError(f"{reference.shown}: {name} has no {attribute!r}: {near}")
        found = getattr(module, attribute)
        if not callable(found):
            raise UserError(f"{reference.shown}: expected a function that makes a policy, got {type(found).__name__}")
        axes = getattr(found, "sample_axes", ())
        if not set(axes) <= {*DECLARED, *OF_EPISODE}:
            raise UserError(f"{reference.shown}: sample_axes: expected some of {', '.join(DECLARED)}, got {axes!r}")
        made: Callable[..., Any] = found
        return made

    def content(self, reference: Reference) -> str:
        name = reference.where.rpartition(":")[0]
        path = getattr(_module(reference, name), "__file__", None)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""

    def files(self, reference: Reference) -> tuple[Path, ...]:
        name = reference.where.rpartition(":")[0]
        return (Path(name),) if name.endswith(".py") else ()

    def sample_axes(self, reference: Reference) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*OF_EPISODE, *getattr(self.factory(reference), "sample_axes", ()))))

    def open(self, reference: Reference, about: About) -> ForeignPolicy:
        factory = self.factory(reference)
        with calling(reference.shown, "making the policy", "it is called with what raybc.foreign.base.About has"):
            made = factory(about) if inspect.signature(factory).parameters else factory()
        if not callable(made):
            raise UserError(
                f"{reference.shown}: expected a function that returns a callable from an observation to actions, got "
                f"{type(made).__name__}"
            )
        needed = getattr(made, "observations", None) or ()
        missing = [name for name in needed if name not in about.observations]
        if missing:
            raise UserError(
                f"{reference.shown}: observation {missing[0]!r}: {about.task} has none of that name; it has "
                f"{', '.join(about.observations)}"
            )
        return CallablePolicy(made, about)


def _module(reference: Reference, name: str) -> ModuleType:
    with calling(reference.shown, f"importing {name}", _HINT):
        if name.endswith(".py"):
            return _of_file(Path(name))
        if reference.folder and reference.folder not in sys.path:
            sys.path.append(reference.folder)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
                raise
            raise UserError(f"{reference.shown}: there is no module {name!r} (is its folder in PYTHONPATH?)") from None


def _of_file(path: Path) -> ModuleType:
    """The module in a file, imported once; its folder is searched for modules, too."""
    name = f"raybc_foreign_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


KIND = _Module()
