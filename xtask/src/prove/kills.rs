//! The stage `kills`, first half: an embedded database whose process is killed (SIGKILL) again and
//! again, while it writes and while it recovers.
//!
//! Sizes and durability change with every directory. Only the process ends, so everything that was
//! acknowledged or shown must be there, buffered or not.

use std::path::PathBuf;
use std::time::Duration;

use super::ledger::{Counts, End, Ledger, pause_ms};
use super::life::Life;
use super::random::Random;
use super::stage::{Context, Scene, Stop};
use super::victim::{DURABILITIES, Orders, SIZES};

const WRITERS: usize = 4;
/// Kills of one directory.
const KILLS_OF_ONE: u64 = 20;
/// Then `cairn check` looks at what was left.
const CHECK_EVERY: u64 = 5;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kills {
    pub(crate) kills: u64,
    pub(crate) while_opening: u64,
    pub(crate) checks: u64,
    pub(crate) counts: Counts,
}

/// Kills until the time is over, and at least `least` times.
pub(crate) fn embedded(context: &Context<'_>, stop: &Stop, least: u64) -> Result<Kills, String> {
    let mut kills = Kills::default();
    for round in 0.. {
        if kills.kills >= least && stop.is_over() {
            return Ok(kills);
        }
        let seed = Random::of(&[context.seed, 1, round]).next() >> 16;
        let turn = usize::try_from(round).unwrap_or_default();
        let mut directory = Directory {
            context,
            seed,
            dir: context.fresh("embedded")?,
            sizes: SIZES.get(turn % SIZES.len()).copied().unwrap_or("tiny"),
            durability: DURABILITIES.get(turn % DURABILITIES.len()).copied().unwrap_or("commit"),
            ledger: Ledger::new(WRITERS, End::Process),
        };
        let lived = directory.run(stop, least, &mut kills);
        kills.counts.add(&directory.ledger.counts);
        let Directory { dir, sizes, durability, .. } = directory;
        lived.map_err(|e| format!("round {round}, {sizes}, {durability}, {}: {e}", dir.display()))?;
    }
    Ok(kills)
}

/// The victims of one directory.
struct Directory<'a> {
    context: &'a Context<'a>,
    seed: u64,
    dir: PathBuf,
    sizes: &'static str,
    durability: &'static str,
    ledger: Ledger,
}

impl Directory<'_> {
    /// Another life, that ends by itself after so many steps or not at all.
    fn start(&self, steps: Option<u64>) -> Result<Life, String> {
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

    fn run(&mut self, stop: &Stop, least: u64, kills: &mut Kills) -> Result<(), String> {
        let mut random = Random::of(&[self.seed, 2]);
        for life in 1..=KILLS_OF_ONE {
            if kills.kills >= least && stop.is_over() {
                break;
            }
            let scene = Scene(format!("life {life}"));
            let before = self.ledger.counts.recoveries;
            self.live_and_die(&mut random).map_err(scene.at())?;
            kills.while_opening += u64::from(self.ledger.counts.recoveries == before);
            kills.kills += 1;
            if life % CHECK_EVERY == 0 && self.ledger.counts.recoveries > 0 {
                self.context.check(&self.dir).map_err(scene.at())?;
                kills.checks += 1;
            }
        }
        // What the last left is looked at too, by one that ends by itself.
        self.start(Some(20))?.look(&mut self.ledger).map_err(Scene("the last look".to_owned()).at())
    }

    fn live_and_die(&mut self, random: &mut Random) -> Result<(), String> {
        let mut victim = self.start(None)?;
        if random.chance(3) {
            // Within its start or its recovery, most of the time.
            victim.run_for(&mut self.ledger, Duration::from_millis(pause_ms(random, 30)))?;
        } else {
            victim.until_found(&mut self.ledger)?;
            victim.run_for(&mut self.ledger, Duration::from_millis(pause_ms(random, 400)))?;
        }
        victim.kill(&mut self.ledger)?;
        self.without_errors()
    }

    fn without_errors(&self) -> Result<(), String> {
        match self.ledger.last_error() {
            None => Ok(()),
            Some(error) => Err(format!("an error on a sound disk: {error}")),
        }
    }
}
