//! What requests a worker had of late: prompts for each output token, tokens in its KV cache for each stream.

use serde::{Deserialize, Serialize};

use super::Second;
use super::law::PRIOR_CONTEXT;
use crate::domain::{GapLaw, IterationLaw};

/// What remains of a second's weight after the next one with traffic: five minutes count.
const KEEP: f64 = 1.0 - 1.0 / 300.0;
/// Prompt tokens that were predicted rightly before anything was told.
const PRIOR_TOLD: f64 = 500.0;
/// Output tokens without prompts, and seconds of streams with the usual context, that stand for what is not known yet.
const PRIOR_OUTPUT: f64 = 200.0;
const PRIOR_STREAMS: f64 = 2.0;

/// Fading sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mix {
    prompt_tokens: f64,
    output_tokens: f64,
    streams: f64,
    kv_kilotokens: f64,
    requests: f64,
    kv_reserved_tokens: f64,
    told_predicted: f64,
    told_actual: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            prompt_tokens: 0.0,
            output_tokens: PRIOR_OUTPUT,
            streams: PRIOR_STREAMS,
            kv_kilotokens: PRIOR_STREAMS * PRIOR_CONTEXT,
            requests: 0.0,
            kv_reserved_tokens: 0.0,
            told_predicted: PRIOR_TOLD,
            told_actual: PRIOR_TOLD,
        }
    }
}

impl Mix {
    pub(super) fn observe(&mut self, second: &Second) {
        let served = &second.served;
        if served.told.actual > 0.0 {
            fade([&mut self.told_predicted, &mut self.told_actual]);
            self.told_predicted += finite(served.told.predicted);
            self.told_actual += finite(served.told.actual);
        }
        if served.prompt_tokens > 0.0 || served.output_tokens > 0.0 {
            fade([&mut self.prompt_tokens, &mut self.output_tokens]);
            self.prompt_tokens += self.prompt_scale() * finite(served.prompt_tokens);
            self.output_tokens += finite(served.output_tokens);
        }
        if second.in_flight > 0 {
            fade([&mut self.requests, &mut self.kv_reserved_tokens]);
            self.requests += f64::from(second.in_flight);
            self.kv_reserved_tokens += finite(second.kv_reserved_tokens);
        }
        if let Some(sample) = &second.gaps {
            fade([&mut self.streams, &mut self.kv_kilotokens]);
            self.streams += finite(sample.load.streams);
            self.kv_kilotokens += finite(sample.load.kv_kilotokens);
        }
    }

    /// Prompt tokens for each that was predicted: while a prompt is read only the prediction is known.
    pub(super) fn prompt_scale(&self) -> f64 {
        self.told_actual / self.told_predicted.max(1.0)
    }

    pub(super) fn prompt_per_output(&self) -> f64 {
        self.prompt_tokens / self.output_tokens.max(1.0)
    }

    /// Thousands of tokens that a stream holds on average while it flows.
    pub(super) fn context_kilotokens(&self) -> f64 {
        self.kv_kilotokens / self.streams.max(1e-3)
    }

    /// Tokens of the KV cache that a request is counted for while it is there: long ones are there longer. `None` before
    /// any was seen.
    pub(super) fn kv_per_request(&self) -> Option<f64> {
        (self.requests >= 1.0).then(|| self.kv_reserved_tokens / self.requests)
    }

    pub(super) fn fold(&self, law: IterationLaw) -> GapLaw {
        law.folded(self.context_kilotokens(), self.prompt_per_output())
    }
}

fn fade<const N: usize>(sums: [&mut f64; N]) {
    for sum in sums {
        *sum *= KEEP;
    }
}

fn finite(amount: f64) -> f64 {
    if amount.is_finite() {
        amount.max(0.0)
    } else {
        0.0
    }
}
