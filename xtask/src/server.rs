//! A running `cairn serve`, started, stopped and killed by those who test it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// No recovery takes so long, on however slow a machine.
const STARTS: Duration = Duration::from_secs(90);

/// A server process. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    url: String,
}

/// Starts the process and waits for nothing.
pub(crate) fn spawn(binary: &Path, dir: &Path, address: &str, flags: &[&str]) -> Result<Child, String> {
    Command::new(binary)
        .arg("serve")
        .arg(dir)
        .args(["--http", address])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", binary.display()))
}

impl Server {
    /// Starts it and waits until it listens.
    pub(crate) fn start(binary: &Path, dir: &Path, address: &str, flags: &[&str]) -> Result<Server, String> {
        let mut server = Server { child: spawn(binary, dir, address, flags)?, url: String::new() };
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
            None => return Err(format!("the server said \"{}\" instead of where it listens", line.trim())),
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(|e| e.to_string())
    }

    /// SIGTERM; must end with 0.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            return Err("cannot send SIGTERM".to_owned());
        }
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the server stopped with {status}")),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
