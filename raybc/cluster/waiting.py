"""Waiting for the machines of a Ray that is starting."""

from __future__ import annotations

import logging
import socket
import time

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray

from raybc.cli import Failed
from raybc.cluster.session import use_token
from raybc.types import UserError

#: Seconds between looks.
INTERVAL = 1.0


def wait_for_machines(address: str, machines: int, timeout: float) -> None:
    """Return when the Ray at `address` (HOST:PORT) has at least `machines` running machines.

    Raises `UserError` for an address without a port, `Failed` after `timeout` seconds with how many there are.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address: expected HOST:PORT, got {address!r}")
    end = time.monotonic() + timeout
    while not _answers(host, int(port)):
        if time.monotonic() > end:
            raise Failed(f"{address}: no Ray answers after {timeout:g} s; its log says why it did not start")
        time.sleep(INTERVAL)
    use_token()
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except (ConnectionError, RuntimeError) as error:  # its control process answers, its machine is not ready yet
            if time.monotonic() > end:
                raise Failed(f"{address}: Ray is not ready after {timeout:g} s ({error})") from None
            time.sleep(INTERVAL)
    try:
        while (found := sum(node["Alive"] for node in ray.nodes())) < machines:
            if time.monotonic() > end:
                raise Failed(f"{address}: {found} of {machines} machines joined within {timeout:g} s")
            time.sleep(INTERVAL)
    finally:
        ray.shutdown()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
