"""What a model card shows: the sweep's own numbers, a film, and what to install."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from raybc.export.install import EXTRAS, install_lines
from tests.helpers import ROOT, pointmass_bundle
from tests.test_hub import card_of, measurement, run
from tests.test_report import make_run


def test_a_later_rollout_does_not_replace_the_numbers_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the card nor in .eval_results, and the same for the winner's own folder; a named one does."""
    monkeypatch.chdir(tmp_path)
    sweep = make_run(tmp_path / "sweep")
    bundle = pointmass_bundle()
    bundle.save(sweep / "winner")
    flags = ("--push_to_hub", "me/lift", "--benchmark", "us/points", "--flow_steps", "5", "--dry_run")
    assert run(sweep, *flags, "before") == 0
    own = card_of(tmp_path / "before")[0]["model-index"]
    entries = (tmp_path / "before/.eval_results/raybc.yaml").read_text()
    setting = dataclasses.asdict(dataclasses.replace(bundle.config.sample_setting, flow_steps=5))
    row = {"episodes": 5000, "success_rate": 0.123, "successes": 615, "wilson_low": 0.11, "wilson_high": 0.13}
    row |= {"mean_return": 0.1, "failure_counts": {"exception": 0}, **setting}
    stray = measurement(tmp_path / f"runs/rollouts/{bundle.run_id}_step_300_final", settings=[row])
    for path in (sweep, sweep / "winner"):
        assert run(path, *flags, "after", "--overwrite") == 0
        front, text = card_of(tmp_path / "after")
        assert front["model-index"] == own
        assert (tmp_path / "after/.eval_results/raybc.yaml").read_text() == entries
        assert text.index("Winner: trial 3") < text.index("### Measured again") < text.index("12.3 %")
    assert run(sweep, *flags, "named", "--measured", stray) == 0
    assert card_of(tmp_path / "named")[0]["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.123


def test_a_film_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A success on final starts of the winner's own seed, as the Hub plays it; of rollouts, one of theirs."""
    monkeypatch.chdir(tmp_path)
    sweep = make_run(tmp_path / "sweep")
    pointmass_bundle().save(sweep / "winner")
    seed = json.loads((sweep / "winner.json").read_text())["seed"]
    (sweep / "videos").mkdir(exist_ok=True)
    films = []
    for number, (trial, of, split, outcome) in enumerate(
        [(1, seed, "final", "success"), (3, seed, "search", "success"), (3, seed, "final", "timeout"),
         (3, seed + 1, "final", "success"), (3, seed, "final", "success")]
    ):  # fmt: skip
        (sweep / f"videos/{number}.mp4").write_bytes(b"film %d" % number)
        films.append({"file": f"videos/{number}.mp4", "trial": trial, "seed": of, "split": split, "index": number,
                      "outcome": outcome, "flow_steps": 5, "steps": 27})  # fmt: skip
    (sweep / "videos.json").write_text(json.dumps(films))
    flags = ("--push_to_hub", "me/lift", "--dry_run")
    assert run(sweep, *flags, "dry") == 0
    text = card_of(tmp_path / "dry")[1]
    address = "https://huggingface.co/me/lift/resolve/main/replay.mp4"
    assert f'<video src="{address}" controls loop muted width="480"></video>' in text
    assert "Start 4 of the final starts: success after 27 steps." in text
    assert (tmp_path / "dry/replay.mp4").read_bytes() == b"film 4"
    assert run(sweep, *flags, "dry", "--overwrite") == 0, "it is its own folder"
    (sweep / "videos.json").write_text(json.dumps([films[3], {**films[1], "file": "../outside.mp4"}]))
    (tmp_path / "outside.mp4").touch()
    assert run(sweep, *flags, "other") == 0
    assert "success after 27 steps, by seed" in card_of(tmp_path / "other")[1]
    (sweep / "videos.json").write_text("[]")
    assert run(sweep, *flags, "none") == 0
    assert "<video" not in card_of(tmp_path / "none")[1]
    bundle = pointmass_bundle()
    folder = measurement(tmp_path / "rollouts")
    setting = bundle.config.sample_setting
    rows = [{**setting.to_plain(), "index": i, "outcome": outcome, "steps": 30, "video": f"{i}.mp4"}
            for i, outcome in enumerate(("timeout", "success"))]  # fmt: skip
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    videos = folder / "videos" / setting.slug()
    videos.mkdir(parents=True)
    (videos / "1.mp4").write_bytes(b"rolled out")
    assert run(sweep / "winner", *flags, "rolled", "--measured", folder) == 0
    assert (tmp_path / "rolled/replay.mp4").read_bytes() == b"rolled out"
    assert "Start 1 of the final starts: success after 30 steps." in card_of(tmp_path / "rolled")[1]


@pytest.mark.parametrize(
    ("env_name", "lines"),
    [
        ("pointmass", ['pip install "raybc[hub]"']),
        ("lift-ph-low_dim", ['pip install "raybc[hub,robosuite]"']),
        ("pen-human-v1", ['pip install "raybc[hub,robotics]"']),
        ("halfcheetah-medium-v2", ['pip install "raybc[hub,mujoco]"']),
        ("libero_object-0", ['pip install "raybc[hub]"', "raybc env build libero"]),
        ("module:gone", ['pip install "raybc[hub]"']),
    ],
)
def test_what_to_install(env_name: str, lines: list[str]) -> None:
    bundle = pointmass_bundle()
    assert install_lines(dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, env_name=env_name))) == (
        lines
    )


def test_extras_exist() -> None:
    """Those of the install lines are extras of pyproject.toml, with tasks that need them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(EXTRAS.values()) <= set(project["project"]["optional-dependencies"])
