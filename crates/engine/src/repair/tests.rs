//! The ranges, and where a repair may go.

use std::path::Path;

use cairn_env::Env;

use super::{Ranges, check_destination};

#[test]
fn ranges_hold_what_was_added_and_no_more() {
    let mut ranges = Ranges::default();
    for (from, to) in [("m", "p"), ("b", "c"), ("c", "e"), ("n", "o"), ("x", "x")] {
        ranges.add(from.as_bytes(), to.as_bytes());
    }
    ranges.settle();
    assert_eq!(ranges.ranges.len(), 3);
    for (key, inside) in [
        ("a", false),
        ("b", true),
        ("cc", true),
        ("e", true),
        ("e\0", false),
        ("m", true),
        ("oz", true),
        ("p", true),
        ("pp", false),
        ("x", true),
        ("y", false),
    ] {
        assert_eq!(ranges.contains(key.as_bytes()), inside, "{key:?}");
    }
    assert!(!Ranges::default().contains(b"a"));
    assert!(Ranges { all: true, ranges: Vec::new() }.contains(b"a"));
}

#[test]
fn a_repair_goes_to_a_place_of_its_own() {
    let env = Env::memory();
    for dir in ["data", "full/of", "empty"] {
        env.create_dir_all(Path::new(dir)).unwrap();
    }
    let check = |to: &str| check_destination(&env, Path::new("data"), Path::new(to));
    for to in ["new", "empty", "data2", "./deep/new"] {
        check(to).unwrap();
    }
    for (to, what) in [("data", "within"), ("./data", "within"), ("data/new", "within"), ("full", "not empty")] {
        let refused = check(to).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
}
