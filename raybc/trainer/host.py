"""The process of one training of others, for `raybc.trainer.process`: `python -m raybc.trainer.host`.

It reads its task and then words from stdin, and writes messages to stdout, one JSON value a line. What the trainer
prints goes to stderr. When stdin ends while the trainer waits, it is stopped; while it trains, the process ends at
once, because the sweep is gone; after its last policy, it may finish.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from typing import IO, Any

from raybc.config.trainer import dataclass_of, load_function
from raybc.trainer.job import Task, TrainerJob, TrainingStopped
from raybc.types import UserError

#: Ends the group of a process, and so all that it has started, when the process has ended, however it did.
_GUARD = """
import os, sys, time
process = int(sys.argv[1])
while os.getppid() == process:
    time.sleep(0.2)
os.killpg(process, 9)
"""


def _guard() -> None:
    """Have what the trainer starts end with this process, also where this one is killed, as Ray does."""
    if os.getpgrp() == os.getpid():
        command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def train(job: TrainerJob, function: str) -> None:
    """Run the trainer to its end."""
    trainer = load_function(function, "trainer")
    options = dataclass_of(trainer)
    value = trainer(job, options(**job.options)) if options is not None else trainer(job, **job.options)
    job.returned(value)


class _Words:
    """What the sweep says while the trainer works."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._words = stream, queue.SimpleQueue[str]()
        self._waiting, self.over = threading.Event(), threading.Event()
        """over: set when everything is handed over."""
        threading.Thread(target=self._read, daemon=True, name="sweep").start()

    def _read(self) -> None:
        for line in self._stream:
            self._words.put(line.strip())
        if not self._waiting.is_set() and not self.over.is_set():  # killed, so nobody wants what would come
            os._exit(1)
        self._words.put("stop")

    def wait(self) -> None:
        self._waiting.set()
        word = self._words.get()
        if word == "stop":
            raise TrainingStopped(0)
        self._waiting.clear()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's
    _guard()
    words, messages = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a trainer prints must not be taken for a message
    with open(os.devnull) as nothing:  # nobody answers questions, and what a trainer starts must not read the words
        os.dup2(nothing.fileno(), 0)

    task = Task(**json.loads(words.readline()))
    said = _Words(words)

    def tell(message: dict[str, Any]) -> None:
        if message.get("policy") and message["step"] == task.milestones[-1]:
            said.over.set()
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    try:
        train(TrainerJob(task, tell, said.wait), task.function)
        tell({"ended": True})
    except TrainingStopped:
        tell({"ended": True})
    except UserError as error:
        traceback.print_exc()
        tell({"error": str(error), "traceback": traceback.format_exc()})
    except BaseException as error:  # whatever somebody else's code raises
        traceback.print_exc()
        text = " ".join(str(error).split())
        tell(
            {
                "error": f"{type(error).__name__}: {text}" if text else type(error).__name__,
                "traceback": traceback.format_exc(),
            }
        )
    said.over.set()


if __name__ == "__main__":
    main()
