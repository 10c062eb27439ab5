"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is its length (8 bytes, little endian), a checksum of that, the message, a checksum of that
(https://www.tensorflow.org/tutorials/load_data/tfrecord). Messages are decoded and encoded by protobuf. The checksums
(CRC-32C) are skipped when a file is read: no dependency computes them at the speed of a disk.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from raybc.causes import cause, expect_file
from raybc.types import UserError

Values = list[bytes] | np.ndarray
#: Bytes of a record before its message: the length and the checksum of that.
HEAD_BYTES = 12
PACKAGE = "raybc.tfrecord"


def records(path: Path) -> Iterator[bytes]:
    """The messages of a file in order. Raises `UserError` for a truncated or damaged file."""
    expect_file(path, "a TFRecord file", may_be_empty=True)  # a shard of no episode
    left = path.stat().st_size
    with path.open("rb") as handle:
        while head := handle.read(HEAD_BYTES):
            left -= HEAD_BYTES
            length = struct.unpack("<Q", head[:8])[0] if len(head) == HEAD_BYTES else left
            data = handle.read(length + 4) if length + 4 <= left else b""  # never more than the file holds
            left -= length + 4
            if len(data) != length + 4:
                said = cause(path) or "not readable as TFRecord (damaged or truncated)"
                raise UserError(f"{path}: {said}")
            yield data[:length]


def parse(record: bytes) -> dict[str, Values]:
    """The features of an Example: bytes as a list, numbers as float32 or int64 (n,). Features without values are left
    out. Raises `ValueError` for bytes that are no Example."""
    example = _example_class()()
    try:
        example.ParseFromString(record)
    except message.DecodeError as error:
        raise ValueError(f"not an Example: {error}") from None
    features: dict[str, Values] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            features[name] = list(feature.bytes_list.value)
        elif kind == "float_list":
            features[name] = np.array(feature.float_list.value, np.float32)
        elif kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, np.int64)
    return features


def build(features: Mapping[str, Values]) -> bytes:
    """The Example of `features`: lists of bytes as they are, integer and bool arrays as int64, others as float32, all
    arrays flattened."""
    example = _example_class()()
    for name, values in features.items():
        feature = example.features.feature[name]
        if isinstance(values, list):
            feature.bytes_list.value.extend(values)
        elif values.dtype.kind in "iub":
            feature.int64_list.value.extend(values.reshape(-1).astype(np.int64).tolist())
        else:
            feature.float_list.value.extend(values.reshape(-1).astype(np.float32).tolist())
    encoded: bytes = example.SerializeToString(deterministic=True)
    return encoded


@functools.cache
def _example_class() -> Any:
    """`tf.train.Example` as TensorFlow publishes it in example.proto and feature.proto. Built here because no
    dependency ships its generated code; it is in a separate pool, so TensorFlow may be imported, too."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="raybc/example.proto", package=PACKAGE, syntax="proto3")
    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(lists, start=1):
        list_message = file.message_type.add(name=name)
        list_message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
        member = _message_field(f"{name.removesuffix('List').lower()}_list", number, name)
        member.oneof_index = 0
        feature.field.append(member)
    features = descriptor_pb2.DescriptorProto(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.append(_message_field("value", 2, "Feature"))
    features.field.append(_message_field("feature", 1, "Features.FeatureEntry", field.LABEL_REPEATED))
    example = descriptor_pb2.DescriptorProto(name="Example")
    example.field.append(_message_field("features", 1, "Features"))
    file.message_type.extend((feature, features, example))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Example"))


def _message_field(name: str, number: int, message_type: str, label: int = 1) -> Any:
    """A field whose value is a message; label 1 is `LABEL_OPTIONAL`."""
    kind = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    return descriptor_pb2.FieldDescriptorProto(
        name=name, number=number, type=kind, type_name=f".{PACKAGE}.{message_type}", label=label
    )
