"""Uploading to the Hugging Face Hub: here a server of our own that speaks its HTTP."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import raybc
from raybc.cli import run_main
from raybc.envs.pointmass import PointMassEnv
from raybc.export.__main__ import main
from raybc.export.eval_results import known_benchmark
from raybc.types import SampleSetting
from tests.helpers import pointmass_bundle
from tests.test_report import make_run


class Hub(ThreadingHTTPServer):
    """Keeps what it is asked, and the files of each commit."""

    refuses = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/lift", "sha": "0" * 40, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers.get("content-length", 0)))
        hub.asked.append((self.path, self.headers.get("authorization", "")))
        if hub.refuses:
            self._answer(403, {"error": "you may not write here"})
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._answer(200, {"url": f"{hub.url}/me/lift", "id": "me/lift"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    hub.messages.append(line["value"]["summary"])
                else:
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"commitUrl": f"{hub.url}/me/lift/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self._answer(404, {"error": self.path})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # read at import, maybe by another test
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pointmass_bundle().save(tmp_path / "bundle")
    return tmp_path / "bundle"


def run(*words: str | Path) -> int:
    return run_main(lambda: main([str(word) for word in words]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_what_is_uploaded_is_what_a_dry_run_writes(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", tmp_path / "dry", "--flow_steps", "3") == 0
    assert hub.asked == []
    files = contents(tmp_path / "dry")
    assert sorted(files) == ["README.md", "policy/bundle.json", "policy/policy.safetensors", "winner.json"]
    assert run(folder, "--push_to_hub", "me/lift", "--flow_steps", "3") == 0
    assert f"uploaded: {hub.url}/me/lift/commit/1111" in capsys.readouterr().out
    assert hub.files == files
    assert (hub.created[0]["name"], hub.created[0]["organization"]) == ("lift", "me")
    assert hub.created[0]["visibility"] == "private"
    assert {header for _, header in hub.asked} == {"Bearer hf_not_a_token"}
    assert hub.messages == [f"Policy of run {pointmass_bundle().run_id}, step 300"]
    assert run(folder, "--push_to_hub", "me/lift", "--public") == 0
    assert hub.created[1]["visibility"] == "public"


def test_the_card_says_how_to_load_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that works."""
    dry = tmp_path / "dry"
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", dry, "--flow_steps", "3") == 0
    front, text = card_of(dry)
    assert (front["library_name"], "model-index" in front) == ("raybc", False)
    assert '```bash\npip install "raybc[hub]"\n```' in text
    assert "It was not evaluated." in text
    assert "| `state` | 4 | float32 | physical units of the training data |" in text
    assert "| `--hidden_width` | `64` |" in text
    assert "simulator: pointmass" in text
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    module = type(sys)("huggingface_hub")
    module.snapshot_download = lambda name: {"me/lift": dry}[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    names: dict[str, Any] = {"obs": PointMassEnv().reset(seed=0)[0]}
    exec(code, names)
    assert names["policy"].setting.flow_steps == 3
    np.testing.assert_array_equal(names["action"], raybc.load(folder, flow_steps=3).act(names["obs"]))


def test_a_sweep_quotes_its_final_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = make_run(tmp_path / "sweep")
    pointmass_bundle().save(sweep / "winner")
    assert run(sweep, "--push_to_hub", "me/lift", "--dry_run", "dry") == 0
    front, text = card_of(tmp_path / "dry")
    line = re.search(r"Winner: trial 3 at flow_steps=5: ([\d.]+) % \(95 % CI [\d.]+-[\d.]+ %, \d+/100 episodes", text)
    assert line is not None
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert round(100 * metric["value"], 1) == float(line[1])
    assert "The winner was chosen on search starts" in text
    assert "simulator: robosuite | 1.5.2" in text
    assert json.loads((tmp_path / "dry/winner.json").read_text())["setting"]["flow_steps"] == 5
    assert run(sweep, "--push_to_hub", "me/lift", "--dry_run", "other", "--flow_steps", "1") == 0
    assert "model-index" not in card_of(tmp_path / "other")[0], "that is the rate of another setting"


def test_a_training_run_is_quoted_with_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "run"
    dataclasses.replace(pointmass_bundle(), step=200).save(run_folder / "checkpoint_200")
    with (run_folder / "eval.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("step", "eval/success", "wilson_low", "wilson_high", "episodes"))
        writer.writerow((200, 0.9, 0.596, 0.982, 10))
    assert run(run_folder, "--push_to_hub", "me/lift", "--dry_run", "dry") == 0
    front, text = card_of(tmp_path / "dry")
    assert "90.0 % of 10 episodes on search starts (95 % interval 59.6-98.2 %)" in text
    assert "it was not measured on final starts" in text
    assert "model-index" not in front
    note = ".eval_results/raybc.yaml is not written: this policy has no score on final starts with this sample setting"
    said = " ".join(capsys.readouterr().out.split())
    assert f"note: {note}; `python -m raybc.rollout {run_folder}` measures one" in said


def measurement(folder: Path, **changes: Any) -> Path:
    bundle = pointmass_bundle()
    row = dataclasses.asdict(bundle.config.sample_setting) | {
        "episodes": 100, "success_rate": 0.93, "successes": 93, "wilson_low": 0.8625, "wilson_high": 0.9657,
        "mean_return": 0.93, "failure_counts": {"timeout": 4, "exception": 1, "other": 3},
    }  # fmt: skip
    other = {**row, **dataclasses.asdict(SampleSetting(9)), "success_rate": 0.5}
    found = {
        "run_id": bundle.run_id, "step": 300, "starts": "final", "first": 0, "task": "pointmass", "max_steps": 80,
        "until_halfwidth": None, "settings": [other, row],
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**found, **changes}))
    return folder


def test_a_measurement_is_quoted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that raybc.rollout left where it leaves them, or the one that is named; never another policy's."""
    bundle = pointmass_bundle()
    measurement(tmp_path / f"runs/rollouts/{bundle.run_id}_step_300_final")
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", "dry") == 0
    front, text = card_of(tmp_path / "dry")
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.93
    label = bundle.config.sample_setting.label()
    assert f"| {label} | 93.0 % | 86.2-96.6 % | 93/100 | 0.93 | - | 1 |" in text
    assert "on the final starts from 0 on of `pointmass`, at most 80 steps each" in text
    search = measurement(tmp_path / "search", starts="search")
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", "two", "--measured", search) == 0
    assert "model-index" not in card_of(tmp_path / "two")[0], "search starts choose, so they are not quoted"
    other = measurement(tmp_path / "other", step=7)
    capsys.readouterr()
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", "three", "--measured", other) == 2
    assert f"expected an evaluation of run {bundle.run_id}, step 300; got run" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_scores_are_written_as_the_hub_reads_them(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Hub's own package reads them, and they are uploaded; without a data set on the Hub there is no file."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    measured = ("--measured", measurement(tmp_path / "final"))
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", "none", *measured) == 0
    assert ".eval_results/raybc.yaml is not written: no data set on the Hub is known for" in capsys.readouterr().out
    assert not (tmp_path / "none/.eval_results").exists()
    flags = ("--push_to_hub", "me/lift", "--benchmark", "us/points:easy", *measured)
    assert run(folder, *flags, "--dry_run", "dry") == 0
    text = (tmp_path / "dry/.eval_results/raybc.yaml").read_text()
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("us/points", "easy", 0.93)
    assert entry.source_url == "https://huggingface.co/me/lift"
    assert entry.notes.startswith(
        "success rate of 100 episodes on starts that no choice was made on, 95 % interval 86.2-96"
    )
    assert huggingface_hub.eval_result_entries_to_yaml([entry]) == yaml.safe_load(text)
    assert run(folder, *flags, "--dry_run", "dry", "--overwrite") == 0, "it is its own folder"
    assert run(folder, *flags) == 0
    assert hub.files[".eval_results/raybc.yaml"].decode() == text
    search = measurement(tmp_path / "search", starts="search")
    assert run(folder, *flags[:4], "--dry_run", "two", "--measured", search) == 0
    assert not (tmp_path / "two/.eval_results").exists(), "search starts choose, so they are not quoted"
    assert run(folder, "--push_to_hub", "me/lift", "--benchmark", "points", "--dry_run", "x") == 2
    assert "--benchmark: expected a data set on the Hub, OWNER/NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env_name", "expected"),
    [
        ("lift-ph-low_dim", "robomimic/robomimic_datasets"),
        ("square_pixels@84x84", "robomimic/robomimic_datasets"),
        ("libero_object-3", "yifengzhu-hf/LIBERO-datasets"),
        ("pusht", "lerobot/pusht"),
        ("pointmass", ""),
        ("cube-single-singletask-v0", ""),
    ],
)
def test_data_sets_that_stand_for_tasks(env_name: str, expected: str) -> None:
    assert known_benchmark(env_name) == expected


def test_what_is_refused(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.tex").touch()
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", "mine") == 0
    for words, message in (
        (("--push_to_hub", "lift"), "--push_to_hub: expected OWNER/NAME, got 'lift'"),
        (("--push_to_hub", "../x"), "--push_to_hub: expected OWNER/NAME, got '../x'"),
        (("--push_to_hub", "me/lift", "--dry_run", "mine"), "mine: exists; replace it with --overwrite"),
        (("--push_to_hub", "me/lift", "--dry_run", "there", "--overwrite"), "there: exists, and --dry_run did not"),
        (("--push_to_hub", "me/lift", "--measured", "there"), "--measured: expected a folder with metrics.json"),
        (("--onnx", "--dry_run", "x"), "--dry_run: belongs to --push_to_hub"),
    ):
        assert run(folder, *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    hub.refuses = True
    assert run(folder, "--push_to_hub", "me/lift") == 1
    error = capsys.readouterr().err
    assert "failed: --push_to_hub me/lift: " in error
    assert "you may not write here" in error
    assert "hf_not_a_token" not in error
    assert error.count("\n") == 1
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(folder, "--push_to_hub", "me/lift") == 1
    assert "failed: --push_to_hub me/lift: " in capsys.readouterr().err


def test_no_account_and_no_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert run(folder, "--push_to_hub", "me/lift") == 2
    assert "no account is known here; run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(folder, "--push_to_hub", "me/lift") == 2
    assert "needs the package huggingface_hub: pip install 'raybc[hub]'" in capsys.readouterr().err
    assert run(folder, "--push_to_hub", "me/lift", "--dry_run", tmp_path / "dry") == 0, "which needs no package"
