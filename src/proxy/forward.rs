//! Sending a request to a worker and getting the head of its answer, over Pingora's pooled connector.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header;
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType};
use tokio::time::timeout;

use super::record::Record;
use super::upstream::{CLOSE_TIMEOUT, Upstream};
use crate::domain::TimeLimits;
use crate::engines::Exchange;
use crate::fleet::Contact;
use crate::policy::retry::AttemptFailure;

/// Connections to workers are kept this long for the next request.
pub(super) const KEEP_IDLE: Duration = Duration::from_secs(30);

/// A kept connection that breaks later than this was not stale: the worker broke it.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// Opens or reuses a connection to the worker, asks, and reads the head of the answer.
pub(super) async fn send(
    connector: &TransportConnector,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    record: &Record,
) -> Result<Upstream, (AttemptFailure, Box<Error>)> {
    let peer = peer(contact, times);
    let opened = connector.get_stream(&peer).await;
    let (stream, reused) = opened.map_err(|error| (failure(&error, false), error))?;
    let mut upstream = Upstream::new(stream, peer.reuse_hash());
    let asked_at = Instant::now();
    match talk(&mut upstream, contact, exchange, times, record).await {
        Ok(()) => Ok(upstream),
        Err(error) => {
            upstream.abort().await;
            let stale = reused && asked_at.elapsed() < STALE_WITHIN;
            Err((failure(&error, stale), error))
        }
    }
}

async fn talk(
    upstream: &mut Upstream,
    contact: &Contact,
    exchange: &Exchange,
    times: &TimeLimits,
    record: &Record,
) -> pingora::Result<()> {
    let head = head(contact, exchange, record)?;
    let asked = timeout(times.between_bytes, upstream.ask(&head, &exchange.body)).await;
    let asked = asked.unwrap_or_else(|_| Err(Error::new(ErrorType::WriteTimedout)));
    let Err(error) = asked else {
        upstream.expect_next_within(times.first_byte);
        return upstream.read_head().await;
    };
    // A worker that refuses a body may answer and close before it has read all of it.
    upstream.expect_next_within(CLOSE_TIMEOUT);
    match upstream.read_head().await {
        Ok(()) if (400..500).contains(&upstream.status) => Ok(()),
        _ => Err(error),
    }
}

fn head(contact: &Contact, exchange: &Exchange, record: &Record) -> pingora::Result<BytesMut> {
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
    http_req_header_to_wire(&head)
        .ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "the path of a request"))
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
