"""Trainings of others in sweeps: what they declare, what they get, what they hand over, and what goes wrong there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raybc.config import RunConfig
from raybc.config.trainer import TrainerRun
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from raybc.metric import SUCCESS
from raybc.rollout.engine import Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.worker import load_agent
from raybc.rows import EpisodeRow, episode_row
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation
from raybc.sweep.load import saved_sweep, sweep_from_mapping
from raybc.sweep.recipes import check_effects, finite_recipes
from raybc.sweep.space import check_corners, default_params, recipe, recipe_key, sample_settings
from raybc.sweep.trainer import run_trainer
from raybc.sweep.training import Job
from raybc.sweep.trial import TrialContext
from raybc.types import EpisodeSpec, UserError
from tests.helpers import pointmass_bundle, read_table, tiny_trainer

#: A trainer that hands over policies that others have trained, and whatever else `mode` says.
THEIRS = """
import dataclasses, json, os, time
from pathlib import Path
from typing import Literal

def train(job, saved: str = "", learning_rate: float = 1e-3, horizon_length: int = 4,
          mode: Literal["good", "ignores", "raises", "silent", "skips", "dies", "text", "early"] = "good"):
    told = {"options": job.options, "seed": job.seed, "dataset": str(job.dataset), "task": job.task, "steps": job.steps,
            "milestones": job.milestones, "step": job.step, "checkpoint": str(job.checkpoint), "obs_keys": job.obs_keys}
    with (job.folder / "told.jsonl").open("a") as file:
        file.write(json.dumps(told) + "\\n")
    print("hello from", mode)
    if mode == "raises" and job.seed:
        raise ValueError("no\\nsuch thing")
    if mode == "silent":
        return
    if mode == "dies":
        print("out of memory", flush=True)
        os._exit(3)
    if mode == "text":
        job.report(job.milestones[0], "a policy")
    try:
        start = 0 if mode == "ignores" else job.step
        for step in range(start + 1, job.steps + 1):
            if step in job.milestones:
                if mode == "skips" and step == job.milestones[1]:
                    continue
                job.report(step, Path(saved), {"loss": 1 / step, "bad": float("nan")})
                (job.folder / f"reported_{step}").touch()
            elif step % 5 == 0:
                job.report(step, metrics={"loss": 1 / step})
            if mode == "early" and step == job.milestones[1]:
                return
    finally:
        (job.folder / "ended").touch()

@dataclasses.dataclass
class Options:
    width: int = 8
    shape: Literal["a", "b"] = "a"
    fast: bool = False

    def __post_init__(self):
        if self.width > 100:
            raise ValueError("too wide")

def of_dataclass(job, options: Options): ...
def nothing(): ...
def more(job, *args, **kwargs): ...
def no_default(job, width: int): ...
def of_list(job, width: list = None): ...
def takes_seed(job, seed: int = 0): ...
def takes_kind(job, kind: int = 0): ...
def unreadable(job, width: "Nowhere" = 3): ...
def wrong_default(job, width: int = "a"): ...
def plain(job, width=8, rate=0.5): ...
NOT_A_FUNCTION = 3
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "theirs.py"
    path.write_text(THEIRS)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that somebody has trained."""
    path = tmp_path_factory.mktemp("good") / "bundle"
    pointmass_bundle().save(path)
    return path


def config(theirs: Path, function: str = "train", **changes: Any) -> SweepConfig:
    plain: dict[str, Any] = {
        "name": "theirs", "trainer": f"{theirs}:{function}", "seeds": [0, 3],
        "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 30, "flow_steps": 2},
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "execute_steps": {"values": [4, 8]}},
        "eval": {"evaluations": 3, "episodes": 4},
    }  # fmt: skip
    for key, value in changes.items():
        plain[key] = {**plain.get(key, {}), **value} if isinstance(value, dict) and key != "space" else value
    return sweep_from_mapping(plain, "theirs.yaml")


# --- what is declared -------------------------------------------------------------------------------------------------


def test_a_trainer_declares_its_options(theirs: Path) -> None:
    """Beside those of every sweep, under its own names, also where raybc has others of these names."""
    plan = config(theirs, train={"horizon_length": 6})
    assert isinstance(plan.train, TrainerRun)
    assert plan.train.own_options() == {"saved": "", "learning_rate": 1e-3, "horizon_length": 6, "mode": "good"}
    assert plan.train.training_steps == 30
    assert default_params(plan) == {"learning_rate": 1e-3}
    assert [s.execute_steps for s in sample_settings(plan)] == [4, 8]
    assert check_corners(plan) == 4
    check_effects(plan)
    run = recipe(plan, {"learning_rate": 2e-3})
    assert run.get("learning_rate") == 2e-3
    assert "lr" not in run.options()
    assert recipe_key(plan, {"learning_rate": 2e-3}) != recipe_key(plan, {"learning_rate": 1e-3})
    longer = plan.train.changed(horizon_length=7)
    assert longer.run_id("data") != plan.train.run_id("data") != RunConfig().run_id("data")
    other = config(theirs, "plain", space={"width": {"values": [8, 9]}, "rate": {"values": [0.5]}})
    assert set(other.train.policy.__dataclass_fields__) >= {"width", "rate"}  # types of the defaults
    assert len(finite_recipes(other, 10) or ()) == 2


def test_options_may_be_a_dataclass(theirs: Path) -> None:
    space = {"width": {"low": 1, "high": 9}, "shape": {"values": ["a", "b"]}, "fast": {"values": [True, False]}}
    plan = config(theirs, "of_dataclass", space=space)
    assert default_params(plan) == {"width": 8, "shape": "a", "fast": False}
    with pytest.raises(UserError, match=r"space.shape: expected one of a, b, got 'c'"):
        config(theirs, "of_dataclass", space={"shape": {"values": ["a", "c"]}})
    with pytest.raises(UserError, match="too wide"):
        check_corners(config(theirs, "of_dataclass", space={"width": {"low": 1, "high": 101}}))


def test_a_saved_sweep_is_read_without_the_trainer(theirs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "gone.py"
    shutil.copy(theirs, moved)
    plan = config(moved)
    plain = json.loads(json.dumps(plan.to_dict()))
    moved.unlink()
    again = saved_sweep(plain, "config.json")
    assert again.to_dict() == plan.to_dict()
    assert default_params(again) == {"learning_rate": 1e-3}
    assert again.train.run_id("data") == plan.train.run_id("data")
    with pytest.raises(UserError, match="there is no file"):
        config(moved)


def test_sweeps_without_a_trainer_are_saved_as_before() -> None:
    plan = sweep_from_mapping({"name": "own", "space": {"lr": {"values": [1e-3, 1e-4]}}}, "own.yaml")
    assert "trainer" not in plan.to_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"lr": 1e-3}}, r"train.lr: has no effect with trainer .*, which takes saved, learning_rate, "),
        ({"train": {"hidden_width": 3}}, "train.hidden_width: has no effect with trainer"),
        ({"train": {"policy": "flow"}}, "train.policy: has no effect with trainer"),
        ({"train": {"learning_rat": 3}}, "train.learning_rat: unknown key .* did you mean 'learning_rate'"),
        ({"train": {"learning_rate": "x"}}, "train.learning_rate: expected float, got 'x'"),
        ({"train": {"env_name": "none", "dataset": "x"}}, "train.env_name: expected a task"),
        ({"space": {"lr": {"values": [1e-3, 1e-4]}}}, "space.lr: has no effect with trainer"),
        ({"space": {"policy": {"values": ["flow"]}}}, "space.policy: has no effect with trainer"),
        ({"space": {"training_steps": {"values": [1, 2]}}}, "space.training_steps: cannot be searched"),
        ({"search": {"pack": 2}}, "search.pack: expected 1 with trainer"),
        ({"recipe": "act_lift"}, "recipe: has no effect with trainer"),
        ({"trainer": "theirs"}, "trainer: expected module:function or FILE.py:function"),
        ({"trainer": "no_such_module:train"}, "there is no module 'no_such_module'"),
    ],
)  # fmt: skip
def test_what_a_trainer_does_not_take_is_refused_by_name(theirs: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        config(theirs, **changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nowhere", "has no 'nowhere'"),
        ("nothing", "expected a function of a job and of options"),
        ("more", r"\*args: expected options by name"),
        ("no_default", "option width: expected a default"),
        ("of_list", "option width: expected int, float, bool, str or a Literal, got <class 'list'>"),
        ("takes_seed", "option seed: expected another name, because the job has it"),
        ("takes_kind", "option kind: expected another name, because it means something in every sweep"),
        ("unreadable", "annotations cannot be read: name 'Nowhere'"),
        ("wrong_default", "option width: expected int, got 'a'"),
        ("NOT_A_FUNCTION", "expected a function"),
    ],
)
def test_what_cannot_be_a_trainer_is_refused(theirs: Path, function: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        config(theirs, function, space={"execute_steps": {"values": [1, 2]}})
    assert str(refused.value).startswith("theirs.yaml: trainer")
    assert "\n" not in str(refused.value)


# --- what is trained and measured, without Ray -----------------------------------------------------------------------


class Sweep:
    """One trial of a trainer, measured by rollouts in this process."""

    def __init__(self, plan: SweepConfig, folder: Path) -> None:
        self.plan, self.folder = plan, SweepFolder(folder)
        self.evaluations: list[Evaluation] = []
        self.failures: list[str] = []
        self.context = TrialContext(
            folder=self.folder, train=plan.train, task="pointmass", dataset="demos.hdf5", fingerprint="data",
            obs_keys=("state", "goal"), environment={}, seeds=plan.seeds,
            steps=tuple(plan.evaluation_step(k) for k in range(1, plan.eval.evaluations + 1)),
            settings=tuple(sample_settings(plan)), episodes=plan.eval.episodes, race_comparisons=0, metric=SUCCESS,
            threads=1, env_spec=spec_of_task(POINTMASS),
        )  # fmt: skip

    def run(self, until: int = 99, **params: Any) -> Sweep:
        """Train and measure what is missing, up to evaluation `until`, after which the trial is pruned."""

        def report(trial: int, evaluation: Evaluation) -> bool:
            self.evaluations.append(evaluation)
            return evaluation.evaluation < until

        run = recipe(self.plan, {"learning_rate": 1e-3, **params})
        job = Job(0, run, len(self.evaluations))
        run_trainer(self.context, [job], evaluate, report, lambda _, reason, n: self.failures.append(reason), no_rivals)
        return self

    def told(self, seed: int) -> list[dict[str, Any]]:
        """What each process of a seed was asked to do."""
        lines = (self.folder.member(0, seed).path / "trainer/told.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def has(self, seed: int, name: str) -> bool:
        return (self.folder.member(0, seed).path / "trainer" / name).exists()


def no_rivals(trial: int, k: int) -> dict[str, list[float]]:
    return {}


def evaluate(key: str, jobs: Sequence[Rollout], specs: Sequence[EpisodeSpec], race: Any) -> list[list[EpisodeRow]]:
    env = POINTMASS.make(None)
    return [
        [episode_row(run_episode(env, load_agent(job.policy), spec, job.setting, 80)) for spec in specs] for job in jobs
    ]


def test_a_trainer_s_policies_are_measured_at_every_milestone(theirs: Path, good: Path, tmp_path: Path) -> None:
    sweep = Sweep(config(theirs, train={"saved": str(good)}), tmp_path).run()
    assert not sweep.failures
    assert [(e.evaluation, e.step) for e in sweep.evaluations] == [(1, 10), (2, 20), (3, 30)]
    rows = sweep.evaluations[-1].rows
    assert [(r["seed"], r["execute_steps"], r["flow_steps"]) for r in rows] == [
        (0, 4, 2), (0, 8, 2), (3, 4, 2), (3, 8, 2)
    ]  # fmt: skip
    assert len({r["run_id"] for r in rows}) == 2
    assert sum(r["successes"] for r in rows) > 4, "the policy is a good one"
    (told,) = sweep.told(3)
    assert told == {
        "options": {"saved": str(good), "learning_rate": 1e-3, "horizon_length": 4, "mode": "good"}, "seed": 3,
        "dataset": "demos.hdf5", "task": "pointmass", "steps": 30, "milestones": [10, 20, 30], "step": 0,
        "checkpoint": "None", "obs_keys": ["state", "goal"],
    }  # fmt: skip
    member = sweep.folder.member(0, 3)
    table = read_table(member.train_csv)
    assert [(r["step"], float(r["train/loss"])) for r in table] == [
        (str(step), pytest.approx(1 / step)) for step in (5, 10, 15, 20, 25, 30)
    ]
    assert "train/bad" not in table[0], "what is not finite is left out"
    assert "hello from good" in member.text_log.read_text()
    assert sorted(member.checkpoints()) == [20, 30], "older policies are dropped"
    assert sweep.has(3, "ended")


def test_a_pruned_training_is_stopped_and_may_clean_up(theirs: Path, good: Path, tmp_path: Path) -> None:
    sweep = Sweep(config(theirs, train={"saved": str(good)}), tmp_path).run(until=1)
    assert [e.evaluation for e in sweep.evaluations] == [1]
    for seed in (0, 3):
        assert sweep.has(seed, "ended")
        assert not sweep.has(seed, "reported_10"), "its report has raised"


@pytest.mark.parametrize("mode", ["good", "ignores"])
def test_a_killed_training_continues_without_measuring_again(
    theirs: Path, good: Path, tmp_path: Path, mode: str
) -> None:
    """Whether the trainer continues from its checkpoint or begins again, as it likes."""
    sweep = Sweep(config(theirs, train={"saved": str(good), "mode": mode}), tmp_path)
    sweep.run(until=1)
    shutil.rmtree(sweep.folder.checkpoint(0, 3, 10))  # of one seed, nothing is left
    sweep.run()
    assert [e.evaluation for e in sweep.evaluations] == [1, 2, 3]
    assert not sweep.failures
    continued, begun = sweep.told(0)[-1], sweep.told(3)[-1]
    assert continued["step"] == 10
    assert continued["checkpoint"] == str(sweep.folder.checkpoint(0, 0, 10))
    assert (begun["step"], begun["checkpoint"]) == (0, "None")
    whole = Sweep(config(theirs, train={"saved": str(good), "mode": mode}), tmp_path / "whole").run()
    assert [e.score for e in whole.evaluations] == [e.score for e in sweep.evaluations]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "raises"}, "seed 3: ValueError: no such thing"),
        ({"mode": "silent"}, "seed 0: the trainer ended without a policy: expected job.report(step, policy) at each "
                             "step of job.milestones: 10, 20, 30"),
        ({"mode": "dies"}, "seed 0: the trainer's process died (status 3: out of memory)"),
        ({"mode": "skips"}, "seed 0: report at step 25: expected a policy at step 20 first (at each step of "
                            "job.milestones: 10, 20, 30)"),
        ({"mode": "early"}, "seed 0: the trainer ended after step 20, without a policy at step 30"),
        ({"mode": "text"}, "seed 0: report at step 10: expected the folder of a bundle"),
        ({"saved": "/nowhere"}, "seed 0: report at step 10: expected the folder of a bundle"),
        ({"saved": "OTHER"}, "observation 'arm': the policy expects size 3, environment 'pointmass-scripted-low_dim'"),
        ({"flow_steps": None}, "train.flow_steps: expected a number, since the reported policy has a flow"),
        ({"execute_steps": 9}, "execute_steps: expected at most the 8 step(s) of a chunk, got 9"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_training_fails_its_trial_with_one_line(
    theirs: Path, good: Path, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    if options.get("saved") == "OTHER":
        trainer = tiny_trainer()
        trainer.bundle(0).save(tmp_path / "other")
        options = {"saved": str(tmp_path / "other")}
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2}}
    plan = config(
        theirs, train={"saved": str(good), **{k: v for k, v in options.items() if v is not None}}, space=space
    )
    if "flow_steps" in options:
        plain = plan.to_dict()
        del plain["train"]["flow_steps"]
        plain["trainer"]["sampling"] = ["execute_steps", "temporal_ensemble"]
        plan = saved_sweep(plain, "config.json")
    sweep = Sweep(plan, tmp_path / "run").run()
    (found,) = sweep.failures
    assert reason in found
    assert "\n" not in found
    if options.get("mode") == "raises":
        assert "ValueError: no\nsuch thing" in sweep.folder.traceback(0).read_text()
