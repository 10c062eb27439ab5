"""Which tests cover what the guides name: the rows of the tables in docs/training.md and docs/plans.md."""

from __future__ import annotations

import re

from tests.helpers import ROOT

#: Row of the table -> its tests.
TRAINING: dict[str, tuple[str, ...]] = {
    "--run_group": ("test_commands.py",),
    "--seed": ("test_train.py::test_members_see_their_own_numbers",),
    "--env_name": (
        "test_d4rl.py",
        "test_commands.py",
    ),
    "--save_dir": ("test_train.py::test_the_state_may_move_to_another_place",),
    "--training_steps": ("test_commands.py",),
    "--batch_size": ("test_train_recipe.py::test_a_batch_in_parts_is_the_same_batch",),
    "--log_interval": ("test_train.py::test_where_one_stops_to_log_changes_nothing",),
    "--eval_interval": ("test_commands.py",),
    "--save_interval": ("test_commands.py",),
    "--lr": ("test_train.py::test_an_optimiser_step_is_adamws",),
    "--weight_decay": ("test_train.py::test_an_optimiser_step_is_adamws",),
    "--flow_steps": ("test_policies.py",),
    "--horizon_length": ("test_train.py",),
    "--action_chunking": ("test_config.py",),
    "--use_fourier_features": ("test_policies.py",),
    "--eval_episodes": ("test_commands.py",),
    "--video_episodes": ("test_commands.py",),
    "--video_frame_skip": ("test_commands.py",),
    "--dataset_proportion": ("test_train_recipe.py::test_a_proportion_of_the_episodes",),
    "--dataset_replace_interval": ("test_rotation.py",),
    "--ogbench_dataset_dir": (
        "test_train_data.py::test_ogbench_dataset_dir",
        "test_rotation.py",
    ),
    "--sparse": ("test_train_command.py::test_defaults_of_the_guide",),
    "--encoder": ("test_images.py",),
    "--device": ("test_train.py::test_pick_device",),
}

#: Row of the table -> its tests.
PLAN: dict[str, tuple[str, ...]] = {
    "--repo-id": ("test_plan_command.py::test_a_plan_from_build_to_show",),
    "--train-config-name (H and batch size)": ("test_plan_command.py::test_a_plan_from_build_to_show",),
    "--num-episodes-keep": ("test_plan.py::test_fewer_episodes_are_a_part_of_more",),
    "--episode-selection-seed": ("test_plan.py::test_seeds_choose_fairly",),
    "--valid-start-tail-keep": ("test_plan.py::test_valid_starts",),
    "--stride-S": ("test_plan.py::test_plans_are_what_plain_loops_make",),
    "--plan-seed": ("test_plan.py::test_offsets_depend_on_seed_and_episode",),
    "--min-anchors, halving": ("test_plan.py::test_the_stride_is_halved_until_there_are_enough",),
    "--stage-strategy": ("test_plan.py::test_time_stages_of_known_episodes",),
    "--num-stages-K": ("test_plan.py::test_a_state_step_is_a_boundary",),
    "--change-point-delta": ("test_plan_signals.py::test_a_step_is_found_where_it_begins",),
    "--change-point-min-gap": ("test_plan_signals.py::test_suppression_takes_the_highest_first",),
    "--stage-balance": ("test_plan.py::test_uniform_over_stage_draws_every_stage_equally",),
    "--inv-freq-power": ("test_plan.py::test_inverse_frequencies",),
    "--clip-ratio": ("test_plan.py::test_weights_are_cut_and_mixed",),
    "--epsilon-mix": ("test_plan.py::test_weights_are_cut_and_mixed",),
    "--gripper-event-enabled": ("test_plan_signals.py::test_windows_at_a_closing_gripper_weigh_more",),
    "--gripper-dims": ("test_plan_signals.py::test_several_grippers_are_one_signal",),
    "--gripper-smooth-window": ("test_plan_signals.py::test_jitter_is_no_event",),
    "--gripper-delta1, --gripper-delta2": ("test_plan_signals.py::test_the_scale_of_differences",),
    "--gripper-quantile-q": ("test_plan_signals.py::test_jumps_that_fill_more_than_the_quantile_are_found",),
    "--gripper-min-gap": ("test_plan_signals.py::test_gripper_events_are_what_plain_loops_find",),
    "--gripper-event-mode": ("test_plan.py::test_events_raise_weights",),
    "--gripper-sigma": ("test_plan.py::test_events_raise_weights",),
    "--gripper-window-w": ("test_plan.py::test_events_raise_weights",),
    "--gripper-gamma": ("test_plan.py::test_events_raise_weights",),
    "--sampler-seed": ("test_plan_exposure.py::test_draws_are_a_function_of_seeds_and_block",),
    "--replacement, --no-replacement": (
        "test_plan_exposure.py::test_draws_with_replacement_follow_the_weights",
        "test_plan_exposure.py::test_orders_without_replacement_are_those_of_torch",
    ),
    "--out-dir": ("test_plan_files.py::test_folders_are_not_lost_by_accident",),
    "plan_meta.json, plan_arrays.npz": ("test_plan_files.py::test_what_is_written_is_read",),
    "plan_sha256": ("test_plan_files.py::test_the_name_of_a_plan_is_its_contents",),
    "episodes_keep": ("test_plan_files.py::test_what_is_written_is_read",),
    "valid_start_rule": ("test_plan.py::test_a_negative_tail_is_none",),
    "anchor_indices, weights, stages": ("test_plan.py::test_plans_are_what_plain_loops_make",),
    "verify_sampling_plan.py --plan-path": (
        "test_plan_files.py::test_edits_with_new_checksums_are_found_by_building_again",
    ),
    "a plan as folder, meta or arrays": ("test_plan_files.py::test_what_is_written_is_read",),
    "Sampling plan repo_id mismatch, Sampling plan dataset_fingerprint mismatch": (
        "test_plan_files.py::test_other_data_is_refused",
    ),
    "Not enough anchors for one batch": ("test_plan.py::test_too_few_anchors_are_refused",),
    "ESS, expected_unique, expected_coverage, avg_repeat": (
        "test_plan_exposure.py::test_exposure_is_the_formula",
        "test_plan_exposure.py::test_exposure_is_what_happens",
    ),
    "repeat_eff and the plan-aware scale of learning rates": ("test_plan_exposure.py::test_learning_rate_scale",),
    "compute_norm_stats.py --plan-subset-mode": ("test_plan_exposure.py::test_rows_to_fit_on",),
}

#: Row of the table -> its tests.
PLAN_TRAINING: dict[str, tuple[str, ...]] = {
    "--sampling-plan-path": (
        "test_train_plan.py::test_only_anchors_are_drawn_as_often_as_their_weights_say",
        "test_train_plan.py::test_noise_and_times_are_those_without_a_plan",
    ),
    "--sampler-seed-override": ("test_train_plan.py::test_seed_override_draws_otherwise",),
    "--sampler-replacement-override": (
        "test_train_plan.py::test_without_replacement_every_anchor_comes_once_an_epoch",
    ),
    "--plan-subset-mode, --data.assets.asset-id (recompute or reuse statistics)": (
        "test_train_plan.py::test_statistics_of_a_subset",
    ),
    "--plan-aware-lr-scale": ("test_train_plan.py::test_the_learning_rate_knows_how_often_windows_come_back",),
    "--plan-target-effective-repeat": ("test_train_plan.py::test_the_learning_rate_knows_how_often_windows_come_back",),
    "--plan-lr-scale-power, --plan-lr-min-scale": (
        "test_train_plan.py::test_the_learning_rate_knows_how_often_windows_come_back",
    ),
    "--budget-aware-schedule": ("test_train_recipe.py::test_warm_up",),
    "--budget-warmup-ratio, --budget-min-warmup-steps": ("test_train_recipe.py::test_warm_up",),
    "--freeze-mode": ("test_train_recipe.py::test_frozen_parameters",),
    "run_summary.json with plan_sha256, ESS, expected_unique, expected_coverage, avg_repeat": (
        "test_train_plan.py::test_the_command",
    ),
    "sampling_plan/ next to the checkpoint": ("test_train_plan.py::test_the_command",),
    "mismatch of repo_id, dataset_len, action_horizon, fingerprint": (
        "test_train_plan.py::test_plans_of_other_trainings_are_refused",
    ),
}


def rows_are_covered(table: str, tests: dict[str, tuple[str, ...]]) -> None:
    """Every row of a table of a page has tests that exist, and every entry is a row."""
    rows = [line.split(" | ")[0].removeprefix("| ").replace("`", "") for line in table.splitlines() if line[:2] == "| "]
    assert rows[1:] == list(tests)
    for name in (test for names in tests.values() for test in names):
        file, _, function = name.partition("::")
        content = (ROOT / "tests" / file).read_text()
        assert not function or re.search(rf"def {function}\(", content), f"{file} has no {function}"
