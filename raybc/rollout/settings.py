"""Sample settings that flags name: `--flow_steps 1,2,5`, one value or several of each axis, in every combination."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from raybc.config import SAMPLE_AXES, RunConfig
from raybc.rollout.policy import MeasuredPolicy
from raybc.strict import check_type, type_hints
from raybc.types import SampleSetting, UserError

#: The axes from the one that changes slowest to the one that changes fastest.
ORDER = ("solver", "flow_steps", "execute_steps", "temporal_ensemble", "eval_temperature", "best_of_n")
#: Axes that are counts of at least one.
_COUNTS = ("flow_steps", "best_of_n")


def chosen_settings(policy: MeasuredPolicy, texts: Mapping[str, str]) -> list[SampleSetting]:
    """The settings to measure: the policy's own, changed by flags.

    texts: axis -> its values, separated by commas; "": the policy's. Raises `UserError` for an impossible value, and
    for an axis that has no effect on the policy.
    """
    # One sample is what a policy without a critic has.
    named = [name for name in SAMPLE_AXES if texts.get(name) and (name, texts[name].strip()) != ("best_of_n", "1")]
    policy.check_sampling(named, "--")
    own = policy.setting
    values = [_values(name, texts[name]) if texts.get(name) else [getattr(own, name)] for name in ORDER]
    found = [SampleSetting(**dict(zip(ORDER, chosen, strict=True))) for chosen in itertools.product(*values)]
    for setting in found:
        policy.check_setting(setting, "--")
    return found


def _values(name: str, text: str) -> list[Any]:
    """The values of an axis that a flag names."""
    words, kind = [word.strip() for word in text.split(",")], type_hints(SampleSetting)[name]
    if kind is str:
        found = [check_type(word, type_hints(RunConfig)[name], f"--{name}") for word in words]
    else:
        try:
            found = [kind(word) for word in words]
        except ValueError:
            what = "whole numbers such as 1,2,5" if kind is int else "numbers such as 0.01,0.1"
            raise UserError(f"--{name}: expected {what}, got {text!r}") from None
    if len(set(found)) != len(found) or (name in _COUNTS and min(found) < 1):
        what = "solvers" if kind is str else "numbers of at least 1" if name in _COUNTS else "values"
        raise UserError(f"--{name}: expected different {what}, got {text}")
    return found
