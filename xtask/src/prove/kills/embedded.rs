//! An embedded database whose process is killed (SIGKILL) again and again, while it writes and while it
//! recovers.
//!
//! Sizes and durability change with every directory. Only the process ends, so everything that was
//! acknowledged or shown must be there, buffered or not.

use std::time::Duration;

use super::Kills;
use crate::prove::ledger::{End, pause_ms};
use crate::prove::random::Random;
use crate::prove::stage::{Context, Scene, Stop};
use crate::prove::victims::Victims;

/// Kills of one directory.
const KILLS_OF_ONE: u64 = 20;
/// Then `cairn check` looks at what was left.
const CHECK_EVERY: u64 = 5;

/// Kills until the time is over, and at least `least` times.
pub(crate) fn embedded(context: &Context<'_>, stop: &Stop, least: u64) -> Result<Kills, String> {
    let mut kills = Kills::default();
    for round in 0.. {
        if kills.kills >= least && stop.is_over() {
            return Ok(kills);
        }
        let seed = Random::of(&[context.seed, 1, round]).next() >> 16;
        let victims = Victims::new(context, seed, context.fresh("embedded")?, [round, round], End::Process);
        let mut directory = Directory { context, victims };
        let lived = directory.run(stop, least, &mut kills);
        kills.counts.add(&directory.victims.ledger.counts);
        lived.map_err(|e| format!("round {round}, {}: {e}", directory.victims))?;
    }
    Ok(kills)
}

/// One directory.
struct Directory<'a> {
    context: &'a Context<'a>,
    victims: Victims<'a>,
}

impl Directory<'_> {
    fn run(&mut self, stop: &Stop, least: u64, kills: &mut Kills) -> Result<(), String> {
        let mut random = Random::of(&[self.victims.seed, 2]);
        for life in 1..=KILLS_OF_ONE {
            if kills.kills >= least && stop.is_over() {
                break;
            }
            let scene = Scene(format!("life {life}"));
            let before = self.victims.ledger.counts.recoveries;
            self.live_and_die(&mut random).map_err(scene.at())?;
            kills.while_opening += u64::from(self.victims.ledger.counts.recoveries == before);
            kills.kills += 1;
            if life % CHECK_EVERY == 0 && self.victims.ledger.counts.recoveries > 0 {
                self.context.check(&self.victims.dir).map_err(scene.at())?;
                kills.checks += 1;
            }
        }
        // What the last left is looked at too.
        self.victims.look()
    }

    fn live_and_die(&mut self, random: &mut Random) -> Result<(), String> {
        let mut victim = self.victims.start()?;
        if random.chance(3) {
            // Within its start or its recovery, most of the time.
            victim.run_for(&mut self.victims.ledger, Duration::from_millis(pause_ms(random, 30)))?;
        } else {
            victim.until_found(&mut self.victims.ledger)?;
            victim.run_for(&mut self.victims.ledger, Duration::from_millis(pause_ms(random, 400)))?;
        }
        victim.kill(&mut self.victims.ledger)?;
        self.without_errors()
    }

    fn without_errors(&self) -> Result<(), String> {
        match self.victims.ledger.last_error() {
            None => Ok(()),
            Some(error) => Err(format!("an error on a sound disk: {error}")),
        }
    }
}
