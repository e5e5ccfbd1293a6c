//! The grammar as a table: a line, and what it is read as.

use super::*;

/// A line, and either how the parsed request prints or a part of the error.
const LINES: &[(&str, Result<&str, &str>)] = &[
    ("PUT k v", Ok("PUT k v")),
    ("put k v", Ok("PUT k v")),
    ("PUT k [x", Ok("PUT k [x")),
    ("PUT k\tx \u{e9}", Ok("PUT k\\tx \u{e9}")),
    ("PUT k", Err("expected: PUT key value")),
    ("PUT k ", Err("expected: PUT key value")),
    ("PUT  v", Err("expected: PUT key value")),
    ("PUT k v w", Err("expected: PUT key value")),
    ("GET k v", Ok("GET k v")),
    ("GET k NOT_FOUND", Ok("GET k NOT_FOUND")),
    ("GET k [v]", Ok("GET k v")),
    ("GET k [v w]", Ok("GET k [v w]")),
    ("GET k [NOT_FOUND v]", Ok("GET k [NOT_FOUND v]")),
    ("GET k v w", Ok("GET k [v w]")),
    ("GET k v NOT_FOUND", Ok("GET k [v NOT_FOUND]")),
    ("GET k [v", Ok("GET k [v")),
    ("GET k [v w", Err("no closing bracket")),
    ("GET k []", Err("an accepted value is missing")),
    ("GET k [v  w]", Err("two spaces")),
    ("GET k [v ]", Err("two spaces")),
    ("GET k ", Err("an accepted value is missing")),
    ("GET k", Err("an accepted value is missing")),
    ("GET", Err("expected: GET key value")),
    ("GET  v", Err("expected: GET key value")),
    ("DELETE k", Ok("DELETE k")),
    ("DELETE k v", Err("expected: DELETE key")),
    ("DELETE ", Err("expected: DELETE key")),
    ("SCAN a b a,aa", Ok("SCAN a b a,aa")),
    ("SCAN a b ", Ok("SCAN a b ")),
    ("SCAN a b", Ok("SCAN a b ")),
    ("SCAN a b a%2Cb,a.b", Ok("SCAN a b a%2Cb,a%2Eb")),
    ("SCAN a b a,", Err("a key of the list is empty")),
    ("SCAN a b a%2", Err("two hexadecimal digits")),
    ("SCAN a b a, aa", Err("expected: SCAN from to")),
    ("SCAN a", Err("expected: SCAN from to")),
    ("INSERT k v", Err("`INSERT` is none of PUT")),
    (" PUT k v", Err("`` is none of PUT")),
    ("BARRIER now", Err("`BARRIER` is none of")),
];

#[test]
fn every_line_of_the_table_is_read_as_it_says() {
    for (line, expected) in LINES {
        match (Request::parse(line.as_bytes()), expected) {
            (Ok(request), Ok(text)) => assert_eq!(request.to_string(), *text, "{line:?}"),
            (Err(message), Err(part)) => assert!(message.contains(part), "{line:?}: {message}"),
            (got, _) => panic!("{line:?}: expected {expected:?}, got {got:?}"),
        }
    }
}

#[test]
fn what_prints_is_read_back_as_the_same_request() {
    for (line, _) in LINES.iter().filter(|(line, expected)| expected.is_ok() && !line.contains('\t')) {
        let request = Request::parse(line.as_bytes()).unwrap();
        assert_eq!(Request::parse(request.to_string().as_bytes()).unwrap(), request, "{line:?}");
    }
}

#[test]
fn lists_with_and_without_brackets_are_the_same() {
    assert_eq!(Request::parse(b"GET k [1 2]"), Request::parse(b"GET k 1 2"));
    let Ok(Request::Get { accepted, .. }) = Request::parse(b"GET k [1 NOT_FOUND]") else { panic!("not a GET") };
    assert_eq!(accepted, [Answer::Value(b"1".to_vec()), Answer::NotFound]);
}

#[test]
fn barriers_part_blocks_and_are_not_requests() {
    let script = Script::parse(b"BARRIER\nPUT a 1\nPUT b 2\nBARRIER\nBARRIER\nGET a 1\nBARRIER\n").unwrap();
    assert!(script.has_barriers);
    assert_eq!(script.blocks, [0..2, 2..3]);
    assert_eq!(script.requests.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 3, 6]);
    assert_eq!(script.in_flight_max(), 2);
}

#[test]
fn without_barriers_one_request_is_in_flight() {
    let script = Script::parse(b"# a comment\r\n\nPUT a 1\r\n\r\nGET a 1").unwrap();
    assert!(!script.has_barriers);
    assert_eq!(script.blocks.len(), 1);
    assert_eq!(script.blocks.first(), Some(&(0..2)));
    assert_eq!(script.requests.iter().map(|line| line.number).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(script.in_flight_max(), 1);
    assert_eq!(Script::parse(b"").unwrap().requests, []);
}

#[test]
fn an_error_names_its_line() {
    let error = Script::parse(b"PUT a 1\n\nGET a\n").unwrap_err();
    assert_eq!(error.line, 3);
    assert!(error.to_string().starts_with("line 3: "), "{error}");
}
