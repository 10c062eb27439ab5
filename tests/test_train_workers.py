"""Several processes that share every batch: the same training as one, also after one of them was killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.train.checkpointing import save_checkpoint
from raybc.train.choices import Parallel
from raybc.train.ranks import Ranks
from raybc.types import UserError
from tests.helpers import leave_group, read_table, run_train, tiny_config, tiny_trainer

TRANSFORMER: dict[str, Any] = {
    "policy": "flow_transformer", "transformer_layers": 1, "transformer_heads": 2, "transformer_width": 16,
}  # fmt: skip
UNET: dict[str, Any] = {
    "policy": "flow_unet", "unet_channels": "8,8", "unet_groups": 2, "unet_time_size": 8, "horizon_length": 4,
}  # fmt: skip
CASES: dict[str, tuple[Parallel, int, list[int], dict[str, Any]]] = {
    "ddp": ("ddp", 2, [3, 5], {"grad_clip": 0.5, "accumulate": 2, "lr_schedule": "plateau", "monitor_interval": 5}),
    "ddp, unequal shares": ("ddp", 3, [3, 5], {"ema_decay": 0.9}),
    "ddp, transformer": ("ddp", 2, [3, 5], TRANSFORMER),
    "fsdp, transformer": ("fsdp", 2, [3], TRANSFORMER | {"activation_checkpointing": True}),
    "fsdp, U-Net, diffusion": ("fsdp", 2, [3], UNET | {"objective": "diffusion", "ema_decay": 0.99, "lr": 1e-4}),
    "fsdp": ("fsdp", 2, [3], {
        "grad_clip": 0.5, "accumulate": 2, "ema_decay": 0.9, "ema_power": 0.75, "weight_decay": 0.3,
        "weight_decay_on": "matrices",
    }),
    "fsdp, parts frozen": ("fsdp", 2, [3], {"freeze": "velocity_field.layers.0", "hidden_width": 15}),
}  # fmt: skip


def trained_together(rank: int, world: int, port: int, out: str, case: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    parallel, _, seeds, changes = CASES[case]
    seen: list[list[float]] = []
    trainer = tiny_trainer(seeds, ranks=Ranks.here(parallel), training_steps=200, **changes)
    trainer.advance(100)
    save_checkpoint(trainer, [Path(out) / f"seed_{s}" for s in seeds], Path(out) / "state")
    torch.distributed.barrier()
    trainer = tiny_trainer(seeds, ranks=Ranks.here(parallel), training_steps=200, **changes)
    trainer.load_state(Path(out) / "state")
    trainer.advance(200, lambda progress: seen.append(progress.losses))
    torch.save({"weights": trainer.bundle(0).weights, "losses": seen}, f"{out}/{rank}.pt")
    leave_group()


SLOW = ("ddp, transformer", "fsdp, transformer", "fsdp, U-Net, diffusion")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES])
def test_processes_with_parts_of_a_batch_are_one_with_the_whole(case: str, tmp_path: Path, free_port: int) -> None:
    """After 200 steps with a stop and a new start in between, to 1e-5 (gradients are summed in another order); the
    ranks are equal to the bit."""
    _, world, seeds, changes = CASES[case]
    torch.multiprocessing.spawn(trained_together, (world, free_port, str(tmp_path), case), nprocs=world)
    first, *others = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(world))
    alone = tiny_trainer(seeds, training_steps=200, **changes)
    alone.advance(100)
    saved = PolicyBundle.load(tmp_path / f"seed_{seeds[0]}" / "checkpoint_100")
    torch.testing.assert_close(dict(saved.weights), dict(alone.bundle(0).weights), rtol=1e-5, atol=1e-5)
    losses: list[list[float]] = []
    alone.advance(200, lambda progress: losses.append(progress.losses))
    torch.testing.assert_close(first["weights"], dict(alone.bundle(0).weights), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for other in others:
        assert first["losses"] == other["losses"]
        assert all(torch.equal(v, other["weights"][k]) for k, v in first["weights"].items())


def test_what_cannot_be_shared_is_refused() -> None:
    config = tiny_config()
    with pytest.raises(UserError, match="batch_size: expected at least num_workers x accumulate = 17 x 1, got 16"):
        Ranks(0, 17).check([config])
    with pytest.raises(UserError, match="freeze_steps: expected -1 with several workers, got 4"):
        Ranks(0, 2).check([tiny_config(freeze="velocity_field.layers.0", freeze_steps=4)])
    with pytest.raises(UserError, match=r"parallel: expected ddp for 2 members \(a pack\), got fsdp"):
        Ranks(0, 2, "fsdp").check([config, config])
    Ranks(0, 2).check([tiny_config(freeze="velocity_field.layers.0")])
    assert Ranks.here() == Ranks(0, 1)


def test_ranks_share_a_batch() -> None:
    trainer = tiny_trainer([1, 2])
    numbers = trainer.draws.at(0)
    for world in (3, 4):
        shares = [Ranks(r, world).share(numbers) for r in range(world)]
        assert torch.equal(torch.cat([share.indices_MB for share in shares], 1), numbers.indices_MB)
        for name, whole in numbers.draws.items():
            assert torch.equal(torch.cat([share.draws[name] for share in shares], 1), whole)


def commands_of_children() -> Iterator[tuple[int, str]]:
    """(pid, command line) of the processes that this one has started, and they in turn."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            yield child.pid, " ".join(child.cmdline())


@pytest.mark.slow
def test_workers_of_ray_train(ray_cpus: float, pointmass_demos: Path, tmp_path: Path) -> None:
    """The run folder is that of one process; a worker that is killed in between changes nothing."""
    out = tmp_path / "two"
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if (out / "state.safetensors").exists():
                found = [pid for pid, command in commands_of_children() if "RayTrainWorker" in command]
                if found:
                    os.kill(found[-1], signal.SIGKILL)
                    killed.append(found[-1])
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    flags = ("--training_steps=1200", "--action_metrics=100", "--holdout_seed=0")
    assert run_train(pointmass_demos, out, "--num_workers=2", *flags) == 0
    thread.join()
    assert killed
    assert run_train(pointmass_demos, tmp_path / "one", *flags) == 0
    for name in ("eval.csv", "train.csv", "metrics.csv"):
        steps = [[r["step"] for r in read_table(f / name)] for f in (tmp_path / "one", out)]
        assert steps[0] == steps[1]
    one, two = (PolicyBundle.load(f / "checkpoint_1200") for f in (tmp_path / "one", out))
    assert one.run_id == two.run_id
    for name, value in one.weights.items():
        torch.testing.assert_close(value, two.weights[name], rtol=1e-3, atol=1e-3)
    assert not (out / "ray_train").exists()
    marks = json.loads((out / "best.json").read_text())
    assert marks.keys() == {"sample_mse", "success"}, "a worker writes one, the command the other"
    assert (out / "plots" / "loss.png").is_file()


def test_more_workers_than_cpus_are_refused(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--num_workers=64",)
    assert run_train(pointmass_demos, tmp_path / "out", *flags) == 2
    assert "--num_workers: 64 processes need 64 CPUs" in capsys.readouterr().err
    assert run_train(pointmass_demos, tmp_path / "out", "--num_workers=65") == 2
    assert "batch_size: expected at least num_workers x accumulate = 65 x 1" in capsys.readouterr().err
    assert run_train(pointmass_demos, tmp_path / "out", "--num_workers=0") == 2
    assert "--num_workers: expected at least 1, got 0" in capsys.readouterr().err
    for least in (3, -1):
        assert run_train(pointmass_demos, tmp_path / "out", "--num_workers=2", f"--min_workers={least}") == 2
        assert f"--min_workers: expected 1 to num_workers = 2, or 0 for as many, got {least}" in capsys.readouterr().err
    assert run_train(pointmass_demos, tmp_path / "out", "--num_workers=64", "--min_workers=3") == 2
    assert "--min_workers: 3 processes need 3 CPUs, Ray has 2" in capsys.readouterr().err
