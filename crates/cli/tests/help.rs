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

use common::{TempDir, run};

const COMMANDS: [&str; 13] = [
    "serve", "put", "get", "delete", "scan", "stats", "compact", "check", "inspect", "repair", "validate", "generate",
    "bench",
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
        ("put", &["<KEY> <VALUE>", "--url", "--dir", "--json", "[default: http://127.0.0.1:8080]"]),
        ("get", &["<KEY>", "--url", "--dir", "--json"]),
        ("delete", &["<KEY>", "--url", "--dir", "--json"]),
        ("scan", &["--start", "--end", "--prefix", "--limit", "--url", "--dir", "--json"]),
        ("stats", &["[DIR|URL]", "--json"]),
        ("compact", &["[DIR|URL]", "--json"]),
        ("check", &["<DIR>", "--json"]),
        ("inspect", &["<FILE>"]),
        ("repair", &["<DIR>", "--to <NEW>", "--json"]),
        ("validate", &["<FILE>", "--url", "--connections", "--retry", "--json"]),
        ("generate", &["put-delete-scan", "concurrency", "--seed", "--lines", "--out"]),
        ("bench", &["--dir", "--url", "--workload", "--keys", "--value-bytes", "--durability", "--json"]),
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
