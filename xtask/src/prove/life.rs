//! One life of a victim, seen from its parent: started, listened to, ended.
//!
//! Every wait has a bound; a victim that passes it hangs, which is a failure. A panic anywhere in
//! it is one too, whatever it was doing: all of its standard error is read when it has ended. So is an
//! end by anything but its last line or a SIGKILL, and one that came before the SIGKILL was sent.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::victim::Orders;
use crate::said;

/// Nothing that a victim does takes so long, on however slow a machine.
const HANGS: Duration = Duration::from_secs(90);
const SIGKILL: i32 = 9;

/// A running victim.
pub(crate) struct Life {
    child: Child,
    lines: Receiver<String>,
    stderr: PathBuf,
    /// It has said anything; what it found; its last line.
    spoke: bool,
    found: bool,
    closed: bool,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With its last line.
    ByItself,
    /// By SIGKILL.
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
        Ok(Life { child, lines, stderr, spoke: false, found: false, closed: false })
    }

    fn note(&mut self, ledger: &mut Ledger, line: &str) -> Result<(), String> {
        self.spoke = true;
        self.found |= line.starts_with("found ");
        self.closed |= line == "closed" || line.starts_with("error open");
        ledger.note(line)
    }

    /// Takes notes until the victim has said what it found.
    pub(crate) fn until_found(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        while !self.found {
            match self.lines.recv_timeout(HANGS) {
                Ok(line) => self.note(ledger, &line)?,
                Err(RecvTimeoutError::Disconnected) => {
                    let error = ledger.last_error().unwrap_or_default();
                    return Err(format!("the database did not open: {error} {}", self.last_words()));
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("the opening hangs: {}", self.last_words())),
            }
        }
        Ok(())
    }

    /// Takes notes for so long.
    pub(crate) fn run_for(&mut self, ledger: &mut Ledger, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.note(ledger, &line)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    thread::sleep(end.saturating_duration_since(Instant::now()));
                    return Ok(());
                }
            }
        }
    }

    /// SIGKILL; then notes of all that it had said. The victim must have lived until then.
    pub(crate) fn kill(self, ledger: &mut Ledger) -> Result<(), String> {
        match self.kill_or_bury(ledger)? {
            Ended::Killed => Ok(()),
            ended => {
                let error = ledger.last_error().unwrap_or_default();
                Err(format!("the victim was to be killed and had ended {ended:?}: {error}"))
            }
        }
    }

    /// The same for a victim that may have come to its own, orderly end before.
    pub(crate) fn kill_or_bury(mut self, ledger: &mut Ledger) -> Result<Ended, String> {
        let before = self.child.try_wait().map_err(|e| format!("wait: {e}"))?;
        self.child.kill().map_err(|e| format!("kill: {e}"))?;
        let status = self.child.wait().map_err(|e| format!("wait: {e}"))?;
        self.drain(ledger)?;
        match self.judge(status)? {
            Ended::Killed if before.is_some() => Err(format!("somebody else killed the victim: {}", self.last_words())),
            ended => Ok(ended),
        }
    }

    /// Takes notes until the victim has ended by itself, or by the SIGKILL that a tracer sent.
    pub(crate) fn finish(mut self, ledger: &mut Ledger) -> Result<Ended, String> {
        loop {
            match self.lines.recv_timeout(HANGS) {
                Ok(line) => self.note(ledger, &line)?,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(format!("the victim hangs: {}", self.last_words())),
            }
        }
        let status = self.child.wait().map_err(|e| format!("wait: {e}"))?;
        self.drain(ledger)?;
        self.judge(status)
    }

    /// The look of one that nobody disturbs at what others left: says what it found, meets no error, and ends.
    pub(crate) fn look(mut self, ledger: &mut Ledger) -> Result<(), String> {
        ledger.forget_errors();
        self.until_found(ledger)?;
        let ended = self.finish(ledger)?;
        match (ended, ledger.last_error()) {
            (Ended::ByItself, None) => Ok(()),
            (_, error) => Err(format!("a last look ended {ended:?}: {}", error.unwrap_or("without an error"))),
        }
    }

    fn judge(&self, status: ExitStatus) -> Result<Ended, String> {
        match (self.closed, status.code(), status.signal()) {
            (true, Some(0), _) => Ok(Ended::ByItself),
            // A tracer ends with the signal that ended what it traced, or with 128 and its number. One that
            // has said its last line is on its way out, and may still be killed.
            (_, None, Some(SIGKILL)) => Ok(Ended::Killed),
            (false, Some(code), _) if code == 128 + SIGKILL => Ok(Ended::Killed),
            (false, Some(127), _) if !self.spoke => Ok(Ended::Unborn),
            _ => Err(format!("the victim ended with {status}: {}", self.last_words())),
        }
    }

    fn drain(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        // Ends when the pipe does, which nobody holds any more.
        while let Ok(line) = self.lines.recv_timeout(HANGS) {
            self.note(ledger, &line)?;
        }
        said::panic(&self.stderr()).map_or(Ok(()), |panic| Err(format!("a panic: {panic}")))
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    fn last_words(&self) -> String {
        said::tail(&self.stderr(), 30)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::ledger::End;

    /// A life of a shell that does as a victim might.
    struct Shell {
        beside: PathBuf,
        ledger: Ledger,
    }

    impl Shell {
        fn new(test: &str) -> Shell {
            let beside = std::env::temp_dir().join(format!("cairn-life-{test}-{}", std::process::id()));
            fs::create_dir_all(&beside).unwrap();
            Shell { beside, ledger: Ledger::new(1, End::Process) }
        }

        fn start(&self, script: &str) -> Life {
            let orders = Orders { floors: vec![0], ceilings: vec![4], ..Orders::default() };
            Life::start(&["sh", "-c", script].map(str::to_owned), &orders, &self.beside).unwrap()
        }

        fn killed_once_over(&mut self, script: &str) -> Result<(), String> {
            let mut life = self.start(script);
            life.until_found(&mut self.ledger)?;
            life.run_for(&mut self.ledger, Duration::from_millis(300))?;
            life.kill(&mut self.ledger)
        }

        fn looked(&mut self, script: &str) -> Result<(), String> {
            let life = self.start(script);
            life.look(&mut self.ledger)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.beside);
        }
    }

    /// The stages once took any end for the kill they meant, and a victim that crashed for one killed.
    #[test]
    fn only_who_lives_can_be_killed() {
        let mut shell = Shell::new("kill");
        assert_eq!(shell.killed_once_over("echo found 0 0; exec sleep 60"), Ok(()));
        for crash in ["kill -SEGV $$", "kill -ABRT $$", "exit 3"] {
            let error = shell.killed_once_over(&format!("echo found 0 0; {crash}")).unwrap_err();
            assert!(error.contains("the victim ended with"), "{crash}: {error}");
        }
        let error = shell.killed_once_over("echo found 0 0; kill -KILL $$").unwrap_err();
        assert!(error.contains("somebody else killed"), "{error}");
        let error = shell.killed_once_over("echo found 0 0; echo closed").unwrap_err();
        assert!(error.contains("had ended ByItself"), "{error}");
    }

    #[test]
    fn a_panic_is_seen_above_a_long_backtrace() {
        let panic = "echo \"thread 'x' (1) panicked at a.rs:1:1:\" >&2; seq 100 >&2";
        let error =
            Shell::new("panic").killed_once_over(&format!("{panic}; echo found 0 0; exec sleep 60")).unwrap_err();
        assert!(error.contains("a panic: thread 'x'"), "{error}");
    }

    #[test]
    fn a_signal_of_ones_own_is_no_kill() {
        let mut shell = Shell::new("finish");
        let mut ended = |script: &str| {
            let life = shell.start(script);
            life.finish(&mut shell.ledger)
        };
        assert_eq!(ended("echo found 0 0; kill -KILL $$"), Ok(Ended::Killed));
        assert_eq!(ended("echo found 0 0; echo closed"), Ok(Ended::ByItself));
        assert!(ended("echo found 0 0; kill -SEGV $$").unwrap_err().contains("SIGSEGV"));
    }

    #[test]
    fn a_last_look_finds_something_and_ends() {
        let mut shell = Shell::new("look");
        assert_eq!(shell.looked("echo found 0 0; echo closed"), Ok(()));
        assert!(shell.looked("echo closed").unwrap_err().contains("did not open"));
        assert!(shell.looked("echo found 0 0; kill -KILL $$").unwrap_err().contains("ended Killed"));
        assert!(shell.looked("echo found 0 0; echo error writer 0: x; echo closed").unwrap_err().contains("writer 0"));
    }
}
