//! One file of a database as text, for people: what a log segment, a manifest, a table or `CURRENT`
//! holds. Reads that file alone, so it may be copied from elsewhere, renamed, or in use.
//!
//! Owns the words for operations and edits; those for segments, groups and tables come from the
//! crates that own them. What a file is, its content decides; its name only where the content is
//! damaged, or where two kinds look alike.

use std::ops::ControlFlow;
use std::path::Path;

use cairn_env::{Env, File};
use cairn_table::{Load, Table};
use cairn_wal::{Damage, Group, Item, KIND_CLOSING, Scan};

use crate::batch::Ops;
use crate::commit::GROUP_KIND;
use crate::edit::{self, Change};
use crate::error::{Error, Result};
use crate::files::{self, CURRENT, FileKind, LOCK, LOG, MANIFEST, RESERVE, classify};
use crate::manifest::{EDIT_KIND, wal_error};
use crate::output::table_error;
use crate::types::{kind, shown};

/// Where the text goes, line by line.
type Lines<'a> = &'a mut dyn FnMut(&str) -> ControlFlow<()>;

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Current,
    Table,
    /// A segment: of the manifest if true, of the log if false, open if the name does not tell.
    Segment(Option<bool>),
}

/// Tells what a file of a database holds, line by line, until `line` breaks off. Keys are escaped,
/// and cut if they are long; of values only the length is told.
///
/// Damage in a segment is told where it stands and the text goes on behind it.
///
/// ```
/// # use std::ops::ControlFlow;
/// # let env = cairn::Env::memory();
/// # let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
/// # db.put(b"k", b"v")?;
/// # db.close()?;
/// let mut text = String::new();
/// cairn::inspect(&env, "data/log-0000000001.wal".as_ref(), &mut |line| {
///     text.push_str(line);
///     ControlFlow::Continue(())
/// })?;
/// assert!(text.contains("put \"k\" in keyspace 0, a value of 1 bytes"), "{text}");
/// # Ok::<(), cairn::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for a file that is none of a database's, `Corrupt` for a damaged table or `CURRENT`, or
/// one of a newer format; `Io`.
pub fn inspect(env: &Env, path: &Path, line: Lines<'_>) -> Result<()> {
    let file = env.open(path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match recognise(env, path, name, &file)? {
        Content::Table => table(file, line),
        Content::Current => current(env, path, line),
        Content::Segment(manifest) => segment(env, path, manifest, line),
    }
}

fn recognise(env: &Env, path: &Path, name: &str, file: &File) -> Result<Content> {
    let named = match classify(name) {
        FileKind::Current => Some(Content::Current),
        FileKind::Table(_) => Some(Content::Table),
        FileKind::Manifest(_) => Some(Content::Segment(Some(true))),
        FileKind::Log(_) | FileKind::LogSpare => Some(Content::Segment(Some(false))),
        FileKind::Lock | FileKind::Reserve | FileKind::Temporary | FileKind::Foreign => None,
    };
    if let Some(content) = named {
        return Ok(content);
    }
    match Table::identify(file) {
        Ok(_) | Err(cairn_table::Error::Newer { .. }) => return Ok(Content::Table),
        Err(cairn_table::Error::Io(e)) => return Err(e.into()),
        Err(_) => {}
    }
    match Scan::open(env, path, LOG).map_err(wal_error)?.header() {
        Ok(_) | Err(Damage::Newer { .. } | Damage::HeaderChecksum | Damage::HeaderFields) => {
            return Ok(Content::Segment(None));
        }
        Err(_) => {}
    }
    if files::read_current_file(env, path).is_ok() {
        return Ok(Content::Current);
    }
    let what = match name {
        LOCK => "is held by the process that has the database open, and says nothing".to_owned(),
        RESERVE => format!("is {} bytes kept free for deletes on a full disk, and says nothing", file.len()?),
        _ => format!("is no table, log segment, manifest or {CURRENT} of a cairn database"),
    };
    Err(Error::invalid(format!("{} {what}", path.display())))
}

fn current(env: &Env, path: &Path, line: Lines<'_>) -> Result<()> {
    let id = files::read_current_file(env, path)?;
    // Nothing follows: whether it broke off does not matter.
    let _ = line(&format!("format version {}; the manifest in force is {}", files::FORMAT_VERSION, MANIFEST.name(id)));
    Ok(())
}

fn table(file: File, line: Lines<'_>) -> Result<()> {
    let says = Table::identify(&file).map_err(table_error)?;
    let table =
        Table::open(file, says.id, says.file_bytes, None, says.hash_seed, Load::OnDemand).map_err(table_error)?;
    for text in table.describe().map_err(table_error)?.lines() {
        if line(text).is_break() {
            break;
        }
    }
    Ok(())
}

fn segment(env: &Env, path: &Path, manifest: Option<bool>, line: Lines<'_>) -> Result<()> {
    let naming = if manifest == Some(true) { MANIFEST } else { LOG };
    let mut scan = Scan::open(env, path, naming).map_err(wal_error)?;
    let is_manifest = match manifest {
        Some(known) => known,
        None => begins_as_manifest(&mut Scan::open(env, path, naming).map_err(wal_error)?)?,
    };
    let kind = if is_manifest { "manifest" } else { "write-ahead log" };
    let header = match scan.header() {
        Ok(header) => format!("{kind}: {header}"),
        Err(damage) => format!("{kind}: damaged at byte 0: {damage}"),
    };
    if line(&header).is_break() {
        return Ok(());
    }
    while let Some(item) = scan.next().map_err(wal_error)? {
        if line(&item.to_string()).is_break() {
            return Ok(());
        }
        let Item::Group(group) = item else { continue };
        if group.kind == KIND_CLOSING {
            continue;
        }
        let told = if is_manifest { edits(&group, line) } else { operations(&group, line) };
        if told.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// A manifest begins with the whole state; a batch may read as the first change of that, hardly as three.
fn begins_as_manifest(scan: &mut Scan) -> Result<bool> {
    let Some(Item::Group(group)) = scan.next().map_err(wal_error)? else { return Ok(false) };
    let first = group.bodies().next().map(edit::decode);
    let state = |changes: &[Change]| {
        matches!(changes, [Change::Database { .. }, Change::NextTable(_), Change::LogStart(_), ..])
    };
    Ok(matches!(first, Some(Ok(changes)) if state(&changes)))
}

fn operations(group: &Group<'_>, line: Lines<'_>) -> ControlFlow<()> {
    if group.kind != GROUP_KIND {
        return line("  a kind that this build does not know");
    }
    let mut seq = group.first_seq;
    for (index, body) in group.bodies().enumerate() {
        let mut ops = Ops::new(body);
        loop {
            let op = match ops.next() {
                Ok(Some(op)) => op,
                Ok(None) => break,
                Err(e) => return line(&format!("  body {index} does not decode: {e}")),
            };
            let (key, keyspace) = (shown(op.key), op.keyspace);
            line(&match op.kind {
                kind::PUT => format!("  {seq} put {key} in keyspace {keyspace}, a value of {} bytes", op.value.len()),
                _ => format!("  {seq} delete {key} in keyspace {keyspace}"),
            })?;
            seq = seq.saturating_add(1);
        }
    }
    ControlFlow::Continue(())
}

fn edits(group: &Group<'_>, line: Lines<'_>) -> ControlFlow<()> {
    if group.kind != EDIT_KIND {
        return line("  a kind that this build does not know");
    }
    for body in group.bodies() {
        match edit::decode(body) {
            Ok(changes) => {
                for change in &changes {
                    line(&format!("  {}", words(change)))?;
                }
            }
            Err(e) => line(&format!("  an edit does not decode: {e}"))?,
        }
    }
    ControlFlow::Continue(())
}

fn words(change: &Change) -> String {
    match change {
        Change::Database { id, hash_seed } => format!("database {id:#018x}, hash seed {hash_seed:#018x}"),
        Change::Keyspace { id, name } => format!("keyspace {id} is \"{}\"", name.escape_debug()),
        Change::NextTable(id) => format!("the next table is {id}"),
        Change::LogStart(segment) => format!("the log starts with segment {segment}"),
        Change::Flushed { keyspace, seq } => format!("keyspace {keyspace} is flushed up to {seq}"),
        Change::AddTable { keyspace, level, meta } => format!(
            "add table {} to level {level} of keyspace {keyspace}: {} bytes, {} entries, {} tombstones, {} stale, \
             keys {} .. {}, sequence numbers {} .. {}, written at {} ms",
            meta.id,
            meta.file_bytes,
            meta.entries,
            meta.tombstones,
            meta.stale,
            shown(&meta.smallest_key),
            shown(&meta.largest_key),
            meta.smallest_seq,
            meta.largest_seq,
            meta.created_ms,
        ),
        Change::RemoveTable { keyspace, level, id } => {
            format!("remove table {id} from level {level} of keyspace {keyspace}")
        }
        Change::DropKeyspace { keyspace, seq } => {
            format!("keyspace {keyspace} is dropped with its tables; its sequence numbers are up to {seq}")
        }
        Change::Dropped { next, seq } => {
            format!("keyspaces below {next} that are not named were dropped; their sequence numbers are up to {seq}")
        }
    }
}

#[cfg(test)]
mod tests;
