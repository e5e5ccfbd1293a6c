//! The one checksum and the one hash of all file formats: XXH3 with 64 bits.

/// The checksum of every block, group and footer: XXH3-64, seed 0.
pub fn checksum64(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The hash of a key for filters and hash indexes: XXH3-64 under the database's seed.
pub fn hash64(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are in every file: a change of the library that moves them is a change of format.
    #[test]
    fn golden_values() {
        assert_eq!(checksum64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash64(b"", 0), checksum64(b""));
        assert_ne!(hash64(b"cairn", 1), hash64(b"cairn", 2));
    }
}
