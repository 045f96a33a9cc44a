//! Measuring one answer as it passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::Record;
use super::understand::Request;
use crate::fleet::Worker;
use crate::telemetry::Metrics;

/// The first gaps of a stream tell of prefill, not of decoding.
const GAPS_SKIPPED: u32 = 2;
/// A write to the client that took longer hides when the next token really came.
const STALL: Duration = Duration::from_millis(20);

pub(super) struct AnswerMeter {
    pub(super) worker: Arc<Worker>,
    record: Record,
    inter_token: prometheus::Histogram,
    ttft: prometheus::Histogram,
    received_at: Instant,
    streamed: bool,
    last: Option<Instant>,
    events: u32,
    stalled: bool,
    tokens: u32,
    /// Tokens of the workers that had the stream before.
    before: u32,
    predicted_prompt: f64,
}

impl AnswerMeter {
    /// `before`: tokens that the client has from the workers that had the stream before.
    pub(super) fn new(
        metrics: &Metrics,
        request: &Request,
        worker: &Arc<Worker>,
        before: u32,
    ) -> Self {
        let name = request.endpoint.name.as_str();
        let streamed = request.call.streamed;
        if !streamed {
            worker.meter.decode_started();
        }
        Self {
            worker: Arc::clone(worker),
            record: request.record.clone(),
            inter_token: metrics.inter_token_seconds.with_label_values(&[name]),
            ttft: metrics.ttft_seconds.with_label_values(&[name]),
            received_at: request.received_at,
            streamed,
            last: None,
            events: 0,
            stalled: false,
            tokens: 0,
            before,
            predicted_prompt: request.predicted.prompt_tokens,
        }
    }

    /// Tokens came from the worker, all at this moment.
    pub(super) fn tokens(&mut self, tokens: u32, at: Instant) {
        if tokens == 0 || !self.streamed {
            return;
        }
        self.tokens += tokens;
        self.worker.meter.output(tokens);
        self.record.token(at);
        match self.last.replace(at) {
            None => {
                if self.before == 0 {
                    self.ttft.observe((at - self.received_at).as_secs_f64());
                }
                self.worker.meter.decode_started();
            }
            Some(last) => {
                let gap = at - last;
                self.events += 1;
                self.inter_token
                    .observe(gap.as_secs_f64() / f64::from(tokens));
                if self.events > GAPS_SKIPPED && !self.stalled {
                    self.worker.meter.gap(gap, tokens);
                }
            }
        }
        self.stalled = false;
    }

    pub(super) fn written(&mut self, took: Duration) {
        self.stalled |= took > STALL;
    }

    pub(super) fn seen_first_token(&self) -> bool {
        self.last.is_some()
    }

    /// The answer is over; `output_tokens` is the best count there is.
    pub(super) fn finished(&self, prompt_tokens: Option<u32>, output_tokens: u32) {
        let own = output_tokens.saturating_sub(self.before);
        self.worker.meter.output(own.saturating_sub(self.tokens));
        self.worker.meter.finished(prompt_tokens.unwrap_or(0));
        // Who goes on with a stream reads more than its prompt.
        if let (Some(actual), 0) = (prompt_tokens, self.before) {
            let meter = &self.worker.meter;
            meter.prompt_told(self.predicted_prompt, actual);
        }
    }
}

impl Drop for AnswerMeter {
    fn drop(&mut self) {
        if !self.streamed || self.last.is_some() {
            self.worker.meter.decode_ended();
        }
    }
}
