//! Who may ask: the token, and pages of other origins in the browser of who runs a local server.

use std::hint::black_box;
use std::net::IpAddr;

use cairn_api::ErrorKind;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::http::uri::Authority;

use crate::reply::Refusal;

/// Checks a request's headers against the server's token, if it has one.
///
/// A server without a token listens on loopback only; there, a request by a page of another origin
/// is refused. Browsers mark those that could write with `Origin`; a name that a foreign page bound
/// to 127.0.0.1 counts as another origin.
pub(crate) fn check(headers: &HeaderMap, token: Option<&str>) -> Result<(), Refusal> {
    match token {
        Some(token) => match bearer(headers) {
            Some(given) if same(given, token.as_bytes()) => Ok(()),
            Some(_) => Err(unauthorized("the token is not the server's")),
            None => Err(unauthorized("a token is required: send `Authorization: Bearer TOKEN`")),
        },
        None => match headers.get(ORIGIN) {
            Some(origin) if !is_own_origin(origin, headers.get(HOST)) => {
                let message = "a page of another origin may not use a server without a token";
                Err(Refusal::new(ErrorKind::Forbidden, message))
            }
            _ => Ok(()),
        },
    }
}

fn unauthorized(message: &str) -> Refusal {
    Refusal::new(ErrorKind::Unauthorized, message)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"cairn\""))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

/// Compares without telling by its duration where two tokens of equal length differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let difference = given.iter().zip(token).fold(0u8, |difference, (a, b)| black_box(difference | (a ^ b)));
    given.len() == token.len() && difference == 0
}

fn is_own_origin(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let authority = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    let (Some(authority), Some(host)) = (authority, host) else { return false };
    let Ok(parsed) = authority.parse::<Authority>() else { return false };
    let name = parsed.host().trim_start_matches('[').trim_end_matches(']');
    authority.as_bytes() == host.as_bytes() && (name == "localhost" || name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tokens() {
        for (value, allowed) in [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer  s3cret ", true),
            ("Bearer s3cres", false),
            ("Bearer s3cre", false),
            ("Bearer s3crett", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            let verdict = check(&headers(&[("authorization", value)]), Some("s3cret"));
            assert_eq!(verdict.is_ok(), allowed, "{value:?}");
        }
        assert!(check(&headers(&[]), Some("s3cret")).is_err());
        assert!(check(&headers(&[]), None).is_ok());
        assert!(check(&headers(&[("authorization", "Bearer any")]), None).is_ok());
    }

    #[test]
    fn origins() {
        for (origin, host, allowed) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080", "localhost:8080", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://localhost:3000", "localhost:8080", false),
            ("http://example.org", "127.0.0.1:8080", false),
            ("http://rebound.example.org:8080", "rebound.example.org:8080", false),
            ("https://localhost:8080", "localhost:8080", false),
            ("null", "localhost:8080", false),
        ] {
            let verdict = check(&headers(&[("origin", origin), ("host", host)]), None);
            assert_eq!(verdict.is_ok(), allowed, "{origin} {host}");
        }
        assert!(check(&headers(&[("origin", "http://localhost")]), None).is_err());
        let with_token = headers(&[("origin", "http://example.org"), ("authorization", "Bearer t")]);
        assert!(check(&with_token, Some("t")).is_ok(), "who has the token may ask from anywhere");
    }
}
