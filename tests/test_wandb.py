"""Weights & Biases, offline: what stands in the files stands in the copy."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raybc.train.trackers.wandb import WandbConfig
from raybc.types import UserError
from tests.helpers import read_table, run_train, stop_training_at

wandb = pytest.importorskip("wandb")


def records(folder: Path) -> list[dict[str, str]]:
    """The rows of an offline run, as `wandb sync` reads them: protobuf messages in LevelDB's log format, that is blocks
    of 32 KiB with pieces (checksum 4, length 2, kind 1: whole, first, middle, last) after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, message, rows = next(folder.glob("*.wandb")).read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits in what is left of the block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + 7 + length > len(data):  # it is being written
            break
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            if record.WhichOneof("record_type") == "history":
                rows.append({i.key or "/".join(i.nested_key): i.value_json for i in record.history.item})
    return rows


def numbers(rows: list[dict[str, str]], column: str) -> dict[int, float]:
    return {int(r["step"]): float(r[column]) for r in rows if r.get(column)}


def written(folder: Path, pieces: list[Path]) -> list[dict[str, str]]:
    """The rows of all pieces. Its service writes them in a process of its own, on a busy machine after `finish`."""
    wanted = numbers(read_table(folder / "eval.csv"), "eval/return")
    for _ in range(600):
        rows = [row for piece in pieces for row in records(piece)]
        if numbers(rows, "eval/return").keys() >= wanted.keys() and any("eval/video/count" in row for row in rows):
            break
        time.sleep(0.1)
    return rows


@pytest.mark.slow
def test_offline(ray_cpus: float, pointmass_demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds, stopped and resumed: a run for each, in two pieces of the same id, with all rows."""
    out = tmp_path / "run"
    flags = ("--seeds", "0", "1", "--wandb=offline", "--video_episodes=1")
    with monkeypatch.context() as patch:
        stop_training_at(40, patch)
        assert run_train(pointmass_demos, out, *flags) == 130
    assert run_train(pointmass_demos, out, *flags, "--resume") == 0
    for folder in sorted(out.glob("sd*")):
        pieces = sorted((folder / "wandb").glob("offline-run-*"))
        assert len(pieces) == 2
        assert {p.name.split("-")[-1] for p in pieces} == {folder.name.split("_")[1]}
        assert (folder / "wandb_url.txt").read_text() == f"wandb sync {pieces[-1]}\n"
        rows = written(folder, pieces)
        for file, column in (
            ("train.csv", "train/actor_loss"),
            ("eval.csv", "eval/success"),
            ("eval.csv", "eval/return"),
        ):
            assert numbers(rows, column) == numbers(read_table(folder / file), column)
        assert [(row["step"], row["eval/video/count"]) for row in rows if "eval/video/count" in row] == [("60", "1")]
        assert len(list(pieces[-1].rglob("*.mp4"))) == 1


def test_no_account_is_known(tmp_path: Path) -> None:
    """Said before anything else is done."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    code = "from raybc.train.trackers.wandb import WandbConfig; WandbConfig('online').check()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "UserError: --wandb online: no account is known here; run `wandb login`" in done.stderr


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    WandbConfig().check()
    with pytest.raises(UserError, match=r"pip install 'raybc\[wandb\]'"):
        WandbConfig("offline").check()
