//! How many times the load may grow within a cold start: what the pool of stopped and starting workers is for.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::histogram::FadingHistogram;

/// Share of the growths that the pool is to be ready for.
const QUANTILE: f64 = 0.97;
/// A cold start and what may be late of it.
const HORIZON_STARTS: f64 = 1.3;
/// A minute of 5 s bins.
const MINUTE_BINS: usize = 12;
/// Moments are noted every so many bins, more rarely where a cold start takes very long.
const STEP_BINS: u32 = 4;
const MOMENTS_MAX: f64 = 64.0;
/// A load far below one worker cannot grow out of all proportion: this is added to both sides, in workers.
const LEAST_LOAD: f64 = 0.3;
/// What was learned at little load is no measure at much: no load is believed to grow beyond this times the largest minute
/// remembered.
const BEYOND_LARGEST: f64 = 1.25;
/// Logarithms of growth, from a third to twentyfold.
const LOG_FROM: f64 = -1.1;
const LOG_WIDTH: f64 = 0.064;
const LOG_BINS: usize = 64;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Growth {
    /// Moments whose horizon is not over: calm load then, largest minute since.
    open: VecDeque<(f32, f32)>,
    largest_minute: f32,
    bins: u32,
    /// The largest minute of about the last day, fading.
    peak: f64,
    logs: FadingHistogram,
}

impl Default for Growth {
    fn default() -> Self {
        const BELIEVED: f64 = 90.0;
        Self {
            open: VecDeque::new(),
            largest_minute: 0.0,
            bins: 0,
            peak: 0.0,
            // Nine in ten starts see the load grow to less than 1.4 of what it was.
            logs: FadingHistogram::seeded(LOG_FROM, LOG_WIDTH, LOG_BINS, BELIEVED, |log| {
                (-0.5 * ((log - 0.03) / 0.2).powi(2)).exp()
            }),
        }
    }
}

impl Growth {
    /// One more bin: `calm` is the smoothed load at its end, `recent` the newest bins.
    pub fn push(&mut self, calm: f64, recent: &VecDeque<f32>, cold_bins: f64, fade: f64) {
        let minute = recent.iter().rev().take(MINUTE_BINS);
        let seen = minute.len().max(1) as f32;
        let minute = minute.sum::<f32>() / seen;
        self.largest_minute = self.largest_minute.max(minute);
        self.peak = (self.peak * fade).max(f64::from(minute));
        let horizon_bins = HORIZON_STARTS * cold_bins;
        let step = f64::from(STEP_BINS).max((horizon_bins / MOMENTS_MAX).ceil());
        self.bins += 1;
        if f64::from(self.bins) < step {
            return;
        }
        self.bins = 0;
        let largest = std::mem::take(&mut self.largest_minute);
        for (_, since) in &mut self.open {
            *since = since.max(largest);
        }
        self.open.push_back((calm as f32, 0.0));
        let moments = (horizon_bins / step).ceil().clamp(1.0, 2.0 * MOMENTS_MAX) as usize;
        while self.open.len() > moments {
            if let Some((calm, largest)) = self.open.pop_front()
                && calm.max(largest) > super::NEGLIGIBLE as f32
            {
                let grown = (f64::from(largest) + LEAST_LOAD) / (f64::from(calm) + LEAST_LOAD);
                self.logs.observe(grown.ln(), fade.powf(step));
            }
        }
    }

    pub fn begin_anew(&mut self) {
        self.open.clear();
        self.largest_minute = 0.0;
    }

    /// At least 1.
    pub fn factor(&self) -> f64 {
        self.logs.quantile(QUANTILE).exp().max(1.0)
    }

    /// To what a load may grow.
    pub fn of(&self, load: f64) -> f64 {
        let grown = load * self.factor();
        grown.min(BEYOND_LARGEST * self.peak).max(load)
    }

    pub fn rescale(&mut self, times: f64) {
        self.peak /= times;
        self.largest_minute /= times as f32;
        for (calm, largest) in &mut self.open {
            *calm /= times as f32;
            *largest /= times as f32;
        }
    }
}
