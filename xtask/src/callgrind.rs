//! How many instructions a program takes, as valgrind's callgrind counts them.
//!
//! Owns the command line and what is read from its answer. Unlike times, counts of the same program on the same
//! data repeat, whatever else the machine does.

use std::path::Path;
use std::process::Command;

/// A run that succeeded.
pub(crate) struct Counted {
    /// Of all threads, outside the kernel.
    pub(crate) instructions: u64,
    /// What the program printed.
    pub(crate) said: String,
}

/// Runs a program and counts; with `within` only what runs between the begin and the end of the function of that
/// name, in the thread that calls it. None without valgrind.
pub(crate) fn count(program: &Path, arguments: &[&str], within: Option<&str>) -> Result<Option<Counted>, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(within.map(|function| format!("--toggle-collect={function}")));
    let Ok(output) = valgrind.arg(program).args(arguments).output() else { return Ok(None) };
    let told = String::from_utf8_lossy(&output.stderr);
    match collected(&told) {
        Some(0) => Err(format!("valgrind counted nothing: {} was not called", within.unwrap_or("the program"))),
        Some(instructions) if output.status.success() => {
            Ok(Some(Counted { instructions, said: String::from_utf8_lossy(&output.stdout).into_owned() }))
        }
        _ => Err(format!("valgrind: {}\n{told}", output.status)),
    }
}

fn collected(told: &str) -> Option<u64> {
    let (_, count) = told.lines().find_map(|line| line.split_once("Collected :"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_what_valgrind_tells() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 74204136\n==1== "), Some(74_204_136));
        assert_eq!(collected("valgrind: no such file"), None);
    }
}
