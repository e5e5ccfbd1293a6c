//! The whole binary: a server process, the commands against it, files validated while it is killed
//! and started again, and the same commands on its directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Finished, Serving, TempDir, cairn, generate, run};

fn ok(arguments: &[&str]) -> String {
    let finished = run(arguments);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    finished.stdout
}

/// The commands, wherever they go.
fn exercise(target: &[&str]) {
    let with = |arguments: &[&str]| ok(&[arguments, target].concat());
    assert_eq!(with(&["put", "greeting", "hello"]), "");
    assert_eq!(with(&["get", "greeting"]), "hello");
    assert_eq!(with(&["get", "greeting", "--json"]), "{\"key\":\"greeting\",\"value\":\"hello\"}\n");
    assert_eq!(with(&["put", "a/b c", "-5", "--json"]), "{\"key\":\"a/b c\",\"value_bytes\":2}\n");
    assert_eq!(with(&["put", "tab", "x\ty\u{e9}"]), "");
    assert_eq!(with(&["put", "empty", ""]), "");
    assert_eq!(with(&["get", "empty"]), "");
    let all = "a/b c\t-5\nempty\t\ngreeting\thello\ntab\tx\\ty\u{e9}\n";
    assert_eq!(with(&["scan"]), all);
    assert_eq!(with(&["scan", "--keys", "--start", "b", "--end", "tab"]), "empty\ngreeting\n");
    assert_eq!(with(&["scan", "--keys", "--prefix", "g"]), "greeting\n");
    assert_eq!(with(&["scan", "--keys", "--limit", "1"]), "a/b c\n");
    assert_eq!(with(&["scan", "--keys", "--start", "z", "--end", "a"]), "");
    assert_eq!(with(&["scan", "--prefix", "gr", "--json"]), "{\"key\":\"greeting\",\"value\":\"hello\"}\n");
    assert_eq!(with(&["delete", "greeting", "--json"]), "{\"key\":\"greeting\"}\n");
    assert_eq!(with(&["delete", "greeting"]), "");
    let missing = run(&[&["get", "greeting"], target].concat());
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert_eq!(missing.stderr, "cairn: no such key: greeting\n");

    // A value of any bytes, through standard input and back.
    let value: Vec<u8> = (0..100_000u32).map(|index| (index * 31 % 251) as u8).collect();
    let mut put = cairn(&[&["put", "bytes", "-"], target].concat()).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&value).unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(cairn(&[&["get", "bytes"], target].concat()).output().unwrap().stdout, value);
    let json: serde_json::Value = serde_json::from_str(&with(&["get", "bytes", "--json"])).unwrap();
    assert!(json["value_base64"].as_str().unwrap().len() > value.len());
}

fn exercise_maintenance(target: &str) {
    assert!(ok(&["stats", target]).starts_with("health: open\n"));
    let stats: serde_json::Value = serde_json::from_str(&ok(&["stats", target, "--json"])).unwrap();
    assert_eq!(stats["health"], "open");
    assert!(stats["engine"].as_object().unwrap().values().all(serde_json::Value::is_u64));
    assert!(ok(&["compact", target]).starts_with("compacted in "));
    let compacted: serde_json::Value = serde_json::from_str(&ok(&["compact", target, "--json"])).unwrap();
    assert!(compacted["elapsed_ms"].is_u64());
}

#[test]
fn the_commands_against_a_server() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("db"), &[]);
    exercise(&["--url", &server.url]);
    exercise_maintenance(&server.url);
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn the_commands_on_a_directory() {
    let dir = TempDir::new();
    let db = dir.join("db");
    exercise(&["--dir", &db]);
    exercise_maintenance(&db);
    // What one wrote, the other serves.
    let server = Serving::start(&db, &[]);
    assert_eq!(ok(&["get", "tab", "--url", &server.url]), "x\ty\u{e9}");
}

#[test]
fn reading_makes_no_database() {
    let dir = TempDir::new();
    let db = dir.join("db");
    for arguments in [&["get", "k", "--dir", &db][..], &["scan", "--dir", &db], &["stats", &db], &["compact", &db]] {
        let finished = run(arguments);
        assert_eq!(finished.code, Some(1), "{arguments:?}");
        assert!(finished.stderr.contains(&db), "{arguments:?}: {}", finished.stderr);
    }
    assert!(!dir.path().join("db").exists());
    assert!(run(&["stats", "localhost:1"]).stderr.contains("http://"), "the likely slip is named");
}

#[test]
fn a_directory_in_use_and_a_port_in_use_are_refused_with_their_names() {
    let dir = TempDir::new();
    let db = dir.join("db");
    let server = Serving::start(&db, &[]);
    for arguments in [&["serve", &db, "--http", "127.0.0.1:0"][..], &["get", "k", "--dir", &db]] {
        let finished = run(arguments);
        assert_eq!(finished.code, Some(1), "{arguments:?}");
        assert!(finished.stderr.contains(&db), "{}", finished.stderr);
    }
    assert!(run(&["get", "k", "--dir", &db]).stderr.contains("--url"));
    assert!(run(&["stats", &db]).stderr.contains("give its URL"), "stats and compact have no --url");
    let finished = run(&["serve", &dir.join("other"), "--http", &server.host_and_port()]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains(&server.host_and_port()), "{}", finished.stderr);
}

#[test]
fn a_token_is_required_beyond_loopback_and_then_of_everyone() {
    let dir = TempDir::new();
    let finished = run(&["serve", &dir.join("db"), "--http", "0.0.0.0:0"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""));
    assert!(finished.stderr.contains("token"), "{}", finished.stderr);

    let token = dir.file("token", "a-secret\n");
    let server = Serving::start(&dir.join("db"), &["--token-file", &token]);
    let refused = run(&["get", "k", "--url", &server.url]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401") && refused.stderr.contains("--token-file"), "{}", refused.stderr);
    ok(&["put", "k", "v", "--url", &server.url, "--token-file", &token]);
    assert_eq!(ok(&["get", "k", "--url", &server.url, "--token-file", &token]), "v");
    assert!(ok(&["stats", &server.url, "--token-file", &token]).starts_with("health: open\n"));
}

#[test]
fn idle_connections_do_not_take_the_files_that_the_database_needs() {
    let dir = TempDir::new();
    let binary = env!("CARGO_BIN_EXE_cairn");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 256 && exec \"$0\" serve \"$1\" --http 127.0.0.1:0", binary, &dir.join("db")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.strip_prefix("listening on ").unwrap().trim().to_owned();
    let server = Serving { child, url };
    let address = server.host_and_port();
    let connect = || {
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let mut ours = connect();
    let mut answer = |request: &str| {
        ours.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let got = ours.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..got]).lines().next().unwrap_or_default().to_owned()
    };
    let put = "PUT /k HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nv";
    assert_eq!(answer(put), "HTTP/1.1 200 OK");
    let idle: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    // Until the server has taken them, or told them that they are too many.
    thread::sleep(Duration::from_millis(500));
    let flush = "POST /v1/flush HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(answer(flush), "HTTP/1.1 200 OK");
    assert_eq!(answer(put), "HTTP/1.1 200 OK");
    drop(idle);
}

#[test]
fn sigterm_and_ctrl_c_stop_cleanly_and_keep_everything() {
    let dir = TempDir::new();
    let db = dir.join("db");
    for (signal, durability) in [("TERM", "commit"), ("INT", "interval:1s"), ("TERM", "os")] {
        let server = Serving::start(&db, &["--durability", durability]);
        ok(&["put", durability, "here", "--url", &server.url]);
        assert_eq!(server.stop(signal), Some(0), "{signal}");
        assert_eq!(ok(&["get", durability, "--dir", &db]), "here");
    }
}

#[test]
fn generated_files_pass_in_both_profiles() {
    let dir = TempDir::new();
    // The series' triggers are reached: six flushes, a compaction.
    for (profile, lines) in [("default", 3_000), ("series", 15_000)] {
        for kind in ["put", "put-delete", "put-delete-scan", "concurrency"] {
            let server =
                Serving::start(&dir.join(&format!("{profile}-{kind}")), &["--profile", profile, "--durability", "os"]);
            let file = dir.file("requests.txt", &generate(kind, 21, lines));
            let finished = run(&["validate", &file, "--url", &server.url]);
            assert_eq!(finished.code, Some(0), "{profile} {kind}: {}{}", finished.stdout, finished.stderr);
        }
    }
}

/// Validates a file while `between` does something to the server, until the file is through.
fn validate_through_restarts(kind: &str, signal: &str, seed: u64) -> Finished {
    let dir = TempDir::new();
    let db = dir.join("db");
    let file = dir.file("requests.txt", &generate(kind, seed, 8_000));
    // Beyond the first start the port has to stay the same.
    let mut server = Serving::start(&db, &["--profile", "series"]);
    let address = server.host_and_port();
    let arguments = ["validate", &file, "--url", &server.url, "--retry", "20s", "--connections", "64"];
    let mut validating = cairn(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, done) = mpsc::channel();
    let mut stdout = validating.stdout.take().unwrap();
    thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        sender.send(text).unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut restarts = 0;
    let stdout = loop {
        if let Ok(text) = done.recv_timeout(Duration::from_millis(150)) {
            break text;
        }
        assert!(Instant::now() < deadline, "validate did not end; {restarts} restarts");
        match signal {
            "KILL" => server.kill(),
            _ => assert_eq!(server.stop(signal), Some(0)),
        }
        server = Serving::start(&db, &["--profile", "series", "--http", &address]);
        restarts += 1;
    };
    let output = validating.wait_with_output().unwrap();
    assert!(restarts > 0, "the file was through before the first restart: make it longer");
    Finished { code: output.status.code(), stdout, stderr: String::from_utf8(output.stderr).unwrap() }
}

#[test]
fn a_file_passes_while_the_server_is_killed_and_started_again() {
    for (kind, seed) in [("put-delete-scan", 31), ("concurrency", 32)] {
        let finished = validate_through_restarts(kind, "KILL", seed);
        assert_eq!(finished.code, Some(0), "{kind}: {}{}", finished.stdout, finished.stderr);
        assert!(finished.last_line().ends_with(" passed, 0 failed"), "{kind}: {}", finished.stdout);
    }
}

#[test]
fn a_file_passes_while_the_server_is_stopped_and_started_again() {
    let finished = validate_through_restarts("put-delete-scan", "TERM", 33);
    assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
}

#[test]
fn bench_measures_every_workload_embedded_and_over_http() {
    let dir = TempDir::new();
    let few = ["--keys", "2000", "--seconds", "1", "--workload", "put-random,get-missing,scan-100"];
    let db = dir.join("bench");
    let embedded =
        ok(&[&["bench", "--dir", &db, "--durability", "os", "--callers", "1,2", "--json"], &few[..]].concat());
    let server = Serving::start(&dir.join("db"), &["--durability", "os"]);
    let http = ok(&[&["bench", "--url", &server.url, "--callers", "8", "--json"], &few[..]].concat());
    for (text, rows) in [(embedded, 6), (http, 3)] {
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let results = report["results"].as_array().unwrap();
        assert_eq!(results.len(), rows);
        for row in results {
            assert!(row["operations_per_second"].as_f64().unwrap() > 10.0, "{row}");
            let quantiles = ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(|name| row[name].as_u64().unwrap());
            assert!(quantiles.is_sorted() && quantiles[0] > 0, "{row}");
        }
        assert!(report["machine"].as_str().unwrap().contains("cores"));
    }
    let table =
        ok(&["bench", "--dir", &db, "--keys", "2000", "--seconds", "1", "--workload", "get-hot", "--callers", "1"]);
    assert!(table.contains("p99.9") && table.lines().last().unwrap().starts_with("get-hot "), "{table}");
}

/// The load was buffered to its end once, and a server under durability commit shows only what is
/// synced: a workload of reads alone found nothing.
#[test]
fn bench_reads_what_it_has_loaded_under_every_durability() {
    let dir = TempDir::new();
    for durability in ["commit", "os"] {
        let server = Serving::start(&dir.join(durability), &["--durability", durability]);
        let arguments = ["--keys", "2000", "--seconds", "1", "--workload", "get-uniform", "--callers", "1"];
        let table = ok(&[&["bench", "--url", &server.url], &arguments[..]].concat());
        assert!(table.lines().last().unwrap().starts_with("get-uniform "), "{table}");
    }
}
