"""Running a function on every machine of a Ray, and checking that all machines see the same disk."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybc.env.environment import Environment
from raybc.types import UserError

#: Seconds: a machine may have to start a process first, and import this package from a cold disk.
ANSWER_TIMEOUT = 120.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class NodeAnswer:
    """A machine's answer, or why there is none."""

    node: str
    value: Any = None
    problem: str = ""


def ask_all(function: Callable[..., Any], *arguments: Any) -> list[NodeAnswer]:
    """The function's result on every running machine, in the order of their addresses. Reserves no CPU."""
    nodes = sorted((n for n in ray.nodes() if n["Alive"]), key=lambda n: (n["NodeManagerAddress"], n["NodeID"]))
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)).remote(*arguments)
        for n in nodes
    ]
    ray.wait(asked, num_returns=len(asked), timeout=ANSWER_TIMEOUT)
    answers = []
    for node, ref in zip(nodes, asked, strict=True):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            answers.append(NodeAnswer(name, ray.get(ref, timeout=0)))
        except ray.exceptions.GetTimeoutError:
            answers.append(NodeAnswer(name, problem=f"no answer within {ANSWER_TIMEOUT:g} s"))
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            answers.append(NodeAnswer(name, problem=f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}"))
    return answers


def look_for(folders: list[str], mark: str, word: str, sizes: dict[str, int]) -> list[str]:
    """Runs on each machine: problems with folders, which should contain a file `mark` with the text `word` and be
    writable, and with files, which should have these sizes."""
    problems = []
    for folder in folders:
        try:
            if (Path(folder) / mark).read_text(encoding="utf-8") != word:
                problems.append(f"{folder}: is another disk")
            else:
                own = Path(folder) / f"{mark}-{socket.gethostname()}"
                own.write_text(word, encoding="utf-8")
                own.unlink()
        except FileNotFoundError:
            problems.append(f"{folder}: is another disk (what others write is not seen)")
        except OSError as error:
            problems.append(f"{folder}: cannot be written ({error.strerror})")
    for file, size in sizes.items():
        try:
            if Path(file).stat().st_size != size:
                problems.append(f"{file}: is another file")
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror})")
    return problems


def unshared(folders: Iterable[Path], files: Iterable[Path] = ()) -> list[str]:
    """Problems with folders that all machines of the connected Ray must see and be able to write, and with files that
    all must see; one line for each."""
    mark, word = f".raybc-shared-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    written: list[Path] = []
    problems = []
    try:
        for folder in folders:
            place = folder.absolute()
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / mark).write_text(word, encoding="utf-8")
            except OSError as error:
                problems.append(f"{place}: cannot be written ({error.strerror}), on this machine")
            else:
                written.append(place / mark)
        sizes = {str(f.absolute()): f.stat().st_size for f in files}
        for answer in ask_all(look_for, [str(path.parent) for path in written], mark, word, sizes):
            wrong = [answer.problem] if answer.problem else answer.value
            problems += [f"{what}, on {answer.node}" for what in wrong]
    finally:
        for path in written:
            path.unlink(missing_ok=True)
    return problems


def environment_line(environment: Environment) -> str:
    """Runs on each machine: what is wrong with an environment there; "" if nothing is."""
    status = environment.status()
    return "" if status.state == "complete" else status.line(environment.name)


def require_everywhere(environment: Environment) -> None:
    """Raise `UserError` unless an environment is complete on every machine of the connected Ray."""
    environment.require()
    if _is_single_machine():
        return
    problems = [(a.node, a.problem or a.value) for a in ask_all(environment_line, environment)]
    wrong = [f"{line} (on {node})" for node, line in problems if line]
    if wrong:
        raise UserError("; ".join(wrong))


def _is_single_machine() -> bool:
    return sum(node["Alive"] for node in ray.nodes()) < 2


def check_visible(file: Path) -> None:
    """Refuse to start on several machines if one of them does not see this file."""
    if not _is_single_machine() and (problems := unshared([], [file])):
        raise UserError(f"on a cluster all machines must see {file}: {'; '.join(problems)}; put it on a shared disk")


def check_shared(folder: Path, dataset: Path) -> None:
    """Refuse to start on several machines that do not share the run folder and the data."""
    if _is_single_machine():
        return
    made = dataset.exists()  # otherwise simulators on all machines will make it
    if problems := unshared([folder] if made else [folder, dataset.parent], [dataset] if made else []):
        raise UserError(
            f"on a cluster all machines must see the run folder and the demonstrations: {'; '.join(problems)}; use a "
            "shared disk (NFS, EFS, Filestore) for --out, and for train.dataset or RAYBC_HOME"
        )
