"""`best_of_n`: of N sampled chunks the one that the critic values most, wherever a policy acts."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raybc
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.config import RunConfig
from raybc.envs.pointmass import PointMassEnv
from raybc.export.__main__ import main as export
from raybc.files import read_json
from raybc.inference.agent import Agent
from raybc.inference.candidates import Noise
from raybc.inference.held_out import predict
from raybc.inference.session import Session
from raybc.inference.shared import InferenceServer
from raybc.policies.best_of_n import sample_best
from raybc.report.figures import _cost_name, _cost_title
from raybc.report.sampling import Sampling, head
from raybc.rollout.__main__ import main as rollout
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.episode import run_episode
from raybc.rows import setting_fields, setting_of, video_setting
from raybc.serve.batch import Batcher
from raybc.sweep import space
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.recipes import check_effects
from raybc.types import EpisodeSpec, Observation, SampleSetting, UserError
from tests.batched import MANY
from tests.helpers import pointmass_bundle, pointmass_data, saved, tiny_trainer
from tests.test_engine import run, strip
from tests.test_images import image_trainer

CRITIC: dict[str, Any] = {
    "critic": "q_chunking", "critic_width": 32, "critic_depth": 2, "critic_candidates": 4, "eval_temperature": 1.0,
}  # fmt: skip
ONE = SampleSetting(4, eval_temperature=1.0)
FOUR, SIXTEEN = dataclasses.replace(ONE, best_of_n=4), dataclasses.replace(ONE, best_of_n=16)


@functools.cache
def bundle() -> PolicyBundle:
    """A point mass's policy with a critic, trained for a few steps."""
    trainer = tiny_trainer(
        data=pointmass_data(), training_steps=60, batch_size=64, lr=3e-3, horizon_length=8, hidden_width=64, **CRITIC
    )
    trainer.advance(60)
    return trainer.bundle(0)


@functools.cache
def agent() -> Agent:
    return Agent(bundle())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("critic") / "bundle"
    bundle().save(path)
    return path


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cloned") / "bundle"
    pointmass_bundle().save(path)
    return path


def drawn(rows: int, *candidates: int, seed: int = 0) -> tuple[Observation[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(rows, 1, 6)).astype(np.float32)
    return Observation(obs), rng.standard_normal((rows, *candidates, 8, 2)).astype(np.float32)


# The setting


def test_a_setting_names_it_where_it_is_not_one() -> None:
    assert "best_of_n" not in ONE.to_plain()
    assert (ONE.slug(), ONE.label()) == ("flow_4_temperature_1", "flow_steps=4 eval_temperature=1")
    assert FOUR.to_plain() == {**ONE.to_plain(), "best_of_n": 4}
    assert (FOUR.slug(), FOUR.label()) == (f"{ONE.slug()}_best_of_4", f"{ONE.label()} best_of_n=4")
    row: Any = setting_fields(FOUR)
    assert (setting_of(row), video_setting(row), setting_of(setting_fields(ONE))) == (FOUR, FOUR, ONE)
    assert FOUR.of_network.best_of_n == 4, "requests of several numbers of candidates are no batch"


def test_all_candidates_cost_evaluations() -> None:
    heun = dataclasses.replace(FOUR, solver="heun")
    assert [s.evaluations for s in (ONE, FOUR, SIXTEEN, heun)] == [4, 16, 64, 32]
    assert sorted([SIXTEEN, heun, ONE, FOUR], key=lambda s: s.order) == [ONE, FOUR, heun, SIXTEEN]
    assert RunConfig.of(**CRITIC).policy.evaluations(FOUR) == 16


# Candidates


def test_candidates_are_the_first_ones_of_every_larger_number() -> None:
    sessions = [Session(bundle(), setting, seed=3) for setting in (ONE, FOUR, SIXTEEN)]
    for session in sessions:
        session.observe({"state": np.zeros(4, np.float32), "goal": np.ones(2, np.float32)})
    for _ in range(3):  # chunks of an episode
        one, four, sixteen = (session.request()[1] for session in sessions)
        assert (one.shape, four.shape, sixteen.dtype) == ((8, 2), (4, 8, 2), np.float32)
        np.testing.assert_array_equal(four[0], one)
        np.testing.assert_array_equal(sixteen[:4], four)
        assert len(np.unique(sixteen)) == sixteen.size


def test_the_first_stream_is_that_of_one_candidate() -> None:
    """Held-out windows have a stream for each sample; candidates of a sample have none of another sample's."""
    single = [Noise([5, 2, k], 1).draw((8, 2)) for k in range(3)]
    np.testing.assert_array_equal(single[0], np.random.default_rng([5, 2]).standard_normal((8, 2)))
    several = [Noise([5, 2, k], 3).draw((8, 2)) for k in range(3)]
    np.testing.assert_array_equal([one[0] for one in several], single)
    assert len(np.unique(several)) == np.size(several)
    assert not np.array_equal(Noise(None, 2).draw((1, 2)), Noise(None, 2).draw((1, 2)))


def test_a_chunk_does_not_depend_on_its_companions() -> None:
    obs, noise = drawn(70, 4)
    together = agent().chunks(obs, noise, FOUR)
    assert (together.shape, together.dtype) == ((70, 8, 2), np.float32)
    for rows in ([7], [69, 7], list(range(5)), list(np.random.default_rng(1).permutation(70))):
        some = agent().chunks(obs.map(lambda array, rows=rows: array[rows]), noise[rows], FOUR)
        np.testing.assert_array_equal(some, together[rows])


def test_the_best_candidate_is_executed() -> None:
    obs, noise = drawn(40, 16)
    chunks, scores = agent().candidates(obs, noise, SIXTEEN)
    best = scores.argmax(1)
    assert len(set(best)) > 4, "the critic chooses"
    np.testing.assert_array_equal(agent().chunks(obs, noise, SIXTEEN), chunks[np.arange(40), best])
    np.testing.assert_array_equal(agent().chunks(obs, noise[:, 3], ONE), chunks[:, 3])
    few, scores_of_few = agent().candidates(obs, noise[:, :4], FOUR)
    np.testing.assert_array_equal(few, chunks[:, :4])
    np.testing.assert_allclose(scores_of_few, scores[:, :4], rtol=1e-4, atol=1e-5)


def test_a_pack_chooses_as_the_agent_does() -> None:
    obs, noise = drawn(5, 4)
    seen = Observation(torch.from_numpy(bundle().obs_normalizer.apply(obs.low_dim))[None])
    with torch.no_grad():
        chunks = sample_best(bundle().build(), seen, torch.from_numpy(noise)[None], FOUR)[0].numpy()
    expected = agent().chunks(obs, noise, FOUR)
    np.testing.assert_allclose(bundle().action_normalizer.invert(chunks), expected, rtol=1e-4, atol=1e-4)


def test_images_are_encoded_once_and_rows_stay_apart() -> None:
    seen = Agent(image_trainer(**CRITIC).bundle(0))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 1, *seen.bundle.images["pixels"]), np.uint8)
    obs = Observation(rng.normal(size=(9, 1, 4)).astype(np.float32), {"pixels": pixels})
    noise = rng.standard_normal((9, 4, seen.bundle.spec.horizon, 2)).astype(np.float32)
    together, scores = seen.candidates(obs, noise, FOUR)
    np.testing.assert_array_equal(together[:, 2], seen.chunks(obs, noise[:, 2], ONE))
    for rows in ([4], [8, 0, 3]):
        some, scores_of_some = seen.candidates(obs.map(lambda array, rows=rows: array[rows]), noise[rows], FOUR)
        np.testing.assert_array_equal(some, together[rows])
        np.testing.assert_array_equal(scores_of_some, scores[rows])


# Where a policy acts


def test_load_acts_as_a_session_does(folder: Path) -> None:
    obs = {"state": np.zeros(4, np.float32), "goal": np.ones(2, np.float32)}
    chunks = []
    for count in (1, 4):
        policy = raybc.load(folder, best_of_n=count, flow_steps=4)
        policy.reset(seed=2)
        chunks.append(policy.chunk(obs))
    session = Session(bundle(), FOUR, seed=2)
    session.observe(obs)
    request, noise = session.request()
    options = agent().candidates(request.map(lambda array: array[None]), noise[None], FOUR)[0][0]
    np.testing.assert_array_equal(chunks[0], options[0])
    assert any(np.array_equal(chunks[1], option) for option in options)
    assert policy.sample_actions(obs, n=3, seed=0).shape == (3, 8, 2)


def test_shared_networks_and_servers_choose_alike(folder: Path) -> None:
    """Requests of one setting are a batch; those of another are not."""
    obs, noise = drawn(6, 4)
    expected = [agent().chunks(obs, noise, FOUR), agent().chunks(obs, noise[:, 0], ONE)]

    async def ask() -> list[Any]:
        actor, batcher = InferenceServer("cpu"), Batcher(bundle(), FOUR)
        parts = [(obs.map(lambda array, k=k: array[k : k + 2]), noise[k : k + 2]) for k in (0, 2, 4)]
        asked = [actor.chunks(str(folder), part, some, FOUR) for part, some in parts]
        alone = actor.chunks(str(folder), obs, noise[:, 0], ONE)
        served = [batcher.predict((obs.map(lambda array, k=k: array[k]), noise[k])) for k in range(6)]
        *shared, plain = await asyncio.gather(*asked, alone)
        answers = np.concatenate(shared), plain, np.stack(await asyncio.gather(*served))
        batcher.close()
        return list(answers)

    shared, plain, served = asyncio.run(ask())
    np.testing.assert_array_equal(shared, expected[0])
    np.testing.assert_array_equal(plain, expected[1])
    np.testing.assert_array_equal(served, expected[0])


def test_simulators_that_are_stepped_together_ask_for_the_best() -> None:
    """Episodes of several settings beside each other; a row of a batch does not depend on the others."""
    specs = [EpisodeSpec(MANY.name, "search", index) for index in range(4)]
    settings = [dataclasses.replace(setting, execute_steps=2) for setting in (ONE, FOUR)]
    orders = [(Rollout("b", setting), spec) for spec in specs for setting in settings]
    expected = [
        strip(run_episode(PointMassEnv(), agent(), spec, job.setting, MANY.max_steps).to_row()) for job, spec in orders
    ]
    assert run(Engine(lambda path: agent(), slots=5), orders) == expected


def test_held_out_windows_are_predicted_with_the_best() -> None:
    store = pointmass_data().store
    one, four = (predict(agent(), store, np.array([11]), setting, samples=2) for setting in (ONE, FOUR))
    same = [np.isclose(a, b).all() for a, b in zip(one.chunks_KBHA[0], four.chunks_KBHA[0], strict=True)]
    assert 0 < np.mean(same) < 0.9, "the first candidate is that of N = 1, and sometimes the best"


def test_one_file_has_the_critic_inside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'raybc[onnx]'")
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: export([str(folder), "--onnx", "--best_of_n=4", "--flow_steps=4"])) == 0
    file = next((tmp_path / "runs/exports").glob("*_flow_4_best_of_4.onnx"))
    facts = read_json(file.with_suffix(".json"))
    assert (facts["setting"]["best_of_n"], facts["inputs"]["noise"]["shape"]) == (4, ["B", 4, 8, 2])
    obs, noise = drawn(7, 4, seed=3)
    inputs = {"state": obs.low_dim[..., :4], "goal": obs.low_dim[..., 4:], "noise": noise}
    got = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(["actions"], inputs)[0]
    np.testing.assert_allclose(got, agent().chunks(obs, noise, FOUR), rtol=1e-4, atol=1e-4)
    said = "note: the critic is left out, since best_of_n is 1"
    assert said not in capsys.readouterr().out
    assert run_main(lambda: export([str(folder), "--onnx", "--flow_steps=4"])) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_rollouts_measure_every_number_on_the_same_starts(
    ray_cpus: float, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(folder), "--episodes=3", "--best_of_n=1,4", "--workers=1"]
    for out in ("first", "again"):
        assert run_main(lambda out=out: rollout([*flags, f"--out={tmp_path / out}"])) == 0
    found = read_json(tmp_path / "first/metrics.json")["settings"]
    assert [(row.get("best_of_n", 1), row["evaluations"]) for row in found] == [(1, 2), (4, 8)]
    assert "best_of_n" in capsys.readouterr().out
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]
        for text in ((tmp_path / out / "episodes.jsonl").read_text() for out in ("first", "again"))
    ]
    assert rows[0] == rows[1]
    assert [row["index"] for row in rows[0]] == [0, 1, 2] * 2
    ends = [[row["final_obs"] for row in rows[0] if row.get("best_of_n", 1) == n] for n in (1, 4)]
    assert ends[0] != ends[1]
    arms = [f"{tmp_path / 'first/episodes.jsonl'}:best_of_n={n}" for n in (1, 4)]
    undecided = 3
    assert run_main(lambda: compare([*arms, f"--out={tmp_path / 'compared'}"])) in (0, undecided)


# What is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--best_of_n=4"], "--best_of_n: has no effect without a critic, which chooses among the samples: train one"),
        (["--best_of_n=0,1"], "--best_of_n: has no effect without a critic"),
    ],
)
def test_a_policy_without_a_critic(
    cloned: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: rollout([str(cloned), *flags])) == 2
    assert words in capsys.readouterr().err
    with pytest.raises(UserError, match="best_of_n: has no effect without a critic"):
        raybc.load(cloned, best_of_n=4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--best_of_n=4", "--eval_temperature=0"], "--best_of_n: has no effect without eval_temperature; all samples"),
        (["--best_of_n=0"], "--best_of_n: expected different numbers of at least 1, got 0"),
        (["--best_of_n=many"], "--best_of_n: expected whole numbers such as 1,2,5, got 'many'"),
    ],
)
def test_numbers_that_do_nothing(
    folder: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: rollout([str(folder), *flags])) == 2
    assert words in capsys.readouterr().err


def test_policies_whose_samples_do_not_vary_and_policies_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RunConfig.of(policy="regression")
    with pytest.raises(UserError, match="best_of_n: has no effect with policy regression"):
        recipe.check_sampling(["best_of_n"], "--")
    reference = "module:tests/foreign_policies.py:expert"
    assert run_main(lambda: rollout([reference, "--env_name=pointmass", "--best_of_n=4"])) == 2
    assert "best_of_n: has no effect on" in capsys.readouterr().err


# Sweeps and reports


def sweep(axes: dict[str, Any], **train: Any) -> Any:
    plain = {"env_name": "pointmass-scripted-low_dim", "training_steps": 60, **train}
    return sweep_from_mapping({"name": "s", "train": plain, "space": axes}, "test")


def test_a_sample_axis_of_a_sweep() -> None:
    axes = {"best_of_n": {"values": [1, 4]}, "eval_temperature": {"values": [0, 1]}}
    found = sweep(axes, **CRITIC)
    check_effects(found)
    settings = space.settings_of(found.train, space.sample_settings(found))
    assert [(s.eval_temperature, s.best_of_n) for s in settings] == [(0, 1), (1, 1), (1, 4)], "equal ones once"
    assert space.check_corners(found) == 3


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({}, "space.best_of_n: has no effect without a critic, which chooses among the samples"),
        ({**CRITIC, "eval_temperature": 0}, "space.best_of_n: has no effect in any corner; it needs eval_temperature"),
    ],
)
def test_a_sweep_that_it_does_not_change(train: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        check_effects(sweep({"best_of_n": {"values": [1, 4]}}, **train))
    assert words in str(error.value)


def test_costs_in_reports() -> None:
    one, four, heun = Sampling(4, 4, "euler"), Sampling(16, 4, "euler", 4), Sampling(32, 4, "heun", 4)
    assert head([one]) == ["flow_steps"]
    assert four.cells(head([one, four])) == ["16", "euler", "4", "4"]
    assert (four.label, four.at(ONE)) == ("flow_steps=4 best_of_n=4", FOUR)
    titles = [_cost_title(some) for some in ([one], [one, four], [one, four, heun])]
    assert titles == ["flow_steps", "best_of_n", "evaluations of the network"]
    assert [_cost_name(four, title) for title in titles[1:]] == ["4", "16 (best of 4 x 4 x euler)"]


def test_a_bundle_and_its_critic_come_back() -> None:
    assert saved(bundle()).config.has_critic
    assert not pointmass_bundle().config.has_critic
    assert RunConfig.of(**CRITIC, best_of_n=4).sample_setting.best_of_n == 4
