"""The commands that pages give to make a row again are the row."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run_folder import make_run
from raybc import cli
from raybc.config import DemosConfig, RunConfig
from raybc.config.command import parse_run
from raybc.report.commands import rollout_command, train_command
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.load import load_sweep


@dataclasses.dataclass
class Made:
    config: SweepConfig
    state: SweepState


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("again") / "run", 10, 3000)


@pytest.fixture(scope="module")
def view(run: Path) -> Made:
    return Made(load_sweep(run / "config.json"), SweepState.from_events(read_events(run / "ledger.jsonl")))


def parsed(command: str) -> tuple[RunConfig, Any]:
    from raybc.train.__main__ import Args

    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "raybc.train"]
    return parse_run(Args, words[3:], "raybc.train", "")


def test_the_training_command_is_the_recipe(view: Made) -> None:
    params = view.state.trials[8].params
    command, note = train_command(view.config, params, {"threads": 1})
    found, args = parsed(command)
    assert note == ""
    assert (args.seeds, args.threads) == ((0, 1), 1)
    assert found == view.config.train.changed(**params)
    assert found.run_id("data") == view.config.train.changed(**params).run_id("data")


def test_an_option_without_an_effect_is_left_out(view: Made) -> None:
    """Some recipes have no chunks: their command must not name a horizon, which training refuses then."""
    for chunks in (True, False):
        params = {"action_chunking": chunks, "horizon_length": 7, "hidden_width": 24}
        recipe = view.config.train.changed(**params)
        found = parsed(train_command(view.config, params, {})[0])[0]
        assert found.run_id("data") == recipe.run_id("data")
        assert found.horizon_length == (7 if chunks else RunConfig.horizon_length)


def test_other_demonstrations_are_named(view: Made) -> None:
    more: SweepConfig = dataclasses.replace(view.config, demos=DemosConfig(episodes=30))
    assert parsed(train_command(more, {}, {})[0])[1].demos == 30
    noisy: SweepConfig = dataclasses.replace(view.config, demos=DemosConfig(noise=0.5))
    command, note = train_command(noisy, {}, {"data": {"path": "my demos.hdf5"}})
    assert parsed(command)[0].dataset == "my demos.hdf5"
    assert "another run_id" in note


def test_the_measuring_command_is_the_row(view: Made, run: Path) -> None:
    from raybc.rollout.__main__ import Args

    row = view.state.trials[8].evaluations[-1].rows[1]
    assert rollout_command(view.config, SweepFolder(run), row, {}) == "", "the policy was not kept"
    (run / "trials" / "0008" / "seed_0" / "checkpoint_2000").mkdir(parents=True)
    command = rollout_command(view.config, SweepFolder(run), row, {})
    args = cli.parse(Args, shlex.split(command)[3:], "raybc.rollout", "")
    assert (args.starts, args.flow_steps) == ("search", str(row["flow_steps"]))
    assert args.episodes == row["episodes"] + row["errors"]
    command = rollout_command(view.config, SweepFolder(run), row, {}, videos=3)
    film = cli.parse(Args, shlex.split(command)[3:], "raybc.rollout", "")
    assert (film.videos, film.episodes) == (3, 6)
