//! Comparing keys, eight bytes at a time.
//!
//! The order is that of slices. The system's `memcmp` loads 32 bytes at once, masked; a key that was
//! written a moment ago, as a cursor does at every step, is still on its way to the cache in smaller
//! pieces, and such a load must wait for them. Loads of eight bytes need not: for the keys of a scan
//! this is several times faster, and for long keys no slower than the memory.

use std::cmp::Ordering;

/// How `a` sorts against `b`: as slices of bytes do.
#[inline]
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (words_a, tail_a) = a.as_chunks::<8>();
    let (words_b, tail_b) = b.as_chunks::<8>();
    for (x, y) in words_a.iter().zip(words_b) {
        let (x, y) = (u64::from_be_bytes(*x), u64::from_be_bytes(*y));
        if x != y {
            return x.cmp(&y);
        }
    }
    let words = words_a.len().min(words_b.len());
    let (tail_a, tail_b) = if words_a.len() == words_b.len() {
        (tail_a, tail_b)
    } else {
        (a.get(words * 8..).unwrap_or_default(), b.get(words * 8..).unwrap_or_default())
    };
    for (x, y) in tail_a.iter().zip(tail_b) {
        if x != y {
            return x.cmp(y);
        }
    }
    a.len().cmp(&b.len())
}

/// Whether `a` and `b` are the same bytes. Keys that differ mostly do so near their ends: it looks there first.
#[inline]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.split_last_chunk::<8>(), b.split_last_chunk::<8>()) {
        (Some((rest_a, last_a)), Some((rest_b, last_b))) => {
            u64::from_ne_bytes(*last_a) == u64::from_ne_bytes(*last_b) && compare(rest_a, rest_b).is_eq()
        }
        _ => compare(a, b).is_eq(),
    }
}

/// The first 8 bytes as a number that compares as they do; zeros stand for missing ones. Of two strings the one
/// with the smaller head is the smaller; equal heads say nothing.
#[inline]
pub fn head(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_be_bytes(padded)
}

/// How many leading bytes two strings share.
#[inline]
pub fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let mut at = 0;
    for (x, y) in words_a.iter().zip(words_b) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return at + (differ.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let (tail_a, tail_b) = (a.get(at..).unwrap_or_default(), b.get(at..).unwrap_or_default());
    at + tail_a.iter().zip(tail_b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_slices_do() {
        // Every pair of strings of up to 20 bytes that differ in one place, or in length.
        let base: Vec<u8> = (0..20).map(|i| 100 + i).collect();
        let mut keys: Vec<Vec<u8>> = (0..=20).map(|len| base[..len].to_vec()).collect();
        for at in 0..20 {
            for byte in [0, 99, 127, 128, 255] {
                for len in [at + 1, 15.max(at + 1), 16.max(at + 1), 20] {
                    let mut key = base[..len].to_vec();
                    key[at] = byte;
                    keys.push(key);
                }
            }
        }
        let padded = |key: &[u8]| {
            let mut padded = [0; 8];
            padded.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
            padded
        };
        for a in &keys {
            for b in &keys {
                assert_eq!(compare(a, b), a.cmp(b), "{a:?} {b:?}");
                assert_eq!(same(a, b), a == b, "{a:?} {b:?}");
                assert_eq!(head(a).cmp(&head(b)), padded(a).cmp(&padded(b)), "{a:?} {b:?}");
                let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                assert_eq!(common_prefix(a, b), common, "{a:?} {b:?}");
            }
        }
    }
}
