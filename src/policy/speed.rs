//! What a worker could do, from how fast its streams flow: capacity, never the work it happened to get.
//!
//! An engine with continuous batching gives each of `b` streams a token every `T(b) = a + c b` seconds. Few streams
//! tell the level of that line and many its slope, so the two are learned apart: the level within a minute, the
//! slope (the "shape") only from observations at different concurrency.

use serde::{Deserialize, Serialize};

use crate::domain::{GapLaw, SpeedPrior, TokensPerSecond};

/// What remains of an observation's weight after the next; about 50 observations count.
const KEEP: f64 = 0.98;
/// Weight of the prior's level, in full observations; fades like any observation.
const PRIOR_LEVEL_WEIGHT: f64 = 3.0;
/// Weight of each of the two points that stand for the shape; does not fade.
const SHAPE_WEIGHT: f64 = 4.0;
/// How much of what the present observations say of the slope enters the shape, each time.
const SHAPE_PACE: f64 = 0.02;
/// Streams at which the gap is twice that of one stream, before anything is known: the order of large GPUs.
const PRIOR_DOUBLING: f64 = 100.0;
/// An observation counts as at most this many times slower or faster than expected; a stall is not a speed.
const SURPRISE_MAX: f64 = 4.0;
/// Tokens that make half a full observation.
const HALF_WEIGHT_TOKENS: f64 = 4.0;

/// A running estimate for one worker. Pure data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedEstimate {
    /// Concurrency at which capacity is stated.
    full: f64,
    /// The believed line up to a common factor.
    shape: Line,
    /// Weighted sum of the logarithms of observed over believed gap, and the weights' sum.
    level_sum: f64,
    level_weight: f64,
    recent: Sums,
    law: Line,
}

/// `a + c b` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    a: f64,
    c: f64,
}

/// Fading weighted sums of observations (`b`, `y`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    w: f64,
    wb: f64,
    wbb: f64,
    wy: f64,
    wby: f64,
}

impl SpeedEstimate {
    /// Capacity is stated at `max_concurrency`, or else at the prior's concurrency.
    pub fn new(prior: SpeedPrior, max_concurrency: Option<u32>) -> Self {
        let at = f64::from(prior.concurrency.max(1));
        let speed = prior.tokens_per_second.0;
        let speed = if speed.is_finite() && speed > 0.0 {
            speed
        } else {
            1.0
        };
        let a = (at / speed) / (1.0 + at / PRIOR_DOUBLING);
        let shape = Line {
            a,
            c: a / PRIOR_DOUBLING,
        };
        Self {
            full: full_concurrency(prior, max_concurrency),
            shape,
            level_sum: 0.0,
            level_weight: PRIOR_LEVEL_WEIGHT,
            recent: Sums::default(),
            law: shape,
        }
    }

    /// What was learned, with capacity stated at another concurrency.
    pub fn state_at(&mut self, prior: SpeedPrior, max_concurrency: Option<u32>) {
        self.full = full_concurrency(prior, max_concurrency);
    }

    /// One worker's last second: the mean time between tokens of a stream, the streams that flowed at once, and the
    /// tokens they brought. Nonsense and seconds without tokens are ignored.
    pub fn observe(&mut self, mean_gap_s: f64, concurrency: f64, tokens: u32) {
        let usable = mean_gap_s.is_finite() && mean_gap_s > 0.0;
        if !usable || !concurrency.is_finite() || concurrency < 1.0 || tokens == 0 {
            return;
        }
        let expected = self.law.at(concurrency);
        let gap = mean_gap_s.clamp(expected / SURPRISE_MAX, expected * SURPRISE_MAX);
        let tokens = f64::from(tokens);
        let weight = tokens / (tokens + HALF_WEIGHT_TOKENS);

        let believed = self.shape.at(concurrency);
        self.level_sum = self.level_sum * KEEP + weight * (gap / believed).ln();
        self.level_weight = self.level_weight * KEEP + weight;
        self.recent.fade();
        // Errors are relative: a slow point must not outweigh a fast one.
        self.recent.add(concurrency, gap, weight / believed.powi(2));
        self.law = self.fit();
        self.learn_shape();
    }

    /// Output-equivalent tokens a second at full concurrency.
    pub fn speed(&self) -> TokensPerSecond {
        TokensPerSecond(self.full / self.law.at(self.full))
    }

    /// Neither part is negative.
    pub fn law(&self) -> GapLaw {
        GapLaw {
            base_s: self.law.a,
            per_stream_s: self.law.c,
        }
    }

    /// Streams at once at which speed is stated.
    pub fn full_concurrency(&self) -> u32 {
        self.full as u32
    }

    /// Least squares over the recent observations and the shape at its present level, which supplies the slope where
    /// all observations were at one concurrency.
    fn fit(&self) -> Line {
        let level = (self.level_sum / self.level_weight).exp();
        let mut sums = self.recent;
        for at in [1.0, self.shape_end()] {
            let believed = self.shape.at(at);
            sums.add(at, level * believed, SHAPE_WEIGHT / believed.powi(2));
        }
        sums.line().unwrap_or(self.law)
    }

    /// Turns the shape about the middle of the recent observations towards the fitted line, as far as they differ in
    /// concurrency; without difference it stays, however long that lasts.
    fn learn_shape(&mut self) {
        let middle = self.recent.wb / self.recent.w;
        let end = self.shape_end();
        let mut anchors = Sums::default();
        for at in [1.0, end] {
            anchors.add(at, 0.0, SHAPE_WEIGHT / self.shape.at(at).powi(2));
        }
        let told = self.recent.spread();
        let share = told / (told + anchors.spread());
        let factor = self.shape.at(middle) / self.law.at(middle);
        if !(share.is_finite() && factor.is_finite()) {
            return;
        }
        let step = SHAPE_PACE * share;
        self.shape.a += step * (self.law.a * factor - self.shape.a);
        self.shape.c += step * (self.law.c * factor - self.shape.c);
    }

    fn shape_end(&self) -> f64 {
        self.full.max(2.0)
    }
}

impl Line {
    fn at(self, b: f64) -> f64 {
        self.a + self.c * b
    }
}

impl Sums {
    fn add(&mut self, b: f64, y: f64, w: f64) {
        self.w += w;
        self.wb += w * b;
        self.wbb += w * b * b;
        self.wy += w * y;
        self.wby += w * b * y;
    }

    fn fade(&mut self) {
        let Sums {
            w,
            wb,
            wbb,
            wy,
            wby,
        } = self;
        for sum in [w, wb, wbb, wy, wby] {
            *sum *= KEEP;
        }
    }

    /// Weighted sum of the squared distances of `b` from its mean: what is known of the slope.
    fn spread(&self) -> f64 {
        if self.w > 0.0 {
            (self.wbb - self.wb * self.wb / self.w).max(0.0)
        } else {
            0.0
        }
    }

    /// The best line with `a` and `c` not negative.
    fn line(&self) -> Option<Line> {
        let spread = self.spread();
        let c = (self.wby - self.wb * self.wy / self.w) / spread;
        let a = (self.wy - c * self.wb) / self.w;
        let line = if c < 0.0 {
            Line {
                a: self.wy / self.w,
                c: 0.0,
            }
        } else if a < 0.0 {
            Line {
                a: 0.0,
                c: self.wby / self.wbb,
            }
        } else {
            Line { a, c }
        };
        let usable = line.a.is_finite() && line.c.is_finite() && line.at(1.0) > 0.0;
        usable.then_some(line)
    }
}

fn full_concurrency(prior: SpeedPrior, max_concurrency: Option<u32>) -> f64 {
    f64::from(max_concurrency.unwrap_or(prior.concurrency).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prior(speed: f64, concurrency: u32) -> SpeedPrior {
        SpeedPrior {
            tokens_per_second: TokensPerSecond(speed),
            concurrency,
        }
    }

    fn of(base_s: f64, per_stream_s: f64) -> GapLaw {
        GapLaw {
            base_s,
            per_stream_s,
        }
    }

    /// Sees `n` seconds of a worker with the law `a + c b` at each of the given concurrencies in turn.
    fn watch(estimate: &mut SpeedEstimate, law: GapLaw, streams: &[f64], n: usize) {
        for i in 0..n {
            let b = streams[i % streams.len()];
            let gap = law.at(b);
            estimate.observe(gap, b, (b / gap).ceil() as u32);
        }
    }

    #[track_caller]
    fn assert_near(estimate: &SpeedEstimate, expected: f64, within: f64) {
        let speed = estimate.speed().0;
        let off = (speed / expected - 1.0).abs();
        assert!(
            off <= within,
            "{speed}, expected {expected} within {within}"
        );
    }

    #[test]
    fn before_anything_is_seen_the_prior_holds() {
        assert_near(&SpeedEstimate::new(prior(800.0, 32), None), 800.0, 1e-9);
        let limited = SpeedEstimate::new(prior(800.0, 32), Some(8));
        assert!(limited.speed().0 < 300.0);
    }

    #[test]
    fn low_demand_does_not_look_like_low_capacity() {
        for concurrency in [1, 4, 32, 256] {
            let mut estimate = SpeedEstimate::new(prior(800.0, concurrency), None);
            let law = estimate.law();
            watch(&mut estimate, law, &[1.0], 5000);
            assert_near(&estimate, 800.0, 0.001);
        }
    }

    #[test]
    fn a_worker_that_slows_by_thirty_percent_is_found_out_within_180_seconds_at_any_concurrency() {
        for b in [1.0, 2.0, 7.5, 32.0, 60.0] {
            let mut estimate = SpeedEstimate::new(prior(800.0, 32), None);
            let law = estimate.law();
            watch(&mut estimate, law, &[b], 1000);
            watch(
                &mut estimate,
                of(law.base_s / 0.7, law.per_stream_s / 0.7),
                &[b],
                180,
            );
            assert_near(&estimate, 560.0, 0.03);
        }
    }

    #[test]
    fn a_prior_wrong_by_a_factor_of_three_is_corrected_within_60_seconds() {
        for factor in [3.0, 1.0 / 3.0] {
            for b in [28.0, 32.0, 36.0] {
                let mut estimate = SpeedEstimate::new(prior(800.0 * factor, 32), None);
                let truth = SpeedEstimate::new(prior(800.0, 32), None).law();
                watch(&mut estimate, truth, &[b], 60);
                assert_near(&estimate, 800.0, 0.05);
            }
        }
    }

    #[test]
    fn an_engine_that_saturates_early_is_learned_and_not_forgotten_at_low_demand() {
        // Twice the gap at five streams: 1 / (0.05 + 0.01 b) tokens a second each.
        let mut estimate = SpeedEstimate::new(prior(300.0, 8), None);
        watch(&mut estimate, of(0.05, 0.01), &[1.0, 3.0, 5.0, 8.0], 1200);
        let truth = 8.0 / 0.13;
        assert_near(&estimate, truth, 0.03);
        watch(&mut estimate, of(0.05, 0.01), &[1.0], 3600);
        assert_near(&estimate, truth, 0.08);
    }

    #[test]
    fn a_stall_now_and_then_moves_little() {
        let mut estimate = SpeedEstimate::new(prior(800.0, 32), None);
        let law = estimate.law();
        for _ in 0..20 {
            watch(&mut estimate, law, &[8.0], 60);
            estimate.observe(9.0, 8.0, 1);
        }
        assert_near(&estimate, 800.0, 0.05);
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut estimate = SpeedEstimate::new(prior(800.0, 32), None);
        let before = estimate.clone();
        for gap in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            estimate.observe(gap, 4.0, 10);
        }
        for concurrency in [f64::NAN, 0.0, 0.5, -3.0, f64::INFINITY] {
            estimate.observe(0.02, concurrency, 10);
        }
        estimate.observe(0.02, 4.0, 0);
        assert_eq!(estimate, before);
        let odd = SpeedEstimate::new(prior(f64::NAN, 0), Some(0));
        assert!(odd.speed().0 > 0.0);
    }

    proptest! {
        #[test]
        fn whatever_is_seen_the_law_stays_a_law(
            seen in prop::collection::vec((1e-4..10.0_f64, 1.0..300.0_f64, 1..5000_u32), 1..300),
            concurrency in 1..256_u32,
        ) {
            let mut estimate = SpeedEstimate::new(prior(500.0, concurrency), None);
            for (gap, b, tokens) in seen {
                estimate.observe(gap, b, tokens);
                let law = estimate.law();
                prop_assert!(law.base_s >= 0.0 && law.per_stream_s >= 0.0);
                let speed = estimate.speed().0;
                prop_assert!(speed.is_finite() && speed > 0.0);
            }
        }
    }
}
