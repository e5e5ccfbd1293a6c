//! A running `cairn serve`, started, stopped and killed by those who test it.
//!
//! Its standard error goes to a file beside its directory. However it is ended, a panic in there, and an
//! end of its own before, are failures.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::said;

/// No recovery takes so long, on however slow a machine.
const STARTS: Duration = Duration::from_secs(90);
const SIGKILL: i32 = 9;

/// A server process. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    url: String,
    stderr: PathBuf,
}

impl Server {
    /// Starts it and waits for nothing.
    pub(crate) fn spawn(binary: &Path, dir: &Path, address: &str, flags: &[&str]) -> Result<Server, String> {
        let stderr = dir.with_extension("stderr");
        let errors = File::create(&stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
        let child = Command::new(binary)
            .arg("serve")
            .arg(dir)
            .args(["--http", address])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", binary.display()))?;
        Ok(Server { child, url: String::new(), stderr })
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(binary: &Path, dir: &Path, address: &str, flags: &[&str]) -> Result<Server, String> {
        let mut server = Server::spawn(binary, dir, address, flags)?;
        let stdout = server.child.stdout.take().ok_or("the server has no output")?;
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            sender.send(read.map(|_| line))
        });
        let line = match line.recv_timeout(STARTS) {
            Ok(line) => line.map_err(|e| e.to_string())?,
            Err(_) => return Err("the server does not listen, and does not end".to_owned()),
        };
        match line.trim().strip_prefix("listening on ") {
            Some(url) => url.clone_into(&mut server.url),
            None => {
                let errors = said::tail(&server.errors(), 30);
                return Err(format!("the server said \"{}\" instead of where it listens\n{errors}", line.trim()));
            }
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Bytes of memory that it has in use.
    pub(crate) fn resident_bytes(&self) -> Result<u64, String> {
        let file = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| format!("{file} has no VmRSS"))
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, String> {
        cpu_seconds(self.child.id())
    }

    /// SIGKILL. It must have lived until then.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.must_live()?;
        let status = self.child.kill().and_then(|()| self.child.wait()).map_err(|e| e.to_string())?;
        match status.signal() {
            Some(SIGKILL) => self.without_panic(),
            _ => Err(format!("the server ended with {status} before it was killed: {}", self.errors())),
        }
    }

    /// SIGTERM; must end with 0.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        self.must_live()?;
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            return Err("cannot send SIGTERM".to_owned());
        }
        match self.child.wait() {
            Ok(status) if status.success() => self.without_panic(),
            Ok(status) => Err(format!("the server stopped with {status}: {}", self.errors())),
            Err(e) => Err(e.to_string()),
        }
    }

    fn must_live(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(|e| e.to_string())? {
            None => Ok(()),
            Some(status) => Err(format!("the server ended by itself with {status}: {}", self.errors())),
        }
    }

    fn without_panic(&self) -> Result<(), String> {
        said::panic(&self.errors()).map_or(Ok(()), |panic| Err(format!("the server panicked: {panic}")))
    }

    /// All that it has said went wrong.
    fn errors(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

/// Seconds of processor time that a process has used.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64, String> {
    let file = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    // Behind the name in brackets, which may hold anything; in hundredths of a second on every Linux.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or_else(|| format!("{file} has no times"))?;
    Ok(f64::from(user + system) / 100.0)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A script in the place of the binary.
    fn with_binary(test: &str, script: &str, body: impl FnOnce(Server) -> Result<(), String>) -> Result<(), String> {
        let scratch = std::env::temp_dir().join(format!("cairn-server-{test}-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let binary = scratch.join("binary");
        fs::write(&binary, format!("#!/bin/sh\necho listening on http://nowhere\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let done = Server::start(&binary, &scratch.join("db"), "", &[]).and_then(|server| {
            thread::sleep(Duration::from_millis(300));
            body(server)
        });
        fs::remove_dir_all(&scratch).unwrap();
        done
    }

    /// The stage `kills` once took a server that had died of its own for one killed, and saw no panic.
    #[test]
    fn only_a_server_that_lives_and_did_not_panic_can_be_killed() {
        let killed = |script| with_binary("kill", script, Server::kill);
        assert_eq!(killed("exec sleep 60"), Ok(()));
        assert!(killed("kill -SEGV $$").unwrap_err().contains("ended by itself with signal: 11"));
        assert!(killed("exit 0").unwrap_err().contains("ended by itself with exit status: 0"));
        let panic = "echo \"thread 'tokio' (1) panicked at a.rs:1:1:\" >&2; seq 100 >&2; exec sleep 60";
        assert!(killed(panic).unwrap_err().contains("the server panicked: thread 'tokio'"));
    }

    #[test]
    fn a_server_that_is_stopped_ends_with_success() {
        let stopped = |script| with_binary("stop", script, Server::stop);
        assert_eq!(stopped("trap 'exit 0' TERM; while :; do sleep 0.05; done"), Ok(()));
        assert!(stopped("trap 'exit 4' TERM; while :; do sleep 0.05; done").unwrap_err().contains("exit status: 4"));
    }
}
