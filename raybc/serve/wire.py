"""Messages between a policy server and its clients: JSON, or msgpack with arrays as openpi encodes them.

An array is a map of __ndarray__ (true), data (bytes), dtype and shape. Nothing is unpickled; anything that is not a
message is a `UserError`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import numpy as np

from raybc.types import UserError

JSON, MSGPACK = "application/json", "application/msgpack"
#: Accepted dtypes.
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")


def pack(value: Any) -> bytes:
    """Encode as msgpack. Raises `UserError` for values that msgpack cannot represent."""
    packed: bytes = msgpack.packb(value, default=_array)
    return packed


def _array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.str in DTYPES:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    got = "one of more than 64 bits" if isinstance(value, int) else type(value).__name__
    raise UserError(f"message: expected numbers, texts, lists, maps and arrays of numbers, got {got}")


def unpack(data: bytes) -> Any:
    """Decode msgpack. Raises `UserError` for anything that is not a message."""
    try:
        return msgpack.unpackb(data, object_hook=_value)
    except UserError:
        raise
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise UserError(f"message: not readable as msgpack: {error or type(error).__name__}") from None


def _value(found: dict[Any, Any]) -> Any:
    found = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in found.items()}
    if found.get("__npgeneric__"):
        return found.get("data")
    if not found.get("__ndarray__"):
        return found
    data, dtype, shape = found.get("data"), found.get("dtype"), found.get("shape")
    if isinstance(dtype, bytes):
        dtype = dtype.decode(errors="replace")
    if dtype not in DTYPES:
        raise UserError(f"message: array: expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    sizes = shape if isinstance(shape, list) else [-1]
    if not all(type(size) is int and size >= 0 for size in sizes) or len(sizes) > 8:
        raise UserError(f"message: array: expected a shape of at most 8 sizes, got {shape!r}")
    if not isinstance(data, bytes) or len(data) != np.dtype(dtype).itemsize * math.prod(sizes):
        raise UserError(f"message: array: expected the bytes of {dtype} {sizes}, got other data")
    return np.frombuffer(data, dtype).reshape(sizes)


def to_json(value: Any) -> str:
    """Encode as JSON; arrays become lists. Raises `ValueError` for nan and inf."""
    return json.dumps(value, default=lambda array: array.tolist(), allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Decode JSON. Raises `UserError` for anything else, also for nan and inf."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"message: not readable as JSON: {error}") from None


def _no_number(word: str) -> float:
    raise UserError(f"message: expected finite numbers, got {word}")
