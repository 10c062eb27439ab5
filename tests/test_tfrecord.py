"""TFRecord and Example without TensorFlow, against protobuf itself and tensorboard's writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.data.tfrecord import build, parse, records
from raybc.types import UserError


def example_class() -> Any:
    """`tf.train.Example` by protobuf itself, from the published definition (example.proto, feature.proto)."""
    protobuf = pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    lists = {"BytesList": kinds.TYPE_BYTES, "FloatList": kinds.TYPE_FLOAT, "Int64List": kinds.TYPE_INT64}
    for name, kind in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=kinds.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field, kind) in enumerate(
        zip(("bytes_list", "float_list", "int64_list"), lists, strict=True), start=1
    ):
        feature.field.add(name=field, number=number, type=11, type_name=f".t.{kind}", label=1, oneof_index=0)
    features = file.message_type.add(name="Features")
    features.field.add(name="feature", number=1, type=11, type_name=".t.Features.FeatureEntry", label=3)
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, type_name=".t.Feature", label=1)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=11, type_name=".t.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def test_examples_are_protobufs() -> None:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "steps/action": rng.normal(size=20).astype(np.float32),
        "flags": np.array([0, 1, 1, 0]),
        "numbers": np.array([0, 1, 127, 128, 2**40, -1, -(2**62)]),
        "words": [b"push", b"", bytes(300)],
    }
    made = example_class()
    theirs = made()
    for name, value in values.items():
        feature = theirs.features.feature[name]
        kind = "bytes_list" if isinstance(value, list) else "float_list" if value.dtype == np.float32 else "int64_list"
        getattr(feature, kind).value.extend(list(value))
    back = made()
    back.ParseFromString(build(values))
    assert back == theirs
    for name, got in parse(theirs.SerializeToString()).items():
        np.testing.assert_array_equal(got, values[name])


def test_records_are_tensorboards(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    messages = [b"one", b"", bytes(range(256)) * 50]
    with (tmp_path / "a.tfrecord").open("wb") as handle:
        writer = RecordWriter(handle)
        for message in messages:
            writer.write(message)
        writer.flush()
    assert list(records(tmp_path / "a.tfrecord")) == messages


def test_damage_is_refused(tmp_path: Path) -> None:
    for content in (b"\x05", b"\xff" * 12, b"\x05" + bytes(11) + b"abc"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(UserError, match="not readable as TFRecord"):
            list(records(tmp_path / "a"))
    with pytest.raises(ValueError, match="not an Example"):
        parse(b"\x0a\x7f")
    whole = build({"a": np.arange(300), "b": [b"word"]})
    with pytest.raises(ValueError, match="not an Example"):
        parse(whole[:-1])


def test_what_is_built_is_parsed() -> None:
    values = {
        "floats": np.array([[1.5, -0.0], [np.inf, 1e-40]], np.float32),
        "integers": np.array([-(2**63), 2**63 - 1, 0]),
        "flags": np.array([True, False]),
        "bytes": [b"", b"\x00\xff"],
        "none": np.zeros(0, np.float32),
    }
    found = parse(build(values))
    assert found["bytes"] == values["bytes"]
    for name, dtype in {"floats": np.float32, "integers": np.int64, "flags": np.int64}.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], np.asarray(values[name]).reshape(-1).astype(dtype))
    assert build(values) == build(dict(reversed(values.items()))), "the order of names does not matter"
