//! The fuzzer of one target, or a plain run of files.
//!
//! ```text
//! cargo run -p cairn-fuzz -- TARGET FILE...       runs them: how a crash is looked at
//! cargo run -p cairn-fuzz -- seeds DIR            writes every target's seeds to DIR/TARGET/
//! cargo xtask prove --only fuzz                   builds it with libFuzzer, and runs that
//! ```
#![cfg_attr(fuzzing, no_main)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool of the repository: it reads and writes corpora with std"
)]

#[cfg(fuzzing)]
mod fuzzer {
    use std::sync::OnceLock;

    use cairn_fuzz::{Target, target};

    static TARGET: OnceLock<&'static Target> = OnceLock::new();

    libfuzzer_sys::fuzz_target!(
        init: {
            let name = std::env::var("CAIRN_FUZZ_TARGET").unwrap_or_default();
            let target = target(&name).ok_or_else(|| format!("CAIRN_FUZZ_TARGET={name} is no target"));
            let target = TARGET.get_or_init(|| target.unwrap());
            if let Some(dir) = std::env::var_os("CAIRN_FUZZ_SEEDS") {
                crate::write_seeds(target, dir.as_ref()).unwrap();
            }
        },
        |input: &[u8]| {
            if let Some(target) = TARGET.get() {
                target.run(input);
            }
        }
    );
}

/// Writes a target's seeds into a directory.
fn write_seeds(target: &cairn_fuzz::Target, dir: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{number:02}")), seed)?;
    }
    Ok(())
}

#[cfg(not(fuzzing))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use cairn_fuzz::{TARGETS, target};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, [dir])) if command == "seeds" => {
            for target in TARGETS {
                write_seeds(target, &std::path::Path::new(dir).join(target.name))?;
            }
        }
        Some((name, files)) => {
            let target = target(name).ok_or_else(|| format!("there is no target {name}"))?;
            for file in files {
                let cost = target.run(&std::fs::read(file)?);
                println!("{file}: {} bytes of heap, {} ms", cost.heap_bytes, cost.ms);
            }
        }
        None => {
            for target in TARGETS {
                println!("{}", target.name);
            }
        }
    }
    Ok(())
}
