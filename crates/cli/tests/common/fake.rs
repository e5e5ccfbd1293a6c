//! A key-value server over one ordered map that can be told to be wrong: what `validate` must see.
//!
//! HTTP/1.1 by hand, a thread per connection: it shares no code with what it tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How it is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// DELETE answers 200 and does nothing.
    pub delete_does_nothing: bool,
    /// GET answers the first value its key ever had.
    pub reads_are_stale: bool,
    /// PUT echoes something else.
    pub echo_is_wrong: bool,
    /// SCAN includes its end.
    pub scan_is_closed: bool,
    /// SCAN shows deleted keys.
    pub scan_shows_deleted: bool,
    /// A key is found by any key it begins with.
    pub prefixes_are_confused: bool,
    /// Every so many requests, the connection closes instead of an answer; the request was carried out.
    pub lose_every: usize,
    /// The same, and the request was not carried out.
    pub drop_every: usize,
    /// Every so many requests are refused with 429.
    pub busy_every: usize,
    /// No request is answered before so many are in flight.
    pub wait_for: usize,
}

/// A running server; it ends with the test's process.
pub struct Fake {
    pub url: String,
    state: Arc<State>,
}

/// Every version of every key, oldest first; None: deleted.
type Versions = BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>;

#[derive(Default)]
struct State {
    faults: Faults,
    map: Mutex<Versions>,
    requests: AtomicUsize,
    in_flight: Mutex<(usize, usize)>,
    more_in_flight: Condvar,
}

impl Fake {
    pub fn start(faults: Faults) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State { faults, ..State::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(stream.unwrap()));
            }
        });
        Fake { url, state }
    }

    /// The most requests it ever had in flight.
    pub fn peak_in_flight(&self) -> usize {
        self.state.in_flight.lock().unwrap().1
    }
}

fn is_nth(count: usize, every: usize) -> bool {
    every > 0 && count % every == every - 1
}

impl State {
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some((method, target, body)) = read_request(&mut reader) {
            let count = self.requests.fetch_add(1, Ordering::Relaxed);
            if is_nth(count, self.faults.drop_every) {
                return;
            }
            self.enter();
            let (status, answer) = if is_nth(count, self.faults.busy_every) {
                (429, br#"{"error":{"kind":"busy","message":"later"}}"#.to_vec())
            } else {
                self.answer(&method, &target, body)
            };
            self.in_flight.lock().unwrap().0 -= 1;
            if is_nth(count, self.faults.lose_every) {
                return;
            }
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", answer.len());
            if writer.write_all(&[head.into_bytes(), answer].concat()).is_err() {
                return;
            }
        }
    }

    /// Counts a request in, and holds it as told.
    fn enter(&self) {
        let mut in_flight = self.in_flight.lock().unwrap();
        in_flight.0 += 1;
        in_flight.1 = in_flight.1.max(in_flight.0);
        self.more_in_flight.notify_all();
        // Once as many have met, later ones pass: the tail of a block has fewer.
        let wait_for = self.faults.wait_for;
        let patience = Duration::from_secs(20);
        let (guard, _) = self.more_in_flight.wait_timeout_while(in_flight, patience, |seen| seen.1 < wait_for).unwrap();
        drop(guard);
    }

    fn answer(&self, method: &str, target: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let mut map = self.map.lock().unwrap();
        if let Some(query) = target.strip_prefix("/scan?") {
            return (200, self.scan(&map, query));
        }
        let key = decode(&target[1..]);
        match method {
            "PUT" => {
                map.entry(key).or_default().push(Some(body.clone()));
                (200, if self.faults.echo_is_wrong { b"thanks".to_vec() } else { body })
            }
            "DELETE" => {
                if !self.faults.delete_does_nothing {
                    map.entry(key).or_default().push(None);
                }
                (200, Vec::new())
            }
            _ => {
                let found = if self.faults.prefixes_are_confused {
                    map.range(key.clone()..).find(|(other, versions)| {
                        other.starts_with(&key) && versions.last().is_some_and(Option::is_some)
                    })
                } else {
                    map.get_key_value(&key)
                };
                let stale = self.faults.reads_are_stale;
                let version = found.and_then(|(_, versions)| if stale { versions.first() } else { versions.last() });
                match version {
                    Some(Some(value)) => (200, value.clone()),
                    _ => (404, br#"{"error":{"kind":"not_found","message":"no such key"}}"#.to_vec()),
                }
            }
        }
    }

    fn scan(&self, map: &Versions, query: &str) -> Vec<u8> {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(decode).unwrap();
        let (start, end) = (parameter("start="), parameter("end="));
        if start > end {
            return Vec::new();
        }
        let is_empty = start == end && !self.faults.scan_is_closed;
        let upper = if self.faults.scan_is_closed { Bound::Included(end) } else { Bound::Excluded(end) };
        let mut keys = Vec::new();
        if !is_empty {
            for (key, versions) in map.range((Bound::Included(start), upper)) {
                if self.faults.scan_shows_deleted || versions.last().is_some_and(Option::is_some) {
                    keys.push(String::from_utf8(key.clone()).unwrap());
                }
            }
        }
        keys.join(",").into_bytes()
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, target, body))
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    bytes
}
