//! Standard output and standard error, without panics when nobody reads them.

use std::io::{self, IsTerminal, Write};

use cairn_client::ScanLine;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Writes bytes to standard output as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::output)
}

/// Writes an entry to standard output, as a line of JSON.
pub(crate) fn json_line(entry: ScanLine) -> Result<(), Failure> {
    let mut lines = Lines::new();
    lines.json(entry)?;
    lines.finish()
}

/// Writes what a put or delete did to standard output, as a line of JSON.
pub(crate) fn json_written(key: &[u8], value_bytes: Option<usize>) -> Result<(), Failure> {
    let mut written = json_key(key)?;
    if let Some(fields) = written.as_object_mut() {
        fields.extend(value_bytes.map(|bytes| ("value_bytes".to_owned(), json!(bytes))));
    }
    line(&written.to_string())
}

/// A key in the form that entries have: `key`, or `key_base64` where it is not UTF-8.
pub(crate) fn json_key(key: &[u8]) -> Result<Value, Failure> {
    let entry = ScanLine { key: key.to_vec(), value: Vec::new() };
    let mut object =
        serde_json::to_value(entry).map_err(|error| Failure::new(format!("cannot write a key as JSON: {error}")))?;
    if let Some(fields) = object.as_object_mut() {
        fields.remove("value");
    }
    Ok(object)
}

/// Many lines to standard output, gathered into few writes.
pub(crate) struct Lines {
    pending: Vec<u8>,
}

/// Lines are written once so many bytes of them are pending.
const PENDING_BYTES_MAX: usize = 64 << 10;

impl Lines {
    pub(crate) fn new() -> Lines {
        Lines { pending: Vec::new() }
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.pending.extend_from_slice(text.as_bytes());
        self.pending.push(b'\n');
        self.flush_at(PENDING_BYTES_MAX)
    }

    pub(crate) fn json(&mut self, entry: ScanLine) -> Result<(), Failure> {
        let appended = entry.append_to(&mut self.pending);
        appended.map_err(|error| Failure::new(format!("cannot write an entry as JSON: {error}")))?;
        self.flush_at(PENDING_BYTES_MAX)
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush_at(1)
    }

    fn flush_at(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.pending.len() >= bytes {
            raw(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}

/// Writes a line to standard error; if that is gone there is nobody to tell.
pub(crate) fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A bar for long work, on standard error and only if that is a terminal.
pub(crate) fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    // A bad template would only cost the style; the tests of the binary see no terminal.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}% {human_pos}/{human_len} {msg} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// A sign of life for work whose length nobody knows, under the same conditions.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}
