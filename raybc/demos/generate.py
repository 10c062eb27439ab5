"""Making demonstrations with the simulators of a pool, episode by episode, so that a stopped run resumes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.data.formats import robomimic
from raybc.demos.record import read_part
from raybc.demos.spec import DemosSpec
from raybc.files import free_space_for
from raybc.rollout.engine import Demonstration

#: Attempts for one kept demonstration before the expert is called broken.
MAX_ATTEMPTS = 2
#: Rough size of a low-dim demonstration, for the check of free disk.
MEGABYTES_PER_100 = 20

OnProgress = Callable[[int, int], None]


def generate(plan: DemosSpec, path: Path, pool: Any, on_progress: OnProgress | None = None) -> dict[str, int]:
    """Make the demonstrations with the simulators of `pool` (`RolloutPool`); returns attempts and successes.

    Starts are tried in order; the first `episodes` successes are kept, whatever the number of workers.
    """
    import ray

    wanted = plan.config.episodes
    free_space_for(path.parent, 50 + MEGABYTES_PER_100 * wanted // 100)
    parts = path.parent / f"{path.name}.parts-{plan.key()[:12]}"
    parts.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    kept = 0
    while kept < wanted and len(rows) < MAX_ATTEMPTS * wanted + 10:
        count = math.ceil(1.02 * (wanted - kept))
        before = pool.stats()["episodes"]
        work = Demonstration(str(parts), plan.config.noise)
        ref = pool.submit(f"demos/{path}/{len(rows)}", [work], plan.specs(len(rows), count))
        while not ray.wait([ref], timeout=0.3)[0]:
            if on_progress is not None:
                on_progress(len(rows) + pool.stats()["episodes"] - before, wanted)
        rows += ray.get(ref)[0]
        errors = [r for r in rows if r["outcome"] == "error"]
        if errors:
            raise cli.Failed(f"the simulator failed at start {errors[0]['seed']}: {errors[0]['message']}")
        kept = len(rows) if plan.keep_failures else sum(r["outcome"] == "success" for r in rows)
    if kept < wanted:
        raise cli.Failed(
            f"{plan.task}: the expert solved {kept} of {len(rows)} starts, fewer than the {wanted} demonstrations asked"
        )
    chosen = [r for r in rows if plan.keep_failures or r["outcome"] == "success"][:wanted]
    made = []
    for row in chosen:
        part = read_part(parts / f"episode_{row['index']:06d}.npz")
        if part is None:
            raise cli.Failed(f"{parts}: episode {row['index']} was damaged after it was written; run the command again")
        made.append(part)
    successes = sum(r["outcome"] == "success" for r in rows)
    attributes = {"raybc_key": plan.key(), "expert_attempts": len(rows), "expert_successes": successes}
    robomimic.write(path, [p.demo for p in made], made[0].env_args, attributes)
    shutil.rmtree(parts)
    return {"attempts": len(rows), "successes": successes, "steps": sum(len(p.demo.actions) for p in made)}
