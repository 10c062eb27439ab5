"""Conversion of data from earlier releases. Pure functions; files on disk do not change.

The run_id of release 0.1.0 (schema 1) is a hash of the values of all options, so it can be computed only from the
options as they were saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from raybc.config import flat
from raybc.config.options import Role
from raybc.strict import check_type, digest
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

#: The options of release 0.1.0 by their type. This table must not change.
_OF_TYPE_1: dict[type, str] = {
    str: """
        env_name dataset run_group save_dir optimizer lr_schedule freeze precision compile normalization
        normalization_keys sampling_plan_path sampling_plan_sha256 sampler_replacement_override
        plan_subset_mode ogbench_dataset_dir encoder device
    """,
    int: """
        seed training_steps batch_size log_interval eval_interval save_interval num_rounds epochs_per_round
        warmup_steps budget_min_warmup_steps plateau_patience stop_patience watch_interval accumulate
        freeze_steps horizon_length obs_steps hidden_width hidden_depth flow_steps execute_steps
        eval_episodes video_episodes video_frame_skip dataset_proportion_seed holdout_seed
        sampler_seed_override dataset_replace_interval keep
    """,
    float: """
        lr budget_warmup_ratio min_lr plateau_factor stop_min_delta weight_decay grad_clip ema_decay
        eval_temperature temporal_ensemble dataset_proportion top_percent plan_target_effective_repeat
        plan_lr_scale_power plan_lr_min_scale
    """,
    bool: """
        action_chunking use_fourier_features only_successful plan_aware_lr_scale sparse
    """,
}
OPTIONS_1: dict[str, type] = {name: kind for kind, names in _OF_TYPE_1.items() for name in names.split()}
#: Options of release 0.1.0 that were not part of the id.
_PLACES_1 = ("save_dir", "run_group", "device", "keep", "sampling_plan_path")


def run_id_1(values: Mapping[str, Any], data_fingerprint: str) -> str:
    """The run_id of release 0.1.0. values: all options, with their names in that release. Raises `UserError`."""
    missing = [name for name in OPTIONS_1 if name not in values]
    if missing:
        raise UserError(f"expected the option {missing[0]!r}, which is missing")
    identity = {n: check_type(values[n], kind, n) for n, kind in OPTIONS_1.items() if n not in _PLACES_1}
    return digest({"run": identity, "data": data_fingerprint})[:16]


def options_1(run: RunConfig) -> dict[str, Any] | None:
    """The options of a run with their names in release 0.1.0; None if that release did not support the run."""
    today = {old: new for old, new in flat.aliases(type(run)).items() if old in OPTIONS_1}
    values, new = flat.write(run), {}
    for name, info in flat.options_of(run).items():
        if name not in OPTIONS_1 and name not in today.values() and values[name] != info.default:
            return None
    for name in OPTIONS_1:
        if today.get(name, name) not in values:
            return None
        new[name] = values[today.get(name, name)]
    return new


def known_ids(run: RunConfig, data_fingerprint: str, saved: Iterable[Mapping[str, Any]] = ()) -> set[str]:
    """All run_ids that this run may have been saved with: the current one and those of release 0.1.0.

    In release 0.1.0 output options were part of the id. saved: their values in earlier runs.
    """
    found = {run.run_id(data_fingerprint)}
    values = options_1(run)
    if values is not None:
        found.add(run_id_1(values, data_fingerprint))
        for earlier in saved:
            found.add(run_id_1(values | {k: v for k, v in earlier.items() if k in _outputs(run)}, data_fingerprint))
    return found


def _outputs(run: RunConfig) -> set[str]:
    today = {new: old for old, new in flat.aliases(type(run)).items() if old in OPTIONS_1}
    return {today.get(n, n) for n, info in flat.options_of(run).items() if info.option.role is Role.OUTPUT}


def renamed(names: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Saved parameter name -> current name. table: old prefix -> new prefix (`PolicyConfig.renamed_weights`)."""
    found = {}
    for name in names:
        old = next((old for old in table if name.startswith(old)), "")
        found[name] = table[old] + name[len(old) :] if old else name
    return found
