//! Where a worker stands when it has all it can do: how many streams, and what that makes.

use super::Terms;
use super::mix::Mix;
use crate::domain::IterationLaw;

/// The concurrency that places, KV cache and latency allow, with requests of a certain mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OperatingPoint {
    pub(super) streams: f64,
    context_kilotokens: f64,
    prompt_per_output: f64,
    kappa: f64,
}

impl OperatingPoint {
    pub(super) fn of(law: IterationLaw, mix: &Mix, terms: &Terms) -> Self {
        let mut streams = f64::from(terms.full_concurrency.max(1));
        if let (Some(tokens), Some(each)) = (terms.kv_tokens, mix.kv_per_request()) {
            streams = streams.min(f64::from(tokens) / each.max(1.0));
        }
        if let Some(gap_max_s) = terms.gap_max_s {
            let gap = mix.fold(law);
            if gap.per_stream_s > 0.0 {
                streams = streams.min((gap_max_s - gap.base_s) / gap.per_stream_s);
            }
        }
        Self {
            // One request is always served, however slowly.
            streams: streams.max(1.0),
            context_kilotokens: mix.context_kilotokens(),
            prompt_per_output: mix.prompt_per_output(),
            kappa: terms.kappa,
        }
    }

    /// Seconds that one output token and its share of prompts take of the worker are `work . law`.
    pub(super) fn work(&self) -> [f64; 4] {
        [
            1.0 / self.streams,
            1.0,
            self.context_kilotokens,
            self.prompt_per_output,
        ]
    }

    /// Output-equivalent tokens a second.
    pub(super) fn capacity(&self, law: IterationLaw) -> f64 {
        let gap = law.folded(self.context_kilotokens, self.prompt_per_output);
        let outputs = self.streams / gap.at(self.streams).max(f64::MIN_POSITIVE);
        outputs * (1.0 + self.prompt_per_output / self.kappa)
    }
}
