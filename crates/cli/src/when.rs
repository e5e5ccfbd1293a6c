//! Spans and moments as people say them.

use std::time::{Duration, UNIX_EPOCH};

/// A span in its two largest units: `420 ms`, `3.2 s`, `5 m 20 s`, `2 h 5 m`, `4 d 3 h`.
pub(crate) fn span(ms: u64) -> String {
    let two = |larger: u64, unit: &str, smaller: u64, lesser: &str| match smaller {
        0 => format!("{larger} {unit}"),
        _ => format!("{larger} {unit} {smaller} {lesser}"),
    };
    let (s, m, h) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => match ms % 1_000 / 100 {
            0 => format!("{s} s"),
            tenths => format!("{s}.{tenths} s"),
        },
        10_000..60_000 => format!("{s} s"),
        60_000..3_600_000 => two(m, "m", s % 60, "s"),
        3_600_000..86_400_000 => two(h, "h", m % 60, "m"),
        _ => two(h / 24, "d", h % 24, "h"),
    }
}

/// How long ago a moment is, or how far ahead, in its largest unit: `3 m ago`, `in 2 h`, `now`.
pub(crate) fn from_now(at_ms: u64, now_ms: u64) -> String {
    let away_ms = at_ms.abs_diff(now_ms);
    let largest = match away_ms {
        0..1_000 => return "now".to_owned(),
        1_000..60_000 => format!("{} s", away_ms / 1_000),
        60_000..3_600_000 => format!("{} m", away_ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", away_ms / 3_600_000),
        _ => format!("{} d", away_ms / 86_400_000),
    };
    if at_ms > now_ms { format!("in {largest}") } else { format!("{largest} ago") }
}

/// A moment in UTC, such as `2026-11-22T20:15:00Z`.
pub(crate) fn moment(at_ms: u64) -> String {
    // What the calendar of the library does not reach is told as the number that it is.
    let reachable = at_ms < 253_402_300_800_000;
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(at_ms)).filter(|_| reachable);
    time.map_or_else(|| format!("{at_ms} ms after 1970"), |time| humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;

    #[test]
    fn spans_have_their_two_largest_units() {
        let spans = [
            (0, "0 ms"),
            (999, "999 ms"),
            (3 * SECOND, "3 s"),
            (3_290, "3.2 s"),
            (59_999, "59 s"),
            (5 * MINUTE, "5 m"),
            (5 * MINUTE + 20_500, "5 m 20 s"),
            (2 * HOUR + 5 * MINUTE + 59_999, "2 h 5 m"),
            (24 * HOUR, "1 d"),
            (99 * HOUR, "4 d 3 h"),
        ];
        for (ms, text) in spans {
            assert_eq!(span(ms), text);
        }
        assert!(span(u64::MAX).ends_with(" h"));
    }

    #[test]
    fn moments_are_seen_from_now() {
        let now = 1_763_842_500_000;
        assert_eq!(moment(now), "2025-11-22T20:15:00Z");
        for (at, text) in [
            (now, "now"),
            (now - 3 * MINUTE - 59 * SECOND, "3 m ago"),
            (now + 999, "now"),
            (now + SECOND, "in 1 s"),
            (now + 47 * HOUR, "in 1 d"),
            (now - 2 * HOUR, "2 h ago"),
        ] {
            assert_eq!(from_now(at, now), text);
        }
        assert_eq!(moment(u64::MAX), "18446744073709551615 ms after 1970");
        assert_eq!(moment(253_402_300_799_999), "9999-12-31T23:59:59Z");
    }
}
