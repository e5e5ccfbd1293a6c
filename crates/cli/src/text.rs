//! Text at the edge: sizes, durations and lists as people write them, bytes as terminals can show them.

use std::fmt;
use std::time::Duration;

/// Bytes as text: UTF-8 as it is, everything that is not, or that a terminal would obey, escaped.
pub(crate) fn escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped { bytes, cut: 0 }
}

/// A text of others, [`escaped`].
pub(crate) fn plain(text: &str) -> String {
    escaped(text.as_bytes()).to_string()
}

/// Like [`escaped`], but of long bytes only the first `bytes_max`, and how many there are.
pub(crate) fn shortened(bytes: &[u8], bytes_max: usize) -> Escaped<'_> {
    match bytes.get(..bytes_max) {
        Some(head) => Escaped { bytes: head, cut: bytes.len() - head.len() },
        None => escaped(bytes),
    }
}

/// Bytes that print escaped.
pub(crate) struct Escaped<'a> {
    bytes: &'a [u8],
    cut: usize,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => write!(f, "{}", c.escape_default())?,
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if self.cut > 0 {
            write!(f, "... ({} bytes)", self.bytes.len() + self.cut)?;
        }
        Ok(())
    }
}

/// How many there are of what is called `one`, or `many` if it is not one.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Parses `500ms`, `30s`, `5m` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    UNITS
        .iter()
        .find_map(|&(suffix, ms)| Some((text.strip_suffix(suffix)?.parse::<u64>().ok()?, ms)))
        .and_then(|(count, ms)| count.checked_mul(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a whole number and its unit, such as 500ms, 30s, 5m or 1h".to_owned())
}

/// Parses `4096`, `64KiB`, `256MiB`, `2GiB` (also K, M, G; a unit is always a power of 1,024).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        _ => None,
    };
    let count = digits.parse::<u64>().ok();
    count
        .zip(shift)
        .and_then(|(count, shift)| count.checked_mul(1 << shift))
        .ok_or_else(|| "expected bytes, such as 4096, 64KiB, 256MiB or 2GiB".to_owned())
}

/// A size as people read it: at most one decimal, in the largest unit that fits.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let good = [("500ms", 500), ("0s", 0), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)];
        for (text, ms) in good {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let good = [("0", 0), ("4096", 4096), ("1KiB", 1024), ("64k", 65_536), ("256MiB", 256 << 20), ("2GB", 2 << 30)];
        for (text, bytes) in good {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1TiB", "1 MiB", "17179869184GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (256 << 20, "256 MiB")];
        for (bytes, text) in sizes {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_bytes(u64::MAX), "17179869183.9 GiB");
    }

    #[test]
    fn bytes_that_a_terminal_would_obey_are_escaped() {
        assert_eq!(escaped(b"plain \xc3\xa9").to_string(), "plain \u{e9}");
        assert_eq!(escaped(b"\x1b[2J\n\\ \xff").to_string(), "\\u{1b}[2J\\n\\\\ \\xff");
        assert_eq!(shortened(b"abcdef", 4).to_string(), "abcd... (6 bytes)");
        assert_eq!(shortened(b"abcd", 4).to_string(), "abcd");
    }
}
