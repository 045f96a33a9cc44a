//! One request from its first byte to its last: the phases in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::admit::{NotAdmitted, worker_for};
use super::authorize::client_of;
use super::client::ClientLeft;
use super::forward::{SendError, Upstream, send};
use super::meter::AnswerMeter;
use super::read_request::{BodyError, read_body};
use super::relay::{ANSWER_BYTES_MAX, CLIENT_WRITE_TIMEOUT, Relay, RelayError};
use super::respond::{self, Refusal};
use super::route::{Route, classify};
use super::{Gateway, models};
use crate::domain::{Api, ClientKey, EndpointName, PredictedCost, RequestShape, WorkerId};
use crate::engines::{
    self, BadRequest, Call, Ending, ErrorKind, JsonObject, peek_model, read_call,
};
use crate::fleet::{Claim, EndpointFleet, Ticket};
use crate::policy::cost::cost;
use crate::policy::retry::{AttemptFailure, Verdict, after_failure};
use crate::telemetry::now;

/// How long the rest of a refused request's body is read, so that the client sees the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How a request ended; the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    ClientError,
    ClientLeft,
    /// Refused or timed out without a worker.
    NoWorker,
    /// Every attempt failed before the first byte.
    UpstreamFailed,
    /// Ended by an error event after the first byte.
    CutShort,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientError => "client_error",
            Outcome::ClientLeft => "client_left",
            Outcome::NoWorker => "no_worker",
            Outcome::UpstreamFailed => "upstream_failed",
            Outcome::CutShort => "cut_short",
        }
    }
}

/// Why a request ends without an answer of a worker.
enum Stop {
    Refused(Refusal, Outcome),
    /// A worker's own error, passed on.
    Answer {
        status: u16,
        body: Bytes,
    },
    ClientLeft,
    /// The client got a part and an error event.
    CutShort,
}

impl From<ClientLeft> for Stop {
    fn from(_: ClientLeft) -> Self {
        Stop::ClientLeft
    }
}

/// A request that was read and understood.
struct Request {
    api: Api,
    endpoint: Arc<EndpointFleet>,
    call: Call,
    body_bytes: usize,
    shape: RequestShape,
    predicted: PredictedCost,
    received_at: Instant,
    traceparent: Option<Bytes>,
}

impl Gateway {
    pub(super) async fn serve(&self, session: &mut Session) -> pingora::Result<()> {
        let client = &mut session.downstream_session;
        client.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
        client.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        match classify(&method, &path, |name| self.fleet.endpoint(name).is_some()) {
            Route::Generation { api, endpoint } => self.generation(session, api, endpoint).await,
            Route::Models { endpoint } => self.models(session, endpoint).await,
            Route::Health => {
                respond::json(session, 200, Bytes::from_static(b"{\"status\":\"ok\"}")).await
            }
            Route::WrongMethod { api, allow } => {
                let mut refusal = Refusal::new(
                    api,
                    ErrorKind::MethodNotAllowed,
                    format!("{path} takes {allow}"),
                );
                refusal.allow = Some(allow);
                respond::refuse(session, &refusal).await
            }
            Route::Unknown => {
                let refusal =
                    Refusal::new(None, ErrorKind::UnknownRoute, format!("no route {path}"));
                respond::refuse(session, &refusal).await
            }
        }
    }

    async fn models(&self, session: &mut Session, endpoint: Option<&str>) -> pingora::Result<()> {
        let settings = self.settings.load();
        if client_of(session, &settings.keys).is_err() {
            return respond::refuse(session, &unauthorized(None)).await;
        }
        match endpoint {
            Some(name) if self.fleet.endpoint(name).is_none() => {
                respond::refuse(session, &self.unknown(None, "endpoint", name)).await
            }
            _ => respond::json(session, 200, models::list(&self.fleet, endpoint)).await,
        }
    }

    async fn generation(
        &self,
        session: &mut Session,
        api: Api,
        endpoint: Option<&str>,
    ) -> pingora::Result<()> {
        let began = Instant::now();
        let (name, result) = match self.understand(session, api, endpoint).await {
            Ok(request) => {
                let name = request.endpoint.name.clone();
                (Some(name), self.answer(session, &request).await)
            }
            Err(stop) => (None, Err(stop)),
        };
        let (outcome, end) = match result {
            Ok(()) => (Outcome::Ok, Ok(())),
            Err(Stop::Refused(refusal, outcome)) => {
                (outcome, respond::refuse(session, &refusal).await)
            }
            Err(Stop::Answer { status, body }) => {
                let outcome = if status < 500 {
                    Outcome::ClientError
                } else {
                    Outcome::UpstreamFailed
                };
                (outcome, respond::json(session, status, body).await)
            }
            Err(Stop::CutShort) => (Outcome::CutShort, Ok(())),
            Err(Stop::ClientLeft) => (Outcome::ClientLeft, Err(client_left())),
        };
        self.count(name.as_ref(), api, outcome, began);
        end
    }

    fn count(&self, endpoint: Option<&EndpointName>, api: Api, outcome: Outcome, began: Instant) {
        let name = endpoint.map_or("", EndpointName::as_str);
        self.metrics
            .requests
            .with_label_values(&[name, api.as_str(), outcome.as_str()])
            .inc();
        if outcome == Outcome::Ok {
            self.metrics
                .request_seconds
                .with_label_values(&[name, api.as_str()])
                .observe(began.elapsed().as_secs_f64());
        }
    }

    /// Authorize, read, find the endpoint, validate, predict.
    async fn understand(
        &self,
        session: &mut Session,
        api: Api,
        endpoint: Option<&str>,
    ) -> Result<Request, Stop> {
        let settings = self.settings.load_full();
        let client = client_of(session, &settings.keys)
            .map_err(|_| Stop::Refused(unauthorized(Some(api)), Outcome::ClientError))?;
        let body = read_body(session, &settings)
            .await
            .map_err(|error| body_stop(api, error))?;
        let body_bytes = body.len();
        let body = JsonObject::parse(body).map_err(|error| {
            let message = error.to_string();
            bad_request(
                api,
                &BadRequest {
                    message,
                    param: None,
                },
            )
        })?;
        let endpoint = self.find_endpoint(api, endpoint, &body)?;
        let limits = endpoint.settings().limits.clone();
        let call = read_call(api, body, &limits).map_err(|error| bad_request(api, &error))?;
        let shape = shape_of(api, client, &call);
        let predicted = endpoint.predict(&shape);
        endpoint.arrived(&predicted, now());
        let traceparent = session
            .get_header("traceparent")
            .map(|value| Bytes::copy_from_slice(value.as_bytes()));
        Ok(Request {
            api,
            endpoint,
            call,
            body_bytes,
            shape,
            predicted,
            received_at: Instant::now(),
            traceparent,
        })
    }

    /// By path, else by `model`, else the only one there is.
    fn find_endpoint(
        &self,
        api: Api,
        path: Option<&str>,
        body: &JsonObject,
    ) -> Result<Arc<EndpointFleet>, Stop> {
        let known = |found: Option<Arc<EndpointFleet>>, what: &str, name: &str| {
            found
                .filter(|endpoint| !endpoint.is_removed())
                .ok_or_else(|| {
                    Stop::Refused(self.unknown(Some(api), what, name), Outcome::ClientError)
                })
        };
        if let Some(name) = path {
            return known(self.fleet.endpoint(name), "endpoint", name);
        }
        let model = peek_model(body).map_err(|error| bad_request(api, &error))?;
        let endpoints = self.fleet.endpoints();
        let mut live = endpoints.values().filter(|endpoint| !endpoint.is_removed());
        if let Some(model) = model {
            let found = live.find(|endpoint| endpoint.settings().answers_to(&model));
            return known(found.map(Arc::clone), "model", &model);
        }
        match (live.next(), live.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            _ => {
                let names = models::names(&self.fleet, None).join(", ");
                let message = format!("say which model: one of {names}");
                let mut refusal = Refusal::new(Some(api), ErrorKind::UnknownModel, message);
                refusal.param = Some("model");
                Err(Stop::Refused(refusal, Outcome::ClientError))
            }
        }
    }

    fn unknown(&self, api: Option<Api>, what: &str, name: &str) -> Refusal {
        let names = models::names(&self.fleet, None).join(", ");
        let shown: String = name.chars().take(100).collect();
        let message = format!("no {what} named {shown:?}; there is {names}");
        let mut refusal = Refusal::new(api, ErrorKind::UnknownModel, message);
        refusal.param = (what == "model").then_some("model");
        refusal
    }

    /// Attempts until one answered, the client left, or attempts and workers ran out.
    async fn answer(&self, session: &mut Session, request: &Request) -> Result<(), Stop> {
        let settings = request.endpoint.settings();
        let deadline = request.received_at + settings.waiting.wait_max;
        let mut ticket = Ticket {
            client: request.shape.client.clone(),
            cost: request.predicted,
            body_bytes: request.body_bytes,
            tried: Vec::new(),
        };
        let mut attempts = 0;
        let mut last = None;
        loop {
            let claim = match worker_for(
                session,
                &request.endpoint,
                &ticket,
                deadline,
                &self.metrics,
            )
            .await
            {
                Ok(claim) => claim,
                Err(not) => {
                    if matches!(not, NotAdmitted::ClientLeft) {
                        forget_demand(request);
                    }
                    return Err(not_admitted(request.api, not, last));
                }
            };
            let worker = Arc::clone(claim.worker());
            attempts += 1;
            let (failure, stop) = match self.attempt(session, request, claim).await {
                Attempt::Answered => return Ok(()),
                Attempt::Over(stop) => return Err(stop),
                Attempt::Failed(failure, stop) => (failure, stop),
            };
            self.count_failed(&request.endpoint, worker.id(), failure);
            match after_failure(failure, attempts, &settings.retry) {
                Verdict::SameAgain => attempts -= 1,
                Verdict::ElsewhereDoubted => request.endpoint.doubt(&worker),
                Verdict::ElsewhereUntried => ticket.tried.push(worker.id().clone()),
                Verdict::GiveUp => return Err(stop),
            }
            last = Some(stop);
        }
    }

    fn count_failed(&self, endpoint: &EndpointFleet, worker: &WorkerId, failure: AttemptFailure) {
        let cause = match failure {
            AttemptFailure::StaleConnection => "stale_connection",
            AttemptFailure::Broken => "broken",
            AttemptFailure::TimedOut => "timed_out",
            AttemptFailure::Status(_) => "status",
        };
        tracing::debug!(endpoint = %endpoint.name, %worker, ?failure, "attempt failed");
        self.metrics
            .attempts_failed
            .with_label_values(&[endpoint.name.as_str(), cause])
            .inc();
    }

    async fn attempt(&self, session: &mut Session, request: &Request, mut claim: Claim) -> Attempt {
        let worker = Arc::clone(claim.worker());
        let Some(contact) = worker.contact() else {
            let stop = upstream_stop(
                request.api,
                AttemptFailure::Broken,
                "the worker has no address",
            );
            return Attempt::Failed(AttemptFailure::Broken, stop);
        };
        let times = request.endpoint.settings().times.clone();
        let engine = worker.spec.engine;
        let exchange = engines::exchange(engine, &request.call, contact.served_model.as_deref());
        let mut exchange = match exchange {
            Ok(exchange) => exchange,
            Err(error) => return Attempt::Over(bad_request(request.api, &error)),
        };
        let traceparent = request.traceparent.clone();
        let sent = send(
            &self.connector,
            session,
            &contact,
            &exchange,
            &times,
            traceparent,
        )
        .await;
        let mut upstream = match sent {
            Ok(upstream) => upstream,
            Err(SendError::ClientLeft) => {
                forget_demand(request);
                return Attempt::Over(Stop::ClientLeft);
            }
            Err(SendError::Failed(failure, error)) => {
                let stop = upstream_stop(request.api, failure, error.etype().as_str());
                return Attempt::Failed(failure, stop);
            }
        };
        if upstream.status != 200 {
            return self.worker_error(session, request, engine, upstream).await;
        }
        let mut meter = AnswerMeter::new(
            &self.metrics,
            &request.endpoint,
            &worker,
            request.call.streamed,
            request.received_at,
        );
        let mut relay = Relay {
            api: request.api,
            claim: &mut claim,
            meter: &mut meter,
            times: &times,
        };
        let result = if request.call.streamed {
            relay
                .stream(session, &mut upstream, &mut exchange.answer)
                .await
        } else {
            relay
                .whole(session, &mut upstream, &mut exchange.answer)
                .await
        };
        self.conclude(request, upstream, &meter, result, &mut exchange)
            .await
    }

    async fn conclude(
        &self,
        request: &Request,
        upstream: Upstream,
        meter: &AnswerMeter,
        result: Result<Ending, RelayError>,
        exchange: &mut engines::Exchange,
    ) -> Attempt {
        match result {
            Ok(ending) => {
                upstream.release(&self.connector).await;
                self.settle(request, meter, &ending);
                Attempt::Answered
            }
            Err(RelayError::ClientLeft) => {
                upstream.abort().await;
                let ending = exchange.answer.finish();
                self.settle(
                    request,
                    meter,
                    &Ending {
                        complete: false,
                        ..ending
                    },
                );
                Attempt::Over(Stop::ClientLeft)
            }
            Err(RelayError::NothingSent(failure, why)) => {
                upstream.abort().await;
                Attempt::Failed(failure, upstream_stop(request.api, failure, &why))
            }
            Err(RelayError::CutShort { ending, why }) => {
                tracing::warn!(endpoint = %request.endpoint.name, why, "stream cut short");
                upstream.abort().await;
                self.settle(request, meter, &ending);
                Attempt::Over(Stop::CutShort)
            }
        }
    }

    /// Counts what the request really cost, and learns from it if it ran to its end.
    fn settle(&self, request: &Request, meter: &AnswerMeter, ending: &Ending) {
        let endpoint = &request.endpoint;
        let output = ending.output_tokens;
        meter.finished(ending.prompt_tokens, output);
        let prompt = ending
            .prompt_tokens
            .map_or(request.predicted.prompt_tokens, f64::from);
        let kappa = endpoint.settings().routing.kappa;
        endpoint.settled(&request.predicted, &cost(prompt, f64::from(output), kappa));
        if ending.complete {
            let prompt_tokens = ending.prompt_tokens.map(f64::from);
            endpoint.learn(&request.shape, prompt_tokens, f64::from(output));
        }
        let name = endpoint.name.as_str();
        self.metrics
            .output_tokens
            .with_label_values(&[name])
            .inc_by(u64::from(output));
        self.metrics
            .prompt_tokens
            .with_label_values(&[name])
            .inc_by(u64::from(ending.prompt_tokens.unwrap_or(0)));
    }

    /// A status other than 200: the client's own mistake is passed on, the worker's may be tried elsewhere.
    async fn worker_error(
        &self,
        session: &mut Session,
        request: &Request,
        engine: crate::domain::EngineKind,
        mut upstream: Upstream,
    ) -> Attempt {
        let status = upstream.status;
        upstream.expect_next_within(request.endpoint.settings().times.between_bytes);
        let read =
            super::client::while_connected(session, upstream.read_all(ANSWER_BYTES_MAX)).await;
        let body = match read {
            Ok(Ok(body)) => {
                upstream.release(&self.connector).await;
                body
            }
            Ok(Err(_)) => {
                upstream.abort().await;
                Bytes::new()
            }
            Err(ClientLeft) => {
                upstream.abort().await;
                return Attempt::Over(Stop::ClientLeft);
            }
        };
        // A redirect or an interim status is no answer to a generation.
        if status < 400 {
            let failure = AttemptFailure::Broken;
            let stop = upstream_stop(request.api, failure, &format!("unexpected status {status}"));
            return Attempt::Failed(failure, stop);
        }
        let (status, body) = engines::translate_error(request.api, engine, status, body);
        Attempt::Failed(
            AttemptFailure::Status(status),
            Stop::Answer { status, body },
        )
    }
}

/// The client left before anything was made for it: its work is not wanted any more.
fn forget_demand(request: &Request) {
    request
        .endpoint
        .settled(&request.predicted, &PredictedCost::default());
}

enum Attempt {
    Answered,
    /// The request is over, for better or worse.
    Over(Stop),
    /// The client saw nothing; `Stop` is what it gets if nobody else can answer.
    Failed(AttemptFailure, Stop),
}

fn shape_of(api: Api, client: ClientKey, call: &Call) -> RequestShape {
    RequestShape {
        api,
        client,
        streamed: call.streamed,
        prompt_bytes: call.prompt_bytes,
        max_new_tokens: call
            .max_new_tokens
            .map(|max| max.saturating_mul(call.choices)),
    }
}

fn unauthorized(api: Option<Api>) -> Refusal {
    Refusal::new(
        api,
        ErrorKind::Unauthorized,
        "a valid API key is needed: Authorization: Bearer KEY",
    )
}

fn bad_request(api: Api, error: &BadRequest) -> Stop {
    let mut refusal = Refusal::new(Some(api), ErrorKind::BadRequest, error.message.clone());
    refusal.param = error.param;
    Stop::Refused(refusal, Outcome::ClientError)
}

fn body_stop(api: Api, error: BodyError) -> Stop {
    let (kind, message) = match error {
        BodyError::TooLarge { bytes_max } => (
            ErrorKind::BodyTooLarge,
            format!("the body is larger than {bytes_max} bytes"),
        ),
        BodyError::TooSlow { limit } => (
            ErrorKind::RequestTimeout,
            format!("the body did not arrive within {} s", limit.as_secs_f64()),
        ),
        BodyError::Broken => return Stop::ClientLeft,
    };
    Stop::Refused(Refusal::new(Some(api), kind, message), Outcome::ClientError)
}

fn upstream_stop(api: Api, failure: AttemptFailure, why: &str) -> Stop {
    let kind = match failure {
        AttemptFailure::TimedOut => ErrorKind::UpstreamTimeout,
        _ => ErrorKind::UpstreamFailed,
    };
    let message = format!("the worker did not answer: {why}");
    Stop::Refused(
        Refusal::new(Some(api), kind, message),
        Outcome::UpstreamFailed,
    )
}

/// `last` is what the last worker said, if one was asked.
fn not_admitted(api: Api, not: NotAdmitted, last: Option<Stop>) -> Stop {
    let refuse = |kind, message: String| Refusal::new(Some(api), kind, message);
    let refusal = match not {
        NotAdmitted::ClientLeft => return Stop::ClientLeft,
        NotAdmitted::AllTried => {
            return last.unwrap_or_else(|| {
                upstream_stop(api, AttemptFailure::Broken, "every worker was tried")
            });
        }
        NotAdmitted::RoomFull { retry_after, rule } => refuse(
            ErrorKind::Overloaded,
            format!("too many requests wait already ({rule})"),
        )
        .retry_after(retry_after),
        NotAdmitted::WaitedTooLong {
            waited,
            retry_after,
        } => refuse(
            ErrorKind::Unavailable,
            format!("no worker became free within {:.1} s", waited.as_secs_f64()),
        )
        .retry_after(retry_after),
        NotAdmitted::Closed => refuse(ErrorKind::Unavailable, "the endpoint was removed".into()),
    };
    Stop::Refused(refusal, Outcome::NoWorker)
}

/// Nobody is left to answer; Pingora closes the connection.
fn client_left() -> Box<Error> {
    let mut error = Error::explain(ErrorType::ConnectionClosed, "the client left");
    error.esource = ErrorSource::Downstream;
    error
}
