"""Values through a pipe between two processes of one user: lengths, a JSON text, and the bytes of its arrays.

Nothing but data: neither process can make the other run code, and numpy 1 and numpy 2 understand each other. What can
be sent is what JSON has, tuples, arrays and scalars of numpy with numbers or text, its generators, and `RenderOptions`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import numpy as np

from raybc.envs.base import RenderOptions

#: Bytes of the text, and of all arrays.
_LENGTHS = struct.Struct("<QQ")
#: Kinds of numpy's dtypes that are sent: numbers and text, no objects.
_KINDS = frozenset("biufcSU")
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def send(pipe: Any, value: Any) -> None:
    """Write a value to a binary file. Raises `TypeError`, before anything is written, for what cannot be sent."""
    arrays: list[bytes] = []
    text = json.dumps(_as_json(value, arrays)).encode()
    pipe.write(_LENGTHS.pack(len(text), sum(map(len, arrays))) + text + b"".join(arrays))
    pipe.flush()


def receive(pipe: Any) -> Any:
    """Read a value from a binary file. Raises `EOFError` where the other process has ended, and `ValueError` for what
    `send` did not write."""
    lengths = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    text, arrays = (_exactly(cast(BinaryIO, pipe), length) for length in lengths)
    return _Reader(arrays).value(json.loads(text))


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _as_json(value: Any, arrays: list[bytes]) -> Any:
    """`value` for JSON; the bytes of its arrays are added to `arrays`."""
    if isinstance(value, np.generic):
        return {"scalar": _as_json(np.asarray(value), arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"expected an array of numbers or text, got dtype {value.dtype}")
        arrays.append(np.ascontiguousarray(value).tobytes())
        return {"array": [value.dtype.str, list(value.shape)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_as_json(one, arrays) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_as_json(one, arrays) for one in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_as_json(key, arrays), _as_json(one, arrays)] for key, one in value.items()]}
    if isinstance(value, RenderOptions):
        return {"render": _as_json(dataclasses.astuple(value), arrays)}
    if isinstance(value, np.random.Generator):
        return {"generator": _as_json(value.bit_generator.state, arrays)}
    raise TypeError(f"expected numbers, texts, arrays, and lists and mappings of them, got {type(value).__name__}")


class _Reader:
    """The inverse of `_as_json`."""

    def __init__(self, arrays: bytes) -> None:
        self._arrays, self._place = arrays, 0

    def value(self, found: Any) -> Any:
        if isinstance(found, list):
            return [self.value(one) for one in found]
        if not isinstance(found, dict):
            return found
        ((kind, inside),) = found.items()
        if kind == "array":
            return self._array(np.dtype(inside[0]), tuple(inside[1]))
        if kind == "scalar":
            return self.value(inside)[()]
        if kind == "tuple":
            return tuple(self.value(one) for one in inside)
        if kind == "dict":
            return {self.value(key): self.value(one) for key, one in inside}
        if kind == "render":
            return RenderOptions(*self.value(inside))
        if kind == "generator":
            return _generator(self.value(inside))
        raise ValueError(f"expected a value that `send` wrote, got {kind!r}")

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        if dtype.kind not in _KINDS:
            raise ValueError(f"expected an array of numbers or text, got dtype {dtype}")
        found = np.zeros(shape, dtype)
        raw = self._arrays[self._place : self._place + found.nbytes]
        self._place += found.nbytes
        if len(raw) < found.nbytes:
            raise ValueError(f"expected {found.nbytes} bytes of an array, got {len(raw)}")
        if found.size and found.nbytes:
            found = np.frombuffer(raw, dtype).reshape(shape).copy()
        return found


def _generator(state: dict[str, Any]) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in _GENERATORS:
        raise ValueError(f"expected one of numpy's generators, got {name!r}")
    bits = getattr(np.random, name)()
    bits.state = state
    return np.random.Generator(bits)
