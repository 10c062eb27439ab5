"""Fixtures shared by all tests. Nothing here leaves the test's own folders or needs a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raybc.env import Environment
from raybc.files import home
from raybc.types import UserError
from tests import lerobot_oracle

if TYPE_CHECKING:
    from tests.browser import Browser

#: The home of whoever runs the tests, where environments of suites are built (tests have a home of their own).
HOME = Path(os.environ.get("RAYBC_TEST_HOME") or home())


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Demonstrations of the tests go to a folder of their own, made once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYBC_HOME", str(tmp_path_factory.mktemp("raybc_home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Trainings use one thread, whatever else the machine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Servers of the tests are on this machine: a proxy of whoever runs them is not asked for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Browser]:
    """One browser for all tests of pages."""
    pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
    pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")
    from tests.browser import Browser, find_chromium

    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no chromium on this machine (or set RAYBC_CHROMIUM)")
    with Browser.start(chromium) as browser:
        yield browser


@pytest.fixture
def chrome(_chromium: Browser) -> Iterator[Browser]:
    """The browser with an empty page, light, 1280 x 900, and nothing noted of earlier pages."""
    _chromium.open("about:blank")
    _chromium.dark(False)
    _chromium.size(1280, 900)
    _chromium.errors.clear()
    _chromium.requests.clear()
    yield _chromium
    _chromium.open("about:blank")  # a page that is left open would ask a server that is gone


@pytest.fixture(scope="session")
def ray_cpus() -> Iterator[float]:
    """One local Ray for all tests that use its actors in this process."""
    from raybc.cluster.session import ray_session

    with ray_session(num_cpus=2) as cpus:
        yield cpus


@pytest.fixture(scope="session")
def pointmass_demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty demonstrations of the point mass, made without Ray."""
    from raybc.config import DemosConfig
    from raybc.data.formats import robomimic
    from raybc.demos.record import demonstrate, read_part
    from raybc.demos.spec import DemosSpec
    from raybc.registry import get_task

    folder = tmp_path_factory.mktemp("demos")
    plan = DemosSpec("pointmass", DemosConfig(episodes=40))
    task = get_task("pointmass")
    env = task.make(None)
    demos = []
    for spec in plan.specs(0, 40):
        demonstrate(task, env, spec, 1.0, folder)
        part = read_part(folder / f"episode_{spec.index:06d}.npz")
        assert part is not None
        demos.append(part.demo)
    robomimic.write(folder / "demos.hdf5", demos, env.env_args(), {"raybc_key": plan.key()})
    return folder / "demos.hdf5"


@pytest.fixture(scope="session")
def human_lift() -> Path:
    """Eight human demonstrations of robosuite's Lift: a file in robomimic's layout."""
    from tests.helpers import recorded

    return recorded("lift_human/lift_human_mit8.hdf5")


@pytest.fixture(scope="session")
def human_pusht() -> Path:
    """The 206 human demonstrations of PushT as published: a LeRobot folder without its video."""
    from tests.helpers import recorded

    return recorded("pusht/meta/info.json").parents[1]


@pytest.fixture(scope="session")
def human_pusht_npz() -> Path:
    """The same demonstrations of PushT with the pose of the block, as arrays."""
    from tests.helpers import recorded

    return recorded("pusht/pusht_state.npz")


@pytest.fixture
def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network, on which nothing was downloaded before."""
    from raybc.data import download

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def my_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The environment of the example in docs/own_environment.md, built for this session (tests that need it are slow);
    skipped where its packages cannot be had."""
    from raybc.env.build import build
    from raybc.env.known import find
    from tests.documents import Page

    folder = tmp_path_factory.mktemp("my_sim")
    (folder / "my_sim.py").write_text(Page.of("own_environment.md").files()["my_sim.py"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # processes of the environment find it, too
        environment = find("my_sim")
        try:
            build(environment)
        except UserError as error:
            pytest.skip(str(error))
        yield environment


@pytest.fixture
def libero_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own home, if LIBERO's environment is built there (tests that need it are slow); skipped elsewhere."""
    return _home_with("libero", monkeypatch)


@pytest.fixture
def ocbench_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for OCBench's environment."""
    return _home_with("ocbench", monkeypatch)


@pytest.fixture
def ocbench_warp_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for its simulation with MuJoCo Warp."""
    return _home_with("ocbench_warp", monkeypatch)


def _home_with(suite: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    from raybc.env.known import find

    monkeypatch.setenv("RAYBC_HOME", str(HOME))
    status = find(suite).status()
    if status.state != "complete":
        pytest.skip(status.line(suite))
    return HOME


@pytest.fixture(scope="session")
def lerobot_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints that LeRobot wrote, and what it does with them (`tests.lerobot_oracle.CASES`)."""
    folder = tmp_path_factory.mktemp("lerobot")
    lerobot_oracle.run("make", folder)
    return folder
