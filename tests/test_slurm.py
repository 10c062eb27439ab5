"""`raybc cluster slurm`: what the script asks for, what is refused, and sweeps on a real SLURM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raybc.cli import run_main
from raybc.cluster.__main__ import main
from raybc.cluster.slurm import Allocation, Job
from raybc.files import read_json
from raybc.sweep.ledger import read_events
from tests import slurm
from tests.test_sweep import SWEEP as TINY
from tests.test_sweep import check_complete, write_sweep

SWEEP = ("sweep", "mine.yaml", "--out", "runs/mine")


def test_the_script_requests_what_was_asked_for(tmp_path: Path) -> None:
    allocation = Allocation(
        nodes=3, cpus=8, gpus=2, mem="64G", time="1-12", partition="gpu", account="lab", sbatch=("qos=high",)
    )
    lines = Job(SWEEP, allocation).script(folder=tmp_path).splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    directives = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {
        "nodes=3", "ntasks-per-node=1", "cpus-per-task=8", "gpus-per-node=2", "mem=64G", "time=1-12", "partition=gpu",
        "account=lab", "qos=high", "requeue", f"chdir={tmp_path}", "job-name=raybc",
    } <= set(directives)  # fmt: skip
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    last_directive = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last_directive < first_command, "SLURM reads directives in front of the first command only"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (SWEEP, "sweep mine.yaml --out runs/mine --resume=auto --address"),
        ((*SWEEP, "--resume"), "sweep mine.yaml --out runs/mine --resume --address"),
        ((*SWEEP, "--set", "name=a b"), "--set 'name=a b' --resume=auto --address"),
        (("demos", "lift", "--out", "$(reboot).hdf5"), "demos lift --out '$(reboot).hdf5' --address"),
    ],
)
def test_the_command_is_quoted_and_continues(words: tuple[str, ...], expected: str) -> None:
    assert f'{expected} "$address"' in Job(words).script()


def test_bash_accepts_the_script(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    for requeue in (True, False):
        text = Job(SWEEP, Allocation(requeue=requeue, setup=("module load cuda",))).script(folder=folder)
        checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
        assert ("scontrol requeue" in text) == requeue


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes", "2"], "expected a command after --"),
        (["--", "sweap", "a.yaml", "--out", "b"], "expected a command that uses a cluster: did you mean 'sweep'"),
        (["--", "dashboard", "--out", "b"], "expected a command that uses a cluster"),
        (["--", "sweep", "a.yaml"], "expected --out DIR, a folder that all machines"),
        (["--", *SWEEP, "--address=auto"], "--address: the script sets it"),
        (["--nodes", "0", "--", *SWEEP], "--nodes: expected at least 1, got 0"),
        (["--time", "2h", "--", *SWEEP], "--time: expected minutes, HH:MM:SS or D-HH:MM:SS, got '2h'"),
        (["--mem", "64GB", "--", *SWEEP], "--mem: expected a number with K, M, G or T"),
        (["--partition", "a\n#SBATCH --uid=0", "--", *SWEEP], "--partition: expected letters"),
        (["--sbatch", "nodes=4", "--", *SWEEP], "--sbatch nodes=4: nodes is set by --nodes"),
        (["--sbatch", "qos=a\nrm", "--", *SWEEP], "--sbatch: expected options without dashes"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: main(["slurm", *flags])) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_edited_script_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: main(["slurm", "--", *SWEEP])) == 0
    assert "submit it: sbatch raybc.sbatch" in capsys.readouterr().out
    assert run_main(lambda: main(["slurm", "--", *SWEEP])) == 0, "the same script again"
    script = tmp_path / "raybc.sbatch"
    script.write_text(script.read_text() + "# mine\n")
    assert run_main(lambda: main(["slurm", "--", *SWEEP])) == 2
    assert "raybc.sbatch: is there with other contents; use --overwrite" in capsys.readouterr().err
    assert script.read_text().endswith("# mine\n")


def test_without_sbatch_the_script_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_main(lambda: main(["slurm", "--submit", "--", *SWEEP])) == 2
    assert "--submit: sbatch was not found; call this on a login machine" in capsys.readouterr().err
    assert (tmp_path / "raybc.sbatch").is_file()


def _submit(env: dict[str, str], folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "raybc", "cluster", "slurm", *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted as job (\d+)", done.stdout)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())
def test_sweeps_on_two_nodes(pointmass_demos: Path, tmp_path: Path) -> None:
    """One runs to its end; one is stopped as at its time limit, is queued again and continues."""
    root = str(Path(__file__).parents[1])
    with slurm.running(tmp_path / "slurm") as env:
        env = env | {"PYTHONPATH": root}
        (tmp_path / "work").mkdir()
        sweep = write_sweep(tmp_path, pointmass_demos)
        run = tmp_path / "run"
        number = _submit(
            env, tmp_path / "work", "--nodes", "2", "--cpus", "2", "--time", "30", "--submit",
            "--", "sweep", str(sweep), "--out", str(run),
        )  # fmt: skip
        log = tmp_path / "work" / f"raybc-{number}.log"
        slurm.until(lambda: (run / "ledger.jsonl").exists() or not slurm.squeue(env), 300, "the sweep has begun")
        slurm.until(lambda: _rows(run) or not slurm.squeue(env), 300, "a first result")
        signal = ["scancel", "--batch", "--signal=TERM", number]
        subprocess.run(signal, env=env, check=True)  # what SLURM sends two minutes before the limit
        slurm.until(lambda: "queued again" in log.read_text() or not slurm.squeue(env), 180, "it stopped")
        subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], env=env)  # not after its pause
        slurm.until(lambda: not slurm.squeue(env), 600, "the job has ended")
        text = log.read_text()
        assert "the time limit is near" in text, text
        assert text.count("starting Ray on 2 machine(s)") == 2, text
        assert "report:" in text, text
        check_complete(run, TINY["search"]["trials"])
        assert read_json(run / "winner.json")
        assert not list(Path("/tmp").glob(f"raybc-{number}")), "Ray's folder is gone"


def _rows(run: Path) -> int:
    ledger = run / "ledger.jsonl"
    return sum(event["event"] == "evaluation" for event in read_events(ledger)) if ledger.exists() else 0
