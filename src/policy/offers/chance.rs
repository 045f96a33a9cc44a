//! Draws from what might be, made of one number: the same number draws the same.

use std::f64::consts::TAU;

/// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
pub(super) struct Draws(u64);

impl Draws {
    /// For one thing of many: what is drawn for it does not depend on the others.
    pub fn about(seed: u64, thing: &str) -> Self {
        let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in thing.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(state)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }

    /// Beta of two counts, each at least one half.
    pub fn beta(&mut self, good: f64, bad: f64) -> f64 {
        let (good, bad) = (self.gamma(good), self.gamma(bad));
        good / (good + bad).max(f64::MIN_POSITIVE)
    }

    /// Marsaglia and Tsang (2000); bounded in tries.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let lift = self.unit().powf(1.0 / shape.max(0.05));
            return self.gamma(shape.max(0.05) + 1.0) * lift;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        for _ in 0..64 {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_mean_they_should_and_replay() {
        let mut draws = Draws::about(7, "offer");
        let n = 20_000;
        let beta: f64 = (0..n).map(|_| draws.beta(18.0, 2.0)).sum::<f64>() / f64::from(n);
        assert!((beta - 0.9).abs() < 0.005, "{beta}");
        let small: f64 = (0..n).map(|_| draws.beta(0.5, 0.5)).sum::<f64>() / f64::from(n);
        assert!((small - 0.5).abs() < 0.01, "{small}");
        let normal: f64 = (0..n).map(|_| draws.normal()).sum::<f64>() / f64::from(n);
        assert!(normal.abs() < 0.03, "{normal}");
        let first = |seed| Draws::about(seed, "offer").unit();
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8));
    }
}
