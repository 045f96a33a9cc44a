//! Chance that a seed repeats: each question has a stream of its own, so that the order of calls changes nothing.

use fastrand::Rng;

/// The generator for the `number`th time that `what` is asked.
pub fn stream(seed: u64, what: &str, number: u64) -> Rng {
    // FNV-1a, then one round of mixing by the generator itself.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let bytes = what.bytes().chain(number.to_le_bytes());
    for byte in bytes.chain(seed.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut rng = Rng::with_seed(hash);
    Rng::with_seed(rng.u64(..))
}

pub fn happens(rng: &mut Rng, share: f64) -> bool {
    rng.f64() < share
}

pub fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.f64()
}

/// About normal, with middle 0 and deviation 1.
pub fn normal(rng: &mut Rng) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.f64()).sum();
    sum - 6.0
}

/// A waiting time with this mean.
pub fn waiting(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// One of them, each as likely.
pub fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> Option<&'a T> {
    of.get(rng.usize(..of.len().max(1)))
}
