//! How long an engine with continuous batching takes for one token of each of its streams.

use serde::{Deserialize, Serialize};

use super::{GapLaw, TokensPerSecond};

/// What one iteration works on, on average over those looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationLoad {
    /// Streams that each get a token.
    pub streams: f64,
    /// Thousands of tokens that they hold in the KV cache.
    pub kv_kilotokens: f64,
    /// Prompt tokens read meanwhile.
    pub prompt_tokens: f64,
}

/// Seconds of one iteration: `a + c b + k KV + m P`. No part is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationLaw {
    pub base_s: f64,
    pub per_stream_s: f64,
    pub per_kv_kilotoken_s: f64,
    pub per_prompt_token_s: f64,
}

impl IterationLaw {
    pub fn at(self, load: IterationLoad) -> f64 {
        self.base_s
            + self.per_stream_s * load.streams
            + self.per_kv_kilotoken_s * load.kv_kilotokens
            + self.per_prompt_token_s * load.prompt_tokens
    }

    /// The same by streams alone, each with so much in the KV cache and so many prompt tokens read for each it makes.
    pub fn folded(self, context_kilotokens: f64, prompt_per_output: f64) -> GapLaw {
        GapLaw {
            base_s: self.base_s,
            per_stream_s: self.per_stream_s
                + self.per_kv_kilotoken_s * context_kilotokens
                + self.per_prompt_token_s * prompt_per_output,
        }
    }
}

/// What is believed of one worker's capacity, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacityView {
    pub mean: TokensPerSecond,
    /// Standard deviation of the mean.
    pub sd: TokensPerSecond,
    pub law: IterationLaw,
    /// Streams at once that it is stated for.
    pub at_streams: f64,
    /// Prompt tokens that it is stated for, for each output token.
    pub prompt_per_output: f64,
    /// What each of its streams holds in the KV cache.
    pub context_kilotokens: f64,
    /// Seconds of traffic that the law was learned from, full ones.
    pub seconds_seen: f64,
    /// It has more than it can do: what it serves is what it can.
    pub saturated: bool,
}
