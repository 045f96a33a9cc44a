//! Sending a request to a worker and getting the head of its answer, over Pingora's pooled connector.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::proxy::Session;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType};

use super::client::{ClientLeft, while_connected};
use crate::domain::TimeLimits;
use crate::engines::Exchange;
use crate::fleet::Contact;
use crate::policy::retry::AttemptFailure;

/// Connections to workers are kept this long for the next request.
const KEEP_IDLE: Duration = Duration::from_secs(30);

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A worker's answer, its header read.
pub(super) struct Upstream {
    http: HttpSession,
    peer: HttpPeer,
    pub(super) status: u16,
    broken: bool,
}

pub(super) enum SendError {
    ClientLeft,
    Failed(AttemptFailure, Box<Error>),
}

pub(super) async fn send(
    connector: &Connector,
    session: &mut Session,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    traceparent: Option<Bytes>,
) -> Result<Upstream, SendError> {
    let peer = peer(contact, times);
    let opened = while_connected(session, connector.get_http_session(&peer)).await;
    let (mut http, reused) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Err(SendError::Failed(failure(&error, false), error)),
        Err(ClientLeft) => return Err(SendError::ClientLeft),
    };
    let talked = while_connected(
        session,
        talk(&mut http, contact, exchange, times, traceparent),
    )
    .await;
    let error = match talked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(SendError::Failed(failure(&error, reused), error)),
        Err(ClientLeft) => Some(SendError::ClientLeft),
    };
    let status = http.response_header().map(|head| head.status.as_u16());
    match (error, status) {
        (None, Some(status)) => Ok(Upstream {
            http,
            peer,
            status,
            broken: false,
        }),
        (error, _) => {
            close(&mut http).await;
            Err(error.unwrap_or_else(|| {
                let error = Error::explain(ErrorType::InvalidHTTPHeader, "answer without a header");
                SendError::Failed(AttemptFailure::Broken, error)
            }))
        }
    }
}

async fn talk(
    http: &mut HttpSession,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    traceparent: Option<Bytes>,
) -> pingora::Result<()> {
    let mut head = RequestHeader::build("POST", exchange.path.as_bytes(), Some(6))?;
    head.insert_header(header::HOST, contact.address.to_string())?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    head.insert_header(header::ACCEPT, "application/json, text/event-stream")?;
    head.insert_header(header::CONTENT_LENGTH, exchange.body.len().to_string())?;
    if let Some(key) = &contact.api_key {
        head.insert_header(header::AUTHORIZATION, format!("Bearer {}", key.expose()))?;
    }
    if let Some(traceparent) = traceparent {
        head.insert_header("traceparent", traceparent.as_ref())?;
    }
    http.set_write_timeout(Some(times.between_bytes));
    http.set_read_timeout(Some(times.first_byte));
    http.write_request_header(Box::new(head)).await?;
    http.write_request_body(exchange.body.clone(), true).await?;
    http.finish_request_body().await?;
    loop {
        http.read_response_header().await?;
        // Interim answers such as 100 are followed by the real one.
        let status = http.response_header().map(|head| head.status.as_u16());
        if status.is_none_or(|status| status >= 200) {
            return Ok(());
        }
    }
}

impl Upstream {
    pub(super) fn expect_next_within(&mut self, limit: Duration) {
        self.http.set_read_timeout(Some(limit));
    }

    /// The next part of the body, `None` at its proper end.
    pub(super) async fn read(&mut self) -> pingora::Result<Option<Bytes>> {
        let part = self.http.read_response_body().await;
        self.broken |= part.is_err();
        part
    }

    /// Reads the whole body; `None` if it is larger than `bytes_max`.
    pub(super) async fn read_all(&mut self, bytes_max: usize) -> pingora::Result<Option<Bytes>> {
        let mut parts = Vec::new();
        let mut length = 0;
        while let Some(part) = self.read().await? {
            length += part.len();
            if length > bytes_max {
                self.broken = true;
                return Ok(None);
            }
            parts.push(part);
        }
        Ok(Some(match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Bytes::from(parts.concat()),
        }))
    }

    /// After the whole answer was read: the connection may serve again.
    pub(super) async fn release(self, connector: &Connector) {
        if self.broken {
            return self.abort().await;
        }
        connector
            .release_http_session(self.http, &self.peer, Some(KEEP_IDLE))
            .await;
    }

    /// Breaks the connection, which tells the engine to stop generating.
    pub(super) async fn abort(mut self) {
        close(&mut self.http).await;
    }
}

/// A worker that does not read could hold a polite end up for ever; dropping the session closes it anyway.
async fn close(http: &mut HttpSession) {
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, http.shutdown()).await;
}

fn peer(contact: &Contact, times: &TimeLimits) -> HttpPeer {
    let mut peer = HttpPeer::new(contact.address, false, String::new());
    // The pool must not mix processes that had the same address one after the other.
    peer.group_key = contact.incarnation;
    if let Some(options) = peer.get_mut_peer_options() {
        options.connection_timeout = Some(times.connect);
        options.total_connection_timeout = Some(times.connect);
    }
    peer
}

fn failure(error: &Error, reused: bool) -> AttemptFailure {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => AttemptFailure::TimedOut,
        _ if reused => AttemptFailure::StaleConnection,
        _ => AttemptFailure::Broken,
    }
}
