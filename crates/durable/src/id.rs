//! Ids of tasks and runs: UUIDv7, so that they sort by the time they were made.

use std::fmt;

use uuid::{Builder, Uuid, Version};

/// Milliseconds since 1970, by the clock of the server.
pub type Millis = u64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// An id made at `now_ms`; `random` makes it unique.
            pub fn new(now_ms: Millis, random: [u8; 10]) -> $name {
                $name(Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid())
            }

            /// What no id made at `now_ms` or later lies before.
            pub fn first(now_ms: Millis) -> $name {
                let mut bytes = [0; 16];
                let [_, _, time @ ..] = now_ms.min((1 << 48) - 1).to_be_bytes();
                bytes[..6].copy_from_slice(&time);
                $name(Uuid::from_bytes(bytes))
            }

            /// The id of 16 bytes as they are stored.
            pub fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes to store; they sort as the ids do.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// When it was made, by the clock of who made it.
            pub fn made_ms(&self) -> Millis {
                let [a, b, c, d, e, f, ..] = *self.0.as_bytes();
                u64::from_be_bytes([0, 0, a, b, c, d, e, f])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = &'static str;

            /// Reads the text form. Only version 7: from others nobody could tell when they were made.
            fn from_str(text: &str) -> Result<$name, &'static str> {
                let uuid = Uuid::try_parse(text).map_err(|_| "not a UUID")?;
                match uuid.get_version() {
                    Some(Version::SortRand) => Ok($name(uuid)),
                    _ => Err("not a UUID of version 7, which says when it was made"),
                }
            }
        }
    };
}

id! {
    /// A task, for as long as it is kept.
    TaskId
}
id! {
    /// One attempt at a task. It is kept across sleeps and waits.
    RunId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_read_back() {
        let early = TaskId::new(1_000, [255; 10]);
        let late = TaskId::new(1_001, [0; 10]);
        assert!(early < late && early.as_bytes() < late.as_bytes());
        assert_eq!((early.made_ms(), late.made_ms()), (1_000, 1_001));
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(early < TaskId::first(1_001) && TaskId::first(1_001) < late && TaskId::first(u64::MAX).made_ms() > 1);
        assert_eq!(TaskId::from_bytes(*late.as_bytes()), late);
    }

    #[test]
    fn what_is_no_uuid_of_version_7_is_refused() {
        assert!("".parse::<TaskId>().is_err());
        assert!("0199b9a0-0000-7000-8000-00000000000".parse::<TaskId>().is_err());
        assert!("550e8400-e29b-41d4-a716-446655440000".parse::<TaskId>().is_err());
        assert!("0199b9a0-0000-7000-8000-000000000000".parse::<TaskId>().is_ok());
    }
}
