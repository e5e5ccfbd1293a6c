//! A redis-server that logs each write, and redis-benchmark, its own load.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Plan, Result, Seen, output};

/// An empty one starts at once.
const STARTS: Duration = Duration::from_secs(10);
/// Writes of the load that are sent before their answers are read: fewer bytes than a socket holds.
const LOAD_AT_ONCE: u64 = 500;

/// A server process. Killed when dropped.
pub(super) struct Redis {
    child: Child,
    port: u16,
    /// For what is asked beside the load.
    connection: BufReader<TcpStream>,
}

/// Which it is, or how to get one.
pub(super) fn version() -> Result<String> {
    let told = output(Command::new("redis-server").arg("--version")).map_err(|e| {
        format!("{e}; redis-server and redis-benchmark must be installed, in Debian and Ubuntu the packages redis-server and redis-tools")
    })?;
    Ok(told.split(" sha=").next().unwrap_or_default().trim().to_owned())
}

impl Redis {
    /// Starts it on an empty directory and waits until it answers.
    pub(super) fn start(dir: &Path, appendfsync: &str) -> Result<Redis> {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let log = File::create(dir.join("log")).map_err(|e| e.to_string())?;
        // Free a moment ago: nobody else starts servers here meanwhile.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.map_err(|e| e.to_string())?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--appendonly", "yes", "--save", ""]);
        command.args(["--appendfsync", appendfsync]).arg("--dir").arg(dir);
        let mut child = command.stdout(log).spawn().map_err(|e| format!("cannot start redis-server: {e}"))?;
        let began = Instant::now();
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break Ok(stream),
                Err(e) if began.elapsed() > STARTS => break Err(format!("it does not listen: {e}")),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        };
        match stream {
            Ok(stream) => Ok(Redis { child, port, connection: BufReader::new(stream) }),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Puts every key that redis-benchmark will ask for.
    pub(super) fn load(&mut self, keys: u64, value_bytes: u64) -> Result<()> {
        let value = "x".repeat(usize::try_from(value_bytes).map_err(|e| e.to_string())?);
        let mut next = 0;
        while next < keys {
            let end = keys.min(next + LOAD_AT_ONCE);
            let command = |key| format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${value_bytes}\r\n{value}\r\n");
            let commands: String = (next..end).map(command).collect();
            self.connection.get_mut().write_all(commands.as_bytes()).map_err(|e| e.to_string())?;
            for _ in next..end {
                let line = self.line()?;
                if line != "+OK" {
                    return Err(format!("a SET was answered {line:?}"));
                }
            }
            next = end;
        }
        Ok(())
    }

    /// A field of what it tells of itself.
    pub(super) fn info(&mut self, field: &str) -> Result<String> {
        self.connection.get_mut().write_all(b"INFO stats\r\n").map_err(|e| e.to_string())?;
        let mut left = self.line()?.trim_start_matches('$').parse::<usize>().map_err(|e| format!("INFO: {e}"))?;
        let mut found = None;
        // The text, and the line's end behind it.
        left += 2;
        while left > 0 {
            let mut line = String::new();
            let read = self.connection.read_line(&mut line).map_err(|e| e.to_string())?;
            left = if read == 0 { 0 } else { left.saturating_sub(read) };
            if let Some(value) = line.trim_end().strip_prefix(field).and_then(|rest| rest.strip_prefix(':')) {
                found = Some(value.to_owned());
            }
        }
        found.ok_or_else(|| format!("INFO has no {field}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.connection.read_line(&mut line) {
            Ok(0) => Err("it closed the connection".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Runs its load for so many requests.
    pub(super) fn benchmark(&self, plan: &Plan, test: &str, requests: u64) -> Result<Seen> {
        let numbers = [u64::from(self.port), plan.connections, plan.value_bytes, plan.keys, requests];
        let mut command = Command::new("redis-benchmark");
        command.args(["-t", test, "-P", "1", "--csv"]);
        for (flag, number) in ["-p", "-c", "-d", "-r", "-n"].iter().zip(numbers) {
            command.args([flag, &number.to_string().as_str()]);
        }
        read_csv(&output(&mut command)?, requests)
    }

    /// Kills it: what it has logged is not looked at. Its files stay.
    pub(super) fn stop(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(|e| e.to_string())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of names and a line of figures.
fn read_csv(text: &str, requests: u64) -> Result<Seen> {
    let mut lines = text.lines().map(|line| line.split(',').map(|cell| cell.trim_matches('"')));
    let (names, values) = lines.next().zip(lines.next()).ok_or_else(|| format!("redis-benchmark said {text:?}"))?;
    let cells: Vec<(&str, &str)> = names.zip(values).collect();
    let figure = |name: &str| {
        let cell = cells.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        cell.and_then(|value| value.parse::<f64>().ok())
            .ok_or_else(|| format!("redis-benchmark told no {name}: {text}"))
    };
    Ok(Seen {
        requests: requests as f64,
        per_second: figure("rps")?,
        p50_us: figure("p50_latency_ms")? * 1e3,
        p99_us: figure("p99_latency_ms")? * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"p50_latency_ms\",\"p99_latency_ms\"\n\
                    \"SET\",\"1000.50\",\"0.431\",\"0.335\",\"1.287\"\n";
        let seen = read_csv(text, 7).unwrap();
        assert_eq!((seen.requests, seen.per_second, seen.p50_us, seen.p99_us), (7.0, 1_000.5, 335.0, 1_287.0));
        assert!(read_csv("\"test\",\"rps\"\n\"SET\",\"1\"\n", 7).is_err_and(|e| e.contains("p50_latency_ms")));
        assert!(read_csv("", 7).is_err());
    }
}
