"""Sample axes beside axes over what is learned: each recipe is measured at the settings that differ for it, and the
number of evaluations of the network stands beside the success."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.export.__main__ import main as export
from raybc.files import read_json
from raybc.metric import SUCCESS
from raybc.report.html import write_report
from raybc.report.read import load_run
from raybc.report.sampling import Sampling, head, is_plain
from raybc.report.tables import costs, leaderboard
from raybc.rollout.__main__ import main as rollout
from raybc.rollout.results import best_setting
from raybc.rows import setting_fields, setting_of
from raybc.sweep import space
from raybc.sweep.__main__ import main as sweep_main
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.recipes import check_effects
from raybc.types import SampleSetting, UserError
from tests.helpers import pointmass_bundle

FLOWS: dict[str, Any] = {"flow_steps": {"values": [1, 4]}}
SOLVERS: dict[str, Any] = {"solver": {"values": ["euler", "heun"]}}


def values(*names: str) -> dict[str, Any]:
    return {"values": list(names)}


def config(axes: dict[str, Any], **train: Any) -> SweepConfig:
    plain = {"name": "s", "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 60, **train}}
    return sweep_from_mapping(json.loads(json.dumps(plain | {"space": axes})), "test")


def measured(sweep: SweepConfig, **params: Any) -> list[tuple[int, str]]:
    run = space.recipe(sweep, params)
    return [(s.flow_steps, s.solver) for s in space.settings_of(run, space.sample_settings(sweep))]


def test_each_recipe_has_the_settings_that_differ_for_it() -> None:
    sweep = config({"objective": values("flow", "mip", "regression", "diffusion"), **FLOWS, **SOLVERS})
    check_effects(sweep)
    assert measured(sweep, objective="flow") == [(1, "euler"), (1, "heun"), (4, "euler"), (4, "heun")]
    assert measured(sweep, objective="diffusion") == [(1, "euler"), (4, "euler")]
    assert measured(sweep, objective="mip") == measured(sweep, objective="regression") == [(0, "euler")]
    assert space.check_corners(sweep) == 4 + 2 + 1 + 1


def test_each_kind_of_policy_has_the_settings_that_differ_for_it() -> None:
    sweep = config({"policy": values("flow", "regression"), **FLOWS})
    check_effects(sweep)
    assert [measured(sweep, policy=p) for p in ("flow", "regression")] == [[(1, "euler"), (4, "euler")], [(0, "euler")]]


def test_the_default_policy_does_not_decide_the_steps_of_others() -> None:
    sweep = config({"policy": values("regression", "flow")}, policy="regression", flow_steps=7)
    assert measured(sweep, policy="flow") == [(7, "euler")]
    assert measured(sweep, policy="regression") == [(0, "euler")]


@pytest.mark.parametrize(
    ("axes", "train", "words"),
    [
        (FLOWS, {"policy": "regression"}, "flow_steps: has no effect with policy regression"),
        ({"flow_steps": {"values": [4]}}, {"policy": "regression"}, "flow_steps: has no effect with policy regression"),
        (FLOWS, {"objective": "mip"}, "flow_steps: has no effect with objective mip, which always makes two"),
        (
            {"objective": values("mip", "regression"), **FLOWS}, {},
            "flow_steps: has no effect with objective mip, which always makes two evaluations of the network without "
            "noise or with objective regression",
        ),
        (SOLVERS, {"objective": "diffusion"}, "solver: has no effect with objective diffusion, which samples"),
        (
            {"policy": values("flow", "regression"), "objective": values("regression"), **FLOWS}, {},
            "flow_steps: has no effect with objective regression",
        ),
        ({"objective": values("flow", "mpi"), **FLOWS}, {}, "space.objective: expected one of flow, mip"),
        ({"solver": values("euler", "hune")}, {}, "space.solver: expected one of euler, midpoint, heun, rk4"),
    ],
)  # fmt: skip
def test_an_axis_without_an_effect_on_any_recipe_is_refused(
    axes: dict[str, Any], train: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        check_effects(config(axes, **train))
    assert words in str(error.value)


def test_an_axis_that_no_corner_needs_is_refused() -> None:
    """What `when` leaves is known only at the corners."""
    axes = {
        "policy": values("flow", "regression"), "objective": {"values": ["mip"], "when": {"policy": "flow"}},
        **FLOWS,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"space\.flow_steps: has no effect"):
        check_effects(config(axes))


@pytest.mark.parametrize(
    ("options", "setting", "evaluations"),
    [
        ({}, {}, 5), ({}, {"solver": "heun"}, 10), ({}, {"solver": "rk4"}, 20), ({"objective": "mip"}, {}, 2),
        ({"objective": "regression"}, {}, 1), ({"objective": "diffusion"}, {}, 5), ({"policy": "regression"}, {}, 1),
        ({"policy": "flow_unet", "objective": "mip"}, {}, 2),
    ],
)  # fmt: skip
def test_evaluations_of_the_network(options: dict[str, Any], setting: dict[str, Any], evaluations: int) -> None:
    run = RunConfig.of(flow_steps=5, **options)
    assert run.policy.evaluations(run.in_effect(SampleSetting(5, **setting))) == evaluations


def test_labels_of_costs() -> None:
    one, two, three = Sampling(2, 2, "euler"), Sampling(4, 2, "heun"), Sampling(1, 0, "euler")
    assert sorted([two, one, three]) == [three, one, two]
    labels = ["flow_steps=2", "flow_steps=2 solver=heun", "1 evaluation"]
    assert [one.label, two.label, three.label] == labels
    assert (is_plain([one]), is_plain([one, two]), is_plain([three])) == (True, False, False)
    assert one.cells(head([one])) == ["2"]
    assert (two.cells(head([one, two])), three.cells(head([three]))) == (["4", "heun", "2"], ["1", "-", "-"])


def test_of_equals_the_cheapest_setting_is_chosen() -> None:
    settings = [SampleSetting(1, solver="rk4"), SampleSetting(2, solver="euler"), SampleSetting(2, solver="heun")]
    counts = {"episodes": 4, "successes": 3, "errors": 0, "mean_steps_success": None}
    rows: Any = [{**setting_fields(setting), **counts} for setting in settings]
    assert best_setting(rows, SUCCESS) == SampleSetting(2)
    assert best_setting([{**rows[0], "successes": 4}, *rows[1:]], SUCCESS) == settings[0]


# Commands


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    pointmass_bundle().save(path)
    return path


def test_load_takes_a_solver(bundle: Path) -> None:
    assert raybc.load(bundle, solver="heun", flow_steps=2).setting.evaluations == 4
    obs = {"state": np.zeros(4, np.float32), "goal": np.ones(2, np.float32)}
    chunks = [raybc.load(bundle, solver=s, flow_steps=64).chunk(obs) for s in ("rk4", "midpoint")]
    np.testing.assert_allclose(*chunks, atol=1e-2)
    with pytest.raises(UserError, match=r"--solver: expected one of euler, midpoint, heun, rk4, got 'hune'"):
        raybc.load(bundle, solver="hune")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--solver=euler,hune"], "--solver: expected one of euler, midpoint, heun, rk4, got 'hune'"),
        (["--solver=heun,heun"], "--solver: expected different solvers, got heun,heun"),
    ],
)
def test_rollout_refuses_solvers(
    bundle: Path, flags: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: rollout([str(bundle), *flags])) == 2
    assert words in capsys.readouterr().err


def test_export_takes_a_solver(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'raybc[onnx]'")
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: export([str(bundle), "--onnx", "--solver=midpoint", "--flow_steps=2"])) == 0
    facts = read_json(next((tmp_path / "runs/exports").glob("*_flow_2_midpoint.json")))
    assert (facts["setting"]["solver"], facts["setting"]["flow_steps"]) == ("midpoint", 2)


def test_rollout_measures_several_solvers(
    ray_cpus: float, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--episodes=4", "--flow_steps=1,2", "--solver=euler,rk4", f"--out={tmp_path / 'o'}", "--workers=1"]
    assert run_main(lambda: rollout([str(bundle), *flags])) == 0
    rows = read_json(tmp_path / "o/metrics.json")["settings"]
    found = [(r["flow_steps"], r.get("solver", "euler"), r["evaluations"]) for r in rows]
    assert found == [(1, "euler", 1), (2, "euler", 2), (1, "rk4", 4), (2, "rk4", 8)]
    printed = capsys.readouterr().out
    assert "evaluations" in printed
    assert printed.index(" rk4") > printed.index(" euler")


# A whole sweep


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_gives_a_table_of_evaluations_against_success(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path
) -> None:
    sweep = {
        "name": "costs",
        "train": {
            "env_name": "pointmass-scripted-low_dim", "training_steps": 200, "batch_size": 64, "lr": 3e-3,
            "action_chunking": True, "horizon_length": 8, "hidden_width": 32, "hidden_depth": 2, "device": "cpu",
            "dataset": str(pointmass_demos),
        },
        "space": {"objective": values("flow", "mip", "regression"), **FLOWS, **SOLVERS},
        "seeds": [0],
        "search": {"trials": 3, "max_concurrent": 1},
        "prune": {"scheduler": "none"},
        "eval": {"episodes": 2, "evaluations": 1},
        "final": {"top": 3, "episodes": 2, "videos": 0},
        "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
    }  # fmt: skip
    file, out = tmp_path / "costs.yaml", tmp_path / "run"
    file.write_text(json.dumps(sweep))
    assert run_main(lambda: sweep_main([str(file), "--out", str(out)])) == 0
    run = load_run(out)
    objectives = {trial.trial: trial.params["objective"] for trial in run.trials}
    assert sorted(objectives.values()) == ["flow", "mip", "regression"]
    for phase in ("search", "final"):
        for number, objective in objectives.items():
            rows = [row for row in run.results if (row["trial"], row["phase"]) == (number, phase)]
            assert len(rows) == (4 if objective == "flow" else 1)
            assert (setting_of(rows[0]).flow_steps == 0) is (objective != "flow")
    found = [(objectives[c.row.trial], c.sampling.evaluations) for c in costs(leaderboard(run))]
    expected = [("regression", 1), ("flow", 1), ("mip", 2), ("flow", 2), ("flow", 4), ("flow", 8)]
    assert sorted(found) == sorted(expected)
    assert [n for _, n in found] == [1, 1, 2, 2, 4, 8]
    text = (out / "leaderboard.md").read_text()
    table = text[text.index("## Evaluations of the network per chunk") :].splitlines()
    assert table[2].startswith("| trial | evaluations | solver | flow_steps | final success | 95 % CI | episodes |")
    assert len([line for line in table if line.startswith("| ") and "---" not in line]) == 1 + 6
    page = write_report(out).read_text()
    assert "Success per evaluations of the network" in page
    assert raybc.load(out).setting == run.winner_setting()
