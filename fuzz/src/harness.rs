//! One run of a target: what it may take of the heap and of time, and that no thread panics.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cairn_env::testing::CountingAllocator;

/// No run takes longer, on however loaded a machine.
pub const SECONDS_MAX: u64 = 20;

static PANICS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

/// Something that decodes, and what it may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its corpus.
    pub name: &'static str,
    decode: fn(&[u8]),
    /// Real inputs, made by the code that writes them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of heap that a run may take whatever the input.
    pub heap_base: u64,
    /// And so many times the length of the input.
    pub heap_multiple: u64,
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The most of the heap at a time.
    pub heap_bytes: u64,
    /// Milliseconds.
    pub ms: u64,
}

impl Target {
    pub(crate) const fn new(
        name: &'static str,
        decode: fn(&[u8]),
        seeds: fn() -> Vec<Vec<u8>>,
        heap_base: u64,
        heap_multiple: u64,
    ) -> Target {
        Target { name, decode, seeds, heap_base, heap_multiple }
    }

    /// Runs it on an input. One run at a time in a process: the heap is counted for all of it.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn run(&self, input: &[u8]) -> Cost {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICS.fetch_add(1, Ordering::SeqCst);
                before(info);
            }));
        });
        let (live, panics) = (HEAP.reset_peak(), PANICS.load(Ordering::SeqCst));
        let began = Instant::now();
        (self.decode)(input);
        let heap_bytes = HEAP.peak().saturating_sub(live);
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let heap_max = self.heap_base + self.heap_multiple * input.len() as u64;
        assert!(heap_bytes <= heap_max, "{} bytes took {heap_bytes} of the heap; {heap_max} are allowed", input.len());
        assert!(ms < SECONDS_MAX * 1000, "{} bytes took {ms} ms", input.len());
        assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a thread panicked");
        Cost { heap_bytes, ms }
    }
}
