//! What the gateway sees of one worker in a second.

use crate::domain::{IterationLoad, Tokens};

/// Token gaps of its streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GapSample {
    pub mean_gap_s: f64,
    pub load: IterationLoad,
    pub tokens: u32,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Of prompts that it began to answer.
    pub prompt_tokens: f64,
    pub output_tokens: f64,
    /// Prompt tokens of requests whose engine told their number at the end, as predicted and as told.
    pub told: Told,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    pub predicted: f64,
    pub actual: f64,
}

/// What it did and what it has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Since the look before.
    pub seconds: f64,
    pub gaps: Option<GapSample>,
    pub served: Served,
    /// Streams and unstreamed requests that are being answered.
    pub decoding: u32,
    /// Requests it holds, and what of its KV cache is counted as theirs: what they are expected to take at most.
    pub in_flight: u32,
    pub kv_reserved_tokens: f64,
    pub outstanding: Tokens,
    /// The part of it that is prompts without a first token, and how long they have been there on average.
    pub prefilling: Tokens,
    pub unread_for_s: f64,
}
