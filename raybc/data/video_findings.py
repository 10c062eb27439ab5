"""What is wrong with the videos of a LeRobot set."""

from __future__ import annotations

from raybc.data.findings import Finding, Severity
from raybc.data.formats import lerobot
from raybc.data.scan import Source
from raybc.data.videos import count_frames
from raybc.types import UserError


def videos(source: Source, images: bool) -> list[Finding]:
    """LeRobot's videos whose number of frames differs from the rows of their episodes."""
    if source.format != lerobot.NAME:
        return []
    try:
        uses = lerobot.video_uses(source.path)
    except UserError:
        return []  # reading the arrays has already reported what is wrong with meta/
    found = [finding for use in uses if (finding := _video(use, images)) is not None]
    return found + [_frames(use, episode, text) for use in uses for episode, text in use.faults().items()]


def _frames(use: lerobot.VideoUse, episode: int, text: str) -> Finding:
    """The finding about the frames of an episode that are not its own, or not as many as its rows."""
    expected, _, found = text.removeprefix("expected ").partition(", ")
    advice = "correct from_timestamp and to_timestamp in meta/episodes, or leave the episode out (--skip_bad_episodes)"
    return Finding("error", "video", str(use.path), use.feature, (episode,), expected, found, advice)


def _video(use: lerobot.VideoUse, images: bool) -> Finding | None:
    """The finding about one video, if any. A missing video is an error only where images are requested."""
    severity: Severity = "error"
    episodes, last = tuple(use.ends), max(use.ends.values())
    if not use.path.is_file():
        severity = "error" if images else "warning"
        found, advice = "no such file", "download it, if images are wanted"
    else:
        try:
            frames = count_frames(use.path)
        except UserError as error:
            found, advice = str(error), "download or encode the video again"
        else:
            if frames == last:
                return None
            found = f"{frames} frames"
            episodes = tuple(e for e, end in use.ends.items() if end > frames)
            advice = "encode the video again, or leave these episodes out"
            if frames > last:
                severity, advice = "warning", "check whether rows are missing, or the video belongs elsewhere"
    expected = f"{last} frames, as the rows of its episodes"
    return Finding(severity, "video", str(use.path), use.feature, episodes, expected, found, advice)
