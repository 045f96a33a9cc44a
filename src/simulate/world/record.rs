//! What a simulated world tells: a series over time, every order, and sums.

use serde::{Deserialize, Serialize};

use crate::domain::{Reason, ScalingAction};
use crate::simulate::machines::Bill;

/// The world at one moment: rates in tokens a second, counts of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub at_s: f64,
    /// Arriving work, mean since the last point.
    pub load: f64,
    /// Running and prepared capacity that the last plan wanted.
    pub wanted: f64,
    pub prepared_wanted: f64,
    /// What ready workers can really do.
    pub ready_capacity: f64,
    /// By state, in what the gateway believes of their speeds.
    pub starting_capacity: f64,
    pub stopped_capacity: f64,
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub stopped: u32,
    /// Work that waits, tokens, and how long the oldest of it has waited.
    pub backlog: f64,
    pub waiting_s: f64,
    /// Paid so far.
    pub usd: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ordered {
    pub at_s: f64,
    #[serde(flatten)]
    pub action: ScalingAction,
    pub reason: Reason,
}

/// Everything a run tells. `totals` are of the time from `count_from` on, the rest is whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Run {
    pub series: Vec<Point>,
    pub orders: Vec<Ordered>,
    pub totals: Totals,
}

/// Sums over the time that is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub seconds: f64,
    /// Tokens that arrived.
    pub work: f64,
    pub bill: Bill,
    /// Share of the work that waited longer than `slo.wait`.
    pub late_share: f64,
    /// Quantiles of the waiting time by work, seconds.
    pub wait_p50_s: f64,
    pub wait_p95_s: f64,
    pub wait_p99_s: f64,
    pub wait_max_s: f64,
    /// Work done over what ready workers could have done.
    pub utilisation: f64,
    pub starts: Starts,
    /// Machines that somebody bid away, and machines that failed while they served.
    pub preemptions: u64,
    pub failures: u64,
    /// Seconds of starts that never served.
    pub wasted_start_s: f64,
    /// How long ready capacity stayed below the load (means of a minute), once it was: mean and longest, seconds.
    pub lag_mean_s: f64,
    pub lag_max_s: f64,
    pub lags: u64,
    /// Workers released sooner after they became ready than twice what a cold start takes.
    pub flaps: u64,
    /// Mean workers ready, stopped, and starting.
    pub ready_mean: f64,
    pub stopped_mean: f64,
    pub starting_mean: f64,
    pub plans: u64,
    /// `None` where work flows like water.
    pub requests: Option<RequestTotals>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    pub cold: u64,
    pub cold_failed: u64,
    pub restart: u64,
    pub restart_failed: u64,
    pub refused: u64,
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestTotals {
    pub arrived: u64,
    pub served: u64,
    /// Lost with their worker and asked of another.
    pub retried: u64,
    /// Broken off and gone on with elsewhere.
    pub resumed: u64,
    pub failed: u64,
    /// Refused, having waited too long.
    pub shed: u64,
    /// Shares of the served: first token within 2 s, mean gap within 100 ms, and both.
    pub ttft_share: f64,
    pub tpot_share: f64,
    pub both_share: f64,
    pub ttft_p50_s: f64,
    pub ttft_p99_s: f64,
}

/// What whoever serves has counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub waits: Waits,
    /// Tokens that waited too long.
    pub late: f64,
    /// Tokens' worth of work done.
    pub done: f64,
    /// Tokens that ready workers could have made.
    pub capacity: f64,
    pub requests: Option<RequestTotals>,
}

/// Weights by waiting time, for quantiles; longer than an hour counts as an hour.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    bins: Vec<f64>,
    sum: f64,
    pub max_s: f64,
}

const LONGEST_S: usize = 3_600;
/// Bins of a second.
const FINE: f64 = 20.0;

impl Default for Waits {
    fn default() -> Self {
        Self {
            bins: vec![0.0; LONGEST_S * FINE as usize + 1],
            sum: 0.0,
            max_s: 0.0,
        }
    }
}

impl Waits {
    pub fn add(&mut self, wait_s: f64, weight: f64) {
        let bin = (wait_s.max(0.0) * FINE) as usize;
        let last = self.bins.len() - 1;
        self.bins[bin.min(last)] += weight;
        self.sum += weight;
        self.max_s = self.max_s.max(wait_s);
    }

    pub fn quantile(&self, q: f64) -> f64 {
        let mut left = self.sum * q;
        for (bin, weight) in self.bins.iter().enumerate() {
            left -= weight;
            if left <= 1e-9 * self.sum && *weight > 0.0 {
                return bin as f64 / FINE;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_go_by_weight() {
        let mut waits = Waits::default();
        waits.add(0.0, 96.0);
        waits.add(7.0, 3.0);
        waits.add(30.0, 1.0);
        let found = [0.5, 0.95, 0.98, 0.999].map(|q| waits.quantile(q));
        assert_eq!(found, [0.0, 0.0, 7.0, 30.0]);
        assert_eq!(waits.max_s, 30.0);
        assert_eq!(Waits::default().quantile(0.5), 0.0);
    }
}
