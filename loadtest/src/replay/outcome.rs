//! What became of one request, and the tallies that requests are summed into.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Why a request counts as failed; `kind` is what failures are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: String,
    pub detail: String,
}

impl Failure {
    pub fn new(kind: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.to_string(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// `None`: answered to its terminal event.
    pub failure: Option<Failure>,
    /// From sending to the first token; for unstreamed answers to the whole answer.
    pub first_token: Option<Duration>,
    pub gaps: Vec<Duration>,
    pub output_tokens: u64,
    /// From sending to the end.
    pub total: Duration,
    /// How much later than planned it was sent: the load generator's own delay.
    pub send_lag: Duration,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Times, recorded in microseconds with three digits.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

/// Longer times than this are recorded as this.
const LONGEST_US: u64 = 24 * 3600 * 1_000_000;

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Self(histogram.expect("constant bounds are valid"))
    }
}

impl Times {
    pub fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(micros);
    }

    /// `None` without a record.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        (!self.0.is_empty()).then(|| Quantiles {
            count: self.0.len(),
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        })
    }
}

/// Sums over requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub answered: u64,
    pub failures: BTreeMap<String, u64>,
    /// One detail of each kind of failure, the first seen.
    pub examples: BTreeMap<String, String>,
    pub output_tokens: u64,
    /// First token later than the limit, or never.
    pub late: u64,
    pub first_token: Times,
    pub gap: Times,
    pub total: Times,
    pub send_lag: Times,
}

impl Tally {
    pub fn add(&mut self, outcome: &Outcome, late_after: Duration) {
        self.sent += 1;
        self.output_tokens += outcome.output_tokens;
        self.late += u64::from(outcome.first_token.is_none_or(|time| time > late_after));
        self.send_lag.record(outcome.send_lag);
        if let Some(time) = outcome.first_token {
            self.first_token.record(time);
        }
        for &gap in &outcome.gaps {
            self.gap.record(gap);
        }
        match &outcome.failure {
            None => {
                self.answered += 1;
                self.total.record(outcome.total);
            }
            Some(failure) => {
                *self.failures.entry(failure.kind.clone()).or_default() += 1;
                self.examples
                    .entry(failure.kind.clone())
                    .or_insert_with(|| failure.detail.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(first_token_ms: u64) -> Outcome {
        Outcome {
            first_token: Some(Duration::from_millis(first_token_ms)),
            output_tokens: 3,
            ..Outcome::default()
        }
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_times() {
        let mut times = Times::default();
        for ms in 1..=1000 {
            times.record(Duration::from_millis(ms));
        }
        let got = times.quantiles().unwrap();
        for (got, expect) in [
            (got.p50_ms, 500.0),
            (got.p95_ms, 950.0),
            (got.p99_ms, 990.0),
            (got.max_ms, 1000.0),
        ] {
            assert!((got / expect - 1.0).abs() < 0.002, "{got} for {expect}");
        }
        assert_eq!(got.count, 1000);
    }

    #[test]
    fn no_times_have_no_quantiles_and_a_zero_counts() {
        let mut times = Times::default();
        assert_eq!(times.quantiles(), None);
        times.record(Duration::ZERO);
        assert_eq!(times.quantiles().unwrap().count, 1);
    }

    #[test]
    fn late_is_a_first_token_after_the_limit_or_none_at_all() {
        let mut tally = Tally::default();
        let late_after = Duration::from_secs(10);
        tally.add(&answered(9_999), late_after);
        tally.add(&answered(10_001), late_after);
        let refused = Outcome {
            failure: Some(Failure::new("status 503", "no worker")),
            ..Outcome::default()
        };
        tally.add(&refused, late_after);
        assert_eq!((tally.sent, tally.answered, tally.late), (3, 2, 2));
        assert_eq!(tally.failures["status 503"], 1);
        assert_eq!(tally.examples["status 503"], "no worker");
        assert_eq!(tally.output_tokens, 6);
    }
}
