"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is its length (8 bytes, little endian), a checksum of that, the message, a checksum of that. A message maps
names to lists of bytes, float32 or int64 (protobuf's wire format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from raybc.types import UserError

Values = list[bytes] | np.ndarray
#: A length beyond this is damage.
LARGEST = 1 << 34


def records(path: Path) -> Iterator[bytes]:
    """The messages of a file in order."""
    with path.open("rb") as handle:
        while head := handle.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else LARGEST + 1
            data = handle.read(length + 4) if length <= LARGEST else b""
            if len(data) != length + 4:
                raise UserError(f"{path}: not readable as TFRecord (damaged or truncated)")
            yield data[:length]


def parse(message: bytes) -> dict[str, Values]:
    """The features of an Example: bytes as a list, numbers as float32 or int64. `ValueError` where it is none."""
    features: dict[str, Values] = {}
    for number, body in _fields(message):
        if number != 1:
            continue
        for _, entry in _fields(body):
            parts = dict(_fields(entry))
            for kind, content in _fields(parts.get(2, b"")):
                features[parts[1].decode()] = _values(kind, content)
    return features


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and contents of the fields of a message; all that are used here have a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than its message")
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:  # a number that is not packed
            _, end = _varint(data, at)
            yield key >> 3, data[at:end]
            at = end
        elif key & 7 == 5:
            yield key >> 3, data[at : at + 4]
            at += 4
        else:
            raise ValueError(f"unexpected wire type {key & 7}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _values(kind: int, content: bytes) -> Values:
    found = [value for _, value in _fields(content)]
    if kind == 1:
        return found
    joined = b"".join(found)
    if kind == 2:
        return np.frombuffer(joined, "<f4")
    if max(joined, default=0) < 0x80:  # flags and small numbers: a byte each
        return np.frombuffer(joined, np.uint8).astype(np.int64)
    numbers, at = [], 0
    while at < len(joined):
        value, at = _varint(joined, at)
        numbers.append(value - (1 << 64) if value >> 63 else value)
    return np.array(numbers, np.int64)


def build(features: Mapping[str, Values]) -> bytes:
    """The Example of `features`; arrays of whole numbers and truth values become int64, others float32."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            kind, content = 1, b"".join(_field(1, v) for v in values)
        elif values.dtype.kind in "iub":
            kind, content = 3, _field(1, b"".join(_write_varint(int(v) % (1 << 64)) for v in values.reshape(-1)))
        else:
            kind, content = 2, _field(1, values.astype("<f4").tobytes())
        entries += _field(1, _field(1, name.encode()) + _field(2, _field(kind, content)))
    return _field(1, entries)


def _field(number: int, body: bytes) -> bytes:
    return _write_varint(number << 3 | 2) + _write_varint(len(body)) + body


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
