//! A distribution that forgets, in a fixed number of bins.

use serde::{Deserialize, Serialize};

/// The newest counts in full; how much more it counts than the oldest is kept as a growing weight.
const WEIGHT_MAX: f32 = 1e6;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FadingHistogram {
    from: f32,
    width: f32,
    counts: Vec<f32>,
    /// Of the next value.
    weight: f32,
}

impl FadingHistogram {
    /// As if `mass` values had been seen, distributed by `density` over `bins` bins.
    pub fn seeded(
        from: f64,
        width: f64,
        bins: usize,
        mass: f64,
        density: impl Fn(f64) -> f64,
    ) -> Self {
        let middle = |bin: usize| from + (bin as f64 + 0.5) * width;
        let shares: Vec<f64> = (0..bins).map(|bin| density(middle(bin))).collect();
        let total: f64 = shares.iter().sum();
        Self {
            from: from as f32,
            width: width as f32,
            counts: shares
                .iter()
                .map(|share| (share / total * mass) as f32)
                .collect(),
            weight: 1.0,
        }
    }

    /// What was seen before counts `fade` of what it did.
    pub fn observe(&mut self, value: f64, fade: f64) {
        let bin = (value - f64::from(self.from)) / f64::from(self.width);
        let last = self.counts.len().saturating_sub(1);
        let bin = if bin.is_finite() {
            bin.max(0.0) as usize
        } else {
            last
        };
        self.weight /= fade.clamp(0.5, 1.0) as f32;
        if let Some(count) = self.counts.get_mut(bin.min(last)) {
            *count += self.weight;
        }
        if self.weight > WEIGHT_MAX {
            for count in &mut self.counts {
                *count /= self.weight;
            }
            self.weight = 1.0;
        }
    }

    /// The value below which the share `q` of all lies.
    pub fn quantile(&self, q: f64) -> f64 {
        let total: f64 = self.counts.iter().map(|count| f64::from(*count)).sum();
        let mut left = q.clamp(0.0, 1.0) * total;
        for (bin, count) in self.counts.iter().enumerate() {
            let count = f64::from(*count);
            if left <= count && count > 0.0 {
                return f64::from(self.from) + (bin as f64 + left / count) * f64::from(self.width);
            }
            left -= count;
        }
        f64::from(self.from) + self.counts.len() as f64 * f64::from(self.width)
    }
}
