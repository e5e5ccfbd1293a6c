//! Counts of latencies in buckets that are at most 1/128 wide: quantiles to better than one per cent.
//!
//! Below 128 every number has its own bucket; above, each power of two is cut into 128 equal ones.
//! The size is fixed (about 60 KiB), counting is two shifts, and histograms of several callers add up.

const SUB_BITS: u32 = 7;
const SUB_COUNT: usize = 1 << SUB_BITS;
/// One row for the numbers below 128, and one for each of the 57 powers of two from there on.
const BUCKET_COUNT: usize = SUB_COUNT * (64 - SUB_BITS as usize + 1);

/// A distribution of numbers.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

/// The bucket that counts `value`.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let row = shift as usize;
    // Shifted so, a value is below 256; in every row but the first it is at least 128, so rows join.
    row * SUB_COUNT + usize::try_from(value >> shift).unwrap_or(0)
}

/// The largest number that `bucket` counts.
fn bucket_max(bucket: usize) -> u64 {
    let row = (bucket / SUB_COUNT).saturating_sub(1);
    let top = (bucket - row * SUB_COUNT) as u64;
    (((u128::from(top) + 1) << row) - 1).try_into().unwrap_or(u64::MAX)
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Histogram {
        Histogram { buckets: vec![0; BUCKET_COUNT], count: 0, max: 0 }
    }

    /// Counts one number.
    pub fn record(&mut self, value: u64) {
        if let Some(count) = self.buckets.get_mut(bucket(value)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Counts what another has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest number counted; 0 if none was.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A number that `per_mille` in a thousand do not exceed; 0 if nothing was counted.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1_000);
        let mut seen = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if seen >= rank && seen > 0 {
                return bucket_max(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gap_and_are_narrow() {
        let mut previous = None;
        for number in (0..100_000).chain((17..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit])).chain([u64::MAX]) {
            let index = bucket(number);
            let max = bucket_max(index);
            assert!(index < BUCKET_COUNT && max >= number && max - number <= number / 128, "{number}: {index} {max}");
            assert_eq!(bucket(max), index);
            assert!(previous.is_none_or(|before| before <= index));
            if number < 100_000 && previous.is_some_and(|before| before < index) {
                assert_eq!(previous, Some(index - 1));
            }
            previous = Some(index);
        }
        assert_eq!(bucket(u64::MAX), BUCKET_COUNT - 1);
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(500), histogram.max(), histogram.count()), (0, 0, 0));
        let mut half = Histogram::new();
        for number in 1..=1_000_000 {
            if number % 2 == 0 { histogram.record(number) } else { half.record(number) }
        }
        histogram.add(&half);
        for (per_mille, exact) in [(500, 500_000), (990, 990_000), (999, 999_000), (1_000, 1_000_000)] {
            let got = histogram.quantile(per_mille);
            assert!(got >= exact && got - exact <= exact / 128, "{per_mille}: {got}");
        }
        assert_eq!((histogram.count(), histogram.max()), (1_000_000, 1_000_000));
    }
}
