//! What people write for the command line: validation files, sizes, durations.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use crate::script::{Request, Script};
use crate::text;

/// A validation file.
pub(crate) fn script(input: &[u8]) {
    let parsed = match Script::parse(input) {
        Ok(parsed) => parsed,
        Err(error) => {
            let lines = input.split(|b| *b == b'\n').count();
            assert!((1..=lines).contains(&error.line) && !error.to_string().is_empty());
            return;
        }
    };
    let mut end = 0;
    for block in &parsed.blocks {
        assert!(block.start == end && block.end > block.start, "blocks follow each other: {:?}", parsed.blocks);
        end = block.end;
    }
    assert_eq!(end, parsed.requests.len(), "blocks are all requests");
    assert!(parsed.in_flight_max() <= parsed.requests.len().max(1));
    for line in &parsed.requests {
        if let Request::Get { accepted, .. } = &line.request {
            assert!(!accepted.is_empty(), "a GET expects something");
        }
        // Keys of a scan's list are encoded again; other bytes that a terminal would obey are
        // escaped, which the grammar does not know.
        let printed = line.request.to_string();
        if printed.is_ascii() && !printed.contains('\\') {
            assert_eq!(Request::parse(printed.as_bytes()).as_ref(), Ok(&line.request), "{printed}");
        }
    }
}

/// Sizes and durations.
pub(crate) fn numbers(input: &[u8]) {
    assert!(text::shortened(input, 8).to_string().chars().all(|c| !c.is_control()));
    let Ok(written) = std::str::from_utf8(input) else { return };
    let digits: String = written.chars().take_while(char::is_ascii_digit).collect();
    let number = digits.parse::<u128>().unwrap_or(u128::MAX);
    if let Ok(bytes) = text::parse_bytes(written) {
        assert!(written.starts_with('+') || u128::from(bytes) >= number, "{written} is {bytes} bytes");
        assert!(!text::human_bytes(bytes).is_empty());
    }
    if let Ok(time) = text::parse_duration(written) {
        assert!(written.starts_with('+') || time.as_millis() >= number, "{written} is {time:?}");
    }
}

pub(crate) fn script_seeds() -> Vec<Vec<u8>> {
    let files = [
        "PUT a 1\nGET a 1\nGET b NOT_FOUND\nDELETE a\nSCAN a z a,b%2Cc\nSCAN a z \n",
        "# two at once\nput a 1\nput b 2\r\n\nBARRIER\nGET a [1 2 NOT_FOUND]\nGET b 2 3\nbarrier\n",
        "GET a []\nPUT  b\n",
    ];
    files.iter().map(|file| file.as_bytes().to_vec()).collect()
}

pub(crate) fn numbers_seeds() -> Vec<Vec<u8>> {
    ["64KiB", "2GiB", "500ms", "1h", "18446744073709551615", "+5"].map(|text| text.as_bytes().to_vec()).to_vec()
}
