//! What passes through one worker's streams, counted where it passes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters since the last look, and totals.
#[derive(Debug, Default)]
pub struct Meter {
    gap_micros: AtomicU64,
    gap_tokens: AtomicU64,
    /// Sum of gap x concurrency, in microseconds.
    concurrency_micros: AtomicU64,
    /// Requests that are being decoded: streams after their first token, unstreamed requests from the start.
    decoding: AtomicU32,
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

/// Token gaps since the last look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GapSample {
    pub mean_gap_s: f64,
    pub concurrency: f64,
    pub tokens: u32,
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
    }

    pub fn output(&self, tokens: u32) {
        self.output_tokens.fetch_add(u64::from(tokens), Relaxed);
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
    pub fn take_sample(&self) -> Option<GapSample> {
        let tokens = self.gap_tokens.swap(0, Relaxed);
        let micros = self.gap_micros.swap(0, Relaxed);
        let weighted = self.concurrency_micros.swap(0, Relaxed);
        (tokens > 0 && micros > 0).then(|| GapSample {
            mean_gap_s: micros as f64 / 1e6 / tokens as f64,
            concurrency: weighted as f64 / micros as f64,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }
}
