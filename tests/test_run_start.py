"""--overwrite: a whole run or nothing is replaced, and never what raybc did not make."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import raybc
from raybc import cli
from raybc.config.command import parse_run
from raybc.demos.__main__ import main as demos
from raybc.files import expanded, remove, replacing, write_json
from raybc.rollout.folder import EvaluationFolder
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.run_start import Run, check_folder, check_replaceable, starting
from raybc.types import SampleSetting, UserError
from tests.helpers import pointmass_bundle


def training(path: Path) -> TrainingFolder:
    """The folder of a finished training run."""
    run = TrainingFolder(path)
    bundle = run.checkpoint(5)
    bundle.mkdir(parents=True)
    (bundle / "policy.safetensors").write_bytes(b"weights")
    for link in (run.latest, run.best, run.final_model):
        link.symlink_to(bundle.name)
    write_json(run.flags, {"run_id": "abc"})
    return run


def sweep(path: Path) -> SweepFolder:
    run = SweepFolder(path)
    (run.trial(0) / "seed_0").mkdir(parents=True)
    write_json(run.config, {"search": {}, "train": {}})
    return run


def evaluation(path: Path) -> EvaluationFolder:
    run = EvaluationFolder(path)
    run.videos(SampleSetting(10)).mkdir(parents=True)
    write_json(run.request, {"run_id": "abc"})
    return run


def contents(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder, apart from locks."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file() and path.name != ".lock":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.parametrize("make", [training, sweep, evaluation])
def test_a_run_is_replaced(tmp_path: Path, make: Callable[[Path], Run]) -> None:
    run = make(tmp_path / "run")
    with starting(run, overwrite=True) as begun:
        write_json(run.path / "new.json", 1)
        begun()
    assert list(contents(run.path)) == ["new.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("make", [training, sweep, evaluation])
@pytest.mark.parametrize("what", ["refused", "Ctrl-C"])
def test_a_run_survives_what_never_began(tmp_path: Path, make: Callable[[Path], Run], what: str) -> None:
    run = make(tmp_path / "run")
    before = contents(run.path)
    error = UserError if what == "refused" else KeyboardInterrupt

    def refused() -> None:
        with starting(run, overwrite=True):
            (run.path / "half").mkdir()
            (run.path / "half" / "new.json").touch()
            raise error("no")

    with pytest.raises(error):
        refused()
    assert contents(run.path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_new_folder_goes_when_its_run_is_refused(tmp_path: Path) -> None:
    run = TrainingFolder(tmp_path / "a" / "run")
    with pytest.raises(UserError), starting(run, overwrite=False):
        raise UserError("no")
    assert not run.path.exists()
    check_folder(run, run.flags, "False", overwrite=False)


def test_after_a_kill_the_old_run_is_named(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    aside = tmp_path / ".run.0123abcd.replaced"
    os.rename(run.path, aside)  # as far as a killed process came
    run.path.mkdir()
    for resume, overwrite in (("False", False), ("False", True), ("auto", False)):
        with pytest.raises(UserError, match=f"mv {aside} {run.path}"):
            check_folder(run, run.flags, resume, overwrite)  # type: ignore[arg-type]
    write_json(run.flags, {"run_id": "new"})
    with starting(run, overwrite=False) as begun:
        begun()
    assert not aside.exists(), "it was being deleted when the process was killed"


@pytest.mark.parametrize("make", [training, sweep, evaluation])
def test_other_folders_are_refused(tmp_path: Path, make: Callable[[Path], Run]) -> None:
    for name, fill in {
        "thesis": lambda p: (p / "thesis").mkdir(),
        "other_config": lambda p: write_json(p / "config.json", {"hidden_size": 3}),
        "other_flags": lambda p: write_json(p / "flags.json", {"fast": True}),
        "only_hidden": lambda p: (p / ".git").mkdir(),
        "runs": lambda p: training(p / "sd000_abc") and sweep(p / "sweep"),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        fill(folder)
        before = contents(folder)
        run = type(make(tmp_path / f"for_{name}"))(folder)
        with pytest.raises(UserError, match=r"--overwrite replaces a .*nothing was deleted: choose another --out"):
            check_folder(run, folder / "flags.json", "False", overwrite=True)
        with pytest.raises(UserError, match="choose another --out"), starting(run, overwrite=True):
            pass
        with pytest.raises(UserError, match="expected a new folder"):
            check_folder(run, folder / "flags.json", "False", overwrite=False)
        assert contents(folder) == before


@pytest.mark.parametrize("make", [training, sweep, evaluation])
def test_what_others_put_into_a_run_is_kept(tmp_path: Path, make: Callable[[Path], Run]) -> None:
    run = make(tmp_path / "run")
    (run.path / "notes.txt").write_text("mine")
    before = contents(run.path)
    with pytest.raises(UserError, match=r"also holds notes\.txt, which raybc did not write"):
        check_replaceable(run)
    assert contents(run.path) == before


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    sweep(tmp_path / "run")
    with pytest.raises(UserError, match=r"--overwrite replaces a training run, and .* is none"):
        check_replaceable(TrainingFolder(tmp_path / "run"))


def test_a_pack_is_replaced_but_not_the_folder_around_runs(tmp_path: Path) -> None:
    pack = TrainingFolder(tmp_path / "pack_of_mine")
    for seed in (0, 1):
        training(pack.path / f"sd00{seed}_abc")
    check_replaceable(pack)
    group = TrainingFolder(tmp_path / "halfcheetah")
    os.rename(pack.path, group.path)
    with pytest.raises(UserError, match="is none"):
        check_replaceable(group)
    write_json(group.pack, {})
    check_replaceable(group)


def test_data_and_working_directory_are_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path / "run")
    data = run.checkpoint(5) / "demos.hdf5"
    data.touch()
    elsewhere = tmp_path / "link.hdf5"
    elsewhere.symlink_to(data)
    for path in (data, elsewhere, run.path):
        with pytest.raises(UserError, match=r"which this command reads, is inside .*choose another --out"):
            check_replaceable(run, [path])
    check_replaceable(run, [tmp_path / "demos.hdf5"])
    monkeypatch.chdir(run.checkpoint(5))
    with pytest.raises(UserError, match="holds the working directory"):
        check_replaceable(TrainingFolder(Path("..")))


def test_links(tmp_path: Path) -> None:
    """Links in a run are deleted, not what they lead to; a link to a run stays one."""
    run = training(tmp_path / "disk" / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "film.mp4").touch()
    run.videos.symlink_to(outside)
    link = TrainingFolder(tmp_path / "link")
    link.path.symlink_to(run.path)
    with starting(link, overwrite=True) as begun:
        write_json(link.flags, {"run_id": "new"})
        begun()
    assert link.path.is_symlink()
    assert list(contents(run.path)) == ["flags.json"]
    assert (outside / "film.mp4").exists()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which does not exist"):
        check_replaceable(TrainingFolder(tmp_path / "broken"))


def test_a_folder_that_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path / "run")
    before = contents(run.path)

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", busy)
        with pytest.raises(UserError, match=r"cannot be moved away \(Device or resource"):
            starting(run, overwrite=True).__enter__()
    assert contents(run.path) == before


def test_damaged_runs_are_replaced(tmp_path: Path) -> None:
    """Messages about damage say --overwrite, so it must help."""
    run = training(tmp_path / "run")
    run.flags.write_text("{")
    check_replaceable(run)
    swept = sweep(tmp_path / "sweep")
    swept.config.unlink()
    swept.ledger.touch()
    check_replaceable(swept)


def test_remove_and_replacing_spare_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path / "kept")
    remove(tmp_path / "one")
    with replacing(tmp_path / "two") as temporary:
        temporary.mkdir()
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / "two").is_symlink()


def test_demonstrations_of_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data")["actions"] = np.zeros(3)
    before = path.read_bytes()
    assert cli.run_main(lambda: demos(["pointmass", "--episodes=2", f"--out={path}", "--overwrite"])) == 2
    assert "--overwrite replaces demonstrations that raybc recorded" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_home_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raybc.rollout.__main__ import Args
    from raybc.rollout.command import policy_of
    from raybc.train.__main__ import Args as TrainArgs

    monkeypatch.setenv("HOME", str(tmp_path))
    args = cli.parse(Args, ["~/run", "--out=~/x"], "raybc.rollout", "")
    assert args.out == tmp_path / "x"
    with pytest.raises(UserError, match=f"{tmp_path}/run: "):
        policy_of(args)
    with pytest.raises(UserError, match="--out: ~nobody_at_all/x: there is no home folder"):
        cli.parse(Args, ["run", "--out=~nobody_at_all/x"], "raybc.rollout", "")
    assert expanded("a/~") == Path("a/~")
    (tmp_path / "run.yaml").write_text("lr: 0.5")
    config, _ = parse_run(TrainArgs, ["--config=~/run.yaml"], "raybc.train", "")
    assert config.lr == 0.5
    pointmass_bundle().save(tmp_path / "bundle")
    assert raybc.load("~/bundle").bundle.step == pointmass_bundle().step
