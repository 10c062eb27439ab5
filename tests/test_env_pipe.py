"""What travels between a simulator's process and this one: data, bit by bit, and nothing that could run."""

from __future__ import annotations

import io
import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest

from raybc.env.host import Host, answer
from raybc.env.pipe import receive, send
from raybc.envs.base import RenderOptions


def through(value: Any) -> Any:
    pipe = io.BytesIO()
    send(pipe, value)
    send(pipe, "next")
    pipe.seek(0)
    found = receive(pipe)
    assert receive(pipe) == "next", "as many bytes are read as were written"
    return found


@pytest.mark.parametrize(
    "value",
    [
        None, True, -3, 2**200, 0.1, float("inf"), "", "Häuser \u2028 \ud800", (), [], {}, (1, [2, (3,)]),
        {"a": {"b": (None, "c")}, 3: 4.5, (1, 2): [True]}, {"dict": 1}, {"array": ["<f4", [3]]},
        RenderOptions(64, 32, "front"),
        ("call", ("reset",), {"seed": 7, "options": None}),
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(12).reshape(3, 4)[:, ::2], np.zeros((0, 3)),
        np.array(3.5), np.array([True, False]), np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8),
        np.array([1 + 2j]), np.array(["a", "bc"]), np.array([b"x"]), np.array([""]), np.array([np.nan, -0.0]),
        np.array([1, 2], ">i4"),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)  # fmt: skip
def test_arrays_are_the_same_to_the_bit(array: np.ndarray) -> None:
    first, found = through((array, {"again": array}))
    for other in (first, found["again"]):
        assert (other.dtype, other.shape) == (array.dtype, array.shape)
        assert other.tobytes() == array.tobytes()
    first[...] = 0  # a copy of one's own, which may be changed
    assert found["again"].tobytes() == array.tobytes()


@pytest.mark.parametrize("value", [np.float64(0.5), np.int32(3), np.bool_(True), np.str_("a")])
def test_scalars_keep_their_type(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_generators_continue(name: str) -> None:
    rng = np.random.Generator(getattr(np.random, name)(3))
    rng.normal(size=5)
    found = through(rng)
    np.testing.assert_array_equal(found.normal(size=9), rng.normal(size=9))


@pytest.mark.parametrize("value", [object(), {1, 2}, [lambda: 0], np.array([None]), {"x": np.array([{}])}, 1j, b"x"])
def test_what_cannot_be_sent_writes_nothing(value: Any) -> None:
    pipe = io.BytesIO()
    with pytest.raises(TypeError, match=r"^expected .*, got "):
        send(pipe, ("ok", value))
    assert not pipe.getvalue()


class Trap:
    def __reduce__(self) -> Any:
        return pytest.fail, ("code of the other process was run",)


def packed(text: Any, arrays: bytes = b"") -> io.BytesIO:
    data = json.dumps(text).encode()
    return io.BytesIO(struct.pack("<QQ", len(data), len(arrays)) + data + arrays)


def test_nothing_that_is_read_is_run() -> None:
    trap = pickle.dumps(Trap())
    with pytest.raises((ValueError, EOFError)):
        receive(io.BytesIO(struct.pack("<Q", len(trap)) + trap))
    with pytest.raises(ValueError, match=r"^expected an array of numbers or text, got dtype object"):
        receive(packed({"array": ["|O", [1]]}, b"12345678"))
    with pytest.raises(ValueError, match="expected one of numpy's generators, got 'default_rng'"):
        receive(packed({"generator": {"dict": [["bit_generator", "default_rng"]]}}))
    with pytest.raises(ValueError, match="expected a value that `send` wrote, got 'eval'"):
        receive(packed({"eval": "1"}))
    with pytest.raises(ValueError, match="expected 8 bytes of an array, got 3"):
        receive(packed({"array": ["<f8", [1]]}, b"123"))


@pytest.mark.parametrize("size", [0, 5, 20])
def test_a_process_that_ends_in_the_middle(size: int) -> None:
    pipe = io.BytesIO()
    send(pipe, {"image": np.zeros((4, 4))})
    with pytest.raises(EOFError):
        receive(io.BytesIO(pipe.getvalue()[:size]))


def test_only_what_raybc_reads_of_info_is_sent() -> None:
    """Simulators put anything into it."""

    class Env:
        def step(self, action: np.ndarray) -> Any:
            return {"x": action}, 1.0, False, False, {"success": np.bool_(True), "simulator": object()}

    host = Host()
    host._env = Env()  # type: ignore[assignment]
    kind, found = answer(host, ("call", ("step", np.ones(2)), {}))
    assert kind == "ok"
    assert through(found)[4] == {"success": True}
