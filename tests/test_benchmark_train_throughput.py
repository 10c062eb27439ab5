"""The benchmark of training throughput: its table compares equally many members, and many steps are whole blocks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.train_throughput import main, rate, show
from raybc.train.step import STEPS_PER_BLOCK


def test_a_pack_is_compared_with_as_many_vmapped_members(capsys: pytest.CaptureFixture[str]) -> None:
    show(128, 3, {"plain": [10.0], "ours M=4": [60.0, 20.0, 30.0], "jax M=4": [20.0], "ours M=8": [40.0]}, "cpu")
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert table["ours M=4"] == ["60, 20, 30", "3.00", "1.50"], "medians: 30 over 10, and over 20"
    assert table["ours M=8"] == ["40", "4.00", ""], "vmapped JAX was not measured there"
    assert table["plain"][1:] == ["1.00", ""]


def test_many_steps_are_whole_blocks_of_draws() -> None:
    """A clock that takes 1 s a step: what is measured last is at least half of the time that was asked for."""
    now, asked = [0.0], list[int]()

    def run(steps: int) -> None:
        asked.append(steps)
        now[0] += steps

    assert rate(run, 3, 1000.0, "cpu", lambda: now[0]) == pytest.approx(3.0)
    assert asked[-1] > 500
    assert all(steps % STEPS_PER_BLOCK == 0 for steps in asked if steps > STEPS_PER_BLOCK // 2)


def test_it_runs_with_one_way_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rates.json"
    size = ["--nets", "1x4", "--members", "2", "--rounds", "1", "--seconds", "0.001", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["x", "--ways", "ours", "--clock", "cpu", "--json", str(path), *size])
    main()
    assert "### 1 x 4, batch 256, cpu" in capsys.readouterr().out
    assert json.loads(path.read_text())["1x4"]["ours M=2"][0] > 0
    monkeypatch.setattr(sys, "argv", ["x", "--clock", "cpu", *size])
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 2
    assert "--clock cpu: expected --device cpu and --ways without beside" in capsys.readouterr().err
