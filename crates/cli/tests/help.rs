//! What a stranger meets first: help, errors in the command line, exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use common::serving::Serving;
use common::{Finished, TempDir, cairn, run};

const COMMANDS: [&str; 17] = [
    "serve", "put", "get", "delete", "scan", "task", "queue", "event", "worker", "stats", "compact", "check",
    "inspect", "repair", "validate", "generate", "bench",
];

/// What stands under the commands about tasks.
const NESTED: [(&str, &[&str]); 4] = [
    ("task", &["spawn", "list", "tail", "show", "result", "cancel", "retry"]),
    ("queue", &["list", "show", "set", "pause", "resume", "delete"]),
    ("event", &["emit", "show", "list"]),
    ("worker", &["list"]),
];

#[test]
fn help_lists_every_command_and_every_command_has_help() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("cairn put greeting hello"), "{}", help.stdout);
    for command in COMMANDS {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command} is not in\n{}", help.stdout);
        let own = run(&[command, "--help"]);
        assert_eq!(own.code, Some(0), "{command}");
        assert!(own.stdout.contains(&format!("Usage: cairn {command}")), "{}", own.stdout);
        let widest = own.stdout.lines().map(str::len).max();
        assert!(widest <= Some(100), "{command}: a line of {widest:?}\n{}", own.stdout);
    }
}

#[test]
fn nested_commands_have_help_too() {
    for (command, nested) in NESTED {
        let help = run(&[command, "--help"]).stdout;
        for own in nested {
            assert!(help.contains(&format!("\n  {own} ")), "{command} {own} is not in\n{help}");
            let own_help = run(&[command, own, "--help"]);
            assert_eq!(own_help.code, Some(0), "{command} {own}");
            let usage = format!("Usage: cairn {command} {own}");
            assert!(own_help.stdout.contains(&usage) && own_help.stdout.contains("--json"), "{}", own_help.stdout);
            let widest = own_help.stdout.lines().map(str::len).max();
            assert!(widest <= Some(100), "{command} {own}: a line of {widest:?}\n{}", own_help.stdout);
        }
    }
    for (command, parts) in [
        (["task", "list"], &["--queue", "--name", "--status", "--tag", "--limit", "--after", "--url"][..]),
        (["task", "tail"], &["--queue", "--name", "--last", "--every", "--url"]),
        (["task", "spawn"], &["--queue", "--key", "--delay", "--priority", "--max-attempts", "--tag"]),
        (["event", "list"], &["--queue", "--prefix", "--limit", "--after", "CAIRN_URL"]),
        (["task", "result"], &["--wait", "such as 30s"]),
        (["queue", "set"], &["--retention-days", "--event-ttl", "--max-waiting", "<NAME>"]),
    ] {
        let help = run(&[&command[..], &["--help"]].concat()).stdout;
        for part in parts {
            assert!(help.contains(part), "`{part}` is not in the help of {command:?}:\n{help}");
        }
    }
}

/// The surface that scripts of others call: each of these is in its command's help.
#[test]
fn the_stable_options_are_there() {
    let surface: [(&str, &[&str]); 13] = [
        (
            "serve",
            &[
                "[default: ./cairn-data]",
                "[default: 127.0.0.1:8080]",
                "--http",
                "--durability",
                "--profile",
                "--memory",
                "--token-file",
            ],
        ),
        ("put", &["<KEY> <VALUE>", "--url", "--dir", "--json", "[default: http://127.0.0.1:8080]", "CAIRN_URL"]),
        ("get", &["<KEY>", "--url", "--dir", "--json"]),
        ("delete", &["<KEY>", "--url", "--dir", "--json"]),
        ("scan", &["--start", "--end", "--prefix", "--limit", "--url", "--dir", "--json"]),
        ("stats", &["[DIR|URL]", "--json", "CAIRN_URL"]),
        ("compact", &["[DIR|URL]", "--json"]),
        ("check", &["<DIR>", "--json"]),
        ("inspect", &["<FILE>"]),
        ("repair", &["<DIR>", "--to <NEW>", "--json"]),
        ("validate", &["<FILE>", "--url", "--connections", "--retry", "--json"]),
        ("generate", &["put-delete-scan", "concurrency", "--seed", "--lines", "--out"]),
        (
            "bench",
            &[
                "--dir",
                "--url",
                "--connections",
                "--threads",
                "--workload",
                "--keys",
                "--value-bytes",
                "--durability",
                "--json",
            ],
        ),
    ];
    for (command, parts) in surface {
        let help = run(&[command, "--help"]).stdout;
        for part in parts {
            assert!(help.contains(part), "`{part}` is not in the help of {command}:\n{help}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let dir = TempDir::new();
    let path = dir.join("db");
    for arguments in [
        &["nonsense"][..],
        &[],
        &["put", "k"],
        &["get"],
        &["get", "k", "--url", "http://localhost", "--dir", &path],
        &["scan", "--prefix", "a", "--start", "b"],
        &["validate", "f", "--connections", "0"],
        &["validate", "f", "--retry", "30"],
        &["serve", "--durability", "sometimes"],
        &["serve", "--durability", "interval:1"],
        &["serve", "--memory", "much"],
        &["bench", "--workload", "nothing"],
        &["repair", &path],
        &["task"],
        &["task", "show"],
        &["task", "list", "--limit", "0"],
        &["task", "list", "--status", "waiting,"],
        &["task", "list", "--status", ""],
        &["event", "list", "mail"],
        &["task", "tail", "--every", "5"],
        &["queue", "set", "q", "--event-ttl", "1d"],
        &["event", "list", "--limit", "many"],
    ] {
        let finished = run(arguments);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(finished.stderr.contains("--help"), "{arguments:?}: {}", finished.stderr);
    }
}

#[test]
fn a_server_that_is_not_there_is_exit_code_1_and_says_so() {
    let url = "http://127.0.0.1:1";
    for arguments in [
        &["get", "k", "--url", url][..],
        &["put", "k", "v", "--url", url],
        &["delete", "k", "--url", url],
        &["scan", "--url", url],
        &["stats", url],
        &["compact", url],
        &["task", "list", "--url", url],
        &["task", "tail", "--url", url],
        &["task", "show", "019aa9a0-0000-7000-8000-000000000000", "--url", url],
        &["queue", "list", "--url", url],
        &["event", "list", "--url", url],
        &["worker", "list", "--url", url],
        &["bench", "--url", url, "--keys", "1"],
    ] {
        let finished = run(arguments);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(
            finished.stderr.starts_with("cairn: cannot connect to 127.0.0.1:1: ")
                && finished.stderr.contains("is the server running"),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

#[test]
fn the_variable_names_the_server_where_nothing_else_does() {
    let dir = TempDir::new();
    let server = Serving::start(&dir.join("served"), &[]);
    let with = |url: &str, arguments: &[&str]| Finished::from(cairn(arguments).env("CAIRN_URL", url).output().unwrap());
    let nowhere = "http://127.0.0.1:1";
    let done = |finished: Finished| assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    for arguments in
        [&["put", "k", "v"][..], &["get", "k"], &["task", "spawn", "order"], &["queue", "list"], &["stats"]]
    {
        done(with(&server.url, arguments));
        let lost = with(nowhere, arguments);
        assert!(lost.stderr.contains("cannot connect to 127.0.0.1:1: "), "{arguments:?}: {}", lost.stderr);
    }
    // What is said on the command line goes first.
    done(with(nowhere, &["get", "k", "--url", &server.url]));
    done(with(nowhere, &["stats", &server.url]));
    done(with(nowhere, &["put", "k", "v", "--dir", &dir.join("alone")]));
    done(with(nowhere, &["stats", &dir.join("alone")]));
    // An empty variable is none.
    assert!(with("", &["get", "--help"]).stdout.contains("[default: http://127.0.0.1:8080]"));
    assert!(with(nowhere, &["get", "--help"]).stdout.contains("[default: http://127.0.0.1:1]"));
}

#[test]
fn a_token_file_is_one_line_of_visible_characters() {
    let dir = TempDir::new();
    for (content, part) in
        [("", "is empty"), ("\n", "is empty"), ("a b\n", "holds spaces"), ("a\nb\n", "several lines")]
    {
        let file = dir.file("token", content);
        let finished = run(&["get", "k", "--token-file", &file]);
        assert_eq!(finished.code, Some(1));
        assert!(finished.stderr.contains(part), "{content:?}: {}", finished.stderr);
    }
    let finished = run(&["get", "k", "--token-file", &dir.join("none")]);
    assert!(finished.stderr.contains("cannot open"), "{}", finished.stderr);
}
