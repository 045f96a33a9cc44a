//! Sending a request to a worker and getting the head of its answer, over Pingora's pooled connector.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType};

use super::record::Record;
use crate::domain::TimeLimits;
use crate::engines::Exchange;
use crate::fleet::Contact;
use crate::policy::retry::AttemptFailure;

/// Connections to workers are kept this long for the next request.
pub(super) const KEEP_IDLE: Duration = Duration::from_secs(30);

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A kept connection that breaks later than this was not stale: the worker broke it.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// A worker's answer, its header read.
pub(super) struct Upstream {
    // Boxed: both are large, and are moved about with what waits on them.
    http: Box<HttpSession>,
    peer: Box<HttpPeer>,
    pub(super) status: u16,
    /// All of the answer was read: the connection is free.
    at_end: bool,
    /// The worker has read the request; otherwise the next one would be taken for the rest of it.
    request_read: bool,
}

/// May be dropped at any moment: that closes the connection, which makes the engine stop.
pub(super) async fn send(
    connector: &Connector,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    record: &Record,
) -> Result<Upstream, (AttemptFailure, Box<Error>)> {
    let peer = Box::new(peer(contact, times));
    let opened = connector.get_http_session(&*peer).await;
    let (http, reused) = opened.map_err(|error| (failure(&error, false), error))?;
    let mut http = Box::new(http);
    let asked_at = Instant::now();
    let talked = talk(&mut http, contact, exchange, times, record).await;
    let status = http.response_header().map(|head| head.status.as_u16());
    match (talked, status) {
        (Ok(request_read), Some(status)) => Ok(Upstream {
            http,
            peer,
            status,
            at_end: false,
            request_read,
        }),
        (Ok(_), None) => {
            close(&mut http).await;
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "answer without a header");
            Err((AttemptFailure::Broken, error))
        }
        (Err(error), _) => {
            close(&mut http).await;
            let stale = reused && asked_at.elapsed() < STALE_WITHIN;
            Err((failure(&error, stale), error))
        }
    }
}

/// Whether the worker has read the whole request before it answered.
async fn talk(
    http: &mut HttpSession,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    record: &Record,
) -> pingora::Result<bool> {
    let mut head = RequestHeader::build("POST", exchange.path.as_bytes(), Some(6))?;
    head.insert_header(header::HOST, contact.address.to_string())?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    head.insert_header(header::ACCEPT, "application/json, text/event-stream")?;
    head.insert_header(header::CONTENT_LENGTH, exchange.body.len().to_string())?;
    if let Some(key) = &contact.api_key {
        head.insert_header(header::AUTHORIZATION, format!("Bearer {}", key.expose()))?;
    }
    for (name, value) in record.onward() {
        head.insert_header(name.clone(), value.clone())?;
    }
    http.set_write_timeout(Some(times.between_bytes));
    http.set_read_timeout(Some(times.first_byte));
    if let Err(error) = write(http, head, exchange.body.clone()).await {
        // A worker that refuses a body may answer and close before it has read all of it.
        http.set_read_timeout(Some(CLOSE_TIMEOUT));
        return match http.read_response_header().await {
            Ok(()) if is_refusal(http) => Ok(false),
            _ => Err(error),
        };
    }
    loop {
        http.read_response_header().await?;
        // Interim answers such as 100 are followed by the real one.
        let status = http.response_header().map(|head| head.status.as_u16());
        if status.is_none_or(|status| status >= 200) {
            return Ok(true);
        }
    }
}

async fn write(http: &mut HttpSession, head: RequestHeader, body: Bytes) -> pingora::Result<()> {
    http.write_request_header(Box::new(head)).await?;
    http.write_request_body(body, true).await?;
    http.finish_request_body().await
}

fn is_refusal(http: &HttpSession) -> bool {
    let head = http.response_header();
    head.is_some_and(|head| head.status.is_client_error())
}

impl Upstream {
    pub(super) fn expect_next_within(&mut self, limit: Duration) {
        self.http.set_read_timeout(Some(limit));
    }

    /// The next part of the body, `None` at its proper end.
    pub(super) async fn read(&mut self) -> pingora::Result<Option<Bytes>> {
        let part = self.http.read_response_body().await;
        self.at_end = matches!(part, Ok(None));
        part
    }

    /// Reads the whole body; `None` if it is larger than `bytes_max`.
    pub(super) async fn read_all(&mut self, bytes_max: usize) -> pingora::Result<Option<Bytes>> {
        let mut parts = Vec::new();
        let mut length = 0;
        while let Some(part) = self.read().await? {
            length += part.len();
            if length > bytes_max {
                return Ok(None);
            }
            parts.push(part);
        }
        Ok(Some(match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Bytes::from(parts.concat()),
        }))
    }

    /// Nothing more is wanted. If the whole answer was read the connection may serve again.
    pub(super) async fn release(self, connector: &Connector) {
        if !self.at_end || !self.request_read {
            return self.abort().await;
        }
        connector
            .release_http_session(*self.http, &*self.peer, Some(KEEP_IDLE))
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

pub(super) fn peer(contact: &Contact, times: &TimeLimits) -> HttpPeer {
    let mut peer = HttpPeer::new(contact.address, false, String::new());
    // The pool must not mix processes that had the same address one after the other.
    peer.group_key = contact.incarnation;
    if let Some(options) = peer.get_mut_peer_options() {
        options.connection_timeout = Some(times.connect);
        options.total_connection_timeout = Some(times.connect);
    }
    peer
}

pub(super) fn failure(error: &Error, reused: bool) -> AttemptFailure {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => AttemptFailure::TimedOut,
        _ if reused => AttemptFailure::StaleConnection,
        _ => AttemptFailure::Broken,
    }
}

/// What broke, for clients and logs.
pub(super) fn in_words(error: &Error) -> String {
    use ErrorType as E;
    match error.etype() {
        E::ConnectionClosed => "the worker closed the connection".to_owned(),
        E::ReadTimedout => "the worker was silent for too long".to_owned(),
        E::WriteTimedout => "the worker did not read the request".to_owned(),
        E::ConnectTimedout => "the worker could not be reached in time".to_owned(),
        E::ConnectRefused | E::ConnectNoRoute | E::ConnectError => {
            "the worker could not be reached".to_owned()
        }
        E::ReadError | E::WriteError => "the connection to the worker broke".to_owned(),
        other => other.as_str().to_owned(),
    }
}
