"""`python -m benchmarks.gpu`: a whole run of tiny sizes on a bare machine, and sections that go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import sections
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bench import SIZES, Bench, all_policies, recipes
from benchmarks.gpu.figures import LEFT_OUT, MEASURED, WRONG, Measured, Task, markdown
from benchmarks.gpu.peak import peak
from benchmarks.gpu.sections import SECTIONS, Section, difference, flops_of_member
from raybc.policies.chunk import OBJECTIVES

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def figures(out: Path, section: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(out.read_text())["sections"][section]["figures"]
    return {(row["row"], row["column"]): row for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file and the output of a run without flags, where nothing but torch and file formats can be imported."""
    out = tmp_path_factory.mktemp("gpu") / "figures.json"
    command = [sys.executable, "-m", "tests.bare", "benchmarks.gpu", "--device", "cpu", "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out, run.stdout


def test_a_tiny_run_measures_everything(whole: tuple[Path, str]) -> None:
    out, text = whole
    found = json.loads(out.read_text())
    assert found["complete"]
    assert found["machine"]["size"] == "tiny"
    assert list(found["sections"]) == list(SECTIONS)
    kinds, objectives = set(all_policies()), set(OBJECTIVES)
    assert {row for row, _ in figures(out, "agreement")} >= {f"flow, {name}" for name in objectives - {"flow"}} | kinds
    for size in (1, 2, 4, 8, 16, 32):
        for precision in ("fp32", "bf16"):
            rows = [figures(out, "packs")[f"{kind}, {precision}", f"M={size}"] for kind in kinds]
            assert all(row["value"] > 0 and row["more"]["share_of_peak"] > 0 for row in rows)
    assert {column for _, column in figures(out, "chunks")} == {"batch 1", "batch 32", "batch 256"}
    assert {column for _, column in figures(out, "compile")} == {"off", "default", "reduce-overhead"}
    assert {column for _, column in figures(out, "group")} == {"ddp", "fsdp"}
    assert all(row["more"]["bit_exact"] for row in figures(out, "resume").values())
    for name in SECTIONS:
        for row in figures(out, name).values():
            compiles = name in ("compile", "autotune") and row["column"] != "off"
            assert row["state"] == (LEFT_OUT if compiles else MEASURED), row
    assert found["markdown"] in text
    assert "| flow, fp32 | " in found["markdown"]


def test_what_is_asked_for_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    flags = ["--out", str(out), "--device", "cpu", "--sections", "chunks", "--policies", "regression"]
    assert main(flags) == 0
    assert set(figures(out, "chunks")) == {("regression, 1 evaluation", f"batch {b}") for b in (1, 32, 256)}
    assert list(json.loads(out.read_text())["sections"]) == ["chunks"]
    assert "chunks: regression, 1 evaluation, batch 32: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "x.json", "--minute", "1"], "unrecognized arguments: --minute 1"),
        (["--minutes", "1"], "the following arguments are required: --out"),
        (["--out", "x.json", "--minutes", "0"], "argument --minutes: expected a number above 0, got 0"),
        (["--out", "x.json", "--sections", "pack"], "argument --sections: invalid choice: 'pack'"),
        (["--out", "x.json", "--policies", "mlp"], "argument --policies: invalid choice: 'mlp'"),
        (["--out", "nowhere/x.json"], "expected a file in an existing folder, there is no nowhere"),
        (["--out", "."], "argument --out: expected a file, . is a folder"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "o.json"), "--device", "cuda"]) == 2
    assert "error: --device: 'cuda' was requested, but this PyTorch sees no CUDA device" in capsys.readouterr().err


def raises(error: BaseException) -> Callable[[], Measured]:
    def measure() -> Measured:
        raise error

    return measure


def fine() -> Measured:
    return Measured(2.0, "ms")


def dies() -> Measured:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hangs() -> Measured:
    time.sleep(600)
    raise AssertionError


def run_of(
    measures: dict[str, Callable[[], Measured]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status and the figures of one section with these tasks, and then of a second one with a good task."""

    def tasks(bench: Bench) -> Iterator[Task]:
        return (Task("it", name, measure) for name, measure in measures.items())

    monkeypatch.setitem(SECTIONS, "packs", Section("Odd", 0.5, tasks))
    monkeypatch.setitem(SECTIONS, "chunks", Section("Good", 0.5, lambda bench: iter([Task("it", "last", fine)])))
    out = tmp_path / "o.json"
    status = main(["--out", str(out), "--device", "cpu", "--sections", "packs", "chunks", *flags])
    rows = figures(out, "packs") | figures(out, "chunks")
    assert rows["it", "last"]["state"] == MEASURED
    return status, {column: row for (_, column), row in rows.items()}


def test_errors_are_recorded_and_change_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows = run_of({"bad": raises(ValueError("no\nmore")), "good": fine}, tmp_path, monkeypatch)
    assert status == 1
    assert rows["bad"]["state"] == "failed"
    assert rows["bad"]["message"] == "ValueError: no"
    assert "in measure" in rows["bad"]["traceback"]
    assert rows["good"]["value"] == 2.0
    assert "failed: it, bad: failed: ValueError: no" in capsys.readouterr().err


def test_what_differs_too_much_changes_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, rows = run_of({"far": lambda: Measured(1e-3, "difference", ok=False)}, tmp_path, monkeypatch)
    assert status == 1
    assert rows["far"]["state"] == WRONG


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_recorded_and_not_fatal(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, rows = run_of({"large": raises(error), "good": fine}, tmp_path, monkeypatch)
    assert status == 0
    assert (rows["large"]["state"], rows["large"]["message"]) == (LEFT_OUT, "out of memory")
    assert rows["good"]["state"] == MEASURED


def test_a_dying_process_costs_one_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, rows = run_of({"good": fine, "bad": dies, "later": fine}, tmp_path, monkeypatch)
    assert status == 1
    assert rows["good"]["state"] == MEASURED
    assert rows["bad"]["message"] == "its process was killed by signal 9"
    assert rows["later"]["state"] == MEASURED


def test_a_task_without_end_costs_a_third_of_the_time_of_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    measures = {"good": fine, "slow": hangs, "later": fine}
    status, rows = run_of(measures, tmp_path, monkeypatch, "--minutes", "0.1")
    assert time.monotonic() - started < 60
    assert status == 0
    assert [rows[name]["state"] for name in measures] == [MEASURED, LEFT_OUT, MEASURED]
    assert rows["slow"]["message"] == "it takes more than a third of the section's time"


def test_no_section_takes_the_time_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = {f"slow {i}": hangs for i in range(5)}
    status, rows = run_of(measures, tmp_path, monkeypatch, "--minutes", "0.05")
    assert status == 0
    assert rows["slow 4"]["message"] == "out of time"


def test_flops_are_those_of_the_products() -> None:
    """Of an MLP 31 -> 8 -> 28 on a batch of 8: forward, gradients of weights, and of what the second layer sees."""
    bench = Bench(CPU, SIZES["tiny"], ("flow",))
    inputs, outputs, width = 23 + 4 * 7 + 1, 4 * 7, 8
    wanted = 2 * 8 * (2 * (inputs * width + width * outputs) + width * outputs)
    assert flops_of_member(bench, recipes(("flow",))[0]) == wanted


def test_differences_are_relative_to_large_values() -> None:
    assert difference(torch.tensor([0.5, 1e-3]), torch.tensor([0.5, 0.0])) == pytest.approx(1e-3)
    assert difference(torch.tensor([101.0]), torch.tensor([100.0])) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("name", "precision", "wanted"),
    [
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "tf32", 378.0),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA GeForce RTX 4090", "fp32", 82.6),
    ],
)
def test_peaks_of_known_cards(name: str, precision: str, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    flops, source = peak(torch.device("cuda"), precision, 64)
    assert flops == pytest.approx(wanted * 1e12)
    assert source.startswith("data sheet of ")


def test_peaks_of_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    flops, source = peak(CPU, "fp32", 64)
    assert flops > 1e6
    assert source == "measured by a product of 64 x 64 matrices"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA RTX A1000")
    monkeypatch.setattr("benchmarks.gpu.peak.measured_peak", lambda *given: 7.0)
    assert peak(torch.device("cuda"), "fp32", 64)[0] == 7.0


def test_a_table() -> None:
    common = {"unit": "ms", "note": "", "more": {}}
    rows = [
        {"row": "a", "column": "x", "state": MEASURED, "value": 1234.5, **common},
        {"row": "a", "column": "y", "state": LEFT_OUT, "message": "out of memory"},
        {"row": "b", "column": "x", "state": MEASURED, "value": 0.01234, **common | {"more": {"share_of_peak": 0.5}}},
    ]
    assert markdown("T", rows).splitlines() == [
        "**T** (ms)", "", "| | x | y |", "|---|---|---|", "| a | 1,234 | memory |", "| b | 0.0123 (50.0%) |  |"
    ]  # fmt: skip


def test_the_shares_are_a_whole() -> None:
    assert sum(section.share for section in sections.SECTIONS.values()) == pytest.approx(1.0)
