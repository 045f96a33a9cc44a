//! Answers the gateway gives itself.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;

use super::client::Client;
use crate::domain::Api;
use crate::engines::{ErrorKind, error_body, status_for};

/// An error in the shape of the interface that was called.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) api: Option<Api>,
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
    pub(super) allow: Option<Cow<'static, str>>,
}

impl Refusal {
    pub(super) fn new(api: Option<Api>, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            api,
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
        }
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

pub(super) async fn refuse(client: &mut Client<'_>, refusal: &Refusal) -> Result<()> {
    let status = status_for(refusal.api, refusal.kind);
    let body = error_body(refusal.api, refusal.kind, &refusal.message, refusal.param);
    let mut header = json_header(status, body.len())?;
    if let Some(after) = refusal.retry_after {
        header.insert_header(header::RETRY_AFTER, whole_seconds(after).to_string())?;
    }
    if let Some(allow) = &refusal.allow {
        header.insert_header(header::ALLOW, allow.as_ref())?;
    }
    if status == 401 {
        header.insert_header(header::WWW_AUTHENTICATE, "Bearer")?;
    }
    send(client, header, body).await
}

/// Rounded up: whoever comes back then is not too early.
fn whole_seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1_000).max(1) as u64
}

pub(super) async fn json(client: &mut Client<'_>, status: u16, body: Bytes) -> Result<()> {
    let header = json_header(status, body.len())?;
    send(client, header, body).await
}

async fn send(client: &mut Client<'_>, header: ResponseHeader, body: Bytes) -> Result<()> {
    client.write_head(Box::new(header)).await?;
    client.write_body(body, true).await
}

fn json_header(status: u16, length: usize) -> Result<ResponseHeader> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut header = ResponseHeader::build(status, Some(4))?;
    header.insert_header(header::CONTENT_TYPE, "application/json")?;
    header.insert_header(header::CONTENT_LENGTH, length.to_string())?;
    Ok(header)
}

/// The header of an event stream; chunked on HTTP/1.1, where Pingora leaves that to us. An HTTP/1.0
/// client reads until the connection closes.
pub(super) fn stream_header(http: &mut ServerSession) -> Result<ResponseHeader> {
    let mut header = ResponseHeader::build(StatusCode::OK, Some(4))?;
    header.insert_header(header::CONTENT_TYPE, "text/event-stream")?;
    header.insert_header(header::CACHE_CONTROL, "no-cache")?;
    if http.req_header().version < Version::HTTP_11 {
        http.set_keepalive(None);
    } else {
        header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(header)
}
