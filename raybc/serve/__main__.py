"""`python -m raybc.serve BUNDLE`: answer observations with actions, over HTTP and WebSockets."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raybc import cli
from raybc.config import SAMPLE_AXES
from raybc.extras import require_extra
from raybc.find_bundle import check_policy
from raybc.types import UserError
from raybc.web import listening

#: Minimum length of a token; shorter ones can be guessed.
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Args:
    """Serve a policy: POST /act, WebSocket /ws, GET /health, GET /metadata."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    host: str = "127.0.0.1"
    """Address to listen on. Other machines cannot reach the default one; any other needs --token_file."""
    port: int = 8000
    """Port to listen on (0: any free port)."""
    token_file: Path | None = None
    """File with the token that clients must send (readable by you only)."""
    flow_steps: int | None = None
    """Steps of the solver that integrates the flow (default: the policy's)."""
    solver: Literal["euler", "midpoint", "heun", "rk4"] | None = None
    """Solver of the flow (default: the policy's)."""
    execute_steps: int | None = None
    """Steps of a chunk that a session executes (0: all; default: the policy's)."""
    eval_temperature: float | None = None
    """Scale of the initial noise (default: the policy's)."""
    temporal_ensemble: float | None = None
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest (-1: off; default: the policy's)."""
    best_of_n: int | None = None
    """Chunks that are sampled, of which the one that the critic values most is executed (default: the policy's)."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto (cuda if available)."""
    threads: int = 1
    """PyTorch threads on a CPU."""
    max_request_mb: float = 16.0
    """Maximum size of a request or message, in megabytes."""
    max_connections: int = 256
    """Maximum number of simultaneous connections; more are refused (503)."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.serve", Args.__doc__ or "")
    require_extra("raybc.serve", "serve", "starlette", "uvicorn", "websockets", "msgpack")
    _check(args)
    check_policy(args.bundle, args.checkpoint)
    # Here, because they need the packages that were just checked, and PyTorch, which --help need not wait for.
    import uvicorn

    from raybc.inference.metadata import policy_metadata
    from raybc.inference.policy import load_bundle
    from raybc.serve.app import is_loopback, make_app
    from raybc.serve.batch import Batcher
    from raybc.train.arithmetic import pick_device

    token = "" if args.token_file is None else read_token(args.token_file)
    if not token and not is_loopback(args.host):
        raise UserError(
            f"--host {args.host}: other machines could connect; expected --token_file with a token for clients"
        )
    changes = {name: getattr(args, name) for name in SAMPLE_AXES if getattr(args, name) is not None}
    bundle, setting = load_bundle(args.bundle, args.checkpoint, changes)
    device = str(pick_device(args.device))
    max_bytes = int(args.max_request_mb * 2**20)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(args.host, args.port))
        batcher = stack.enter_context(contextlib.closing(Batcher(bundle, setting, device, args.threads)))
        config = uvicorn.Config(
            make_app(batcher, setting, policy_metadata(bundle, setting), token, max_bytes),
            ws="websockets-sansio",
            ws_max_size=max_bytes,
            ws_per_message_deflate=False,  # arrays hardly compress, and compression takes longer than sending
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=args.max_connections,
            timeout_graceful_shutdown=5,
        )
        port = listener.getsockname()[1]
        cli.console.print(f"policy {bundle.run_id}, step {bundle.step}: http://{_shown(args.host)}:{port}")
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _check(args: Args) -> None:
    for name, low, high in (("threads", 1, 1024), ("max_request_mb", 0.001, 1024), ("max_connections", 1, 65536)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name}: expected {low}..{high}, got {getattr(args, name)}")


def read_token(path: Path) -> str:
    """The token in a file. Raises `UserError` if it is too short or if other users can read the file."""
    if not path.is_file():
        raise UserError(f"--token_file: expected a file, found none: {path}")
    if path.stat().st_mode & 0o077:
        raise UserError(f"--token_file: {path} can be read by others; run: chmod 600 {path}")
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise UserError(f"--token_file: {path}: expected at least {MIN_TOKEN_LENGTH} ASCII characters on one line")
    return token


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
