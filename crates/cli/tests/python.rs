//! The Python SDK as a newcomer meets it: installed from the repository into an environment of its own, its quickstart
//! run against the binary and killed in the middle, and its own tests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, whose helpers can do nothing better than panic"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::serving::Serving;
use common::{Finished, TempDir, run};

const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/python");

/// The interpreter of an environment with the SDK in it, or why there cannot be one here.
fn install(dir: &TempDir) -> Result<String, String> {
    let probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    attempt("python3", &["-c", probe]).map_err(|why| format!("no python3 >= 3.10 with venv and pip: {why}"))?;
    let environment = dir.join("venv");
    attempt("python3", &["-m", "venv", &environment]).map_err(|why| format!("no venv: {why}"))?;
    let python = format!("{environment}/bin/python");
    // What builds packages; whether it comes tells whether there is a network.
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"];
    attempt(&python, &[&pip[..], &["hatchling"]].concat()).map_err(|why| format!("pip installs nothing: {why}"))?;
    attempt(&python, &[&pip[..], &["--no-build-isolation", SDK]].concat()).unwrap();
    Ok(python)
}

fn attempt(program: &str, arguments: &[&str]) -> Result<(), String> {
    let finished: Finished = Command::new(program).args(arguments).output().map_err(|e| e.to_string())?.into();
    let why = finished.stderr.lines().last().unwrap_or("no reason given").to_owned();
    if finished.code == Some(0) { Ok(()) } else { Err(why) }
}

fn quickstart(python: &str, server: &Serving) -> Child {
    let mut command = Command::new(python);
    command.arg("quickstart.py").current_dir(format!("{SDK}/examples")).env("CAIRN_URL", &server.url);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for its end, which must come.
fn finish(child: Child, within: Duration) -> Finished {
    let (pid, (told, hears)) = (child.id().to_string(), mpsc::channel());
    thread::spawn(move || told.send(Finished::from(child.wait_with_output().unwrap())));
    hears.recv_timeout(within).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-9", &pid]).status();
        let late = hears.recv().unwrap();
        panic!("not done within {within:?}:\n{}{}", late.stdout, late.stderr)
    })
}

/// The quickstart, killed while it packs and started again: what it prints, and what is recorded.
fn survives(python: &str, dir: &TempDir) {
    let server = Serving::start(&dir.join("db"), &[]);
    let mut first = quickstart(python, &server);
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    let printed: Vec<String> = lines.by_ref().take(2).collect();
    first.kill().unwrap();
    first.wait().unwrap();
    let mut errors = String::new();
    first.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(printed, ["charging 30 kr", "packing a lamp"], "{errors}");
    assert_eq!(lines.next(), None, "killed while it packed");

    // The server waits for a lease of 30 s before it gives the task to another worker.
    let second = finish(quickstart(python, &server), Duration::from_secs(80));
    assert_eq!(second.stdout, "packing a lamp\npaid 30 kr: a parcel with a lamp, to Stockholm\n", "{}", second.stderr);
    assert_eq!((second.code, second.stderr.as_str()), (Some(0), ""));

    let at_server = ["--url", &server.url];
    let found = run(&[&["task", "spawn", "fulfil", "null", "--key", "order:7"], &at_server[..]].concat());
    let shown = run(&[&["task", "show", found.stdout.trim(), "--json"], &at_server[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let steps = json["steps"].as_array().unwrap_or_else(|| panic!("{}", shown.stdout));
    let keys: Vec<&str> = steps.iter().filter_map(|step| step["key"].as_str()).collect();
    assert_eq!(keys, ["charge", "pack", "let them change their mind", "event:address:7"], "each recorded once");
    let told = (&json["task"]["attempt"], &json["task"]["lost"]);
    assert_eq!(told, (&serde_json::json!(1), &serde_json::json!(1)), "a dead worker costs no attempt");
    server.kill();
}

#[test]
fn the_python_quickstart_survives_and_the_tests_of_the_sdk_pass() {
    let dir = TempDir::new();
    let python = match install(&dir) {
        Ok(python) => python,
        // Past what captures the output of tests that pass.
        Err(why) => return writeln!(std::io::stderr(), "SKIPPED: python quickstart: {why}").unwrap(),
    };
    let patient = finish(in_tests(&python, &["support.py"]).spawn().unwrap(), Duration::from_secs(60));
    let patient: Vec<&str> = patient.stdout.lines().collect();
    assert!(!patient.is_empty(), "some tests wait for leases");
    let mut suites = vec![in_tests(&python, &["-m", "unittest"]).spawn().unwrap()];
    // They wait, each for its own server: all at the same time.
    for test in patient {
        suites.push(in_tests(&python, &["-m", "unittest", test]).env("CAIRN_SLOW", "1").spawn().unwrap());
    }
    let suites = suites.into_iter().map(|suite| thread::spawn(move || finish(suite, Duration::from_secs(240))));
    let suites: Vec<_> = suites.collect();
    survives(&python, &dir);
    for suite in suites {
        let suite = suite.join().unwrap();
        assert_eq!(suite.code, Some(0), "{}", suite.stderr);
    }
}

/// Python among the tests of the SDK, with a server for them.
fn in_tests(python: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.args(arguments).current_dir(format!("{SDK}/tests"));
    command.env("CAIRN_BIN", env!("CARGO_BIN_EXE_cairn")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
