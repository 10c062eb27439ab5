"""docs/batched.md: what it shows is what one can run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raybc.files import read_json
from raybc.rollout.on_gpu import LEFT, RENDERING_GPUS, WORKER_GPUS
from tests.helpers import ROOT
from tests.test_extending import typed

TEXT = (ROOT / "docs/batched.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
(CODE,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_worlds.py").write_text(CODE)
    return tmp_path


def test_the_simulator_keeps_the_contract(folder: Path) -> None:
    typed(SHELL[1].splitlines()[0], folder)


@pytest.mark.slow
def test_the_simulator_trains_and_measures(folder: Path) -> None:
    train, rollout = re.findall(r"^raybc .*?[^\\]$", SHELL[1], re.S | re.M)
    typed(train, folder)
    typed(f"{rollout} --out runs/measured", folder)
    (setting,) = read_json(folder / "runs/measured/metrics.json")["settings"]
    assert setting["episodes"] == 100
    assert setting["success_rate"] > 0.8


def test_shares_of_a_gpu_are_as_written() -> None:
    assert f"a worker reserves {WORKER_GPUS} of one" in TEXT
    assert f"simulators that film reserve {RENDERING_GPUS}, and {LEFT} is left" in TEXT
