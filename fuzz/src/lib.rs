//! Every decoder of bytes from outside, as targets for a fuzzer and for a plain test.
//!
//! Owns the list of targets ([`TARGETS`]), what each may cost, and the corpora under `corpus/`.
//! `tests/corpus.rs` runs every seed and every file of a corpus in each test run; built with
//! `--cfg fuzzing` the binary is a libFuzzer of the target that `CAIRN_FUZZ_TARGET` names, which
//! `cargo xtask prove --only fuzz` builds and runs; built without it runs the files that it is given.
//! Refuses to know formats: the targets of a crate stand in its own `fuzzing.rs`, unless all that they need is public.
//!
//! What a target promises about any input
//! 1. No panic, in no thread, and no answer that its own oracle contradicts.
//! 2. At most [`Target::heap_base`] and [`Target::heap_multiple`] bytes per byte of input on the heap.
//! 3. Less than [`SECONDS_MAX`].
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool of the repository: it reads corpora and talks to a server with std"
)]

mod harness;
mod http;
mod records;
#[path = "../../crates/cli/src/script.rs"]
#[allow(dead_code, missing_docs, clippy::all, reason = "checked where it belongs, in the binary crate")]
mod script;
mod scripts;
mod surface;
#[path = "../../crates/cli/src/text.rs"]
#[allow(dead_code, missing_docs, clippy::all, reason = "checked where it belongs, in the binary crate")]
mod text;

pub use harness::{SECONDS_MAX, Target};

use cairn::fuzzing as engine;
use cairn_table::fuzzing as table;
use cairn_wal::fuzzing as wal;

const KIB: u64 = 1 << 10;

/// All of them. What the decoders of our own formats may take is what was found necessary, rounded up:
/// a table's blocks may unpack to 255 times their size, and are held packed, unpacked and compared.
/// What whole databases, JSON and requests may take is generous.
pub const TARGETS: &[Target] = &[
    Target::new("wal_log", wal::log, wal::log_seeds, 2_300 * KIB, 60),
    Target::new("table_file", table::file, table::file_seeds, 4_200 * KIB, 1_600),
    Target::new("table_block", table::block, table::block_seeds, 2_200 * KIB, 400),
    Target::new("table_partition", table::partition, table::partition_seeds, 16 * KIB, 200),
    Target::new("table_properties", table::properties, table::properties_seeds, KIB, 4),
    Target::new("table_footer", table::footer, table::footer_seeds, KIB, 4),
    Target::new("table_seal", table::seal, table::seal_seeds, 16 * KIB, 1_100),
    Target::new("engine_batch", engine::batch, engine::batch_seeds, KIB, 4),
    Target::new("engine_edit", engine::edit, engine::edit_seeds, 4 * KIB, 300),
    Target::new("engine_names", engine::names, engine::names_seeds, 4 * KIB, 32),
    Target::new("engine_database", engine::database, engine::database_seeds, 48 << 20, 2_000),
    Target::new("api_target", surface::target, surface::target_seeds, KIB, 16),
    Target::new("api_batch", surface::batch, surface::batch_seeds, 4 * KIB, 64),
    Target::new("api_lines", surface::lines, surface::lines_seeds, 4 * KIB, 64),
    Target::new("api_tasks", surface::tasks, surface::tasks_seeds, 8 * KIB, 200),
    Target::new("durable_rows", records::rows, records::rows_seeds, 4 * KIB, 100),
    Target::new("durable_keys", records::keys, records::keys_seeds, 4 * KIB, 16),
    Target::new("http_request", http::request, http::request_seeds, 64 << 20, 2_000),
    Target::new("cli_script", scripts::script, scripts::script_seeds, 4 * KIB, 400),
    Target::new("cli_numbers", scripts::numbers, scripts::numbers_seeds, KIB, 32),
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
