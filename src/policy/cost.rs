//! Predicted work of a request, learned from what earlier requests really made.

use serde::{Deserialize, Serialize};

use crate::domain::{PredictedCost, RequestShape, Tokens};

/// Slowest learning rate; early observations weigh 1/n.
const LEARNING_RATE: f64 = 0.02;
/// Share of the requested tokens that is produced, before anything was seen.
const PRIOR_OUTPUT_RATIO: f64 = 0.35;
/// Output tokens of a request without a limit, before anything was seen.
const PRIOR_OUTPUT_UNLIMITED: f64 = 256.0;
/// Bytes of English text a token, before anything was seen.
const PRIOR_BYTES_PER_TOKEN: f64 = 3.8;

/// What is believed of one endpoint's requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostModel {
    output_ratio: Mean,
    output_unlimited: Mean,
    bytes_per_token: Mean,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            output_ratio: Mean::prior(PRIOR_OUTPUT_RATIO),
            output_unlimited: Mean::prior(PRIOR_OUTPUT_UNLIMITED),
            bytes_per_token: Mean::prior(PRIOR_BYTES_PER_TOKEN),
        }
    }
}

impl CostModel {
    pub fn predict(&self, shape: &RequestShape, kappa: f64) -> PredictedCost {
        let output_tokens = match shape.max_new_tokens {
            Some(max) => {
                (self.output_ratio.value * f64::from(max)).clamp(1.0, f64::from(max.max(1)))
            }
            None => self.output_unlimited.value.max(1.0),
        };
        let prompt_tokens = shape.prompt_bytes as f64 / self.bytes_per_token.value.max(0.5);
        cost(prompt_tokens, output_tokens, kappa)
    }

    /// Learns from a finished request. `prompt_tokens` is `None` where the engine did not say.
    pub fn learn(&mut self, shape: &RequestShape, prompt_tokens: Option<f64>, output_tokens: f64) {
        match shape.max_new_tokens {
            Some(max) => self
                .output_ratio
                .observe((output_tokens / f64::from(max.max(1))).min(1.0)),
            None => self.output_unlimited.observe(output_tokens),
        }
        if let Some(tokens) = prompt_tokens.filter(|tokens| *tokens >= 1.0) {
            let ratio = shape.prompt_bytes as f64 / tokens;
            self.bytes_per_token.observe(ratio.clamp(0.5, 20.0));
        }
    }
}

/// Output-equivalent cost of known or believed token counts.
pub fn cost(prompt_tokens: f64, output_tokens: f64, kappa: f64) -> PredictedCost {
    PredictedCost {
        prompt_tokens,
        output_tokens,
        total: Tokens(output_tokens + prompt_tokens / kappa),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Mean {
    value: f64,
    seen: u64,
}

impl Mean {
    fn prior(value: f64) -> Self {
        Self { value, seen: 0 }
    }

    fn observe(&mut self, value: f64) {
        if value.is_finite() {
            self.seen += 1;
            let rate = (1.0 / (self.seen as f64 + 1.0)).max(LEARNING_RATE);
            self.value += rate * (value - self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Api, ClientKey};

    fn shape(max: Option<u32>, prompt_bytes: usize) -> RequestShape {
        RequestShape {
            api: Api::Generate,
            client: ClientKey::new("c"),
            streamed: true,
            prompt_bytes,
            max_new_tokens: max,
        }
    }

    #[test]
    fn clients_that_use_their_whole_budget_are_soon_predicted_so() {
        let mut model = CostModel::default();
        for _ in 0..100 {
            model.learn(&shape(Some(200), 400), Some(100.0), 200.0);
        }
        let predicted = model.predict(&shape(Some(1_000), 800), 5.0);
        assert!(
            (predicted.output_tokens - 1_000.0).abs() < 20.0,
            "{predicted:?}"
        );
        assert!(
            (predicted.prompt_tokens - 200.0).abs() < 5.0,
            "{predicted:?}"
        );
    }

    #[test]
    fn a_prediction_never_exceeds_the_limit_and_is_never_zero() {
        let model = CostModel::default();
        assert_eq!(model.predict(&shape(Some(1), 0), 5.0).output_tokens, 1.0);
        assert!(model.predict(&shape(None, 0), 5.0).total.0 > 0.0);
    }

    #[test]
    fn nonsense_from_an_engine_teaches_nothing() {
        let mut model = CostModel::default();
        model.learn(&shape(None, 10), Some(f64::NAN), f64::INFINITY);
        assert_eq!(model, CostModel::default());
    }
}
