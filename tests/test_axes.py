"""Axes that are part of some recipes only: of a kind of policy, or by `when`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raybc.cli import run_main
from raybc.run_folder import SweepFolder
from raybc.sweep import space
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation, SweepState, TrialState
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.study import Proposer
from raybc.types import UserError

SPACE: dict[str, Any] = {
    "transformer_layers": {"values": [0, 2]},
    "policy": {"values": ["flow", "flow_transformer"]},
    "lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "use_fourier_features": {"values": [True, False]},
    "ema_decay": {"low": 0.5, "high": 0.99, "when": {"use_fourier_features": True}},
}


def sweep(changes: dict[str, Any] | None = None, **train: Any) -> SweepConfig:
    mapping = {
        "name": "conditional",
        "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 100, **train},
        "space": SPACE if changes is None else changes,
        "search": {"trials": 30, "seed": 3},
    }
    return sweep_from_mapping(json.loads(json.dumps(mapping)), "test")


def names_of(params: dict[str, Any]) -> set[str]:
    """The axes that a recipe with these values must have."""
    wanted = {"policy", "lr"}
    if params["policy"] == "flow_transformer":
        return wanted | {"transformer_layers"}
    return wanted | {"use_fourier_features"} | ({"ema_decay"} if params["use_fourier_features"] else set())


def test_an_axis_stands_behind_what_it_depends_on() -> None:
    order = list(space.train_axes(sweep()))
    assert order.index("policy") < min(order.index("transformer_layers"), order.index("use_fourier_features"))
    assert order.index("use_fourier_features") < order.index("ema_decay")


def test_corners_have_the_axes_of_their_kind() -> None:
    runs = [run for run, _ in space.corners(sweep())]
    assert len(runs) == 2 * 2 + 2 * (2 + 1), "transformer: layers x lr; flow: lr x (fourier x decay, plain)"
    assert {r.policy.kind for r in runs} == {"flow", "flow_transformer"}
    assert space.check_corners(sweep()) == len(runs)


def test_the_defaults_are_a_point() -> None:
    assert space.default_params(sweep(ema_decay=0.6)) == {
        "policy": "flow", "lr": 3e-4, "use_fourier_features": False,
    }  # fmt: skip
    config = sweep(policy="flow_transformer")
    assert space.default_params(config) == {"policy": "flow_transformer", "transformer_layers": 0, "lr": 3e-4}


def test_recipes_are_proposed_and_repeat(tmp_path: Path) -> None:
    """Each recipe has the axes it must have; the same search proposes the same, also after a restart."""
    config = sweep()

    def search(folder: Path, restart_at: int) -> list[dict[str, Any]]:
        folder.mkdir()
        state = SweepState()
        proposer = Proposer(config, SweepFolder(folder), state)
        found = []
        for number in range(30):
            if number == restart_at:
                proposer = Proposer(config, SweepFolder(folder), state)
            origin, params = proposer.propose(number)
            state.trials[number] = TrialState(number, params, origin)
            evaluation = Evaluation(1, 100, params["lr"], [])
            state.trials[number].evaluations.append(evaluation)
            state.trials[number].status = "completed"
            proposer.report(number, evaluation, "completed")
            found.append(params)
        return found

    once = search(tmp_path / "a", -1)
    assert once == search(tmp_path / "b", 17)
    assert all(params.keys() == names_of(params) for params in once)
    assert {p["policy"] for p in once} == {"flow", "flow_transformer"}
    assert {p.get("transformer_layers") for p in once} == {0, 2, None}
    for params in once:
        run = space.recipe(config, params)
        assert run.policy.kind == params["policy"]
        run.validate()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unet_kernel": {"values": [3, 5]}}, "unet_kernel: has no effect with policy flow; it belongs to flow_unet"),
        ({"policy": {"values": ["flow", "flow_unett"]}}, "did you mean 'flow_unet'"),
        (
            {"policy": {"values": ["regression"]}, "flow_steps": {"values": [1, 2]}},
            "flow_steps: has no effect with policy regression",
        ),
        ({"lr": {"low": 1e-4, "high": 1e-2, "when": {"policy": "flow"}}}, "when: expected another train axis"),
        (
            {"policy": {"values": ["flow"]}, "lr": {"values": [1e-3], "when": {"policy": "regression"}}},
            "when.policy: expected one of ['flow'], got 'regression'",
        ),
        (
            {
                "optimizer": {"values": ["adam", "adamw"], "when": {"precision": "fp32"}},
                "precision": {"values": ["fp32", "bf16"], "when": {"optimizer": "adam"}},
            },
            "depend on each other in a circle",
        ),
    ],
)
def test_impossible_conditions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        space.train_axes(sweep(changes))
    assert words in str(error.value)


def test_a_sweep_over_policies(pointmass_demos: Path, tmp_path: Path, ray_cpus: float) -> None:
    import yaml

    from raybc.sweep.__main__ import main
    from raybc.sweep.ledger import read_events

    config = {
        "name": "kinds",
        "train": {
            "env_name": "pointmass-scripted-low_dim", "dataset": str(pointmass_demos), "training_steps": 40,
            "batch_size": 32, "action_chunking": True, "horizon_length": 8, "device": "cpu",
            "hidden_width": 16, "lr": 3e-3,
        },
        "space": {
            "policy": {"values": ["flow", "regression"]},
            "lr": {"low": 1e-3, "high": 1e-1, "log": True},
            "use_fourier_features": {"values": [False, True]},
        },
        "seeds": [0],
        "search": {"trials": 4, "max_concurrent": 1, "points_to_evaluate": [{"policy": "regression"}]},
        "eval": {"episodes": 3, "evaluations": 1},
        "final": {"top": 1, "episodes": 3, "videos": 0},
        "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
    }  # fmt: skip
    (tmp_path / "kinds.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    assert run_main(lambda: main([str(tmp_path / "kinds.yaml"), "--out", str(out)])) == 0
    state = SweepState.from_events(read_events(out / "ledger.jsonl"))
    assert len(state.trials) == 4
    assert all(t.status in ("completed", "pruned") for t in state.trials.values()), state.trials
    assert state.trials[1].params["policy"] == "regression"
    assert (out / "report.html").exists()
    assert (out / "trials.csv").read_text().count("\n") == 5
