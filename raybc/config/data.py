"""Options of the task, its data, and the sampling plan that may choose among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raybc.config.options import CHANGED, Role, option

#: Options that name files or folders which a run reads.
INPUTS = (
    "dataset", "ogbench_dataset_dir", "sampling_plan_path", "init_from", "norm_stats_from", "pretrained",
    "language_model", "scores_path",
)  # fmt: skip
#: `env_name` of a run that has data and no simulator.
NO_ENVIRONMENT = "none"
Normalization = Literal["mean_std", "min_max", "quantile", "identity"]
#: The name of the actions in `DataOptions.normalization_keys`.
ACTIONS = "actions"


def implied_environment(values: Mapping[str, Any]) -> dict[str, str]:
    """{"env_name": "none"} where the options that a user wrote name a dataset and no environment; else {}.

    The default of `env_name` is a task with published data, which is never meant by someone who names a dataset.
    """
    return {"env_name": NO_ENVIRONMENT} if values.get("dataset") and not values.get("env_name") else {}


_BY_THE_PLAN = ("sampling_plan_path", "the plan says which episodes are used")
_WINDOWS_OF_THE_PLAN = ("sampling_plan_path", "the plan says which windows are drawn")
_SCALED = ({"plan_aware_lr_scale": True},)
_OF_STATISTICS = ("norm_stats_from", "name a file or a run there")
_OF_SCORES = ("scores_path", "name scores there")
_RANKED = ({"top_percent": CHANGED},)
_OF_A_PLAN = ("sampling_plan_path", "name a plan there")


@dataclass(frozen=True)
class DataOptions:
    """Task and data."""

    env_name: str = option("halfcheetah-medium-v2", axis="a sweep has one task")
    """Task and data: a D4RL name, or TASK-DATA-OBS such as lift-scripted-low_dim. none: there is no simulator (also
    where a dataset is named and no environment); held-out episodes are measured instead."""
    dataset: str = option("", role=Role.OUTPUT, axis="a sweep has one dataset")
    """Path or published name of a dataset in any known format (empty: the data that env_name names)."""
    ogbench_dataset_dir: str = option("", role=Role.OUTPUT, axis="a sweep has one dataset")
    """Folder with OGBench datasets; env_name names one of them."""
    obs_steps: int = option(1, at_least=1)
    """T, the number of observations the policy sees: the current one and those before it."""
    pad_before: int = option(-1, at_least=-1, excluded_by=_WINDOWS_OF_THE_PLAN)
    """How often a window may repeat the first observation of its episode, at most obs_steps - 1 (-1: as often as
    needed, so the first step begins a window)."""
    normalization: Normalization = "mean_std"
    """Statistics for observations and actions, fitted on the training split."""
    normalization_keys: str = ""
    """Other statistics for some observations or for `actions`, e.g. robot0_eef_pos=min_max,actions=quantile."""
    action_rotation: Literal["as_recorded", "rotation_6d"] = "as_recorded"
    """Rotations of actions that are learned. rotation_6d: for arms with a position, an axis-angle and a gripper, which
    are converted for training and back for acting; the six numbers are not normalised."""
    action_units: str = "as_recorded"
    """Units of the actions that are learned. physical: metres, radians and the opening of grippers (0 to 1), by the
    controller that the data describe; or for each number of an action what 1 means, e.g.
    0.05,0.05,0.05,0.5,0.5,0.5,open. Everything outside the network has the environment's units."""
    norm_stats_from: str = option("", role=Role.OUTPUT, axis="a sweep has one dataset")
    """Take the statistics of normalisation from this run, bundle or norm_stats.json instead of fitting them."""
    norm_stats_sha256: str = option("", needs=_OF_STATISTICS, axis="it is found in the statistics")
    """Required sha256 of these statistics (empty: any; recorded when training starts)."""
    dataset_proportion: float = option(1.0, above=0, at_most=1, excluded_by=_BY_THE_PLAN)
    """Fraction of the training episodes to use."""
    dataset_proportion_seed: int = option(
        -1, at_least=-1, excluded_by=_BY_THE_PLAN, only_with=({"dataset_proportion": CHANGED},)
    )
    """Which fraction: the first episodes (-1), or a random choice with this seed; smaller ones are nested in larger."""
    only_successful: bool = option(False, excluded_by=_BY_THE_PLAN, aliases=("only_success",))
    """Use only episodes that reached the goal, where the data say so."""
    top_percent: float = option(100.0, above=0, at_most=100, excluded_by=_BY_THE_PLAN)
    """Use only this percentage of the episodes, those with the highest return, or with scores_path the best scores."""
    scores_path: str = option("", role=Role.OUTPUT, axis="a sweep has one dataset", excluded_by=_BY_THE_PLAN)
    """Scores of the episodes by `raybc data quality`, by which top_percent ranks them (empty: by their returns)."""
    scores_sha256: str = option("", needs=_OF_SCORES, axis="it is found in the scores")
    """Required sha256 of the scores (empty: any; recorded when training starts)."""
    score_column: str = option("quality", needs=_OF_SCORES, only_with=_RANKED)
    """The column of the scores by which top_percent ranks episodes."""
    holdout_seed: int = option(-1, at_least=-1, excluded_by=_BY_THE_PLAN)
    """Hold out 20 % of all episodes, chosen with this seed, as the split `valid` (-1: the data's own splits)."""
    drop_idle: bool = False
    """Leave out idle steps, which command no motion and leave the gripper as it is, before windows are made."""
    keep_idle: int = option(0, at_least=0, needs=("drop_idle", "it says how many idle steps are left"))
    """With drop_idle: number of idle steps that stay at the beginning of each pause (a robot may still move)."""
    action_key: str = option("", axis="a sweep has one dataset")
    """The array of the dataset that is the action, by its name in the file (empty: the format's)."""
    obs_keys: str = option("", axis="a sweep has one dataset")
    """Observations of the policy, separated by commas (empty: all of the task, or of the data without a simulator)."""
    skip_bad_episodes: bool = option(False, role=Role.OUTPUT, axis="a sweep has one dataset")
    """Leave out episodes that cannot be read or differ from most in names or sizes; data_notes.json lists them."""
    dataset_replace_interval: int = option(0, at_least=0, excluded_by=_BY_THE_PLAN)
    """Steps after which training moves to the next file of a multi-file dataset (0: all files at once)."""
    sparse: bool = option(False, role=Role.OUTPUT, models_with="critic", axis="a sweep has one reward")
    """Sparse rewards for a critic: -1 a step and 0 at the success that ends an episode, instead of the data's rewards
    (behaviour cloning does not use rewards)."""


@dataclass(frozen=True)
class PlanOptions:
    """Sampling plan: which windows are drawn, and how often."""

    sampling_plan_path: str = option("", role=Role.OUTPUT, identified_by="sampling_plan_sha256")
    """A sampling plan made by `raybc plan build` (empty: all windows equally often)."""
    sampling_plan_sha256: str = option("", needs=_OF_A_PLAN, axis="it is found in the plan")
    """Required sha256 of the plan (empty: any plan; recorded when training starts)."""
    sampler_seed_override: int = option(-1, at_least=-1, needs=_OF_A_PLAN)
    """Sampler seed instead of the plan's (-1: the plan's)."""
    sampler_replacement_override: Literal["plan", "True", "False"] = option("plan", needs=_OF_A_PLAN)
    """Draw with replacement (True), every anchor once per epoch (False), or as the plan says."""
    plan_subset_mode: Literal["all", "anchors", "episodes", "episodes_valid"] = option("all", needs=_OF_A_PLAN)
    """Fit normalisation on all training episodes, or on this part of the plan."""
    plan_aware_lr_scale: bool = option(False, needs=_OF_A_PLAN)
    """Lower the learning rate where the plan repeats its windows often."""
    plan_target_effective_repeat: float = option(50.0, above=0, needs=_OF_A_PLAN, only_with=_SCALED)
    """Effective repeats (draws / ESS) up to which the learning rate is kept."""
    plan_lr_scale_power: float = option(0.5, at_least=0, needs=_OF_A_PLAN, only_with=_SCALED)
    """The learning rate is scaled by (target / effective repeats)^power."""
    plan_lr_min_scale: float = option(0.05, above=0, at_most=1, needs=_OF_A_PLAN, only_with=_SCALED)
    """Lowest scale of the learning rate."""
