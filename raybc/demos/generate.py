"""Making demonstrations with the simulators of a pool, episode by episode, so that an interrupted run can resume."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from raybc import cli
from raybc.data.formats import libero, robomimic
from raybc.demos.record import read_part
from raybc.demos.spec import DemosSpec
from raybc.files import free_space_for
from raybc.notebook import in_kernel
from raybc.registry import get_task
from raybc.rollout.engine import Demonstration
from raybc.rows import EpisodeRow

if TYPE_CHECKING:  # it imports Ray, which `python -m raybc.train --help` need not wait for
    from raybc.rollout.pool import RolloutPool

#: Maximum attempts per kept demonstration; an expert that needs more is broken.
MAX_ATTEMPTS = 2
#: Rough size of a low-dim demonstration, for the check of free disk.
MEGABYTES_PER_100 = 20

OnProgress = Callable[[int, int], None]


def generate_shown(
    spec: DemosSpec, path: Path, pool: RolloutPool, meanwhile: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """`generate` with a progress bar on a terminal or in a notebook, and a line elsewhere. meanwhile: called once, when
    the simulators have their work."""
    wanted, left = spec.config.episodes, [meanwhile]
    has_bar = cli.console.is_terminal or in_kernel()
    if not has_bar:
        cli.console.print(f"Making {wanted} demonstrations of {spec.task} ...")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with cli.progress(*columns, disable=not has_bar) as progress:
        bar = progress.add_task(f"{spec.task} demonstrations", total=wanted)

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=min(done, total))
            while left:
                left.pop()()

        made = generate(spec, path, pool, show)
        show(wanted, wanted)
    return made


def generate(spec: DemosSpec, path: Path, pool: RolloutPool, on_progress: OnProgress | None = None) -> dict[str, int]:
    """Make the demonstrations with the simulators of `pool`; returns the numbers of attempts, successes and steps.

    Starts are tried in order and the first `episodes` successes are kept, for any number of workers. Tasks with an
    instruction are written in LIBERO's layout, which is robomimic's with an instruction.
    """
    wanted = spec.config.episodes
    free_space_for(path.parent, 50 + MEGABYTES_PER_100 * wanted // 100)
    parts = path.parent / f"{path.name}.parts-{spec.key()[:12]}"
    parts.mkdir(parents=True, exist_ok=True)
    rows: list[EpisodeRow] = []
    kept = 0
    while kept < wanted and len(rows) < MAX_ATTEMPTS * wanted + 10:
        count = math.ceil(1.02 * (wanted - kept))
        before = pool.stats()["episodes"]
        done = len(rows)

        def show(done: int = done, before: int = before) -> None:
            if on_progress is not None:
                on_progress(done + pool.stats()["episodes"] - before, wanted)

        # Simulator processes of a Ray that runs already may have another working directory.
        job = Demonstration(str(parts.absolute()), spec.config.noise)
        rows += pool.evaluate(f"demos/{path}/{done}", [job], spec.specs(done, count), on_wait=show)[0]
        errors = [r for r in rows if r["outcome"] == "error"]
        if errors:
            raise cli.Failed(f"the simulator failed at start {errors[0]['seed']}: {errors[0]['message']}")
        kept = len(rows) if spec.keep_failures else sum(r["outcome"] == "success" for r in rows)
    if kept < wanted:
        raise cli.Failed(
            f"{spec.task}: the expert solved {kept} of {len(rows)} starts, fewer than the {wanted} requested"
        )
    chosen = [r for r in rows if spec.keep_failures or r["outcome"] == "success"][:wanted]
    made = []
    for row in chosen:
        part = read_part(parts / f"episode_{row['index']:06d}.npz")
        if part is None:
            raise cli.Failed(f"{parts}: episode {row['index']} was damaged after it was written; run the command again")
        made.append(part)
    successes = sum(r["outcome"] == "success" for r in rows)
    attributes = {"raybc_key": spec.key(), "expert_attempts": len(rows), "expert_successes": successes}
    instruction = get_task(spec.task).instruction
    if instruction:
        libero.write(path, [p.demo for p in made], made[0].env_args, attributes, instruction)
    else:
        robomimic.write(path, [p.demo for p in made], made[0].env_args, attributes)
    shutil.rmtree(parts)
    return {"attempts": len(rows), "successes": successes, "steps": sum(len(p.demo.actions) for p in made)}
