"""Damaged copies of everything that is read from disk, made from a seed, and what reading them must not do.

A `Kind` writes a whole sample and reads it. `run` reads many damaged copies of it in a forked process, which may crash
or hang without harm, and lists what was raised besides `UserError`.
"""

from __future__ import annotations

import faulthandler
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from raybc.types import UserError

#: Seconds of the clock after which reading a damaged copy counts as endless.
SECONDS = 20
#: Bytes that reading a small sample may take beside what the process has.
MEMORY_BYTES = 6 * 2**30
MARKS = (b"\x00", b"\xff", b"\x80", b"\x7f", b"{", b"[", b'"', b"9", b"-")
NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 10**11, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Kind:
    """Something that is read from disk."""

    name: str
    """Its name in the parameters of tests."""
    write: Callable[[Path], None]
    """Writes a sample to a path: a file or a folder."""
    read: Callable[[Path], object]
    """Reads it, by everything that reads it."""
    restore: Callable[[Path], None] = lambda path: None
    """Corrects the checksums after the values of a JSON file were changed, so that what follows is reached."""
    suffix: str = ""
    """Of the name of a sample that is a file: the text that JSON, YAML and others are distinguished by."""
    rate: float = 1.0
    """How many copies are read in the normal run, relative to the others: fewer of what is slow."""


# Damage


def damage(path: Path, rng: random.Random, restore: Callable[[Path], None]) -> str:
    """Damage one file of a sample in place; a description, to make the same again."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    file = rng.choice(files)
    content = file.read_bytes()
    structured = _structured(file, content, rng) if rng.random() < 0.5 else None
    if structured is not None:
        what, changed = structured
        file.write_bytes(changed)
        try:
            restore(path)
        except Exception:  # the damage does not leave a value to correct
            return what
        return f"{what} (checksums corrected)"
    if content.startswith(b"\x89HDF") and rng.random() < 0.3:
        return _hdf5(file, rng)
    what, changed = _bytes(content, rng)
    file.write_bytes(changed)
    return f"{file.name}: {what}"


def _bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    how = rng.randrange(8)
    if how < 3:
        for _ in range((1, 2, 8)[how]):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        return f"{(1, 2, 8)[how]} bytes", bytes(data)
    if how == 3:
        return f"cut at {at}", bytes(data[:at])
    if how == 4:
        mark = rng.choice(MARKS) * rng.choice((1, 3, 8, 64))
        return f"{mark[:8]!r} at {at}", bytes(data[:at] + mark + data[at:])
    if how == 5:
        number = rng.choice(NUMBERS) % 2**64
        size = rng.choice((2, 4, 8))
        data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
        return f"{number} at {at}", bytes(data)
    if how == 6:
        end = min(len(data), at + rng.randrange(1, 200))
        return f"{at}:{end} twice", bytes(data[:end] + data[at:])
    end = min(len(data), at + rng.randrange(1, 200))
    data[at:end] = bytes(end - at)
    return f"{at}:{end} zeros", bytes(data)


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 0.5, 10**11, 2**63, -(2**63) - 1, 10**400, math.nan, math.inf, "", "x", "../../etc/passwd",
    "\ud800", "\x00", "9" * 5000, [], [1], [[]], {}, {"a": 1}, _nested(60), [0] * 2000, "{a}{0}{video_key.__class__}",
    "a" * 100_000, ["x"], [None], "0:99999999999", "os:system", "module:thing",
)  # fmt: skip


def _structured(file: Path, content: bytes, rng: random.Random) -> tuple[str, bytes] | None:
    """A change of a value in a JSON, JSON lines or YAML file; None for other files."""
    try:
        text = content.decode()
        if file.suffix in (".yaml", ".yml"):
            value, where = _changed(yaml.safe_load(text), rng)
            return f"{file.name}: {where}", yaml.safe_dump(value, allow_unicode=False).encode()
        lines = text.splitlines()
        if file.suffix == ".jsonl":
            k = rng.randrange(len(lines))
            value, where = _changed(json.loads(lines[k]), rng)
            lines[k] = _dumped(value, rng)
            return f"{file.name}: line {k}: {where}", ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
        if file.suffix == ".json":
            value, where = _changed(json.loads(text), rng)
            return f"{file.name}: {where}", _dumped(value, rng).encode("utf-8", "surrogatepass")
    except (ValueError, IndexError, yaml.YAMLError, RecursionError):
        return None
    return None


def _dumped(value: Any, rng: random.Random) -> str:
    if rng.random() < 0.02:
        return "[" * 100_000
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


def _changed(value: Any, rng: random.Random) -> tuple[Any, str]:
    places = list(_places(value))
    if not places:
        return rng.choice(VALUES), "all of it"
    holder, key, where = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
        return value, f"{where} left out"
    if how == 1 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] + rng.choice((1, -1, 0.5, 10**9))
        return value, f"{where} = {holder[key]}"
    if how == 2 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
        return value, f"{where} renamed"
    if how == 3:
        other, _, what = rng.choice(places)[0], 0, "a neighbour"
        holder[key] = json.loads(json.dumps(other, default=str))
        return value, f"{where} = {what}"
    holder[key] = rng.choice(VALUES)
    return value, f"{where} = {str(holder[key])[:40]!r}"


def _places(value: Any, where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """(container, key, name) of everything in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key, f"{where}/{key}"
        yield from _places(inner, f"{where}/{key}")


def _hdf5(file: Path, rng: random.Random) -> str:
    """A well-formed file of other contents."""
    with h5py.File(file, "a") as opened:
        names: list[str] = []
        opened.visit(names.append)
        name = rng.choice(names)
        how = rng.randrange(7)
        if how == 0:
            del opened[name]
            return f"{name} left out"
        if how == 1:
            attributes = dict(opened[name].attrs) or dict(opened[names[0]].attrs) or {"a": 1}
            key = rng.choice(sorted(attributes))
            target = opened[name if key in opened[name].attrs else names[0]]
            value = rng.choice((b"\xff\xfe", "x", "[" * 5000, 10**9, -1, np.zeros((2, 2)), h5py.Empty("f4"), "{}"))
            target.attrs[key] = value
            return f"{name} @{key} = {value!r:.30}"
        del opened[name]
        if how == 2:
            opened.create_group(name)
            return f"{name} a group"
        if how == 3:
            opened[name] = h5py.SoftLink(rng.choice(["/", f"/{name}", "/nowhere", "/data"]))
            return f"{name} a link"
        if how == 4:
            shape = rng.choice(((10**11, 2), (10**11,), (0, 3), (2, 0), (1,), (3, 2, 2), (5, 10**9)))
            chunks = None if 0 in shape else tuple(min(n, 100) for n in shape)
            opened.create_dataset(name, shape, "f4", chunks=chunks)
            return f"{name} of shape {shape}"
        if how == 5:
            values = rng.choice((["text"], [[1, 2]], np.array([np.nan] * 3), np.array([1j]), np.array([2**63], "u8")))
            opened[name] = values
            return f"{name} = {values!r:.30}"
        opened[name] = rng.choice((1.0, "text", h5py.Empty("f4")))
        return f"{name} a scalar"


# Reading


@dataclass(frozen=True)
class Fault:
    """What reading a damaged copy must not do."""

    number: int
    """Of the copy."""
    damage: str
    """What was done to it."""
    what: str
    """What happened."""


#: Events of Python's audit that a reader of data never causes, and what may begin a child process.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class", "socket.connect",
             "shutil.rmtree", "ctypes.dlopen")  # fmt: skip
_ran: list[str] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in FORBIDDEN or (event == "subprocess.Popen" and "guard_child" not in str(args)):
        _ran.append(f"{event} {args!r:.100}")


class Endless(BaseException):
    """No `Exception`: readers turn those into messages."""


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Endless(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _copies(kind: Kind, folder: Path, first: int, count: int, report: Callable[[Any], None]) -> None:
    """Read the damaged copies `first`, `first + 1`, ...; each is a function of its number."""
    folder.mkdir(exist_ok=True)
    whole = folder / f"whole-{kind.name}{kind.suffix}"
    kind.write(whole)
    kind.read(whole)  # imports everything, and shows that the sample is whole
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.addaudithook(_audit)
    for number in range(first, first + count):
        rng = random.Random(f"{kind.name} {number}")
        path = folder / f"copy{kind.suffix}"
        shutil.copytree(whole, path) if whole.is_dir() else shutil.copy(whole, path)
        what = damage(path, rng, kind.restore)
        report(("begins", number, what))
        _ran.clear()
        found = ""
        try:
            with _alarm(SECONDS):
                kind.read(path)
        except UserError as error:
            found = _objection(str(error), path)
        except BaseException as error:  # whatever a reader lets through
            found = f"{type(error).__name__}: {error!s:.200}\n{traceback.format_exc(limit=-4)}"
        found = "; ".join(filter(None, (found, *_ran)))
        if found:
            report(("fault", number, found))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(("done", first + count, ""))


def _objection(message: str, path: Path) -> str:
    """What is wrong with a message for the user; "" for a good one."""
    if "Traceback" in message or "Error(" in message:
        return f"Python's words in a message: {message}"
    if "not enough memory" in message:
        return f"believed a size: {message}"
    return "" if str(path) in message else f"a message without the file: {message}"


def _named(name: str) -> Kind:
    from tests.test_mutations import KINDS

    return next(kind for kind in KINDS if kind.name == name)


def run(kind: Kind | str, folder: Path, first: int, count: int) -> list[Fault]:
    """Read `count` damaged copies in another process; what went wrong.

    kind: the name of one of `tests.test_mutations.KINDS`, which is read in a process without the threads and the memory
    of this one; or another kind, in a fork of this process.
    """
    receive, send = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("forkserver" if isinstance(kind, str) else "fork")
    if isinstance(kind, str):
        multiprocessing.set_forkserver_preload(["tests.test_mutations"])
    process = context.Process(target=_guarded, args=(kind, folder, first, count, send), daemon=True)
    process.start()
    send.close()
    faults: list[Fault] = []
    number, what, done = first, "", False
    try:
        while receive.poll(SECONDS + 40):
            event, number, text = receive.recv()
            if event == "begins":
                what = text
            elif event == "fault":
                faults.append(Fault(number, what, text))
            else:
                done = True
                break
        else:
            faults.append(Fault(number, what, "hangs"))
            done = True
    except EOFError:
        pass
    if not done:
        process.join(10)
        faults.append(Fault(number, what, f"the process ended with {process.exitcode}"))
    process.kill()
    process.join()
    return faults


def _guarded(kind: Kind | str, folder: Path, first: int, count: int, send: Any) -> None:
    code = 1
    faulthandler.disable()  # a crash is a result here
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries print about damage
        _copies(_named(kind) if isinstance(kind, str) else kind, folder, first, count, send.send)
        code = 0
    except BaseException:
        send.send(("fault", -1, traceback.format_exc()))
    finally:
        os._exit(code)
