"""Starting and leaving Ray: authenticated, quiet, with nothing left behind.

Import this module before `ray`: Ray reads its environment when it is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from raybc.cluster.capacity import allocate_workers, simulator_cpus
from raybc.types import UserError

__all__ = ["allocate_workers", "ray_session"]

#: Only where unset. Usage statistics are off, strangers need a token, Tune writes no logs of its own
#: beside ours, and prints no tables of its own.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


def _ensure_token() -> None:
    """The token of local clusters, readable by this user alone (Ray itself would leave it readable by all)."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as f,
    ):
        f.write(secrets.token_hex(32))


def _use_token() -> None:
    """Ray shows its token to a cluster named by host:port only when told to before it was imported, or like this."""
    from ray._raylet import Config  # type: ignore[attr-defined]  # absent from Ray's stub file

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a local Ray listen on 127.0.0.1 and nowhere else.

    By itself Ray listens on every interface on Linux, whatever address it is given; only on desktop systems, where
    firewalls would ask, it stays on the loopback. The switch between the two is read when Ray is imported, here and
    in its child processes; it must not be thrown for a cluster of several machines.
    """
    from ray._private import ray_constants

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


def _check_reachable(address: str) -> None:
    """Say at once what Ray would say after a minute of trying."""
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


@contextlib.contextmanager
def ray_session(address: str = "", num_cpus: int | None = None) -> Iterator[float]:
    """A local Ray that ends with the block, or (`address`) a connection to a running one; gives the number of CPUs
    on which simulators may run.

    A local Ray is made of child processes on the loopback interface; it ends by itself some seconds after this
    process was killed. A session that is there already (of a notebook, of a test) is used and left running.
    """
    import ray

    if ray.is_initialized():
        yield simulator_cpus()
        return
    with contextlib.ExitStack() as stack:
        try:
            if address:
                _check_reachable(address)
                _use_token()
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                _ensure_token()  # Ray asks for it by default on a local cluster (2.60 on)
                stack.enter_context(_loopback_only())
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except ConnectionError as error:
            raise UserError(
                f"--address {address}: no Ray cluster answered ({error}); is it running, and does this machine have "
                "its token (~/.ray/auth_token)?"
            ) from None
        stack.callback(ray.shutdown)
        yield simulator_cpus()
