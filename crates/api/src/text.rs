//! Bytes inside JSON: as text under `name` where they are UTF-8, else as base64 under `name_base64`.
//!
//! Base64 is the standard alphabet with padding. Readers accept exactly one of the two fields, so
//! that a value cannot be said twice and differently.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The pair of fields `(name, name_base64)` that carries `bytes`: exactly one is there.
pub(crate) fn split(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// The bytes that the pair of fields carries.
pub(crate) fn join(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(code)) => {
            STANDARD.decode(code).map_err(|e| format!("`{name}_base64` is not base64 (standard alphabet, padded): {e}"))
        }
        (Some(_), Some(_)) => Err(format!("give either `{name}` or `{name}_base64`, not both")),
        (None, None) => Err(format!("`{name}` (or `{name}_base64`) is missing")),
    }
}
