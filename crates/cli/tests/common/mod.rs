//! What the tests of the binary share: running it, and directories that go away.

// Each test file is a crate of its own and uses its part.
#![allow(dead_code, unreachable_pub)]

pub mod fake;
pub mod serving;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The built binary with these arguments; which server it talks to, nothing but they say.
pub fn cairn(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(arguments).env_remove("CAIRN_URL").stdin(Stdio::null());
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
