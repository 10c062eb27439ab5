"""Training: a member is what it is alone, and a run that was stopped goes on bit for bit. Letters: M members."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from raybc.policies.base import Loss
from raybc.policies.flow import FlowPolicy
from raybc.train.arithmetic import pick_device
from raybc.train.log import MemberLog, TrainRow
from raybc.train.loop import PackTrainer
from raybc.train.progress import Progress
from raybc.train.schedule import learning_rate
from raybc.train.step import STEPS_PER_BLOCK, DrawSource, NonFiniteLoss, clip_by_member, generator, stream_seed
from raybc.types import UserError
from tests.helpers import CPU, pointmass_data, tiny_config, tiny_data, tiny_store, tiny_trainer

#: What Adam keeps of the first parameter.
FIRST = "velocity_field.layers.0.weights_MIO/exp_avg"


def parameters(trainer: PackTrainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in trainer.policy.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), f"{name} differs by {(a[name] - b[name]).abs().max()}"


# Packs


@pytest.mark.parametrize("changes", [{}, {"grad_clip": 0.5, "weight_decay": 0.1, "use_fourier_features": True}])
def test_a_member_of_a_pack_is_the_same_member_alone(changes: dict[str, Any]) -> None:
    """After 200 steps; batched and single products differ in the last bits only, so 1e-5 of weights around 1."""
    seeds = [7, 0, 3]
    pack = tiny_trainer(seeds, **changes)
    start = parameters(pack)
    losses: list[list[float]] = []
    pack.advance(200, lambda progress: losses.append(progress.losses))
    for m, seed in enumerate(seeds):
        alone = tiny_trainer([seed], **changes)
        single: list[float] = []
        alone.advance(200, lambda progress, single=single: single.append(progress.losses[0]))
        assert single == pytest.approx([row[m] for row in losses], rel=1e-4)
        for name, value in parameters(alone).items():
            torch.testing.assert_close(parameters(pack)[name][m : m + 1], value, rtol=1e-5, atol=1e-5)
            if "weights" in name:
                assert (value - start[name][m : m + 1]).abs().max() > 1e-3, "nothing was learned"


def test_members_see_their_own_numbers() -> None:
    """Order of data, noise and times belong to the seed: not to its place, the size of the pack, or torch's state."""
    trainer = tiny_trainer([1, 2])

    def numbers(seeds: list[int], step: int) -> tuple[torch.Tensor, ...]:
        drawn = DrawSource(trainer.policy.draws(), lambda step, member: 17, 16, seeds, CPU).at(step)
        assert list(drawn.draws) == ["noise", "time"]
        return (drawn.indices_MB, *drawn.draws.values())

    for step in (0, 1, STEPS_PER_BLOCK - 1, STEPS_PER_BLOCK, 5 * STEPS_PER_BLOCK + 3):
        torch.manual_seed(step)
        pack = numbers([5, 9], step)
        for x, y, turned in zip(pack, numbers([9], step), numbers([9, 5], step), strict=True):
            assert torch.equal(x[1], y[0])
            assert torch.equal(x, turned.flip(0))
            assert not torch.equal(x[0], x[1])
        picks, noise, time = pack
        assert (picks.shape, noise.shape, time.shape) == ((2, 16), (2, 16, 4, 2), (2, 16))
        assert 0 <= picks.min() <= picks.max() < 17
        assert 0 <= time.min() <= time.max() < 1
    source = DrawSource(trainer.policy.draws(), lambda step, member: 17, 16, [5], CPU)
    seen = [source.at(step).draws["noise"].clone() for step in range(2 * STEPS_PER_BLOCK)]
    assert len({tuple(x[0, 0].flatten().tolist()) for x in seen}) == 2 * STEPS_PER_BLOCK, "no step repeats another"
    assert torch.equal(source.at(3).draws["noise"], seen[3]), "asked for again, after later ones"


def test_draws_are_rows_of_a_block() -> None:
    """In whatever order the steps are asked for: windows first, then what the loss needs, from one generator."""
    shapes = tiny_trainer().policy.draws()
    source = DrawSource(shapes, lambda step, member: 17, 16, [5, 9], CPU)
    for block in (0, 2):
        for m, seed in enumerate((5, 9)):
            g = generator(CPU, seed, "draws", block)
            picks = torch.randint(17, (STEPS_PER_BLOCK, 16), generator=g)
            noise = torch.randn((STEPS_PER_BLOCK, 16, 4, 2), generator=g)
            for row in (0, 63, 7, 8, 9, 40, 39, 1):
                drawn = source.at(block * STEPS_PER_BLOCK + row)
                assert torch.equal(drawn.indices_MB[m], picks[row])
                assert torch.equal(drawn.draws["noise"][m], noise[row])


@pytest.mark.parametrize("parts", [1, 2, 3, 16])
def test_parts_of_draws_are_the_whole(parts: int) -> None:
    """Every example once, with its own draws; 3 does not divide 16."""
    whole = DrawSource(tiny_trainer().policy.draws(), lambda step, member: 17, 16, [5, 9], CPU).at(3)
    pieces = [whole.part(i, parts) for i in range(parts)]
    assert torch.equal(torch.cat([p.indices_MB for p in pieces], 1), whole.indices_MB)
    for name, value in whole.draws.items():
        assert torch.equal(torch.cat([p.draws[name] for p in pieces], 1), value)
    sizes = [p.indices_MB.shape[1] for p in pieces]
    assert max(sizes) - min(sizes) <= 1


def test_noise_and_times_are_normal_and_uniform() -> None:
    source = DrawSource(tiny_trainer().policy.draws(), lambda step, member: 10, 64, [0], CPU)
    drawn = [(d.indices_MB, d.draws["noise"], d.draws["time"]) for d in map(source.at, range(STEPS_PER_BLOCK))]
    picks, noise, time = (torch.cat([d[i].flatten() for d in drawn]).double() for i in range(3))
    assert abs(noise.mean().item()) < 4 / math.sqrt(len(noise))
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert np.histogram(time.numpy(), 10, (0, 1))[0].std() < 3 * math.sqrt(len(time) / 10)
    assert np.bincount(picks.long().numpy()).std() < 3 * math.sqrt(len(picks) / 10)


def test_streams_have_seeds_of_their_own() -> None:
    streams = {stream_seed(s, *names) for s in range(50) for names in (("init",), ("draws", 0), ("draws", 1))}
    assert len(streams) == 150
    assert all(0 <= s < 2**63 for s in streams)
    assert stream_seed(0, "init") == 1519069808562059438, "sha256 of 0/init; a run_id stands for what was trained so"


# Going on


@pytest.mark.parametrize(
    "cuts",
    [
        [30],
        [STEPS_PER_BLOCK - 1],
        [STEPS_PER_BLOCK],
        [STEPS_PER_BLOCK + 1, 2 * STEPS_PER_BLOCK, 2 * STEPS_PER_BLOCK + 5],
    ],
    ids=str,
)
def test_training_goes_on_bit_for_bit(tmp_path: Path, cuts: list[int]) -> None:
    end, options = 2 * STEPS_PER_BLOCK + 20 if cuts[-1] > 60 else 60, {"weight_decay": 0.01, "grad_clip": 1.0}
    whole = tiny_trainer([4, 8], **options)
    whole.advance(end)
    trainer = tiny_trainer([4, 8], **options)
    for cut in cuts:
        trainer.advance(cut)
        trainer.save_state(tmp_path / "state.safetensors")
        trainer.advance(cut + 3)  # what came after the state is lost
        trainer = tiny_trainer([4, 8], **options)
        trainer.load_state(tmp_path / "state.safetensors")
        assert trainer.step == cut
    trainer.advance(end)
    assert_equal(parameters(trainer), parameters(whole))
    assert_equal(trainer.optimizer.tensors(), whole.optimizer.tensors())


def test_where_one_stops_to_log_changes_nothing() -> None:
    a, b = tiny_trainer(log_interval=7), tiny_trainer()
    reported: list[Progress] = []
    a.advance(31, reported.append)
    for until in range(1, 32):
        b.advance(until)
    assert_equal(parameters(a), parameters(b))
    assert [progress.step for progress in reported] == [7, 14, 21, 28, 31]
    for progress in reported:
        assert progress.metrics == {"bc_flow_loss": progress.losses}, "the loss of this policy has one part"
        assert progress.steps_per_sec > 0
    a.advance(31)
    assert a.step == 31


def test_a_state_before_the_first_step(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    trainer.save_state(tmp_path / "s")
    other = tiny_trainer()
    other.load_state(tmp_path / "s")
    for t in (trainer, other):
        t.advance(5)
    assert_equal(parameters(trainer), parameters(other))


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 2e-3}, {"seeds": (1,)}, {"seeds": (0, 1)}, {"horizon_length": 3}, {"grad_clip": 1.0},
        {"data": tiny_data(tiny_store(seed=1))},
    ],
    ids=str,
)  # fmt: skip
def test_the_state_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    tiny_trainer().save_state(tmp_path / "state")
    trainer = tiny_trainer(**other)
    before = parameters(trainer)
    with pytest.raises(UserError, match=r"state: belongs to the runs .* not to .*another configuration, data or seeds"):
        trainer.load_state(tmp_path / "state")
    assert_equal(parameters(trainer), before)
    assert trainer.step == 0


def test_the_state_may_move_to_another_place(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    trainer.advance(3)
    trainer.save_state(tmp_path / "state")
    moved = tiny_trainer(
        save_dir="elsewhere", run_group="other", device="auto", log_interval=7, eval_episodes=3, keep=1
    )
    moved.load_state(tmp_path / "state")
    assert moved.step == 3


def rewrite(path: Path, keep: Any, **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys() if keep(k)}  # noqa: SIM118
        meta = file.metadata() | metadata
    save_file(tensors, path, metadata={k: v for k, v in meta.items() if v})


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "tail cut", "text", "folder", "header", "dropped"])
def test_damaged_states_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state"
    trainer = tiny_trainer()
    trainer.advance(2)
    trainer.save_state(path)
    content = path.read_bytes()
    if damage == "dropped":
        rewrite(path, lambda key: key != "policy/velocity_field.layers.0.bias_M1O")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "missing":
        path.unlink()
    else:
        new = {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "tail cut": content[:-1],
            "text": b"not a state",
            "header": content[:8] + b"x" + content[9:],
        }
        path.write_bytes(new[damage])
    fresh = tiny_trainer()
    messages = {"missing": "expected a training state, found none", "empty": "the file is empty",
            "folder": "expected a training state, got a folder"}  # fmt: skip
    with pytest.raises(UserError, match=f"{path}: {messages.get(damage, 'not readable as a training state')}"):
        fresh.load_state(path)


def test_a_state_without_its_optimizer_or_step_is_refused(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    trainer.advance(2)
    for keep, metadata in (
        (lambda key: not key.startswith("optimizer/velocity_field.layers.0.bias_M1O/"), {}),
        (lambda key: True, {"step": ""}),
        (lambda key: True, {"step": "x"}),
    ):
        trainer.save_state(tmp_path / "state")
        rewrite(tmp_path / "state", keep, **metadata)
        with pytest.raises(UserError, match="not readable as a training state"):
            tiny_trainer().load_state(tmp_path / "state")


def test_half_a_state_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, path = tiny_trainer(), tmp_path / "state"
    trainer.save_state(path)
    before = path.read_bytes()
    trainer.advance(2)

    def fails(tensors: Any, target: Path, metadata: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raybc.train.checkpointing.save_file", fails)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_state(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Learning


def test_loss_falls_on_demonstrations() -> None:
    losses: list[list[float]] = []
    trainer = tiny_trainer(
        [0, 1], pointmass_data(), log_interval=1, batch_size=64, lr=3e-3, hidden_width=32, training_steps=250
    )
    trainer.advance(250, lambda progress: losses.append(progress.losses))
    first, last = np.mean(losses[:10], axis=0), np.mean(losses[-30:], axis=0)
    assert (last < 0.6 * first).all(), f"{first} -> {last}"


def test_an_optimiser_step_is_adamws() -> None:
    """Against torch's own AdamW without fusion, on the gradient of the mean loss of each member."""
    trainer = tiny_trainer([0, 1], weight_decay=0.1, lr=0.01)
    policy = tiny_trainer([0, 1]).policy
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False)
    for step in range(5):
        drawn = trainer.draws.at(step)
        loss = policy.loss(trainer.windows.gather(drawn.indices_MB), drawn.draws).value_MB
        optimizer.zero_grad()
        (loss[0].mean() + loss[1].mean()).backward()
        optimizer.step()
    trainer.advance(5)
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(parameters(trainer)[name], value, rtol=1e-5, atol=1e-6)


def test_validation_episodes_are_never_drawn() -> None:
    """Nor do they move the statistics."""
    lengths = (5, 9, 3, 6)
    store = tiny_store(lengths, splits={"train": [0, 3], "valid": [1, 2]})
    trainer = tiny_trainer(data=tiny_data(store))
    assert trainer.windows.starts.tolist() == [*range(5), *range(17, 23)]
    drawn: set[int] = set()
    for step in range(STEPS_PER_BLOCK):
        drawn |= set(trainer.windows.starts[trainer.draws.at(step).indices_MB].flatten().tolist())
    assert drawn == {*range(5), *range(17, 23)}
    rows = np.array(sorted(drawn))
    np.testing.assert_allclose(trainer.prepared.action_normalizer.offset, store.actions_NA[rows].mean(0), atol=1e-6)
    np.testing.assert_allclose(trainer.prepared.obs_normalizer.scale[:3], store.obs["arm"][rows].std(0), atol=1e-6)
    wild = store.actions_NA.copy()
    wild[5:17] = 1e3
    other = tiny_trainer(data=tiny_data(dataclasses.replace(store, actions_NA=wild)))
    for t in (trainer, other):
        t.advance(20)
    assert_equal(parameters(trainer), parameters(other))


def test_without_a_split_everything_is_drawn() -> None:
    assert tiny_trainer().windows.starts.tolist() == list(range(17))


def test_impossible_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"horizon_length: expected at most .* tiny.hdf5 \(9 steps\), got 10"):
        tiny_trainer(horizon_length=10)
    tiny_trainer(horizon_length=9).advance(2)
    tiny_trainer(horizon_length=10, action_chunking=False)
    with pytest.raises(UserError, match=r"tiny.hdf5: mask/train: expected at least one episode"):
        tiny_trainer(data=tiny_data(tiny_store(splits={"train": []})))
    with pytest.raises(UserError, match="expected observation 'door'"):
        tiny_trainer(data=dataclasses.replace(tiny_data(), obs_keys=("door",)))


def test_a_poisoned_loss_stops_before_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer([3, 5], lr=1e-2)
    trainer.advance(4)
    before, state = parameters(trainer), trainer.optimizer.tensors()[FIRST].clone()
    original = FlowPolicy.loss

    def poisoned(self: FlowPolicy, *args: Any) -> Loss:
        loss = original(self, *args)
        return loss._replace(value_MB=loss.value_MB * torch.tensor([[1.0], [torch.nan]]))

    monkeypatch.setattr(FlowPolicy, "loss", poisoned)
    monkeypatch.setattr(trainer, "_loss_of", trainer.policy.loss)
    with pytest.raises(NonFiniteLoss) as error:
        trainer.advance(10)
    for part in ("step 5: seed 5 with lr 0.01: the loss is nan", "lower lr or set grad_clip"):
        assert part in str(error.value)
    assert "seed 3" not in str(error.value)
    assert trainer.step == 4
    assert_equal(parameters(trainer), before)
    assert torch.equal(trainer.optimizer.tensors()[FIRST], state)


def test_a_huge_learning_rate_is_noticed() -> None:
    trainer = tiny_trainer(lr=1e18)
    with pytest.raises(NonFiniteLoss, match="lr 1e"):
        trainer.advance(50)
    assert trainer.step < 50
    assert all(torch.isfinite(v).all() for v in parameters(trainer).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("factor", [1.0, 1e15, 1e17, 1e22, 1e37, math.inf, math.nan], ids=str)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_the_cheap_check_finds_what_the_norms_find(
    where: str, factor: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients whose squares overflow, and large ones whose squares do not; with the loss, or behind its back."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * torch.tensor([[1.0], [factor]])

    def outcome(cheap: bool) -> tuple[str, int, dict[str, torch.Tensor]]:
        trainer = tiny_trainer([3, 5], precision=precision)
        loss_of = trainer._loss_of

        def scaled(*args: Any) -> Loss:
            loss = loss_of(*args)
            if trainer.step < 3:
                return loss
            value_MB = loss.value_MB
            changed = value_MB * torch.tensor([[1.0], [factor]]) if where == "loss" else Scaled.apply(value_MB)
            return loss._replace(value_MB=changed)

        monkeypatch.setattr(trainer, "_loss_of", scaled)
        assert trainer._reads_values
        trainer._reads_values = cheap
        found = ""
        try:
            trainer.advance(6)
        except NonFiniteLoss as error:
            found = str(error)
        return found, trainer.step, trainer.state().tensors

    (found, step, tensors), (expected, steps, others) = outcome(cheap=True), outcome(cheap=False)
    assert (found, step) == (expected, steps)
    assert (step == 3) == bool(found) == (not factor < 1e18), found
    assert "seed 3" not in found
    assert_equal(tensors, others)


@pytest.mark.parametrize("max_norm", [0.1, 2.0, 1e6])
def test_gradients_are_clipped_by_member(max_norm: float) -> None:
    """As torch clips each member alone: large ones are scaled, small ones are left as they are."""
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (3, 1, 5), (3, 2, 2)]
    pack = [torch.nn.Parameter(torch.zeros(s)) for s in shapes]
    scale = torch.tensor([0.01, 1.0, 100.0])
    for p in pack:
        p.grad = torch.randn(p.shape, generator=g) * scale[:, None, None]
    alone = [[torch.nn.Parameter(torch.zeros(p.shape[1:])) for p in pack] for _ in range(3)]
    for m in range(3):
        for p, q in zip(pack, alone[m], strict=True):
            assert p.grad is not None
            q.grad = p.grad[m].clone()
        torch.nn.utils.clip_grad_norm_(alone[m], max_norm)
    small = pack[0].grad[0].clone()
    clip_by_member(pack, torch.full((3,), max_norm))
    for m in range(3):
        for p, q in zip(pack, alone[m], strict=True):
            torch.testing.assert_close(p.grad[m], q.grad, rtol=1e-4, atol=1e-7)
    if max_norm >= 2:
        assert torch.equal(pack[0].grad[0], small)
    zero = torch.nn.Parameter(torch.zeros(2, 2, 2))
    zero.grad = torch.zeros(2, 2, 2)
    clip_by_member([zero], torch.ones(2))
    assert not zero.grad.any(), "a zero gradient stays zero, not nan"


def test_pick_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"'cuda:0' was requested.*no CUDA device; use --device=cpu"):
        pick_device("cuda:0")
    for unknown in ("gpu", "mps"):
        with pytest.raises(UserError, match=f"expected cpu, cuda, cuda:N or auto, got '{unknown}'"):
            pick_device(unknown)


# Logs


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "train.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


#: train.csv of a flow policy, as release 0.1.0 wrote it.
COLUMNS = ("step", "train/actor_loss", "train/bc_flow_loss", "train/steps_per_sec", "train/lr", "valid/loss", "round")


def log(folder: Path, resume: int, steps: list[int]) -> None:
    with MemberLog(folder, folder / "tensorboard", resume) as member:
        for step in steps:
            member.train(TrainRow(step, step / 8, {"bc_flow_loss": step / 8}, 100.0, 1e-3))


def test_no_step_stands_twice_in_a_log(tmp_path: Path) -> None:
    log(tmp_path, 0, [10, 20, 30, 40])
    log(tmp_path, 20, [30, 40, 50])  # the last state was that of step 20
    assert [r["step"] for r in rows(tmp_path)] == ["10", "20", "30", "40", "50"]
    assert tuple(rows(tmp_path)[0]) == COLUMNS
    assert [float(r["train/bc_flow_loss"]) for r in rows(tmp_path)] == [1.25, 2.5, 3.75, 5.0, 6.25]
    log(tmp_path, 0, [10])
    assert [r["step"] for r in rows(tmp_path)] == ["10"]


@pytest.mark.parametrize("torn", ["30", "30,0.5", "30,0.5,0.5", "3", "x", ","])
def test_a_torn_row_is_dropped(tmp_path: Path, torn: str) -> None:
    log(tmp_path, 0, [10, 20])
    with (tmp_path / "train.csv").open("a") as handle:
        handle.write(torn)
    log(tmp_path, 30, [40])
    assert [r["step"] for r in rows(tmp_path)] == ["10", "20", "40"]
    assert all(None not in r.values() and None not in r for r in rows(tmp_path))


def test_metrics_are_columns(tmp_path: Path) -> None:
    """Those of another policy, or of a later release, are added to what is there; nothing is lost."""
    with MemberLog(tmp_path, tmp_path / "tensorboard", 0) as member:
        member.train(TrainRow(1, 0.5, {"first": 0.25}, 10.0, 1e-3))
        member.train(TrainRow(2, 0.5, {"first": 0.125, "second": 3.0}, 10.0, 1e-3, validation=0.75, round=2))
        member.train(TrainRow(3, 0.5, {"second": 4.0}, 10.0, 1e-3))
    found = rows(tmp_path)
    names = ["train/actor_loss", "train/first", "train/second", "train/steps_per_sec", "train/lr", "valid/loss"]
    assert sorted(found[0]) == sorted(["step", *names, "round"])
    assert next(iter(found[0])) == "step"
    assert list(found[0])[-1] == "round"
    assert [r["train/first"] for r in found] == ["0.25", "0.125", ""]
    assert [r["train/second"] for r in found] == ["", "3", "4"]
    assert [(r["valid/loss"], r["round"]) for r in found] == [("", "1"), ("0.75", "2"), ("", "1")]
    log(tmp_path, 3, [4])
    assert [r["step"] for r in rows(tmp_path)] == ["1", "2", "3", "4"]
    assert [r["train/second"] for r in rows(tmp_path)] == ["", "3", "4", ""]
    assert rows(tmp_path)[-1]["train/bc_flow_loss"] == "0.5"


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    with MemberLog(tmp_path, tmp_path / "tensorboard", 0) as member:
        member.train(TrainRow(1, 0.5, {}, 10.0, 1e-3))
        assert [r["step"] for r in rows(tmp_path)] == ["1"]
        member.scalar("eval/success", 0.5, 1)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_identity_of_a_state_is_json(tmp_path: Path) -> None:
    trainer = tiny_trainer([2, 6])
    trainer.save_state(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    runs = json.loads(metadata["runs"])
    assert (metadata["format"], metadata["step"]) == ("2", "0")
    names = [name for name, _ in trainer.policy.named_parameters()]
    assert keys == {*(f"policy/{name}" for name in names), "loss_sum"}
    assert runs == [trainer.members[m].run_id(trainer.data.fingerprint) for m in range(2)]
    assert [trainer.members[m].seed for m in range(2)] == [2, 6]


def test_the_cosine_schedule() -> None:
    """Warm-up and floor as documented; the rate of a step does not depend on where training was gone on."""
    config = tiny_config(training_steps=2000, lr=1e-3, lr_schedule="cosine", min_lr=1e-5)
    rates = [learning_rate(config, step) for step in range(2000)]
    assert rates[0] == pytest.approx(1e-3 / 60)
    assert rates[59] == rates[60] == 1e-3
    assert rates[60 + 970] == pytest.approx((1e-3 + 1e-5) / 2)
    assert 1e-5 < rates[-1] < 1.01e-5
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert learning_rate(tiny_config(training_steps=60, lr_schedule="cosine", lr=1.0), 29) == 1.0  # W = N / 2
    assert {learning_rate(tiny_config(lr=0.5), s) for s in range(200)} == {0.5}


def test_the_schedule_is_used_and_gone_on_with(tmp_path: Path) -> None:
    cosine, constant = (tiny_trainer(lr_schedule=kind, training_steps=120) for kind in ("cosine", "constant"))
    cosine.advance(120)
    constant.advance(120)
    assert cosine.optimizer.rates[0] == learning_rate(cosine.config, 119)
    half = tiny_trainer(lr_schedule="cosine", training_steps=120)
    half.advance(60)
    half.save_state(tmp_path / "state")
    again = tiny_trainer(lr_schedule="cosine", training_steps=120)
    again.load_state(tmp_path / "state")
    again.advance(120)
    for name, value in cosine.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name])
        assert not torch.equal(value, constant.policy.state_dict()[name])
