"""`openpi:` and `vla-eval:`: real servers and sockets; what comes back late, broken or not at all is an error."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.foreign.inputs import Inputs, axis_angle, padded
from raybc.foreign.measured import MeasuredForeign
from raybc.foreign.reference import Reference
from raybc.inference.agent import Agent
from raybc.rollout.__main__ import main
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.worker import load_agent
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.foreign_policies import towards
from tests.helpers import pointmass_bundle
from tests.test_serve import serving

msgpack = pytest.importorskip("msgpack")
sockets = pytest.importorskip("websockets.sync.server")

from raybc.foreign.vla_eval import packed  # noqa: E402
from raybc.serve.wire import pack, unpack  # noqa: E402

Handler = Callable[[Any], None]


@contextlib.contextmanager
def served(handler: Handler) -> Iterator[str]:
    """HOST:PORT of a WebSocket server in this process."""
    with sockets.serve(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def openpi(trouble: Callable[[Any, int], bool] = lambda socket, calls: False) -> Handler:
    """A server that solves the point mass. trouble(socket, calls): what it does instead of an answer, if it is true."""

    def handle(socket: Any) -> None:
        with contextlib.suppress(Exception):
            socket.send(pack({"policy": "towards"}))
            for calls, message in enumerate(socket):
                if not trouble(socket, calls):
                    socket.send(pack({"actions": towards(unpack(message))[None].repeat(2, 0), "server_timing": {}}))

    return handle


class VlaEval:
    """A server of the harness; it acts as long as the episode was started, and counts."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble, self.episodes, self.ended, self.seen = trouble, 0, 0, list[dict[str, Any]]()

    def __call__(self, socket: Any) -> None:
        with contextlib.suppress(Exception):
            started, calls = False, 0
            for data in socket:
                message = unpack(data)
                kind, payload, seq = message["type"], message["payload"], message["seq"]
                if kind == "hello":
                    spoken = 2 if self.trouble == "protocol" else payload["protocol_version"]
                    socket.send(packed("hello", {"protocol_version": spoken, "harness_version": "0"}, seq))
                elif kind == "episode_start":
                    started, calls = True, 0
                    self.episodes += 1
                elif kind == "episode_end":
                    started = False
                    self.ended += 1
                elif kind == "observation":
                    assert started
                    self.seen.append(payload)
                    calls += 1
                    if self.trouble == "error" and calls > 5:
                        socket.send(packed("error", {"error": "observation_failed: no"}, seq))
                        continue
                    states = payload["states"]
                    action = towards({"state": states[:4], "goal": states[4:]})
                    late = self.trouble == "late" and calls > 5
                    socket.send(packed("action", {"actions": action}, seq - 1 if late else seq))


def policy(kind: str, where: str, timeout: float = 5.0, **more: Any) -> MeasuredForeign:
    return MeasuredForeign(Reference(kind, where, timeout=timeout, **more), "pointmass")


def run(asked: MeasuredForeign, slots: int = 3, starts: int = 4) -> list[EpisodeRow]:
    engine, found = Engine(load_agent, slots=slots), dict[int, EpisodeRow]()
    for number in range(starts):
        engine.add(number, Rollout(asked.reference, SampleSetting(0)), EpisodeSpec("pointmass", "search", number))
    while not engine.idle:
        for number, row in engine.round():
            assert isinstance(row, dict), row
            found[number] = row | {"seconds": 0.0}
    return [found[number] for number in sorted(found)]


# openpi


def test_our_own_server_speaks_openpis_protocol(tmp_path: Path) -> None:
    """The same episodes as from the bundle behind it."""
    pointmass_bundle().save(tmp_path / "bundle")
    agent, own = Agent(pointmass_bundle()), dict[int, Any]()
    engine = Engine(lambda path: agent, slots=3)
    for number in range(4):
        engine.add(number, Rollout("b", SampleSetting(2)), EpisodeSpec("pointmass", "search", number))
    while not engine.idle:
        own |= dict(engine.round())
    with serving(tmp_path / "bundle", "--flow_steps=2") as (place, _):
        rows = run(policy("openpi", f"{place}/ws"))
    assert rows == [own[number] | {"seconds": 0.0} for number in sorted(own)]


def fails(kind: str) -> Callable[[Any, int], bool]:
    def trouble(socket: Any, calls: int) -> bool:
        if calls < 3:
            return False
        if kind == "late":
            time.sleep(0.6)
            return False
        if kind == "closed":
            socket.close()
            raise EOFError
        socket.send(
            {
                "text": "Traceback (most recent call last):\n  File x\nKeyError: 'prompt'\n",
                "bytes": b"\xc1",
                "list": pack([1]),
                "nothing": pack({}),
                "nan": pack({"actions": np.full((2, 2), np.nan)}),
                "shape": pack({"actions": np.zeros((2, 7))}),
                "words": pack({"actions": "left"}),
                "pickle": msgpack.packb({b"__ndarray__": True, b"data": b"x", b"dtype": "|O", b"shape": [1]}),
            }[kind]
        )
        return True

    return trouble


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("late", "no answer within 0.3 s (--policy_timeout)"),
        ("closed", "the server went away"),
        ("text", "the server refused: KeyError: 'prompt'"),
        ("bytes", "message: not readable as msgpack"),
        ("list", "expected a map, got list"),
        ("nothing", "expected 'actions', got nothing"),
        ("nan", "got nan or inf"),
        ("shape", "expected an action (2,) or a chunk (H, 2) of finite numbers, got the shape (2, 7)"),
        ("words", "got str of <U4"),
        ("pickle", "message: array: expected a dtype of"),
    ],
)
def test_what_a_server_does_wrong_is_an_error_of_its_episode(kind: str, expected: str) -> None:
    """At its fourth answer; and the next episode has a connection of its own."""
    with served(openpi(fails(kind))) as place:
        rows = run(policy("openpi", place, timeout=0.3 if kind == "late" else 5.0), starts=2)
    for row in rows:
        assert (row["outcome"], row["error_kind"]) == ("error", "PolicyError")
        assert expected in row["message"]
        assert "(at step 6)" in row["message"], "chunks of two steps"


def test_a_server_that_is_well_solves_the_task() -> None:
    with served(openpi()) as place:
        assert {row["outcome"] for row in run(policy("openpi", place))} == {"success"}


def test_a_server_that_comes_back_is_asked_again() -> None:
    """Only the episodes of the time between are errors."""
    with served(openpi()) as place:
        asked = policy("openpi", place)
        assert {row["outcome"] for row in run(asked)} == {"success"}
    host, _, port = place.partition(":")
    assert {row["error_kind"] for row in run(asked, starts=2)} == {"PolicyError"}
    with sockets.serve(openpi(), host, int(port), compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert {row["outcome"] for row in run(asked, starts=2)} == {"success"}
        server.shutdown()


# vla-eval


def test_a_server_of_the_harness() -> None:
    """An episode is announced and ended; it has its observations as the harness names them."""
    server = VlaEval()
    with served(server) as place:
        rows = run(policy("vla-eval", place), starts=4)
    assert {row["outcome"] for row in rows} == {"success"}
    assert server.episodes == 4
    assert server.ended >= 3, "the last one may still be on its way"
    assert len(server.seen) == sum(row["steps"] for row in rows)
    assert server.seen[0].keys() == {"states", "task_description"}


def test_errors_of_the_harness() -> None:
    with served(VlaEval("error")) as place:
        rows = run(policy("vla-eval", place), starts=2)
    assert {row["message"] for row in rows} == {"PolicyError: the server refused: observation_failed: no (at step 5)"}
    with served(VlaEval("late")) as place:  # answers to other observations are none
        rows = run(policy("vla-eval", place, timeout=0.3), starts=1)
    assert "no answer within 0.3 s" in rows[0]["message"]
    with (
        served(VlaEval("protocol")) as place,
        pytest.raises(UserError, match="expected 'hello' of protocol 1, got prot"),
    ):
        policy("vla-eval", place)


# Refusals


def silent(socket: Any) -> None:
    time.sleep(1)


@pytest.mark.parametrize("kind", ["openpi", "vla-eval"])
def test_nobody_there_is_refused_before_anything_starts(
    kind: str, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env_name", "pointmass", "--out", str(tmp_path / "out")]

    def refused(where: str, *more: str) -> str:
        assert run_main(lambda: main([f"{kind}:{where}", *words, *more])) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1, error
        return " ".join(error.split())

    assert f"no policy is served at ws://127.0.0.1:{free_port}" in refused(f"127.0.0.1:{free_port}")
    assert f"expected {kind}:HOST:PORT" in refused("somewhere")
    assert "expected seconds above 0 and below --deadline" in refused("127.0.0.1:1", "--policy_timeout", "500")
    assert "expected NAME=OBSERVATION" in refused("127.0.0.1:1", "--policy_inputs", "image")
    with served(silent) as place:
        assert "no answer within 0.2 s" in refused(place, "--policy_timeout", "0.2")
    assert not (tmp_path / "out").exists()


def test_the_first_answer_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(socket: Any, calls: int) -> bool:
        socket.send("KeyError: 'observation/image'")
        return True

    with served(openpi(refuses)) as place:
        words = [f"openpi:{place}", "--env_name", "pointmass", "--out", str(tmp_path / "out")]
        assert run_main(lambda: main(words)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "the server refused: KeyError: 'observation/image' (asked once for a start of pointmass" in error


# What is sent


def test_inputs_are_made_of_observations() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    obs = {
        "a": np.array([1.0, 2.0], np.float32),
        "q": np.array([1.0, 0, 0, 0], np.float32),
        "i": image,
        "instruction": "go",
    }
    made = Inputs.read("observation/state=a+q:axis_angle,image=i:mirror:flip,small=i:4,prompt=instruction").of(obs)
    assert made["observation/state"].tolist() == [1, 2, pytest.approx(np.pi), 0, 0]
    assert np.array_equal(made["image"], image[::-1, ::-1])
    assert made["prompt"] == "go"
    assert made["small"].shape == (4, 4, 3)
    assert (made["small"][[0, 3]] == 0).all(), "a border, so that the whole image is kept"
    assert np.array_equal(made["small"][1:3], image)
    shapes = {"a": (2,), "q": (4,), "i": (2, 4, 3)}
    for text, expected in (
        ("x=b", "'b', which task does not have"),
        ("x=front_image", "as in NAME@256x256"),
        ("x=a:mirror", "mirror has no meaning for a"),
        ("x=i+i", "images cannot be joined"),
        ("x=instruction:flip", "the instruction is a text"),
        ("x=a:turn", "expected an operation of mirror, flip"),
    ):
        with pytest.raises(UserError, match=expected):
            Inputs.read(text).check(shapes, "task", "openpi:x")


def test_axis_angles_are_those_of_robosuite() -> None:
    """Up to 2 pi: a quaternion and its negative differ, as in what policies were trained with."""
    transform = pytest.importorskip("robosuite.utils.transform_utils")
    rng = np.random.default_rng(0)
    for quaternion in rng.standard_normal((50, 4)):
        unit = quaternion / np.linalg.norm(quaternion)
        np.testing.assert_allclose(axis_angle(unit), transform.quat2axisangle(unit.copy()), atol=1e-5)


def test_a_resized_image_keeps_its_proportions() -> None:
    whole = padded(np.full((100, 200, 3), 255, np.uint8), 64, 64)
    assert (whole[16:48] == 255).all()
    assert (whole[:16] == 0).all()
    assert (whole[48:] == 0).all()


@pytest.mark.slow
def test_libero_is_sent_what_openpis_policies_learned(libero_home: Path, tmp_path: Path) -> None:
    """Its simulators are in an environment of their own, so the policy is asked from an actor beside them."""
    seen: list[dict[str, Any]] = []

    def handle(socket: Any) -> None:
        with contextlib.suppress(Exception):
            socket.send(pack({}))
            for message in socket:
                seen.append(unpack(message))
                socket.send(pack({"actions": np.zeros((10, 7))}))

    with served(handle) as place:
        words = [f"openpi:{place}", "--env_name", "libero_object-0@256x256", "--max_steps", "12", "--episodes", "1",
                 "--workers", "1", "--execute_steps", "5", "--out", str(tmp_path / "out")]  # fmt: skip
        # In a process of its own: a Ray that other tests started has another home, without the environment.
        subprocess.run([sys.executable, "-m", "raybc.rollout", *words], check=True, timeout=600)
    assert len(seen) == 1 + 3, "once before, and for steps 0, 5 and 10"
    image = (224, 224, 3)
    sizes = {"observation/image": image, "observation/wrist_image": image, "observation/state": (8,), "prompt": ()}
    assert {name: np.shape(value) for name, value in seen[1].items()} == sizes
    assert seen[1]["prompt"].startswith("pick up the")
