"""Which options have an effect, and the canonical form of a recipe: what makes two recipes the same training.

Everything is computed from declarations (`Option.only_with`, `Option.needs`, roles), so a new option has to declare its
conditions once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raybc.config.identity import identity
from raybc.config.options import CHANGED, OptionInfo
from raybc.config.run import SAMPLE_AXES, RunConfig


def inert(run: RunConfig) -> dict[str, str]:
    """Option without an effect on this run -> what it needs."""
    options = run.options() if run.takes is None else {}  # nothing is known about options of others
    found = {name: text for name, info in options.items() if (text := _missing(run, info, options))}
    return found | {
        name: f"a policy that has it; it has no effect {run.why_idle(name)}"
        for name in SAMPLE_AXES
        if name not in run.sample_axes
    }


def canonical(run: RunConfig) -> RunConfig:
    """The run with everything that has no effect at its default, so that equal trainings are equal."""
    options = run.options()
    while True:
        idle = {name: options[name].default for name in inert(run) if run.get(name) != options[name].default}
        if not idle:
            break
        run = run.changed(**idle)
    if run.takes is not None:
        return run
    warm_up = run.warm_up
    if run.pad_before == run.obs_steps - 1:  # as many as are ever needed
        run = run.changed(pad_before=-1)
    if run.pad_after == run.ahead_length - 1:
        run = run.changed(pad_after=-1)
    if run.pad_after == 0 and not run.past_actions:
        run = run.changed(pad_loss=options["pad_loss"].default)
    ratios = {name: options[name].default for name in ("budget_warmup_ratio", "budget_min_warmup_steps")}
    return run.changed(warmup_steps=warm_up, **ratios)


def training_key(run: RunConfig) -> str:
    """A text that two runs share exactly if they train the same policy from the same data and seed.

    Options of sampling and of output do not count.
    """
    values = identity(canonical(run))
    return json.dumps({k: v for k, v in values.items() if k not in SAMPLE_AXES}, sort_keys=True)


def _missing(run: RunConfig, info: OptionInfo, options: Mapping[str, OptionInfo]) -> str:
    """What the option needs to have an effect and does not have; empty if it has one."""
    other, advice = info.option.needs
    if other and not run.get(other):
        return f"{other} ({advice})"
    conditions = info.option.only_with
    if not conditions or any(all(_holds(run, options, n, v) for n, v in c.items()) for c in conditions):
        return ""
    return " or ".join(" and ".join(_text(options, n, v) for n, v in c.items()) for c in conditions)


def _holds(run: RunConfig, options: Mapping[str, OptionInfo], name: str, wanted: Any) -> bool:
    value = run.get(name)
    if wanted == CHANGED:
        return bool(value != options[name].default)
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


def _text(options: Mapping[str, OptionInfo], name: str, wanted: Any) -> str:
    if wanted == CHANGED:
        default = options[name].default
        return name if default in ("", 0, False) else f"{name} other than {default}"
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    return f"{name} {' or '.join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)}"
