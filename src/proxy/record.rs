//! What is remembered of one request while it runs: each phase adds what it learned, and when the last
//! holder lets go, whatever happened, exactly one line goes to the access log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use pingora::proxy::Session;

use super::authorize::Caller;
use super::gaps::Gaps;
use crate::domain::{EndpointName, PathPattern, PredictedCost, RequestShape, WorkerId};
use crate::telemetry::{AccessLine, AccessLog, now};

/// A path of a client's making is shown no longer than this.
const PATH_CHARS_MAX: usize = 200;

/// How a request ended of which no phase said so.
const UNSAID: &str = "aborted";

/// A handle; clones speak of the same request.
#[derive(Clone)]
pub(super) struct Record(Arc<Shared>);

struct Shared {
    log: Arc<AccessLog>,
    arrived: Instant,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    line: AccessLine,
    gaps: Gaps,
    last_token: Option<Instant>,
    ended: Option<Instant>,
}

impl Record {
    /// A request's header was just read.
    pub(super) fn new(log: &Arc<AccessLog>) -> Self {
        let time = now();
        let line = AccessLine {
            time,
            arrived_ms: time.as_millis(),
            outcome: UNSAID,
            ..AccessLine::default()
        };
        Self(Arc::new(Shared {
            log: Arc::clone(log),
            arrived: Instant::now(),
            notes: Mutex::new(Notes {
                line,
                ..Notes::default()
            }),
        }))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock()
    }

    pub(super) fn head(&self, session: &Session) {
        let head = session.req_header();
        let address = session.client_addr().and_then(|address| address.as_inet());
        let line = &mut self.notes().line;
        line.method = head.method.to_string();
        line.path = head.uri.path().chars().take(PATH_CHARS_MAX).collect();
        line.client = address.map(|address| address.ip().to_string());
    }

    /// The interface called, or the pattern of the route.
    pub(super) fn route(&self, route: &str) {
        self.notes().line.route = route.to_owned();
    }

    pub(super) fn caller(&self, caller: &Caller) {
        let name = caller.key.as_ref().map(|_| caller.client.to_string());
        self.notes().line.key = name;
    }

    pub(super) fn endpoint(&self, name: &EndpointName) {
        self.notes().line.endpoint = Some(name.to_string());
    }

    /// What was asked for, and the work that is expected to make.
    pub(super) fn asked(&self, shape: &RequestShape, predicted: &PredictedCost) {
        let line = &mut self.notes().line;
        line.streamed = Some(shape.streamed);
        line.prompt_bytes = Some(shape.prompt_bytes);
        line.max_new_tokens = shape.max_new_tokens;
        line.predicted_prompt_tokens = Some(predicted.prompt_tokens);
        line.predicted_output_tokens = Some(predicted.output_tokens);
        line.predicted_cost = Some(predicted.total.0);
    }

    /// The route it passes by.
    pub(super) fn passes(&self, pattern: &PathPattern) {
        self.route(&pattern.to_string());
    }

    pub(super) fn predicted(&self, cost: &PredictedCost) {
        self.notes().line.predicted_cost = Some(cost.total.0);
    }

    /// Time in the waiting room; adds up over attempts.
    pub(super) fn waited(&self, time: Duration) {
        let line = &mut self.notes().line;
        line.waited_ms = Some(line.waited_ms.unwrap_or(0.0) + ms(time));
    }

    /// This worker is asked now: at first, again, or beside another one.
    pub(super) fn worker(&self, id: &WorkerId) {
        self.notes().line.workers.push(id.to_string());
    }

    /// Another attempt begins; the client has seen nothing of the one before.
    #[allow(dead_code)]
    pub(super) fn retried(&self) {
        self.notes().line.retries += 1;
    }

    /// A broken stream goes on from another worker.
    #[allow(dead_code)]
    pub(super) fn resumed(&self) {
        self.notes().line.resumes += 1;
    }

    /// A second worker was asked because the first one's answer was late.
    #[allow(dead_code)]
    pub(super) fn hedged(&self) {
        self.notes().line.hedged = true;
    }

    /// Tokens of one event came, all at this moment. The first call is the first token.
    pub(super) fn token(&self, at: Instant) {
        let mut notes = self.notes();
        match notes.last_token.replace(at) {
            None => notes.line.ttft_ms = Some(ms(at.saturating_duration_since(self.0.arrived))),
            Some(last) => notes.gaps.add(at.saturating_duration_since(last)),
        }
    }

    /// The best counts there are, all workers' parts of the answer together.
    pub(super) fn counted(&self, prompt_tokens: Option<u32>, output_tokens: u32) {
        let line = &mut self.notes().line;
        line.prompt_tokens = prompt_tokens;
        line.output_tokens = Some(output_tokens);
    }

    /// How it ended; `error` in words where it did not go well.
    pub(super) fn outcome(&self, outcome: &'static str, error: Option<&str>) {
        let line = &mut self.notes().line;
        line.outcome = outcome;
        if let Some(error) = error {
            line.error = Some(error.to_owned());
        }
    }

    /// The last byte is written, or nothing more will be.
    pub(super) fn ended(&self, session: &Session) {
        let mut notes = self.notes();
        notes.ended = Some(Instant::now());
        if let (UNSAID, Some(head)) = (notes.line.outcome, session.response_written()) {
            // The gateway's own routes.
            notes.line.outcome = if head.status.as_u16() < 400 {
                "ok"
            } else {
                "client_error"
            };
        }
        notes.line.status = session.response_written().map(|head| head.status.as_u16());
        notes.line.request_bytes = session.body_bytes_read();
        notes.line.response_bytes = session.body_bytes_sent();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let notes = std::mem::take(self.notes.get_mut());
        let mut line = notes.line;
        let ended = notes.ended.unwrap_or_else(Instant::now);
        line.duration_ms = ms(ended.saturating_duration_since(self.arrived));
        line.gap_p50_ms = notes.gaps.median().map(ms);
        line.gap_max_ms = notes.gaps.max().map(ms);
        self.log.write(Box::new(line));
    }
}

/// To a hundredth.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
