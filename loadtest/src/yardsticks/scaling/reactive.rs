//! Capacity for the load of the last minute, and Vast's way, which is that with a reserve.

use std::time::Duration;

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::load::{Arrivals, Peak, backlog, ready};
use super::orders::{Wanted, towards};

const WINDOW: Duration = Duration::from_secs(60);
/// What waits is to be done within.
const DRAIN_S: f64 = 60.0;

/// `load / util`, and what waits within a minute; down only to the most wanted of the last `hold`.
#[derive(Clone, Debug)]
pub struct Reactive {
    util: f64,
    /// Prepared capacity is this many times the wanted one; 1: none.
    cold_mult: f64,
    /// A queue longer than this is worked off within this.
    hard_after_s: f64,
    workers_max: usize,
    arrivals: Arrivals,
    peak: Peak,
    prepared_peak: Peak,
}

impl Reactive {
    pub fn new(util: f64, hold: Duration, workers_max: usize) -> Self {
        Self {
            util,
            cold_mult: 1.0,
            hard_after_s: f64::INFINITY,
            workers_max,
            arrivals: Arrivals::new(WINDOW),
            peak: Peak::new(hold),
            prepared_peak: Peak::new(hold),
        }
    }

    /// The settings Vast documents for its serverless engine: `target_util` 0.9, a reserve of `cold_mult`, scaling hard
    /// above `target_queue_time` 10 s. Its way down is not documented; five minutes are a guess in its favour.
    pub fn vast_like(util: f64, cold_mult: f64, workers_max: usize) -> Self {
        Self {
            cold_mult,
            hard_after_s: 10.0,
            ..Self::new(util, Duration::from_secs(300), workers_max)
        }
    }
}

impl Planner for Reactive {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        self.arrivals.observe(inputs, now);
        let load = self.arrivals.mean(WINDOW);
        let waiting = backlog(inputs);
        let mut running = load / self.util + waiting / DRAIN_S;
        if waiting > self.hard_after_s * ready(inputs) {
            running = running.max(load / self.util + waiting / self.hard_after_s);
        }
        let prepared = load / self.util * self.cold_mult;
        let wanted = Wanted {
            running,
            prepared,
            hold: self.peak.push(running, now),
            hold_prepared: self.prepared_peak.push(prepared, now),
            workers_max: self.workers_max,
        };
        towards(&wanted, inputs)
    }
}
