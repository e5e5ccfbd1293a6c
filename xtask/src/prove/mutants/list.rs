//! The planted defects, and the tests that must catch each: whichever fails first.
//!
//! A test is given as its binary and a part of its name; the likeliest, and then the quickest, comes
//! first.

/// A test binary and a part of the names of its tests.
pub(super) type Catcher = (&'static str, &'static str);

/// A defect by the name that stands in the sources.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) catchers: &'static [Catcher],
}

const fn mutant(name: &'static str, catchers: &'static [Catcher]) -> Mutant {
    Mutant { name, catchers }
}

const CRASH: Catcher = ("crash", "a_crash_at_any_call");
const MODEL: Catcher = ("model", "databases_of_any_options");
const HISTORIES: Catcher = ("histories", "concurrent_histories");
const BAD_DISK: Catcher = ("cairn_wal", "on_a_bad_disk");
const LOG_FORMAT: Catcher = ("cairn_wal", "format::tests");
const REPLAY: Catcher = ("cairn_wal", "replay");
const CURSOR: Catcher = ("cairn_table", "cursor::tests");
const SEAL: Catcher = ("cairn_table", "seal::tests");
const ONE_WINS: Catcher = ("traps", "of_four_writers");
const DAMAGE: Catcher = ("damage", "damage_after_a_clean_close");

const MACHINE: Catcher = ("cairn_durable", "machine::tests");
const TASK_LIVES: Catcher = ("tasks", "a_task_waits_for_an_event");
const SIMULATION: Catcher = ("simulation", "whatever_fails");

pub(super) const MUTANTS: &[Mutant] = &[
    // Syncs and their order.
    mutant("log-not-synced", &[CRASH]),
    mutant("table-not-synced", &[CRASH]),
    mutant("manifest-not-synced", &[CRASH]),
    mutant("directory-not-synced", &[CRASH]),
    mutant("segment-header-not-synced", &[CRASH, BAD_DISK]),
    mutant("segment-name-not-synced", &[CRASH, BAD_DISK]),
    mutant("new-directory-not-synced", &[CRASH]),
    mutant("renamed-before-sync", &[CRASH]),
    mutant("replayed-log-not-synced", &[CRASH]),
    mutant("acknowledged-before-sync", &[CRASH]),
    mutant("applied-taken-for-durable", &[("liveness", "what_is_applied_has_a_ticket")]),
    mutant("durable-before-sync", &[HISTORIES]),
    mutant("flushed-before-log-synced", &[CRASH]),
    mutant("snapshots-listed-before-sync", &[("durable_snapshots", "a_snapshot_of_the_durable")]),
    mutant("log-removed-before-edit", &[("crash", "a_crash_within_a_flush")]),
    mutant("input-removed-before-edit", &[CRASH]),
    // Failures.
    mutant("failed-sync-tried-again", &[BAD_DISK]),
    mutant("failed-sync-acknowledged", &[("traps", "after_a_failed_sync"), ("faults", "a_failed_sync")]),
    mutant("lost-writes-stay-visible", &[("traps", "after_a_failed_sync")]),
    mutant("doubtful-edit-refused", &[("faults", "no_space_at_any_call")]),
    mutant("full-disk-taken-for-done", &[BAD_DISK]),
    mutant("refused-group-left-behind", &[BAD_DISK]),
    // Damage.
    mutant("log-checksum-skipped", &[DAMAGE, REPLAY]),
    mutant("salt-of-segment-skipped", &[LOG_FORMAT]),
    mutant("group-not-bound-to-its-place", &[LOG_FORMAT]),
    mutant("body-not-bound-to-its-group", &[LOG_FORMAT]),
    mutant("table-checksum-skipped", &[DAMAGE, SEAL]),
    mutant("block-not-bound-to-its-place", &[SEAL]),
    mutant("checksum-of-current-skipped", &[DAMAGE, ("cairn", "current_golden_bytes")]),
    mutant("damaged-middle-cut", &[("damage", "damage_after_a_kill"), REPLAY]),
    mutant("lost-end-of-log-accepted", &[("check", "closed_log_lost_its_end")]),
    // Recovery.
    mutant("last-group-of-segment-skipped", &[CRASH, REPLAY]),
    mutant("flushed-one-too-high", &[CRASH, MODEL]),
    mutant("flushed-numbers-forgotten", &[("traps", "numbers_go_on")]),
    mutant("number-reused-after-reopen", &[("traps", "numbers_go_on")]),
    mutant("table-number-reused", &[("traps", "table_numbers")]),
    mutant("keyspace-mixed-up-at-replay", &[CRASH]),
    // Dropped keyspaces.
    mutant("dropped-keyspace-id-forgotten", &[("keyspaces", "the_id_of_the_newest"), CRASH]),
    mutant("dropped-before-log-synced", &[("keyspaces", "what_was_written_before_a_drop"), CRASH]),
    mutant("dropped-keyspace-reinstalled", &[("keyspaces", "a_flush_or_compaction_that_meets")]),
    mutant("dropped-numbers-forgotten", &[("keyspaces", "numbers_go_on")]),
    mutant("write-to-a-dropped-keyspace-taken", &[("keyspaces", "batches_among_which")]),
    // Who waits for whom.
    mutant("submitted-batch-not-told", &[("liveness", "a_submitted_batch")]),
    mutant("group-follower-not-woken", &[("liveness", "writers_that_others")]),
    mutant("sync-waiter-not-woken", &[("liveness", "writers_that_others")]),
    mutant("end-of-flush-not-told", &[("liveness", "who_waits_for_a_flush")]),
    // What a read sees.
    mutant("visible-before-applied", &[HISTORIES]),
    mutant("number-before-catalog", &[("traps", "a_read_that_meets"), HISTORIES]),
    mutant("memtable-gone-before-its-tables", &[("traps", "a_read_that_meets")]),
    mutant("level0-oldest-first", &[("traps", "flushed_tombstone"), MODEL]),
    mutant("last-key-of-table-missed", &[("traps", "the_last_key")]),
    mutant("filter-without-tombstones", &[("traps", "a_flushed_tombstone")]),
    mutant("separator-off-by-one", &[MODEL, CURSOR]),
    mutant("split-versions-not-separated", &[MODEL, CURSOR]),
    mutant("seek-ends-with-its-block", &[MODEL, CURSOR]),
    mutant("cached-block-of-another-table", &[MODEL]),
    // Conditions.
    mutant("condition-decided-too-early", &[ONE_WINS, HISTORIES]),
    mutant("condition-decided-within-its-group", &[ONE_WINS, HISTORIES]),
    mutant("condition-off-by-one", &[ONE_WINS, HISTORIES]),
    mutant("condition-guessed", &[("traps", "a_condition_about_a_moment")]),
    // What flush and compaction keep.
    mutant("tombstone-dropped-under-a-snapshot", &[MODEL, ("cairn", "retain")]),
    mutant("tombstone-dropped-above-a-value", &[("traps", "a_tombstone_is_kept")]),
    mutant("snapshots-forgotten", &[("traps", "a_snapshot_and_an_iterator")]),
    mutant("merge-picks-older", &[("traps", "flush_and_compaction_at_once"), MODEL]),
    mutant("overlapping-tables-not-merged", &[("traps", "a_tombstone_is_kept"), MODEL]),
    mutant("touching-tables-moved", &[("traps", "tables_that_share_no_key")]),
    mutant("tombstones-passed-beyond-another-source", &[("traps", "runs_of_tombstones")]),
    mutant("compaction-undoes-a-flush", &[HISTORIES, MODEL]),
    mutant("pinned-file-removed", &[("traps", "the_file_that_an_iterator_pins")]),
    mutant("pinned-blocks-not-counted", &[("traps", "what_readers_pin")]),
    // The server.
    mutant("server-answers-before-durable", &[("durable", "what_was_answered")]),
    mutant("gathered-puts-share-a-number", &[("gather", "puts_that_arrive_together")]),
    mutant("server-shows-what-may-be-lost", &[("durable", "what_may_be_lost")]),
    // Tasks.
    mutant("task-answered-before-durable", &[TASK_LIVES, SIMULATION]),
    mutant("tasks-of-a-killed-server-kept", &[("tasks", "after_a_restart"), SIMULATION]),
    mutant("silent-worker-kept", &[("tasks", "a_vanished_worker"), SIMULATION]),
    mutant("stale-fence-taken", &[MACHINE, SIMULATION]),
    mutant("losers-of-a-group-stay", &[MACHINE]),
    mutant("deadline-moved-by-a-replay", &[MACHINE]),
    mutant("late-event-beats-its-timeout", &[MACHINE]),
    mutant("lost-run-costs-an-attempt", &[MACHINE]),
    mutant("step-recorded-anew", &[MACHINE]),
    mutant("last-waiter-not-told", &[TASK_LIVES, SIMULATION]),
    mutant("further-waiters-forgotten", &[("tasks", "more_waiters")]),
    mutant("further-waiters-forgotten-at-open", &[("tasks", "who_was_not_told")]),
    mutant("steps-not-counted-at-open", &[("tasks", "after_a_restart")]),
    mutant("end-of-a-child-not-told", &[("tasks", "a_parent_waits"), SIMULATION]),
    mutant("window-skips-an-entry", &[("cairn_durable", "window::tests")]),
    mutant("index-entry-stays", &[SIMULATION]),
    mutant("survivors-dropped", &[("retention", "what_has_ended")]),
    mutant("retried-in-a-closing-bucket", &[("retention", "while_a_bucket")]),
    mutant("lost-hand-out-kept", &[("tasks", "a_hand_out_that_never")]),
    mutant("beat-keeps-nothing", &[("tasks", "a_beat_that_names")]),
    mutant("clock-jump-believed", &[("cairn_durable", "trust::tests")]),
    mutant("deletion-not-marked", &[("power_cuts", "a_queue_is_deleted")]),
    mutant("untold-not-kept", &[("unreadable", "who_cannot_be_read")]),
];

/// What cargo builds for that.
pub(super) const BUILD: &[&str] = &[
    "test",
    "--no-run",
    "--package=cairn",
    "--package=cairn-wal",
    "--package=cairn-table",
    "--package=cairn-server",
    "--package=cairn-durable",
    "--lib",
    "--test=check",
    "--test=crash",
    "--test=damage",
    "--test=durable_snapshots",
    "--test=faults",
    "--test=histories",
    "--test=keyspaces",
    "--test=liveness",
    "--test=model",
    "--test=traps",
    "--test=durable",
    "--test=gather",
    "--test=retention",
    "--test=tasks",
    "--test=simulation",
    "--test=power_cuts",
    "--test=unreadable",
];
