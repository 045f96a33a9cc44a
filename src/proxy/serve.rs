//! One request from its first byte to its last.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::pass::{self, Passing};
use super::record::Record;
use super::respond::{self, Refusal};
use super::route::{Route, classify};
use super::screen::{Screened, screen};
use super::stop::{Outcome, Stop};
use super::understand::Request;
use super::{Gateway, models};
use crate::domain::{Api, EndpointName, PredictedCost};
use crate::engines::ErrorKind;

/// How long the rest of a refused request's body is read, so that the client sees the answer.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Gateway {
    /// Answers, or finds what passes through Pingora's own phases.
    pub(super) async fn serve(
        &self,
        session: &mut Session,
        record: &Record,
    ) -> pingora::Result<Option<Box<Passing>>> {
        let settings = self.settings.load_full();
        let client = &mut session.downstream_session;
        client.set_write_timeout(Some(settings.connections.write_timeout));
        client.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        record.head(session);
        if let Err(screened) = screen(session.req_header(), &settings.connections) {
            record.outcome(Outcome::ClientError.as_str(), None);
            self.turn_away(session, screened).await?;
            return Ok(None);
        }
        if self.fleet.is_leaving() {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let known = |name: &str| self.fleet.endpoint(name).is_some();
        let answered = match classify(&method, &path, known) {
            Route::Other { endpoint, path } => {
                return Box::pin(self.pass(session, record, endpoint, path)).await;
            }
            Route::Generation { api, endpoint } => {
                self.generation(session, record, api, endpoint).await
            }
            Route::Models { endpoint } => Box::pin(self.models(session, endpoint)).await,
            Route::Health if self.fleet.is_leaving() => {
                respond::json(
                    session,
                    503,
                    Bytes::from_static(b"{\"status\":\"leaving\"}"),
                )
                .await
            }
            Route::Health => {
                respond::json(session, 200, Bytes::from_static(b"{\"status\":\"ok\"}")).await
            }
            Route::WrongMethod { api, allow } => {
                let mut refusal = Refusal::new(
                    api,
                    ErrorKind::MethodNotAllowed,
                    format!("{path} takes {allow}"),
                );
                refusal.allow = Some(allow.into());
                respond::refuse(session, &refusal).await
            }
        };
        answered.map(|()| None)
    }

    /// What comes after such a header on its connection may be anything.
    async fn turn_away(&self, session: &mut Session, screened: Screened) -> pingora::Result<()> {
        let labels = [screened.rule];
        self.metrics
            .clients_refused
            .with_label_values(&labels)
            .inc();
        session.set_keepalive(None);
        respond::refuse(session, &screened.refusal()).await
    }

    async fn models(&self, session: &mut Session, endpoint: Option<&str>) -> pingora::Result<()> {
        let settings = self.settings.load();
        let admitted = match self.let_in(session, None, &settings.keys) {
            Ok(admitted) => admitted,
            Err(stop) => return self.refuse(session, &stop).await,
        };
        if let Some(name) = endpoint {
            let Some(endpoint) = self.fleet.endpoint(name) else {
                let refusal = self.unknown(&admitted.caller, None, "endpoint", name);
                return respond::refuse(session, &refusal).await;
            };
            if let Err(stop) = self.may_call(&admitted.caller, None, &endpoint.name, &settings.keys)
            {
                return self.refuse(session, &stop).await;
            }
        }
        let opens = |name: &EndpointName| {
            endpoint.is_none_or(|only| name.as_str() == only)
                && admitted.caller.may_call(name, &settings.keys).is_ok()
        };
        respond::json(session, 200, models::list(&self.fleet, opens)).await
    }

    async fn refuse(&self, session: &mut Session, stop: &Stop) -> pingora::Result<()> {
        match stop {
            Stop::Refused(refusal, _) => respond::refuse(session, refusal).await,
            _ => Err(client_left()),
        }
    }

    async fn generation(
        &self,
        session: &mut Session,
        record: &Record,
        api: Api,
        endpoint: Option<&str>,
    ) -> pingora::Result<()> {
        let began = Instant::now();
        record.route(api.as_str());
        let _under_way = self.fleet.request_under_way();
        // On the heap, and gone before a stream flows: thousands of streams keep only what they need.
        let understood = Box::pin(self.understand(session, record, api, endpoint)).await;
        let (name, result) = match understood {
            Ok(request) => {
                let name = request.endpoint.name.clone();
                let result = self.answer(session, &request).await;
                forget_what_was_not_made(&request, &result);
                (Some(name), result)
            }
            Err(stop) => (None, Err(stop)),
        };
        let (outcome, end) = match result {
            Ok(()) => (Outcome::Ok, Ok(())),
            Err(stop) => {
                record.stopped(&stop);
                (stop.outcome(), answer(session, stop).await)
            }
        };
        record.outcome(outcome.as_str(), None);
        self.count(name.as_ref(), api.as_str(), outcome, began);
        end
    }

    /// A route of the endpoint's workers.
    async fn pass(
        &self,
        session: &mut Session,
        record: &Record,
        endpoint: Option<&str>,
        path: &str,
    ) -> pingora::Result<Option<Box<Passing>>> {
        let began = Instant::now();
        record.route(pass::LABEL);
        match self.pass_begin(session, record, endpoint, path).await {
            Ok(passing) => Ok(Some(passing)),
            Err(stop) => {
                let outcome = stop.outcome();
                record.stopped(&stop);
                record.outcome(outcome.as_str(), None);
                self.count(None, pass::LABEL, outcome, began);
                answer(session, stop).await.map(|()| None)
            }
        }
    }

    pub(super) fn count(
        &self,
        endpoint: Option<&EndpointName>,
        api: &str,
        outcome: Outcome,
        began: Instant,
    ) {
        let name = endpoint.map_or("", EndpointName::as_str);
        self.metrics
            .requests
            .with_label_values(&[name, api, outcome.as_str()])
            .inc();
        if outcome == Outcome::Ok {
            self.metrics
                .request_seconds
                .with_label_values(&[name, api])
                .observe(began.elapsed().as_secs_f64());
        }
    }
}

/// Tells the client why it gets no answer of a worker, or no more of it.
pub(super) async fn answer(session: &mut Session, stop: Stop) -> pingora::Result<()> {
    match stop {
        Stop::Refused(refusal, _) => respond::refuse(session, &refusal).await,
        Stop::Answer { status, body } => respond::json(session, status, body).await,
        Stop::Broken { .. } | Stop::Told(_) => Ok(()),
        Stop::ClientLeft => Err(client_left()),
    }
}

/// Work that turned out not to be wanted, or never could be done, is no demand.
fn forget_what_was_not_made(request: &Request, result: &Result<(), Stop>) {
    let unwanted = match result {
        Err(Stop::ClientLeft) => true,
        Err(Stop::Refused(_, outcome) | Stop::Told(outcome)) => *outcome == Outcome::ClientError,
        Err(Stop::Answer { status, .. }) => *status < 500,
        Ok(()) | Err(Stop::Broken { .. }) => false,
    };
    if unwanted && !request.settled.load(Relaxed) {
        let nothing = PredictedCost::default();
        request.endpoint.settled(&request.predicted, &nothing);
    }
}

/// Nobody is left to answer; Pingora closes the connection.
fn client_left() -> Box<Error> {
    let mut error = Error::explain(ErrorType::ConnectionClosed, "the client left");
    error.esource = ErrorSource::Downstream;
    error
}
