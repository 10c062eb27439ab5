"""Starting Ray and shutting it down: authenticated, quiet, leaving nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private.node import Node
from ray._raylet import Config  # type: ignore[attr-defined]  # absent from Ray's stub file

from raybc import cli
from raybc.cluster.capacity import allocate_workers, simulator_cpus
from raybc.types import UserError
from raybc.waiting import waiting

__all__ = ["allocate_workers", "ray_beside", "ray_session"]

#: Services of a Ray on one machine that nobody asks without a dashboard: the web server, the autoscaler, which has no
#: machines to start, and the one that copies log files to the driver.
_SERVICES = ("start_api_server", "start_monitor", "start_log_monitor")
#: The agent of Ray's dashboard without what it would report to one: a local Ray does not start without an agent, and
#: its modules take seconds to import. It is run with the path of Ray's own program and its flags.
_AGENT = (
    "import runpy, sys; from ray.dashboard import utils; utils.get_all_modules = lambda kind: []; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def _ensure_token() -> None:
    """Create the token of local clusters, readable by this user only (Ray would make it readable by everyone)."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as f,
    ):
        f.write(secrets.token_hex(32))


def use_token() -> None:
    """Send the token to a cluster named by HOST:PORT. Ray does so only if asked before it is imported, or like this."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Make a local Ray listen on 127.0.0.1 only.

    On Linux, Ray listens on every interface, whatever address it is given; only on desktop systems, where a firewall
    would prompt the user, does it use the loopback interface. The setting that decides is read when Ray is imported,
    here and in its child processes. It must not be changed for a cluster of several machines.
    """
    before = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        os.environ.pop(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
        if before[0] is not None:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


@contextlib.contextmanager
def _few_services() -> Iterator[None]:
    """Start a local Ray as its minimal installation does, which has no dashboard, without `_SERVICES`, and with an
    agent that has no modules: their processes and imports are half of what a start costs."""

    def left_out(node: Any, **_: Any) -> None:
        node._webui_url = node._webui_url or ""

    def program(component: str, *args: Any, **more: Any) -> list[str]:
        command: list[str] = python(component, *args, **more)
        is_agent = component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT
        return [*command, "-P", "-c", _AGENT] if is_agent else command

    before = {name: getattr(Node, name) for name in _SERVICES if hasattr(Node, name)}
    python = services._build_python_executable_command_memory_profileable
    error = ray_utils.get_dashboard_dependency_error
    try:
        for name in before:
            setattr(Node, name, left_out)
        ray_utils.get_dashboard_dependency_error = lambda: ImportError("no dashboard was asked for")
        services._build_python_executable_command_memory_profileable = program
        yield
    finally:
        ray_utils.get_dashboard_dependency_error = error
        services._build_python_executable_command_memory_profileable = python
        for name, method in before.items():
            setattr(Node, name, method)


def _usable_cpus() -> int | None:
    """CPUs of the local Ray where this process may use fewer than the machine has (`taskset`, SLURM); None: all."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return allowed if 0 < allowed < (os.cpu_count() or 1) else None


def _check_reachable(address: str) -> None:
    """Fail immediately where Ray would try for a minute."""
    if address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address: expected auto or HOST:PORT (usually port 6379), got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error}); is the cluster up (`ray up`, `ray status`), and is "
            "this machine in its network? Drivers run best on the head: `ray exec cluster.yaml 'python -m raybc...'`"
        ) from None


def _check_loopback() -> None:
    """Fail immediately where the processes of a local Ray could not reach each other: Ray would wait for minutes."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"Ray cannot start here, because this process may not use ports of 127.0.0.1 ({error.strerror or error}), "
            "as in some notebook services; connect to a cluster with --address HOST:PORT, or train without simulators "
            "(--eval_interval=0) and measure elsewhere"
        ) from None


def _announce(place: str) -> None:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    cli.console.print(f"Ray's dashboard: http://{place} (the token that it requests is in {path})")


def _start(num_cpus: int | None, dashboard: bool) -> Any:
    """A local Ray. Raises `UserError` where it may not open ports, and where its processes do not answer in time,
    as on a machine that is overloaded."""
    _check_loopback()
    try:
        with contextlib.nullcontext() if dashboard else _few_services():
            return ray.init(
                address="local",
                num_cpus=_usable_cpus() if num_cpus is None else num_cpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises no class of its own here
        if "timed out" not in str(error):
            raise
        load, cores = os.getloadavg()[0], os.cpu_count()
        raise UserError(
            f"Ray did not start: its processes did not answer in time; the load of this machine is {load:.0f} with "
            f"{cores} cores; stop other work, or wait for it, and repeat the command (`free -g` shows the memory)"
        ) from None


@contextlib.contextmanager
def ray_session(
    address: str = "", num_cpus: int | None = None, dashboard: bool = False, *, quiet: bool = False
) -> Iterator[float]:
    """A local Ray that ends with the block, or (`address`) a connection to a running one; gives the number of CPUs
    on which simulators may run.

    A local Ray consists of child processes on the loopback interface; if this process is killed, they end by themselves
    some seconds later. An existing session (of a notebook, of a test) is used and left running.

    dashboard: whether a local Ray serves its own dashboard, on this machine only; its address is printed. Raises
    `UserError` for `dashboard` with an `address`: that cluster has one of its own. quiet: whoever calls says what is
    going on.
    """
    if dashboard and address:
        raise UserError(f"--ray_dashboard: {address} has a dashboard of its own: `ray dashboard cluster.yaml` shows it")
    if ray.is_initialized():
        yield simulator_cpus()
        return
    waiting_for = (lambda _: contextlib.nullcontext()) if quiet else waiting
    with contextlib.ExitStack() as stack:
        try:
            if address:
                _check_reachable(address)
                use_token()
                with waiting_for(f"Connecting to Ray at {address}"):
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                _ensure_token()  # Ray requires it by default on a local cluster (from 2.60)
                stack.enter_context(_loopback_only())
                with waiting_for("Starting Ray"):
                    context = _start(num_cpus, dashboard)
                if dashboard:
                    _announce(str(context.dashboard_url))
        except ConnectionError as error:
            raise UserError(
                f"--address {address}: no Ray cluster answered ({error}); is it running, and does this machine have "
                "its token (~/.ray/auth_token)?"
            ) from None
        stack.callback(ray.shutdown)
        yield simulator_cpus()


@contextlib.contextmanager
def ray_beside(
    address: str = "", num_cpus: int | None = None, dashboard: bool = False
) -> Iterator[Callable[[], float]]:
    """A `ray_session` that starts while the block does other work. The function waits until it has started and returns
    what `ray_session` gives; it raises what `ray_session` raises.

    The kernel ends Ray's processes with the thread that started them, so that thread stays until the block ends.
    """
    started: Future[float] = Future()
    over = threading.Event()

    def keep() -> None:
        try:
            with ray_session(address, num_cpus, dashboard, quiet=True) as cpus:
                started.set_result(cpus)
                over.wait()
        except BaseException as error:  # raised again in the thread that waits for Ray
            if started.done():
                raise
            started.set_exception(error)

    if threading.current_thread() is threading.main_thread():
        # As Ray does where it is started in the main thread; elsewhere it warns that it cannot.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    logging.getLogger("ray").setLevel(logging.ERROR)
    thread = threading.Thread(target=keep, name="Ray", daemon=True)
    thread.start()
    try:
        yield started.result
    finally:
        over.set()
        thread.join()
