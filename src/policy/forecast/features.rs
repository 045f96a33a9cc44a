//! Views of the load, from quick to calm, in workers.

use serde::{Deserialize, Serialize};

/// Time constants in bins: 10, 30, 60, 180, 600 and 3,600 s of 5 s.
const TAU_BINS: [f64; 6] = [2.0, 6.0, 12.0, 36.0, 120.0, 720.0];
const MINUTE: usize = 2;
const THREE_MINUTES: usize = 3;
const CALM: usize = 4;
pub(super) const FEATURES: usize = 9;
/// The one that a forecast begins with: the load of the last minute.
pub(super) const FIRST: usize = MINUTE;
/// How each scales with the load: by its power.
const POWERS: [f64; FEATURES] = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 0.0];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Features {
    smoothed: [f64; 6],
    bins: u32,
}

impl Features {
    pub fn push(&mut self, load: f64) {
        self.bins = self.bins.saturating_add(1);
        let shares = TAU_BINS.map(|tau| self.newest_share(tau));
        for (smoothed, share) in self.smoothed.iter_mut().zip(shares) {
            *smoothed += share * (load - *smoothed);
        }
    }

    pub fn vector(&self) -> [f32; FEATURES] {
        let mut x = [1.0; FEATURES];
        x[..6].copy_from_slice(&self.smoothed);
        x[6] = self.calm().sqrt();
        x[7] = (self.smoothed[MINUTE] - self.calm()).abs();
        x.map(|figure| figure as f32)
    }

    /// How each moves with the load of the newest bin.
    pub fn slopes(&self) -> [f64; FEATURES] {
        let of = |tau: f64| self.newest_share(tau);
        let mut slopes = [0.0; FEATURES];
        slopes[..6].copy_from_slice(&TAU_BINS.map(of));
        slopes[6] = slopes[CALM] / (2.0 * self.calm().sqrt()).max(1e-3);
        slopes[7] =
            (slopes[MINUTE] - slopes[CALM]) * (self.smoothed[MINUTE] - self.calm()).signum();
        slopes
    }

    /// While young each is the mean of what there was.
    fn newest_share(&self, tau: f64) -> f64 {
        (1.0 - (-1.0 / tau).exp()).max(1.0 / f64::from(self.bins.max(1)))
    }

    /// Share of a minute that was seen, at most 1: with less a burst looks like a load.
    pub fn seen(&self) -> f64 {
        (f64::from(self.bins) / TAU_BINS[MINUTE]).min(1.0)
    }

    /// Over ten minutes.
    pub fn calm(&self) -> f64 {
        self.smoothed[CALM]
    }

    /// Over an hour.
    pub fn usual(&self) -> f64 {
        self.smoothed[5]
    }

    /// What the last minute, the last three and the last ten have in common.
    pub fn lasting(&self) -> f64 {
        let [minute, three] = [MINUTE, THREE_MINUTES].map(|view| self.smoothed[view]);
        minute.min(three).min(self.calm())
    }

    /// No regression is believed that leaves the loads of the last minutes far behind.
    pub fn clip(&self, told: f64) -> f64 {
        let (minute, calm) = (self.smoothed[MINUTE], self.calm());
        told.clamp(0.3 * minute.min(calm), 3.0 * minute.max(calm))
    }

    pub fn rescale(&mut self, times: f64) {
        self.smoothed = self.smoothed.map(|smoothed| smoothed / times);
    }
}

/// A vector as it would be with a unit so many `times` as large.
pub(super) fn rescale(x: &mut [f32; FEATURES], times: f64) {
    for (figure, power) in x.iter_mut().zip(POWERS) {
        *figure /= times.powf(power) as f32;
    }
}

/// What a weight on each feature becomes where the foretold quantity is in the new unit too.
pub(super) fn weight_scales(times: f64) -> [f64; FEATURES] {
    POWERS.map(|power| times.powf(power - 1.0))
}
