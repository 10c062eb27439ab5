"""The report of a synthetic run folder whose numbers are known."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raybc.cli import run_main
from raybc.report import figures, films, html, tables
from raybc.report.__main__ import main
from raybc.report.markdown import write_leaderboard_md
from raybc.report.read import load_run
from raybc.statistics import seed_interval, wilson_interval
from raybc.types import SampleSetting, UserError

HOSTILE = "</script><script>alert('x')</script> | <img src=http://evil.example/a.png> `x`"
AXES = ("lr", "horizon_length", "use_fourier_features")
FLOW_STEPS = (1, 5)


@dataclass
class Trial:
    """search: per flow_steps, per evaluation, per seed the successes of 10. final: per flow_steps, per seed, of 50."""

    status: str
    params: tuple[Any, ...]
    search: dict[int, list[list[int]]] = field(default_factory=dict)
    final: dict[int, list[int]] = field(default_factory=dict)
    score: float | None = None
    reason: str = ""
    errors: int = 0  # of the last final row


TRIALS = [
    Trial("completed", (1e-4, 1, False), {1: [[2, 4], [6, 6]], 5: [[3, 5], [7, 7]]}, {1: [30, 32], 5: [49, 49]}, 0.7),
    Trial("pruned", (3e-2, 5, True), {1: [[0, 1]], 5: [[1, 1]]}, score=0.1, reason="asha: rung 1"),
    Trial("failed", (1e-1, 10, True), reason=HOSTILE),
    Trial("completed", (1e-3, 10, True), {1: [[4, 6], [7, 8]], 5: [[5, 7], [9, 9]]}, {1: [40, 38], 5: [49, 47]}, 0.9),
    Trial("completed", (5e-4, 5, False), {1: [[3, 3], [8, 8]], 5: [[4, 4], [8, 8]]}, score=0.8),
    Trial("running", (2e-3, 5, True)),
]


def result(
    trial: int, seed: int, phase: str, evaluation: int, flow_steps: int, successes: int, n: int, errors: int = 0
):
    return {
        "run_id": f"t{trial}s{seed}", "trial": trial, "seed": seed, "phase": phase, "evaluation": evaluation,
        "step": 500 * evaluation, **asdict(SampleSetting(flow_steps)), "episodes": n,
        "successes": successes, "timeouts": n - successes, "failures": 0, "errors": errors,
        "success_rate": successes / n if n else None, "mean_return": 0.5,
        "mean_steps_success": 30.0 + 4 * seed if successes else None, "eval_seconds": 1.5,
    }  # fmt: skip


def make_run(
    folder: Path, trials: list[Trial] = TRIALS, winner: int | None = 3, seeds: tuple[int, ...] = (0, 1)
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, trial in enumerate(trials):
        for flow_steps, evaluations in trial.search.items():
            for evaluation, counts in enumerate(evaluations, start=1):
                for seed, successes in zip(seeds, counts, strict=False):
                    rows.append(result(number, seed, "search", evaluation, flow_steps, successes, 10))
        for flow_steps, counts in trial.final.items():
            for seed, successes in zip(seeds, counts, strict=False):
                rows.append(result(number, seed, "final", 2, flow_steps, successes, 50))
        if trial.errors:
            rows[-1] |= {"errors": trial.errors}
        for seed in seeds[: len(trial.search and seeds)]:
            log = folder / "trials" / f"{number:04d}" / f"seed_{seed}" / "train.csv"
            log.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{step},{2 * math.exp(-step / 400) + 0.1 * number + 0.05},1" for step in range(10, 1001, 10)]
            log.write_text("step,train/actor_loss,train/grad_norm\n" + "\n".join(lines) + "\n1010,")
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = "trial,status,score,step,evaluations,origin,reason,train_seconds,rollout_seconds"
        writer.writerow([*columns.split(","), *(f"params.{axis}" for axis in AXES)])
        for number, trial in enumerate(trials):
            done = len(next(iter(trial.search.values()), []))
            score = "" if trial.score is None else trial.score
            head = [number, trial.status, score, 500 * done or "", done or "", "tpe", trial.reason, 12.5, 8.25]
            writer.writerow([*head, *trial.params])
    config = {
        "name": "quickstart", "seeds": list(seeds),
        "space": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "horizon_length": {"values": [1, 5, 10]},
                  "use_fourier_features": {"values": [False, True]}, "flow_steps": {"values": [1, 5]}},
        "train": {"env_name": "lift-scripted-low_dim", "training_steps": 1000},
        "search": {"sampler": "tpe", "trials": 6, "seed": 0, "max_concurrent": 2},
        "prune": {"scheduler": "asha"}, "eval": {"episodes": 10, "evaluations": 2},
        "final": {"top": 2, "episodes": 50, "videos": 2},
    }  # fmt: skip
    timing = {
        "wall_seconds": 412.0, "stages": {"demonstrations": 31.0, "search": 290.0, "final": 70.0, "videos": 15.0},
        "train_seconds": 75.0, "rollout_seconds": 49.5, "video_note": None, "max_steps": 150,
        "data": {"path": "demos/lift.hdf5", "episodes": 100, "transitions": 3512, "fingerprint": "sha256:00ff"},
        "command": "python -m raybc.sweep sweeps/quickstart.yaml",
    }  # fmt: skip
    versions = {"python": "3.11.7", "raybc": "0.1.0", "simulator": {"robosuite": "1.5.2", "controller": "OSC_POSE"}}
    parts: dict[str, Any] = {"config.json": config, "timing.json": timing, "versions.json": versions}
    if winner is not None:
        setting = asdict(SampleSetting(5))
        params = dict(zip(AXES, trials[winner].params, strict=True))
        parts["winner.json"] = {
            "trial": winner, "params": params, "setting": setting, "seed": seeds[0], "run_id": "ab12",
            "bundle": "winner", "rule": "highest pooled success at the last evaluation",
        }  # fmt: skip
    for name, value in parts.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def add_videos(folder: Path, *names: str) -> None:
    (folder / "videos").mkdir(exist_ok=True)
    same = {"trial": 3, "seed": 0, "split": "final", "outcome": "success", "flow_steps": 5, "steps": 34}
    for name in names:
        (folder / "videos" / name).write_bytes(b"\0\0\0\x18ftypmp42")
    entries = [{"file": f"videos/{name}", "index": index} | same for index, name in enumerate(names)]
    (folder / "videos.json").write_text(json.dumps(entries))


class Page(HTMLParser):
    """Tags with attributes, the text outside scripts, and the data of the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: list[Any] = []
        self.text, self._raw = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._raw = tag if tag in ("script", "style") else self._raw

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data
        elif self._raw == "script" and self.tags[-1][1].get("type") == "application/json":
            self.figures.append(json.loads(data))


def report(folder: Path) -> tuple[str, Page]:
    text = html.write_report(folder).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(9, 10, 0.596, 0.982), (45, 50, 0.786, 0.957), (96, 100, 0.902, 0.984), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0)],
)
def test_wilson_interval_has_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-4)


def test_wilson_interval_knows_its_limits() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 10, 0.99)[0] < wilson_interval(5, 10, 0.9)[0]
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(11, 10)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 95)


@pytest.mark.parametrize(
    ("confidence", "quantiles"),
    [
        # Student's t for K - 1 = 1, 2, 4, 9, 29 degrees of freedom: printed tables, continued by mpmath to 16 digits.
        (0.9, (6.313751514675043, 2.919985580353726, 2.13184678632665, 1.833112932656237, 1.699127026533498)),
        (0.95, (12.7062047361747, 4.302652729749464, 2.776445105197794, 2.262157162798206, 2.045229642132704)),
        (0.99, (63.65674116287158, 9.924843200918293, 4.604094871349993, 3.249835541592126, 2.756385903670605)),
    ],
)
def test_seed_intervals_are_students_t(confidence: float, quantiles: tuple[float, ...]) -> None:
    for k, quantile in zip((2, 3, 5, 10, 30), quantiles, strict=True):
        rates = [0.5 + 1e-3 * (i - (k - 1) / 2) / k for i in range(k)]
        half = quantile * statistics.stdev(rates) / math.sqrt(k)
        found = seed_interval(rates, confidence)
        assert found is not None
        assert (found[1] - found[0]) / 2 == pytest.approx(half, rel=1e-9)


def test_seed_interval() -> None:
    assert seed_interval([]) is None
    assert seed_interval([0.9]) is None
    assert seed_interval([0.8, 0.8, 0.8]) is None
    assert seed_interval([0.4, 0.5, 0.6]) == pytest.approx((0.2516, 0.7484), abs=1e-4)  # 0.5 -+ 4.30265 * 0.1 / sqrt 3
    assert seed_interval([0.98, 0.94]) == (pytest.approx(0.96 - 12.7062 * 0.02, abs=1e-5), 1.0)  # clipped


def test_leaderboard_order_and_numbers(tmp_path: Path) -> None:
    rows = tables.leaderboard(load_run(make_run(tmp_path)))
    # trial 0 has the higher final rate (98/100) and yet stands second: final starts choose nothing
    assert [row.trial for row in rows] == [3, 0, 4, 5, 1, 2]
    assert [row.is_winner for row in rows] == [True, False, False, False, False, False]
    first = rows[0]
    assert first.final is not None
    assert (first.final.successes, first.final.episodes) == (96, 100)
    assert first.final.interval == pytest.approx((0.902, 0.984), abs=5e-4)
    assert first.final.mean_steps_success == pytest.approx((49 * 30 + 47 * 34) / 96)
    assert first.seed_interval == seed_interval([0.98, 0.94])
    assert {at.flow_steps: score.successes for at, score in first.per_sampling.items()} == {1: 78, 5: 96}
    assert first.params == {"lr": 1e-3, "horizon_length": 10, "use_fourier_features": True}
    assert rows[2].final is None
    assert rows[2].setting == SampleSetting(flow_steps=1)  # 16/20 at both: the cheaper one


def test_measured_twice_is_not_measured_on_more_starts(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    again = json.dumps(result(3, 0, "final", 3, 5, 45, 50))
    with (folder / "results.jsonl").open("a") as file:
        file.write(again + "\n" + again + "\n" + again[:40])  # a repeated row, and one that is being written
    final = tables.leaderboard(load_run(folder))[0].final
    assert final is not None
    assert (final.successes, final.episodes) == (45 + 47, 100)


def test_errors_are_counted_apart(tmp_path: Path) -> None:
    broken = Trial("completed", (1e-3, 10, True), {5: [[9, 9]]}, {5: [49, 47]}, 0.9, errors=4)
    run = load_run(make_run(tmp_path, [broken], winner=0))
    row = tables.leaderboard(run)[0]
    assert row.final is not None
    assert (row.final.value, row.final.errors, row.errors) == (0.96, 4, 4)
    assert "4 errors not counted" in tables.winner_line(run, [row])
    assert "Simulator errors: 4 on final starts" in report(tmp_path)[1].text
    only_errors = json.dumps(result(0, 0, "final", 1, 5, 0, 0, errors=50)) + "\n"
    (tmp_path / "results.jsonl").write_text(only_errors)
    assert tables.leaderboard(load_run(tmp_path))[0].final is None  # no rate at all, rather than 0 %
    assert "not measured on final starts" in report(tmp_path)[1].text


def test_fewer_episodes_than_asked_are_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        if line["trial"] == 3 and line["phase"] == "final" and line["seed"] == 1:
            line |= {"episodes": 48, "timeouts": 48 - line["successes"], "errors": 2}
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Winner, seed 1: 50 final starts were asked for, 48 gave a result." in report(folder)[1].text


def test_markdown_leaderboard(tmp_path: Path) -> None:
    path = write_leaderboard_md(make_run(tmp_path))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith(
        "> Winner: trial 3 at flow_steps=5: 96.0 % (95 % CI 90.2-98.4 %, 96/100 episodes on final starts, 2 seeds)"
    )
    assert "chosen on search starts" in lines[4]
    table = [line for line in lines if line.startswith("|")]
    assert "3 (winner)" in table[2]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<" not in path.read_text(encoding="utf-8")
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".tmp")] == []


def test_report_is_whole_and_self_contained(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    add_videos(folder, "lift_0_success.mp4")
    text, page = report(folder)
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "poster", "srcset", "action"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith(("#", "data:video/mp4;base64,")), (tag, name, value)
    assert text.count("plotly.js v") == 1
    assert "default-src 'none'" in text
    assert page.text.index("96.0\N{NO-BREAK SPACE}%") < page.text.index("Leaderboard", page.text.index("Trial 3 wins"))
    for needed in ("96/100", "lift-scripted-low_dim", "raybc.sweep sweeps/quickstart.yaml", "sha256:00ff", "OSC_POSE",
                   "6 min 52 s", "150 steps", "highest pooled success at the last evaluation"):  # fmt: skip
        assert needed in page.text, needed
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if attributes.get("class") == "plot")
    body = text[text.index("<tbody>") :]
    assert '<tr class="winner">' in body[:60]
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "video"]
    assert labels == ["Trial 3, seed 0, start 0: success"]


def test_figures_show_the_true_values(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path))
    rows = tables.leaderboard(run)
    data = figures.figure_data(run, rows)
    trials = {trial["n"]: trial for trial in data["trials"]}
    assert [point[:2] for point in trials[3]["curve"]] == [[500, 0.6], [1000, 0.9]]
    assert [point[2:4] for point in trials[3]["curve"]] == [[0.5, 0.7], [0.9, 0.9]]  # the seeds
    assert trials[3]["curve"][-1][4:] == [*(pytest.approx(e, abs=1e-6) for e in wilson_interval(18, 20)), 20]
    assert [[label, score, n] for label, score, n, _ in trials[3]["by_setting"]] == [
        ["flow_steps=1", 0.75, 20],
        ["flow_steps=5", 0.9, 20],
    ]
    assert [(bar["name"], bar["value"], bar["chosen"]) for bar in data["costs"]["bars"]] == [
        ("1", 0.78, False),
        ("5", 0.96, True),
    ]
    assert data["costs"]["bars"][1]["interval"] == pytest.approx((0.902, 0.984), abs=5e-4)
    assert data["run"]["axes"] == list(AXES)
    assert data["run"]["space"]["lr"] == {"low": 1e-4, "high": 1e-1, "log": True}
    assert data["run"]["space"]["horizon_length"] == {"values": [1, 5, 10]}
    assert (data["run"]["winner"], trials[2]["score"], trials[4]["final"]) == (3, None, None)
    assert data["losses"][3][0] == (10, pytest.approx(2 * math.exp(-10 / 400) + 0.35, rel=1e-4))


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for name in ("config.json", "timing.json", "winner.json"):
        value = json.loads((folder / name).read_text())
        value |= {key: HOSTILE for key in ("name", "command", "rule", "video_note", "bundle") if key in value}
        (folder / name).write_text(json.dumps(value))
    header, rest = (folder / "trials.csv").read_text().split("\n", 1)
    (folder / "trials.csv").write_text(header.replace("params.lr", "params.<script>alert(1)</script>") + "\n" + rest)
    text, page = report(folder)
    assert "alert('x')" in page.text
    assert "<script>alert" not in text
    assert "<img" not in text[: text.index("plotly.js v")]
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.figures) + 3
    embedded = text[text.index('<script type="application/json" id="data">') + 42 :]
    assert not set("<>&") & set(embedded[: embedded.index("</script>")])


def test_videos_are_linked_when_large_and_never_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")
    add_videos(folder, "a b.mp4", "c.mp4")
    monkeypatch.setattr(films, "VIDEO_LIMIT_BYTES", 10)
    _, page = report(folder)
    assert [attributes["src"] for tag, attributes in page.tags if tag == "video"] == [
        "videos/a%20b.mp4",
        "videos/c.mp4",
    ]
    assert "linked" in page.text
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "videos.json").write_text(json.dumps([{"file": "../secret.mp4"}, {"file": "videos/gone.mp4"}]))
    _, page = report(folder)
    assert not any(tag == "video" for tag, _ in page.tags)
    assert "../secret.mp4, videos/gone.mp4" in page.text


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


@pytest.mark.parametrize(
    ("trials", "winner", "damage", "expected"),
    [
        (TRIALS[3:4], 0, _remove(), "Trial 0 wins"),
        (TRIALS[:2], None, _remove(), "No winner: none was chosen (1 completed, 1 pruned)."),
        (TRIALS[2:3], None, _remove("results.jsonl"), "No winner: no trial completed (1 failed)."),
        ([], None, _remove("versions.json", "timing.json", "results.jsonl"), "No trial was started."),
        (TRIALS[4:5], 0, _remove("versions.json", "timing.json"), "took part in selection"),
        (TRIALS, 3, _remove("timing.json"), "6 trials are running or waiting"),
    ],
    ids=["one trial", "no winner", "only failures", "nothing", "no final", "no timing"],
)
def test_partial_runs(
    tmp_path: Path, trials: list[Trial], winner: int | None, damage: Callable[[Path], None], expected: str
) -> None:
    folder = make_run(tmp_path, trials, winner)
    damage(folder)
    assert expected in report(folder)[1].text
    assert write_leaderboard_md(folder).is_file()


def test_one_seed_has_no_interval_over_seeds(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, seeds=(0,)))
    row = tables.leaderboard(run)[0]
    assert row.seed_interval is None
    assert "49/50 episodes on final starts, 1 seed)." in tables.winner_line(run, [row])
    report(tmp_path)


def test_what_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no such folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config.json and no trials.csv"):
        load_run(tmp_path)
    assert run_main(lambda: main([str(tmp_path)])) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: expected the folder of a sweep run")
    folder = make_run(tmp_path / "run")
    assert run_main(lambda: main([str(folder)])) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    (folder / "results.jsonl").write_text('{"trial": 1}\n')
    with pytest.raises(UserError, match=r"results.jsonl, line 1"):
        load_run(folder)
    (folder / "results.jsonl").write_text(json.dumps(result(3, 0, "final", 1, 5, 9, 10) | {"timeouts": 0}) + "\n")
    with pytest.raises(UserError, match="do not add up"):
        load_run(folder)
    (folder / "winner.json").write_text('{"trial": 99}')
    (folder / "results.jsonl").write_text("")
    with pytest.raises(UserError, match="trial 99"):
        load_run(folder)
