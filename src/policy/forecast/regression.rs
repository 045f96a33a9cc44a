//! Recursive least squares with forgetting: the need as a weighted sum of the views of the load.

use serde::{Deserialize, Serialize};

use super::features::{FEATURES, FIRST, weight_scales};

/// Variance of each weight before anything was seen.
const PRIOR_VARIANCE: f64 = 0.02;
/// No weight is forgotten beyond this: a load that never moves teaches about one direction only.
const VARIANCE_MAX: f64 = 10.0;
/// Squared errors grow with the load: an error counts by 1 / (this + load).
const WEIGHT_FLOOR: f64 = 0.3;

type Matrix = [[f64; FEATURES]; FEATURES];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Regression {
    weights: [f64; FEATURES],
    covariance: Matrix,
}

impl Default for Regression {
    fn default() -> Self {
        let mut weights = [0.0; FEATURES];
        weights[FIRST] = 1.0;
        let mut covariance = [[0.0; FEATURES]; FEATURES];
        for (i, row) in covariance.iter_mut().enumerate() {
            row[i] = PRIOR_VARIANCE;
        }
        Self {
            weights,
            covariance,
        }
    }
}

impl Regression {
    pub fn tell(&self, x: &[f32; FEATURES]) -> f64 {
        let terms = self.weights.iter().zip(x);
        terms.map(|(weight, x)| weight * f64::from(*x)).sum()
    }

    /// By how much it tells more for a little more load, given how each feature moves with it.
    pub fn slope(&self, slopes: &[f64; FEATURES]) -> f64 {
        let terms = self.weights.iter().zip(slopes);
        terms.map(|(weight, slope)| weight * slope).sum()
    }

    /// `need` is what came of `x`, for which `expected` was foretold.
    pub fn learn(&mut self, x: &[f32; FEATURES], need: f64, expected: f64, fade: f64) {
        let importance = 1.0 / (WEIGHT_FLOOR + expected.max(0.0));
        let error = need - self.tell(x);
        let gain = self.covariance.map(|row| {
            let terms = row.iter().zip(x);
            terms.map(|(cov, x)| cov * f64::from(*x)).sum::<f64>()
        });
        let spread: f64 = gain.iter().zip(x).map(|(g, x)| g * f64::from(*x)).sum();
        let total = fade / importance + spread;
        if !(total.is_finite() && total > 0.0 && error.is_finite()) {
            return;
        }
        for (weight, gain) in self.weights.iter_mut().zip(gain) {
            *weight += gain / total * error;
        }
        let fade = if self.is_vague() { 1.0 } else { fade };
        for i in 0..FEATURES {
            for j in i..FEATURES {
                let covariance = (self.covariance[i][j] - gain[i] * gain[j] / total) / fade;
                self.covariance[i][j] = covariance;
                self.covariance[j][i] = covariance;
            }
        }
    }

    fn is_vague(&self) -> bool {
        (0..FEATURES).any(|i| self.covariance[i][i] > VARIANCE_MAX)
    }

    /// The unit of all levels became so many `times` as large.
    pub fn rescale(&mut self, times: f64) {
        let scales = weight_scales(times);
        for i in 0..FEATURES {
            self.weights[i] *= scales[i];
            for j in 0..FEATURES {
                self.covariance[i][j] *= scales[i] * scales[j];
            }
        }
    }
}
