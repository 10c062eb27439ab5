"""`raybc data view`: its numbers are those of numpy on the same file, and its page holds whatever data hold."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc import cli
from raybc.data import formats, overview, stills, store
from raybc.data.__main__ import main
from raybc.data.labels import Label, labels_of
from raybc.data.normalize import Normalizer, hardly_move
from raybc.data.plan.files import save_plan
from raybc.data.scan import source_of
from raybc.data.select import returns
from raybc.data.videos import decode_image
from raybc.report.data import number
from tests.helpers import tiny_store
from tests.plans import tiny_plan

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plotly's code, which has five million characters of its own."""
    monkeypatch.setattr("raybc.report.data.get_plotlyjs", lambda: "")


def view(data: Path, out: Path, *flags: object, status: int = 0) -> str:
    """The page about `data`."""
    words = [str(word) for word in ("view", data, "--out", out, *flags)]
    assert cli.run_main(lambda: main(words)) == status
    return out.read_text(encoding="utf-8") if out.exists() else ""


def curves_in(page: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="curve-data">(.*?)</script>', page, flags=re.S)
    assert text is not None
    found: dict[str, Any] = json.loads(text[1])
    return found


def images_of(lengths: tuple[int, ...], size: tuple[int, ...] = (12, 16, 3)) -> np.ndarray:
    """Frames of one colour each, uint8 (N, *size), which tells the step."""
    steps = np.concatenate([np.arange(n) for n in lengths])
    return np.broadcast_to((10 + 9 * steps).astype(np.uint8)[:, None, None, None], (len(steps), *size)).copy()


def test_numbers_are_those_of_numpy(pointmass_demos: Path) -> None:
    found = overview.overview(source_of(str(pointmass_demos)))
    data = formats.read(pointmass_demos)
    np.testing.assert_array_equal(found.lengths_E, np.diff(data.episode_ends, prepend=0))
    np.testing.assert_allclose(found.returns_E, returns(data), rtol=1e-6)
    np.testing.assert_array_equal(found.about.success_E, data.success_E)
    assert {k: v.tolist() for k, v in found.about.splits.items()} == {k: v.tolist() for k, v in data.splits.items()}
    assert found.train.tolist() == data.splits["train"].tolist()
    in_train = np.repeat(np.isin(np.arange(40), data.splits["train"]), found.lengths_E)
    arrays = {"actions": data.actions_NA, "rewards": data.rewards_N[:, None]}
    arrays |= {f"obs/{name}": values for name, values in data.obs.items()}
    assert set(found.numbers) == set(arrays)
    for key, values in arrays.items():
        numbers, exact, fitted = found.numbers[key], values.astype(np.float64), values[in_train].astype(np.float64)
        for got, expected in (
            (numbers.mean_D, exact.mean(0)), (numbers.std_D, exact.std(0)), (numbers.min_D, exact.min(0)),
            (numbers.max_D, exact.max(0)), (numbers.training.mean, fitted.mean(0)),
            (numbers.training.q99, np.quantile(fitted, 0.99, axis=0)),
        ):  # fmt: skip
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
        for d in range(values.shape[1]):
            counts = np.histogram(exact[:, d], overview.BINS, (exact[:, d].min(), exact[:, d].max()))[0]
            np.testing.assert_array_equal(numbers.counts_DB[d], counts)
        low, high = np.quantile(fitted, (0.01, 0.99), axis=0)
        np.testing.assert_allclose(numbers.outside_D, ((fitted < low) | (fitted > high)).mean(0), atol=1e-9)
        for kind in overview.KINDS:
            mapped = Normalizer.fit(values[in_train], kind).apply(values[in_train])  # type: ignore[arg-type]
            np.testing.assert_allclose(numbers.mapped[kind].low_D, mapped.min(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(numbers.mapped[kind].high_D, mapped.max(0), rtol=1e-4, atol=1e-5)
    assert [curve.episode for curve in found.curves] == list(range(40))
    for curve in found.curves:
        rows = slice(int(data.episode_starts[curve.episode]), int(data.episode_ends[curve.episode]), curve.stride)
        np.testing.assert_array_equal(curve.values["obs/state"], data.obs["state"][rows])
        np.testing.assert_array_equal(curve.values["actions"], data.actions_NA[rows])


def test_what_normalisation_makes_of_odd_dimensions(tmp_path: Path) -> None:
    """A dimension that never changes, one that hardly moves, and an outlier, as training treats them."""
    rng = np.random.default_rng(0)
    arm = rng.normal(size=(200, 4)).astype(np.float32)
    arm[:, 1], arm[:, 2] = 0.25, 5 + 1e-5 * arm[:, 2]
    arm[7, 3] = 60.0
    data = tiny_store((120, 80), obs={"arm": arm})
    store.write_store(tmp_path / "a", data)
    numbers = overview.overview(source_of(str(tmp_path / "a"))).numbers["obs/arm"]
    assert numbers.mapped["mean_std"].constant_D.tolist() == [False, True, False, False]
    assert numbers.hardly_D.tolist() == hardly_move(arm.min(0), arm.max(0), [4]).tolist() == [False, False, True, False]
    used = Normalizer.fit(arm, "mean_std").with_floor(arm.min(0), arm.max(0), ["mean_std"] * 4, [4]).apply(arm)
    np.testing.assert_allclose(numbers.mapped["mean_std"].high_D, used.max(0), rtol=1e-4)
    assert numbers.counts_DB[1].max() == 200
    page = view(tmp_path / "a", tmp_path / "a.html")
    for words in (">constant<", ">hardly moves<", ">outliers, 14 std<", "<td>0</td>"):
        assert words in page


def test_a_page_is_whole_and_says_what_it_shows(pointmass_demos: Path, tmp_path: Path, capsys: Capture) -> None:
    page = view(pointmass_demos, tmp_path / "page.html")
    said = capsys.readouterr().out
    assert said.startswith(f"reading {pointmass_demos} (robomimic)\n")
    assert f"findings: 0 errors, 0 warnings\npage: {tmp_path / 'page.html'} (" in said
    data = formats.read(pointmass_demos)
    steps = f"{len(data.actions_NA):,}"
    for words in (
        f"Histograms and numbers of all {steps} steps; curves of all 40 episodes.", "No faults were found",
        "40, 40 successful (100.0 %)", "PointMass 1", "state: 4", ">train<", f"data verify {pointmass_demos} --images",
        f"mean {number(float(data.obs['goal'][:, 1].mean(dtype='f8')))}",
    ):  # fmt: skip
        assert words in page, words
    assert not re.search(r'(src|href)="(?!data:|#)', page), "nothing is loaded"
    found = curves_in(page)
    assert [key["name"] for key in found["keys"]] == ["actions", "goal", "state", "rewards"]
    episode = found["episodes"][3]
    values = np.frombuffer(base64.b64decode(episode["values"][0]), "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(values, data.actions_NA[data.episode_starts[3] : data.episode_ends[3]])
    assert episode["name"].startswith(f"episode 3, {len(values)} steps, success, return ")
    assert view(pointmass_demos, tmp_path / "page.html"), "its own page is replaced"
    (tmp_path / "thesis.html").write_text("<h1>mine</h1>")
    assert view(pointmass_demos, tmp_path / "thesis.html", status=2) == "<h1>mine</h1>"
    assert "thesis.html: exists, and raybc did not write it; nothing was deleted" in capsys.readouterr().err


def test_large_data_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves and dimensions are bounded, histograms are of everything, and failures are among the curves."""
    monkeypatch.setattr(overview, "CURVE_NUMBERS", 2000)
    monkeypatch.setattr(overview, "MAX_DIMENSIONS", 3)
    lengths = (150,) * 60
    rng = np.random.default_rng(0)
    success = np.ones(60, bool)
    success[[7, 33]] = False
    data = tiny_store(lengths, obs={"wide": rng.normal(size=(9000, 5)).astype("f4")}, success_E=success)
    store.write_store(tmp_path / "a", data)
    found = overview.overview(source_of(str(tmp_path / "a")))
    assert sum(v.size for c in found.curves for v in c.values.values()) <= 6 * 100 * 6
    assert len(found.curves) == 6
    assert {c.stride for c in found.curves} == {2}
    assert found.numbers["obs/wide"].counts_DB.shape == (3, overview.BINS)
    assert found.numbers["obs/wide"].counts_DB.sum() == 3 * 9000
    page = view(tmp_path / "a", tmp_path / "a.html")
    assert "Histograms and numbers of all 9,000 steps; curves of 6 of 60 episodes, thinned." in page
    assert "The first 3 of 5 dimensions." in page
    assert any(not e["success"] for e in curves_in(page)["episodes"])
    assert overview.choose(60, 8, success).tolist() == sorted({7, 33, *overview.choose(60, 8, success).tolist()})
    assert overview.choose(3, 40, None).tolist() == [0, 1, 2]
    assert len(overview.choose(1000, 40, np.arange(1000) < 3)) == 40


@pytest.mark.parametrize("format", ["store", "robomimic", "lerobot", "episode_ends"])
def test_frames_of_a_few_episodes(format: str, tmp_path: Path) -> None:
    """The same in every format, from videos as from arrays, and reduced."""
    lengths = (20, 1, 14)
    data = tiny_store(lengths, obs={"eye": images_of(lengths), "arm": tiny_store(lengths).obs["arm"]})
    path = tmp_path / ("a.npz" if format == "episode_ends" else "a.hdf5" if format == "robomimic" else "a")
    formats.get(format).write_store(path, data)
    source = source_of(str(path))
    found = stills.stills(source, np.array(lengths), np.arange(3))
    assert found.sizes == {"eye": (12, 16, 3)}
    assert [[s.step for s in found.frames[e]["eye"]] for e in range(3)] == [
        [0, 3, 5, 8, 11, 14, 16, 19], [0], [0, 2, 4, 6, 7, 9, 11, 13],
    ]  # fmt: skip
    for episode in range(3):
        for still in found.frames[episode]["eye"]:
            image = decode_image(still.jpeg, "still")
            assert image.shape == (12, 16, 3)
            assert abs(float(image.mean()) - (10 + 9 * still.step)) < 3
    page = view(path, tmp_path / "page.html")
    assert page.count("data:image/jpeg;base64,") == 17
    assert "images of all 3 episodes" in page
    assert "data:image" not in view(path, tmp_path / "page.html", "--no-images")


def test_only_the_first_episodes_of_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stills, "MAX_BYTES", 1000)
    lengths = (4,) * 9
    formats.get("robomimic").write_store(tmp_path / "a.hdf5", tiny_store(lengths, obs={"eye": images_of(lengths)}))
    read = stills.stills(source_of(str(tmp_path / "a.hdf5")), np.array(lengths), np.arange(9))
    assert sorted(read.frames) == [0, 1, 2, 3, 4, 5]


def test_images_that_cannot_be_read_leave_the_rest(human_pusht: Path, tmp_path: Path, capsys: Capture) -> None:
    """The published PushT without its video; named images are refused."""
    page = view(human_pusht, tmp_path / "a.html")
    assert "note: no images are shown: " in capsys.readouterr().out
    assert "No images are shown: " in page
    assert "done_early" in page
    assert "motor_1" in page
    assert "Push the T-shaped block" in page
    assert view(human_pusht, tmp_path / "b.html", "--image_keys", "image", status=2) == ""
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": (1, 1)},
        {"lengths": (6,)},
        {"obs": {}},
        {"obs": {"eye": images_of((5, 9, 3))}},
        {"rewards_N": np.zeros(17, "f4")},
        {"success_E": np.zeros(3, bool)},
        {"tasks": ("push", "", "push")},
    ],
    ids=["one step", "one episode", "no observations", "images only", "no rewards", "no success", "instructions"],
)
def test_odd_data(changes: Mapping[str, Any], tmp_path: Path) -> None:
    data = tiny_store(**changes)
    store.write_store(tmp_path / "a", data)
    page = view(tmp_path / "a", tmp_path / "a.html")
    assert len(curves_in(page)["episodes"]) == data.num_episodes
    assert f"all {len(data.actions_NA)} steps" in page


def test_rewards_that_nobody_recorded_are_not_shown(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", action=np.eye(6, 2), state=np.eye(6, 3), episode_ends=[2, 6])
    page = view(tmp_path / "a.npz", tmp_path / "a.html")
    assert "No rewards are recorded, so there are no returns." in page
    assert "rewards" not in [key["name"] for key in curves_in(page)["keys"]]


def test_bad_data_are_refused_as_elsewhere(tmp_path: Path, capsys: Capture) -> None:
    """One line, and no page."""
    formats.get("robomimic").write_store(tmp_path / "nan.hdf5", tiny_store())
    with h5py.File(tmp_path / "nan.hdf5", "a") as file:
        file["data/demo_1/obs/arm"][2] = np.nan
    (tmp_path / "text.hdf5").write_text("hello")
    for data, words in (
        ("nan.hdf5", "nan.hdf5: arm: expected finite numbers, got nan or inf in episode 1"),
        ("text.hdf5", "text.hdf5: "),
        ("gone.hdf5", "gone.hdf5: expected demonstrations, found no such file or folder"),
    ):
        assert view(tmp_path / data, tmp_path / "page.html", status=2) == ""
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
    formats.get("robomimic").write_store(tmp_path / "odd.hdf5", tiny_store())
    with h5py.File(tmp_path / "odd.hdf5", "a") as file:
        del file["data/demo_1/obs/arm"]
    assert view(tmp_path / "odd.hdf5", tmp_path / "page.html", status=2) == ""
    page = view(tmp_path / "odd.hdf5", tmp_path / "page.html", "--skip_bad_episodes")
    assert "all 8 steps; curves of all 2 episodes" in page
    assert "Left out: demo_1" in page


def test_a_plan_of_the_data(tmp_path: Path, capsys: Capture) -> None:
    lengths = (20, 31, 12, 25)
    store.write_store(tmp_path / "a", tiny_store(lengths))
    save_plan(tiny_plan(lengths), tmp_path / "plan")
    page = view(tmp_path / "a", tmp_path / "a.html", "--plan", tmp_path / "plan")
    assert "Sampling plan: what may be drawn, and how often" in page
    assert "spec-heatmap" in page
    assert "spec-heatmap" not in view(tmp_path / "a", tmp_path / "a.html")
    save_plan(tiny_plan((20, 12, 31, 25)), tmp_path / "moved")
    save_plan(tiny_plan((20, 31)), tmp_path / "other")
    for name, words in (
        ("moved", "its episodes begin and end elsewhere than those of the data; build it for these data"),
        ("other", "expected a plan of 88 transitions, got one of 51"),
        ("none", "expected a sampling plan"),
    ):
        assert view(tmp_path / "a", tmp_path / "b.html", "--plan", tmp_path / name, status=2) == ""
        assert words in capsys.readouterr().err


def test_names_are_text(tmp_path: Path) -> None:
    """Whatever keys, splits and instructions are called, nothing of it becomes markup."""
    evil = "</script><img src=x onerror=alert(1)>"
    data = tiny_store(obs={f"a{evil}": tiny_store().obs["arm"]}, tasks=(evil,) * 3, splits={f"s{evil}": [0]})
    store.write_store(tmp_path / "a", data)
    page = view(tmp_path / "a", tmp_path / "a.html")
    assert "<img src=x" not in page
    assert curves_in(page)["keys"][1]["name"] == f"a{evil}"
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_names_and_units(human_lift: Path, human_pusht: Path) -> None:
    found = overview.overview(source_of(str(human_lift)))
    labels = labels_of(found.source, {k: v.size for k, v in found.numbers.items()}, found.about.env_args)
    assert labels["obs/robot0_eef_pos"] == [Label("x", "m"), Label("y", "m"), Label("z", "m")]
    assert labels["actions"][3:] == [
        Label("rotation x", "1 = 0.5 rad"), Label("rotation y", "1 = 0.5 rad"), Label("rotation z", "1 = 0.5 rad"),
        Label("gripper", "-1 open, 1 closed"),
    ]  # fmt: skip
    assert labels["obs/object"] == [Label()] * 10
    assert labels_of(source_of(str(human_pusht)), {"obs/state": 2, "actions": 3}, {}) == {
        "obs/state": [Label("motor_0"), Label("motor_1")], "actions": [Label()] * 3,
    }  # fmt: skip


def test_numbers_as_people_write_them() -> None:
    texts = {0.0: "0", 1.0: "1", 0.12345: "0.1235", 8.34e-5: "8.3e-5", 2e-7: "2e-7", 12345.6: "12,346", -0.5: "-0.5"}
    assert {value: number(value) for value in texts} == texts
