"""MLflow with a database in a folder: what stands in the files stands in the copy."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from raybc.train.trackers import mlflow as mlflow_log
from raybc.train.trackers.mlflow import MlflowConfig
from raybc.types import UserError
from tests.helpers import read_table, run_train, stop_training_at, tiny_config

pytest.importorskip("mlflow")


def history(client: Any, run: str, column: str) -> dict[int, float]:
    points = client.get_metric_history(run, column)
    assert len({p.step for p in points}) == len(points), "no step stands twice"
    return {p.step: p.value for p in points}


def table(path: Path, column: str) -> dict[int, float]:
    return {int(r["step"]): float(r[column]) for r in read_table(path) if r.get(column)}


@pytest.mark.slow
def test_a_folder(ray_cpus: float, pointmass_demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds, stopped and gone on with: one run for each, with all rows, the recipe and the videos."""
    out, where = tmp_path / "run", tmp_path / "tracking"
    flags = ("--seeds", "0", "1", f"--mlflow={where}", "--mlflow_experiment=tests", "--video_episodes=1")
    with monkeypatch.context() as patch:
        stop_training_at(40, patch)
        assert run_train(pointmass_demos, out, *flags) == 130
    assert run_train(pointmass_demos, out, *flags, "--resume") == 0
    client = MlflowConfig(str(where), "tests")._client()
    experiment = client.get_experiment_by_name("tests")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    folders = sorted(out.glob("sd*"))
    assert sorted(runs) == [f.name for f in folders]
    for folder in folders:
        run = runs[folder.name]
        assert run.info.status == "FINISHED"
        assert run.data.tags["raybc.run_id"] == folder.name.split("_")[1]
        assert (run.data.params["lr"], run.data.params["seed"]) == ("0.003", str(int(folder.name[2:5])))
        for file, column in (("train.csv", "train/actor_loss"), ("eval.csv", "eval/success"), ("eval.csv", "episodes")):
            expected = table(folder / file, column)
            assert expected
            assert history(client, run.info.run_id, column) == expected
        videos = [a.path for a in client.list_artifacts(run.info.run_id, "videos/step_60")]
        assert [Path(v).suffix for v in videos] == [".mp4"]
        assert (where / "artifacts" / run.info.run_id / "artifacts" / videos[0]).is_file()
        said = (folder / "mlflow_url.txt").read_text()
        assert said.startswith(f"mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db (experiment tests, run ")


def start(plan: MlflowConfig, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    tracker = plan.start(folder, tiny_config(), "0123", 0)
    assert tracker is not None
    return tracker


def write(folder: Path, steps: range, end: str = "\n") -> None:
    rows = "\n".join(f"{step},{step / 8}" for step in steps)
    (folder / "train.csv").write_text(f"step,train/actor_loss\n{rows}{end}")


def test_rows_are_copied_once(tmp_path: Path) -> None:
    """Of a process that was killed before and after it copied; the row that is being written waits."""
    plan, folder = MlflowConfig(str(tmp_path / "tracking")), tmp_path / "run"
    first = start(plan, folder)
    write(folder, range(1, 1200), end="\n1200,0.")
    first.sync(at_once=True)
    again = start(plan, folder)
    assert again._run == first._run
    write(folder, range(1, 1300))
    again.close()
    got = history(again._client, again._run, "train/actor_loss")
    assert got == {step: step / 8 for step in range(1, 1300)}
    elsewhere = start(MlflowConfig(str(tmp_path / "other")), folder)
    elsewhere.close()
    assert history(elsewhere._client, elsewhere._run, "train/actor_loss") == got, "all of them, also the earlier"


def test_training_goes_on_without_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, folder = start(MlflowConfig(str(tmp_path / "tracking")), tmp_path / "run"), tmp_path / "run"
    error = tracker._exceptions.MlflowException("the server is away\nmore")

    def away(*arguments: Any, **more: Any) -> None:
        raise error

    write(folder, range(1, 3))
    with monkeypatch.context() as patch:
        for name in ("log_batch", "log_artifact", "set_terminated"):
            patch.setattr(tracker._client, name, away)
        tracker.sync(at_once=True)
        tracker.videos(2, [folder / "train.csv"])
        tracker.close()
    assert capsys.readouterr().out == "warning: --mlflow: the server is away; rows are copied later\n"
    tracker.close()
    assert history(tracker._client, tracker._run, "train/actor_loss") == {1: 0.125, 2: 0.25}


def test_what_cannot_work_is_said_first(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    MlflowConfig().check()
    for where, words in (
        (f"http://127.0.0.1:{free_port}", "127.0.0.1"),
        ("nothing://there", "nothing"),
    ):
        with pytest.raises(UserError, match=f"--mlflow {where}: .*{words}") as caught:
            MlflowConfig(where).check()
        assert "\n" not in str(caught.value)
    MlflowConfig(str(tmp_path / "tracking")).check()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert logging.getLogger("alembic").level == logging.WARNING


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"--mlflow: needs the package mlflow: pip install 'raybc\[mlflow\]'"):
        MlflowConfig("somewhere").check()
    assert mlflow_log.MARKS.keys() == set(mlflow_log.FILES)
