//! Connections to one server: opening, reuse, and one request's way there and back.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_api::{ErrorBody, ErrorKind, SEQ_HEADER};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// Kept-alive connections that wait for their next request; more are closed after their answer.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Longest answer that is held whole, and longest line of a scan, in bytes. Beyond it the answer is
/// an error: a value has at most 64 MiB, and six times that as the most wasteful JSON.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 30;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection; 5 seconds by default.
    pub connect: Duration,
    /// For an answer to begin, counted from when the request starts to be sent, and then for each
    /// part of it; 60 seconds by default.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(5), answer: Duration::from_secs(60) }
    }
}

/// Whether a request's answer has a timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Timeout,
    Forever,
}

/// One server, and the connections to it that are free.
pub(crate) struct Origin {
    address: String,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    timeouts: Timeouts,
    /// Guards a list that is only pushed to and popped from; nothing waits while it is held.
    idle: Mutex<Vec<Sender>>,
}

type Sender = SendRequest<Full<Bytes>>;

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token: this ends up in logs.
        f.debug_struct("Origin").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Origin {
    pub(crate) fn parse(url: &str, token: Option<&str>, timeouts: Timeouts) -> Result<Origin> {
        let fail = |message: &str| Error::Url { url: url.to_owned(), message: message.to_owned() };
        let uri: Uri = url.parse().map_err(|_| fail("write it as http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(fail(
                    "this client speaks no TLS; write http://HOST:PORT, of the server itself or of a tunnel to it",
                ));
            }
            _ => return Err(fail("write it as http://HOST:PORT")),
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(fail("it must end after the port: keys and routes live at the root"));
        }
        let authority = uri.authority().ok_or_else(|| fail("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(fail("give a token instead of a user and password"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| fail("the host cannot be sent"))?;
        let authorization = match token {
            None => None,
            Some(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {token}"));
                let mut value = value.map_err(|_| fail("the token has characters a header cannot carry"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Origin { address, host, authorization, timeouts, idle: Mutex::new(Vec::new()) })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The same server by connections of its own, with other patience.
    pub(crate) fn apart(&self, timeouts: Timeouts) -> Origin {
        let Origin { address, host, authorization, .. } = self;
        let (address, host, authorization) = (address.clone(), host.clone(), authorization.clone());
        Origin { address, host, authorization, timeouts, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn request(
        &self,
        method: Method,
        target: &str,
        accept: Option<&'static str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let fail = |message: String| Error::Request { message };
        let uri: Uri = target.parse().map_err(|e| {
            let length = target.len();
            fail(format!("the target of {length} bytes cannot be sent ({e}); long keys go by a batch"))
        })?;
        let mut request = Request::builder().method(method).uri(uri).header(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, HeaderValue::from_static(accept));
        }
        request.body(Full::new(body)).map_err(|e| fail(e.to_string()))
    }

    /// Sends a request and waits until its answer begins.
    pub(crate) async fn send(self: &Arc<Self>, request: Request<Full<Bytes>>, wait: Wait) -> Result<Answer> {
        let exchange = self.exchange(request);
        let (response, sender) = match wait {
            Wait::Timeout => self.in_time(self.timeouts.answer, exchange).await??,
            Wait::Forever => exchange.await?,
        };
        let (head, body) = response.into_parts();
        Ok(Answer { origin: self.clone(), status: head.status, headers: head.headers, body, sender: Some(sender) })
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Sender)> {
        loop {
            let kept = self.take_idle().await;
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut failed) => match failed.take_message() {
                    // A kept connection closed under us before a byte was sent. Each turn uses one
                    // up and the last is new, so this ends.
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(self.unanswered(failed.into_error())),
                },
            }
        }
    }

    /// Makes sure that a free connection is there, as far as anyone can know.
    pub(crate) async fn ensure_idle(&self) -> Result<()> {
        let sender = match self.take_idle().await {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        self.give_back(sender);
        Ok(())
    }

    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender> {
        let fail = |source| Error::Connect { address: self.address.clone(), source };
        let connecting = tokio::time::timeout(self.timeouts.connect, TcpStream::connect(&self.address));
        let stream = match connecting.await {
            Ok(stream) => stream.map_err(fail)?,
            Err(_) => return Err(fail(io::ErrorKind::TimedOut.into())),
        };
        // Without this, small requests wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(fail)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.unanswered(source))?;
        // Drives the connection; its failure reaches whoever waits for an answer through the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    fn unanswered(&self, source: hyper::Error) -> Error {
        Error::Unanswered { address: self.address.clone(), source }
    }

    async fn in_time<T>(&self, after: Duration, work: impl Future<Output = T>) -> Result<T> {
        let timeout = tokio::time::timeout(after, work);
        timeout.await.map_err(|_| Error::Timeout { address: self.address.clone(), after })
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub(crate) struct Answer {
    origin: Arc<Origin>,
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    /// There until the body has been read to its end.
    sender: Option<Sender>,
}

impl Answer {
    pub(crate) fn seq(&self) -> Option<u64> {
        self.headers.get(SEQ_HEADER)?.to_str().ok()?.parse().ok()
    }

    pub(crate) fn is_missing_key(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The next part of the body, or `None` at its end.
    pub(crate) async fn frame(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.origin.in_time(self.origin.timeouts.answer, self.body.frame()).await? {
                Some(Ok(frame)) => {
                    // Trailers are let pass.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(source)) => return Err(self.origin.unanswered(source)),
                None => {
                    if let Some(sender) = self.sender.take() {
                        self.origin.give_back(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body.
    pub(crate) async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(part) = self.frame().await? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(Error::answer("the answer", format!("it is over {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    /// The answer if it is a success, else the error it carries.
    pub(crate) async fn checked(self) -> Result<Answer> {
        if self.status.is_success() {
            return Ok(self);
        }
        let (status, reason) = (self.status.as_u16(), self.status.canonical_reason().unwrap_or("error"));
        let retry_after = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = self.bytes().await?;
        // A proxy, or the HTTP library below the server, answers without our JSON.
        let error: Option<ErrorBody> = serde_json::from_slice(&body).ok();
        Err(Error::Http {
            status,
            kind: error.as_ref().and_then(ErrorBody::kind).unwrap_or_else(|| ErrorKind::from_status(status)),
            message: error.as_ref().map_or_else(|| reason.to_owned(), |error| error.message().to_owned()),
            key: error.as_ref().and_then(ErrorBody::key),
            field: error.as_ref().and_then(ErrorBody::field).map(str::to_owned),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", Ok("127.0.0.1:8080")),
            ("http://127.0.0.1:8080/", Ok("127.0.0.1:8080")),
            ("http://[::1]:9", Ok("[::1]:9")),
            ("http://example.org", Ok("example.org:80")),
            ("https://example.org", Err("TLS")),
            ("127.0.0.1:8080", Err("http://HOST:PORT")),
            ("localhost", Err("http://HOST:PORT")),
            ("", Err("http://HOST:PORT")),
            ("http://u:p@h", Err("token")),
            ("http://h/path", Err("after the port")),
            ("http://h?q", Err("after the port")),
        ] {
            match (Origin::parse(url, None, Timeouts::default()), expected) {
                (Ok(origin), Ok(address)) => assert_eq!(origin.address(), address),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{url}: {error}"),
                (result, _) => panic!("{url}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let origin = Origin::parse("http://h", Some("s3cret"), Timeouts::default()).unwrap();
        let request = origin.request(Method::GET, "/a", None, Bytes::new()).unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer s3cret");
        assert!(!format!("{origin:?} {request:?}").contains("s3cret"));
        assert!(Origin::parse("http://h", Some("a\nb"), Timeouts::default()).is_err());
    }

    #[test]
    fn a_key_too_long_for_a_target_is_refused_before_it_is_sent() {
        let origin = Origin::parse("http://h", None, Timeouts::default()).unwrap();
        let target = |bytes: usize| cairn_api::target::key_target(&vec![b'k'; bytes]);
        let longest = cairn_api::target::TARGET_BYTES_MAX - 1;
        assert!(origin.request(Method::GET, &target(longest), None, Bytes::new()).is_ok());
        let error = origin.request(Method::GET, &target(longest + 1), None, Bytes::new()).unwrap_err();
        assert!(matches!(&error, Error::Request { message } if message.contains("batch")), "{error}");
        assert!(!error.is_unanswered());
    }
}
