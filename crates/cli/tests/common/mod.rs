//! What the tests of the binary share: running it, and directories that go away.

// Each test file is a crate of its own and uses its part.
#![allow(dead_code, unreachable_pub)]

pub mod fake;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The built binary with these arguments.
pub fn cairn(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a finished process left.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn last_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or_default()
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Finished {
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Finished {
    cairn(arguments).output().unwrap().into()
}

/// A running `cairn serve`; killed on drop.
pub struct Serving {
    pub child: Child,
    pub url: String,
}

impl Serving {
    /// Starts it and waits for its line.
    pub fn start(dir: &str, more: &[&str]) -> Serving {
        let listen: &[&str] = if more.contains(&"--http") { &[] } else { &["--http", "127.0.0.1:0"] };
        let mut child = cairn(&[&["serve", dir, "--memory", "64MiB"], listen, more].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("serve said {line:?}"));
        Serving { url: url.trim().to_owned(), child }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Its exit code after a signal; None if the signal ended it.
    pub fn stop(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn host_and_port(&self) -> String {
        self.url.strip_prefix("http://").unwrap().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory, removed on drop, and files in it by name.
pub struct TempDir(cairn_env::testing::TempDir);

impl TempDir {
    pub fn new() -> TempDir {
        TempDir(cairn_env::testing::TempDir::new())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn join(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Generates a file's text.
pub fn generate(kind: &str, seed: u64, lines: u64) -> String {
    let finished = run(&["generate", kind, "--seed", &seed.to_string(), "--lines", &lines.to_string()]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout
}
