//! One attempt at one worker, until its answer has begun: for a stream until the first token, else until the whole
//! answer is here. Nothing of it has reached the client, so it may be dropped at any moment.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Gateway;
use super::forward::{in_words, send};
use super::meter::AnswerMeter;
use super::stop::{Stop, upstream_stop};
use super::understand::Request;
use super::upstream::Upstream;
use crate::engines::{self, AnswerReader, Ending, Exchange, ReadError, Step};
use crate::fleet::{Claim, Eviction, Worker};
use crate::policy::retry::AttemptFailure;

/// Unstreamed answers larger than this are not answers.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a stream may bring before its first token.
const PRELUDE_BYTES_MAX: usize = 256 << 10;

/// An answer that has begun.
pub(super) struct Begun {
    pub(super) claim: Claim,
    pub(super) meter: AnswerMeter,
    pub(super) upstream: Upstream,
    pub(super) reader: AnswerReader,
    pub(super) first: First,
}

pub(super) enum First {
    /// A stream up to its first token.
    Stream {
        steps: Vec<Step>,
        /// The worker has ended it already.
        ended: bool,
    },
    /// A stream that ended, as it should, without a token.
    Empty {
        steps: Vec<Step>,
        ending: Ending,
    },
    Whole {
        body: Bytes,
        ending: Ending,
    },
}

/// The client saw nothing; `stop` is what it gets if nobody else can answer.
pub(super) struct Failed {
    pub(super) claim: Claim,
    pub(super) failure: AttemptFailure,
    pub(super) stop: Stop,
    /// What the client has, where the attempt was to go on with a stream.
    pub(super) reader: AnswerReader,
}

impl Gateway {
    pub(super) async fn attempt(
        &self,
        request: &Request,
        claim: Claim,
        mut exchange: Exchange,
    ) -> Result<Box<Begun>, Box<Failed>> {
        let worker = Arc::clone(claim.worker());
        request.record.worker(worker.id());
        let meter = self.meter(request, &worker, &exchange);
        let asked_at = Instant::now();
        let asked = tokio::select! {
            biased;
            asked = self.ask(request, &worker, &mut exchange) => asked,
            () = worker.evicted(Eviction::NotBegun) => {
                Err((AttemptFailure::Taken, Stop::worker_taken(request.api)))
            }
        };
        let reader = exchange.answer;
        let (upstream, first) = match asked {
            Ok(asked) => asked,
            Err((failure, stop)) => {
                return Err(Box::new(Failed {
                    claim,
                    failure,
                    stop,
                    reader,
                }));
            }
        };
        if let First::Stream { .. } = &first {
            let ttft = asked_at.elapsed();
            request.endpoint.second_tries.first_token(ttft);
        }
        Ok(Box::new(Begun {
            claim,
            meter,
            upstream,
            reader,
            first,
        }))
    }

    fn meter(&self, request: &Request, worker: &Arc<Worker>, exchange: &Exchange) -> AnswerMeter {
        let before = exchange.answer.output_tokens();
        AnswerMeter::new(&self.metrics, request, worker, before)
    }

    async fn ask(
        &self,
        request: &Request,
        worker: &Worker,
        exchange: &mut Exchange,
    ) -> Result<(Upstream, First), (AttemptFailure, Stop)> {
        let fail = |failure, why: &str| (failure, upstream_stop(request.api, failure, why));
        let contact = worker
            .contact()
            .ok_or_else(|| fail(AttemptFailure::Broken, "the worker has no address"))?;
        let settings = request.endpoint.settings();
        let mut upstream = send(
            &self.connector,
            &contact,
            exchange,
            &settings.times,
            &request.record,
        )
        .await
        .map_err(|(failure, error)| fail(failure, &in_words(&error)))?;
        if upstream.status != 200 {
            return Err(self.worker_error(request, worker, upstream).await);
        }
        upstream.expect_next_within(settings.times.first_byte);
        let reader = &mut exchange.answer;
        let first = if request.call.streamed {
            // Comments may come for ever: it is the token that is waited for.
            let limit = settings.times.first_byte;
            tokio::time::timeout(limit, first_token(&mut upstream, reader))
                .await
                .unwrap_or_else(|_| {
                    let why = "no token came in time".to_owned();
                    Err((AttemptFailure::TimedOut, why))
                })
        } else {
            whole(&mut upstream, reader).await
        };
        match first {
            Ok(first) => Ok((upstream, first)),
            Err((failure, why)) => {
                upstream.abort().await;
                Err(fail(failure, &why))
            }
        }
    }

    /// A status other than 200: the client's own mistake is passed on, the worker's may be tried elsewhere.
    async fn worker_error(
        &self,
        request: &Request,
        worker: &Worker,
        mut upstream: Upstream,
    ) -> (AttemptFailure, Stop) {
        let status = upstream.status;
        upstream.expect_next_within(request.endpoint.settings().times.between_bytes);
        let body = match upstream.read_all(ANSWER_BYTES_MAX).await {
            Ok(Some(body)) => {
                upstream.release(&self.connector).await;
                body
            }
            Ok(None) | Err(_) => {
                upstream.abort().await;
                Bytes::new()
            }
        };
        // A redirect or an interim status is no answer to a generation.
        if status < 400 {
            let failure = AttemptFailure::Unusable;
            let stop = upstream_stop(request.api, failure, &format!("unexpected status {status}"));
            return (failure, stop);
        }
        let failure = AttemptFailure::Status(status);
        // The client's key has nothing to do with the worker's.
        if matches!(status, 401 | 403 | 407) {
            let why = "the worker does not let the gateway in";
            return (failure, upstream_stop(request.api, failure, why));
        }
        let engine = worker.spec.engine;
        let (status, body) = engines::translate_error(request.api, engine, status, body);
        (failure, Stop::Answer { status, body })
    }
}

type Why = (AttemptFailure, String);

/// An unstreamed answer: whole, or nothing.
async fn whole(upstream: &mut Upstream, reader: &mut AnswerReader) -> Result<First, Why> {
    let body = match upstream.read_all(ANSWER_BYTES_MAX).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            return Err((
                AttemptFailure::Unusable,
                "its answer is too large".to_owned(),
            ));
        }
        Err(error) => return Err(failure_of(&error)),
    };
    let (body, ending) = reader.answer(body).map_err(unreadable)?;
    if ending.complete {
        Ok(First::Whole { body, ending })
    } else {
        Err(not_whole(ending))
    }
}

/// What comes before the first token is kept back, so that until then another worker can take over.
async fn first_token(upstream: &mut Upstream, reader: &mut AnswerReader) -> Result<First, Why> {
    let mut steps: Vec<Step> = Vec::new();
    let mut bytes = 0;
    loop {
        let part = upstream.read().await.map_err(|error| failure_of(&error))?;
        let ended = part.is_none();
        if let Some(part) = part {
            bytes += part.len();
            steps.extend(reader.push(part).map_err(unreadable)?);
        }
        if steps.iter().any(|step| step.tokens > 0) || bytes > PRELUDE_BYTES_MAX {
            return Ok(First::Stream { steps, ended });
        }
        if ended || reader.is_over() {
            return empty(steps, reader.finish());
        }
    }
}

fn empty(steps: Vec<Step>, ending: Ending) -> Result<First, Why> {
    match ending {
        _ if ending.complete => Ok(First::Empty { steps, ending }),
        // Not even its error can be read: the worker is broken, not the request.
        Ending {
            engine_error: Some(why),
            error_event: None,
            ..
        } => Err((AttemptFailure::Broken, why)),
        _ => Err(not_whole(ending)),
    }
}

fn not_whole(ending: Ending) -> Why {
    match ending.engine_error {
        Some(error) => (AttemptFailure::Status(500), error),
        None => (AttemptFailure::Broken, "its answer is not whole".to_owned()),
    }
}

fn unreadable(error: ReadError) -> Why {
    let failure = match error {
        ReadError::NotUnderstood(_) => AttemptFailure::Broken,
        ReadError::EventTooLong(_) | ReadError::TooLong => AttemptFailure::Unusable,
    };
    (failure, error.to_string())
}

fn failure_of(error: &pingora::Error) -> Why {
    let failure = match error.etype() {
        pingora::ErrorType::ReadTimedout => AttemptFailure::TimedOut,
        _ => AttemptFailure::Broken,
    };
    (failure, in_words(error))
}
