"""Policy bundles: what is saved is loaded, by the path alone, and a bundle that is not whole is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc import __version__
from raybc.bundle import META, WEIGHTS, PolicyBundle
from raybc.inference.agent import Agent
from raybc.strict import digest
from raybc.types import Observation, SampleSetting, UserError
from tests.helpers import ROOT, chunk_of, tiny_data, tiny_store, tiny_trainer


@pytest.fixture(scope="module")
def bundle() -> PolicyBundle:
    trainer = tiny_trainer([3, 4], normalization="min_max", use_fourier_features=True)
    trainer.advance(10)
    return trainer.bundle(1)


@pytest.fixture
def folder(bundle: PolicyBundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def chunk(bundle: PolicyBundle) -> np.ndarray:
    rng = np.random.default_rng(0)
    obs = {"arm": rng.normal(size=3).astype(np.float32), "cube": rng.normal(size=2).astype(np.float32)}
    return chunk_of(Agent(bundle), obs, rng.normal(size=(4, 2)).astype(np.float32), 3)


def assert_same(a: PolicyBundle, b: PolicyBundle) -> None:
    for field in dataclasses.fields(PolicyBundle):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "weights":
            assert {k: (v.dtype, v.shape) for k, v in x.items()} == {k: (v.dtype, v.shape) for k, v in y.items()}
            assert all(torch.equal(x[k], y[k]) for k in x)
        elif field.name.endswith("normalizer"):
            np.testing.assert_array_equal(x.offset, y.offset)
            np.testing.assert_array_equal(x.scale, y.scale)
            assert (y.offset.dtype, y.scale.dtype) == (np.float32, np.float32)
        else:
            assert x == y, field.name


def test_what_is_saved_is_loaded(bundle: PolicyBundle, folder: Path) -> None:
    loaded = PolicyBundle.load(folder)
    assert_same(bundle, loaded)
    assert loaded.run_id == bundle.run_id
    assert list(loaded.obs_sizes) == ["arm", "cube"], "observations are joined in this order"
    assert loaded.config.seed == 4
    assert loaded.step == 10
    np.testing.assert_array_equal(chunk(bundle), chunk(loaded))
    loaded.save(folder.parent / "again")
    for name in (META, WEIGHTS):
        assert (folder.parent / "again" / name).read_bytes() == (folder / name).read_bytes(), "the same to the byte"


def test_a_bundle_is_its_member_of_the_pack() -> None:
    """And no longer a part of it: later steps do not change it."""
    trainer = tiny_trainer([3, 4])
    trainer.advance(5)
    bundles = [trainer.bundle(m) for m in range(2)]
    policy = trainer.policy
    obs = torch.randn(2, 3, 1, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(1))
    expected = policy.sample(Observation(obs), noise, SampleSetting(2)).detach()
    trainer.advance(10)
    for m in range(2):
        got = bundles[m].build().sample(Observation(obs[m : m + 1]), noise[m : m + 1], SampleSetting(2))
        torch.testing.assert_close(got, expected[m : m + 1], rtol=1e-5, atol=1e-6)
    assert bundles[0].run_id != bundles[1].run_id


def test_a_config_of_whole_numbers_is_loaded(tmp_path: Path) -> None:
    """lr=1 of Python code is 1.0 when it is read back: the same run."""
    tiny_trainer(lr=1, weight_decay=0).bundle(0).save(tmp_path / "bundle")
    assert PolicyBundle.load(tmp_path / "bundle").config.lr == 1


def test_a_fresh_process_needs_the_path_alone(bundle: PolicyBundle, folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json, numpy as np; from pathlib import Path; from raybc.bundle import PolicyBundle;"
        "from raybc.inference.agent import Agent; from raybc.types import Observation, SampleSetting;"
        "rng = np.random.default_rng(0); obs = Observation(rng.normal(size=5).astype('f4')[None, None]);"
        "noise = rng.normal(size=(4, 2)).astype('f4')[None];"
        "agent = Agent(PolicyBundle.load(Path(sys.argv[1])));"
        "print(json.dumps(agent.chunks(obs, noise, SampleSetting(3))[0].tolist()));"
        "print([m for m in ('ray', 'optuna', 'tyro', 'h5py', 'mujoco') if m in sys.modules])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    printed, heavy = run.stdout.splitlines()
    np.testing.assert_array_equal(np.array(json.loads(printed), np.float32), chunk(bundle))
    assert heavy == "[]"


def test_nothing_is_pickled(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted([META, WEIGHTS])
    for path in folder.iterdir():
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever a pickle reader says of something else)
            list(pickletools.genops(path.read_bytes()))
    header_size = int.from_bytes((folder / WEIGHTS).read_bytes()[:8], "little")
    header = json.loads((folder / WEIGHTS).read_bytes()[8 : 8 + header_size])
    assert all(v["dtype"] == "F32" for k, v in header.items() if k != "__metadata__")
    json.loads((folder / META).read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


# Damage


def meta(change: Callable[[dict[str, Any]], Any], signed: bool = True) -> Callable[[Path], None]:
    """Edits bundle.json; signed: as one would who knows that there is a checksum."""

    def damage(folder: Path) -> None:
        value = json.loads((folder / META).read_text())
        change(value)
        if signed and "sha256" in value:
            value["sha256"] = digest({k: v for k, v in value.items() if k != "sha256"})
        (folder / META).write_text(json.dumps(value))

    return damage


def flipped(position: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[int(position * len(content))] ^= 1
        (folder / WEIGHTS).write_bytes(content)

    return damage


def other_weights(folder: Path) -> None:
    """Whole weights, of another recipe, with their own checksum."""
    other = tiny_trainer(hidden_width=8).bundle(0)
    other.save(folder.parent / "other")
    (folder.parent / "other" / WEIGHTS).replace(folder / WEIGHTS)
    sha = json.loads((folder.parent / "other" / META).read_text())["weights_sha256"]
    meta(lambda m: m.update(weights_sha256=sha))(folder)


def other_seed(folder: Path) -> None:
    tiny_trainer(seeds=[9]).bundle(0).save(folder.parent / "other")
    (folder.parent / "other" / WEIGHTS).replace(folder / WEIGHTS)


def normalization(
    part: str, key: str, change: Callable[[list[float]], Any], signed: bool = True
) -> Callable[[Path], None]:
    def edit(m: dict[str, Any]) -> None:
        m["normalization"][part][key] = change(m["normalization"][part][key])

    return meta(edit, signed)


EDITED = [META, "sha256 differs from its contents", "edited or damaged"]
DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [WEIGHTS, "expected the weights", "found none"]),
    "no json": (lambda f: (f / META).unlink(), [META, "expected a JSON file"]),
    "half a json": (lambda f: (f / META).write_bytes((f / META).read_bytes()[:300]), [META, "not readable as JSON"]),
    "binary json": (lambda f: (f / META).write_bytes(b"\xff\xfe"), [META, "not readable as JSON"]),
    "json list": (lambda f: (f / META).write_text("[]"), [META, "damaged"]),
    "json null": (lambda f: (f / META).write_text("null"), [META, "damaged"]),
    "other format": (meta(lambda m: m.update(format="onnx")), [META, "expected format 'raybc-bundle-2', got 'onnx'"]),
    "newer format": (
        meta(lambda m: m.update(format="raybc-bundle-3", raybc="7.8.9")),
        [META, "format raybc-bundle-2 or older, got raybc-bundle-3, made by raybc 7.8.9", "install that release"],
    ),
    "older format": (meta(lambda m: m.update(format="raybc-bundle-1")), [META, "expected the option", "missing"]),
    "newer option": (
        meta(lambda m: m["config"].update(thinking=1) or m.update(raybc="7.8.9")),
        [META, "config.thinking", "unknown", "this policy was made by raybc 7.8.9, this is"],
    ),
    "other kind": (meta(lambda m: m["config"].update(policy="flwo")), [META, "config.policy", "did you mean 'flow'"]),
    "edited lr": (meta(lambda m: m["config"].update(lr=1.0)), [META, "run_id", "edited or mixed"]),
    "edited seed": (meta(lambda m: m["config"].update(seed=5)), [META, "run_id", "edited or mixed"]),
    "dropped lr": (meta(lambda m: m["config"].pop("lr")), [META, "run_id", "edited or mixed"]),
    "edited data": (meta(lambda m: m.update(data_fingerprint="x")), [META, "run_id", "edited or mixed"]),
    "edited run_id": (meta(lambda m: m.update(run_id="x")), [META, "run_id x", "edited or mixed"]),
    "unknown config": (
        meta(lambda m: m["config"].update(learning_speed=1)),
        [META, "config.learning_speed", "unknown"],
    ),
    "config type": (meta(lambda m: m["config"].update(lr="a")), [META, "config.lr", "expected float"]),
    "config list": (meta(lambda m: m.update(config=[])), [META, "config", "mapping"]),
    "edited offset": (normalization("actions", "offset", lambda x: [9.5, *x[1:]], False), EDITED),
    "edited step": (meta(lambda m: m.update(step=11), False), EDITED),
    "edited versions": (meta(lambda m: m.update(environment={"mujoco": "1"}), False), EDITED),
    "step": (meta(lambda m: m.update(step="late")), [META, "damaged", "late"]),
    "first byte": (flipped(0.0), [WEIGHTS, "sha256"]),
    "middle byte": (flipped(0.5), [WEIGHTS, "sha256"]),
    "last byte": (flipped(0.9999), [WEIGHTS, "sha256"]),
    "short weights": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), [WEIGHTS, "sha256"]),
    "other seed": (other_seed, [WEIGHTS, "sha256", "another bundle"]),
    "other weights": (other_weights, [WEIGHTS, "velocity_field.layers", "expected (1, ", "got (1, "]),
    "short offset": (normalization("observations", "offset", lambda x: x[:-1]), [META, "normalisation", "match"]),
    "nan offset": (normalization("actions", "offset", lambda x: [float("nan"), *x[1:]]), [META, "normalisation"]),
    "zero scale": (normalization("observations", "scale", lambda x: [0, *x[1:]]), [META, "normalisation", "above 0"]),
    "negative scale": (normalization("actions", "scale", lambda x: [-1, *x[1:]]), [META, "normalisation", "above 0"]),
    "words": (normalization("actions", "scale", lambda x: ["a", *x[1:]]), [META, "damaged"]),
    "ragged": (normalization("actions", "scale", lambda x: [[1, 2], [3]]), [META, "damaged"]),
    "one action less": (
        meta(lambda m: m["normalization"].update(actions={"offset": [0], "scale": [1]})),
        [META, "normalisation of actions", "expected 2 numbers, got 1"],
    ),
    "observations swapped": (
        meta(lambda m: m.update(observations={"arm": 4})),
        [META, "normalisation of observations"],
    ),
    "action size": (meta(lambda m: m.update(action_size=3)), [META, "normalisation of actions", "expected 3"]),
    "observation list": (meta(lambda m: m.update(observations=[3])), [META, "damaged"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(folder: Path, damage: str) -> None:
    change, parts = DAMAGES[damage]
    change(folder)
    with pytest.raises(UserError) as error:
        PolicyBundle.load(folder)
    for part in [str(folder), *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "key",
    ["format", "run_id", "step", "config", "observations", "action_size", "normalization", "data_fingerprint",
     "environment", "data_env", "images", "weights_sha256", "sha256"],
)  # fmt: skip
def test_every_key_is_needed(folder: Path, key: str) -> None:
    meta(lambda m: m.pop(key))(folder)
    with pytest.raises(UserError, match=f"{META}: expected the key '{key}', which is missing"):
        PolicyBundle.load(folder)


def test_there_are_no_other_keys(folder: Path) -> None:
    """So that the test above stays complete; who made it is for messages alone."""
    assert len(json.loads((folder / META).read_text())) == 14
    meta(lambda m: m.pop("raybc"))(folder)
    PolicyBundle.load(folder)


@pytest.mark.parametrize("key", ["format", "raybc", "run_id", "step", "observations", "images", "environment"])
def test_every_edit_is_noticed(folder: Path, key: str) -> None:
    """Whoever does not know of the checksum changes nothing unnoticed."""
    meta(lambda m: m.pop(key), signed=False)(folder)
    with pytest.raises(UserError, match=f"{META}: sha256 differs from its contents"):
        PolicyBundle.load(folder)


def test_every_option_is_kept_flat(folder: Path, bundle: PolicyBundle) -> None:
    saved = json.loads((folder / META).read_text())
    assert saved["config"] == bundle.config.to_plain()
    assert saved["config"]["hidden_width"] == 16
    assert (saved["config"]["policy"], saved["config"]["encoder"]) == ("flow", "None")
    assert (saved["format"], saved["raybc"]) == ("raybc-bundle-2", __version__)
    assert bundle.run_ids == (bundle.run_id,) == (saved["run_id"],)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(UserError, match=f"{path}: expected a policy bundle.*found none"):
            PolicyBundle.load(path)


# Writing


def test_overwriting_leaves_a_whole_one(bundle: PolicyBundle, folder: Path) -> None:
    (folder / "leftover").touch()
    other = tiny_trainer(data=tiny_data(tiny_store(seed=2))).bundle(0)
    other.save(folder)
    assert_same(PolicyBundle.load(folder), other)
    assert sorted(p.name for p in folder.iterdir()) == sorted([META, WEIGHTS])
    assert list(folder.parent.iterdir()) == [folder], "no temporary folder stays behind"


@pytest.mark.parametrize("fails", ["raybc.bundle.save_file", "raybc.bundle.write_json", "raybc.files.os.rename"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_save_changes_nothing(
    bundle: PolicyBundle, folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str, existing: bool
) -> None:
    other, target = tiny_trainer().bundle(0), folder if existing else folder.parent / "new"
    original = os.rename

    def failure(*arguments: Any) -> None:
        if fails.endswith("rename") and not str(arguments[0]).endswith(".tmp"):
            return original(*arguments)  # setting the old one aside works, putting the new one there does not
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, failure)
    with pytest.raises(OSError, match="No space left"):
        other.save(target)
    monkeypatch.undo()
    assert_same(PolicyBundle.load(folder), bundle)
    assert list(folder.parent.iterdir()) == [folder]
