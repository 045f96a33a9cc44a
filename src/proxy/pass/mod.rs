//! Requests that are no generations: tokenizing, embeddings, files, websockets. They go through Pingora's own
//! phases with a worker of the endpoint; here is what is decided in each phase.

mod begin;
mod body;
mod headers;
mod phases;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::upstreams::peer::{H1UpgradePolicy, HttpPeer, Peer};
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::Gateway;
use super::admit::worker_for;
use super::allow::Admitted;
use super::forward::{KEEP_IDLE, failure, in_words, peer};
use super::record::Record;
use super::respond::Refusal;
use super::stop::{Outcome, Stop, body_stop, not_admitted, upstream_stop};
use crate::domain::{PassRoute, PredictedCost};
use crate::engines::{ErrorKind, JsonObject};
use crate::fleet::{Claim, Contact, EndpointFleet, Ticket, UnderWay};
use crate::policy::admission::Patience;
use crate::policy::retry::{AttemptFailure, Verdict, after_failure};
use body::Body;

pub use phases::PassThrough;

/// The metric label of all that passes.
pub(super) const LABEL: &str = "pass";

/// A request on its way through Pingora's phases. Dropping it frees the worker.
pub(super) struct Passing {
    endpoint: Arc<EndpointFleet>,
    route: PassRoute,
    /// Path and query as the worker is asked.
    target: String,
    /// The path names the endpoint.
    prefixed: bool,
    upgrade: bool,
    body: Body,
    /// The body, where it had to be understood.
    json: Option<JsonObject>,
    ticket: Ticket,
    admitted: Admitted,
    received_at: Instant,
    patience: Patience,
    claim: Option<Claim>,
    contact: Option<Arc<Contact>>,
    attempts: u32,
    /// What the client is told if nobody else answers.
    stop: Option<Stop>,
    /// Set where the gateway answered by itself.
    outcome: Option<Outcome>,
    _under_way: UnderWay,
}

/// Pool keys of connections that serve one request; real ones count from below.
static UNSHARED: AtomicU64 = AtomicU64::new(u64::MAX);

impl Gateway {
    /// The worker to ask: the one held, or another one if that failed.
    pub(super) async fn pass_peer(
        &self,
        http: &mut ServerSession,
        passing: &mut Passing,
        record: &Record,
    ) -> Result<Box<HttpPeer>> {
        if passing.claim.is_none() {
            let admitted = worker_for(
                http,
                &passing.endpoint,
                &passing.ticket,
                &mut passing.patience,
                &self.metrics,
                record,
            )
            .await;
            match admitted {
                Ok(claim) => passing.claim = Some(claim),
                Err(not) => {
                    let stop = not_admitted(None, not, passing.stop.take());
                    return Err(stopped(passing, stop));
                }
            }
        }
        let worker = passing
            .claim
            .as_ref()
            .map(|claim| Arc::clone(claim.worker()));
        let contact = worker.as_ref().and_then(|worker| worker.contact());
        let (Some(worker), Some(contact)) = (worker, contact) else {
            let why = "the worker has no address";
            let stop = upstream_stop(None, AttemptFailure::Broken, why);
            return Err(stopped(passing, stop));
        };
        passing.attempts += 1;
        passing.body.restart();
        record.worker(worker.id());
        let peer = passing.peer(&contact);
        passing.contact = Some(contact);
        Ok(Box::new(peer))
    }

    /// Nothing was sent: another worker can do the same.
    pub(super) fn pass_not_connected(
        &self,
        passing: &mut Passing,
        record: &Record,
        error: &mut Error,
    ) {
        self.pass_failed(passing, record, error, AttemptFailure::Broken, true);
    }

    /// The worker may have begun: only what may be done twice is asked again, and only before the client saw a byte.
    pub(super) fn pass_broken(
        &self,
        session: &Session,
        passing: &mut Passing,
        record: &Record,
        error: &mut Error,
        reused: bool,
    ) {
        if error.esource() != &ErrorSource::Upstream {
            error.set_retry(false);
            return;
        }
        let repeatable = passing.route.repeatable || session.req_header().method.is_idempotent();
        let whole = !session.as_ref().retry_buffer_truncated();
        let unseen = session.response_written().is_none();
        let failure = failure(error, reused);
        self.pass_failed(
            passing,
            record,
            error,
            failure,
            repeatable && whole && unseen,
        );
    }

    fn pass_failed(
        &self,
        passing: &mut Passing,
        record: &Record,
        error: &mut Error,
        failure: AttemptFailure,
        may_repeat: bool,
    ) {
        error.set_retry(false);
        passing.stop = Some(upstream_stop(None, failure, &in_words(error)));
        let Some(claim) = passing.claim.take() else {
            return;
        };
        let (endpoint, worker) = (&passing.endpoint, Arc::clone(claim.worker()));
        self.count_failed(endpoint, worker.id(), failure);
        if !reached(error) {
            // A worker that breaks off later, on some odd route, is not doubted for it: any client could take all
            // workers away so.
            endpoint.doubt(&worker);
        }
        let verdict = after_failure(failure, passing.attempts, &endpoint.settings().retry);
        if !may_repeat || verdict == Verdict::GiveUp {
            return;
        }
        if verdict == Verdict::SameAgain {
            passing.attempts -= 1;
            passing.claim = Some(claim);
        } else if endpoint.second_tries.may_retry() {
            self.count_retry(endpoint, "retried");
            record.retried();
            passing.ticket.tried.push(worker.id().clone());
        } else {
            return self.count_retry(endpoint, "over_budget");
        }
        error.set_retry(true);
    }

    /// What the client is told of an error that nothing mends; `None` if there is nobody to tell.
    pub(super) fn pass_refusal(
        &self,
        passing: &mut Passing,
        record: &Record,
        error: &Error,
    ) -> Option<Stop> {
        let limit = self.settings.load();
        let stop = match (error.esource(), error.etype()) {
            (_, ErrorType::HTTPStatus(413)) => body_stop(
                None,
                super::read_request::BodyError::TooLarge {
                    bytes_max: limit.max_body_bytes,
                },
            ),
            (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => {
                let message = "a header is not what HTTP allows";
                let refusal = Refusal::new(None, ErrorKind::BadRequest, message);
                Stop::Refused(refusal, Outcome::ClientError)
            }
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => body_stop(
                None,
                super::read_request::BodyError::TooSlow {
                    limit: limit.body_timeout,
                },
            ),
            (ErrorSource::Downstream, _) => return None,
            _ => passing
                .stop
                .take()
                .unwrap_or_else(|| upstream_stop(None, AttemptFailure::Broken, &in_words(error))),
        };
        passing.outcome = Some(stop.outcome());
        record.stopped(&stop);
        Some(stop)
    }

    /// Counts a passed request, however it ended.
    pub(super) fn pass_over(
        &self,
        session: &Session,
        error: Option<&Error>,
        passing: &Passing,
        record: &Record,
    ) {
        let status = session.response_written().map(|head| head.status.as_u16());
        let outcome = passing.outcome.unwrap_or_else(|| outcome(error, status));
        let why = match (passing.outcome, outcome, error) {
            (None, Outcome::ClientLeft, _) => Some("the client left".to_owned()),
            (None, _, Some(error)) => Some(in_words(error)),
            // A refusal has said it better.
            _ => None,
        };
        record.outcome(outcome.as_str(), why.as_deref());
        if outcome == Outcome::ClientLeft && status.is_none() {
            let nothing = PredictedCost::default();
            passing.endpoint.settled(&passing.ticket.cost, &nothing);
        }
        if let (Outcome::Ok, Some(claim)) = (outcome, &passing.claim) {
            claim.worker().meter.finished(0);
            self.took(&passing.admitted, passing.ticket.cost.total.0);
        }
        let name = &passing.endpoint.name;
        self.count(Some(name), LABEL, outcome, passing.received_at);
    }
}

fn reached(error: &Error) -> bool {
    !matches!(
        error.etype(),
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
    )
}

/// How it ended where the worker had the last word.
fn outcome(error: Option<&Error>, status: Option<u16>) -> Outcome {
    match (error, status) {
        (None, Some(400..500)) => Outcome::ClientError,
        (None, Some(500..)) => Outcome::UpstreamFailed,
        (None, _) => Outcome::Ok,
        // A websocket ends when one side has had enough or says nothing more.
        (Some(_), Some(101)) => Outcome::Ok,
        (Some(error), _) if error.esource() == &ErrorSource::Downstream => Outcome::ClientLeft,
        (Some(_), Some(_)) => Outcome::CutShort,
        (Some(_), None) => Outcome::UpstreamFailed,
    }
}

/// Pingora carries only the error; the client is told `stop`.
fn stopped(passing: &mut Passing, stop: Stop) -> Box<Error> {
    let left = matches!(stop, Stop::ClientLeft);
    passing.stop = Some(stop);
    let mut error = Error::explain(ErrorType::ConnectError, "no worker");
    error.esource = if left {
        ErrorSource::Downstream
    } else {
        ErrorSource::Internal
    };
    error.set_retry(false);
    error
}

impl Passing {
    fn peer(&self, contact: &Contact) -> HttpPeer {
        let settings = self.endpoint.settings();
        let mut peer = peer(contact, &settings.times);
        let repeatable = self.route.repeatable;
        if !repeatable {
            // A pooled connection may be closed under a request that must not be sent again.
            peer.group_key = UNSHARED.fetch_sub(1, Relaxed);
        }
        if let Some(options) = peer.get_mut_peer_options() {
            let silence = if self.upgrade {
                settings.passage.websocket_idle
            } else {
                settings.times.first_byte
            };
            options.read_timeout = Some(silence);
            options.write_timeout = Some(settings.times.between_bytes);
            options.idle_timeout = Some(if repeatable {
                KEEP_IDLE
            } else {
                Duration::ZERO
            });
            if !self.route.websocket {
                options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
            }
        }
        peer
    }

    /// The request as the worker gets it.
    pub(super) fn ask(&mut self, head: &mut RequestHeader, record: &Record) -> Result<()> {
        let Some(contact) = &self.contact else {
            return Err(Error::explain(ErrorType::InternalError, "no worker"));
        };
        headers::for_worker(head, &self.target, contact, record)?;
        self.name_model(contact.served_model.clone());
        if let Body::Whole(body) = &self.body {
            headers::set_length(head, body.len())?;
        }
        Ok(())
    }

    /// An engine knows its model by its own name.
    fn name_model(&mut self, served_model: Option<String>) {
        let (Some(json), Some(served)) = (&mut self.json, served_model) else {
            return;
        };
        let asked = json.get::<String>("model").ok().flatten();
        if asked.is_some_and(|model| self.endpoint.settings().answers_to(&model)) {
            json.set("model", served);
            self.body = Body::Whole(json.to_bytes());
        }
    }

    /// A part of the body on its way to the worker; `None` marks its end.
    pub(super) fn send_body(
        &mut self,
        session: &Session,
        part: &mut Option<Bytes>,
        bytes_max: usize,
    ) -> Result<()> {
        if session.was_upgraded() {
            return Ok(());
        }
        let truncated = session.as_ref().retry_buffer_truncated();
        self.body.send(part, truncated, bytes_max)
    }

    /// The answer's header as the client gets it.
    pub(super) fn answer(&self, session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
        let prefix = self.prefixed.then(|| self.endpoint.name.as_str());
        let address = self.contact.as_ref().map(|contact| contact.address);
        headers::for_client(session, head, prefix, address)
    }
}
