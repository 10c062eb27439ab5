"""What training and acting do on a GPU, by one command: `python -m benchmarks.gpu --minutes 8 --out FILE.json`.

It needs torch, numpy, h5py and safetensors, nothing else. Losses and samples are compared with a CPU; packs,
precisions, modes of torch.compile, images and chunks are timed; a group of one and a resumed training are compared with
training alone. FILE.json is written as figures come. At the end there are tables for benchmarks/RESULTS.md. On a
machine without a GPU everything runs with tiny sizes, to check the benchmark itself.

Exit status: 0, or 1 if something failed or differs too much, or 2 for a mistake in the flags. What did not fit the
device or the time is left out, and said.
"""

from __future__ import annotations

import argparse
import datetime
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu import worker
from benchmarks.gpu.bench import SIZES, all_policies
from benchmarks.gpu.figures import BAD, FAILED, LEFT_OUT, OUT_OF_TIME, TOO_LONG, Row, markdown, text_of
from benchmarks.gpu.sections import SECTIONS
from raybc.files import write_json

#: Seconds between writes of the file, which wait for the disk.
WRITE_EVERY = 5.0
#: Asking whether there is a GPU must not start CUDA here, since a forked process could not use it then.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def minutes(text: str) -> float:
    value = float(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="where the figures are written")
    parser.add_argument("--minutes", type=minutes, default=8.0, help="for everything (default: 8)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    parser.add_argument(
        "--size", choices=("auto", *SIZES), default="auto", help="default: full on a GPU, tiny on a CPU"
    )
    parser.add_argument("--sections", nargs="+", choices=tuple(SECTIONS), default=list(SECTIONS), metavar="SECTION",
                        help=f"some of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--policies", nargs="+", choices=all_policies(), default=list(all_policies()), metavar="KIND",
                        help=f"some of {', '.join(all_policies())}")  # fmt: skip
    parsed = parser.parse_args(argv)
    if not parsed.out.parent.is_dir():
        parser.error(f"argument --out: expected a file in an existing folder, there is no {parsed.out.parent}")
    if parsed.out.is_dir():
        parser.error(f"argument --out: expected a file, {parsed.out} is a folder")
    return parsed


def run_child(
    target: Callable[..., None], given: tuple[Any, ...], patience: Callable[[], float], start: str
) -> Iterator[Any]:
    """What a process sends, until it ends. If it sends nothing for `patience()` seconds it is ended: `TimeoutError`.

    start: fork, since forked processes need not import anything, or spawn.
    """
    context: Any = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(target, sender, receiver, given))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, patience())):
            try:
                yield receiver.recv()
            except EOFError:
                process.join()
                if process.exitcode:
                    raise ChildProcessError(_how_it_ended(process.exitcode)) from None
                return
        raise TimeoutError
    finally:
        if process.is_alive() and process.pid is not None:
            worker.end(process.pid)
        process.join()


def _child(target: Callable[..., None], sender: Connection, receiver: Connection, given: tuple[Any, ...]) -> None:
    receiver.close()
    target(sender, *given)


def _how_it_ended(code: int) -> str:
    return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with status {code}"


class SectionRun:
    """Runs a section. A figure that takes more than its share of the time (`Section.limit`), or that ends the process,
    is given up; another process measures the next one."""

    def __init__(self, about: dict[str, Any], policies: tuple[str, ...], start: str) -> None:
        self._where, self._start = (about["device"], about["size"], policies), start

    def run(self, name: str, seconds: float, keep: Callable[[Row], None]) -> None:
        """Measure for about `seconds`, at most a third longer. keep: called with each figure."""
        began, done = time.monotonic(), 0
        planned: list[tuple[str, str]] | None = None
        limit = SECTIONS[name].limit
        share = "a third" if limit == 1 / 3 else f"{limit:.0%}"

        def left() -> float:
            return began + seconds - time.monotonic()

        def patience() -> float:
            return left() + seconds / 3 if planned is None else min(seconds * limit, left() + seconds / 3)

        def take(row: Row) -> None:
            nonlocal done
            row_name, column = planned[done] if planned else (name, "")
            keep({"row": row_name, "column": column} | row)
            done += 1

        while planned is None or done < len(planned):
            if planned and left() <= 0:
                take({"state": LEFT_OUT, "message": OUT_OF_TIME})
                continue
            try:
                for sent in run_child(worker.work, (name, *self._where, left(), done), patience, self._start):
                    if isinstance(sent, list):
                        planned = [tuple(place) for place in sent]
                    else:
                        take(sent)
                why: Row = {"state": FAILED, "message": "its process ended early"}
            except TimeoutError:
                why = {"state": LEFT_OUT, "message": TOO_LONG.format(share) if left() > 0 else OUT_OF_TIME}
            except ChildProcessError as error:
                why = {"state": FAILED, "message": str(error)}
            if planned is None or done < len(planned):
                take(why)
            if planned is None:
                return


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    started = time.monotonic()
    start = "fork"
    try:
        about = next(run_child(worker.machine, (args.device, args.size), lambda: 120, start))
        if "spawn" in about:
            start = "spawn"
            about = next(run_child(worker.machine, (args.device, args.size), lambda: 120, start))
    except (ChildProcessError, TimeoutError, StopIteration) as error:
        why = str(error) or "it did not answer within two minutes"
        print(f"failed: the device could not be looked at: {why}", file=sys.stderr)
        return 1
    if "error" in about:
        print(f"error: --{about['error']}", file=sys.stderr)
        return 2
    out: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "minutes": args.minutes,
        "machine": about,
        "start": start,
        "sections": {},
        "complete": False,
    }
    print(heading(about), flush=True)
    runner = SectionRun(about, tuple(dict.fromkeys(args.policies)), start)
    chosen = [name for name in SECTIONS if name in args.sections]
    for i, name in enumerate(chosen):
        left = 60 * args.minutes - (time.monotonic() - started)
        shares = [SECTIONS[other].share for other in chosen[i:]]
        rows: list[Row] = []
        began = written = time.monotonic()
        out["sections"][name] = found = {"title": SECTIONS[name].title, "seconds": 0.0, "figures": rows}

        def keep(row: Row, name: str = name, rows: list[Row] = rows) -> None:
            nonlocal written
            rows.append(row)
            print(f"{time.monotonic() - started:5.0f} s  {name}: {text_of(row)}", flush=True)
            if time.monotonic() - written > WRITE_EVERY:
                write_json(args.out, out)
                written = time.monotonic()

        # A section may take a third longer; there is no time for that after the last one.
        runner.run(name, max(1.0, left * min(shares[0] / sum(shares), 0.74)), keep)
        found["seconds"] = round(time.monotonic() - began, 1)
        write_json(args.out, out)
    out["complete"], out["seconds"] = True, round(time.monotonic() - started, 1)
    tables = [markdown(found["title"], found["figures"]) for found in out["sections"].values()]
    out["markdown"] = "\n".join([heading(about), "", *tables])
    write_json(args.out, out)
    print("\n" + out["markdown"])
    bad = [row for found in out["sections"].values() for row in found["figures"] if row["state"] in BAD]
    for row in bad:
        print(f"failed: {text_of(row)}", file=sys.stderr)
    return 1 if bad else 0


def heading(about: dict[str, Any]) -> str:
    """The machine, in a line."""
    memory = f", {about['memory_gb']} GB" if "memory_gb" in about else ""
    peaks = ", ".join(
        f"{name.removeprefix('peak_')} {value / 1e12:.3g}"
        for name, value in about.items()
        if name.startswith("peak_") and name != "peak_from"
    )
    return (
        f"{about['name']}{memory}, {about['cores']} cores, PyTorch {about['torch']}, raybc {about['raybc']}, sizes: "
        f"{about['size']}; peak {peaks} TFLOP/s ({about['peak_from']})"
    )


if __name__ == "__main__":
    sys.exit(main())
