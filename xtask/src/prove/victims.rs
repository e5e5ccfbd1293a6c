//! All the victims of one directory, one after the other, and what they promised.
//!
//! Sizes and durability are the directory's; the ledger goes from one life to the next.

use std::fmt;
use std::path::PathBuf;

use super::ledger::{End, Ledger};
use super::life::Life;
use super::stage::Context;
use super::victim::{DURABILITIES, Orders, SIZES};

/// Writers of each.
const WRITERS: usize = 4;
/// Steps of each writer of the last, which ends by itself.
const LAST_STEPS: u64 = 20;

pub(crate) struct Victims<'a> {
    context: &'a Context<'a>,
    pub(crate) seed: u64,
    pub(crate) dir: PathBuf,
    sizes: &'static str,
    durability: &'static str,
    pub(crate) ledger: Ledger,
}

impl<'a> Victims<'a> {
    /// Of a directory with the sizes and the durability whose turns these are.
    pub(crate) fn new(context: &'a Context<'a>, seed: u64, dir: PathBuf, turns: [u64; 2], end: End) -> Victims<'a> {
        let turns = turns.map(|turn| usize::try_from(turn).unwrap_or_default());
        Victims {
            context,
            seed,
            dir,
            sizes: SIZES[turns[0] % SIZES.len()],
            durability: DURABILITIES[turns[1] % DURABILITIES.len()],
            ledger: Ledger::new(WRITERS, end),
        }
    }

    /// The next, which only a signal ends.
    pub(crate) fn start(&self) -> Result<Life, String> {
        self.start_for(None)
    }

    /// The last, which looks at what the others left, and ends by itself.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let last = self.start_for(Some(LAST_STEPS))?;
        last.look(&mut self.ledger).map_err(|e| format!("the last look: {e}"))
    }

    fn start_for(&self, steps: Option<u64>) -> Result<Life, String> {
        let orders = Orders {
            dir: self.dir.clone(),
            seed: self.seed,
            sizes: self.sizes.to_owned(),
            durability: self.durability.to_owned(),
            floors: self.ledger.floors().to_vec(),
            ceilings: self.ledger.ceilings(),
            steps,
        };
        Life::start(&[], &orders, self.context.scratch)
    }
}

impl fmt::Display for Victims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}, {}, {}", self.dir.display(), self.seed, self.sizes, self.durability)
    }
}
