//! Which keys a skewed workload asks for: the generators of YCSB.
//!
//! Ranks follow Zipf's law by the method of Gray et al., "Quickly Generating Billion-Record Synthetic Databases"
//! (SIGMOD 1994), which YCSB uses; scrambled, the popular ones lie all over the keys.

use cairn_bench::random::Random;

use crate::data::mix;

/// YCSB's skew.
const THETA: f64 = 0.99;
/// So many terms of the zeta function are added up one by one; the rest is an integral.
const TERMS: u64 = 10_000;

/// Ranks from 0, the most popular, to below a count.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

/// The sum of `i^-THETA` for `i` from 1 to `count`: exact to a millionth.
fn zeta(count: u64) -> f64 {
    let power = |x: f64| x.powf(-THETA);
    let summed = count.min(TERMS);
    let sum: f64 = (1..=summed).map(|i| power(i as f64)).sum();
    let (from, to) = (summed as f64, count as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    sum + integral + (power(to) - power(from)) / 2.0
}

/// A number in `0.0..1.0`.
pub fn unit(random: &mut Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

impl Zipf {
    /// Ranks below `count`.
    pub fn new(count: u64) -> Zipf {
        let count = count.max(2);
        let zeta_count = zeta(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / zeta_count);
        Zipf { count, zeta: zeta_count, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// A rank.
    pub fn rank(&self, random: &mut Random) -> u64 {
        let unit = unit(random);
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }

    /// A number below the count; which are popular is decided by chance, the same in every process.
    pub fn scrambled(&self, random: &mut Random) -> u64 {
        mix(self.rank(random)) % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeta_is_what_adding_up_gives() {
        let exact: f64 = (1..=200_000u64).map(|i| (i as f64).powf(-THETA)).sum();
        assert!((zeta(200_000) / exact - 1.0).abs() < 1e-6);
    }

    #[test]
    fn ranks_follow_the_law() {
        let (zipf, mut random) = (Zipf::new(1_000_000), Random::new(1));
        let mut seen = [0u32; 100];
        for _ in 0..1_000_000 {
            if let Some(count) = usize::try_from(zipf.rank(&mut random)).ok().and_then(|rank| seen.get_mut(rank)) {
                *count += 1;
            }
        }
        let share = |rank: usize| f64::from(seen[rank]) / 1e6;
        let law = |rank: usize| (rank as f64 + 1.0).powf(-THETA) / zipf.zeta;
        assert!((share(0) / law(0) - 1.0).abs() < 0.02 && (share(1) / law(1) - 1.0).abs() < 0.02);
        // The approximation of the method: within a tenth further down.
        assert!((share(50) / law(50) - 1.0).abs() < 0.15, "{} {}", share(50), law(50));
        assert!((0..10_000).all(|_| zipf.scrambled(&mut random) < 1_000_000));
    }
}
