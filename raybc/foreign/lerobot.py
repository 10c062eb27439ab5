"""`lerobot:FOLDER`: a checkpoint of LeRobot's, with which LeRobot's own package acts in a process of its own.

The process (`raybc.foreign.lerobot_host`) is of this interpreter if LeRobot is installed there, and else of the
environment `lerobot`, since its packages contradict raybc's. Only numbers and texts go to it and come back. Of ACT and
diffusion policies whole chunks are asked for, so that `execute_steps` and `temporal_ensemble` are ours to choose; of
all other kinds the next action, as LeRobot's `select_action` gives it. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import sys
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raybc.env.environment import Environment, override
from raybc.env.remote import Process
from raybc.files import expanded
from raybc.foreign.base import INSTRUCTION, OF_EPISODE, About, ForeignPolicy, Kind
from raybc.foreign.inputs import Inputs
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError
from raybc.lerobot.files import CONFIG, PREPROCESSOR, WEIGHTS, Feature, features, find_checkpoint, own_name, read_config
from raybc.types import SampleSetting, UserError

ENVIRONMENT = Environment.of_lock("lerobot", Path(__file__).with_name("lerobot.lock.txt"), megabytes=8000)
MODULE = "raybc.foreign.lerobot_host"
ACT, DIFFUSION = "act", "diffusion"
#: Files of a checkpoint that decide what it does.
ENDINGS = (".json", ".safetensors")

_processes: weakref.WeakValueDictionary[tuple[str, int], _Shared] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class _Shared:
    """The process that acts for all episodes of this one. Questions wait until the first answer is needed."""

    def __init__(self, reference: Reference, flow_steps: int) -> None:
        here = not reference.python and importlib.util.find_spec("lerobot") is not None
        python = sys.executable if here else reference.python
        self._process = Process(ENVIRONMENT, MODULE, "policy", python, is_of_environment=not here)
        try:
            self._process.ask("load", reference.where, flow_steps)
        except RuntimeError as error:
            self._process.close()
            raise PolicyError(f"LeRobot cannot load {reference.where}: {error}") from None
        self._waiting: dict[int, Mapping[str, Any]] = {}
        self._answers: dict[int, np.ndarray | str] = {}

    @property
    def has_ended(self) -> bool:
        return self._process.has_ended

    def put(self, number: int, row: Mapping[str, Any]) -> None:
        self._waiting[number] = row

    def take(self, number: int) -> np.ndarray:
        if number not in self._answers:
            waiting, self._waiting = self._waiting, {}
            self._answers |= dict(zip(waiting, self.ask("chunks", list(waiting.values())), strict=True))
        found = self._answers.pop(number, "the question was lost with others")
        if isinstance(found, str):
            raise PolicyError(f"LeRobot: {found}")
        return found

    def ask(self, method: str, *args: Any) -> Any:
        try:
            return self._process.ask(method, *args)
        except (RuntimeError, UserError) as error:
            raise PolicyError(f"LeRobot: {error}") from None


def _shared(reference: Reference, flow_steps: int) -> _Shared:
    """The process of a checkpoint; a new one where there is none, or it has died."""
    key = reference.text, flow_steps
    found = _processes.get(key)
    if found is None or found.has_ended:
        found = _processes[key] = _Shared(reference, flow_steps)
    return found


class LerobotPolicy(ForeignPolicy):
    """A policy of LeRobot's in one episode."""

    def __init__(self, reference: Reference, about: About) -> None:
        config = read_config(Path(reference.where))
        self._inputs, self._features = _inputs(reference, config, about)
        self._kind, steps = config["type"], int(config.get("n_obs_steps") or 1)
        self._of_chunks = self._kind in (ACT, DIFFUSION)
        self.sees_every_step = self._of_chunks and steps > 1
        self._shape = int(config.get("horizon") or 0), about.action_size
        self._reference, self._flow_steps = reference, about.flow_steps
        self._shared = _shared(reference, about.flow_steps)
        self._seen: deque[dict[str, Any]] = deque(maxlen=steps)
        self._key = str(next(_numbers))
        self.reset(0)

    def reset(self, seed: int) -> None:
        if self._shared.has_ended:
            self._shared = _shared(self._reference, self._flow_steps)
        self._seen.clear()
        self._rng = np.random.default_rng([seed, 1])  # as of raybc's own policies
        self._draws = np.random.default_rng([seed, 2])
        self._is_first = True

    def ask(self, steps: Sequence[Mapping[str, Any]]) -> None:
        self._seen.extend(self._checked(self._inputs.of(obs)) for obs in steps)
        seed = int(self._draws.integers(2**62))
        text = str(steps[-1].get(INSTRUCTION, ""))
        if not self._of_chunks:
            self._answer = self._shared.ask("action", self._key, self._seen[-1], text, seed, self._is_first)
            self._is_first = False
            return
        row = {"steps": list(self._seen), "instruction": text, "seed": seed}
        if self._kind == DIFFUSION:
            row["noise"] = self._rng.standard_normal(self._shape).astype(np.float32)
        self._number = next(_numbers)
        self._shared.put(self._number, row)

    def answer(self) -> Any:
        return self._shared.take(self._number) if self._of_chunks else self._answer

    def end(self, outcome: str) -> None:
        if not self._of_chunks:
            self._shared.ask("forget", self._key)

    def _checked(self, obs: dict[str, Any]) -> dict[str, Any]:
        for name, feature in self._features.items():
            shape = (*feature.shape[1:], feature.shape[0]) if feature.type == "VISUAL" else feature.shape
            if np.shape(obs[name]) != shape:
                raise PolicyError(f"{name}: the checkpoint expects {shape}, got {np.shape(obs[name])}")
        return obs


def _inputs(reference: Reference, config: Mapping[str, Any], about: About) -> tuple[Inputs, dict[str, Feature]]:
    """How LeRobot's inputs are made, and what they are. Raises `UserError` for observations that the task lacks."""
    known = features(config, "input_features", Path(reference.where) / CONFIG)
    named = {name: f"{name}={own_name(name)}" for name in known}
    for entry in filter(None, reference.inputs.split(",")):
        named[entry.partition("=")[0].strip()] = entry
    unknown = sorted(named.keys() - known)
    if unknown:
        raise UserError(f"--policy_inputs: expected inputs of the checkpoint, {', '.join(known)}, got {unknown[0]!r}")
    found = Inputs.read(",".join(named.values()))
    found.check(about.observations, about.task, reference.shown)
    return found, known


class _Lerobot(Kind):
    options = ("inputs",)

    def parse(self, reference: Reference) -> Reference:
        folder = find_checkpoint(expanded(reference.where)).absolute()
        config = read_config(folder)
        features(config, "input_features", folder / CONFIG)
        for name in (WEIGHTS, PREPROCESSOR):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder / name}: expected it in a LeRobot checkpoint, found none; checkpoints of LeRobot before "
                    "0.4 are converted with its lerobot/processor/migrate_policy_normalization.py"
                )
        if reference.inputs:
            Inputs.read(reference.inputs)
        own = override(ENVIRONMENT.name)
        if own is not None or importlib.util.find_spec("lerobot") is None:
            ENVIRONMENT.require()
        return dataclasses.replace(reference, where=str(folder), python=str(own or ""))

    def content(self, reference: Reference) -> str:
        digest = hashlib.sha256()
        for path in self.files(reference):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def files(self, reference: Reference) -> tuple[Path, ...]:
        found = Path(reference.where).iterdir()
        return tuple(sorted(path for path in found if path.suffix in ENDINGS and path.name != "train_config.json"))

    def sample_axes(self, reference: Reference) -> tuple[str, ...]:
        kind = read_config(Path(reference.where))["type"]
        return {ACT: OF_EPISODE, DIFFUSION: (*OF_EPISODE, "flow_steps")}.get(kind, ())

    def setting(self, reference: Reference) -> SampleSetting:
        """As the checkpoint says: n_action_steps, and ACT's ensembling."""
        config = read_config(Path(reference.where))
        if config["type"] not in (ACT, DIFFUSION):
            return SampleSetting(flow_steps=0)
        weight = config.get("temporal_ensemble_coeff")
        execute = int(config.get("n_action_steps") or 0)
        return SampleSetting(flow_steps=0, execute_steps=execute, temporal_ensemble=-1.0 if weight is None else weight)

    def open(self, reference: Reference, about: About) -> ForeignPolicy:
        return LerobotPolicy(reference, about)


KIND = _Lerobot()
