"""Environments of simulators, without building one: what there is of them, and what is said of those that fail."""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from raybc.cli import run_main
from raybc.cluster.nodes import NodeAnswer
from raybc.doctor.machine import check_facts, facts
from raybc.doctor.running import equal_environments
from raybc.env import Environment
from raybc.env.__main__ import main
from raybc.env.environment import INSIDE, MANIFEST, read_manifest, source, write_manifest
from raybc.env.known import find, statuses
from raybc.registry import get_task
from raybc.rollout.worker_slots import WorkerSlot
from raybc.types import UserError

MODULE = """
from raybc.env import Environment
from raybc.envs.base import Task

ENVIRONMENT = Environment("toy_sim", packages=("numpy==2.3.5",))


def make(render):
    import packages_of_a_simulator


TASK = Task("toy_sim:TASK", "toy", make, 10, ("state",), 10.0, environment=ENVIRONMENT)


def function(render_mode=None):
    import packages_of_a_simulator


function.environment = ENVIRONMENT
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The environment of a module of the user's, in an empty home."""
    (tmp_path / "toy_sim.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_sim", raising=False)
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    return find("toy_sim")


def complete(environment: Environment) -> Path:
    """As if it had been built, with this process's interpreter."""
    python = environment.folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    write_manifest(environment.folder, environment, {}, 12)
    return python


def test_a_complete_environment_is_used(toy: Environment) -> None:
    assert toy.status().state == "missing"
    python = complete(toy)
    assert toy.status().state == "complete"
    assert toy.require() == python
    assert toy.key == toy.folder.name
    runtime = toy.runtime_env()
    assert runtime["py_executable"] == str(python)
    assert runtime["env_vars"][INSIDE] == "toy_sim"
    assert pickle.loads(pickle.dumps(toy)) == toy


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("missing", "missing"),
        ("interrupted", "half-built (a build was interrupted)"),
        ("no interpreter", "half-built (its interpreter is gone)"),
        ("other Python", f"built for Python 3.9.1, this is Python {platform.python_version()}"),
        ("other packages", "built for other packages (without numpy==2.3.5; with numpy==2.0.0)"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_command(
    toy: Environment, state: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "interrupted":
        (toy.folder.parent / f".{toy.folder.name}.0123abcd.tmp" / "bin").mkdir(parents=True)
    elif state == "no interpreter":
        complete(toy).unlink()
    elif state == "other Python":
        with monkeypatch.context() as patch:
            patch.setattr(platform, "python_version", lambda: "3.9.1")
            complete(toy)
    elif state == "other packages":
        complete(Environment("toy_sim", ("numpy==2.0.0",)))
    line = f"environment toy_sim: {words}; raybc env build toy_sim"
    if state == "missing":
        line = line.replace("missing", "missing (not built on this machine)")
    with pytest.raises(UserError) as error:
        toy.require()
    assert str(error.value) == line
    assert run_main(lambda: main(["check", "toy_sim"])) == 1
    assert capsys.readouterr().out == line + "\n"
    with pytest.raises(UserError, match=r"raybc env build toy_sim"):  # simulators are not even begun with
        get_task("toy_sim:TASK").make(None)
    with pytest.raises(UserError, match=r"raybc env build toy_sim"):
        get_task("toy_sim:function")


def test_no_simulator_is_imported_here(toy: Environment) -> None:
    task = get_task("toy_sim:TASK")
    assert task.environment == toy
    assert "packages_of_a_simulator" not in sys.modules


def test_inside_its_environment_a_task_makes_its_own_simulators(
    toy: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INSIDE, "toy_sim")
    with pytest.raises(ModuleNotFoundError, match="packages_of_a_simulator"):
        get_task("toy_sim:TASK").make(None)


@pytest.mark.parametrize(
    ("packages", "words"),
    [
        (("numpy>=2",), "expected NAME==VERSION for each package, so that scores can be repeated; got 'numpy>=2'"),
        (("ray==1.0.0",), f"its packages name ray==1.0.0, and this process has ray {version('ray')}"),
    ],
)
def test_packages_that_cannot_work(packages: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as error:
        Environment("x", packages).status()
    assert words in str(error.value)


def test_a_lock_file(tmp_path: Path) -> None:
    (tmp_path / "x.lock.txt").write_text("# simulator\nnumpy==2.3.5\n\nmujoco==3.3.0  # not newer\n")
    found = Environment.of_lock("x", tmp_path / "x.lock.txt")
    assert found.packages == ("numpy==2.3.5", "mujoco==3.3.0")
    assert [line.split("==")[0] for line in found.wanted] == ["numpy", "mujoco", "ray", "gymnasium", "av"]
    assert f"ray=={version('ray')}" in found.wanted
    assert found.key != Environment("x", ("numpy==2.3.4", "mujoco==3.3.0")).key
    assert found.key == Environment("x", ("mujoco==3.3.0", "numpy==2.3.5")).key


def test_only_raybc_and_the_users_modules_are_found_there(
    toy: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, modules = tmp_path / "packages", tmp_path / "modules"
    (installed / "numpy-1.0.dist-info").mkdir(parents=True)
    modules.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(modules), ""]))
    assert toy.variables()["PYTHONPATH"].split(os.pathsep) == [str(source()), str(modules)]
    assert [path.name for path in source().iterdir()] == ["raybc"]
    assert (source() / "raybc" / "registry.py").is_file()


def test_an_interpreter_that_the_user_names(toy: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """E.g. that of a container image. This one has everything, so it is accepted."""
    monkeypatch.setenv("RAYBC_PYTHON_TOY_SIM", sys.executable)
    assert toy.status().state == "complete"
    assert toy.python == Path(sys.executable)
    assert toy.key != toy.folder.name
    monkeypatch.setenv("RAYBC_PYTHON_TOY_SIM", "/nowhere/python")
    with pytest.raises(UserError, match=r"RAYBC_PYTHON_TOY_SIM=/nowhere/python: .* unset RAYBC_PYTHON_TOY_SIM"):
        toy.require()
    with pytest.raises(UserError, match="unset it first"):
        main(["build", "toy_sim"])


def test_unknown_environments(toy: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no_env.py").write_text("ENVIRONMENT = 3\n")
    (tmp_path / "other_name.py").write_text(MODULE)
    for name, words in (
        ("nowhere_sim", "unknown environment 'nowhere_sim'"),
        ("no_env", "module no_env: expected ENVIRONMENT = Environment(...), got 3"),
        ("other_name", "expected ENVIRONMENT = Environment('other_name', ...), got name 'toy_sim'"),
        ("a-b", "expected a suite or a module, got 'a-b'"),
    ):
        assert run_main(lambda name=name: main(["build", name])) == 2  # type: ignore[misc]
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_what_cannot_be_built_names_its_packages_and_leaves_nothing(
    toy: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As on a machine without a network. (Creating the virtual environment takes most of the time.)"""
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)
    assert run_main(lambda: main(["build", "toy_sim"])) == 2
    error = capsys.readouterr().err.strip()
    assert "4 of 4 packages could not be had: numpy==2.3.5, ray==" in error
    assert error.endswith("nothing was kept")
    assert toy.status().state == "missing"
    assert toy.folders() == []


def test_list_and_remove(toy: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    complete(toy)
    (toy.folder.parent / f".{toy.folder.name}.0123abcd.tmp").mkdir()
    assert "toy_sim" in statuses()
    assert main(["remove", "toy_sim"]) == 0
    assert "removed 0 MB" in capsys.readouterr().out
    assert toy.status().state == "missing"
    assert run_main(lambda: main(["remove", "toy_sim"])) == 2
    assert main(["list", "--json"]) == 0


def test_packages_that_were_deleted_later(toy: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    complete(toy)
    write_manifest(toy.folder, toy, {"numpy": "2.3.5"}, 12)
    assert main(["check", "toy_sim"]) == 1
    assert "damaged (1 packages are missing or changed: numpy); raybc env build toy_sim" in capsys.readouterr().out


def test_a_manifest_of_a_newer_release_is_not_a_complete_environment(toy: Environment) -> None:
    complete(toy)
    (toy.folder / MANIFEST).write_text('{"format": "raybc-environment-9"}')
    assert read_manifest(toy.folder) is None
    assert toy.status().state == "half-built"


def test_the_doctor_says_what_there_is_on_every_machine(toy: Environment) -> None:
    complete(toy)
    here = facts()
    assert here["environments"]["toy_sim"][0] == "complete"
    assert any(f.level == "ok" and "environment toy_sim: complete" in f.message for f in check_facts("a", here, {}))
    shutil.rmtree(toy.folder / "bin")
    broken = facts()
    (finding,) = [f for f in check_facts("b", broken, {}) if f.level == "warning" and f.check == "environments"]
    assert finding.line() == (
        "warning  environments: b: environment toy_sim: half-built (its interpreter is gone); raybc env build toy_sim"
    )
    answers = [NodeAnswer("a", here), NodeAnswer("b", broken)]
    (differs,) = equal_environments(answers)
    assert differs.level == "error"
    assert differs.message == f"toy_sim differs: (half-built) on b; {toy.key} on a"
    assert list(equal_environments(answers[:1])) == []


def test_a_pool_is_refused_before_anything_starts(toy: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    from raybc.rollout.pool import RolloutPool

    def started(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(WorkerSlot, "start", started)
    with pytest.raises(UserError, match=r"environment toy_sim: missing .*raybc env build toy_sim"):
        RolloutPool.start("toy_sim:TASK", 1)
