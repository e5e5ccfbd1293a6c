//! Keys that are hard for a tree: short and long, neighbours, prefixes of one another.
//!
//! All are made of `[a-z0-9_-]`, which stands for itself in a request's path and in a scan's answer.

use cairn_bench::random::Random;

/// The longest key a file may hold; far below what a request's target may have.
const KEY_BYTES_MAX: usize = 220;

/// A lower-case letter.
pub(super) fn letter(random: &mut Random) -> char {
    char::from(random.pick(b"abcdefghijklmnopqrstuvwxyz").copied().unwrap_or(b'a'))
}

fn letters(random: &mut Random, count: usize) -> String {
    (0..count).map(|_| letter(random)).collect()
}

/// A key, often made from `known`; it may exist already.
pub(super) fn new_key(random: &mut Random, known: &[String]) -> String {
    match random.below(100) {
        0..50 => letters(random, 5),
        50..75 => neighbour(random, known),
        75..85 => {
            let count = random.between(1, 3);
            letters(random, count)
        }
        85..93 => {
            let mark = random.pick(&["_", "-", "0", "9"]).copied().unwrap_or("_");
            let count = random.between(1, 4);
            format!("{}{mark}{}", letters(random, 3), letters(random, count))
        }
        93..98 => format!("user-{:06}", random.below(1_000_000)),
        _ => {
            let count = random.between(40, 200);
            letters(random, count)
        }
    }
}

/// A key that begins with a known one, or that a known one begins with.
pub(super) fn neighbour(random: &mut Random, known: &[String]) -> String {
    match random.pick(known).cloned() {
        Some(mut key) if key.len() < KEY_BYTES_MAX && random.percent(60) => {
            let room = KEY_BYTES_MAX - key.len();
            let count = random.between(1, 3.min(room));
            key.push_str(&letters(random, count));
            key
        }
        Some(mut key) if key.len() > 1 => {
            // Keys are ASCII: every byte is a boundary.
            key.truncate(random.between(1, key.len() - 1));
            key
        }
        _ => letters(random, 5),
    }
}

/// The least text above every key that begins with `key`'s own prefix: `key` with its last byte
/// one higher. A bound for scans that is usually no key itself.
pub(super) fn above(key: &str) -> String {
    let mut bound = key.to_owned();
    while let Some(last) = bound.pop() {
        if last < 'z' {
            bound.push(char::from_u32(u32::from(last) + 1).unwrap_or('z'));
            // The byte after `9`, `_` or `-` would need escapes; the next key letter bounds as well.
            return bound.replace([':', '`', '.'], "a");
        }
    }
    "zzzzzzzz".to_owned()
}
