"""Tests that only the long form runs: `pytest -m long`, beside those that are marked where they are written.

Each takes many seconds and has a sibling, named in the comment, that the ordinary run keeps. A name stands for all
parameters of a test, a name with parameters for that case alone.
"""

from __future__ import annotations

LONG_FORMS: dict[str, tuple[str, ...]] = {
    # The oldest and the newest release every time; that runs and tables are read, of some between as well.
    "compatibility/test_releases.py": tuple(
        f"{test}[{release}]"
        for test in ("test_its_model_answers_as_it_did", "test_its_interrupted_run_goes_on_from_its_checkpoint")
        for release in (f"{step:04}" for step in range(2, 21))
    )
    + tuple(f"test_its_runs_and_tables_are_read[{step:04}]" for step in (2, 3, 4, 6, *range(8, 21))),
    # test_access_matrix asks every route, with objects that exist.
    "control/test_access.py": ("test_every_route_requires_a_live_key", "test_a_wrong_scope_is_403"),
    # CSV and Parquet; tests/datasets reads each format.
    "cli/test_train.py": (
        "test_a_table_of_each_format_ends_with_a_command_that_works[circle.csv.gz]",
        "test_a_table_of_each_format_ends_with_a_command_that_works[circle.jsonl]",
    ),
    # Numbers as in "penguins", counts as in "bike_hour", times as in "nyc_taxis".
    "telemetry/test_tables.py": (
        "test_training_rows_do_not_drift_and_shifted_ones_do[insurance]",
        "test_training_rows_do_not_drift_and_shifted_ones_do[winequality_red]",
    ),
    # Batches of one row are the last batch of "a last batch of one row".
    "trainer/test_tiny_tables.py": (
        "test_a_tiny_table_is_trained_and_served[batches of one row]",
        "test_a_tiny_table_is_trained_and_served[two rows]",
    ),
    # The commands of these pages are tested by the area that they are about; the other pages run every time.
    "docs/test_blocks.py": (
        "test_a_page[docs/explanation/architecture.md]",
        "test_a_page[docs/explanation/parity.md]",
        "test_a_page[docs/how-to/batch.md]",
        "test_a_page[docs/how-to/canary.md]",
        "test_a_page[docs/how-to/clients.md]",
        "test_a_page[docs/how-to/decide.md]",
        "test_a_page[docs/how-to/ensembles.md]",
        "test_a_page[docs/how-to/export.md]",
        "test_a_page[docs/how-to/keys.md]",
        "test_a_page[docs/how-to/organise-runs.md]",
        "test_a_page[docs/how-to/rollouts.md]",
        "test_a_page[docs/how-to/scikit-learn.md]",
        "test_a_page[docs/how-to/slices.md]",
        "test_a_page[docs/how-to/upgrade.md]",
        "test_a_page[docs/how-to/upload-big-files.md]",
        "test_a_page[docs/how-to/watch.md]",
        "test_an_example_of_the_command_line[fitserve doctor --json]",
        "test_an_example_of_the_command_line[fitserve models export admissions --format onnx-raw]",
        "test_an_example_of_the_command_line[fitserve train admissions.csv --target admit]",
    ),
    # A benchmark in all but name: ten thousand runs.
    "dashboard/test_speed.py": ("test_first_paint_of_list_and_comparison",),
    # The blobs' copy and the restored database are tested every time.
    "layout/test_backup.py": ("test_the_embedded_folder_with_a_run_in_training",),
    # Tests of the fault harness itself: mutants that it has to catch.
    "faults/test_mutants.py": (
        "test_the_harness_catches_the_mutant",
        "test_the_same_scenario_passes_with_the_guarantee",
    ),
    # Divided runs survive crashes everywhere, and an idle worker helps.
    "faults/test_division.py": (
        "test_a_helper_that_is_killed_costs_time_alone",
        "test_a_helper_that_is_paused_past_its_lease_changes_nothing",
        "test_a_run_that_is_handed_back_finds_its_trials_again",
        "test_a_run_whose_worker_is_killed_finds_its_trials_again",
    ),
    # Its trainer dies mid-epoch, and the supervisor at every other line.
    "faults/test_crash_points.py": ("test_a_worker_dies_here[supervisor dies mid-epoch]",),
    # Cut off both ways.
    "hosts/test_partitions.py": (
        "test_a_worker_cut_off_loses_its_run_to_another_and_works_again[mute]",
        "test_a_worker_cut_off_loses_its_run_to_another_and_works_again[deaf]",
    ),
    "faults/test_slow_database.py": ("test_a_worker_cut_off_hands_its_run_over_and_works_again",),
    # The first lesson and the laboratory.
    "examples/test_lessons.py": (
        "test_a_lesson_keeps_what_it_claims[04_softmax]",
        "test_a_lesson_keeps_what_it_claims[10_random_restarts]",
        "test_the_admissions_lab_reaches_what_its_notebook_reports",
    ),
    # Momentum and restarts.
    "insight/test_lessons.py": (
        "test_tanh_and_relu_train_the_deep_network_where_sigmoid_does_not",
        "test_l1_gives_sparser_weights_than_l2",
        "test_stochastic_descent_beats_batch_descent_in_time_to_the_same_loss",
    ),
    # Other tables.
    "insight/test_sound_specs.py": (
        "test_real_leaks_are_found[bike_hour.csv-spec0-registered]",
        "test_a_real_table_has_no_findings[bank]",
        "test_a_real_table_has_no_findings[red wine]",
        "test_a_real_table_has_no_findings[titanic, tanh]",
        "test_a_bundled_table_has_no_findings[diabetes]",
        "test_a_bundled_table_has_no_findings[digits, dropout]",
        "test_a_bundled_table_has_no_findings[wine, elu and batch normalisation]",
        "test_a_playground_sample_has_no_findings[gauss, restarts]",
        "test_a_playground_sample_has_no_findings[plane]",
    ),
    # Overfitting, a learning rate that is too low, rare labels. That a network without the fault has no such finding is
    # shown by all sound specs at once.
    "insight/test_findings.py": tuple(f"test_the_twin_does_not_have_the_finding[{rule}]" for rule in ("overfitting",))
    + tuple(
        f"{test}[{rule}]"
        for test in ("test_a_rule_applies_and_its_patch_helps", "test_the_twin_does_not_have_the_finding")
        for rule in (
            "better_reference",
            "dead_relus",
            "exploding_gradients",
            "few_columns",
            "leaking_column",
            "learning_rate_too_high",
            "restarts_disagree",
            "saturated_units",
            "stopped_too_early",
            "stuck_at_baseline",
            "target_scale",
            "underfitting",
            "validation_easier",
            "vanishing_gradients",
            "weak_slice",
        )
    ),
    # Four of the twelve, of one, two and three axes; the data of all of them are asked every time.
    "insight/test_plots.py": tuple(
        f"test_a_plot_shows_its_figures[{plot}]"
        for plot in ("confusion", "histograms", "importance", "layers", "predicted", "residuals", "roc", "units")
    ),
    # The scopes that read, predict and train.
    "control/test_access_effects.py": (
        "test_a_scope_changes_only_what_it_is_for[keys]",
        "test_a_scope_changes_only_what_it_is_for[upload]",
    ),
    # On SQLite every time; that a run goes on and is made once is tested on both.
    "datasets/test_import_runs.py": ("test_holders_and_helpers_die_at_each_line[postgresql]",),
    # An object of the other format.
    "datasets/test_file_sources.py": ("test_an_object_that_changes_midway_is_never_half_of_a_dataset[parquet]",),
    # Trials of a divided run are the same; a stack of members resumes to the bit.
    "trainer/test_divided_trials.py": ("test_divided_members_make_the_same_ensemble",),
    "trainer/test_switches.py": (
        "test_a_run_with_switches_that_is_released_ends_as_an_undisturbed_one",
        "test_members_switch_alike_stacked_and_one_after_the_other",
        "test_an_ensemble_with_a_switch_that_is_released_ends_as_an_undisturbed_one",
    ),
    # Code is exported from a network with ordinary names.
    "client/test_exports.py": ("test_names_are_no_code",),
    # "several" has such an output, "names" has the odd names.
    "predict/test_parity.py": tuple(
        f"test_every_protocol_answers_what_keras_predicts[{name}-{protocol}]"
        for name in ("multilabel", "plain-names")
        for protocol in (
            *("tfs_rows", "tfs_positional", "tfs_columns", "tfs_classify_and_regress", "tfs_grpc", "tfs_grpc_examples"),
            *("oip_json", "oip_binary", "oip_grpc", "csv_text", "fast_lane", "batch"),
        )
    ),
    # Text as in "sms", many rows of few kinds as in "bank", numbers as in "insurance", two labels as in "titanic".
    "journey/test_real_tables.py": tuple(
        f"test_a_tables_own_lines_are_answered_as_training_saw_them[{name}]"
        for name in ("imdb", "kddcup", "bike", "mpg", "pima", "student", "winequality")
    ),
    # The journey trains on these tables.
    "datasets/test_formats.py": ("test_real_tables_have_the_right_kinds",),
    # Other optimizers, outputs, ways to validate. Adam trains as in fit beside each regularizer, and AdamW is one.
    "trainer/test_loop.py": (
        "test_each_optimizer_trains_as_in_fit[adam]",
        "test_each_optimizer_trains_as_in_fit[ftrl]",
        "test_each_optimizer_trains_as_in_fit[nadam]",
        "test_each_optimizer_trains_as_in_fit[nesterov]",
        "test_each_optimizer_trains_as_in_fit[rmsprop-centered]",
        "test_each_regularizer_counts_as_in_fit[L1L2]",
        "test_an_embedding_trains_as_in_fit[RMSprop]",
        "test_early_stopping_restores_the_epoch_that_fit_restores[0]",
    ),
    "trainer/test_artifact.py": ("test_an_offset_costs_no_digits[0.0-1e-06]",),
    "trainer/test_ensemble.py": (
        "test_a_stacked_member_is_the_same_member_alone[holdout]",
        "test_a_resumed_ensemble_ends_where_an_undisturbed_one_does[4-False]",
        "test_the_serving_graph_is_small_and_gives_what_keras_gives[side]",
        "test_the_serving_graph_is_small_and_gives_what_keras_gives[sum]",
        "test_the_serving_graph_is_small_and_gives_what_keras_gives[target2]",
        "test_all_members_stop_together_and_keep_their_best_weights[60]",
        "test_a_row_of_many_zeros_is_served_by_the_others[usual]",
    ),
    "trainer/test_search.py": (
        "test_a_stacked_trial_is_what_it_is_alone[dropout]",
        "test_a_stacked_trial_is_what_it_is_alone[learning_rate]",  # of which a schedule is made
        "test_a_stacked_trial_is_what_it_is_alone[seed]",
        "test_a_search_goes_on_within_a_group",
        "test_several_trials_are_served_as_one_graph[3]",
    ),
    "trainer/test_trials.py": ("test_stacked_trials_end_as_they_would_alone[8-2]",),
    "trainer/test_folds.py": ("test_figures_are_those_of_the_rows_that_were_held_back[folds1]",),
    "trainer/test_kept_epochs.py": ("test_kept_epochs_are_the_winners_and_survive_a_resumption[False]",),
    "trainer/test_calibration.py": ("test_folds_are_calibrated_out_of_fold[none]",),
    # The demonstration's parts are the README's and the journey's.
    "cli/test_commands.py": ("test_the_demo_reaches_its_scores",),
}
