"""Runs that resume, are extended, or refuse; identities that survive a new option."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.config.migrate import OPTIONS_1, known_ids, run_id_1
from raybc.train.loop import PackTrainer
from raybc.train.resume import find_run, new_place, resumed
from raybc.train.schedule import learning_rate
from raybc.types import UserError
from tests.helpers import CPU, ROOT, run_train, tiny_config, tiny_data

DATA = "fingerprint"


def saved(tmp_path: Path, *members: RunConfig, out: Path | None = None) -> Path:
    """A run folder that has begun."""
    place = new_place(members, DATA, out)
    place.write_flags(DATA)
    return place.out


def config_in(tmp_path: Path, **changes: Any) -> RunConfig:
    return tiny_config(save_dir=str(tmp_path), **changes)


# Finding a run


def test_a_run_is_found_by_what_it_is(tmp_path: Path) -> None:
    run = config_in(tmp_path)
    folder = saved(tmp_path, run)
    assert find_run([run], DATA, "no") == folder
    moved = folder.with_name("another_name")
    folder.rename(moved)
    assert find_run([run], DATA, "no") == moved, "the name of the folder does not matter"
    outputs = run.changed(log_interval=7, eval_interval=3, eval_episodes=2, video_episodes=1, keep=2, device="auto")
    assert find_run([outputs], DATA, "no") == moved
    place = resumed([outputs], DATA, moved)
    assert place is not None
    assert "log_interval: was 50, is 7" in place.saved[0].output_changes(outputs)
    assert find_run([run.changed(lr=0.5)], DATA, "no") is None
    assert find_run([run], "other data", "no") is None
    assert find_run([run.changed(seed=1)], DATA, "no") is None


def test_a_pack_is_found_with_its_members_in_any_folder(tmp_path: Path) -> None:
    members = [config_in(tmp_path, seed=s) for s in (0, 1)]
    folder = saved(tmp_path, *members)
    assert find_run(members, DATA, "no") == folder
    assert find_run(members[:1], DATA, "no") is None, "another pack is another run"
    place = resumed(members, DATA, folder)
    assert place is not None
    assert [json.loads((f / "flags.json").read_text())["seed"] for f in place.folders] == [0, 1]


def test_differences_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, config_in(tmp_path))
    with pytest.raises(UserError, match=r"lr: was 0\.001, is 0\.5.*--overwrite"):
        resumed([config_in(tmp_path, lr=0.5)], DATA, folder)
    with pytest.raises(UserError, match=r"the data: was fingerprint, is other"):
        resumed([config_in(tmp_path)], "other", folder)


def test_a_newer_release_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, config_in(tmp_path))
    flags = json.loads((folder / "flags.json").read_text()) | {"schema": 99, "raybc": "9.1.0"}
    (folder / "flags.json").write_text(json.dumps(flags))
    with pytest.raises(UserError, match=r"expected schema 2 or older, got 99, made by raybc 9\.1\.0; install"):
        resumed([config_in(tmp_path)], DATA, folder)


# Extending a run


def test_a_constant_or_plateau_run_is_extended(tmp_path: Path) -> None:
    for schedule in ("constant", "plateau"):
        run = config_in(tmp_path, lr_schedule=schedule)
        folder = saved(tmp_path, run)
        longer = run.changed(training_steps=400)
        assert find_run([longer], DATA, "no") == folder
        place = resumed([longer], DATA, folder)
        assert place is not None
        assert place.members[0].training_steps == 400
        assert run.run_id(DATA) in place.earlier_ids[0], "its states are known by their id"
        with pytest.raises(UserError, match=r"training_steps: was 200, is 100"):
            resumed([run.changed(training_steps=100)], DATA, folder)


def test_a_cosine_run_asks_how_the_rate_continues(tmp_path: Path) -> None:
    run = config_in(tmp_path, lr_schedule="cosine", min_lr=1e-5)
    folder = saved(tmp_path, run)
    longer = run.changed(training_steps=400)
    assert find_run([longer], DATA, "no") == folder
    with pytest.raises(UserError, match=r"the cosine schedule ended at step 200; .*--extend_schedule hold"):
        resumed([longer], DATA, folder)
    for how, end in (("hold", 1e-5), ("restart", 1e-5)):
        place = resumed([longer], DATA, folder, how)  # type: ignore[arg-type]
        assert place is not None
        extended = place.members[0]
        assert [learning_rate(extended, s) for s in range(200)] == [learning_rate(run, s) for s in range(200)]
        assert learning_rate(extended, 399) == pytest.approx(end, rel=0.1)
        assert learning_rate(extended, 200) == pytest.approx(run.lr if how == "restart" else 1e-5)
        place.write_flags(DATA)
        again = resumed([longer], DATA, folder, how)  # type: ignore[arg-type]
        assert again is not None
        assert again.members == place.members, "the same command resumes what it extended"
        run_again = run
        new_place([run_again], DATA, folder).write_flags(DATA)


def test_a_rate_that_depends_on_the_budget_is_not_extended(tmp_path: Path) -> None:
    run = config_in(tmp_path, sampling_plan_path="plan", plan_aware_lr_scale=True)
    folder = saved(tmp_path, run)
    with pytest.raises(UserError, match="cannot be extended with plan_aware_lr_scale"):
        resumed([run.changed(training_steps=400)], DATA, folder)


def test_an_extended_training_is_the_longer_one(tmp_path: Path) -> None:
    """N steps, then N more, are 2 N steps bit for bit (constant rate)."""
    short, long = tiny_config(training_steps=60), tiny_config(training_steps=120)
    first = PackTrainer([short], tiny_data(), CPU)
    first.advance(60)
    first.save_state(tmp_path / "state")
    second = PackTrainer([long], tiny_data(), CPU)
    with pytest.raises(UserError, match="belongs to the runs"):
        second.load_state(tmp_path / "state")
    second.load_state(tmp_path / "state", saved_as=[[short.run_id(tiny_data().fingerprint)]])
    second.advance(120)
    whole = PackTrainer([long], tiny_data(), CPU)
    whole.advance(120)
    for name, weight in whole.bundle(0).weights.items():
        assert (second.bundle(0).weights[name] == weight).all(), name


@pytest.mark.slow
def test_the_command_extends(
    pointmass_demos: Path, tmp_path: Path, ray_cpus: float, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run_train(pointmass_demos, out, "--resume") == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert not (out / "flags.json").exists(), "nothing is begun"
    assert run_train(pointmass_demos, out, "--resume=auto") == 0
    assert run_train(pointmass_demos, out, "--resume", "--training_steps=90") == 0
    text = capsys.readouterr().out
    assert "60 steps become 90" in text
    assert "resuming at step 60 of 90" in text
    bundle = PolicyBundle.load(out / "final_model")
    assert (bundle.step, bundle.config.training_steps) == (90, 90)
    whole = tmp_path / "whole"
    assert run_train(pointmass_demos, whole, "--training_steps=90") == 0
    assert (whole / "final_model/policy.safetensors").read_bytes() == (
        out / "final_model/policy.safetensors"
    ).read_bytes()


def test_rounds_are_added(
    pointmass_demos: Path, tmp_path: Path, ray_cpus: float, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = ["--epochs_per_round=1", "--batch_size=1000", "--eval_interval=1000"]
    assert run_train(pointmass_demos, tmp_path / "run", *rounds, "--num_rounds=3") == 0
    assert run_train(pointmass_demos, tmp_path / "run", *rounds, "--num_rounds=5", "--resume") == 0
    names = {p.name for p in (tmp_path / "run").glob("checkpoint_*_round_*")}
    assert {int(name.rpartition("_")[2]) for name in names} == {1, 2, 3, 4, 5}, names


# Identity


def test_ids_of_release_0_1_0_are_known() -> None:
    run = tiny_config()
    values = {name: run.to_plain()[{"watch_interval": "monitor_interval"}.get(name, name)] for name in OPTIONS_1}
    assert run_id_1(values, DATA) in known_ids(run, DATA)
    earlier = run_id_1(values | {"log_interval": 7}, DATA)
    assert earlier not in known_ids(run, DATA), "an output option was part of an id then"
    assert earlier in known_ids(run, DATA, [{"log_interval": 7}])
    assert len(known_ids(tiny_config(policy="regression", hidden_width=8), DATA)) == 1, "unknown to release 0.1.0"


NEW_OPTION = '''
    brand_new: float = option(0.0, at_least=0)
    """An option of a later release."""
'''


@pytest.mark.parametrize(
    "group",
    [
        "class OptimizerOptions:",
        pytest.param("class FlowConfig(", marks=pytest.mark.slow),
    ],
)
def test_a_new_option_changes_nothing_that_is_saved(tmp_path: Path, group: str) -> None:
    """The golden tests hold in a copy of raybc whose options have one more, with a neutral default."""
    shutil.copytree(ROOT / "raybc", tmp_path / "raybc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (source,) = [p for p in (tmp_path / "raybc/config").glob("*.py") if group in p.read_text()]
    lines = source.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if group in line)
    fields = (i for i in range(at, len(lines)) if "= " in lines[i] and '"""' not in lines[i])
    first = next(fields)
    lines.insert(first, NEW_OPTION.strip("\n"))
    source.write_text("\n".join(lines))
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    check = "import raybc, sys; from raybc.config import RunConfig; print(raybc.__file__, RunConfig().get('brand_new'))"
    shown = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert shown.stdout.split() == [str(tmp_path / "raybc/__init__.py"), "0.0"], shown.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_golden.py"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout


def test_a_sweep_that_never_began_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raybc.sweep.__main__ import main

    monkeypatch.chdir(tmp_path)
    flags = [str(ROOT / "sweeps/pointmass.yaml"), "--out=nowhere", "--resume"]
    assert run_main(lambda: main(flags)) == 2
    assert "nothing to resume in nowhere" in capsys.readouterr().err
