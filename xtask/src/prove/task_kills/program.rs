//! What the tasks of the stage do: from a task's input, the same at whoever asks.

use crate::prove::random::Random;

/// One durable call, whose id is its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// A value of the worker's own drawing.
    Step,
    Sleep(u64),
    /// Waits for the event of this task.
    Event,
    /// Spawns a task, and waits for its end.
    Child,
}

/// The calls of a task of this seed. A child has none of its own.
pub(super) fn calls(seed: u64) -> Vec<Call> {
    let mut random = Random::of(&[seed]);
    let is_child = is_child(seed);
    let count = 3 + random.below(6);
    let mut call = || match random.below(8) {
        0 => Call::Sleep(random.below(300)),
        1 if !is_child => Call::Event,
        2 if !is_child => Call::Child,
        _ => Call::Step,
    };
    (0..count).map(|_| call()).collect()
}

/// How many steps are recorded of it in the end: a child is spawned and waited for.
pub(super) fn steps(seed: u64) -> usize {
    calls(seed).iter().map(|call| if matches!(call, Call::Child) { 2 } else { 1 }).sum()
}

/// The seed of the child that the call at this place spawns.
pub(super) fn child(seed: u64, place: usize) -> u64 {
    (seed * 64 + place as u64) | CHILD
}

const CHILD: u64 = 1 << 52;

pub(super) fn is_child(seed: u64) -> bool {
    seed & CHILD != 0
}

/// The name of the event that a task waits for, and the payload.
pub(super) fn event(seed: u64) -> String {
    format!("go:{seed}")
}
