//! Which versions of a key survive a flush or a compaction: one pure decision for both.
//!
//! The registered snapshots cut time into stripes: versions in one stripe look the same to every
//! reader but the newest of them, so only that one is kept. The stripe after the last snapshot
//! belongs to those who read the latest.
//!
//! A tombstone that is kept by this rule may go too, if no snapshot lies before it (nobody can
//! see what it hides) and nothing below the output can hold its key (nothing would come back).

use cairn_codec::same;

use crate::types::{SeqNo, kind};

/// Decides entry by entry. Entries come in table order: by key, newest version first.
#[derive(Debug)]
pub(crate) struct Retainer {
    /// Registered snapshots, ascending.
    snapshots: Vec<SeqNo>,
    key: Vec<u8>,
    /// The stripe of the last version seen of `key`; None before the first.
    stripe: Option<usize>,
}

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Kept; the newest version of its key.
    Keep,
    /// Kept only for a snapshot: a newer version exists.
    KeepStale,
    /// Nobody can see it.
    Drop,
}

impl Retainer {
    pub(crate) fn new(snapshots: Vec<SeqNo>) -> Retainer {
        debug_assert!(snapshots.is_sorted());
        Retainer { snapshots, key: Vec::new(), stripe: None }
    }

    /// Whether `key` differs from that of the entry decided before: the place where a table may end.
    pub(crate) fn begins_key(&self, key: &[u8]) -> bool {
        self.stripe.is_none() || !same(&self.key, key)
    }

    /// Decides on the next entry. `may_lie_below` is asked only about tombstones.
    pub(crate) fn decide(
        &mut self,
        key: &[u8],
        seq: SeqNo,
        entry_kind: u8,
        may_lie_below: impl FnOnce() -> bool,
    ) -> Verdict {
        let stripe = self.snapshots.partition_point(|&snapshot| snapshot < seq);
        let first = self.begins_key(key);
        if first {
            self.key.clear();
            self.key.extend_from_slice(key);
        } else if self.stripe == Some(stripe) {
            return Verdict::Drop;
        }
        self.stripe = Some(stripe);
        let unseen = stripe == 0 || cairn_env::mutant("tombstone-dropped-under-a-snapshot");
        let alone = || !may_lie_below() || cairn_env::mutant("tombstone-dropped-above-a-value");
        if entry_kind == kind::DELETE && unseen && alone() {
            return Verdict::Drop;
        }
        if first { Verdict::Keep } else { Verdict::KeepStale }
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Drop, Keep, KeepStale};
    use super::*;

    fn decide(snapshots: &[u64], below: bool, entries: &[(&str, u64, u8)]) -> Vec<Verdict> {
        let mut retainer = Retainer::new(snapshots.iter().copied().map(SeqNo).collect());
        entries.iter().map(|(key, seq, kind)| retainer.decide(key.as_bytes(), SeqNo(*seq), *kind, || below)).collect()
    }

    #[test]
    fn only_the_newest_version_of_each_stripe_is_kept() {
        let entries = [("a", 9, 1), ("a", 7, 1), ("a", 5, 1), ("a", 3, 1), ("b", 4, 1)];
        assert_eq!(decide(&[], false, &entries), [Keep, Drop, Drop, Drop, Keep]);
        assert_eq!(decide(&[7], false, &entries), [Keep, KeepStale, Drop, Drop, Keep]);
        assert_eq!(decide(&[6], false, &entries), [Keep, Drop, KeepStale, Drop, Keep]);
        assert_eq!(decide(&[3, 8], false, &entries), [Keep, KeepStale, Drop, KeepStale, Keep]);
        assert_eq!(decide(&[2], false, &entries), [Keep, Drop, Drop, Drop, Keep]);
    }

    #[test]
    fn a_tombstone_goes_only_when_nobody_could_see_what_it_hides() {
        let entries = [("a", 9, 0), ("a", 7, 1)];
        assert_eq!(decide(&[], false, &entries), [Drop, Drop]);
        assert_eq!(decide(&[], true, &entries), [Keep, Drop]);
        assert_eq!(decide(&[7], false, &entries), [Keep, KeepStale]);
        assert_eq!(decide(&[8], false, &entries), [Keep, KeepStale]);
        assert_eq!(decide(&[9], false, &entries), [Drop, Drop], "the snapshot sees the key deleted");
        assert_eq!(decide(&[9], true, &entries), [Keep, Drop]);
    }

    #[test]
    fn a_dropped_tombstone_still_hides_the_older_versions_of_its_own_key() {
        // Between two snapshots: the put at 7 is seen by the snapshot at 8 and by nobody else.
        let entries = [("a", 9, 1), ("a", 7, 0), ("a", 5, 1)];
        assert_eq!(decide(&[8], false, &entries), [Keep, Drop, Drop]);
        assert_eq!(decide(&[6, 8], false, &entries), [Keep, KeepStale, KeepStale]);
    }
}
