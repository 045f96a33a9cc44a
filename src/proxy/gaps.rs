//! The gaps between the events of one stream, kept in 64 bytes: no allocation, no logarithm a token.

use std::time::Duration;

/// Two buckets an octave, from 0.5 ms to 17 s; what is outside is in the first or last.
const BUCKETS: usize = 32;
/// Bucket 0 ends at 2^(FIRST/2) microseconds.
const FIRST: u32 = 18;

#[derive(Debug, Default)]
pub(super) struct Gaps {
    counts: [u16; BUCKETS],
    max: Duration,
}

impl Gaps {
    pub(super) fn add(&mut self, gap: Duration) {
        self.max = self.max.max(gap);
        let bucket = bucket(gap);
        if self.counts[bucket] == u16::MAX {
            // Over 65,535 events: shares stay what they were, and what comes counts double.
            for count in &mut self.counts {
                *count /= 2;
            }
        }
        self.counts[bucket] += 1;
    }

    pub(super) fn max(&self) -> Option<Duration> {
        (self.total() > 0).then_some(self.max)
    }

    /// Within a fifth of the true median, never above the maximum.
    pub(super) fn median(&self) -> Option<Duration> {
        let half = self.total().div_ceil(2);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u32::from(*count);
            if seen >= half && seen > 0 {
                return Some(middle(bucket).min(self.max));
            }
        }
        None
    }

    fn total(&self) -> u32 {
        self.counts.iter().map(|count| u32::from(*count)).sum()
    }
}

fn bucket(gap: Duration) -> usize {
    let micros = gap.as_micros().clamp(1, u128::from(u32::MAX)) as u64;
    // Twice the binary logarithm, rounded down.
    let halves = (micros * micros).ilog2();
    ((halves + 1).saturating_sub(FIRST) as usize).min(BUCKETS - 1)
}

/// The geometric middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let halves = (bucket as f64) + f64::from(FIRST) - 0.5;
    Duration::from_secs_f64((halves / 2.0).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gaps_ms: impl IntoIterator<Item = f64>, median_ms: f64, max_ms: f64) {
        let mut gaps = Gaps::default();
        for gap in gaps_ms {
            gaps.add(Duration::from_secs_f64(gap / 1e3));
        }
        let ms = |gap: Option<Duration>| gap.map_or(f64::NAN, |gap| gap.as_secs_f64() * 1e3);
        let (median, max) = (ms(gaps.median()), ms(gaps.max()));
        assert!(
            (median / median_ms - 1.0).abs() <= 0.2,
            "median {median}, not {median_ms}"
        );
        assert!((max - max_ms).abs() < 0.01, "max {max}, not {max_ms}");
    }

    #[test]
    fn the_median_is_within_a_fifth_and_the_maximum_exact() {
        check([20.0], 20.0, 20.0);
        check([10.0, 20.0, 900.0], 20.0, 900.0);
        check((0..1_000).map(|n| 1.0 + f64::from(n)), 500.0, 1_000.0);
        check((0..99).map(|_| 31.0).chain([9_000.0]), 31.0, 9_000.0);
    }

    #[test]
    fn a_long_stream_keeps_its_shares() {
        check(
            (0..300_000).map(|n| if n % 3 == 0 { 300.0 } else { 8.0 }),
            8.0,
            300.0,
        );
    }

    #[test]
    fn without_gaps_there_is_nothing_to_say_and_extremes_fit() {
        let mut gaps = Gaps::default();
        assert_eq!((gaps.median(), gaps.max()), (None, None));
        gaps.add(Duration::ZERO);
        gaps.add(Duration::from_secs(100_000));
        assert_eq!(gaps.max(), Some(Duration::from_secs(100_000)));
        assert_eq!(gaps.median(), Some(middle(0)));
        assert!(size_of::<[u16; BUCKETS]>() <= 64);
    }
}
