//! What is remembered of one request while it runs: each phase adds what it learned, and when the last
//! holder lets go, whatever happened, exactly one line goes to the access log.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use parking_lot::{Mutex, MutexGuard};
use pingora::protocols::http::ServerSession;

use super::authorize::Caller;
use super::client::Client;
use super::gaps::Gaps;
use super::stop::Stop;
use super::trace::{REQUEST_ID, Trace};
use crate::domain::{EndpointName, PathPattern, PredictedCost, RequestShape, WorkerId};
use crate::telemetry::{AccessLine, AccessLog, now};

/// A path of a client's making is shown no longer than this.
const PATH_CHARS_MAX: usize = 200;
/// A reason may quote what a worker said.
const ERROR_CHARS_MAX: usize = 500;

/// How a request ended of which no phase said so.
const UNSAID: &str = "aborted";

/// A handle; clones speak of the same request.
#[derive(Clone)]
pub(super) struct Record(Arc<Shared>);

struct Shared {
    log: Arc<AccessLog>,
    arrived: Instant,
    trace: OnceLock<Trace>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    line: AccessLine,
    gaps: Gaps,
    last_token: Option<Instant>,
    retry_decided: bool,
    ended: Option<Instant>,
    unlogged: bool,
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
            trace: OnceLock::new(),
            notes: Mutex::new(Notes {
                line,
                ..Notes::default()
            }),
        }))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock()
    }

    /// Notes who asks for what. The answer, whichever it is, will carry the request's id.
    pub(super) fn head(&self, client: &mut Client<'_>) {
        let head = client.http.req_header();
        let trace = Trace::of(&head.headers);
        client.headers.set(REQUEST_ID, trace.id.clone());
        let address = client
            .http
            .client_addr()
            .and_then(|address| address.as_inet());
        let line = &mut self.notes().line;
        line.method = head.method.to_string();
        line.path = head.uri.path().chars().take(PATH_CHARS_MAX).collect();
        line.client = address.map(|address| address.ip().to_string());
        line.id = String::from_utf8_lossy(trace.id.as_bytes()).into_owned();
        line.trace_id.clone_from(&trace.trace_id);
        let _ = self.0.trace.set(trace);
    }

    /// The request's id and trace, for a worker.
    pub(super) fn onward(&self) -> &[(HeaderName, HeaderValue)] {
        self.0.trace.get().map_or(&[], Trace::headers)
    }

    /// Nothing that anybody wants to read of: it leaves no line.
    pub(super) fn unlogged(&self) {
        self.notes().unlogged = true;
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
        line.predicted_prompt_tokens = Some(hundredths(predicted.prompt_tokens));
        line.predicted_output_tokens = Some(hundredths(predicted.output_tokens));
        line.predicted_cost = Some(hundredths(predicted.total.0));
    }

    /// The route it passes by.
    pub(super) fn passes(&self, pattern: &PathPattern) {
        self.route(&pattern.to_string());
    }

    pub(super) fn predicted(&self, cost: &PredictedCost) {
        self.notes().line.predicted_cost = Some(hundredths(cost.total.0));
    }

    /// Time in the waiting room; adds up over attempts.
    pub(super) fn waited(&self, time: Duration) {
        let line = &mut self.notes().line;
        line.waited_ms = Some(line.waited_ms.unwrap_or(0.0) + ms(time));
    }

    /// This worker is asked now: at first, again, or beside another one.
    pub(super) fn worker(&self, id: &WorkerId) {
        let mut notes = self.notes();
        if std::mem::take(&mut notes.retry_decided) {
            notes.line.retries += 1;
        }
        notes.line.workers.push(id.to_string());
    }

    /// Another attempt is wanted; the client has seen nothing of the one before. It counts once a worker is found.
    pub(super) fn retried(&self) {
        self.notes().retry_decided = true;
    }

    /// A broken stream goes on from another worker.
    pub(super) fn resumed(&self) {
        self.notes().line.resumes += 1;
    }

    /// A second worker was asked because the first one's answer was late.
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
            line.error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
        }
    }

    /// Why the client gets no answer, or no more of it. The outcome is said at the end.
    pub(super) fn stopped(&self, stop: &Stop) {
        let why = match stop {
            Stop::ClientLeft => "the client left".to_owned(),
            other => match other.as_event() {
                Some((_, why)) => why,
                None => return,
            },
        };
        self.notes().line.error = Some(why.chars().take(ERROR_CHARS_MAX).collect());
    }

    /// The last byte is written, or nothing more will be.
    pub(super) fn ended(&self, http: &ServerSession) {
        let mut notes = self.notes();
        notes.ended = Some(Instant::now());
        if let (UNSAID, Some(head)) = (notes.line.outcome, http.response_written()) {
            // The gateway's own routes.
            notes.line.outcome = if head.status.as_u16() < 400 {
                "ok"
            } else {
                "client_error"
            };
        }
        notes.line.status = http.response_written().map(|head| head.status.as_u16());
        notes.line.request_bytes = http.body_bytes_read();
        notes.line.response_bytes = http.body_bytes_sent();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let notes = std::mem::take(self.notes.get_mut());
        if notes.unlogged {
            return;
        }
        let mut line = notes.line;
        let ended = notes.ended.unwrap_or_else(Instant::now);
        line.duration_ms = ms(ended.saturating_duration_since(self.arrived));
        line.gap_p50_ms = notes.gaps.median().map(ms);
        line.gap_max_ms = notes.gaps.max().map(ms);
        self.log.write(Box::new(line));
    }
}

fn ms(time: Duration) -> f64 {
    hundredths(time.as_secs_f64() * 1e3)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
