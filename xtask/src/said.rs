//! What is looked for in the text that a process left: its last lines, and whether it panicked.

/// Lines of a panic that are worth showing: what it says, and the top of its backtrace.
const PANIC_LINES: usize = 30;

/// The last lines.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// The first panic and what follows it, wherever in the text it stands.
pub(crate) fn panic(text: &str) -> Option<String> {
    let begin = text.lines().position(|line| line.contains("panicked at"))?;
    Some(text.lines().skip(begin).take(PANIC_LINES).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_before_any_number_of_lines() {
        let text = format!("before\nthread 'a' (7) panicked at b.rs:1:2:\nboom\n{}", "frame\n".repeat(200));
        assert!(!tail(&text, 30).contains("panicked"));
        assert!(panic(&text).unwrap().starts_with("thread 'a' (7) panicked at b.rs:1:2:\nboom\nframe\n"));
        assert_eq!(panic("nothing\nof the kind"), None);
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
    }
}
