//! `cairn validate` against a server that is right, wrong in one way, forgetful, busy, or not there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use common::fake::{Fake, Faults};
use common::{Finished, TempDir, cairn, generate, run};

fn validate(fake: &Fake, text: &str, more: &[&str]) -> Finished {
    let dir = TempDir::new();
    let file = dir.file("requests.txt", text);
    run(&[&["validate", &file, "--url", &fake.url], more].concat())
}

fn requests(text: &str) -> usize {
    text.lines().filter(|line| *line != "BARRIER").count()
}

#[test]
fn a_right_server_passes_every_kind_of_file() {
    for kind in ["put", "put-delete", "put-delete-scan", "concurrency"] {
        let text = generate(kind, 11, 3_000);
        let finished = validate(&Fake::start(Faults::default()), &text, &[]);
        assert_eq!(finished.last_line(), format!("{} passed, 0 failed", requests(&text)), "{kind}");
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{kind}");
    }
}

/// What no generated file lets pass, and which kinds see it.
#[test]
fn each_wrong_server_fails() {
    let none = Faults::default();
    let wrong: [(&str, Faults, &[&str]); 6] = [
        ("echo", Faults { echo_is_wrong: true, ..none }, &["put", "put-delete", "put-delete-scan", "concurrency"]),
        ("stale", Faults { reads_are_stale: true, ..none }, &["put", "put-delete", "put-delete-scan", "concurrency"]),
        ("no delete", Faults { delete_does_nothing: true, ..none }, &["put-delete", "put-delete-scan", "concurrency"]),
        ("prefixes", Faults { prefixes_are_confused: true, ..none }, &["put", "put-delete", "put-delete-scan"]),
        ("closed scan", Faults { scan_is_closed: true, ..none }, &["put-delete-scan"]),
        ("deleted in scan", Faults { scan_shows_deleted: true, ..none }, &["put-delete-scan"]),
    ];
    for (name, faults, kinds) in wrong {
        for kind in kinds {
            let text = generate(kind, 5, 1_000);
            let finished = validate(&Fake::start(faults), &text, &[]);
            let failed: usize = finished.last_line().split(' ').nth(2).unwrap().parse().unwrap();
            assert!(failed > 0, "{name} passed {kind}: {}", finished.stdout);
            assert_eq!(finished.code, Some(1), "{name}, {kind}");
        }
    }
}

#[test]
fn a_failure_names_line_request_expectation_and_answer() {
    let text = "# head\nPUT a 1\n\nGET a 2\nGET b [3 NOT_FOUND]\nGET a NOT_FOUND\nSCAN a z b\nDELETE a\n";
    let finished = validate(&Fake::start(Faults::default()), text, &[]);
    let expected = [
        "line 4: GET a\n    expected: 2\n    got:      1\n",
        "line 6: GET a\n    expected: NOT_FOUND\n    got:      1\n",
        "line 7: SCAN a z\n    expected: 1 keys: b\n    got:      1 keys: a\n",
        "peak in flight: 1 (1 connections)\n",
    ];
    for part in expected {
        assert!(finished.stdout.contains(part), "{part}\nis not in\n{}", finished.stdout);
    }
    assert_eq!(finished.last_line(), "3 passed, 3 failed");
    assert_eq!(finished.code, Some(1));
}

#[test]
fn only_the_first_twenty_failures_are_shown() {
    let text: String = (0..30).map(|index| format!("GET k{index} x\n")).collect();
    let finished = validate(&Fake::start(Faults::default()), &text, &[]);
    assert_eq!(finished.stdout.matches("expected:").count(), 20);
    assert!(finished.stdout.contains("line 20: GET k19\n"), "{}", finished.stdout);
    assert!(finished.stdout.contains("... and 10 more failures\n"), "{}", finished.stdout);
    assert_eq!(finished.last_line(), "0 passed, 30 failed");
}

/// The server answers nobody until 300 requests have met, so this passes only if a whole block is
/// really in flight at once; and the peak that is printed is the one the server saw.
#[test]
fn a_block_is_in_flight_together() {
    let writes: String = (0..300).map(|index| format!("PUT k{index} v{index}\n")).collect();
    let reads: String = (0..300).map(|index| format!("GET k{index} v{index}\n")).collect();
    let fake = Fake::start(Faults { wait_for: 300, ..Faults::default() });
    let finished = validate(&fake, &format!("{writes}BARRIER\n{reads}"), &[]);
    assert_eq!(finished.last_line(), "600 passed, 0 failed");
    assert!(finished.stdout.contains("peak in flight: 300 (300 connections)\n"), "{}", finished.stdout);
    assert_eq!(fake.peak_in_flight(), 300);
}

#[test]
fn connections_bound_what_is_in_flight() {
    let fake = Fake::start(Faults { wait_for: 8, ..Faults::default() });
    let finished = validate(&fake, &generate("concurrency", 2, 2_000), &["--connections", "8"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stdout);
    assert_eq!(fake.peak_in_flight(), 8);
}

#[test]
fn without_barriers_requests_go_one_at_a_time_over_all_connections() {
    let fake = Fake::start(Faults::default());
    let finished = validate(&fake, &generate("put-delete", 3, 1_000), &["--connections", "16"]);
    assert_eq!(finished.last_line(), "1000 passed, 0 failed");
    assert!(finished.stdout.contains("peak in flight: 1 (16 connections)\n"), "{}", finished.stdout);
    assert_eq!(fake.peak_in_flight(), 1);
}

/// Whether the lost request was carried out or not, sending it again gives what the file expects.
#[test]
fn retry_sends_again_what_was_not_answered() {
    let none = Faults::default();
    let lossy = [
        Faults { lose_every: 40, ..none },
        Faults { drop_every: 40, ..none },
        Faults { busy_every: 40, ..none },
        Faults { lose_every: 31, drop_every: 37, busy_every: 41, ..none },
    ];
    for kind in ["put-delete-scan", "concurrency"] {
        let text = generate(kind, 8, 1_000);
        for faults in lossy {
            let finished = validate(&Fake::start(faults), &text, &["--retry", "10s"]);
            assert_eq!(finished.last_line(), format!("{} passed, 0 failed", requests(&text)), "{faults:?}");
            assert!(finished.stdout.contains(" requests were sent again\n"), "{faults:?}: {}", finished.stdout);
        }
    }
}

#[test]
fn without_retry_an_unanswered_request_fails_and_the_run_goes_on() {
    for faults in [Faults { drop_every: 100, ..Faults::default() }, Faults { busy_every: 100, ..Faults::default() }] {
        let text: String = (0..1_000).map(|index| format!("PUT k{index} v\n")).collect();
        let finished = validate(&Fake::start(faults), &text, &[]);
        assert_eq!(finished.last_line(), "990 passed, 10 failed", "{faults:?}");
        assert_eq!(finished.code, Some(1));
    }
}

/// A port that nobody listens on.
fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn a_server_that_is_not_there_fails_every_request_at_once() {
    let dir = TempDir::new();
    let file = dir.file("requests.txt", &generate("concurrency", 1, 500));
    for more in [&[][..], &["--retry", "200ms"]] {
        let finished = run(&[&["validate", &file, "--url", &free_url()], more].concat());
        let failed = requests(&std::fs::read_to_string(&file).unwrap());
        assert_eq!(finished.last_line(), format!("0 passed, {failed} failed"));
        assert!(finished.stdout.contains("stopped: cannot connect to 127.0.0.1:"), "{}", finished.stdout);
        assert_eq!(finished.code, Some(1));
    }
}

#[test]
fn the_summary_as_json() {
    let text = "PUT a 1\nGET a 2\n";
    let finished = validate(&Fake::start(Faults::default()), text, &["--json"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&summary["passed"], &summary["failed"]), (&1.into(), &1.into()));
    assert_eq!(summary["peak_in_flight"], 1);
    assert_eq!(summary["failures"][0]["line"], 2);
    assert_eq!(summary["failures"][0]["expected"], "2");
    assert_eq!(summary["failures"][0]["got"], "1");
    assert!(summary["elapsed_ms"].is_u64() && summary["requests_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(finished.code, Some(1));
}

#[test]
fn a_file_may_come_from_standard_input() {
    let fake = Fake::start(Faults::default());
    let mut child = cairn(&["validate", "-", "--url", &fake.url]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap();
    child.stdin.take().unwrap().write_all(b"PUT a 1\nGET a 1\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!(text.lines().last(), Some("2 passed, 0 failed"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_file_that_cannot_be_run_is_refused_before_anything_is_sent() {
    let fake = Fake::start(Faults::default());
    let finished = validate(&fake, "PUT a 1\nGET a\n", &[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("requests.txt, line 2: an accepted value is missing"), "{}", finished.stderr);
    assert_eq!((finished.stdout.as_str(), fake.peak_in_flight()), ("", 0));

    let finished = run(&["validate", "/no/such/file", "--url", &fake.url]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("/no/such/file"), "{}", finished.stderr);
}

#[test]
fn a_url_that_is_none_is_refused() {
    let dir = TempDir::new();
    let file = dir.file("requests.txt", "PUT a 1\n");
    let finished = run(&["validate", &file, "--url", "localhost"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("bad server URL localhost"), "{}", finished.stderr);
}
