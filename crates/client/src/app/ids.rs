//! The names of durable calls.
//!
//! A step id is the path of its scope and its name, joined by "/", each segment percent-encoding "/", "#" and "%"; 1 to
//! 512 bytes. The task is the root scope. A name used again in one scope becomes name#2, name#3 in call order. The
//! server refuses what breaks this; here it is refused before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{AppError, Result};

const STEP_ID_BYTES_MAX: usize = 512;

/// The id of `name` inside the scope `path`, the `ordinal`th of its name.
pub(crate) fn extend(path: &str, name: &str, ordinal: u32) -> Result<String> {
    if name.is_empty() {
        return Err(AppError::invalid("a durable call needs a name that is not empty"));
    }
    let mut id = String::with_capacity(path.len() + name.len() + 8);
    if !path.is_empty() {
        id.push_str(path);
        id.push('/');
    }
    for letter in name.chars() {
        match letter {
            '%' => id.push_str("%25"),
            '/' => id.push_str("%2F"),
            '#' => id.push_str("%23"),
            other => id.push(other),
        }
    }
    if ordinal > 1 {
        id.push_str(&format!("#{ordinal}"));
    }
    if id.len() > STEP_ID_BYTES_MAX {
        let begin: String = id.chars().take(80).collect();
        let text = format!("a step id has {} bytes, {STEP_ID_BYTES_MAX} are allowed: {begin}...", id.len());
        return Err(AppError::invalid(text));
    }
    Ok(id)
}

/// Gives out the ids of one scope in call order, and refuses what would depend on chance.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    path: String,
    /// Guards two collections that are only looked up and changed; nothing waits while it is held.
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    used: BTreeMap<String, u32>,
    open: BTreeSet<String>,
}

/// A call that is unfinished for as long as this is there.
#[derive(Debug)]
pub(crate) struct Calling {
    scope: Arc<Scope>,
    name: String,
    pub(crate) id: String,
}

impl Scope {
    pub(crate) fn new(path: String) -> Arc<Scope> {
        Arc::new(Scope { path, names: Mutex::default() })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call.
    pub(crate) fn call(self: &Arc<Self>, name: &str) -> Result<Calling> {
        let mut names = self.names();
        let ordinal = names.used.get(name).copied().unwrap_or(0) + 1;
        let id = extend(&self.path, name, ordinal)?;
        if !names.open.insert(name.to_owned()) {
            return Err(AppError::AmbiguousStep { step: extend(&self.path, name, ordinal - 1)? });
        }
        names.used.insert(name.to_owned(), ordinal);
        Ok(Calling { scope: self.clone(), name: name.to_owned(), id })
    }

    /// The id of the unfinished call of this name, or of the next one.
    pub(crate) fn peek(&self, name: &str) -> Result<String> {
        let names = self.names();
        let used = names.used.get(name).copied().unwrap_or(0);
        extend(&self.path, name, if names.open.contains(name) { used } else { used + 1 })
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.scope.names().open.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_in_call_order_within_their_scope() {
        let root = Scope::new(String::new());
        assert_eq!(root.call("a").unwrap().id, "a");
        assert_eq!(root.peek("a").unwrap(), "a#2");
        let second = root.call("a").unwrap();
        assert_eq!((second.id.as_str(), root.peek("a").unwrap().as_str()), ("a#2", "a#2"));
        assert!(matches!(root.call("a"), Err(AppError::AmbiguousStep { step }) if step == "a#2"));
        drop(second);
        assert_eq!(root.call("a").unwrap().id, "a#3");
        assert_eq!(Scope::new("ship/7".to_owned()).call("a").unwrap().id, "ship/7/a");
    }

    #[test]
    fn segments_are_encoded_and_bounded() {
        assert_eq!(extend("", "50% of a/b#c", 2).unwrap(), "50%25 of a%2Fb%23c#2");
        assert!(extend("", "", 1).is_err());
        assert!(extend("", &"x".repeat(512), 1).is_ok());
        assert!(extend("", &"x".repeat(512), 2).is_err());
        assert!(extend("", &"é".repeat(257), 1).is_err());
    }
}
