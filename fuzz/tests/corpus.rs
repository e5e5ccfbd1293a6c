//! Every seed, every file of the corpora, and every crash that was ever found, without a fuzzer.
//!
//! One test, because the heap is counted for the whole process.
#![allow(clippy::disallowed_methods, reason = "it reads the corpora with std")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cairn_fuzz::TARGETS;

#[test]
fn every_input_keeps_the_promises() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let (mut inputs, mut bytes) = (0, 0);
    for target in TARGETS {
        let mut all: Vec<(String, Vec<u8>)> = (0..).map(|n| format!("seed {n}")).zip((target.seeds)()).collect();
        assert!(!all.is_empty(), "{} has no seeds", target.name);
        for entry in fs::read_dir(corpora.join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            all.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
        all.push(("nothing".to_owned(), Vec::new()));
        for (name, input) in all {
            println!("{} {name}", target.name);
            target.run(&input);
            // Cut short, every input is two more.
            for cut in [input.len() / 2, input.len().saturating_sub(1)] {
                target.run(&input[..cut]);
            }
            inputs += 1;
            bytes += input.len();
        }
    }
    println!("proof: fuzz corpus = {inputs} inputs of {} targets", TARGETS.len());
    assert!(bytes < 400 << 10, "the corpora have grown to {bytes} bytes: minimise them");
}

#[test]
fn every_corpus_has_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let named = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let there: BTreeSet<String> = fs::read_dir(corpora).unwrap().map(named).collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(there, targets);
}
