"""Own experience on disk: the journal, the files of episodes, and what is left of them after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.online.journal import Entry, Journal
from raybc.online.replay import Lived, Replay
from raybc.online.schedule import Schedule
from raybc.rollout.recorder import Recorder
from raybc.run_folder import TrainingFolder
from raybc.types import SPLIT_BASE, UserError


def entry(number: int, visible: int = 64, **changes: Any) -> Entry:
    return Entry(**{
        "episode": number, "start": number, "outcome": "timeout", "steps": 3, "episode_return": 0.1 * number,
        "policy": 0, "lag": 2, "visible": visible, **changes,
    })  # fmt: skip


def live(replay: Replay, number: int, policy: int = 0, steps: int = 3, outcome: str = "timeout") -> Lived:
    """Write the file of an episode as a simulator does."""
    recorder, rng = Recorder(), np.random.default_rng(number)
    for _ in range(steps):
        recorder.before({"arm": rng.normal(size=3).astype(np.float32)}, rng.normal(size=2))
        recorder.after(float(rng.normal()))
    row: Any = {"index": replay.spec(number).index, "outcome": outcome, "return": 0.5, "steps": steps}
    recorder.save(replay.file(number, policy), row, "", {}, {"arm": np.zeros(3, np.float32)})
    return Lived(number, policy, 0, row)


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add([entry(1), entry(0)])
    journal.add([entry(2, 128, outcome="error", steps=0)])
    assert Journal(path).entries == journal.entries == [entry(1), entry(0), entry(2, 128, outcome="error", steps=0)]
    assert json.loads(path.read_text().splitlines()[0])["return"] == pytest.approx(0.1)


def test_a_torn_last_line_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add([entry(0), entry(1)])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        assert Journal(path).entries == [entry(0)]
        assert path.read_bytes() == whole[:first]
    path.write_bytes(whole[:first] + b"\0" * 30 + b"\n")  # blocks that the disk never got
    again = Journal(path)
    again.add([entry(1)])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"episode": 1}\n', "line 2: expected an episode"), ("nothing\n", "line 2"), (None, "every episode once")],
)
def test_other_damage_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add([entry(0)])
    line = path.read_text()
    path.write_text(line + (line if content is None else content + line.replace('"episode": 0', '"episode": 7')))
    with pytest.raises(UserError, match=said):
        Journal(path)


def test_what_a_kill_leaves(tmp_path: Path) -> None:
    """Whole episodes are kept, half-written ones are gone, and none is there twice."""
    folder = TrainingFolder(tmp_path)
    replay = Replay(folder, "pointmass", 4)
    known = live(replay, 0)
    replay.add([known.entry(64)])
    live(replay, 1, policy=64)
    live(replay, 2)
    late = live(replay, 0, policy=128)  # by a simulator that outlived its driver
    torn = replay.file(3, 64)
    torn.write_bytes(replay.file(1, 64).read_bytes()[:-40])  # the disk lost power
    half = replay.file(4, 64).parent / ".half.npz.1234abcd.tmp"
    half.write_bytes(b"PK")
    again = Replay(folder, "pointmass", 4)
    assert {number: one.policy for number, one in again.found.items()} == {1: 64, 2: 0}
    assert again.found[1].row["steps"] == 3
    assert not half.exists()
    assert not torn.exists()
    assert not replay.file(late.number, 128).exists()
    assert replay.file(0, 0).exists()
    store = again.store([again.read(entry) for entry in again.journal.entries], ("arm",))
    assert store.obs["arm"].shape == (3, 3)
    again.add([again.found[2].entry(128), Lived(5, 0, 0, {**known.row, "outcome": "error"}).entry(128)])
    assert [one.steps for one in Replay(folder, "pointmass", 4).journal.entries] == [3, 3, 0]
    replay.file(2, 0).unlink()
    with pytest.raises(UserError, match="expected an episode that the run has learned from, got no file"):
        Replay(folder, "pointmass", 4)


def test_an_episode_of_other_steps_is_refused(tmp_path: Path) -> None:
    replay = Replay(TrainingFolder(tmp_path), "pointmass", 4)
    one = live(replay, 0).entry(64)
    live(replay, 0, steps=5)
    with pytest.raises(UserError, match="expected the 3 steps of episode 0, got 5"):
        replay.read(one)


def test_starts_are_of_their_own_split_and_differ_between_seeds(tmp_path: Path) -> None:
    seeds = [Replay(TrainingFolder(tmp_path / str(seed)), "pointmass", seed) for seed in range(4)]
    starts = {replay.spec(number).seed for replay in seeds for number in range(50)}
    assert len(starts) == 200
    assert min(starts) >= SPLIT_BASE["online"] == 3_000_000


def test_policies_are_kept_as_long_as_they_are_needed(tmp_path: Path) -> None:
    replay = Replay(TrainingFolder(tmp_path), "pointmass", 4)
    for update in (0, 64, 128):
        replay.policy(update).mkdir(parents=True)
        (replay.policy(update) / "bundle.json").touch()
    replay.drop_policies(64)
    assert replay.policies() == [64, 128]


@pytest.mark.parametrize("utd", [0.1, 0.4, 1, 3, 7.5])
@pytest.mark.parametrize("first", [0, 64, 2000, 2001])
@pytest.mark.parametrize("starts", [0, 250])
def test_the_ratio_is_held_at_every_border(first: int, utd: float, starts: int) -> None:
    schedule = Schedule(first, 1000 + starts, utd, 512, 4, starts)
    assert schedule.updates == int(1000 * utd)
    assert schedule.takes(first) is (starts > 0 or first % 64 == 0)
    for update in range(first, schedule.last):
        if schedule.is_border(update) and schedule.takes(update):
            block = min(update + 64, schedule.last) - first
            within = update == first and first % 64 > 0  # a block of demonstrations alone
            more = 0 if within else block
            assert more <= utd * (schedule.needed(update) - starts) < more + utd
    assert schedule.needed(schedule.last - schedule.last % 64) == 1000 + starts


def test_policies_that_act_are_published_in_time() -> None:
    for lag in (64, 100, 256, 1000, 4096):
        schedule = Schedule.of(2001, 5000, 1, lag, 100, 60)
        assert schedule.ahead >= 1
        for update in filter(schedule.is_border, range(2001, 6000)):
            policy = schedule.policy(update)
            assert policy <= update
            assert schedule.is_border(policy)
            assert not schedule.is_too_old(policy, update)
    assert Schedule.of(0, 5000, 1, 100_000, 8, 60).ahead == 8, "no more than there are simulators"
    assert Schedule.of(0, 5000, 10, 1024, 8, 60).ahead == 1
