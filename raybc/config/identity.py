"""The identity of a run, which stays the same across releases.

The run_id covers MODEL, MEMBER and SAMPLE options that differ from their defaults, the kinds of its components, and
the data. New options therefore do not change the run_id of existing runs, and OUTPUT options never do. If a default has
to change, `FORMER` keeps the default that identities leave out, so that the ids of saved runs stay valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raybc.config import flat
from raybc.config.options import Option, Role
from raybc.strict import check_type, digest

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

#: Version of the rules for ids. Release 0.1.0 (schema 1) hashed the values of all options.
SCHEMA = 2
#: Option -> the default that identities of this schema leave out, if it differs from the current default.
FORMER: dict[str, Any] = {}


def identity(run: RunConfig) -> dict[str, Any]:
    """Option -> value of the options in the identity of a run."""
    values = flat.write(run)
    found = {}
    for name, info in flat.options_of(run).items():
        single = name == "horizon_length" and name in flat.common_options(type(run)) and not run.action_chunking
        if single or not _is_identifying(run, info.option):
            continue
        value = check_type(values[name], info.hint, name)  # 1 and 1.0 are the same learning rate
        if value != FORMER.get(name, info.default):
            found[name] = value
    return found


def _is_identifying(run: RunConfig, option: Option) -> bool:
    """Whether an option is part of the identity."""
    if option.role is not Role.OUTPUT:
        return True
    return bool(option.models_with) and run.get(option.models_with) != "none"


def run_id(run: RunConfig, data_fingerprint: str) -> str:
    """16 hex digits. data_fingerprint: `EpisodeStore.fingerprint`."""
    return digest({"schema": SCHEMA, "options": identity(run), "data": data_fingerprint})[:16]


def extends(longer: RunConfig, shorter: RunConfig) -> bool:
    """Whether `longer` differs from `shorter` only in a larger budget, apart from OUTPUT options. The offline part of a
    run with an online part has its length."""
    budget = ["training_steps", "num_rounds", "epochs", "schedule_steps", "schedule_after", "online_steps"]
    if not shorter.critic.online_updates:
        budget += ["learning_starts", "utd", "policy_lag"]  # of an online part that has not begun

    def rest(run: RunConfig) -> Mapping[str, Any]:
        return {name: value for name, value in identity(run).items() if name not in budget}

    if shorter.critic.online_updates and longer.training_steps != shorter.training_steps:
        return False
    return rest(longer) == rest(shorter) and longer.total_steps > shorter.total_steps
