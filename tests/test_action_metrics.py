"""What policies in training would do, compared with the data: metrics.csv, its plots, and the best checkpoint by it.

Letters: N windows, K recorded steps of chunks, H chunk, A action dim.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raybc.bundle import WEIGHTS, PolicyBundle
from raybc.cli import run_main
from raybc.data.episodes import EpisodeStore
from raybc.find_bundle import find_bundle
from raybc.inference.agent import Agent
from raybc.report import plots
from raybc.report.__main__ import main as report
from raybc.report.html import write_report
from raybc.rows import epoch_rows
from raybc.run_folder import SweepFolder, TrainingFolder, mark_best
from raybc.train.action_metrics import ActionErrors, ActionMetrics, noise_of
from raybc.train.choices import Parallel
from raybc.train.csv_rows import append_row
from raybc.train.data import TrainingData
from raybc.train.epoch_log import PackEpochLog
from raybc.train.epochs import EpochMeter
from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer
from raybc.train.member import MemberRun
from raybc.train.ranks import Ranks
from raybc.train.step import stream_seed
from raybc.types import Observation, UserError
from tests.helpers import (
    CPU,
    leave_group,
    read_table,
    saved,
    stop_training_at,
    tiny_config,
    tiny_data,
    tiny_store,
    tiny_trainer,
)  # fmt: skip
from tests.test_report import Page, make_run
from tests.test_train_offline import robot, train

PLOTS = ["cosine", "loss", "lr", "mse", "norm_histograms", "norms", "rmse_joints"]
#: 8 episodes of 12 steps train and 2 are held out; an epoch has 3 steps.
SMALL = (
    "--policy=regression", "--hidden_width=16", "--hidden_depth=1", "--batch_size=32", "--action_chunking",
    "--horizon_length=4", "--lr=1e-2", "--log_interval=10", "--action_metrics=1", "--holdout_seed=0",
    "--eval_interval=0",
)  # fmt: skip


def by_hand(
    bundle: PolicyBundle, store: EpisodeStore, episodes: Sequence[int], noise_NHA: np.ndarray
) -> dict[str, Any]:
    """What is measured, by loops over windows and steps, from the chunks of the bundle's own agent."""
    agent, config = Agent(saved(bundle)), bundle.config
    seen, images, ends, rows = [], [], [], []
    for episode in episodes:
        begin, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        for row in range(begin, end):
            steps = [max(begin, row - back) for back in reversed(range(config.obs_steps))]
            seen.append([np.concatenate([store.obs[key][s] for key in bundle.obs_sizes]) for s in steps])
            images.append({name: store.obs[name][steps] for name in bundle.images})
            rows.append(row)
            ends.append(end)
    noise = noise_NHA * config.eval_temperature
    seen_images = {name: np.stack([one[name] for one in images]) for name in bundle.images}
    observed = Observation(np.array(seen, np.float32), seen_images)
    chunks = agent.chunks(observed, noise.astype(np.float32), config.sample_setting)
    squares, cosines, norms, predicted = [], [], [], []
    for chunk, row, end in zip(chunks.astype(np.float64), rows, ends, strict=True):
        for h in range(min(config.chunk_length, end - row)):
            got, wanted = chunk[h], store.actions_NA[row + h].astype(np.float64)
            squares.append((got - wanted) ** 2)
            norms.append(np.sqrt(np.sum(wanted**2)))
            predicted.append(np.sqrt(np.sum(got**2)))
            cosines.append(got @ wanted / (norms[-1] * predicted[-1]))
    return {
        "mse": np.mean(squares), "cosine": np.mean(cosines), "norms": np.mean(norms),
        "predicted_norms": np.mean(predicted), "rmse": np.sqrt(np.mean(squares, axis=0)), "steps": len(norms),
    }  # fmt: skip


def measured(errors: ActionErrors) -> dict[str, Any]:
    return {
        "mse": errors.mse, "cosine": errors.cosine, "norms": errors.norms_K.mean(),
        "predicted_norms": errors.predicted_norms_K.mean(), "rmse": errors.rmse_A, "steps": len(errors.norms_K),
    }  # fmt: skip


def held_out_data(scale: Sequence[float] = (1.0, 30.0)) -> Any:
    """Three episodes to train on and two that are held out; the second action is in another unit."""
    store = tiny_store((6, 9, 3, 7, 5), splits={"train": [0, 1, 2], "valid": [3, 4]})
    return tiny_data(EpisodeStore(**{**vars(store), "actions_NA": store.actions_NA * np.float32(scale) + 2}))


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_temperature": 1.0},
        {"eval_temperature": 0.5, "ema_decay": 0.9, "obs_steps": 2, "solver": "heun"},
        {"objective": "diffusion", "eval_temperature": 1.0, "normalization": "min_max"},
        {"objective": "mip", "pad_loss": "repeat"},
        {"policy": "regression", "hidden_width": 16, "hidden_depth": 1, "obs_steps": 2},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_the_numbers_are_those_of_loops_over_the_bundles_own_chunks(changes: dict[str, Any]) -> None:
    data = held_out_data()
    trainer = tiny_trainer((3, 4), data, training_steps=30, action_metrics=1, **changes)
    trainer.advance(30)
    found = ActionMetrics(trainer).errors(trainer.acting_weights())
    windows = 7 + 5
    for m, seed in enumerate((3, 4)):
        generator = torch.Generator().manual_seed(stream_seed(seed, "action_metrics"))
        noise = torch.randn((windows, 4, 2), generator=generator).numpy()
        expected = by_hand(trainer.bundle(m), data.store, (3, 4), noise)
        assert expected["steps"] == 7 * 4 + 5 * 4 - 2 * (1 + 2 + 3), "no steps beyond the ends of the episodes"
        for name, value in measured(found[m]).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert found[0].mse != found[1].mse


@pytest.mark.parametrize(
    ("encoder", "tolerance"),
    [
        ({"encoder": "impala_small"}, 1e-4),
        ({"encoder": "resnet18", "image_norm": "batch", "image_pool": "average"}, 1e-3),
    ],
    ids=["impala", "resnet"],
)
def test_images_are_seen_as_in_acting(encoder: dict[str, Any], tolerance: float) -> None:
    """Cut at the centre, where training cuts at random."""
    store = held_out_data().store
    camera = np.random.default_rng(0).integers(0, 256, (len(store.actions_NA), 20, 20, 3), np.uint8)
    store = EpisodeStore(**{**vars(store), "obs": {**store.obs, "camera": camera}})
    data = TrainingData(store, store.fingerprint(), ("arm", "cube", "camera"), {})
    budget = {"training_steps": 3, "batch_size": 4}
    config = tiny_config(action_metrics=1, eval_temperature=1.0, image_crop="16,16", **budget, **encoder)
    trainer = PackTrainer([config], data, CPU)
    trainer.advance(3)
    (found,) = ActionMetrics(trainer).errors(trainer.acting_weights())
    noise = noise_of(trainer, 0, 12).numpy()
    expected = by_hand(trainer.bundle(0), store, (3, 4), noise)
    for name, value in measured(found).items():
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=1e-5, err_msg=name)


def on_a_rank(rank: int, world: int, port: int, out: str, parallel: Parallel) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    trained_with_rows(Path(out), Ranks.here(parallel))
    leave_group()


def trained_with_rows(out: Path, ranks: Ranks) -> None:
    trainer = tiny_trainer((3,), held_out_data(), ranks, training_steps=20, action_metrics=2, ema_decay=0.9)
    folders = [out] if ranks.rank == 0 else []
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(MemberLog(folder, folder / "tensorboard", 0)) for folder in folders]
        trainer.advance(20, None, PackEpochLog(trainer, folders, logs))


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_several_processes_measure_as_one(parallel: Parallel, tmp_path: Path, free_port: int) -> None:
    torch.multiprocessing.spawn(on_a_rank, (2, free_port, str(tmp_path / "two"), parallel), nprocs=2)
    trained_with_rows(tmp_path / "one", Ranks())
    one, two = (TrainingFolder(tmp_path / name) for name in ("one", "two"))
    assert [row["step"] for row in epochs(one)] == [4, 8, 12, 16, 20]
    for ours, theirs in zip(epochs(one), epochs(two), strict=True):
        assert ours.pop("phase") == theirs.pop("phase")
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert PolicyBundle.load(one.best_mse).step == PolicyBundle.load(two.best_mse).step


def test_vectors_that_are_known() -> None:
    predicted, recorded = np.array([[3.0, 4], [0, 2], [0, 0]]), np.array([[3.0, 4], [2, 0], [1, 0]])
    errors = ActionErrors.of(predicted, recorded)
    assert errors.mse == pytest.approx((4 + 4 + 1) / 6)
    assert errors.cosine == pytest.approx((1 + 0 + 0) / 3), "a zero vector counts as 0"
    np.testing.assert_allclose(errors.norms_K, [5, 2, 1])
    np.testing.assert_allclose(errors.predicted_norms_K, [5, 2, 0])
    np.testing.assert_allclose(errors.rmse_A, np.sqrt([5 / 3, 4 / 3]))


def epochs(folder: TrainingFolder) -> list[dict[str, Any]]:
    return epoch_rows(folder.metrics_jsonl)


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw only where the plots are what is tested."""
    if "plots" not in request.node.name:
        monkeypatch.setattr(plots, "draw", lambda folder: [])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return robot(tmp_path_factory.mktemp("data") / "robot.hdf5")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    """30 steps, ten epochs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train("--dataset", data, *SMALL, "--training_steps=30", "--out", out) == 0
    return TrainingFolder(out)


def test_a_row_for_each_epoch(run: TrainingFolder) -> None:
    rows = read_table(run.metrics_csv)
    assert list(rows[0]) == [
        "epoch", "step", "phase", "train_loss", "val_loss", "val_mse", "val_cos", "val_norm_gt", "val_norm_pred", "lr",
        "val_rmse_j1", "val_rmse_j2", "val_rmse_j3", "val_rmse_j4",
    ]  # fmt: skip
    assert [(int(r["epoch"]), int(r["step"])) for r in rows] == [(e, 3 * e) for e in range(1, 11)]
    assert {r["phase"] for r in rows} == {"train"}
    assert {float(r["lr"]) for r in rows} == {1e-2}
    for row, exact in zip(rows, epochs(run), strict=True):
        assert list(row) == list(exact)
        numbers = {name: float(value) for name, value in row.items() if name != "phase"}
        assert numbers == pytest.approx({name: exact[name] for name in numbers}, rel=1e-7)
        rmse = [exact[f"val_rmse_j{i}"] for i in range(1, 5)]
        assert exact["val_mse"] == pytest.approx(np.mean(np.square(rmse)))
    assert rows[-1]["val_norm_gt"] == rows[0]["val_norm_gt"]
    assert float(rows[-1]["val_mse"]) < float(rows[0]["val_mse"]) / 2, "it learns"


def test_the_training_loss_is_the_mean_over_all_steps(data: Path, run: TrainingFolder, tmp_path: Path) -> None:
    flags = (*SMALL, "--training_steps=30", "--log_interval=1", "--action_metrics=2", "--out", tmp_path / "each")
    assert train("--dataset", data, *flags) == 0
    losses = [float(r["train/actor_loss"]) for r in read_table(TrainingFolder(tmp_path / "each").train_csv)]
    every = [row["train_loss"] for row in epochs(run)]
    np.testing.assert_allclose(every, np.reshape(losses, (10, 3)).mean(1), rtol=1e-5)
    two = epochs(TrainingFolder(tmp_path / "each"))
    assert [row["epoch"] for row in two] == [2, 4, 6, 8, 10]
    np.testing.assert_allclose([row["train_loss"] for row in two], np.reshape(losses, (5, 6)).mean(1), rtol=1e-5)


def test_training_is_the_same_to_the_bit(data: Path, run: TrainingFolder, tmp_path: Path) -> None:
    without = TrainingFolder(tmp_path / "without")
    assert train("--dataset", data, *SMALL, "--training_steps=30", "--action_metrics=0", "--out", without.path) == 0
    ours, theirs = (load_file(folder.checkpoint(30) / WEIGHTS) for folder in (run, without))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ids = [json.loads(folder.flags.read_text())["run_id"] for folder in (run, without)]
    assert ids[0] == ids[1]
    written = {path.name for path in run.path.iterdir()} - {path.name for path in without.path.iterdir()}
    assert written == {"metrics.csv", "metrics.jsonl", "action_norms.npz", "plots", "best.json", "best_mse"}


def test_plots_are_images(run: TrainingFolder) -> None:
    from PIL import Image

    assert sorted(path.name for path in run.plots.iterdir()) == [f"{name}.png" for name in PLOTS]
    for path in run.plots.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(np.unique(np.asarray(image.convert("L")))) > 10, "something is drawn"
    with np.load(run.action_norms) as norms:
        last = epochs(run)[-1]
        assert int(norms["step"]) == 30
        assert norms["gt"].mean() == pytest.approx(last["val_norm_gt"], rel=1e-5)
        assert norms["pred"].mean() == pytest.approx(last["val_norm_pred"], rel=1e-5)


def test_a_page_shows_the_run(run: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = TrainingFolder(Path(shutil.copytree(run.path, tmp_path / "run", symlinks=True)))
    assert run_main(lambda: report([str(run.path)])) == 0
    assert "report.html" in capsys.readouterr().out
    page = Page(run.report.read_text())
    assert len(page.figures) == len(PLOTS)
    shown = {trace["name"]: trace["y"] for figure in page.figures for trace in figure["data"] if trace["type"] != "bar"}
    rows = epochs(run)
    for name, column in {"val_mse": "val_mse", "j2": "val_rmse_j2", "train_loss": "train_loss", "lr": "lr"}.items():
        assert shown[name] == pytest.approx([row[column] for row in rows])
    bars = {t["name"]: t["y"] for figure in page.figures for t in figure["data"] if t["type"] == "bar"}
    with np.load(run.action_norms) as norms:
        assert sum(bars["recorded"]) == sum(bars["predicted"]) == len(norms["gt"])
    assert "Best by val_mse" in page.text
    assert "raybc train --dataset" in page.text


def test_pages_of_a_pack_and_of_a_run_without_rows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dataset", data, *SMALL, "--training_steps=3")
    assert train(*flags, "--seeds", 0, 1, "--out", tmp_path / "pack") == 0
    assert run_main(lambda: report([str(tmp_path / "pack")])) == 0
    assert len(list((tmp_path / "pack").glob("sd*/report.html"))) == 2
    assert train(*flags, "--action_metrics=0", "--out", tmp_path / "none") == 0
    assert run_main(lambda: report([str(tmp_path / "none")])) == 2
    error = capsys.readouterr().err
    assert "expected metrics.jsonl, which a training with --action_metrics=1 writes" in error
    assert error.count("\n") == 1


def test_the_report_of_a_sweep_shows_the_winner(run: TrainingFolder, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "sweep")
    write_report(folder)
    without = Page(SweepFolder(folder).report.read_text())
    member = SweepFolder(folder).member(3, 0)
    for name in (run.metrics_jsonl.name, run.action_norms.name):
        shutil.copy(run.path / name, member.path / name)
    write_report(folder)
    page = Page(SweepFolder(folder).report.read_text())
    assert len(page.figures) == len(without.figures) + len(PLOTS)
    assert "Trial 3, seed 0: chunks sampled on held-out windows" in page.text


def test_plots_of_a_pack_are_drawn_after_ctrl_c(data: Path, tmp_path: Path) -> None:
    """Here of policies that sample, in two phases."""
    flags = [flag for flag in SMALL if "regression" not in flag]
    phases = ("--freeze=velocity_field.layers.0", "--freeze_steps=6", "--flow_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        stop_training_at(12, patch)
        more = ("--save_interval=12", "--training_steps=30", "--seeds", 0, 1, "--out", tmp_path / "run")
        assert train("--dataset", data, *flags, *phases, *more) != 0
    for seed in (0, 1):
        folder = TrainingFolder(next((tmp_path / "run").glob(f"sd{seed:03d}*")))
        assert [row["phase"] for row in epochs(folder)] == ["frozen", "frozen", "train", "train"]
        assert sorted(path.stem for path in folder.plots.iterdir()) == PLOTS


def test_both_best_checkpoints_are_marked(data: Path, tmp_path: Path) -> None:
    """The lowest error of any epoch, whether or not a checkpoint was due there."""
    flags = (*SMALL, "--training_steps=60", "--eval_interval=20", "--lr=0.3", "--out", tmp_path / "run")
    assert train("--dataset", data, *flags) == 0
    folder = TrainingFolder(tmp_path / "run")
    rows = epochs(folder)
    best = min(rows, key=lambda row: row["val_mse"])
    assert best["step"] % 20, "otherwise this test says little"
    marks = json.loads(folder.best_marks.read_text())
    assert marks["val_mse"] == {"epoch": best["epoch"], "step": best["step"], "value": best["val_mse"],
                                "checkpoint": "best_mse"}  # fmt: skip
    assert marks["valid_cosine"]["step"] == folder.best_step()
    assert (folder.path / marks["valid_cosine"]["checkpoint"]).resolve() == folder.best.resolve()
    path, _ = find_bundle(folder.path, "best_mse")
    assert PolicyBundle.load(path).step == best["step"]
    assert sorted(folder.checkpoints()) == [60], "it is no checkpoint to resume or to delete"


def test_the_best_by_success_is_marked_beside_it(tmp_path: Path) -> None:
    member = MemberRun(tiny_config(action_metrics=1), tiny_data(), tmp_path, "")
    rates = {10: 0.2, 20: 0.6, 30: 0.4}
    for step, rate in rates.items():
        tiny_trainer().bundle(0).save(member.bundle(step))
        append_row(member.folder.eval_csv, ("step", "eval/success", "episodes", "errors"), (step, rate, 5, 0))
    mark_best(member.folder, "sample_mse", {"step": 12, "value": 0.5, "checkpoint": "best_mse"})
    member.point(30, finished=True)
    assert json.loads(member.folder.best_marks.read_text()) == {
        "sample_mse": {"step": 12, "value": 0.5, "checkpoint": "best_mse"},
        "success": {"step": 20, "value": 0.6, "checkpoint": "checkpoint_20"},
    }


def test_best_mse_of_a_run_that_has_none(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("--dataset", data, *SMALL, "--training_steps=3", "--action_metrics=0", "--out", out) == 0
    with pytest.raises(UserError, match=r"--checkpoint best_mse: .*has none; a run with --action_metrics=1 keeps it"):
        find_bundle(out, "best_mse")


def test_run_args_have_the_options_and_the_commands(data: Path, run: TrainingFolder, tmp_path: Path) -> None:
    args = json.loads(run.run_args.read_text())
    flags = json.loads(run.flags.read_text())
    assert {name: flags.get(name, args[name]) for name in args} == args
    assert args["batch_size"] == 32
    assert len(args["commands"]) == 1
    assert args["commands"][0].startswith(f"raybc train --dataset {data} --policy=regression")
    out = tmp_path / "run"
    tracker = "--mlflow_experiment=http://me:secret@host/x"
    assert train("--dataset", data, *SMALL, "--training_steps=3", "--out", out) == 0
    assert train("--dataset", data, *SMALL, "--training_steps=6", "--out", out, "--resume", tracker) == 0
    args = json.loads(TrainingFolder(out).run_args.read_text())
    assert args["training_steps"] == 6
    assert ["--resume" in command for command in args["commands"]] == [False, True]
    assert args["commands"][1].endswith("--mlflow_experiment=http://***@host/x")


@pytest.mark.parametrize("stop", [10, 12])  # in an epoch, and at its end
def test_a_resumed_run_has_the_same_rows(
    data: Path, run: TrainingFolder, tmp_path: Path, stop: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = TrainingFolder(tmp_path / "run")
    flags = ("--dataset", data, *SMALL, "--training_steps=30", f"--save_interval={stop}", "--out", out.path)
    with pytest.MonkeyPatch.context() as patch:
        stop_training_at(stop, patch)
        assert train(*flags) != 0
    assert [row["step"] for row in epochs(out)] == [3, 6, 9, 12][: stop // 3]
    # A process that was killed had gone further, and was writing a row.
    with out.metrics_jsonl.open("a") as lines:
        lines.write(json.dumps({**epochs(out)[-1], "epoch": 7, "step": 21}) + "\n" + '{"epoch": 8, "st')
    with out.metrics_csv.open("a") as table:
        table.write("7,21,train,1,1")
    assert train(*flags, "--resume") == 0
    assert out.metrics_csv.read_bytes() == run.metrics_csv.read_bytes()
    assert out.metrics_jsonl.read_bytes() == run.metrics_jsonl.read_bytes()
    assert out.best_marks.read_bytes() == run.best_marks.read_bytes()
    ours, theirs = (load_file(folder.best_mse / WEIGHTS) for folder in (out, run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_extended_run_has_the_rows_of_the_longer_one(data: Path, run: TrainingFolder, tmp_path: Path) -> None:
    out = TrainingFolder(tmp_path / "run")
    flags = ("--dataset", data, *SMALL, "--out", out.path)
    assert train(*flags, "--training_steps=10") == 0
    assert [row["step"] for row in epochs(out)] == [3, 6, 9, 10], "one at the end, too"
    assert train(*flags, "--training_steps=30", "--resume") == 0
    assert out.metrics_csv.read_bytes() == run.metrics_csv.read_bytes()


def test_from_when_it_is_switched_on(data: Path, run: TrainingFolder, tmp_path: Path) -> None:
    out = TrainingFolder(tmp_path / "run")
    flags = ("--dataset", data, *SMALL, "--out", out.path)
    assert train(*flags, "--training_steps=9", "--action_metrics=0") == 0
    assert train(*flags, "--training_steps=30", "--resume") == 0
    assert out.metrics_jsonl.read_text().splitlines() == run.metrics_jsonl.read_text().splitlines()[3:]


def test_members_of_a_pack_have_the_rows_of_each_alone(data: Path, tmp_path: Path) -> None:
    """Also where one of them stops early, in the middle of an epoch."""
    stop = ("--training_steps=40", "--stop_patience=1", "--stop_min_delta=1e-4", "--monitor_interval=4", "--lr=0.1")
    flags = ("--dataset", data, *SMALL, *stop)
    assert train(*flags, "--seeds", 0, 1, "--out", tmp_path / "pack") == 0
    lengths = []
    for seed in (0, 1):
        assert train(*flags, "--seed", seed, "--out", tmp_path / str(seed)) == 0
        alone = TrainingFolder(tmp_path / str(seed))
        together = TrainingFolder(next((tmp_path / "pack").glob(f"sd{seed:03d}*")))
        lengths.append(len(epochs(alone)))
        assert len(epochs(together)) == lengths[-1]
        for one, other in zip(epochs(alone), epochs(together), strict=True):
            assert one.pop("phase") == other.pop("phase")
            assert one == pytest.approx(other, rel=1e-4)
    assert lengths[0] != lengths[1], "otherwise this test says little"
    assert max(lengths) < 14


def test_when_rows_are_due() -> None:
    meter = EpochMeter(3, 2, 2, CPU)
    assert [step for step in range(1, 15) if meter.due(step, step == 14, [False, False])] == [6, 12, 14]
    assert meter.due(4, False, [False, True]) == [1]
    meter.close(4, [False, True])
    assert meter.due(6, False, [False, True]) == [0]
    assert EpochMeter(3, 0, 2, CPU).due(6, True, [False, False]) == []


def test_phases_are_named(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    frozen = ("--freeze=network.layers.0", "--freeze_steps=6", "--training_steps=12")
    assert train("--dataset", data, *SMALL, *frozen, "--out", out) == 0
    assert [(row["step"], row["phase"]) for row in epochs(TrainingFolder(out))] == [
        (3, "frozen"), (6, "frozen"), (9, "train"), (12, "train"),
    ]  # fmt: skip


def test_policies_that_sample_say_so(data: Path, tmp_path: Path) -> None:
    flags = [flag for flag in SMALL if "regression" not in flag]
    assert train("--dataset", data, *flags, "--flow_steps=2", "--training_steps=3", "--out", tmp_path / "run") == 0
    folder = TrainingFolder(tmp_path / "run")
    (row,) = epochs(folder)
    assert "sample_mse" in row
    assert "val_mse" not in row
    assert next(iter(json.loads(folder.best_marks.read_text()))) == "sample_mse"


def test_without_matplotlib_there_are_no_plots_and_training_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert train("--dataset", data, *SMALL, "--training_steps=3", "--out", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: plots: needs the package matplotlib: pip install 'raybc[plots]'" in printed
    assert len(epochs(TrainingFolder(tmp_path / "run"))) == 1
    assert not TrainingFolder(tmp_path / "run").plots.exists()


def test_held_out_episodes_are_needed() -> None:
    with pytest.raises(UserError, match=r"action_metrics: expected held-out episodes.*tiny.hdf5 has no split `valid`"):
        tiny_trainer(action_metrics=1)


def test_a_trainer_alone_may_have_the_option() -> None:
    """Who calls the trainer without a function for rows gets the same training."""
    trainer = tiny_trainer(data=held_out_data(), training_steps=20, action_metrics=1)
    trainer.advance(20)
    other = tiny_trainer(data=held_out_data(), training_steps=20)
    other.advance(20)
    ours, theirs = trainer.acting_weights(), other.acting_weights()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
