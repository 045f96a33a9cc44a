//! Chance that replays: a seed gives the same draws for ever.
//!
//! What is drawn for one thing ([`SplitMix::about`]) does not depend on what is drawn for others, so that two policies
//! in the same world meet the same luck: the third machine rented of a host starts as slowly under one as under the other.

use std::f64::consts::TAU;

/// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The draws for one purpose and one thing, such as the third rental of a machine.
    pub fn about(seed: u64, purpose: &str, thing: u64) -> Self {
        let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in purpose.bytes().chain(thing.to_le_bytes()) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut stream = Self(state);
        stream.draw();
        stream
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this chance.
    pub fn happens(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// Of this mean and coefficient of variation.
    pub fn log_normal(&mut self, mean: f64, cv: f64) -> f64 {
        let variance = (cv * cv).ln_1p();
        mean * (variance.sqrt() * self.normal() - variance / 2.0).exp()
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// With shape 0.5 the mean is twice the scale, and what has lasted lasts on.
    pub fn weibull(&mut self, shape: f64, scale: f64) -> f64 {
        scale * (-(1.0 - self.unit()).ln()).powf(1.0 / shape)
    }

    /// Of mean `shape`; Marsaglia and Tsang (2000), bounded in tries.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape <= 0.0 {
            return 0.0;
        }
        if shape < 1.0 {
            let lift = (1.0 - self.unit()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * lift;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        for _ in 0..64 {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.unit();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mean(draw: impl Fn(&mut SplitMix) -> f64, expected: f64) {
        let mut chance = SplitMix::about(7, "means", 1);
        let n = 200_000;
        let mean = (0..n).map(|_| draw(&mut chance)).sum::<f64>() / f64::from(n);
        assert!(
            (mean / expected - 1.0).abs() < 0.02,
            "{mean}, not {expected}"
        );
    }

    #[test]
    fn draws_have_the_means_they_are_asked_for() {
        check_mean(|chance| chance.log_normal(300.0, 0.35), 300.0);
        check_mean(|chance| chance.exponential(20.0), 20.0);
        check_mean(|chance| chance.weibull(0.5, 1.5), 3.0);
        check_mean(|chance| chance.gamma(0.3), 0.3);
        check_mean(|chance| chance.gamma(40.0), 40.0);
        check_mean(|chance| chance.normal().powi(2), 1.0);
    }

    #[test]
    fn what_is_drawn_for_one_thing_is_its_own_and_replays() {
        let first = |seed, purpose, thing| SplitMix::about(seed, purpose, thing).draw();
        assert_eq!(first(1, "starts", 3), first(1, "starts", 3));
        assert_ne!(first(1, "starts", 3), first(1, "starts", 4));
        assert_ne!(first(1, "starts", 3), first(1, "deaths", 3));
        assert_ne!(first(1, "starts", 3), first(2, "starts", 3));
    }
}
