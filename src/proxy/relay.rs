//! Passing a stream that has begun to the client, event by event, measured.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::ClientLeft;
use super::forward::in_words;
use super::meter::AnswerMeter;
use super::moving::Elsewhere;
use super::reply::Reply;
use super::upstream::Upstream;
use crate::domain::{Endpoint, RequestOutcome};
use crate::engines::{AnswerReader, Ending, Step};
use crate::fleet::{Claim, Eviction};
use crate::policy::resume::silence_max;

/// How a worker's part of a stream ended.
pub(super) enum Relayed {
    Whole(Ending),
    ClientLeft,
    /// It is not whole. What was said in `ending` has reached the client, but for its error event.
    Broke {
        ending: Ending,
        why: BreakOff,
        /// The place another worker has for it already.
        place: Option<Box<Claim>>,
    },
}

/// Why a worker's part of a stream is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BreakOff {
    /// The worker ended it without its terminal event.
    EndedEarly,
    /// No token for longer than a live worker takes.
    Silent,
    /// The worker is going, through no fault of this stream.
    Taken,
    /// The connection broke.
    Lost(String),
    /// What came cannot be read.
    Unreadable(String),
    /// The engine said that it failed.
    Reported,
}

impl BreakOff {
    fn of_read(error: &pingora::Error) -> Self {
        match error.etype() {
            pingora::ErrorType::ReadTimedout => BreakOff::Silent,
            _ => BreakOff::Lost(in_words(error)),
        }
    }

    /// For clients and logs.
    pub(super) fn in_words(&self) -> String {
        match self {
            BreakOff::EndedEarly => "the stream ended early".to_owned(),
            BreakOff::Silent => "the worker was silent for too long".to_owned(),
            BreakOff::Taken => "the worker is being taken out of service".to_owned(),
            BreakOff::Lost(why) | BreakOff::Unreadable(why) => why.clone(),
            BreakOff::Reported => "the worker reported an error".to_owned(),
        }
    }

    /// What it says of the worker; `None`: nothing.
    pub(super) fn blame(&self) -> Option<RequestOutcome> {
        match self {
            BreakOff::Taken => None,
            BreakOff::Silent => Some(RequestOutcome::Hung),
            BreakOff::EndedEarly
            | BreakOff::Lost(_)
            | BreakOff::Unreadable(_)
            | BreakOff::Reported => Some(RequestOutcome::Failed),
        }
    }
}

pub(super) struct Relay<'r, 's> {
    pub(super) reply: &'r mut Reply<'s>,
    pub(super) claim: &'r mut Claim,
    pub(super) meter: &'r mut AnswerMeter,
    pub(super) settings: &'r Endpoint,
    /// Another worker could go on with it.
    pub(super) movable: bool,
    pub(super) elsewhere: Elsewhere<'r>,
    pub(super) upstream: &'r mut Upstream,
    pub(super) reader: &'r mut AnswerReader,
}

impl Relay<'_, '_> {
    pub(super) async fn run(mut self, steps: Vec<Step>, ended: bool) -> Relayed {
        let why = match self.pass(steps, ended).await {
            Ok(why) => why,
            Err(ClientLeft) => return Relayed::ClientLeft,
        };
        let mut ending = self.reader.finish();
        match Box::pin(self.close(&mut ending)).await {
            Ok(()) if ending.complete => Relayed::Whole(ending),
            Ok(()) => Relayed::Broke {
                ending,
                why,
                place: self.elsewhere.take(),
            },
            Err(ClientLeft) => Relayed::ClientLeft,
        }
    }

    /// Passes what comes until nothing more does; gives the reason.
    async fn pass(&mut self, steps: Vec<Step>, ended: bool) -> Result<BreakOff, ClientLeft> {
        self.give(steps).await?;
        if ended {
            return Ok(BreakOff::EndedEarly);
        }
        let mut last_token = Instant::now();
        while !self.reader.is_over() {
            let part = match self.next_part(last_token).await? {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(BreakOff::EndedEarly),
                Err(why) => return Ok(why),
            };
            let steps = match self.reader.push(part) {
                Ok(steps) => steps,
                Err(error) => return Ok(BreakOff::Unreadable(error.to_string())),
            };
            let any = steps.iter().any(|step| step.tokens > 0);
            self.give(steps).await?;
            // Afterwards: while the client takes its time nobody listens to the worker.
            if any {
                last_token = Instant::now();
            }
        }
        Ok(BreakOff::Reported)
    }

    /// What comes next, for as long as the worker is worth listening to.
    async fn next_part(
        &mut self,
        last_token: Instant,
    ) -> Result<Result<Option<Bytes>, BreakOff>, ClientLeft> {
        let limit = self.silence().saturating_sub(last_token.elapsed());
        let movable = self.can_move();
        let Self {
            reply,
            claim,
            elsewhere,
            upstream,
            reader,
            ..
        } = self;
        let worker = claim.worker();
        upstream.expect_next_within(limit);
        let next = pin!(async {
            let mut read = pin!(upstream.read());
            loop {
                let who = match movable && elsewhere.may_ask() {
                    true => Eviction::Movable,
                    false => Eviction::All,
                };
                let waits = elsewhere.waits();
                tokio::select! {
                    biased;
                    part = &mut read => return Some(part),
                    () = worker.evicted(who) => {
                        let must = worker.is_evicting(Eviction::All);
                        if must || elsewhere.ask(worker, reader.output_tokens()) {
                            return None;
                        }
                    }
                    () = elsewhere.wait(), if waits => {
                        if elsewhere.has_place() && worker.is_evicting(Eviction::Movable) {
                            return None;
                        }
                        elsewhere.give_back();
                    }
                }
            }
        });
        Ok(match reply.while_connected(next).await? {
            Some(part) => part.map_err(|error| BreakOff::of_read(&error)),
            None => Err(BreakOff::Taken),
        })
    }

    fn can_move(&self) -> bool {
        self.movable && self.reader.transcript().obstacle().is_none()
    }

    /// A stream that another worker can go on with is not waited for as long as one that would be lost.
    fn silence(&self) -> Duration {
        let times = &self.settings.times;
        if self.can_move() {
            let usual = self.claim.worker().token_gap();
            silence_max(usual, times.silence).min(times.between_bytes)
        } else {
            times.between_bytes
        }
    }

    async fn give(&mut self, steps: Vec<Step>) -> Result<(), ClientLeft> {
        let at = Instant::now();
        for step in steps {
            if step.tokens > 0 {
                if !self.meter.seen_first_token() {
                    self.claim.prefilled();
                }
                self.meter.tokens(step.tokens, at);
                self.claim.produced(step.tokens);
            }
            if let Some(events) = step.forward {
                let took = self.reply.deliver(events).await?;
                self.meter.written(took);
            }
        }
        Ok(())
    }

    async fn close(&mut self, ending: &mut Ending) -> Result<(), ClientLeft> {
        let tail = ending.tail.take();
        if ending.complete {
            return self.reply.end(tail).await;
        }
        if let Some(tail) = tail {
            self.reply.deliver(tail).await?;
        }
        Ok(())
    }
}
