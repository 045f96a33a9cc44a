//! What was learned of requests of one kind.

use super::SHRINKAGE;
use super::lengths::Lengths;

/// Slowest learning rate; early observations weigh 1/n.
const LEARNING_RATE: f64 = 0.02;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) requests: u64,
    /// Produced tokens as a share of those asked for, or their number where none were.
    pub(super) output_use: Mean,
    pub(super) bytes_per_token: Mean,
    pub(super) lengths: Lengths,
}

impl Node {
    pub(super) fn prior(output_use: f64, bytes_per_token: f64) -> Self {
        Self {
            requests: 0,
            output_use: Mean::prior(output_use),
            bytes_per_token: Mean::prior(bytes_per_token),
            lengths: Lengths::default(),
        }
    }

    pub(super) fn unseen() -> Self {
        Self {
            requests: 0,
            output_use: Mean::unseen(),
            bytes_per_token: Mean::unseen(),
            lengths: Lengths::default(),
        }
    }

    pub(super) fn observe(&mut self, output_use: f64, tokens: f64, bytes_per_token: Option<f64>) {
        self.requests += 1;
        self.output_use.observe(output_use);
        self.lengths.observe(tokens);
        if let Some(ratio) = bytes_per_token {
            self.bytes_per_token.observe(ratio);
        }
    }

    /// How far it is believed, against its parent.
    pub(super) fn weight(&self) -> f64 {
        let seen = self.requests as f64;
        seen / (seen + SHRINKAGE)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) value: f64,
    /// The prior counts as one.
    count: u64,
}

impl Mean {
    pub(super) fn prior(value: f64) -> Self {
        Self { value, count: 1 }
    }

    pub(super) fn unseen() -> Self {
        Self {
            value: 0.0,
            count: 0,
        }
    }

    pub(super) fn seen(&self) -> bool {
        self.count > 0
    }

    pub(super) fn observe(&mut self, value: f64) {
        if value.is_finite() {
            self.count += 1;
            let rate = (1.0 / self.count as f64).max(LEARNING_RATE);
            self.value += rate * (value - self.value);
        }
    }
}
