//! The names of the files in a database directory: the one place that makes and reads them.
//!
//! ```text
//! CURRENT                   names the manifest in force (grammar below)
//! LOCK                      held by the process that has the database open
//! RESERVE                   space kept free so that deletes and compaction can finish on a full disk
//! manifest-0000000007.log   the manifest: edits since it was begun
//! log-0000000012.wal        a segment of the write-ahead log;  log-spare.wal: one kept for reuse
//! table-0000000031.sst      a table
//! *.tmp                     a file being prepared for a rename
//! ```
//!
//! `CURRENT` is one line of text: `cairn format <version> manifest <id> check <16 hex digits>\n`,
//! the digits being the checksum of everything before ` check`.

use std::path::{Path, PathBuf};

use cairn_codec::checksum64;
use cairn_env::Env;

use crate::error::{Error, Result};
use crate::types::TableId;

/// The version of what is written here and in the bodies of manifest and log: names, `CURRENT`, edits,
/// batches. Segments and tables carry versions of their own. This build reads no other yet.
pub(crate) const FORMAT_VERSION: u32 = 0;

pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const LOCK: &str = "LOCK";
pub(crate) const RESERVE: &str = "RESERVE";
/// `CURRENT` is far shorter; what is longer is not read.
const CURRENT_BYTES_MAX: u64 = 4096;
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The manifest's files.
pub(crate) const MANIFEST: cairn_wal::Naming = cairn_wal::Naming { prefix: "manifest-", suffix: ".log" };
/// The write-ahead log's segments.
pub(crate) const LOG: cairn_wal::Naming = cairn_wal::Naming { prefix: "log-", suffix: ".wal" };

const TABLE_PREFIX: &str = "table-";
const TABLE_SUFFIX: &str = ".sst";

/// What a name in the directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Current,
    Lock,
    Reserve,
    Manifest(u64),
    Log(u64),
    LogSpare,
    Table(TableId),
    Temporary,
    /// Not one of ours.
    Foreign,
}

/// The path of a table.
pub(crate) fn table_path(dir: &Path, id: TableId) -> PathBuf {
    dir.join(table_name(id))
}

fn table_name(id: TableId) -> String {
    format!("{TABLE_PREFIX}{id:010}{TABLE_SUFFIX}")
}

/// Reads a name.
pub(crate) fn classify(name: &str) -> FileKind {
    let table = || {
        let id = name.strip_prefix(TABLE_PREFIX)?.strip_suffix(TABLE_SUFFIX)?.parse().ok()?;
        // One name per table: with a zero more it is not ours.
        (table_name(id) == name).then_some(id)
    };
    match name {
        CURRENT => FileKind::Current,
        LOCK => FileKind::Lock,
        RESERVE => FileKind::Reserve,
        _ => {
            if name.ends_with(TEMPORARY_SUFFIX) {
                FileKind::Temporary
            } else if name == LOG.spare_name() {
                FileKind::LogSpare
            } else if let Some(id) = MANIFEST.parse(name) {
                FileKind::Manifest(id)
            } else if let Some(id) = LOG.parse(name) {
                FileKind::Log(id)
            } else if let Some(id) = table() {
                FileKind::Table(id)
            } else {
                FileKind::Foreign
            }
        }
    }
}

/// The text of `CURRENT`. Every version keeps its form, so that an older build can tell a newer
/// directory from a damaged one.
pub(crate) fn current_text(version: u32, manifest: u64) -> String {
    let body = format!("cairn format {version} manifest {manifest}");
    let check = checksum64(body.as_bytes());
    format!("{body} check {check:016x}\n")
}

/// Makes `manifest` the one in force; atomic and durable when it returns.
pub(crate) fn write_current(env: &Env, dir: &Path, manifest: u64) -> cairn_env::Result<()> {
    env.replace_file(&dir.join(CURRENT), current_text(FORMAT_VERSION, manifest).as_bytes())
}

/// Which manifest is in force; `None` if there is no `CURRENT`.
pub(crate) fn read_current(env: &Env, dir: &Path) -> Result<Option<u64>> {
    let path = dir.join(CURRENT);
    match env.read_file(&path, CURRENT_BYTES_MAX) {
        Ok(bytes) => parse_current(&path, &bytes).map(Some),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Which manifest a file that should be `CURRENT` names.
pub(crate) fn read_current_file(env: &Env, path: &Path) -> Result<u64> {
    parse_current(path, &env.read_file(path, CURRENT_BYTES_MAX)?)
}

fn parse_current(path: &Path, bytes: &[u8]) -> Result<u64> {
    parse_current_text(bytes).map_err(|refused| match refused {
        Refused::Damaged(what) => Error::corrupt(path, Some(0), what),
        Refused::Newer(version) => Error::newer(
            path,
            format!(
                "the directory has format version {version}; this build reads up to {FORMAT_VERSION}: use a newer cairn"
            ),
        ),
    })
}

/// Why the text of `CURRENT` was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Damaged(&'static str),
    Newer(u32),
}

pub(crate) fn parse_current_text(bytes: &[u8]) -> std::result::Result<u64, Refused> {
    let malformed = || Refused::Damaged("it is not the line that names the manifest");
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ["cairn", "format", version, "manifest", id, "check", _] = words.as_slice() else {
        return Err(malformed());
    };
    let version: u32 = version.parse().map_err(|_| malformed())?;
    let id: u64 = id.parse().map_err(|_| malformed())?;
    if current_text(version, id) != text && !cairn_env::mutant("checksum-of-current-skipped") {
        return Err(Refused::Damaged("its checksum does not match"));
    }
    if version > FORMAT_VERSION { Err(Refused::Newer(version)) } else { Ok(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_what_they_are() {
        let path = table_path(Path::new("d"), 31);
        assert_eq!(path, Path::new("d/table-0000000031.sst"));
        for (name, kind) in [
            ("table-0000000031.sst", FileKind::Table(31)),
            ("table-12345678901.sst", FileKind::Table(12_345_678_901)),
            ("CURRENT", FileKind::Current),
            ("CURRENT.tmp", FileKind::Temporary),
            ("LOCK", FileKind::Lock),
            ("RESERVE", FileKind::Reserve),
            ("table-1.sst", FileKind::Foreign),
            ("table-+000000001.sst", FileKind::Foreign),
            ("table-00000000031.sst", FileKind::Foreign),
            ("notes.txt", FileKind::Foreign),
        ] {
            assert_eq!(classify(name), kind, "{name}");
        }
    }

    #[test]
    fn current_golden_bytes_and_damage() {
        let text = current_text(0, 7);
        assert_eq!(text, "cairn format 0 manifest 7 check 4f57c2b988f2f894\n");
        assert_eq!(parse_current_text(text.as_bytes()), Ok(7));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(parse_current_text(&bytes).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert_eq!(parse_current_text(current_text(9, 7).as_bytes()), Err(Refused::Newer(9)));
        let unproven = parse_current_text(b"cairn format 9 manifest 7 check 0");
        assert_eq!(unproven, Err(Refused::Damaged("its checksum does not match")));
        assert!(parse_current_text(b"").is_err());
    }
}
