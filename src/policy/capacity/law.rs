//! The law of one worker's iterations, learned by recursive Bayesian least squares.
//!
//! The four parameters share a level that may drift, so that one concurrency tells of a slower machine at all; their
//! proportions (the shape) are learned only from seconds that differ in load, and forgotten only along what those
//! seconds excite (Kulhavy 1987). Errors are relative, outliers are cut (Huber 1964), no parameter is negative.

use serde::{Deserialize, Serialize};

use super::GapSample;
use crate::domain::{IterationLaw, IterationLoad, SpeedPrior};

/// Base, streams, KV kilotokens, prompt tokens.
const PARTS: usize = 4;
type Vector = [f64; PARTS];
type Matrix = [Vector; PARTS];

/// Share by which a full second moves the level once it is known: half of a change within 30 s.
const LEVEL_PACE: f64 = 0.025;
/// What a second adds to the doubt about the proportions it tells of; some 300 seconds count.
const SHAPE_KEEP: f64 = 0.997;
/// Relative variance of a full second: at least, and at most.
const NOISE_MIN: f64 = 0.01;
const NOISE_MAX: f64 = 0.09;
const NOISE_PACE: f64 = 0.02;
/// Surprises beyond so many standard deviations count as that many.
const HUBER: f64 = 2.5;
/// A second counts as at most this many times slower or faster than expected; a stall is not a speed.
const SURPRISE_MAX: f64 = 4.0;
/// Tokens that make half a full observation.
const HALF_WEIGHT_TOKENS: f64 = 4.0;
/// Relative variances of what a benchmark measured, and of what network and queue take part in.
const BENCHMARK_NOISE: f64 = 0.0025;
const ROUGH_NOISE: f64 = 0.09;

/// Before anything is known: streams at which they, or KV kilotokens at which those, double the time of an iteration;
/// the order of large GPUs. What each stream holds then, in thousands of tokens.
const PRIOR_DOUBLING: f64 = 100.0;
pub(super) const PRIOR_CONTEXT: f64 = 0.5;
/// How far the proportions may be from these, as shares of each part.
const PRIOR_SHAPE_SD: Vector = [0.2, 2.0, 1.0, 1.0];
/// Doubt about the level when the work is known to have changed, and the part of the first doubt about proportions.
const WIDENED_SD: f64 = 0.35;
const WIDENED_SHAPE: f64 = 0.3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LawEstimate {
    parts: Vector,
    covariance: Matrix,
    /// Relative variance of a full second.
    noise: f64,
    /// Sum of the weights of all seconds seen.
    seen: f64,
}

impl LawEstimate {
    /// At the prior's concurrency, whatever the mix, the stated speed. `kappa` prompt tokens take as long as one output
    /// token: that is what kappa means.
    pub(super) fn of_prior(prior: SpeedPrior, sd: f64, kappa: f64) -> Self {
        let at = f64::from(prior.concurrency.max(1));
        let stated = prior.tokens_per_second.0;
        let speed = if stated.is_finite() && stated > 0.0 {
            stated
        } else {
            1.0
        };
        let base = (at / speed) / (1.0 + at * (1.0 + PRIOR_CONTEXT) / PRIOR_DOUBLING);
        let slope = base / PRIOR_DOUBLING;
        let parts = [base, slope, slope, 1.0 / (speed * kappa)];
        let mut law = Self {
            parts,
            covariance: [[0.0; PARTS]; PARTS],
            noise: NOISE_MIN,
            seen: 0.0,
        };
        law.doubt(sd, 1.0);
        law
    }

    pub(super) fn law(&self) -> IterationLaw {
        let [base_s, per_stream_s, per_kv_kilotoken_s, per_prompt_token_s] = self.parts;
        IterationLaw {
            base_s,
            per_stream_s,
            per_kv_kilotoken_s,
            per_prompt_token_s,
        }
    }

    pub(super) fn has_seen(&self) -> bool {
        self.seen > 0.0
    }

    /// Full seconds of traffic.
    pub(super) fn seconds_seen(&self) -> f64 {
        self.seen
    }

    /// The work changed: the level is as open as at first, about what is believed now, and the proportions a little.
    pub(super) fn widen(&mut self) {
        self.doubt(WIDENED_SD, WIDENED_SHAPE);
    }

    fn doubt(&mut self, level_sd: f64, shape: f64) {
        let parts = self.parts;
        self.add_outer(level_sd.powi(2), parts);
        for (i, sd) in PRIOR_SHAPE_SD.iter().enumerate() {
            self.covariance[i][i] += (shape * sd * parts[i]).powi(2);
        }
    }

    /// Standard deviation of `work . parts` as a share of it.
    pub(super) fn relative_sd(&self, work: Vector) -> f64 {
        let variance = dot(work, times(&self.covariance, work)).max(0.0);
        variance.sqrt() / dot(work, self.parts).max(f64::MIN_POSITIVE)
    }

    /// A second of traffic. Nonsense and seconds without tokens are ignored.
    pub(super) fn observe(&mut self, sample: &GapSample) {
        let load = vector(sample.load);
        let sane = load.iter().all(|part| part.is_finite() && *part >= 0.0);
        if !sane || sample.load.streams < 1.0 || sample.tokens == 0 || !is_time(sample.mean_gap_s) {
            return;
        }
        let tokens = f64::from(sample.tokens);
        let weight = tokens / (tokens + HALF_WEIGHT_TOKENS);
        self.seen += weight;
        let expected = dot(load, self.parts);
        let told = load.map(|part| part / expected);
        self.drift(weight);
        self.forget(told, weight);
        let surprise = (sample.mean_gap_s / expected).clamp(1.0 / SURPRISE_MAX, SURPRISE_MAX) - 1.0;
        let cut = self.update(told, surprise, self.noise / weight, HUBER);
        if self.seen > 1.0 / NOISE_PACE {
            let step = NOISE_PACE * weight;
            self.noise += step * (cut.powi(2) - self.noise);
            self.noise = self.noise.clamp(NOISE_MIN, NOISE_MAX);
        }
    }

    /// A time that was measured on purpose.
    pub(super) fn measure(&mut self, time_s: f64, load: IterationLoad) {
        self.measured(time_s, load, BENCHMARK_NOISE);
    }

    /// The same where more than the engine takes part.
    pub(super) fn measure_roughly(&mut self, time_s: f64, load: IterationLoad) {
        self.measured(time_s, load, ROUGH_NOISE);
    }

    fn measured(&mut self, time_s: f64, load: IterationLoad, noise: f64) {
        if !is_time(time_s) {
            return;
        }
        // It replaces a belief that may be wrong by any factor; the surprise is that of the belief.
        let load = vector(load);
        let factor = time_s / dot(load, self.parts);
        if !(1.0 / SURPRISE_MAX..=SURPRISE_MAX).contains(&factor) {
            self.scale(factor);
        }
        let expected = dot(load, self.parts);
        let told = load.map(|part| part / expected);
        self.update(told, time_s / expected - 1.0, noise, f64::INFINITY);
    }

    fn scale(&mut self, factor: f64) {
        self.parts = self.parts.map(|part| part * factor);
        for row in &mut self.covariance {
            *row = row.map(|entry| entry * factor * factor);
        }
    }

    /// All parts together may have become slower or faster since the last second.
    fn drift(&mut self, weight: f64) {
        let variance = LEVEL_PACE.powi(2) * self.noise * weight;
        self.add_outer(variance, self.parts);
    }

    /// What the second tells of is known a little less; the rest as well as before.
    fn forget(&mut self, told: Vector, weight: f64) {
        let along = times(&self.covariance, told);
        let variance = dot(told, along);
        if variance <= 0.0 {
            return;
        }
        let more = weight * (1.0 / SHAPE_KEEP - 1.0) / variance;
        self.add_outer(more, along);
    }

    /// Adds `factor * along along'` to the covariance.
    fn add_outer(&mut self, factor: f64, along: Vector) {
        for (row, a) in self.covariance.iter_mut().zip(along) {
            for (entry, b) in row.iter_mut().zip(along) {
                *entry += factor * a * b;
            }
        }
    }

    /// Kalman's step for a relative error; returns the error as far as it counted.
    fn update(&mut self, told: Vector, surprise: f64, noise: f64, huber: f64) -> f64 {
        let along = times(&self.covariance, told);
        let variance = dot(told, along).max(0.0) + noise;
        let most = huber * variance.sqrt();
        let cut = surprise.clamp(-most, most);
        for (part, a) in self.parts.iter_mut().zip(along) {
            *part += a / variance * cut;
        }
        self.add_outer(-1.0 / variance, along);
        self.keep_sane();
        cut
    }

    /// A part below zero becomes zero, and the others what they are expected to be given that.
    fn keep_sane(&mut self) {
        for i in 0..PARTS {
            for j in 0..i {
                let middle = (self.covariance[i][j] + self.covariance[j][i]) / 2.0;
                self.covariance[i][j] = middle;
                self.covariance[j][i] = middle;
            }
            self.covariance[i][i] = self.covariance[i][i].max(0.0);
        }
        for _ in 0..PARTS {
            let Some(i) = (0..PARTS).find(|i| self.parts[*i] < 0.0) else {
                return;
            };
            let variance = self.covariance[i][i];
            if variance > 0.0 {
                let step = self.parts[i] / variance;
                for j in 0..PARTS {
                    self.parts[j] -= self.covariance[j][i] * step;
                }
            }
            self.parts[i] = 0.0;
        }
        self.parts = self.parts.map(|part| part.max(0.0));
    }
}

fn is_time(seconds: f64) -> bool {
    seconds.is_finite() && seconds > 0.0
}

fn vector(load: IterationLoad) -> Vector {
    [1.0, load.streams, load.kv_kilotokens, load.prompt_tokens]
}

fn dot(a: Vector, b: Vector) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(matrix: &Matrix, vector: Vector) -> Vector {
    matrix.map(|row| dot(row, vector))
}
