"""Policies of others: they act as they would alone, and what goes wrong in them is an error of its episode."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.files import read_json
from raybc.foreign.base import About
from raybc.foreign.host import EpisodeHost, Question
from raybc.foreign.measured import MeasuredForeign
from raybc.foreign.reference import Reference
from raybc.inference.agent import Agent
from raybc.inference.predictor import PolicyError
from raybc.inference.shared import InferenceServer
from raybc.rollout.__main__ import main
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.faults import raised
from raybc.rollout.worker import load_agent
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec, SampleSetting
from tests.helpers import pointmass_bundle

HERE = "module:tests.foreign_policies:"


def job(name: str, argument: str = "", **setting: Any) -> Rollout:
    of = MeasuredForeign(Reference("module", f"tests.foreign_policies:{name}", argument), "pointmass")
    return Rollout(of.reference, SampleSetting(**{"flow_steps": 0, **setting}))


def run(jobs: Rollout | list[Rollout], slots: int = 4, starts: int = 6) -> list[EpisodeRow]:
    engine, found = Engine(load_agent, slots=slots), dict[int, EpisodeRow]()
    jobs = [jobs] if isinstance(jobs, Rollout) else jobs
    for number in range(starts * len(jobs)):
        engine.add(number, jobs[number // starts], EpisodeSpec("pointmass", "search", number % starts))
    while not engine.idle:
        for number, row in engine.round():
            assert isinstance(row, dict), row
            found[number] = row | {"seconds": 0.0}
    return [found[number] for number in sorted(found)]


def rollout(*words: object) -> int:
    return run_main(lambda: main([str(word) for word in words]))


# What it does


def test_a_callable_is_measured() -> None:
    assert {row["outcome"] for row in run(job("expert"))} == {"success"}


@pytest.mark.parametrize("name", ["expert", "batched", "counting"])
def test_an_episode_depends_on_nothing_beside_it(name: str) -> None:
    """A policy that remembers has an object for each simulator, and starts afresh in each episode."""
    together = run(job(name, execute_steps=0 if name != "counting" else 3), slots=4)
    assert together == run(job(name, execute_steps=0 if name != "counting" else 3), slots=1)
    assert len({row["return"] for row in together}) >= 1


def test_a_batched_callable_does_what_a_plain_one_does() -> None:
    assert run(job("batched")) == run(job("expert"))


@pytest.mark.parametrize(
    "setting", [{}, {"execute_steps": 3}, {"temporal_ensemble": 0.1}, {"execute_steps": 2, "temporal_ensemble": 0.0}]
)
def test_chunks_are_executed_as_those_of_our_own(setting: dict[str, Any], tmp_path: Path) -> None:
    """raybc's own policy behind a callable gives the same episodes as the bundle, whatever the sampling."""
    pointmass_bundle().save(tmp_path / "bundle")
    agent = Agent(pointmass_bundle())
    theirs = run(job("of_bundle", str(tmp_path / "bundle"), flow_steps=3, **setting))
    own, engine = dict[int, Any](), Engine(lambda path: agent, slots=4)
    for number in range(6):
        engine.add(number, Rollout("b", SampleSetting(3, **setting)), EpisodeSpec("pointmass", "search", number))
    while not engine.idle:
        own |= dict(engine.round())
    assert theirs == [own[number] | {"seconds": 0.0} for number in sorted(own)]


def test_every_step_is_seen_by_a_policy_that_observes() -> None:
    from tests import foreign_policies

    policy = foreign_policies.Counting()
    policy.reset(0)
    engine = Engine(load_agent, slots=1)
    made = pytest.MonkeyPatch()
    made.setattr(foreign_policies, "Counting", lambda: policy)
    engine.add(0, job("counting", "alone", execute_steps=4), EpisodeSpec("pointmass", "search", 0))
    while not engine.idle:
        rows = [row for _, row in engine.round()]
    made.undo()
    assert isinstance(rows[-1], dict)
    assert policy.seed == EpisodeSpec("pointmass", "search", 0).seed
    assert len(policy.seen) == 4 * ((rows[-1]["steps"] - 1) // 4) + 1, "all but those after the last request"


# What goes wrong


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("raise", "the policy raised ValueError: no idea what to do (foreign_policies.py, line "),
        ("exit", "the policy raised SystemExit: 3"),
        ("nan", "expected an action (2,) or a chunk (H, 2) of finite numbers, got nan or inf"),
        ("nothing", "expected 2 numbers, got nothing (None)"),
        ("text", "got str of <U4"),
        ("three", "got the shape (3,)"),
        ("empty", "got the shape (0, 2)"),
        ("deep", "got the shape (1, 4, 2)"),
        ("ragged", "got no array"),
    ],
)
def test_what_is_no_action_is_an_error_of_its_episode(kind: str, expected: str) -> None:
    """Never a failure; the step is named, nothing is repeated, and the other episodes of the process are as ever."""
    bad = EpisodeSpec("pointmass", "search", 2)
    rows = run(job("failing", f"{kind}@5@{bad.seed}"))
    assert [row["outcome"] for row in rows] == ["success", "success", "error", "success", "success", "success"]
    assert expected in rows[2]["message"]
    assert "(at step 5)" in rows[2]["message"]
    assert (rows[2]["error_kind"], rows[2]["retries"]) == ("PolicyError", 0)
    others = run(job("expert"))
    assert [row for row in rows if row["index"] != 2] == [row for row in others if row["index"] != 2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((f"{HERE}expert",), "expected --env_name NAME"),
        ((f"{HERE}expert", "--env_name", "pointmas"), "unknown environment 'pointmas'"),
        (("module:expert", "--env_name", "pointmass"), "expected module:PACKAGE.MODULE:FUNCTION"),
        (("module:nowhere.py:expert", "--env_name", "pointmass"), "there is no file"),
        (("module:no_such_module:expert", "--env_name", "pointmass"), "there is no module 'no_such_module'"),
        ((f"{HERE}exper", "--env_name", "pointmass"), "has no 'exper': did you mean 'expert'"),
        ((f"{HERE}NUMBER", "--env_name", "pointmass"), "expected a function that makes a policy, got int"),
        ((f"{HERE}no_callable", "--env_name", "pointmass"), "expected a function that returns a callable"),
        ((f"{HERE}raising", "--env_name", "pointmass"), "making the policy failed: OSError: no such checkpoint"),
        ((f"{HERE}needing_images", "--env_name", "pointmass"), "observation 'front_image': pointmass has none of that"),
        (
            (f"{HERE}failing", "--policy_argument", "raise@0", "--env_name", "pointmass"),
            "the policy raised ValueError: no idea what to do",
        ),
        (
            (f"{HERE}failing", "--policy_argument", "three@0", "--env_name", "pointmass"),
            "got the shape (3,) (asked once for a start of pointmass",
        ),
        (
            (f"{HERE}counting", "--env_name", "pointmass", "--execute_steps", "1,5"),
            "--execute_steps: expected 0..4, the steps of its chunk, got 5",
        ),
        (
            (f"{HERE}expert", "--env_name", "pointmass", "--temporal_ensemble", "0.1"),
            "--temporal_ensemble: has no effect on module:tests.foreign_policies:expert, which answers single actions",
        ),
        (
            (f"{HERE}expert", "--env_name", "pointmass", "--policy_inputs", "a=b"),
            "--policy_inputs: has no effect on module:",
        ),
        ((f"{HERE}expert", "--env_name", "pointmass", "--solver", "heun"), "--solver: has no effect on module:"),
        ((f"{HERE}expert", "--env_name", "pointmass", "--flow_steps", "3"), "--flow_steps: has no effect on module:"),
        ((f"{HERE}expert", "--env_name", "pointmass", "--checkpoint", "best"), "--checkpoint: module:"),
        ((".", "--env_name", "pointmass"), "--env_name: expected a policy of others"),
    ],
)
def test_what_is_refused_before_anything_starts(
    words: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollout(*words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert expected in " ".join(error.split())
    assert len(error.strip().splitlines()) == 1, error
    assert " ".join(error.split()).count(f"{words[0]}: ") <= 1, error
    assert not (tmp_path / "out").exists()


# As a user types it


def test_settings_of_one_policy_in_one_command(
    ray_cpus: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, metrics and videos are those of any evaluation; each combination of sample axes is measured."""
    pointmass_bundle().save(tmp_path / "bundle")
    argument, out = tmp_path / "bundle", tmp_path / "out"
    words = (f"{HERE}of_bundle", "--policy_argument", argument, "--env_name", "pointmass", "--flow_steps", "2,4",
             "--execute_steps", "1,8", "--episodes", "3", "--workers", "1", "--out", out)  # fmt: skip
    assert rollout(*words) == 0
    own = tmp_path / "own"
    assert rollout(argument, *words[5:-1], own) == 0
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    expected = [json.loads(line) for line in (own / "episodes.jsonl").read_text().splitlines()]
    for row in (*rows, *expected):
        del row["seconds"]
    assert rows == expected
    assert "execute_steps" in capsys.readouterr().out, "a column of the table, since it differs"
    found = read_json(out / "metrics.json")
    assert [(s["flow_steps"], s["execute_steps"]) for s in found["settings"]] == [(2, 1), (2, 8), (4, 1), (4, 8)]
    assert (found["bundle"], found["env_name"]) == (f"{HERE}of_bundle", "pointmass")


def test_a_policy_that_gives_up_ends_the_evaluation_early(
    ray_cpus: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its episodes are errors, in no rate; once it is mended, --resume runs them."""
    code, out = tmp_path / "policy.py", tmp_path / "out"
    code.write_text(
        "import numpy as np\n"
        "class Policy:\n"
        "    def reset(self, seed): self.calls = 0\n"
        "    def __call__(self, obs):\n"
        "        self.calls += 1\n"
        "        return np.zeros(2) if self.calls < 3 else 1 / 0\n"
        "make = Policy\n"
    )
    words = (f"module:{code}:make", "--env_name", "pointmass", "--episodes", "60", "--workers", "1", "--slots", "4",
             "--out", out)  # fmt: skip
    assert rollout(*words) == 1
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["error"] * 60
    assert sum("not run, because 10 neighbouring starts failed" in row["message"] for row in rows) >= 20
    assert read_json(out / "metrics.json")["settings"][0]["success_rate"] is None
    error = " ".join(capsys.readouterr().err.split())
    assert "60 of 60 episodes ended in errors" in error
    assert "the policy raised ZeroDivisionError: division by zero (policy.py, line 6) (at step 2)" in error
    assert "when the policy answers again" in error
    code.write_text(code.read_text().replace("1 / 0", "np.zeros(2)"))
    assert rollout(*words, "--resume") == 2, "other code is another policy"
    assert "--resume continues the same evaluation" in " ".join(capsys.readouterr().err.split())


def test_arms_of_a_comparison(ray_cpus: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against raybc's own policy, whose environment is theirs; settings and arguments are named as for any arm."""
    pointmass_bundle().save(tmp_path / "bundle")
    solver, own = (
        f"solver={HERE}expert:execute_steps=1",
        f"own={HERE}of_bundle:argument={tmp_path / 'bundle'},flow_steps=2",
    )

    def status(*words: object) -> int:
        return run_main(lambda: compare([*map(str, words), "--episodes", "20", "--workers", "1"]))

    assert status(solver, tmp_path / "bundle", own, "--out", tmp_path / "out") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "solver is better than bundle" in out, out
    for words, expected in (
        ((f"{HERE}expert", f"{HERE}batched"), "expected --env_name NAME"),
        ((f"{HERE}expert", f"same={HERE}expert", "--env_name", "pointmass"), "expected different arms"),
        ((f"{HERE}expert:flow_steps=3", tmp_path / "bundle"), "flow_steps: has no effect on module:"),
        ((f"{HERE}counting:execute_steps=9", tmp_path / "bundle"), "execute_steps: expected 0..4"),
    ):
        assert status(*words, "--out", tmp_path / "other") == 2
        assert expected in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["counting", "batched", "failing"])
def test_policies_in_an_actor_of_their_own_do_the_same(name: str, ray_cpus: float) -> None:
    """Where simulators are in an environment of their own, and with --inference shared."""
    from raybc.inference.shared import SharedLoader, start_server

    argument = f"raise@5@{EpisodeSpec('pointmass', 'search', 2).seed}" if name == "failing" else ""
    asked = job(name, argument, execute_steps=3 if name == "counting" else 0)
    expected = run(asked)
    server = start_server(0.0)
    loader = SharedLoader(server)
    engine, found = Engine(loader, slots=4), dict[int, Any]()
    for number in range(6):
        engine.add(number, asked, EpisodeSpec("pointmass", "search", number))
    while not engine.idle:
        found |= dict(engine.round())
    rows = [found[number] | {"seconds": 0.0} for number in sorted(found)]
    for row in (*rows, *expected):
        row.pop("traceback", None)
    assert rows == expected


def test_the_traceback_of_a_policy_that_raised_is_its_own() -> None:
    def raises() -> None:
        raise RuntimeError("camera lost")

    error = PolicyError("the policy raised RuntimeError: camera lost")
    try:
        raises()
    except RuntimeError as cause:
        error.__cause__ = cause
    found = raised(error, 3)
    assert found.message == "PolicyError: the policy raised RuntimeError: camera lost (at step 3)"
    assert found.traceback.endswith("RuntimeError: camera lost")
    assert "PolicyError" not in found.traceback
    assert raised(PolicyError("expected an action (2,), got the shape (3,)")).traceback == ""


def test_callables_of_one_file_are_made_one_at_a_time_in_an_actor(tmp_path: Path) -> None:
    """Two arms of a comparison ask at the same time, and the second must not find a module that is half imported."""
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\ntime.sleep(0.3)\nbusy = []\n"
        "def make(about):\n    def act(obs):\n        busy.append(1)\n        time.sleep(0.05)\n"
        "        assert busy.pop() == 1 and not busy\n        return [0.0, 0.0]\n    return act\nother = make\n"
    )
    about = About("pointmass", {"state": (4,)}, 2, (-1, -1), (1, 1), "", 100, 10)
    host = EpisodeHost()

    def ask(name: str) -> Any:
        steps = [{"state": np.zeros(4, np.float32), "instruction": ""}]
        question = Question(name, about, SampleSetting(0), 0, steps, is_first=True)
        return host.answer(Reference("module", f"{file}:{name}").text, question)[0]

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(ask, ("make", "other"))
    assert first.tolist() == second.tolist() == [[0.0, 0.0]]


def test_a_policy_that_kills_its_process_loses_its_own_episode_only(
    ray_cpus: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = EpisodeSpec("pointmass", "final", 1), tmp_path / "out"
    words = (f"{HERE}failing", "--policy_argument", f"die@3@{bad.seed}", "--env_name", "pointmass", "--episodes", "4",
             "--workers", "1", "--out", out)  # fmt: skip
    assert rollout(*words) == 1
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["success", "error", "success", "success"]
    assert "died" in rows[1]["message"]
    assert read_json(out / "metrics.json")["settings"][0]["success_rate"] == 1
    assert "1 of 4 episodes ended in errors" in " ".join(capsys.readouterr().err.split())


def test_several_tasks_with_their_instructions(ray_cpus: float, tmp_path: Path) -> None:
    """Without --env_name; each episode has the instruction of its task."""
    words = (f"{HERE}listening", "--tasks", "tests.tasks:QUICK", "tests.tasks:STILL", "--episodes_per_task", "2",
             "--workers", "1")  # fmt: skip
    assert rollout(*words, "--out", tmp_path / "own") == 0
    tasks = read_json(tmp_path / "own/metrics.json")["settings"][0]["tasks"]
    assert (tasks["tests.tasks:QUICK"]["success_rate"], tasks["tests.tasks:STILL"]["success_rate"]) == (1, 0)
    assert rollout(*words, "--instruction", "stay", "--out", tmp_path / "other") == 0
    tasks = read_json(tmp_path / "other/metrics.json")["settings"][0]["tasks"]
    assert tasks["tests.tasks:QUICK"]["success_rate"] == 0


def test_an_actor_asks_servers_for_all_episodes_at_once() -> None:
    """However few cores there are: its threads only wait."""
    server, together = InferenceServer("cpu"), threading.Barrier(64)

    class Host:
        def answer(self, path: str, question: Any) -> int:
            return together.wait(timeout=20)

    server._episodes = Host()  # type: ignore[assignment]

    async def ask() -> list[Any]:
        question: Any = None
        return await asyncio.gather(*(server.answer("", question) for _ in range(64)))

    assert sorted(asyncio.run(ask())) == list(range(64))
