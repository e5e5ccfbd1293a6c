//! A real server process, commands that must succeed, and what only workers say to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{cairn, run};

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

/// What a command prints that succeeds and has nothing else to say.
pub fn ok(arguments: &[&str]) -> String {
    let finished = run(arguments);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    finished.stdout
}

impl Serving {
    /// Posts JSON, as a worker does.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (host, body) = (self.host_and_port(), body.to_string());
        let mut stream = TcpStream::connect(&host).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}", body.len());
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        serde_json::from_str(body).unwrap()
    }

    /// The command with the server's address, which must succeed and say nothing else.
    pub fn ok(&self, arguments: &[&str]) -> String {
        ok(&[arguments, &["--url", &self.url]].concat())
    }

    /// The JSON that a command prints.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = run(&[arguments, &["--json", "--url", &self.url]].concat());
        assert_eq!(printed.code, Some(0), "{arguments:?}: {}", printed.stderr);
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What a command says that must be refused.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let refused = run(&[arguments, &["--url", &self.url]].concat());
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        refused.stderr
    }
}
