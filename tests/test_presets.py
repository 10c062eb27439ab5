"""Recipes of the literature: data that a training or a sweep starts from, and nothing more than options written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybc.cli import run_main
from raybc.config import RunConfig, changed_options
from raybc.config.command import parse_run, without_effect
from raybc.config.effect import inert
from raybc.files import read_json
from raybc.recipes import read
from raybc.recipes.__main__ import main as recipes
from raybc.recipes.read import names, read_recipe
from raybc.run_folder import TrainingFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import saved_sweep, sweep_from_mapping
from raybc.sweep.space import check_corners
from raybc.train.__main__ import Args
from raybc.train.__main__ import main as train
from raybc.types import UserError
from tests.helpers import ROOT

DATA = Path(__file__).parent / "golden/v0.1.0/demos.hdf5"
TASK = "lift-scripted-low_dim"


def parsed(*words: str) -> RunConfig:
    return parse_run(Args, words, "raybc.train", "")[0]


def run_of(name: str) -> RunConfig:
    return RunConfig.of(**{"env_name": TASK, **read_recipe(name, "").options})


def sweep(train: dict[str, Any], recipe: str = "dp_unet_pusht", *overrides: str, **more: Any) -> SweepConfig:
    plain = {"name": "s", "recipe": recipe, "train": train, "space": {"lr": {"low": 1e-5, "high": 1e-3}}, **more}
    return sweep_from_mapping(json.loads(json.dumps(plain)), "s.yaml", overrides)


WANTED = {
    "dp_unet_pusht", "dp_unet_robomimic", "dp_transformer_pusht", "dp_transformer_robomimic", "mip_unet_pusht",
    "mip_unet_robomimic", "flow_unet_pusht", "flow_unet_pusht_small", "qc_flow_mlp", "lerobot_diffusion_pusht",
    "managed_bc",
}  # fmt: skip


def test_all_are_there_and_packaged() -> None:
    assert set(names()) >= WANTED
    assert '"raybc.recipes" = ["*.yaml"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_possible_and_says_where_it_is_from(name: str) -> None:
    recipe, run = read_recipe(name, ""), run_of(name)
    run.validate()
    assert recipe.about
    assert "\n" not in recipe.about
    assert any(word in recipe.source for word in ("arXiv", "github.com"))
    assert recipe.differs
    assert set(recipe.protocol) <= {"data", "starts", "steps", "score", "published"}
    idle = (without_effect(run).keys() | inert(run).keys()) & recipe.options.keys()
    assert not idle, "every option of a recipe has an effect"
    if run.env_name == "pusht-human-low_dim" and run.dataset_proportion < 1:
        assert round(206 * run.dataset_proportion) == 90


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_its_options_written_out(name: str) -> None:
    """The same run, with the same id, as the flags by hand; so is the file of `raybc recipes NAME` as a --config."""
    task = () if "env_name" in read_recipe(name, "").options else (f"--env_name={TASK}",)
    given = parsed(f"--recipe={name}", *task)
    by_hand = parsed(*(f"--{key}={value}" for key, value in changed_options(run_of(name)).items()))
    assert given == by_hand == run_of(name)
    assert given.run_id("data") == by_hand.run_id("data")


def test_the_printed_file_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: recipes(["mip_unet_pusht"])) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert parsed(f"--config={file}", "--lr=1e-3") == run_of("mip_unet_pusht").changed(lr=1e-3)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: recipes([])) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in names():
        line = next(line for line in lines if line.split()[:1] == [name])
        assert read_recipe(name, "").about in line
        assert run_of(name).policy.kind in line.split()
    assert run_main(lambda: recipes(["dp_unet_psht"])) == 2
    assert "unknown recipe 'dp_unet_psht': did you mean 'dp_unet_pusht'" in capsys.readouterr().err


def test_flags_override_a_file_and_a_file_overrides_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lr: 5.0e-4\nunet_kernel: 3\n")
    plain = run_of("dp_unet_pusht")
    assert parsed("--recipe=dp_unet_pusht", f"--config={file}") == plain.changed(lr=5e-4, unet_kernel=3)
    assert parsed("--recipe", "dp_unet_pusht", f"--config={file}", "--lr=1e-3").lr == 1e-3
    file.write_text("recipe: dp_unet_pusht\ntrain: {lr: 5.0e-4, unet_kernel: 3}\nspace: {}\n")
    config, own = parse_run(Args, [f"--config={file}"], "raybc.train", "")
    assert (config, own.recipe) == (plain.changed(lr=5e-4, unet_kernel=3), "dp_unet_pusht"), "a sweep file"
    assert parsed("--recipe=mip_unet_pusht", f"--config={file}").get("objective") == "mip"


def test_another_kind_keeps_what_both_have() -> None:
    given = parsed("--recipe=dp_unet_pusht", "--policy=flow_transformer", "--transformer_size=tiny")
    plain = run_of("dp_unet_pusht").changed(policy="flow_transformer", transformer_size="tiny")
    assert given == plain
    assert given.get("objective") == "diffusion"
    with pytest.raises(UserError, match="--unet_kernel: has no effect with policy flow_transformer; it belongs to"):
        parsed("--recipe=dp_unet_pusht", "--policy=flow_transformer", "--unet_kernel=3")


def test_options_that_flags_make_ineffective_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = parsed("--recipe=dp_unet_pusht", "--objective=mip")
    assert (given.flow_steps, given.eval_temperature) == (RunConfig.flow_steps, RunConfig.eval_temperature)
    said = capsys.readouterr().out
    assert "flow_steps=100 of the recipe is left out: it has no effect with objective mip" in said
    assert "eval_temperature=1.0 of the recipe is left out" in said
    with pytest.raises(UserError, match="--flow_steps: has no effect with objective mip"):
        parsed("--recipe=dp_unet_pusht", "--objective=mip", "--flow_steps=4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe=dp_unet"], "--recipe: unknown recipe 'dp_unet': did you mean 'dp_unet_pusht'"),
        (["--recipe=act"], "--recipe: unknown recipe 'act'"),
        (["--recipe=qc_flow_mlp"], "--env_name: expected a task (or a dataset), since the recipe leaves it open"),
        (["--recipe=dp_unet_pusht", "--horizon_length=15"], "horizon_length: expected a multiple of 4"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: train([*words, f"--out={tmp_path / 'run'}"])) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_records_its_recipe_and_is_the_run_of_its_flags(tmp_path: Path) -> None:
    """flags.json has the resolved options and the name; the run is resumed by the same flags written out."""
    words = [
        f"--dataset={DATA}", "--training_steps=4", "--batch_size=8", "--hidden_width=8", "--hidden_depth=1",
        "--log_interval=2", "--eval_interval=0", "--threads=1", "--device=cpu", f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    assert run_main(lambda: train(["--recipe=qc_flow_mlp", *words])) == 0
    flags = read_json(TrainingFolder(tmp_path / "run").flags)
    assert flags["recipe"] == "qc_flow_mlp"
    assert (flags["horizon_length"], flags["flow_steps"], flags["normalization"]) == (5, 10, "identity")
    options = {
        key: value for key, value in read_recipe("qc_flow_mlp", "").options.items() if f"--{key}=" not in str(words)
    }
    longer = [word.replace("=4", "=6") if word.startswith("--training_steps") else word for word in words]
    assert run_main(lambda: train([*(f"--{key}={value}" for key, value in options.items()), *longer, "--resume"])) == 0
    again = read_json(TrainingFolder(tmp_path / "run").flags)
    assert (again["recipe"], again["training_steps"]) == ("qc_flow_mlp", 6)


# Sweeps


def test_a_sweep_starts_from_a_recipe() -> None:
    found = sweep({"lr": 3e-4, "unet_channels": "64,128,256"})
    assert found.train == run_of("dp_unet_pusht").changed(lr=3e-4, unet_channels="64,128,256")
    assert found.recipe == "dp_unet_pusht"
    assert sweep({}, "dp_unet_pusht", "train.batch_size=64").train.batch_size == 64
    assert sweep({}, "mip_unet_pusht", "recipe=dp_unet_pusht").train.get("objective") == "diffusion"
    assert check_corners(sweep({"env_name": "pointmass-scripted-low_dim"})) == 2
    other = sweep({"policy": "flow_transformer"})
    assert other.train == run_of("dp_unet_pusht").changed(policy="flow_transformer")


def test_a_saved_sweep_does_not_depend_on_the_recipe_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sweep({"lr": 3e-4})
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["recipe"] == "dp_unet_pusht"
    monkeypatch.setattr(read, "names", lambda: ())
    assert saved_sweep(plain, "config.json") == found


@pytest.mark.parametrize(
    ("recipe", "train", "message"),
    [
        ("dp_unet_psht", {}, "s.yaml: recipe: unknown recipe 'dp_unet_psht': did you mean 'dp_unet_pusht'"),
        ("qc_flow_mlp", {}, "s.yaml: train.env_name: expected a task (or a dataset)"),
        ("dp_unet_pusht", {"unet_kernal": 3}, "s.yaml: train.unet_kernal: unknown key 'unet_kernal': did you mean"),
        (3, {}, "s.yaml: recipe: expected str, got 3"),
    ],
)
def test_impossible_sweeps_are_refused(recipe: Any, train: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        sweep(train, recipe)
    assert str(error.value).startswith(message)


def test_recipes_are_yaml_without_repetition() -> None:
    for name in names():
        found = yaml.safe_load(read.text_of(name, ""))
        assert list(found) == ["about", "source", "differs", "protocol", "options"]
        assert all(found["options"][key] != info.default or key in ALWAYS_NAMED for key, info in named_options(name))


#: Options that a recipe names although it agrees with the default, because the source names them.
ALWAYS_NAMED = (
    "batch_size", "optimizer", "adam_beta1", "adam_beta2", "policy", "objective", "unet_channels", "unet_kernel",
    "unet_groups", "unet_time_size", "diffusion_steps", "diffusion_prediction", "flow_steps", "solver", "hidden_width",
    "hidden_depth", "horizon_length", "lr", "training_steps", "transformer_size", "image_norm", "image_pool",
    "image_keypoints", "regression_loss", "plateau_factor", "plateau_patience",
)  # fmt: skip


def named_options(name: str) -> list[tuple[str, Any]]:
    options = run_of(name).options()
    return [(key, options[key]) for key in read_recipe(name, "").options]
