//! A set of ranges of keys: as large as the ranges lie apart, however many were added.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A set of ranges of keys, both ends included.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    all: bool,
    /// The end by the start; they are apart.
    ranges: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Ranges {
    /// Every key.
    pub(super) fn all() -> Ranges {
        Ranges { all: true, ranges: BTreeMap::new() }
    }

    /// The last range that does not begin behind `key`.
    fn before(&self, key: &[u8]) -> Option<(&Vec<u8>, &Vec<u8>)> {
        self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    pub(super) fn add(&mut self, from: &[u8], to: &[u8]) {
        let (mut from, mut to) = (from.to_vec(), to.to_vec());
        // Those that it meets become one with it.
        while let Some((start, end)) = self.before(&to).filter(|(_, end)| **end >= from) {
            let (start, end) = (start.clone(), end.clone());
            self.ranges.remove(&start);
            from = from.min(start);
            to = to.max(end);
        }
        self.ranges.insert(from, to);
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.all || self.before(key).is_some_and(|(_, to)| key <= to.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_was_added_and_no_more() {
        let mut ranges = Ranges::default();
        for (from, to) in [("m", "p"), ("b", "c"), ("c", "e"), ("n", "o"), ("x", "x"), ("g", "h"), ("d", "g")] {
            ranges.add(from.as_bytes(), to.as_bytes());
        }
        assert_eq!(ranges.ranges.len(), 3);
        for (key, inside) in [
            ("a", false),
            ("b", true),
            ("cc", true),
            ("e", true),
            ("f", true),
            ("h", true),
            ("h\0", false),
            ("m", true),
            ("oz", true),
            ("p", true),
            ("pp", false),
            ("x", true),
            ("y", false),
        ] {
            assert_eq!(ranges.contains(key.as_bytes()), inside, "{key:?}");
        }
        assert!(!Ranges::default().contains(b"a"));
        assert!(Ranges::all().contains(b"a"));
    }

    #[test]
    fn neighbours_are_one_range() {
        let mut ranges = Ranges::default();
        for i in 0..1000_u32 {
            ranges.add(&i.to_be_bytes(), &(i + 1).to_be_bytes());
        }
        assert_eq!(ranges.ranges.len(), 1);
    }
}
