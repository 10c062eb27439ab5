"""Ending a process that reads requests from its stdin."""

from __future__ import annotations

import contextlib
import subprocess


def end_process(process: subprocess.Popen[bytes] | subprocess.Popen[str], timeout: float) -> None:
    """Close its stdin, which asks it to end; kill it if it has not ended after `timeout` seconds. Closes stdout."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
