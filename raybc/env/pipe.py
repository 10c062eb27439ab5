"""Values through a pipe between two processes of one user: a pickle behind its length."""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO, cast

import raybc.env.numpy_pickles  # noqa: F401

_LENGTH = struct.Struct("<Q")


def send(pipe: Any, value: Any) -> None:
    """Write a value to a binary file."""
    data = pickle.dumps(value, protocol=5)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: Any) -> Any:
    """Read a value from a binary file. Raises `EOFError` where the other process has ended."""
    return pickle.loads(_exactly(cast(BinaryIO, pipe), _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0]))


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data
