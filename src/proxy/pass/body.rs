//! The body of a passed request. Pingora reads bodies after a worker is chosen and repeats what is in its retry
//! buffer of 64 KiB; a body is read before that here, so that its cost is known, its client can be watched while
//! it waits, and it can be sent to a second worker.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType, Result};

use crate::engines::JsonObject;
use crate::proxy::ProxySettings;
use crate::proxy::read_request::{BodyError, announced_length, next};

/// Pingora's retry buffer, which is also the most that one read gives.
const RETRY_BUFFER: u64 = 64 << 10;
/// Of a body without a length no more than this is read at first.
const AHEAD: usize = 45_000;

pub(super) enum Body {
    Empty,
    /// All of it is here.
    Whole(Bytes),
    /// The rest comes while it is sent.
    Begun {
        beginning: Bytes,
        sent: usize,
    },
}

impl Body {
    pub(super) async fn read(
        http: &mut ServerSession,
        settings: &ProxySettings,
    ) -> Result<Self, BodyError> {
        let limit = settings.body_timeout;
        http.set_read_timeout(Some(limit));
        tokio::time::timeout(limit, read(http, settings.max_body_bytes))
            .await
            .unwrap_or(Err(BodyError::TooSlow { limit }))
    }

    /// What is held in memory.
    pub(super) fn kept(&self) -> usize {
        match self {
            Body::Empty => 0,
            Body::Whole(body) => body.len(),
            Body::Begun { beginning, .. } => beginning.len(),
        }
    }

    /// Bytes in all, as far as is known.
    pub(super) fn bytes(&self, http: &ServerSession) -> usize {
        let announced = announced_length(http).unwrap_or(0);
        self.kept().max(usize::try_from(announced).unwrap_or(0))
    }

    pub(super) fn json(&self) -> Option<JsonObject> {
        match self {
            Body::Whole(body) => JsonObject::parse(body.clone()).ok(),
            Body::Empty | Body::Begun { .. } => None,
        }
    }

    /// Another worker gets it from its beginning.
    pub(super) fn restart(&mut self) {
        if let Body::Begun { sent, .. } = self {
            *sent = 0;
        }
    }

    /// Pingora gives what its retry buffer holds, then what comes. If `truncated`, the buffer could not hold the
    /// beginning.
    pub(super) fn send(
        &mut self,
        part: &mut Option<Bytes>,
        truncated: bool,
        bytes_max: usize,
    ) -> Result<()> {
        match self {
            Body::Empty => Ok(()),
            Body::Whole(body) => {
                *part = Some(body.clone());
                Ok(())
            }
            Body::Begun { beginning, sent } => {
                if *sent == 0 && truncated {
                    let rest = part.take().unwrap_or_default();
                    *part = Some([&beginning[..], &rest[..]].concat().into());
                }
                *sent += part.as_ref().map_or(0, Bytes::len);
                if *sent > bytes_max {
                    let why = "the body is too large";
                    return Err(Error::explain(ErrorType::HTTPStatus(413), why));
                }
                Ok(())
            }
        }
    }
}

async fn read(http: &mut ServerSession, bytes_max: usize) -> Result<Body, BodyError> {
    if http.is_body_empty() {
        return Ok(Body::Empty);
    }
    let length = announced_length(http);
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(BodyError::TooLarge { bytes_max });
    }
    if http.get_header(header::EXPECT).is_some() {
        let told = http.write_continue_response().await;
        told.map_err(|_| BodyError::Broken)?;
    }
    match length {
        Some(length) => read_known(http, length).await,
        None => read_ahead(http, bytes_max).await,
    }
}

/// The retry buffer is switched on for the tail, so that Pingora has something to send, and
/// that is replaced by the whole.
async fn read_known(http: &mut ServerSession, length: u64) -> Result<Body, BodyError> {
    let mut body = BytesMut::new();
    loop {
        if length.saturating_sub(body.len() as u64) <= RETRY_BUFFER {
            http.enable_retry_buffering();
        }
        match next(http).await? {
            Some(part) => body.extend_from_slice(&part),
            None if body.is_empty() => return Ok(Body::Empty),
            None => break,
        }
    }
    match http.get_retry_buffer() {
        Some(_) => Ok(Body::Whole(body.freeze())),
        None => Err(BodyError::Broken),
    }
}

async fn read_ahead(http: &mut ServerSession, bytes_max: usize) -> Result<Body, BodyError> {
    http.enable_retry_buffering();
    let mut body = BytesMut::new();
    while body.len() < AHEAD {
        match next(http).await? {
            Some(part) => body.extend_from_slice(&part),
            None if body.is_empty() => return Ok(Body::Empty),
            None => return Ok(Body::Whole(body.freeze())),
        }
    }
    match (http.is_body_done(), http.retry_buffer_truncated()) {
        (true, false) => Ok(Body::Whole(body.freeze())),
        // Pingora would neither read nor repeat anything.
        (true, true) => Err(BodyError::TooLarge { bytes_max }),
        (false, _) => Ok(Body::Begun {
            beginning: body.freeze(),
            sent: 0,
        }),
    }
}
