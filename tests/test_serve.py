"""`python -m raybc.serve`: a real process, real sockets; what comes back is what the policy says here.

Letters: H chunk, A action dim.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import raybc
from raybc.cli import run_main
from raybc.envs.pointmass import POINTMASS_PIXELS
from raybc.inference.agent import Agent
from raybc.types import Observation, SampleSetting, UserError
from tests.helpers import pointmass_bundle
from tests.test_images import image_trainer

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from raybc.serve.__main__ import main
from raybc.serve.batch import Batcher
from raybc.serve.client import RemotePolicy
from raybc.serve.wire import from_json, pack, unpack

TOKEN = "correct-horse-battery"
GOOD: dict[str, Any] = {"state": [-0.8, 0.2, 0.0, 0.0], "goal": [0.8, 0.1]}


def heeds_ctrl_c() -> None:
    """Also where the tests themselves run in the background, which shells let ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def serving(*flags: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """HOST:PORT of a server of its own."""
    command = [sys.executable, "-m", "raybc.serve", *map(str, flags), "--port=0", "--device=cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeds_ctrl_c
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.communicate(timeout=30)
        yield line.strip().rpartition("http://")[2], process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        assert process.returncode == 130


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    pointmass_bundle().save(folder / "plain")
    history = {"obs_steps": 2, "eval_temperature": 1.0, "execute_steps": 2}
    image_trainer(**history).bundle(0).save(folder / "history")
    return folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[str]:
    with serving(bundles / "plain", "--max_request_mb=0.05") as (place, _):
        yield place


@pytest.fixture(scope="module")
def guarded(bundles: Path) -> Iterator[str]:
    """With a token, and a policy of images that remembers."""
    token = bundles / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with serving(bundles / "history", f"--token_file={token}") as (place, _):
        yield place


def ask(place: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and what was answered."""
    connection = http.client.HTTPConnection(place, timeout=60)
    text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, text, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    kind = response.headers["content-type"]
    return response.status, unpack(answer) if kind == "application/msgpack" else json.loads(answer)


# Acting


def test_a_chunk_is_what_it_is_here(server: str, bundles: Path) -> None:
    expected = raybc.load(bundles / "plain").chunk(GOOD)
    status, answer = ask(server, "POST", "/act", {"obs": GOOD})
    assert status == 200
    np.testing.assert_array_equal(np.array(answer["actions"], np.float32), expected)
    arrays = {name: np.array(value, np.float32) for name, value in GOOD.items()}
    status, answer = ask(server, "POST", "/act", pack({"obs": arrays}), content_type="application/msgpack")
    assert (status, answer["actions"].dtype) == (200, np.float32)
    np.testing.assert_array_equal(answer["actions"], expected)


def test_flags_of_sampling_reach_the_policy(bundles: Path) -> None:
    expected = raybc.load(bundles / "plain", solver="heun", flow_steps=3).chunk(GOOD)
    assert not np.array_equal(expected, raybc.load(bundles / "plain", flow_steps=3).chunk(GOOD))
    with serving(bundles / "plain", "--solver=heun", "--flow_steps=3") as (place, _):
        _, answer = ask(place, "POST", "/act", {"obs": GOOD})
    np.testing.assert_array_equal(np.array(answer["actions"], np.float32), expected)


@pytest.fixture(scope="module")
def seen() -> list[dict[str, np.ndarray]]:
    """Two steps with images."""
    env = POINTMASS_PIXELS.make(None)
    return [env.reset(seed=1)[0], env.step(np.ones(2, np.float32))[0]]


def test_an_episode_is_what_it_is_here(guarded: str, bundles: Path, seen: list[dict[str, np.ndarray]]) -> None:
    """Action for action: history, noise and what is executed of a chunk are the session's."""
    here, env = raybc.load(bundles / "history"), POINTMASS_PIXELS.make(None)
    with RemotePolicy(f"http://{guarded}", TOKEN) as there:
        assert there.metadata["run_id"] == here.bundle.run_id
        for seed in (3, 4):
            here.reset(seed)
            there.reset(seed)
            obs, _ = env.reset(seed=seed)
            for _ in range(9):
                action_A = here.act(obs)
                np.testing.assert_array_equal(there.act(obs), action_A)
                obs = env.step(action_A)[0]
            here.observe(obs)
            there.observe(obs)
            np.testing.assert_array_equal(there.chunk(seen[0]), here.chunk(seen[0]))
        with pytest.raises(UserError, match=r"'pixels': expected an image of whole numbers 0..255, 32 x 32 x 3, got"):
            there.chunk({**obs, "pixels": obs["pixels"] / 255})
    with RemotePolicy(f"ws://{guarded}", TOKEN, action_range=(-0.1, 0.1)) as there:
        assert np.abs(there.chunk(seen[0])).max() <= np.float32(0.1)


def test_act_is_told_the_history_and_the_seed(guarded: str, bundles: Path, seen: list[dict[str, np.ndarray]]) -> None:
    here, headers = raybc.load(bundles / "history"), {"authorization": f"Bearer {TOKEN}"}
    lists = [{name: value.tolist() for name, value in obs.items()} for obs in seen]
    for _ in range(2):
        here.reset(7)
        here.observe(seen[0])
        status, answer = ask(guarded, "POST", "/act", {"obs": lists, "seed": 7}, **headers)
        assert status == 200
        np.testing.assert_array_equal(np.array(answer["actions"], np.float32), here.chunk(seen[1]))
    status, answer = ask(guarded, "POST", "/act", {"obs": [{}] * 3}, **headers)
    assert (status, answer["error"]) == (422, "obs: expected one observation or a list of 1..2, got 3")


def test_openpis_clients_understand_it(server: str, bundles: Path) -> None:
    """Metadata first, then bare observations in msgpack with keys of bytes; chunks are `actions`."""
    from websockets.sync.client import connect

    def openpi(array: np.ndarray) -> dict[bytes, Any]:
        return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}

    with connect(f"ws://{server}/ws", compression=None, max_size=None, proxy=None) as socket:
        assert msgpack.unpackb(socket.recv())["actions"]["shape"] == [8, 2]
        socket.send(msgpack.packb({name: openpi(np.array(value)) for name, value in GOOD.items()}))
        answer = unpack(socket.recv())
        np.testing.assert_array_equal(answer["actions"], raybc.load(bundles / "plain").chunk(GOOD))
        socket.send(json.dumps({"obs": GOOD}))
        text = socket.recv()
        assert isinstance(text, str)
        assert json.loads(text)["action"] == answer["actions"][0].tolist()


def test_concurrent_clients_share_batches(server: str, bundles: Path) -> None:
    """Sixteen at once: each has its own answers, and fewer batches than questions were computed."""
    rng = np.random.default_rng(0)
    questions = rng.normal(0, 0.5, (16, 10, 6)).astype(np.float32)
    here = Agent(pointmass_bundle())
    zeros = np.zeros((10, 8, 2), np.float32)
    setting = here.bundle.config.sample_setting
    expected = [here.chunks(Observation(part[:, None]), zeros, setting) for part in questions]
    got: dict[int, list[np.ndarray]] = {}
    before, together = ask(server, "GET", "/health")[1], threading.Barrier(len(questions))

    def client(number: int) -> None:
        with RemotePolicy(f"http://{server}") as policy:
            together.wait()
            rows = ({"state": row[:4], "goal": row[4:]} for row in questions[number])
            got[number] = [policy.chunk(obs) for obs in rows]

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, chunks in enumerate(expected):
        np.testing.assert_array_equal(np.stack(got[number]), chunks)
    after = ask(server, "GET", "/health")[1]
    assert after["asked"] - before["asked"] == 160
    assert after["batches"] - before["batches"] < 160


def test_questions_that_arrive_together_are_one_batch() -> None:
    async def together() -> tuple[int, list[np.ndarray]]:
        with contextlib.closing(Batcher(pointmass_bundle(), SampleSetting(4))) as batcher:
            noise = np.random.default_rng(0).standard_normal((150, 8, 2)).astype(np.float32)
            obs = Observation(np.zeros((1, 6), np.float32))
            chunks = await asyncio.gather(*(batcher.predict((obs, n)) for n in noise))
            alone = [await batcher.predict((obs, n)) for n in noise[:3]]
            np.testing.assert_array_equal(np.stack(alone), np.stack(chunks[:3]))
            return batcher.batches, chunks

    batches, chunks = asyncio.run(together())
    assert (batches, len(chunks)) == (3 + 3, 150), "64, 64 and 22 of 150; then one by one"
    assert len(np.unique(np.stack(chunks), axis=0)) == 150


def test_health_and_metadata(server: str) -> None:
    status, health = ask(server, "GET", "/health")
    assert (status, health["status"]) == (200, "ok")
    status, metadata = ask(server, "GET", "/metadata")
    bundle = pointmass_bundle()
    assert (status, metadata["run_id"], metadata["fps"]) == (200, bundle.run_id, 10.0)
    assert metadata["observations"]["state"]["shape"] == [1, 4]
    assert metadata["setting"]["flow_steps"] == bundle.config.flow_steps


# What is refused


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not readable as JSON"),
        (b"\xff\xfe", 400, "not readable as JSON"),
        (b"[" * 40_000, 400, "not readable as JSON"),
        (b'{"obs": {"state": [NaN, 0, 0, 0], "goal": [0, 0]}}', 400, "expected finite numbers, got NaN"),
        ([1], 422, "expected {"),
        ({"obs": GOOD, "more": 1}, 422, "expected {"),
        ({"obs": []}, 422, "expected one observation or a list of 1..1, got 0"),
        ({"obs": 3}, 422, "expected name -> array, got int"),
        ({"obs": {"state": GOOD["state"], "goals": [0, 0]}}, 422, "'goal': expected finite numbers, 2, got none"),
        ({"obs": {**GOOD, "goal": [0, 0, 0]}}, 422, "'goal': expected finite numbers, 2, got 3 of int64"),
        ({"obs": {**GOOD, "goal": [0, 1e400]}}, 400, "expected finite numbers, got Infinity"),
        ({"obs": {**GOOD, "goal": [0, 1e39]}}, 422, "got nan or inf"),
        ({"obs": {**GOOD, "goal": ["a", None]}}, 422, "'goal': expected finite numbers, 2, got 2 of object"),
        ({"obs": GOOD, "seed": -1}, 422, "seed: expected a whole number of at least 0, or null, got -1"),
        (b" " * 60_000, 413, "body: expected at most 52428 bytes"),
    ],
)
def test_bad_requests(server: str, body: Any, status: int, words: str) -> None:
    got, answer = ask(server, "POST", "/act", body)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]
    assert ask(server, "POST", "/act", {"obs": GOOD})[0] == 200, "the server goes on"


def test_bad_msgpack(server: str) -> None:
    good = {b"__ndarray__": True, b"data": bytes(16), b"dtype": "<f4", b"shape": [4]}
    for change, words in (
        ({b"dtype": "|O"}, "array: expected a dtype of"),
        ({b"dtype": "<f8"}, "array: expected the bytes of <f8 [4], got other data"),
        ({b"shape": [-1]}, "expected a shape of at most 8 sizes"),
        ({b"shape": [2**62, 4]}, "got other data"),
        ({b"data": "text"}, "got other data"),
    ):
        body = msgpack.packb({"obs": {**GOOD, "state": {**good, **change}}})
        status, answer = ask(server, "POST", "/act", body, content_type="application/msgpack")
        assert status == 400
        assert words in answer["error"]
    for body in (b"\xc1", b"", b"\x93", b"\x91" * 5000, msgpack.packb(1) * 2, b"\xdf\xff\xff\xff\xff"):
        status, answer = ask(server, "POST", "/act", body, content_type="application/msgpack")
        assert status == 400, body[:10]
        assert "not readable as msgpack" in answer["error"]


def test_other_paths_and_kinds(server: str) -> None:
    assert ask(server, "GET", "/nothing")[0] == 404
    assert ask(server, "GET", "/act")[0] == 405
    assert ask(server, "POST", "/act", b"x", content_type="application/x-pickle")[0] == 415


def test_pages_of_other_sites_are_refused(server: str) -> None:
    """What a browser on this machine sends for them."""
    for headers in ({"origin": "https://example.org"}, {"host": "example.org"}, {"host": ""}):
        status, answer = ask(server, "POST", "/act", {"obs": GOOD}, **headers)
        assert (status, answer["error"].partition(":")[0]) == (403, "forbidden")
    for host in ("localhost:1", "[::1]:80", "127.0.0.1"):
        assert ask(server, "GET", "/health", host=host)[0] == 200


def test_the_token_is_asked_for(guarded: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}, {"authorization": TOKEN}):
        for method, path in (("GET", "/health"), ("GET", "/metadata"), ("POST", "/act"), ("GET", "/nothing")):
            status, answer = ask(guarded, method, path, **headers)
            assert (status, answer["error"].partition(":")[0]) == (401, "unauthorised")
    assert ask(guarded, "GET", "/health", authorization=f"Api-Key {TOKEN}")[0] == 200
    for token in ("", "wrong"):
        with pytest.raises(UserError, match="unauthorised: expected the header Authorization"):
            RemotePolicy(f"http://{guarded}", token)


def test_a_session_survives_what_is_wrong(server: str) -> None:
    with RemotePolicy(f"http://{server}") as policy:
        chunk = policy.chunk(GOOD)
        for obs, words in (
            ({"state": GOOD["state"]}, "'goal': expected finite numbers, 2, got none of that name"),
            ({**GOOD, "goal": [[1], [2, 3]]}, "not a numeric array"),
            ({**GOOD, "goal": [0.0, float("nan")]}, "got nan or inf"),
            ({**GOOD, "goal": [0, 10**400]}, "got one of more than 64 bits"),
            ({**GOOD, "goal": object()}, "expected numbers, texts"),
        ):
            with pytest.raises(UserError, match=words):
                policy.act(obs)
        with pytest.raises(UserError, match="seed: expected a whole number"):
            policy.reset(-1)
        np.testing.assert_array_equal(policy.chunk(GOOD), chunk)
        with pytest.raises(ConnectionError, match=r"the server went away|no answer"):
            policy.act({**GOOD, "more": np.zeros(20_000)})
    assert ask(server, "GET", "/health")[1]["sessions"] == 0


def test_a_late_answer_is_never_returned_for_a_newer_observation(bundles: Path) -> None:
    """A robot would act on stale data: the connection is closed, every further call says so, `reset` connects again."""
    near, far = GOOD, {**GOOD, "state": [0.7, 0.1, 0.0, 0.0]}
    here = raybc.load(bundles / "plain")
    with serving(bundles / "plain") as (place, process), RemotePolicy(f"http://{place}", timeout=2.0) as policy:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionError, match="no answer within 2 s"):
                policy.act(near)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        for call in (policy.act, policy.chunk, policy.observe):
            with pytest.raises(ConnectionError, match=r"an answer did not come within 2 s.*`reset` connects again"):
                call(far)
        for obs in (far, near):
            policy.reset(0)
            here.reset(0)
            np.testing.assert_array_equal(policy.act(obs), here.act(obs))
        policy.close()
        with pytest.raises(ConnectionError, match="this connection was closed; make a new RemotePolicy"):
            policy.reset()


def test_threads_that_share_a_connection_get_their_own_answers(server: str, bundles: Path) -> None:
    questions = np.random.default_rng(0).normal(0, 0.5, (8, 6)).astype(np.float32)
    obs = [{"state": row[:4], "goal": row[4:]} for row in questions]
    got: dict[int, np.ndarray] = {}
    with RemotePolicy(f"http://{server}") as policy:

        def ask_one(number: int) -> None:
            for _ in range(5):
                got[number] = policy.chunk(obs[number])

        threads = [threading.Thread(target=ask_one, args=(i,)) for i in range(len(obs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    here = raybc.load(bundles / "plain")
    for number, chunk in got.items():
        np.testing.assert_array_equal(chunk, here.chunk(obs[number]))
    assert len(got) == len(obs)


def test_numbers_of_messages_are_repeated(server: str) -> None:
    from websockets.sync.client import connect

    with connect(f"ws://{server}/ws", compression=None, max_size=None, proxy=None) as socket:
        socket.recv()
        for message, key in (({"obs": GOOD, "id": 7}, "action"), ({"reset": 1, "id": 0}, "reset")):
            socket.send(pack(message))
            answer = unpack(socket.recv())
            assert (key in answer, answer["id"]) == (True, message["id"])
        for message, words in (
            ({"obs": {}, "id": 9}, "expected finite numbers"),
            ({"obs": GOOD, "id": -1}, "id: expected a whole number"),
            ({"obs": GOOD, "id": "x"}, "id: expected a whole number"),
        ):
            socket.send(json.dumps(message))
            answer = json.loads(socket.recv())
            assert words in answer["error"]
            assert answer.get("id") == (9 if message["id"] == 9 else None)
        socket.send(json.dumps({"obs": GOOD}))
        assert "id" not in json.loads(socket.recv())


@pytest.fixture
def scripted() -> Iterator[tuple[str, list[Any]]]:
    """HOST:PORT of a server that answers with what stands in a list: a value, a text, or a function of the message."""
    from websockets.sync.server import serve

    answers: list[Any] = []

    def talk(socket: Any) -> None:
        socket.send(pack({"actions": {"shape": [8, 2]}, "run_id": "of connection"}))
        with contextlib.suppress(Exception):
            for received in socket:
                answer = answers.pop(0)
                answer = answer(unpack(received)) if callable(answer) else answer
                socket.send(answer if isinstance(answer, str) else pack(answer))

    with serve(talk, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{made.socket.getsockname()[1]}", answers
        made.shutdown()
        thread.join(10)


def test_answers_to_other_messages_are_refused(scripted: tuple[str, list[Any]]) -> None:
    place, answers = scripted
    action = np.zeros(2, np.float32)
    with RemotePolicy(f"http://{place}", timeout=5.0) as policy:
        answers[:] = [lambda message: {"action": action, "id": message["id"]}]
        policy.act(GOOD)
        answers[:] = [lambda message: {"action": action}]
        policy.act(GOOD)  # a server of an earlier release repeats no numbers
        answers[:] = [lambda message: {"action": action, "id": message["id"] - 1}]
        with pytest.raises(ConnectionError, match="expected the answer to message 3, got that to 2"):
            policy.act(GOOD)
        with pytest.raises(ConnectionError, match="an answer to another message came"):
            policy.act(GOOD)
        answers[:] = [{"reset": True}, json.dumps({"error": "late", "id": 1})]
        policy.reset()
        with pytest.raises(ConnectionError, match="got that to 1"):
            policy.act(GOOD)


def test_an_interrupted_wait_closes_the_connection(
    scripted: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, answers = scripted
    with RemotePolicy(f"http://{place}") as policy:

        def ctrl_c(**_: object) -> None:
            raise KeyboardInterrupt

        answers[:] = [{"action": np.ones(2)}, {"action": np.ones(2)}]
        with monkeypatch.context() as patch:
            patch.setattr(policy._socket, "recv", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                policy.act(GOOD)
        with pytest.raises(ConnectionError, match="waiting for an answer was interrupted"):
            policy.act(GOOD)


def test_another_policy_after_connecting_again_is_refused(scripted: tuple[str, list[Any]]) -> None:
    place, answers = scripted
    with RemotePolicy(f"http://{place}", timeout=5.0) as policy:
        policy.metadata["run_id"] = "another"
        answers[:] = [{"action": np.ones(2), "id": 99}]
        with pytest.raises(ConnectionError, match="got that to 99"):
            policy.act(GOOD)
        with pytest.raises(UserError, match="another policy is served there by now"):
            policy.reset()
        with pytest.raises(UserError, match="another policy is served there by now"):
            policy.reset()


def test_a_request_that_was_given_up_keeps_no_other_one_waiting(tmp_path: Path) -> None:
    """The shared network: a process that died does not stop the answers to the others, nor shift their rows."""
    from raybc.inference.shared import InferenceServer

    pointmass_bundle().save(tmp_path / "bundle")
    obs = [Observation(np.full((1, 1, 6), x, np.float32)) for x in (0.1, 0.2, 0.3)]
    noise = np.zeros((1, 8, 2), np.float32)
    path, setting = str(tmp_path / "bundle"), SampleSetting(4)

    async def run() -> list[Any]:
        actor = InferenceServer("cpu")
        tasks = [asyncio.create_task(actor.chunks(path, one, noise, setting)) for one in obs]
        await asyncio.sleep(0)
        tasks[0].cancel()
        rest = await asyncio.wait_for(asyncio.gather(*tasks[1:]), 60)
        with pytest.raises(ValueError, match="expected 2 rows in every observation"):
            await actor.chunks(path, obs[0], np.repeat(noise, 2, 0), setting)
        return [*rest, await actor.chunks(path, obs[0], noise, setting)]

    second, third, first = asyncio.run(run())
    agent = Agent(pointmass_bundle())
    for one, got in zip(obs, (first, second, third), strict=True):
        np.testing.assert_array_equal(got, agent.chunks(one, noise, setting))


def test_a_server_that_is_not_there(free_port: int) -> None:
    with pytest.raises(ConnectionError, match="no policy is served there"):
        RemotePolicy(f"http://127.0.0.1:{free_port}")
    with pytest.raises(UserError, match=r"url: expected http://HOST:PORT"):
        RemotePolicy("somewhere")


def test_impossible_flags(bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str) -> None:
    bundle, open_file, short = str(bundles / "plain"), tmp_path / "open", tmp_path / "short"
    open_file.write_text(TOKEN)
    open_file.chmod(0o644)
    short.write_text("123")
    short.chmod(0o600)
    for flags, words in (
        (["--host=0.0.0.0"], "--host 0.0.0.0: other machines could connect; expected --token_file"),
        ([f"--token_file={open_file}"], f"can be read by others; run: chmod 600 {open_file}"),
        ([f"--token_file={short}"], "expected at least 16 ASCII characters"),
        ([f"--token_file={tmp_path / 'no'}"], "expected a file, found none"),
        ([f"--port={server.rpartition(':')[2]}"], "is in use; choose another, or 0 for any that is free"),
        (["--port=70000"], "--port: expected 0..65535"),
        (["--threads=0"], "--threads: expected 1..1024, got 0"),
        (["--flow_steps=0"], "flow_steps: expected at least 1"),
    ):
        assert run_main(lambda given=flags: main([bundle, *given])) == 2  # type: ignore[misc]
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_missing_packages_are_named(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_main(lambda: main([str(bundles / "plain")])) == 2
    assert "raybc.serve: needs the package uvicorn: pip install 'raybc[serve]'" in capsys.readouterr().err


def test_a_client_needs_no_torch() -> None:
    code = "import sys, raybc.serve.client; print(*[m for m in ('torch', 'ray', 'starlette') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert out.stdout == "\n"


def test_numbers_of_python_are_json() -> None:
    with pytest.raises(UserError, match="not readable as JSON"):
        from_json("1" * 5000)
