//! One life of a victim, seen from its parent: started, listened to, ended.
//!
//! Every wait has a bound; a victim that passes it hangs, which is a failure. A panic anywhere in
//! it is one too, whatever it was doing: its standard error is read when it has ended.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::victim::Orders;

/// Nothing that a victim does takes so long, on however slow a machine.
const HANGS: Duration = Duration::from_secs(90);

/// A running victim.
pub(crate) struct Life {
    child: Child,
    lines: Receiver<String>,
    stderr: PathBuf,
}

/// How a life that was left alone ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With its last line.
    ByItself,
    /// By a signal.
    Killed,
    /// The system could not load it: it never began.
    Unborn,
}

impl Life {
    /// Starts a victim under `wrapper` (a tracer and its arguments, or nothing); `beside` is where
    /// its standard error goes.
    pub(crate) fn start(wrapper: &[String], orders: &Orders, beside: &Path) -> Result<Life, String> {
        let this = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
        let mut words: Vec<String> = wrapper.to_vec();
        words.push(this.display().to_string());
        words.extend(orders.arguments());
        let (program, arguments) = words.split_first().ok_or("nothing to start")?;
        let stderr = beside.join("victim.stderr");
        let errors = File::create(&stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start {program}: {e}"))?;
        let stdout = child.stdout.take().ok_or("a victim without output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Life { child, lines, stderr })
    }

    /// Takes notes until the victim has said what it found.
    pub(crate) fn until_found(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(HANGS) {
                Ok(line) => {
                    ledger.note(&line)?;
                    if line.starts_with("found ") {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let error = ledger.last_error().unwrap_or_default();
                    return Err(format!("the database did not open: {error} {}", self.last_words()));
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("the opening hangs: {}", self.last_words())),
            }
        }
    }

    /// Takes notes for so long.
    pub(crate) fn run_for(&mut self, ledger: &mut Ledger, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => ledger.note(&line)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    thread::sleep(end.saturating_duration_since(Instant::now()));
                    return Ok(());
                }
            }
        }
    }

    /// SIGKILL; then notes of all that it had said.
    pub(crate) fn kill(mut self, ledger: &mut Ledger) -> Result<(), String> {
        self.child.kill().map_err(|e| format!("kill: {e}"))?;
        self.child.wait().map_err(|e| format!("wait: {e}"))?;
        self.drain(ledger)
    }

    /// Takes notes until the victim has ended by itself, or by a signal that a tracer sent.
    pub(crate) fn finish(mut self, ledger: &mut Ledger) -> Result<Ended, String> {
        let (mut closed, mut spoke) = (false, false);
        loop {
            match self.lines.recv_timeout(HANGS) {
                Ok(line) => {
                    ledger.note(&line)?;
                    spoke = true;
                    closed |= line == "closed" || line.starts_with("error open");
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(format!("the victim hangs: {}", self.last_words())),
            }
        }
        let status = self.child.wait().map_err(|e| format!("wait: {e}"))?;
        self.drain(ledger)?;
        match (closed, status.code()) {
            (true, Some(0)) => Ok(Ended::ByItself),
            // A tracer ends with the signal that ended what it traced, or with 128 and its number.
            (false, None | Some(137)) => Ok(Ended::Killed),
            (false, Some(127)) if !spoke => Ok(Ended::Unborn),
            _ => Err(format!("the victim ended with {status}: {}", self.last_words())),
        }
    }

    fn drain(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        // Ends when the pipe does, which nobody holds any more.
        while let Ok(line) = self.lines.recv_timeout(HANGS) {
            ledger.note(&line)?;
        }
        let words = self.last_words();
        if words.contains("panicked at") { Err(format!("a panic: {words}")) } else { Ok(()) }
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Life {
    /// Nothing outlives its stage: the whole group goes, a tracer with what it traces.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
            let _ = self.child.wait();
        }
    }
}
