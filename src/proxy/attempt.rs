//! Attempts at workers, until one has answered or nothing is left to try.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use pingora::proxy::Session;

use super::Gateway;
use super::admit::worker_for;
use super::client::{ClientLeft, while_connected};
use super::forward::{SendError, Upstream, send};
use super::meter::AnswerMeter;
use super::relay::{ANSWER_BYTES_MAX, Relay, RelayError, in_words};
use super::stop::{Stop, bad_request, not_admitted, upstream_stop};
use super::understand::Request;
use crate::domain::{EngineKind, WorkerId};
use crate::engines::{self, Ending};
use crate::fleet::{Claim, EndpointFleet, Ticket};
use crate::policy::admission::Patience;
use crate::policy::cost::cost;
use crate::policy::retry::{AttemptFailure, Verdict, after_failure};

enum Attempt {
    Answered,
    /// The request is over, for better or worse.
    Over(Stop),
    /// The client saw nothing; `Stop` is what it gets if nobody else can answer.
    Failed(AttemptFailure, Stop),
}

impl Gateway {
    /// Attempts until one answered, the client left, or attempts and workers ran out.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        request: &Request,
    ) -> Result<(), Stop> {
        let settings = request.endpoint.settings();
        let mut patience = Patience::new(&settings.waiting);
        let mut ticket = Ticket {
            client: request.shape.client.clone(),
            cost: request.predicted,
            body_bytes: request.body_bytes,
            tried: Vec::new(),
            priority: request.wishes.priority,
            resumed: false,
        };
        let mut attempts = 0;
        let mut last = None;
        loop {
            let mut claim = match worker_for(
                session,
                &request.endpoint,
                &ticket,
                &mut patience,
                &self.metrics,
                &request.record,
            )
            .await
            {
                Ok(claim) => claim,
                Err(not) => return Err(not_admitted(request.api, not, last)),
            };
            let worker = Arc::clone(claim.worker());
            attempts += 1;
            let (failure, stop) = match self.attempt(session, request, &mut claim).await {
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
            // Only now: the freed place is offered at once, and not by a worker that is doubted.
            drop(claim);
        }
    }

    fn count_failed(&self, endpoint: &EndpointFleet, worker: &WorkerId, failure: AttemptFailure) {
        let cause = match failure {
            AttemptFailure::StaleConnection => "stale_connection",
            AttemptFailure::Broken => "broken",
            AttemptFailure::TimedOut => "timed_out",
            AttemptFailure::Status(_) => "status",
            AttemptFailure::Unusable => "unusable",
        };
        tracing::debug!(endpoint = %endpoint.name, %worker, ?failure, "attempt failed");
        self.metrics
            .attempts_failed
            .with_label_values(&[endpoint.name.as_str(), cause])
            .inc();
    }

    async fn attempt(
        &self,
        session: &mut Session,
        request: &Request,
        claim: &mut Claim,
    ) -> Attempt {
        let worker = Arc::clone(claim.worker());
        request.record.worker(worker.id());
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
        let mut meter = AnswerMeter::new(
            &self.metrics,
            &request.endpoint,
            &worker,
            request.call.streamed,
            request.received_at,
            &request.record,
        );
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
            Err(SendError::ClientLeft) => return Attempt::Over(Stop::ClientLeft),
            Err(SendError::Failed(failure, error)) => {
                let stop = upstream_stop(request.api, failure, &in_words(&error));
                return Attempt::Failed(failure, stop);
            }
        };
        if upstream.status != 200 {
            return self.worker_error(session, request, engine, upstream).await;
        }
        let mut relay = Relay {
            api: request.api,
            claim,
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
                // Many clients close on the terminal event and do not wait for the end of the body.
                let had_all = ending.complete && ending.tail.is_none();
                self.settle(
                    request,
                    meter,
                    &Ending {
                        complete: had_all,
                        ..ending
                    },
                );
                if had_all {
                    Attempt::Answered
                } else {
                    Attempt::Over(Stop::ClientLeft)
                }
            }
            Err(RelayError::NothingSent(failure, why)) => {
                upstream.abort().await;
                Attempt::Failed(failure, upstream_stop(request.api, failure, &why))
            }
            Err(RelayError::CutShort { ending, why }) => {
                tracing::warn!(endpoint = %request.endpoint.name, worker = %meter.worker(), why, "stream cut short");
                upstream.abort().await;
                self.settle(request, meter, &ending);
                Attempt::Over(Stop::CutShort)
            }
        }
    }

    /// Counts what the request really cost, and learns from it if it ran to its end.
    fn settle(&self, request: &Request, meter: &AnswerMeter, ending: &Ending) {
        request.settled.store(true, Relaxed);
        let endpoint = &request.endpoint;
        let output = ending.output_tokens;
        meter.finished(ending.prompt_tokens, output);
        request.record.counted(ending.prompt_tokens, output);
        let prompt = ending
            .prompt_tokens
            .map_or(request.predicted.prompt_tokens, f64::from);
        self.took(&request.admitted, prompt + f64::from(output));
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
        engine: EngineKind,
        mut upstream: Upstream,
    ) -> Attempt {
        let status = upstream.status;
        upstream.expect_next_within(request.endpoint.settings().times.between_bytes);
        let read = while_connected(session, upstream.read_all(ANSWER_BYTES_MAX)).await;
        let body = match read {
            Ok(Ok(Some(body))) => {
                upstream.release(&self.connector).await;
                body
            }
            Ok(Ok(None) | Err(_)) => {
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
            let failure = AttemptFailure::Unusable;
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
