//! Times in nanoseconds and their quantiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// What clients waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays {
    /// From the request's sending to the first byte of the answer's body.
    pub first_byte: Times,
    /// From a token's event leaving the worker to its arrival at the client.
    pub way: Times,
    /// Between two tokens at the client.
    pub gap: Times,
}

#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

const LONGEST_NS: u64 = 600 * 1_000_000_000;

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Self(histogram.expect("constant bounds are valid"))
    }
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Times {
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS);
        self.0.saturating_record(nanos);
    }

    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// `None` without a record.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        (!self.0.is_empty()).then(|| Quantiles {
            p50: at(0.50),
            p99: at(0.99),
            p999: at(0.999),
        })
    }
}

impl Quantiles {
    /// Each beyond the same one of the others: what a proxy added to them.
    pub fn beyond(self, floor: Self) -> Self {
        Self {
            p50: self.p50 - floor.p50,
            p99: self.p99 - floor.p99,
            p999: self.p999 - floor.p999,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_recorded_times() {
        let mut times = Times::default();
        assert_eq!(times.quantiles(), None);
        (1..=1000).for_each(|micros| times.record(Duration::from_micros(micros)));
        let got = times.quantiles().unwrap();
        for (got, expect) in [(got.p50, 0.5), (got.p99, 0.99), (got.p999, 0.999)] {
            assert!((got / expect - 1.0).abs() < 0.002, "{got} for {expect}");
        }
        let added = got.beyond(got);
        assert_eq!((added.p50, added.p999), (0.0, 0.0));
    }
}
