"""What users have saved with release 0.1.0 loads, resumes and gives what it gave then (tests/golden/v0.1.0).

Bits are compared on the kind of machine where the artefacts were made; elsewhere other kernels round otherwise, so
losses are compared to 1e-4, and outcomes and proposals exactly where no rounding decides.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from raybc.bundle import META, WEIGHTS, PolicyBundle
from raybc.cli import run_main
from raybc.config import RunConfig, migrate
from raybc.data.load import read_for
from raybc.envs.pointmass import POINTMASS, POINTMASS_PIXELS
from raybc.inference.agent import Agent
from raybc.rollout.episode import run_episode
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer
from raybc.train.progress import Progress
from raybc.types import EpisodeSpec, Observation, SampleSetting
from tests.helpers import CPU, ROOT, demonstrations

GOLDEN = ROOT / "tests/golden/v0.1.0"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())


def _is_same_machine() -> bool:
    here = {
        "torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    with Path("/proc/cpuinfo").open() as lines:
        here["cpu"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return all(EXPECTED["made_on"][name] == value for name, value in here.items())


SAME = platform.system() == "Linux" and _is_same_machine()


@pytest.fixture(autouse=True)
def _threads() -> None:
    """As many as the artefacts were made with: sums depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the artefacts, as the working folder: the options of saved runs name files relative to it."""
    shutil.copytree(GOLDEN, tmp_path / "golden", symlinks=True)
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


def data_of(folder: Path) -> TrainingData:
    store = read_for(folder / "demos.hdf5", "pointmass")
    return TrainingData(store, store.fingerprint(), POINTMASS.obs_keys, POINTMASS.make(None).identity())


def weights_sha(bundle: PolicyBundle) -> str:
    """sha256 over the values, in the order of the names of release 0.1.0."""
    old = {new: old for old, new in bundle.config.policy.renamed_weights.items()}
    names = migrate.renamed(bundle.weights, old)
    h = hashlib.sha256()
    for name in sorted(bundle.weights, key=lambda name: names[name]):
        h.update(np.ascontiguousarray(bundle.weights[name].numpy()).tobytes())
    return h.hexdigest()


def check_weights(bundle: PolicyBundle, expected: str) -> None:
    if SAME:
        assert weights_sha(bundle) == expected


def check_losses(got: list[list[float]], expected: list[list[float]]) -> None:
    if SAME:
        assert got == expected
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def read_csv(path: Path, columns: list[str]) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return [{c: row[c] for c in columns} for row in csv.DictReader(handle)]


def losses_of(trainer: PackTrainer, until: int) -> list[list[float]]:
    losses: list[list[float]] = []

    def on_log(progress: Progress) -> None:
        losses.append([progress.step, *progress.losses])

    trainer.advance(until, on_log)
    return losses


def run_train(*flags: str) -> int:
    from raybc.train.__main__ import main

    return run_main(lambda: main(list(flags)))


def test_the_artefacts_are_small() -> None:
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 500_000


# --- bundles --------------------------------------------------------------------------------------------------------


def test_a_bundle_loads_and_acts_as_it_did(golden: Path) -> None:
    bundle, expected = PolicyBundle.load(golden / "bundle"), EXPECTED["bundle"]
    assert bundle.saved_as == expected["run_id"]
    assert bundle.run_ids == (bundle.run_id, bundle.saved_as)
    agent = Agent(bundle)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(4, 1, sum(bundle.obs_sizes.values()))).astype(np.float32)
    noise = rng.normal(size=(4, 8, 2)).astype(np.float32)
    chunks = agent.chunks(Observation(obs), noise, SampleSetting(4))
    if SAME:
        assert chunks.tolist() == expected["chunks"]
    np.testing.assert_allclose(chunks, expected["chunks"], rtol=1e-4, atol=1e-5)
    env = POINTMASS.make(None)
    rows = []
    for setting in expected["settings"]:
        for index in range(8):
            spec = EpisodeSpec("pointmass", "final", index)
            row = run_episode(env, agent, spec, SampleSetting(**setting), POINTMASS.max_steps).to_row()
            rows.append({k: row[k] for k in ("index", "outcome", "return", "max_reward", "steps")})
    assert [r["outcome"] for r in rows] == [r["outcome"] for r in expected["episodes"]]
    if SAME:
        assert rows == expected["episodes"]


def test_a_bundle_that_is_saved_again_is_the_same_policy(golden: Path, tmp_path: Path) -> None:
    bundle = PolicyBundle.load(golden / "bundle")
    bundle.save(tmp_path / "again")
    again = PolicyBundle.load(tmp_path / "again")
    assert (again.run_id, again.config) == (bundle.run_id, bundle.config)
    assert weights_sha(again) == weights_sha(bundle)


def test_an_image_policy_trains_and_loads(golden: Path) -> None:
    expected = EXPECTED["image"]
    store = demonstrations(POINTMASS_PIXELS, 3)
    data = TrainingData(store, store.fingerprint(), POINTMASS_PIXELS.obs_keys, POINTMASS_PIXELS.make(None).identity())
    assert data.fingerprint == expected["fingerprint"]
    trainer = PackTrainer([RunConfig.from_plain(expected["config"], "golden")], data, CPU)
    check_losses(losses_of(trainer, 3), expected["losses"])
    check_weights(trainer.bundle(0), expected["weights"])
    if SAME:  # the file of release 0.1.0 belongs to these weights under their names of then
        from safetensors.torch import save_file

        weights = dict(trainer.bundle(0).weights)
        names = migrate.renamed(weights, {"velocity_field.": "field."})
        save_file({names[k]: v.contiguous() for k, v in weights.items()}, golden / "image" / WEIGHTS)
        loaded = PolicyBundle.load(golden / "image")
        assert loaded.images == {name: store.obs[name].shape[1:] for name in store.images}
        assert weights_sha(loaded) == expected["weights"]


def test_a_mixed_bundle_is_still_refused(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybc.strict import digest

    meta = json.loads((golden / "bundle" / META).read_text())
    meta["config"]["lr"] = 0.5
    meta["sha256"] = digest({k: v for k, v in meta.items() if k != "sha256"})
    (golden / "bundle" / META).write_text(json.dumps(meta))
    assert run_main(lambda: PolicyBundle.load(golden / "bundle") and None) == 2
    assert "mixed from two bundles" in capsys.readouterr().err


# --- training -------------------------------------------------------------------------------------------------------


def test_a_pack_resumes(golden: Path) -> None:
    expected = EXPECTED["pack"]
    members = [RunConfig.from_plain(values, "golden") for values in expected["members"]]
    trainer = PackTrainer(members, data_of(golden), CPU)
    trainer.load_state(golden / "pack/state.safetensors")
    assert trainer.step == 37
    check_losses(losses_of(trainer, 80), [row for row in expected["losses"] if row[0] > 37])
    assert trainer.rates == expected["rates"]
    for m, sha in enumerate(expected["weights"]):
        check_weights(trainer.bundle(m), sha)


def test_a_pack_trains_as_it_did(golden: Path) -> None:
    expected = EXPECTED["pack"]
    members = [RunConfig.from_plain(values, "golden") for values in expected["members"]]
    trainer = PackTrainer(members, data_of(golden), CPU)
    rows = losses_of(trainer, 37)
    check_losses(rows + losses_of(trainer, 80), expected["losses"])
    for m, sha in enumerate(expected["weights"]):
        check_weights(trainer.bundle(m), sha)


def test_training_with_a_plan(golden: Path) -> None:
    from raybc.data.plan.files import load_plan

    expected = EXPECTED["plan"]
    assert load_plan(golden / "plan").plan_sha256 == expected["plan_sha256"]
    trainer = PackTrainer([RunConfig.from_plain(expected["config"], "golden")], data_of(golden), CPU)
    check_losses(losses_of(trainer, 40), expected["losses"])
    check_weights(trainer.bundle(0), expected["weights"])


def test_a_plan_is_rebuilt(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybc.plan import main

    assert run_main(lambda: main(["verify", "plan", "--dataset", "demos.hdf5"])) == 0
    assert "every array built again" in capsys.readouterr().out


def test_a_converted_set(golden: Path) -> None:
    assert read_for(golden / "converted", "pointmass").fingerprint() == EXPECTED["converted"]["fingerprint"]


@pytest.mark.parametrize("changes", [[], ["--log_interval=20", "--eval_episodes=5", "--keep=9"]])
def test_a_stopped_training_resumes(
    golden: Path, ray_cpus: float, changes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when options that change no model differ, which are said."""
    expected = EXPECTED["train"]
    assert run_train(*expected["flags"], "--out=train", "--resume", *changes) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "resuming at step 40 of 120" in out
    assert ("log_interval: was 10, is 20" in out) is bool(changes)
    bundle = PolicyBundle.load(golden / "train/final_model")
    assert bundle.step == 120
    check_weights(bundle, expected["weights"])
    columns = list(expected["train.csv"][0])
    rows = read_csv(golden / "train/train.csv", columns)
    if changes:  # the mean of more steps is another number
        steps = [int(r["step"]) for r in rows]
        assert steps[:4] == [10, 20, 30, 40]
        assert {60, 80, 100, 120} <= set(steps)
        assert not {50, 70, 110} & set(steps)
    elif SAME:
        assert rows == expected["train.csv"]
    evaluations = read_csv(golden / "train/eval.csv", list(expected["eval.csv"][0]))
    if SAME:
        assert evaluations == expected["eval.csv"]
    flags = json.loads((golden / "train/flags.json").read_text())
    assert (flags["schema"], flags["run_id"]) == (2, bundle.run_id)
    assert len(flags["earlier_run_ids"]) == 1, "the id of release 0.1.0 is remembered"


def test_a_training_is_found_by_what_it_is(golden: Path, ray_cpus: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --out: the folder has a name that release 0.1.0 gave it."""
    flags = json.loads((golden / "train/flags.json").read_text())
    home = golden / "runs/fbc/bc_training/BC/pointmass-scripted-low_dim" / f"sd000_{flags['run_id']}"
    shutil.copytree(golden / "train", home, symlinks=True)
    assert run_train(*EXPECTED["train"]["flags"], "--resume") == 0, capsys.readouterr().err
    assert "resuming at step 40 of 120" in capsys.readouterr().out
    check_weights(PolicyBundle.load(home / "final_model"), EXPECTED["train"]["weights"])
    assert run_train(*EXPECTED["train"]["flags"], "--resume", "--lr=0.1") == 2
    message = capsys.readouterr().err
    assert "nothing to resume" in message
    assert "lr: was 0.003, is 0.1" in message


# --- search and measurement -----------------------------------------------------------------------------------------


def test_a_half_finished_sweep_resumes(golden: Path, ray_cpus: float, capsys: pytest.CaptureFixture[str]) -> None:
    from raybc.sweep.__main__ import main
    from raybc.sweep.ledger import read_events

    expected = EXPECTED["sweep"]
    before = (golden / "sweep/ledger.jsonl").read_text()
    (golden / "golden.yaml").write_text(yaml.safe_dump(expected["yaml"]))
    assert run_main(lambda: main(["golden.yaml", "--out=sweep", "--resume"])) == 0, capsys.readouterr().err
    assert (golden / "sweep/ledger.jsonl").read_text().startswith(before[: before.rindex("\n")])
    events = read_events(golden / "sweep/ledger.jsonl")
    assert not [e for e in events if e["event"] == "failed"]
    assert [e for e in events if e["event"] == "start"] == expected["starts"], "the search proposes what it did"
    evaluations = [
        {k: e[k] for k in ("trial", "evaluation", "step", "status", "score")}
        for e in events if e["event"] == "evaluation"
    ]  # fmt: skip
    assert evaluations == expected["evaluations"]
    if SAME:
        rows = [
            {k: r[k] for k in ("trial", "seed", "evaluation", "flow_steps", "episode_list")}
            for e in events if e["event"] in ("evaluation", "final") for r in e["rows"]
        ]  # fmt: skip
        assert rows == expected["episodes"]
    winner = json.loads((golden / "sweep/winner.json").read_text())
    assert {k: winner[k] for k in ("trial", "seed", "setting")} == expected["winner"]
    check_weights(PolicyBundle.load(golden / "sweep/winner"), expected["weights"])


def test_a_half_done_measurement_resumes(golden: Path, ray_cpus: float, capsys: pytest.CaptureFixture[str]) -> None:
    from raybc.rollout.__main__ import main

    record = golden / "rollout/rollout.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"bundle": str(golden / "bundle")}))
    known = (golden / "rollout/episodes.partial.jsonl").read_text().splitlines()
    flags = ["bundle", "--episodes=400", "--workers=1", "--out=rollout", "--resume"]
    assert run_main(lambda: main(flags)) == 0, capsys.readouterr().err
    rows = (golden / "rollout/episodes.jsonl").read_text().splitlines()
    assert len(rows) == 400
    assert set(known) <= set(rows), "what was measured is not measured again"
