//! What passes through one worker's streams, counted where it passes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::domain::{IterationLoad, Timestamp, Tokens};
use crate::policy::capacity::{GapSample, Second, Served, Told};

/// Counters since the last look, and totals.
#[derive(Debug, Default)]
pub struct Meter {
    gap_micros: AtomicU64,
    gap_tokens: AtomicU64,
    /// Sum of gap x concurrency, in microseconds, and of gap x tokens in the KV cache, in milliseconds.
    concurrency_micros: AtomicU64,
    resident_millis: AtomicU64,
    /// Prompt tokens read since the last look, each as often as a stream waited for it.
    prompts_waited_for: AtomicU64,
    /// Requests that are being decoded: streams after their first token, unstreamed requests from the start.
    decoding: AtomicU32,
    /// Tokens they hold in the KV cache by now.
    resident: AtomicU64,
    /// Streams without a first token, and the sum of the moments they were sent, in ms.
    unread: AtomicU32,
    unread_since_ms: AtomicU64,
    prompt_tokens_read: AtomicU64,
    /// Of requests whose engine told their prompt's length since the last look.
    told_predicted: AtomicU64,
    told_actual: AtomicU64,
    output_tokens_seen: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    requests: AtomicU64,
}

/// Totals since the worker became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterTotals {
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub requests: u64,
}

impl Meter {
    pub fn decode_started(&self) {
        self.decoding.fetch_add(1, Relaxed);
    }

    pub fn decode_ended(&self) {
        self.decoding.fetch_sub(1, Relaxed);
    }

    /// `tokens` came `gap` after the token before them, on one stream.
    pub fn gap(&self, gap: Duration, tokens: u32) {
        let micros = gap.as_micros() as u64;
        let concurrency = u64::from(self.decoding.load(Relaxed).max(1));
        self.gap_micros.fetch_add(micros, Relaxed);
        self.gap_tokens.fetch_add(u64::from(tokens), Relaxed);
        self.concurrency_micros
            .fetch_add(micros * concurrency, Relaxed);
        let resident = self.resident.load(Relaxed);
        self.resident_millis
            .fetch_add(micros * resident / 1_000, Relaxed);
    }

    /// A stream's prompt is with the worker since then; an unstreamed one's reading nobody sees.
    pub(super) fn prompt_sent(&self, at: Timestamp) {
        self.unread.fetch_add(1, Relaxed);
        self.unread_since_ms.fetch_add(at.as_millis(), Relaxed);
    }

    /// It has its first token, or is over without one.
    pub(super) fn prompt_left(&self, sent_at: Timestamp) {
        self.unread.fetch_sub(1, Relaxed);
        self.unread_since_ms.fetch_sub(sent_at.as_millis(), Relaxed);
    }

    /// A prompt was read while the streams there are waited for it.
    pub(super) fn prompt_read(&self, tokens: u64) {
        let waited = u64::from(self.decoding.load(Relaxed));
        self.prompts_waited_for.fetch_add(tokens * waited, Relaxed);
        self.prompt_tokens_read.fetch_add(tokens, Relaxed);
    }

    pub(super) fn held(&self, tokens: u64) {
        self.resident.fetch_add(tokens, Relaxed);
    }

    pub(super) fn freed(&self, tokens: u64) {
        self.resident.fetch_sub(tokens, Relaxed);
    }

    pub fn output(&self, tokens: u32) {
        self.output_tokens.fetch_add(u64::from(tokens), Relaxed);
        self.output_tokens_seen
            .fetch_add(u64::from(tokens), Relaxed);
    }

    /// The engine told how long a prompt was.
    pub fn prompt_told(&self, predicted: f64, actual: u32) {
        self.told_predicted.fetch_add(predicted as u64, Relaxed);
        self.told_actual.fetch_add(u64::from(actual), Relaxed);
    }

    pub fn finished(&self, prompt_tokens: u32) {
        self.prompt_tokens
            .fetch_add(u64::from(prompt_tokens), Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }

    pub fn totals(&self) -> MeterTotals {
        MeterTotals {
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            requests: self.requests.load(Relaxed),
        }
    }

    /// Takes what was gathered since the last call. The parts are not taken at one instant; a gap
    /// counted in between falls into the next sample in part, which the estimate's averaging absorbs.
    fn take_gaps(&self) -> Option<GapSample> {
        let tokens = self.gap_tokens.swap(0, Relaxed);
        let micros = self.gap_micros.swap(0, Relaxed);
        let streams = self.concurrency_micros.swap(0, Relaxed);
        let resident = self.resident_millis.swap(0, Relaxed);
        let prompts = self.prompts_waited_for.swap(0, Relaxed);
        (tokens > 0 && micros > 0).then(|| GapSample {
            mean_gap_s: micros as f64 / 1e6 / tokens as f64,
            load: IterationLoad {
                streams: streams as f64 / micros as f64,
                kv_kilotokens: resident as f64 / micros as f64,
                prompt_tokens: prompts as f64 / tokens as f64,
            },
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    /// What passed in the `seconds` since the last look.
    pub(super) fn take_second(&self, seconds: f64, load: Unfinished, now: Timestamp) -> Second {
        let unread = self.unread.load(Relaxed);
        let since_ms = self.unread_since_ms.load(Relaxed) as f64 / f64::from(unread.max(1));
        Second {
            seconds,
            gaps: self.take_gaps(),
            served: Served {
                prompt_tokens: self.prompt_tokens_read.swap(0, Relaxed) as f64,
                output_tokens: self.output_tokens_seen.swap(0, Relaxed) as f64,
                told: Told {
                    predicted: self.told_predicted.swap(0, Relaxed) as f64,
                    actual: self.told_actual.swap(0, Relaxed) as f64,
                },
            },
            decoding: self.decoding.load(Relaxed),
            in_flight: load.in_flight,
            kv_reserved_tokens: load.kv_reserved_tokens,
            outstanding: load.outstanding,
            prefilling: load.prefilling,
            unread_for_s: if unread > 0 {
                ((now.as_millis() as f64 - since_ms) / 1e3).max(0.0)
            } else {
                0.0
            },
        }
    }
}

/// Predicted work that a worker holds.
pub(super) struct Unfinished {
    pub(super) outstanding: Tokens,
    /// The part of it that is prompts not read yet.
    pub(super) prefilling: Tokens,
    pub(super) in_flight: u32,
    pub(super) kv_reserved_tokens: f64,
}
