"""Policies that read instructions: every network and objective, packs, resume, bundles, other starts.

Letters: M members, B batch, H chunk, A action dim, E size of an embedding.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import INSTRUCTIONS, PolicyBundle
from raybc.config import RunConfig
from raybc.inference.agent import Agent
from raybc.inference.offline import offline_error
from raybc.inference.policy import Policy
from raybc.language import table
from raybc.policies.base import LANGUAGE, PolicySpec
from raybc.policies.build import build_policy
from raybc.testing import check_policy
from raybc.train.data import resolved
from raybc.train.phases import encoder_names
from raybc.types import Batch, Observation, SampleSetting, UserError
from tests.helpers import saved, tiny_data, tiny_trainer
from tests.words import ACTION, LEFT, RIGHT, Letters, chunk, words_store, words_trainer

#: One of each network, small.
NETWORKS: dict[str, dict[str, Any]] = {
    "flow": {"policy": "flow", "hidden_width": 32, "hidden_depth": 2},
    "residual": {"policy": "flow", "hidden_block": "residual", "hidden_width": 16, "hidden_depth": 1},
    "flow_unet": {"policy": "flow_unet", "unet_channels": "8,16", "unet_groups": 4, "unet_time_size": 16},
    "flow_transformer": {
        "policy": "flow_transformer", "transformer_layers": 2, "transformer_heads": 2, "transformer_width": 32,
    },
    "regression": {"policy": "regression", "hidden_width": 32, "hidden_depth": 2},
}  # fmt: skip
IMAGES = (("front", (8, 8, 3)),)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("spec", [PolicySpec(5, 2, 4, language=6), PolicySpec(0, 3, 4, 2, IMAGES, 6)], ids=str)
def test_policies_with_instructions_are_policies(name: str, spec: PolicySpec) -> None:
    """With states, and with images alone."""
    encoder = {"encoder": "impala_small"} if spec.images else {}
    check_policy(lambda members: build_policy(RunConfig.of(**NETWORKS[name], **encoder), spec, members))


@pytest.mark.parametrize("name", NETWORKS)
def test_without_instructions_nothing_changes(name: str) -> None:
    """Neither the weights nor what is drawn for them."""
    spec = PolicySpec(5, 2, 4)
    plain, reads = (
        build_policy(RunConfig.of(**NETWORKS[name]), dataclasses.replace(spec, language=size), 1) for size in (0, 6)
    )
    assert not any(LANGUAGE in part for part in plain.state_dict())
    assert [part for part in reads.state_dict() if LANGUAGE in part]
    assert encoder_names(list(reads.state_dict())) == frozenset(), "freeze_epochs freezes encoders of images only"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_words_decide(name: str) -> None:
    """Each instruction has its own action, which a policy that does not read cannot have."""
    texts, fast = (LEFT, RIGHT), name in ("flow", "regression")
    steps = 120 if fast else 80
    for language, reads in (("tests.words:Letters", True), *((("one_hot", True), ("none", False)) if fast else ())):
        trainer = words_trainer(language=language, training_steps=steps, lr=5e-3, **NETWORKS[name])
        trainer.advance(steps)
        actions_TA = chunk(Agent(saved(trainer.bundle(0))), *texts).mean(axis=1)
        right = np.abs(actions_TA - np.stack([ACTION, -ACTION])).max() < 0.4
        assert right == reads, (language, actions_TA)
        if not reads:
            np.testing.assert_array_equal(actions_TA[0], actions_TA[1])


@pytest.mark.parametrize("objective", ["regression", "mip", "diffusion"])
def test_every_objective_reads(objective: str) -> None:
    trainer = words_trainer(objective=objective, training_steps=150, lr=5e-3, **NETWORKS["flow"])
    trainer.advance(150)
    left, right = chunk(Agent(trainer.bundle(0)), LEFT, RIGHT).mean(axis=1)
    assert left[0] > 0.1 > -0.1 > right[0]


def test_a_row_does_not_depend_on_the_instructions_of_others() -> None:
    agent = Agent(words_trainer(**NETWORKS["flow_transformer"]).bundle(0))
    together = chunk(agent, LEFT, RIGHT, LEFT, RIGHT, RIGHT)
    np.testing.assert_array_equal(
        together, np.concatenate([chunk(agent, t) for t in (LEFT, RIGHT, LEFT, RIGHT, RIGHT)])
    )


def test_a_pack_is_its_members() -> None:
    changes: dict[str, Any] = {"training_steps": 20, "ema_decay": 0.9, **NETWORKS["flow"]}
    pack = words_trainer((3, 4), **changes)
    pack.advance(20)
    for m, seed in enumerate((3, 4)):
        alone = words_trainer((seed,), **changes)
        alone.advance(20)
        for name, weight in alone.bundle(0).weights.items():
            torch.testing.assert_close(pack.bundle(m).weights[name], weight, rtol=1e-4, atol=1e-6)


def test_a_resumed_training_is_the_same(tmp_path: Path) -> None:
    from raybc.train import checkpointing

    whole, first, second = (words_trainer(training_steps=20, precision="bf16", ema_decay=0.9) for _ in range(3))
    whole.advance(20)
    first.advance(9)
    checkpointing.save(tmp_path / "state", first.state())
    second.load_state(tmp_path / "state")
    second.advance(20)
    for name, weight in whole.bundle(0).weights.items():
        assert torch.equal(second.bundle(0).weights[name], weight), name


def test_windows_have_the_instruction_of_their_episode() -> None:
    trainer = words_trainer(store=words_store((LEFT, RIGHT, "stop")))
    windows, store = trainer.prepared.rotation.at(0), trainer.data.store
    every = torch.arange(len(windows.starts))[None]
    batch: Batch = windows.gather(every)
    assert batch.obs.language is not None
    known = trainer.prepared.instructions
    assert known is not None
    assert known.texts == (LEFT, RIGHT, "stop")
    for start, row in zip(windows.starts.tolist(), batch.obs.language[0].numpy(), strict=True):
        episode = int(np.searchsorted(store.episode_ends, start, side="right"))
        np.testing.assert_array_equal(row, known.vectors_KE[known.texts.index(store.tasks[episode])])


def test_files_of_a_rotation_and_held_out_episodes_have_theirs() -> None:
    store = words_store(files=(6, 11, 16), splits={"train": np.arange(14), "valid": np.array([14, 15])})
    trainer = words_trainer(store=store, dataset_replace_interval=2, training_steps=6)
    trainer.advance(6)
    known = trainer.prepared.instructions
    assert known is not None
    for step, first in ((0, 0), (2, 6), (4, 11)):
        windows = trainer.prepared.rotation.at(step)
        assert windows.instruction_N is not None
        assert windows.instruction_N[::8].tolist() == [
            known.texts.index(text) for text in store.tasks[first : first + len(windows.instruction_N) // 8]
        ]
    held_out = trainer.prepared.validation
    assert held_out is not None
    assert held_out.instruction_N is not None
    assert held_out.instruction_N[::8].tolist() == [0, 1]


def test_held_out_actions_are_measured_with_their_instructions() -> None:
    trainer = words_trainer(training_steps=150, lr=5e-3, policy="regression")
    trainer.advance(150)
    error = offline_error(Agent(trainer.bundle(0)), words_store(), np.arange(16), SampleSetting(flow_steps=0))
    assert error.error < 0.3, "1 is as wrong as the mean action"


# Bundles


@pytest.fixture
def bundle() -> PolicyBundle:
    return words_trainer(**NETWORKS["flow"]).bundle(0)


def test_a_bundle_carries_its_instructions(bundle: PolicyBundle, tmp_path: Path) -> None:
    """Acting with them needs no encoder."""
    bundle.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["bundle.json", INSTRUCTIONS, "policy.safetensors"]
    read = PolicyBundle.load(tmp_path / "b")
    assert read.instructions is not None
    assert read.instructions.texts == (LEFT, RIGHT)
    np.testing.assert_array_equal(read.instructions.vectors_KE, bundle.instructions.vectors_KE)  # type: ignore[union-attr]
    assert np.allclose((read.instructions.vectors_KE**2).mean(1), 1)
    np.testing.assert_array_equal(chunk(Agent(read), LEFT), chunk(Agent(bundle), LEFT))
    tiny_trainer().bundle(0).save(tmp_path / "plain")
    assert "instructions" not in json.loads((tmp_path / "plain" / "bundle.json").read_text())
    (tmp_path / "b" / INSTRUCTIONS).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{INSTRUCTIONS}: sha256 differs"):
        PolicyBundle.load(tmp_path / "b")
    (tmp_path / "b" / INSTRUCTIONS).unlink()
    with pytest.raises(UserError, match=f"{INSTRUCTIONS}.*the vectors of instructions"):
        PolicyBundle.load(tmp_path / "b")


def test_acting_needs_an_instruction(bundle: PolicyBundle) -> None:
    agent = Agent(bundle)
    low_dim, noise = np.zeros((1, 1, 5), np.float32), np.zeros((1, 4, 2), np.float32)
    with pytest.raises(UserError, match=rf"^instruction: expected one, since .* got none; known: '{LEFT}', '{RIGHT}'$"):
        agent.chunks(Observation(low_dim), noise, SampleSetting())
    policy = Policy(agent, SampleSetting())
    obs = {"arm": np.zeros(3), "cube": np.zeros(2)}
    with pytest.raises(UserError, match="got none"):
        policy.act(obs)
    policy.reset(0, LEFT)
    left = policy.chunk(obs)
    policy.reset(0)
    np.testing.assert_array_equal(policy.chunk(obs), left)  # it stays
    policy.reset(0, RIGHT)
    assert (policy.chunk(obs) != left).any()
    plain = Policy(Agent(tiny_trainer().bundle(0)), SampleSetting())
    with pytest.raises(UserError, match="no effect, since this policy reads no instructions"):
        plain.reset(0, LEFT)


def test_new_instructions_are_embedded_and_numbers_are_not(bundle: PolicyBundle) -> None:
    new = "push the cube to the lift"
    assert chunk(Agent(bundle), new).shape == (1, 4, 2)
    numbered = words_trainer(language="one_hot", **NETWORKS["flow"]).bundle(0)
    with pytest.raises(UserError) as error:
        chunk(Agent(numbered), new)
    assert str(error.value) == (
        f"instruction: expected one of 2 known instructions, got {new!r}; did you mean {LEFT!r} or {RIGHT!r}? "
        "(one_hot knows those of its training only)"
    )


def test_a_text_is_embedded_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.words import LetterEncoder

    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    monkeypatch.setattr(table, "_KEPT", {})
    monkeypatch.setattr(LetterEncoder, "calls", [])
    first = table.Instructions.of(Letters(), (LEFT, RIGHT, LEFT))
    assert LetterEncoder.calls == [LEFT, RIGHT]
    table.Instructions.of(Letters(), (LEFT,))
    monkeypatch.setattr(table, "_KEPT", {})  # another process
    again = table.Instructions.of(Letters(), (RIGHT, LEFT))
    assert LetterEncoder.calls == [LEFT, RIGHT]
    np.testing.assert_array_equal(first.vectors_KE, again.vectors_KE)
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(b"torn")
    monkeypatch.setattr(table, "_KEPT", {})
    np.testing.assert_array_equal(table.Instructions.of(Letters(), (LEFT, RIGHT)).vectors_KE, first.vectors_KE)


# Other starts


def start(tmp_path: Path, store: Any, language: str, **changes: Any) -> Any:
    """A training on `store` that starts from a policy of one_hot or letters."""
    words_trainer(language=changes.pop("before", language), **NETWORKS["flow"]).bundle(0).save(tmp_path / "first")
    options = {"language": language, "init_from": str(tmp_path / "first"), **NETWORKS["flow"], **changes}
    return words_trainer(store=store, **options)


def test_fine_tuning_embeds_other_instructions_with_the_same_encoder(tmp_path: Path) -> None:
    """The number of instructions is no part of the network."""
    texts = ("lift the cube", LEFT, "stop")
    trainer = start(tmp_path, words_store(texts), "tests.words:Letters")
    assert trainer.start.new == trainer.start.left == ()
    assert trainer.bundle(0).instructions.texts == tuple(sorted(texts))


@pytest.mark.parametrize(
    ("texts", "before", "language", "said"),
    [
        ((LEFT, RIGHT, "stop"), "one_hot", "one_hot", "language: one_hot of 2 instructions"),
        ((LEFT, "stop"), "one_hot", "one_hot", "language: one_hot of 2 instructions"),
        ((LEFT, RIGHT), "one_hot", "tests.words:Letters", "language: one_hot of 2 instructions"),
        ((LEFT, RIGHT), "none", "one_hot", "language: none there, one_hot of 2 instructions"),
        ((LEFT, RIGHT), "one_hot", "none", "none here"),
    ],
)  # fmt: skip
def test_a_start_of_another_architecture_says_what_fits(
    tmp_path: Path, texts: tuple[str, ...], before: str, language: str, said: str
) -> None:
    store = words_store(texts)
    with pytest.raises(UserError, match=r"weights fit \(.*use --init_partial") as error:
        start(tmp_path, store, language, before=before)
    assert said in str(error.value)
    trainer = start(tmp_path, store, language, before=before, init_partial=True)
    assert trainer.start.loaded


def test_data_must_have_instructions() -> None:
    config = RunConfig.of(language="one_hot")
    with pytest.raises(UserError, match=r"^words.hdf5: expected an instruction for each episode .* got none \(raybc"):
        resolved(config, words_store(tasks=()))
    holes = ("", LEFT) * 8
    with pytest.raises(UserError, match=r"got none in 8 episodes \(0, 2, 4"):
        resolved(config, words_store(tasks=holes))
    with pytest.raises(UserError, match="expected an instruction for each episode"):
        tiny_trainer(data=tiny_data(), language="one_hot")
