"""What trainers of others declare, and what a sweep of one refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from raybc.config import RunConfig
from raybc.config.trainer import TrainerRun
from raybc.files import write_json
from raybc.run_folder import SweepFolder
from raybc.sweep.begin import check_resume
from raybc.sweep.load import saved_sweep, sweep_from_mapping
from raybc.sweep.recipes import check_effects, finite_recipes
from raybc.sweep.space import check_corners, default_params, recipe, recipe_key, sample_settings
from raybc.types import UserError
from tests.trainers import THEIRS, config


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "theirs.py"
    path.write_text(THEIRS)
    return path


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
    assert plan.trainer is not None
    assert plan.trainer.files() == [theirs], "not to be deleted by --overwrite"
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


def test_a_sweep_is_not_resumed_with_a_trainer_of_other_defaults(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def train(job, rate: float = 0.1): ...")
    space = {"rate": {"values": [0.1, 0.2]}}
    folder = SweepFolder(tmp_path)
    write_json(folder.config, config(path, space=space).to_dict())
    check_resume(config(path, space=space), folder)
    path.write_text("def train(job, rate: float = 0.2): ...")
    for name in [name for name in sys.modules if name.startswith("raybc_trainer_")]:
        del sys.modules[name]
    with pytest.raises(UserError, match=r"trainer.options.rate.default: was 0.1, is 0.2"):
        check_resume(config(path, space=space), folder)


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
        ({"trainer": "no_such_module:train"}, "there is no module 'no_such_module' here or in PYTHONPATH"),
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


def test_a_trainer_s_module_that_exits_is_refused(tmp_path: Path) -> None:
    """For example one that reads arguments when it is imported; the sweep must not end silently, as if all was well."""
    path = tmp_path / "script.py"
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"script\.py raised SystemExit: 0"):
        config(path)
