//! Reading the whole request body, within bounds of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;

use super::ProxySettings;

/// Memory set aside on a client's word; more comes as bytes do.
const TRUSTED_LENGTH: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge {
        bytes_max: usize,
    },
    TooSlow {
        limit: Duration,
    },
    /// The connection broke or the framing did.
    Broken,
}

pub(super) async fn read_body(
    http: &mut ServerSession,
    settings: &ProxySettings,
) -> Result<Bytes, BodyError> {
    let bytes_max = settings.max_body_bytes;
    let announced = announced_length(http);
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(BodyError::TooLarge { bytes_max });
    }
    tokio::time::timeout(settings.body_timeout, read_all(http, bytes_max, announced))
        .await
        .unwrap_or(Err(BodyError::TooSlow {
            limit: settings.body_timeout,
        }))
}

async fn read_all(
    http: &mut ServerSession,
    bytes_max: usize,
    announced: Option<u64>,
) -> Result<Bytes, BodyError> {
    if http.get_header(EXPECT).is_some() {
        http.write_continue_response()
            .await
            .map_err(|_| BodyError::Broken)?;
    }
    let Some(first) = next(http).await? else {
        return Ok(Bytes::new());
    };
    if announced == Some(first.len() as u64) {
        // Pingora wants to see the end of the body before the connection can be used again.
        return match next(http).await? {
            None => Ok(first),
            Some(_) => Err(BodyError::TooLarge { bytes_max }),
        };
    }
    let expected = announced.unwrap_or(0).min(TRUSTED_LENGTH as u64) as usize;
    let mut body = BytesMut::with_capacity(expected.max(first.len()));
    body.extend_from_slice(&first);
    while let Some(chunk) = next(http).await? {
        if body.len() + chunk.len() > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

pub(super) async fn next(http: &mut ServerSession) -> Result<Option<Bytes>, BodyError> {
    http.read_request_body()
        .await
        .map_err(|_| BodyError::Broken)
}

pub(super) fn announced_length(http: &ServerSession) -> Option<u64> {
    http.get_header(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
