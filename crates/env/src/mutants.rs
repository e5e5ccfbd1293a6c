//! Planted defects: what the tests are tested with.
//!
//! A build with `--cfg mutants` holds a few dozen defects of the kinds that storage engines have
//! had: a sync left out, a check off by one, a waiter not woken. `CAIRN_MUTANT=name` picks one when
//! the process starts, and some test must fail. Any other build holds nothing of them: there
//! [`mutant`] is the constant `false`.
//!
//! `cargo xtask prove --only mutants` plants each, and knows which tests must catch it; a name that
//! stands in the sources and not in its list, or the other way round, fails xtask's own tests.

#[cfg(mutants)]
static PICKED: std::sync::LazyLock<Option<String>> = std::sync::LazyLock::new(|| std::env::var("CAIRN_MUTANT").ok());

/// Whether the defect `name` is planted in this process.
#[cfg(mutants)]
pub fn mutant(name: &'static str) -> bool {
    PICKED.as_deref() == Some(name)
}

/// Whether the defect `name` is planted in this process: no.
#[cfg(not(mutants))]
#[inline(always)]
pub const fn mutant(_: &'static str) -> bool {
    false
}
