"""Proposing and pruning: told from the ledger, the study and the rule go on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from raybc.run_folder import SweepFolder
from raybc.sweep.config import PruneConfig, SweepConfig
from raybc.sweep.ledger import Evaluation, SweepState
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.study import Proposer, attach_videos, check_sampler, make_sampler
from raybc.sweep.tune import Pruner
from raybc.types import UserError


def config(sampler: str = "tpe", **search: Any) -> SweepConfig:
    return sweep_from_mapping(
        {
            "name": "s",
            "train": {"training_steps": 100, "lr": 1e-3, "action_chunking": True, "horizon_length": 8},
            "space": {
                "lr": {"low": 1e-5, "high": 1e-1, "log": True},
                "weight_decay": {"low": 0.0, "high": 1.0},
                "horizon_length": {"values": [4, 8]},
            },
            "search": {"sampler": sampler, "trials": 24, "max_concurrent": 1, **search},
        },
        "test",
    )


def score(params: dict[str, Any]) -> float:
    """Best (1.0) at lr = 1e-2."""
    return float(np.exp(-((np.log10(params["lr"]) + 2) ** 2)))


def drive(proposer: Proposer, state: SweepState, until: int) -> list[dict[str, Any]]:
    for number in range(len(state.trials), until):
        origin, params = proposer.propose(number)
        state.apply({"event": "start", "trial": number, "params": params, "origin": origin})
        evaluation = Evaluation(1, 100, score(params), [])
        state.apply({"event": "evaluation", "trial": number, "status": "completed", "evaluation": 1, "step": 100,
                     "score": evaluation.score, "rows": [], "timing": {}})  # fmt: skip
        proposer.report(number, evaluation, "completed")
    return [t.params for t in state.trials.values()]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_rebuilt_study_proposes_what_the_unbroken_one_proposes(sampler: str, tmp_path: Path) -> None:
    whole = drive(Proposer(config(sampler), SweepFolder(tmp_path), SweepState()), SweepState(), 14)
    state = SweepState()
    drive(Proposer(config(sampler), SweepFolder(tmp_path), state), state, 9)
    rebuilt = drive(Proposer(config(sampler), SweepFolder(tmp_path), state), state, 14)
    assert rebuilt == whole
    assert whole[0] == {"lr": 1e-3, "weight_decay": 0.0, "horizon_length": 8}, "the defaults come first"


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_search(sampler: str, tmp_path: Path) -> None:
    """After a restart in the middle, proposals are better than random ones would be.

    Those would score 0.41 on average: the mean of exp(-(x + 2)^2) over x uniform in [-5, -1] is
    sqrt(pi) (erf(1) + erf(3)) / 8.
    """
    state = SweepState()
    drive(Proposer(config(sampler), SweepFolder(tmp_path), state), state, 12)
    params = drive(Proposer(config(sampler), SweepFolder(tmp_path), state), state, 24)
    scores = [score(p) for p in params]
    assert np.mean(scores[12:]) > 0.55, scores


def test_points_to_evaluate_come_after_the_defaults(tmp_path: Path) -> None:
    proposer = Proposer(config(points_to_evaluate=[{"lr": 1e-4}]), SweepFolder(tmp_path), SweepState())
    assert proposer.propose(0) == ("defaults", {"lr": 1e-3, "weight_decay": 0.0, "horizon_length": 8})
    assert proposer.propose(1) == ("point", {"lr": 1e-4, "weight_decay": 0.0, "horizon_length": 8})
    assert proposer.propose(2)[0] == "sampler"


def test_unfinished_trials_keep_their_number_and_can_be_told(tmp_path: Path) -> None:
    state = SweepState()
    proposer = Proposer(config(), SweepFolder(tmp_path), state)
    for number in range(3):
        origin, params = proposer.propose(number)
        state.apply({"event": "start", "trial": number, "params": params, "origin": origin})
    state.apply({"event": "failed", "trial": 1, "reason": "nan"})
    again = Proposer(config(), SweepFolder(tmp_path), state)
    again.link(0, "tune_7")
    again.report(0, Evaluation(1, 50, 0.5, []), "pruned")
    again.report(2, Evaluation(1, 50, 0.7, []), "running")
    again.report(2, Evaluation(2, 100, 0.8, []), "completed")
    trials = again._study.trials
    assert [t.state.name for t in trials] == ["PRUNED", "FAIL", "COMPLETE"]
    assert trials[0].user_attrs["tune_trial_id"] == "tune_7"
    assert trials[2].intermediate_values == {1: 0.7, 2: 0.8}
    assert trials[2].params == state.trials[2].params


def test_sampler_checks() -> None:
    check_sampler(config("cmaes"))
    narrow = sweep_from_mapping(
        {"name": "s", "space": {"lr": {"low": 1e-5, "high": 1e-1}}, "search": {"sampler": "cmaes"}}, "test"
    )
    with pytest.raises(UserError, match="two ranges"):
        check_sampler(narrow)
    with pytest.raises(UserError, match="at least one train axis"):
        check_sampler(sweep_from_mapping({"name": "s", "space": {"flow_steps": {"values": [1, 2]}}}, "test"))
    assert isinstance(make_sampler(config("cmaes"), 3, []), optuna.samplers.CmaEsSampler)


def test_asha_keeps_the_better_half() -> None:
    """Rungs at evaluations 1, 2, 4 with factor 2: worse than the median of those seen at the rung is stopped."""
    pruner = Pruner(PruneConfig(), 4, SweepState())
    assert pruner.decide(0, 1, 0.5) == "running"  # the first is never stopped
    assert pruner.decide(1, 1, 0.8) == "running"
    assert pruner.decide(2, 1, 0.6) == "pruned"  # median of (0.5, 0.8) is 0.65
    assert pruner.decide(3, 1, 0.6) == "running"  # median of (0.5, 0.6, 0.8) is 0.6: not below
    assert pruner.decide(1, 3, 0.1) == "running"  # the first to reach the rung of evaluation 2
    assert pruner.decide(1, 4, 0.0) == "completed"


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_a_replayed_rule_decides_as_the_unbroken_one(scheduler: str) -> None:
    rng = np.random.default_rng(0)
    prune = PruneConfig(scheduler=scheduler)  # type: ignore[arg-type]
    whole, state = Pruner(prune, 4, SweepState()), SweepState()
    differing = 0
    for number in range(30):
        state.apply({"event": "start", "trial": number, "params": {}, "origin": "sampler"})
        quality = rng.uniform()
        for k in range(1, 5):
            value = float(np.clip(quality + rng.normal(0, 0.1), 0, 1))
            replayed = Pruner(prune, 4, state)  # a process that starts here
            status = whole.decide(number, k, value)
            assert replayed.decide(number, k, value) == status
            differing += status == "pruned"
            state.apply({"event": "evaluation", "trial": number, "status": status, "evaluation": k, "step": k,
                         "score": value, "rows": [], "timing": {}})  # fmt: skip
            if status != "running":
                break
    assert (differing > 3) == (scheduler != "none")


def test_ties_are_not_pruned() -> None:
    pruner = Pruner(PruneConfig(), 3, SweepState())
    assert [pruner.decide(n, 1, 1.0) for n in range(6)] == ["running"] * 6


def test_videos_join_their_trials_and_change_nothing_else(tmp_path: Path) -> None:
    state = SweepState()
    proposer = Proposer(config(), SweepFolder(tmp_path), state)
    drive(proposer, state, 4)
    for number, status in ((4, "pruned"), (5, "failed"), (6, "running")):
        proposer.propose(number)
        proposer.link(number, f"tune_{number}")
        if status == "pruned":
            proposer.report(number, Evaluation(1, 50, 0.25, []), status)
        elif status == "failed":
            proposer.failed(number)

    def study() -> optuna.Study:
        file = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
        return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(file))

    def facts() -> list[Any]:
        return [
            (t.state, t.value, t.params, t.distributions, t.intermediate_values, t.user_attrs) for t in study().trials
        ]

    before = facts()
    videos = []
    for trial, outcome in ((2, "success"), (2, "timeout"), (4, "failure"), (5, "failure"), (6, "success")):
        file = f"videos/{trial}_{outcome}.mp4"
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(file.encode())
        videos.append({"file": file, "trial": trial, "seed": 0, "split": "final", "index": 7, "outcome": outcome})
    videos.append({**videos[0], "file": "videos/gone.mp4"})
    for _ in range(2):  # a second time gives the same
        attach_videos(SweepFolder(tmp_path), videos)
        assert facts() == before
        kept = {}
        for trial in study().trials:
            for meta in optuna.artifacts.get_all_artifact_meta(trial, storage=study()._storage):
                kept[trial.number, meta.filename] = (tmp_path / "artifacts" / meta.artifact_id).read_bytes()
        assert kept == {
            (v["trial"], f"{v['outcome']}_seed_0_final_start_7_flow_10.mp4"): v["file"].encode() for v in videos[:4]
        }, "a trial that runs cannot be copied with its artifacts"
        assert len(list((tmp_path / "artifacts").iterdir())) == 4
        assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "study.journal", "videos"]
