//! What load to be ready for, learned from the arrivals alone.
//!
//! On a time grid of its own (so that the pace of calls does not matter) each bin of arrivals moves a few smoothed
//! views of the load; a regression foretells from them the **need**, the least constant capacity with which nothing
//! that arrives within the next while waits too long; what it was wrong by gives the **surprise** to be ready for; how
//! the load grew within a cold start gives the **growth** that the pool is to be ready for. Which share of the
//! surprises is covered is steered by the late work seen. All levels are in workers: multiples of a typical worker's
//! speed.
//!
//! Law and constants: two horizons, found on public traces; the windows are multiples of the bin, and the bin follows
//! the time that a restart takes.

mod arrivals;
mod features;
mod growth;
mod histogram;
mod need;
mod regression;
mod steering;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{DemandView, LoadForecast, Timestamp, Tokens, TokensPerSecond};
use arrivals::Arrivals;
use features::{FEATURES, Features};
use growth::Growth;
use histogram::FadingHistogram;
use regression::Regression;
use steering::{Seen, Steering};

/// What is learned fades with this time constant, seconds.
const MEMORY_S: f64 = 86_400.0;
/// Bins in the horizon over which the need is looked for: 110 s of 5 s, where a restart takes a minute.
const HORIZON: usize = 22;
/// Time constant of the surprises' size, in bins: 400 s.
const VOLATILITY_BINS: f64 = 80.0;
/// The surprises are believed to be no smaller than this times the root of the load (in workers).
const SIGMA_LEAST: f64 = 0.08;
/// The same before any was seen; counts as so many bins.
const SIGMA_PRIOR: f64 = 0.25;
const SIGMA_PRIOR_BINS: f64 = 80.0;
/// A load below this, in workers, teaches nothing.
const NEGLIGIBLE: f64 = 0.01;
/// The unit follows when a typical worker's speed has moved by this factor.
const UNIT_MOVES_BY: f64 = 1.25;

/// How long things take, as far as the forecast's windows depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Allowed to wait.
    pub wait: Duration,
    /// From the order to restart a stopped worker until it serves.
    pub restart: Duration,
    /// The same for a new one.
    pub cold: Duration,
}

/// What is remembered of the demand. Small: a few hundred numbers, whatever the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    arrivals: Arrivals,
    /// Tokens a second of a typical worker; 0 before one was known.
    unit: f64,
    features: Features,
    regression: Regression,
    /// The newest bins, as many as the horizon has.
    recent: VecDeque<f32>,
    /// Forecasts whose need is not known yet, oldest first.
    pending: VecDeque<Pending>,
    variance: f64,
    variance_seen: f64,
    surprises: FadingHistogram,
    growth: Growth,
    steering: Steering,
    /// As of the last whole bin.
    expected: LoadForecast,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pending {
    x: [f32; FEATURES],
    expected: f32,
    sigma: f32,
}

impl Default for Forecast {
    fn default() -> Self {
        Self {
            arrivals: Arrivals::default(),
            unit: 0.0,
            features: Features::default(),
            regression: Regression::default(),
            recent: VecDeque::new(),
            pending: VecDeque::new(),
            variance: 0.0,
            variance_seen: 0.0,
            surprises: surprises_prior(),
            growth: Growth::default(),
            steering: Steering::default(),
            expected: LoadForecast::default(),
        }
    }
}

/// Standardized surprises before any was seen: normal, so that the usual share comes to 1.5.
fn surprises_prior() -> FadingHistogram {
    const BELIEVED_BINS: f64 = 120.0;
    FadingHistogram::seeded(-4.0, 1.0 / 6.0, 96, BELIEVED_BINS, |z| {
        (-0.5 * (z / 0.75_f64).powi(2)).exp()
    })
}

impl Forecast {
    /// Takes in what arrived since the last call; calls may come at any pace. `typical` is the speed of a worker.
    pub fn observe(
        &mut self,
        demand: &DemandView,
        typical: TokensPerSecond,
        pace: Pace,
        now: Timestamp,
    ) {
        self.adopt_unit(typical.0);
        if self.unit <= 0.0 {
            return;
        }
        if self.arrivals.adopt_bin(pace) {
            self.begin_anew();
        }
        let bin_s = self.arrivals.bin_s();
        let Some(over) = self.arrivals.take(demand, now) else {
            self.begin_anew();
            return;
        };
        for tokens_per_second in &over {
            self.bin(tokens_per_second / self.unit, bin_s, pace);
        }
        if !over.is_empty() {
            self.expected = self.expect(self.level());
        }
    }

    /// Late work teaches how much of the surprises to cover, so that the share `aim` of it is late in the long run. To be
    /// told of all that arrived and was late, and whether it was for want of covering more.
    pub fn learn_late(&mut self, arrived: Tokens, late: Tokens, within: Duration, steers: bool) {
        let usual = self.features.usual() * self.unit;
        let seen = Seen {
            arrived: arrived.0.max(0.0),
            late: late.0.max(0.0),
            within_s: within.as_secs_f64(),
        };
        self.steering.learn(seen, usual, steers);
    }

    /// Which share of the work may be late.
    pub fn aim_at(&mut self, late_share: f64) {
        self.steering.aim_at(late_share);
    }

    /// After a gap so long that the load of before says nothing of now's: how loads move stays known.
    pub fn after_a_gap(&mut self) {
        self.arrivals.begin_anew();
        self.begin_anew();
        self.features = Features::default();
        (self.variance, self.variance_seen) = (0.0, 0.0);
        self.expected = LoadForecast::default();
    }

    /// What to be ready for.
    pub fn expected(&self) -> LoadForecast {
        self.expected
    }

    fn expect(&self, level: f64) -> LoadForecast {
        let covered = self.steering.covered();
        let surprise = (self.surprises.quantile(covered) * self.sigma(level)).max(0.0);
        let growth = self.growth.factor();
        // As if there had been silence before the first minute.
        let seen = self.features.seen();
        let tps = |workers: f64| TokensPerSecond(workers * self.unit * seen);
        LoadForecast {
            need: tps(level),
            surprise: tps(surprise),
            lasting: tps(self.features.lasting()),
            pool: tps(self.growth.of(self.features.calm().max(level))),
            covered,
            growth,
            late_share: self.steering.late_share(),
        }
    }

    /// The bins to come are not next to those before. What was learned stays.
    fn begin_anew(&mut self) {
        self.recent.clear();
        self.pending.clear();
        self.growth.begin_anew();
    }

    /// One more bin of arrivals, in workers.
    fn bin(&mut self, load: f64, bin_s: f64, pace: Pace) {
        self.recent.push_back(load as f32);
        if self.recent.len() > HORIZON {
            self.recent.pop_front();
        }
        if self.pending.len() >= HORIZON
            && let Some(due) = self.pending.pop_front()
        {
            let wait_bins = pace.wait.as_secs_f64() / bin_s;
            self.learn(&due, need::of(&self.recent, wait_bins), bin_s);
        }
        self.features.push(load);
        if self.features.seen() >= 1.0 {
            let expected = self.level();
            self.pending.push_back(Pending {
                x: self.features.vector(),
                expected: expected as f32,
                sigma: self.sigma(expected) as f32,
            });
        }
        let cold_bins = pace.cold.as_secs_f64() / bin_s;
        let fade = (-bin_s / MEMORY_S).exp();
        self.growth
            .push(self.features.calm(), &self.recent, cold_bins, fade);
    }

    fn learn(&mut self, due: &Pending, need: f64, bin_s: f64) {
        let expected = f64::from(due.expected);
        if need < NEGLIGIBLE && expected < NEGLIGIBLE {
            return;
        }
        let fade = (-bin_s / MEMORY_S).exp();
        self.regression.learn(&due.x, need, expected, fade);
        let surprise = need - expected;
        self.variance += (surprise * surprise - self.variance) / VOLATILITY_BINS;
        self.variance_seen += 1.0;
        let sigma = f64::from(due.sigma).max(1e-6);
        self.surprises.observe(surprise / sigma, fade);
    }

    fn level(&self) -> f64 {
        let told = self.regression.tell(&self.features.vector());
        // Whatever the regression has learned, more work in the newest bin is no reason to expect less.
        let newest = self.recent.back().map_or(0.0, |load| f64::from(*load));
        let slope = self.regression.slope(&self.features.slopes());
        self.features.clip(told - slope.min(0.0) * newest)
    }

    fn sigma(&self, level: f64) -> f64 {
        let believed = SIGMA_PRIOR * SIGMA_PRIOR * level;
        let variance = (self.variance * self.variance_seen + believed * SIGMA_PRIOR_BINS)
            / (self.variance_seen + SIGMA_PRIOR_BINS);
        variance.sqrt().max(SIGMA_LEAST * level.sqrt())
    }

    /// Levels are kept in multiples of a typical worker's speed; a small change of it moves nothing.
    fn adopt_unit(&mut self, typical: f64) {
        if !(typical.is_finite() && typical > 0.0) {
            return;
        }
        if self.unit <= 0.0 {
            self.unit = typical;
            return;
        }
        let times = typical / self.unit;
        if (1.0 / UNIT_MOVES_BY..=UNIT_MOVES_BY).contains(&times) {
            return;
        }
        self.unit = typical;
        self.features.rescale(times);
        self.regression.rescale(times);
        self.growth.rescale(times);
        self.variance /= times * times;
        for load in &mut self.recent {
            *load /= times as f32;
        }
        for pending in &mut self.pending {
            features::rescale(&mut pending.x, times);
            pending.expected /= times as f32;
            pending.sigma /= times as f32;
        }
    }
}
