"""Learning online: what is learned from when, and that a kill changes nothing of it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from raybc.cli import Failed
from raybc.data.episodes import EpisodeStore
from raybc.online.journal import Entry, Journal
from raybc.online.part import OnlinePart
from raybc.online.replay import Replay
from raybc.online.windows import GrowingWindows, PackWindows
from raybc.run_folder import TrainingFolder
from raybc.train.rotation import DatasetView
from tests.helpers import CPU, pointmass_data, read_table
from tests.online import LAST, OFFLINE, ONLINE, UTD, EngineSimulators, online_part, online_trainer, run, train

EPISODES, JOURNALS = "*/online/episodes/*/*.npz", "*/online/journal.jsonl"
Ended = tuple[bytes, list[dict[str, object]]]


def ended(out: Path) -> list[Ended]:
    """The last weights and the journal of each member, without the ages that policies happened to have."""
    found = []
    for member in "ab":
        folder = TrainingFolder(out / member)
        steps = folder.checkpoints()
        entries = [{**entry.to_plain(), "lag": 0} for entry in Journal(folder.online_journal).entries]
        found.append(((steps[max(steps)] / "policy.safetensors").read_bytes(), entries))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnlinePart]:
    """A training that nobody stopped, with the episodes in the order of their numbers."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(out)


def is_sound(out: Path) -> None:
    """No episode is lost or doubled: those of the journal are there, once each, and no other is torn."""
    for member, seed in zip("ab", (3, 5), strict=True):
        folder = TrainingFolder(out / member)
        if folder.online_journal.exists():
            replay = Replay(folder, "pointmass", seed)
            numbers = [entry.episode for entry in replay.journal.entries]
            assert len(set(numbers)) == len(numbers)
            for entry in replay.journal.entries:
                assert len(replay.read(entry).actions) == entry.steps
            assert not {*numbers} & replay.found.keys()


def test_own_experience_makes_the_policy_learn_on(whole: tuple[Path, OnlinePart]) -> None:
    out, part = whole
    is_sound(out)
    for member in part.members:
        entries = member.seen
        assert entries == Journal(TrainingFolder(out / "ab"[part.members.index(member)]).online_journal).entries
        assert [entry.episode for entry in entries] == list(range(len(entries)))
        assert sum(e.steps for e in entries) >= ONLINE > sum(e.steps for e in entries[:-1])
        assert len({entry.policy for entry in entries}) > 3
        assert all(entry.policy <= entry.visible for entry in entries)
        for update in range(64, LAST, 64):  # no more updates than utd allows, and no more episodes than needed
            before = [entry for entry in entries if entry.visible <= update]
            assert sum(e.steps for e in before) * UTD >= min(update + 64, LAST) - OFFLINE
            assert sum(e.steps for e in before[:-1]) * UTD < min(update + 64, LAST) - OFFLINE
    first, second = (member.seen for member in part.members)
    assert {entry.start for entry in first}.isdisjoint(entry.start for entry in second)


def test_one_process_gives_the_same_run_whatever_order_episodes_end_in(
    whole: tuple[Path, OnlinePart], tmp_path: Path
) -> None:
    train(tmp_path, every=LAST)
    assert ended(tmp_path) == ended(whole[0])


def test_a_member_is_what_it_would_be_alone(whole: tuple[Path, OnlinePart], tmp_path: Path) -> None:
    trainer = online_trainer((5,), training_steps=LAST)
    part = online_part(trainer, [TrainingFolder(tmp_path)])
    trainer.advance(LAST)
    mine = [dataclasses.replace(entry, lag=0) for entry in part.members[0].seen]
    assert mine == [dataclasses.replace(entry, lag=0) for entry in whole[1].members[1].seen]


def test_the_journal_decides_where_episodes_come_back_in_any_order(tmp_path: Path) -> None:
    """A later state, and what was learned before it, follow from an earlier state and the journal."""
    train(tmp_path / "whole", in_order=False)
    entries = Journal(TrainingFolder(tmp_path / "whole" / "a").online_journal).entries
    assert [entry.episode for entry in entries] != sorted(entry.episode for entry in entries)
    assert max(entry.lag for entry in entries) <= 256
    for member in "ab":
        folder = TrainingFolder(tmp_path / "again" / member)
        shutil.copytree(tmp_path / "whole" / member / "online", folder.online)
    train(tmp_path / "again", in_order=False, every=LAST)  # from the beginning: no state was saved
    assert ended(tmp_path / "again") == ended(tmp_path / "whole")


def kill_at_random(out: Path, kills: int, seconds: float, online: int = ONLINE) -> None:
    """Train in processes, each of which is killed at a random moment."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.online"])  # it imports PyTorch once for all of them
    rng, lengths = random.Random(kills), [0]
    for number in range(kills):
        (out / "ready").unlink(missing_ok=True)
        process = processes.Process(target=run, args=(out, online))
        process.start()
        while not (out / "ready").exists():
            assert process.is_alive()
            time.sleep(0.01)
        before = len([*out.glob(EPISODES)])
        while len([*out.glob(EPISODES)]) == before or (number == kills - 1 and not [*out.glob(JOURNALS)]):
            assert process.is_alive(), "it came to its end"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        assert process.is_alive(), "it came to its end"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        is_sound(out)
        lengths.append(sum(path.stat().st_size for path in out.glob(JOURNALS)))
    assert sorted(lengths) == lengths, "an episode that was learned from is lost"
    assert lengths[-1], "they must hit the online part"


def test_two_kills_change_nothing(whole: tuple[Path, OnlinePart], tmp_path: Path) -> None:
    kill_at_random(tmp_path, 2, 0.5)
    train(tmp_path)
    is_sound(tmp_path)
    assert ended(tmp_path) == ended(whole[0])


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    kill_at_random(killed, 10, 0.3, 3 * ONLINE)
    for out in (killed, whole):
        train(out, online=3 * ONLINE)
        is_sound(out)
    assert ended(killed) == ended(whole)


STARTS = 300


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnlinePart]:
    """A training that nobody stopped, which collects before it learns."""
    out = tmp_path_factory.mktemp("late")
    return out, train(out, starts=STARTS)


def test_the_first_steps_are_only_collected(late: tuple[Path, OnlinePart]) -> None:
    """By the policy of the offline part, and the ratio counts the others."""
    out, part = late
    is_sound(out)
    last = OFFLINE + int(UTD * (ONLINE - STARTS))
    assert part.schedule.last == max(TrainingFolder(out / "a").checkpoints()) == last
    for member in part.members:
        before = [sum(e.steps for e in member.seen[:k]) for k in range(len(member.seen))]
        only = [entry for entry, steps in zip(member.seen, before, strict=True) if steps < STARTS]
        assert {entry.policy for entry in only} == {OFFLINE}
        assert {entry.lag for entry in only} == {0}, "no update was done meanwhile"
        assert {entry.visible for entry in only} == {64}
        assert max(entry.lag for entry in member.seen) <= 256
        assert len({entry.policy for entry in member.seen}) > 1
        for update in range(64, last, 64):
            seen = [entry for entry in member.seen if entry.visible <= update]
            assert (sum(e.steps for e in seen) - STARTS) * UTD >= min(update + 64, last) - OFFLINE
            assert (sum(e.steps for e in seen[:-1]) - STARTS) * UTD < min(update + 64, last) - OFFLINE
        assert sum(e.steps for e in member.seen) >= ONLINE


@pytest.mark.slow
def test_stops_while_it_only_collects_change_nothing(late: tuple[Path, OnlinePart], tmp_path: Path) -> None:
    """Twice while the first steps are waited for, then within the block in which the offline part ends, and later."""
    collected = 0
    for some in (1, STARTS // 2):
        part = train(tmp_path, every=10, starts=STARTS, stop=lambda part, some=some: part.members[0].steps >= some)
        assert part.members[0].steps < STARTS
        assert not [*tmp_path.glob(JOURNALS)]
        assert len([*tmp_path.glob(EPISODES)]) >= max(1, collected)
        collected = len([*tmp_path.glob(EPISODES)])
    for step in (55, 62, 101):
        part = train(tmp_path, every=10, starts=STARTS, stop=lambda part, step=step: part._trainer.step >= step)
        assert part.members[0].steps >= STARTS
        assert bool(part.members[0].hidden) is (step < 64)
        is_sound(tmp_path)
    train(tmp_path, every=10, starts=STARTS)
    assert ended(tmp_path) == ended(late[0])
    rows = [read_table(TrainingFolder(out / "a").online_csv) for out in (tmp_path, late[0])]
    assert rows[0][-1]["episodes"] == rows[1][-1]["episodes"]
    assert rows[0][0]["environment_steps"] == rows[1][0]["environment_steps"]


def test_an_interrupted_wait_takes_nothing_in(tmp_path: Path) -> None:
    trainer = online_trainer(training_steps=LAST)
    part = online_part(trainer, [TrainingFolder(tmp_path)])
    calls = iter([False] * 60 + [True] * 9)
    trainer.advance(LAST, interrupted=lambda: next(calls))
    assert trainer.step < LAST
    known = Journal(part.members[0].replay.journal._path).entries if trainer.step > 64 else []
    assert all(entry.visible <= trainer.step for entry in known)
    again = online_trainer(training_steps=LAST)
    online_part(again, [TrainingFolder(tmp_path)])
    again.advance(LAST)
    assert again.step == LAST


def test_a_long_wait_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybc.online.part.LONG_WAIT", 0.0)
    trainer = online_trainer(training_steps=LAST)
    part = online_part(trainer, [TrainingFolder(tmp_path)], learning_starts=STARTS)
    said: list[tuple[int, int]] = []
    part.on_wait = lambda steps, needed: said.append((steps, needed))
    trainer.advance(OFFLINE + 1)
    steps = [steps for steps, _ in said]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] > 0
    assert {needed for _, needed in said} == {STARTS}


def test_a_simulator_that_only_fails_is_given_up(tmp_path: Path) -> None:
    class Failing(EngineSimulators):
        def ended(self, seconds: float) -> list:
            given, self.given = self.given, []
            return [
                (name, {"index": 0, "outcome": "error", "return": 0.0, "steps": 2, "message": "no"})
                for name, *_ in given
            ]

    trainer = online_trainer(training_steps=LAST)
    part = online_part(trainer, [TrainingFolder(tmp_path)])
    part._simulators = Failing()
    with pytest.raises(Failed, match="the last 10 episodes ended in errors, the last one: no"):
        trainer.advance(LAST)


def view_of(store: EpisodeStore) -> DatasetView:
    seen = online_trainer().prepared
    return DatasetView(store, ("state", "goal"), (), seen.obs_normalizer, seen.action_normalizer)


def test_windows_that_grow_are_those_of_all_episodes_at_once() -> None:
    store, config = pointmass_data().store, online_trainer().config
    ends = store.episode_ends

    def windows(first: int, last: int):
        begin = int(ends[first - 1]) if first else 0
        rows = slice(begin, int(ends[last - 1]))
        return view_of(store).windows(rows, ends[first:last] - begin, torch.arange(last - first).numpy(), config, CPU)

    growing = GrowingWindows(windows(0, 5), 2)
    before = growing.at(0)
    growing.add([windows(5, 7), None])
    growing.add([None, windows(7, 8)])
    growing.add([windows(8, 9), windows(9, 12)])
    counts = [growing.count_at(0, m) for m in (0, 1)]
    lengths = store.episode_ends - store.episode_starts
    assert counts == [lengths[:5].sum() + lengths[[5, 6, 8]].sum(), lengths[:5].sum() + lengths[[7, 9, 10, 11]].sum()]
    own = ([*range(5), 5, 6, 8], [*range(5), 7, 9, 10, 11])
    found = growing.at(0)
    assert isinstance(found, PackWindows)
    every = torch.stack([torch.arange(min(counts)), torch.arange(min(counts))])
    batch = found.gather(every)
    for m, episodes in enumerate(own):
        rows = torch.cat([torch.arange(int(store.episode_starts[e]), int(ends[e])) for e in episodes])[: min(counts)]
        expected = windows(0, 12).gather(rows[None])
        assert torch.equal(batch.obs.low_dim[m], expected.obs.low_dim[0])
        assert torch.equal(batch.actions_MBHA[m], expected.actions_MBHA[0])
        assert torch.equal(batch.is_pad_MBH[m], expected.is_pad_MBH[0])
    assert torch.equal(before.gather(every[:, :50]).actions_MBHA, batch.actions_MBHA[:, :50]), "what was drawn stays"


def test_entries_of_the_file_are_the_fields() -> None:
    one = Entry(1, 2, "success", 3, 0.5, 4, 5, 64)
    assert Entry.of(one.to_plain()) == one
