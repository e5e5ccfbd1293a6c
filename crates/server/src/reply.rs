//! What is sent: answers, refusals, and their bodies.
//!
//! A body that streams is a [`ScanBody`]; everything else is whole. A large value is not copied: its
//! bytes go out from where the engine pinned them, and its share of the budget is given back when
//! the last byte has been handed to the socket.

use std::pin::Pin;
use std::task::{Context, Poll};

use cairn_api::{BYTES, ErrorBody, ErrorKind, JSON, SEQ_HEADER, TargetError};
use cairn_service::Refused;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::to_vec;

use crate::connection::InFlight;
use crate::scan::{ScanBody, ScanBroken};

/// A successful answer.
pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

/// The bytes of an answer.
pub(crate) enum Content {
    /// All there.
    Whole(Bytes),
    /// Read as the client takes it.
    Scan(Box<ScanBody>),
}

impl Reply {
    pub(crate) fn new(content_type: &'static str, content: Content) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // Whatever is read here changes under every cache.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Reply { status: StatusCode::OK, headers, content }
    }

    /// A value.
    pub(crate) fn value(value: Bytes) -> Reply {
        Reply::new(BYTES, Content::Whole(value))
    }

    /// A value of `/v1` as JSON.
    pub(crate) fn json(body: &impl serde::Serialize) -> Result<Reply, Refusal> {
        let body = to_vec(body).map_err(|e| Refusal::new(ErrorKind::Internal, e.to_string()))?;
        Ok(Reply::new(JSON, Content::Whole(body.into())))
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Reply {
        self.status = status;
        self
    }

    pub(crate) fn with_seq(mut self, seq: cairn::SeqNo) -> Reply {
        self.headers.insert(SEQ_HEADER, HeaderValue::from(seq.0));
        self
    }

    pub(crate) fn into_response(self, in_flight: InFlight) -> Response<ReplyBody> {
        let mut response = Response::new(ReplyBody { content: self.content, _in_flight: in_flight });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    kind: ErrorKind,
    body: Box<ErrorBody>,
    headers: HeaderMap,
}

/// After how many seconds a client that met a bound should try again.
const RETRY_AFTER_SECONDS: u64 = 1;

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Refusal {
        let mut headers = HeaderMap::new();
        if kind == ErrorKind::Busy {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        Refusal { kind, body: Box::new(ErrorBody::new(kind, message)), headers }
    }

    /// The route exists, but not for this method.
    pub(crate) fn method(allowed: &'static str) -> Refusal {
        let message = format!("this takes only {allowed}");
        Refusal::new(ErrorKind::MethodNotAllowed, message).with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// The field of the request that is at fault.
    pub(crate) fn with_field(mut self, field: Option<String>) -> Refusal {
        self.body = Box::new(self.body.with_field(field));
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn with_seq(self, seq: cairn::SeqNo) -> Refusal {
        self.with_header(HeaderName::from_static(SEQ_HEADER), HeaderValue::from(seq.0))
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn into_reply(self) -> Reply {
        // These types always serialise; were that ever untrue, the status still tells.
        let body = to_vec(&self.body).unwrap_or_default();
        let mut reply = Reply::new(JSON, Content::Whole(body.into()));
        reply.status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        reply.headers.extend(self.headers);
        reply
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Refusal {
        Refusal::new(error.kind, error.message)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        Refusal::new(refused.kind, refused.message).with_field(refused.field)
    }
}

impl From<cairn::Error> for Refusal {
    fn from(error: cairn::Error) -> Refusal {
        let kind = match error.kind() {
            cairn::ErrorKind::Invalid => ErrorKind::Invalid,
            cairn::ErrorKind::NotFound => ErrorKind::NotFound,
            cairn::ErrorKind::Conflict => ErrorKind::Conflict,
            cairn::ErrorKind::Busy => ErrorKind::Busy,
            cairn::ErrorKind::Full => ErrorKind::Full,
            cairn::ErrorKind::Unknown => ErrorKind::Unknown,
            cairn::ErrorKind::Corrupt => ErrorKind::Corrupt,
            cairn::ErrorKind::Io => ErrorKind::Io,
            cairn::ErrorKind::Closed => ErrorKind::Closed,
        };
        let mut refusal = Refusal::new(kind, error.to_string());
        if let Some(key) = error.conflicting_key() {
            refusal.body = Box::new(refusal.body.with_key(key));
        }
        refusal
    }
}

/// The body of every response. While it lives, its request counts as in flight.
pub(crate) struct ReplyBody {
    content: Content,
    _in_flight: InFlight,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ScanBroken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ScanBroken>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Scan(scan) => scan.poll_chunk(cx).map(|chunk| chunk.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Content::Scan(_) => SizeHint::default(),
        }
    }
}
