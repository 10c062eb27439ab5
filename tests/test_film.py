"""Films of episodes: what they show, how they end, and their stills, without Ray and in every size."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from raybc.envs.base import RenderOptions
from raybc.inference.agent import Agent
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.film import COLOURS, Film, with_banner
from raybc.rollout.video import GAP, STRIP, encode, stills
from raybc.types import EpisodeSpec, SampleSetting
from tests.helpers import pointmass_bundle
from tests.test_engine import run


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as video:
        rate = float(video.streams.video[0].average_rate or 0)
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)], rate


def test_a_film_ends_with_the_outcome_held_for_a_second_and_changes_no_row(tmp_path: Path) -> None:
    agent = Agent(pointmass_bundle())
    specs = [EpisodeSpec("pointmass", "final", i) for i in range(3)]

    def rows(render: RenderOptions | None, video: str) -> list[dict[str, object]]:
        engine = Engine(lambda _: agent, render)
        return run(engine, [(Rollout("b", SampleSetting(), video, 4), spec) for spec in specs])

    plain, filmed = rows(None, ""), rows(RenderOptions(96, 96), str(tmp_path))
    for row, other in zip(plain, filmed, strict=True):
        name = other.pop("video")
        assert row == other, "filming changes nothing that is measured"
        frames, rate = frames_of(tmp_path / str(name))
        steps = int(str(row["steps"]))
        shown = len(range(0, steps + 1, 4)) + (steps % 4 > 0)
        assert rate == pytest.approx(10 / 4)
        assert len(frames) == shown + 3, "2.5 frames are a second, and no less than that is held"
        held = np.stack(frames[-3:]).astype(int)
        assert np.abs(held - held[0]).max() < 12, "nothing moves after the end"
        band = frames[-1][:10, -6:].mean((0, 1))
        assert np.abs(band - COLOURS[row["outcome"]]).max() < 12, "the banner has the colour of the outcome"  # type: ignore[index]
        assert np.abs(frames[0][:10, -6:].mean((0, 1)) - band).max() > 20, "and the start has not"


def test_a_step_is_shown_once_and_the_last_frame_is_the_last_state(tmp_path: Path) -> None:
    film = Film(10, EpisodeSpec("pointmass", "search", 7))
    for step, shade in ((0, 40), (4, 90), (4, 200)):  # an episode that ends with a step that was filmed
        film.add(step, np.full((65, 51, 3), shade, np.uint8))
    film.write(tmp_path / "a.mp4", "timeout")
    frames, _ = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 2 + 10
    assert frames[0].shape[1] == 50
    assert frames[-1].shape[0] % 2 == 0
    assert abs(int(frames[-1][-8:].mean()) - 200) < 6


@pytest.mark.parametrize("width", [16, 32, 64, 256, 1024])
def test_the_banner_fits_into_every_width(width: int) -> None:
    frame = np.zeros((width, width, 3), np.uint8)
    texts = ["success   final start 123456   step 1000", "success  start 123456", "success"]
    image = with_banner(frame, texts, COLOURS["success"])
    band = image[: -frame.shape[0]]
    assert image.shape[0] % 2 == 0
    assert band.max() > 180, "letters are to be seen"
    if width >= 64:
        assert (band[:, -2:] == COLOURS["success"]).all(), "none is cut off"


def test_white_letters_can_be_read_on_every_outcome() -> None:
    for colour in COLOURS.values():
        linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5


def test_a_film_without_pillow_has_no_banner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulators in environments of their own need not have it."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    film = Film(5, EpisodeSpec("pointmass", "search", 0))
    film.add(0, np.full((32, 32, 3), 90, np.uint8))
    film.write(tmp_path / "a.mp4", "failure")
    frames, _ = frames_of(tmp_path / "a.mp4")
    assert frames[0].shape == (32, 32, 3)
    assert len(frames) == 1 + 5


def test_stills_are_start_middle_and_end_of_the_episode(tmp_path: Path) -> None:
    images = [np.full((48, 64, 3), shade, np.uint8) for shade in (20, 70, 120, 170, 220)]
    encode(tmp_path / "new.mp4", 10, [*images, *[images[-1]] * 10], shown=5)
    encode(tmp_path / "old.mp4", 10, images)  # of an earlier release: it ends with the episode
    for name in ("new.mp4", "old.mp4"):
        found = stills(tmp_path / name)
        assert found is not None
        assert found.frame == pytest.approx(0.1)
        (tmp_path / "strip.jpg").write_bytes(found.strip)
        [strip], _ = frames_of(tmp_path / "strip.jpg")
        width = (strip.shape[1] - 2 * GAP) // 3
        assert strip.shape[:2] == (STRIP, 3 * 128 + 2 * GAP)
        shades = [strip[20:-20, i * (width + GAP) + 20 : i * (width + GAP) + 100].mean() for i in range(3)]
        assert shades == pytest.approx([20, 120, 220], abs=6), name
        (tmp_path / "poster.jpg").write_bytes(found.poster)
        [poster], _ = frames_of(tmp_path / "poster.jpg")
        assert poster.shape == (48, 64, 3)
        assert poster.mean() == pytest.approx(220, abs=6)
    (tmp_path / "no.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert stills(tmp_path / "no.mp4") is None
