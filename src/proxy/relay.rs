//! Passing a worker's answer to the client, measured and, where the engine speaks another language, translated.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::proxy::Session;

use super::client::{ClientLeft, while_connected};
use super::forward::Upstream;
use super::meter::AnswerMeter;
use super::respond;
use crate::domain::{Api, TimeLimits};
use crate::engines::{AnswerReader, Ending, ErrorKind, stream_error_event};
use crate::fleet::Claim;
use crate::policy::retry::AttemptFailure;

/// Unstreamed answers larger than this are not answers.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(super) enum RelayError {
    ClientLeft,
    /// The client has seen nothing: another worker may still answer.
    NothingSent(AttemptFailure, String),
    /// The client has seen a part, and the error event that ended it.
    CutShort {
        ending: Ending,
        why: String,
    },
}

pub(super) struct Relay<'a> {
    pub(super) api: Api,
    pub(super) claim: &'a mut Claim,
    pub(super) meter: &'a mut AnswerMeter,
    pub(super) times: &'a TimeLimits,
}

impl Relay<'_> {
    /// An unstreamed answer: whole, or nothing.
    pub(super) async fn whole(
        &mut self,
        session: &mut Session,
        upstream: &mut Upstream,
        reader: &mut AnswerReader,
    ) -> Result<Ending, RelayError> {
        upstream.expect_next_within(self.times.first_byte);
        let body = match while_connected(session, upstream.read_all(ANSWER_BYTES_MAX)).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => {
                let why = "its answer is too large".to_owned();
                return Err(RelayError::NothingSent(AttemptFailure::Unusable, why));
            }
            Ok(Err(error)) => return Err(nothing_sent(&error)),
            Err(ClientLeft) => return Err(RelayError::ClientLeft),
        };
        let (body, ending) = reader.answer(body).map_err(|error| {
            RelayError::NothingSent(AttemptFailure::Unusable, error.to_string())
        })?;
        respond::json(session, 200, body)
            .await
            .map_err(|_| RelayError::ClientLeft)?;
        Ok(ending)
    }

    /// A stream, event by event. The client's header goes out with the first event, so that until then
    /// another worker can take over.
    pub(super) async fn stream(
        &mut self,
        session: &mut Session,
        upstream: &mut Upstream,
        reader: &mut AnswerReader,
    ) -> Result<Ending, RelayError> {
        let mut begun = false;
        loop {
            let part = match while_connected(session, upstream.read()).await {
                Ok(part) => part,
                Err(ClientLeft) => return Err(RelayError::ClientLeft),
            };
            let at = Instant::now();
            let (failure, why) = match part {
                Ok(Some(part)) => match reader.push(part) {
                    Ok(steps) => {
                        for step in steps {
                            self.count(step.tokens, at);
                            if let Some(bytes) = step.forward {
                                self.write(session, &mut begun, bytes).await?;
                            }
                        }
                        if self.meter.seen_first_token() {
                            upstream.expect_next_within(self.times.between_bytes);
                        }
                        continue;
                    }
                    Err(error) => (AttemptFailure::Unusable, error.to_string()),
                },
                Ok(None) => (AttemptFailure::Broken, "the stream ended early".to_owned()),
                Err(error) if !begun => return Err(nothing_sent(&error)),
                Err(error) => (AttemptFailure::Broken, in_words(&error)),
            };
            let ending = reader.finish();
            if !begun && !ending.complete {
                return Err(RelayError::NothingSent(failure, why));
            }
            return self.end(session, begun, ending, why).await;
        }
    }

    fn count(&mut self, tokens: u32, at: Instant) {
        if tokens == 0 {
            return;
        }
        if !self.meter.seen_first_token() {
            self.claim.prefilled();
        }
        self.meter.tokens(tokens, at);
        self.claim.produced(tokens);
    }

    async fn write(
        &mut self,
        session: &mut Session,
        begun: &mut bool,
        bytes: Bytes,
    ) -> Result<(), RelayError> {
        let began = Instant::now();
        self.begin(session, begun).await?;
        session
            .write_response_body(Some(bytes), false)
            .await
            .map_err(|_| RelayError::ClientLeft)?;
        self.meter.written(began.elapsed());
        Ok(())
    }

    async fn begin(&self, session: &mut Session, begun: &mut bool) -> Result<(), RelayError> {
        if !*begun {
            *begun = true;
            let header = respond::stream_header(session).map_err(|_| RelayError::ClientLeft)?;
            session
                .write_response_header(Box::new(header), false)
                .await
                .map_err(|_| RelayError::ClientLeft)?;
        }
        Ok(())
    }

    async fn close(
        &self,
        session: &mut Session,
        begun: &mut bool,
        tail: Option<Bytes>,
    ) -> Result<(), RelayError> {
        self.begin(session, begun).await?;
        session
            .write_response_body(tail, true)
            .await
            .map_err(|_| RelayError::ClientLeft)
    }

    /// Nothing more comes from the worker. A stream that is not whole ends with an error event for the
    /// client that has seen a part of it: nobody takes the part for the whole.
    async fn end(
        &mut self,
        session: &mut Session,
        mut begun: bool,
        mut ending: Ending,
        why: String,
    ) -> Result<Ending, RelayError> {
        let tail = ending.tail.take();
        if ending.complete {
            self.close(session, &mut begun, tail).await?;
            return Ok(ending);
        }
        if let Some(tail) = tail {
            self.write(session, &mut begun, tail).await?;
        }
        let event = stream_error_event(self.api, ErrorKind::UpstreamFailed, &why);
        let event = ending.engine_error.is_none().then_some(event);
        self.close(session, &mut begun, event).await?;
        Err(RelayError::CutShort { ending, why })
    }
}

fn nothing_sent(error: &pingora::Error) -> RelayError {
    let failure = match error.etype() {
        pingora::ErrorType::ReadTimedout => AttemptFailure::TimedOut,
        _ => AttemptFailure::Broken,
    };
    RelayError::NothingSent(failure, in_words(error))
}

/// What broke, for clients and logs.
pub(super) fn in_words(error: &pingora::Error) -> String {
    use pingora::ErrorType as E;
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

/// Longest the gateway waits for a client that does not read.
pub(super) const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(120);
