//! What every implementation of the contract must do, as checks that any of them can be handed to.
//!
//! Each check takes an open store and spaces of its own names in it, and panics with what is wrong. That a
//! durable write outlives a crash only the implementation's own tests can show.
#![allow(clippy::expect_used, clippy::panic, reason = "a check can do nothing better")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "an implementation may know no environment")]

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::{Batch, ErrorKind, Store, Version};

/// All checks; says how many.
///
/// # Panics
/// If the store does not keep the contract.
pub fn check<S: Store>(store: &S) -> usize {
    let checks: [fn(&S); 10] = [
        reads_see_what_is_written,
        scans_are_ordered_and_of_one_moment,
        scans_from_behind_show_the_same,
        spaces_are_apart_and_batches_span_them,
        preconditions_are_decided_in_order,
        a_refused_batch_harms_nobody,
        a_dropped_space_is_gone,
        durable_resolves,
        counters_of_many_threads_add_up,
        a_random_life_equals_a_map,
    ];
    checks.iter().for_each(|check| check(store));
    checks.len()
}

fn value<S: Store>(store: &S, space: &S::Space, key: &[u8]) -> Option<Vec<u8>> {
    store.get(space, key, <[u8]>::to_vec).expect("a read")
}

fn content<S: Store>(store: &S, space: &S::Space, start: &[u8], end: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut content = Vec::new();
    store
        .scan(space, start, end, |key, value| {
            content.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("a scan");
    content
}

fn content_back<S: Store>(store: &S, space: &S::Space, start: &[u8], end: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut content = Vec::new();
    store
        .scan_back(space, start, end, |key, value| {
            content.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("a scan");
    content
}

fn put<S: Store>(store: &S, space: &S::Space, pairs: &[(&[u8], &[u8])]) -> Version {
    let mut batch = store.batch();
    for (key, value) in pairs {
        batch.put(space, key, value);
    }
    store.write(batch).expect("a write")
}

fn reads_see_what_is_written<S: Store>(store: &S) {
    let space = store.space("conformance reads").expect("a space");
    assert_eq!(value(store, &space, b"k"), None);
    let first = put(store, &space, &[(b"k", b"1")]);
    assert_eq!(value(store, &space, b"k").as_deref(), Some(&b"1"[..]));
    let mut batch = store.batch();
    batch.put(&space, b"k", b"2");
    batch.delete(&space, b"k");
    batch.put(&space, b"k", b"3");
    batch.put(&space, b"", b"x");
    assert_eq!(store.write(batch).map_err(|e| e.kind()), Err(ErrorKind::Invalid), "an empty key");
    assert_eq!(value(store, &space, b"k").as_deref(), Some(&b"1"[..]), "a batch is written whole or not at all");
    let mut batch = store.batch();
    batch.put(&space, b"k", b"2");
    batch.delete(&space, b"k");
    batch.put(&space, b"k", b"");
    let second = store.write(batch).expect("a write");
    assert_eq!(value(store, &space, b"k").as_deref(), Some(&b""[..]), "the last write of a batch wins");
    assert!(first < second && store.version() >= second, "versions grow");
    let mut batch = store.batch();
    batch.delete(&space, b"k");
    batch.delete(&space, b"never was");
    store.write(batch).expect("a write");
    assert_eq!(value(store, &space, b"k"), None);
}

fn scans_are_ordered_and_of_one_moment<S: Store>(store: &S) {
    let space = store.space("conformance scans").expect("a space");
    let keys: [&[u8]; 7] = [b"\0", b"a", b"a\0", b"ab", b"b", b"\xff", b"\xff\xff"];
    for key in keys.iter().rev() {
        put(store, &space, &[(key, key)]);
    }
    let found: Vec<Vec<u8>> = content(store, &space, b"", None).into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys.map(<[u8]>::to_vec));
    let found: Vec<Vec<u8>> = content(store, &space, b"a", Some(b"b")).into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys[1..4].iter().map(|key| key.to_vec()).collect::<Vec<_>>(), "from start up to, without end");
    let mut visited = 0;
    let visit = |_: &[u8], _: &[u8]| {
        visited += 1;
        // What is written meanwhile is not seen.
        put(store, &space, &[(b"b\x01", b"late")]);
        if visited == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(&space, b"", None, visit).expect("a scan");
    assert_eq!(visited, 5, "a visitor can break");
    let mut seen = Vec::new();
    let visit = |key: &[u8], _: &[u8]| {
        put(store, &space, &[(b"c", b"late")]);
        seen.push(key.to_vec());
        ControlFlow::Continue(())
    };
    store.scan(&space, b"", None, visit).expect("a scan");
    assert_eq!(seen.len(), 8, "of one moment: {seen:?}");
}

fn scans_from_behind_show_the_same<S: Store>(store: &S) {
    let space = store.space("conformance scans from behind").expect("a space");
    assert_eq!(content_back(store, &space, b"", None), []);
    let keys: [&[u8]; 7] = [b"\0", b"a", b"a\0", b"ab", b"b", b"\xff", b"\xff\xff"];
    for key in keys {
        put(store, &space, &[(key, b"old"), (key, key)]);
    }
    let bounds: [Option<&[u8]>; 6] = [Some(b"a"), Some(b"a\0"), Some(b"aa"), Some(b"b"), Some(b"\xff\xff"), None];
    for start in [&b""[..], b"a", b"aa", b"\xff"] {
        for end in bounds.into_iter().filter(|end| end.is_none_or(|end| end >= start)) {
            let mut forward = content(store, &space, start, end);
            forward.reverse();
            assert_eq!(content_back(store, &space, start, end), forward, "{start:?} to {end:?}");
        }
    }
    let mut seen = Vec::new();
    let visit = |key: &[u8], _: &[u8]| {
        // What is written meanwhile is not seen.
        put(store, &space, &[(b"aaa", b"late")]);
        seen.push(key.to_vec());
        if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan_back(&space, b"", None, visit).expect("a scan");
    assert_eq!(seen, [keys[6], keys[5], keys[4], keys[3]], "of one moment, and a visitor can break");
    let mut rest = Vec::new();
    let visit = |key: &[u8], _: &[u8]| {
        put(store, &space, &[(b"a\0\0", b"late")]);
        rest.push(key.to_vec());
        ControlFlow::Continue(())
    };
    store.scan_back(&space, b"", Some(b"ab"), visit).expect("a scan");
    assert_eq!(rest, [&b"aaa"[..], keys[2], keys[1], keys[0]], "of one moment");
}

fn spaces_are_apart_and_batches_span_them<S: Store>(store: &S) {
    let (a, b) = (store.space("conformance a").expect("a space"), store.space("conformance b").expect("a space"));
    let mut batch = store.batch();
    batch.put(&a, b"k", b"in a");
    batch.put(&b, b"k", b"in b");
    store.write(batch).expect("a write");
    assert_eq!(value(store, &a, b"k").as_deref(), Some(&b"in a"[..]));
    assert_eq!(value(store, &store.space("conformance b").expect("a space"), b"k").as_deref(), Some(&b"in b"[..]));
    let names = store.spaces();
    assert!(names.iter().any(|name| name == "conformance a"), "{names:?}");
}

fn preconditions_are_decided_in_order<S: Store>(store: &S) {
    let space = store.space("conformance preconditions").expect("a space");
    let absent = |key: &[u8]| {
        let mut batch = store.batch();
        batch.require_absent(&space, key);
        batch.put(&space, key, b"mine");
        store.write(batch).map_err(|e| e.kind())
    };
    assert!(absent(b"k").is_ok());
    assert_eq!(absent(b"k"), Err(ErrorKind::Conflict));
    let unchanged = |since: Version| {
        let mut batch = store.batch();
        batch.require_unchanged(&space, b"k", since);
        batch.put(&space, b"k", b"newer");
        store.write(batch).map_err(|e| e.kind())
    };
    let read_at = store.version();
    put(store, &space, &[(b"another", b"x")]);
    let newer = unchanged(read_at).expect("nothing wrote the key since");
    assert_eq!(unchanged(read_at), Err(ErrorKind::Conflict));
    assert!(unchanged(newer).is_ok(), "its own write is the version it has");
    let before = store.version();
    let mut batch = store.batch();
    batch.delete(&space, b"k");
    store.write(batch).expect("a write");
    assert_eq!(unchanged(before), Err(ErrorKind::Conflict), "a delete is a change");
    assert!(absent(b"k").is_ok(), "what was deleted is absent");
}

fn a_refused_batch_harms_nobody<S: Store>(store: &S) {
    let space = store.space("conformance refusals").expect("a space");
    put(store, &space, &[(b"there", b"x")]);
    let mut batch = store.batch();
    batch.put(&space, b"before", b"x");
    batch.require_absent(&space, b"there");
    batch.put(&space, b"after", b"x");
    let refusal = store.write(batch).expect_err("the key is there");
    assert_eq!(refusal.kind(), ErrorKind::Conflict);
    assert!(refusal.to_string().contains("there"), "a refusal names its key: {refusal}");
    assert_eq!(content(store, &space, b"", None).len(), 1, "nothing of it is written");
    put(store, &space, &[(b"next", b"x")]);
    assert_eq!(content(store, &space, b"", None).len(), 2);
}

fn a_dropped_space_is_gone<S: Store>(store: &S) {
    let (space, other) =
        (store.space("conformance drop").expect("a space"), store.space("conformance kept").expect("a space"));
    put(store, &space, &[(b"a", b"1"), (b"b", b"2")]);
    put(store, &other, &[(b"a", b"kept")]);
    assert_eq!(store.drop_space("conformance drop").map_err(|e| e.kind()), Ok(true));
    assert_eq!(store.drop_space("conformance drop").map_err(|e| e.kind()), Ok(false));
    assert!(!store.spaces().iter().any(|name| name == "conformance drop"));
    assert_eq!(store.get(&space, b"a", |_| ()).map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    let mut batch = store.batch();
    batch.put(&other, b"b", b"x");
    batch.put(&space, b"b", b"x");
    assert_eq!(store.write(batch).map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    let anew = store.space("conformance drop").expect("a space");
    assert_eq!((value(store, &anew, b"a"), value(store, &other, b"b")), (None, None));
    assert_eq!(store.get(&space, b"a", |_| ()).map_err(|e| e.kind()), Err(ErrorKind::NotFound), "an old handle");
    assert_eq!(value(store, &other, b"a").as_deref(), Some(&b"kept"[..]));
}

fn durable_resolves<S: Store>(store: &S) {
    let space = store.space("conformance durable").expect("a space");
    let tickets: Vec<S::Durable> =
        (0..20u8).map(|i| store.durable(put(store, &space, &[(&[i], b"x")])).expect("a ticket")).collect();
    for (n, ticket) in tickets.into_iter().enumerate() {
        if n % 3 == 0 {
            S::help(&ticket);
        }
        block_on(ticket).expect("durable");
    }
    block_on(store.durable(store.version()).expect("a ticket")).expect("durable already");
}

/// Each of many threads adds to a counter by reading it, and writing it on condition that nobody else has.
fn counters_of_many_threads_add_up<S: Store>(store: &S) {
    const THREADS: u64 = 4;
    const ADDITIONS: u64 = 50;
    let space = store.space("conformance counters").expect("a space");
    let add = || {
        let mut conflicts = 0;
        for _ in 0..ADDITIONS {
            loop {
                let since = store.version();
                let number = value(store, &space, b"n").map_or(0, |value| number(&value));
                let mut batch = store.batch();
                batch.require_unchanged(&space, b"n", since);
                batch.put(&space, b"n", &(number + 1).to_be_bytes());
                match store.write(batch) {
                    Ok(_) => break,
                    Err(e) if e.kind() == ErrorKind::Conflict => conflicts += 1,
                    Err(e) => panic!("{e}"),
                }
                assert!(conflicts < 1_000_000, "nobody gets on");
            }
        }
    };
    threads(THREADS, &add);
    assert_eq!(value(store, &space, b"n").map(|value| number(&value)), Some(THREADS * ADDITIONS));
}

fn threads(count: u64, work: &(impl Fn() + Sync)) {
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(work);
        }
    });
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn a_random_life_equals_a_map<S: Store>(store: &S) {
    let space = store.space("conformance life").expect("a space");
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut state = 1u64;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for round in 0..600u64 {
        let mut batch = store.batch();
        let mut after = model.clone();
        for _ in 0..=below(5) {
            let key = below(40).to_be_bytes()[7..].repeat(1 + (round % 3) as usize);
            if below(3) == 0 {
                batch.delete(&space, &key);
                after.remove(&key);
            } else {
                let value = round.to_be_bytes();
                batch.put(&space, &key, &value);
                after.insert(key, value.to_vec());
            }
        }
        let key = below(40).to_be_bytes()[7..].to_vec();
        let holds = below(3) != 0 || {
            batch.require_absent(&space, &key);
            !model.contains_key(&key)
        };
        match store.write(batch) {
            Ok(_) if holds => model = after,
            Err(e) if !holds && e.kind() == ErrorKind::Conflict => {}
            other => panic!("round {round}: {other:?}, and the condition held: {holds}"),
        }
        if round % 20 == 0 {
            let found: BTreeMap<_, _> = content(store, &space, b"", None).into_iter().collect();
            assert_eq!(found, model, "round {round}");
            let back = content_back(store, &space, b"", None);
            assert!(back.into_iter().eq(model.clone().into_iter().rev()), "round {round}, from behind");
        }
    }
}

/// Polls a future to its end on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Bell(Mutex<bool>, Condvar);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *self.0.lock().expect("no panic under it") = true;
            self.1.notify_all();
        }
    }
    let bell = Arc::new(Bell(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = bell.0.lock().expect("no panic under it");
        while !std::mem::take(&mut *rung) {
            rung = bell.1.wait(rung).expect("no panic under it");
        }
    }
}
