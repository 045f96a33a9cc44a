//! Knative's pod autoscaler: concurrency over a target, with a window for panic.
//!
//! Defaults of knative/serving `config-autoscaler`: 70 % of the concurrency a pod is given, a stable window of 60 s, a
//! panic window of a tenth of it, panic from twice what is ready on, no scale-down while in panic.

use std::time::Duration;

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::load::{Arrivals, Peak, backlog, ready};
use super::orders::{Wanted, towards};

const STABLE: Duration = Duration::from_secs(60);
const PANIC: Duration = Duration::from_secs(6);
const PANIC_FROM: f64 = 2.0;

/// Concurrency is counted in work: what arrives a second and what waits to be done, as shares of a worker's capacity.
#[derive(Clone, Debug)]
pub struct Knative {
    target: f64,
    workers_max: usize,
    arrivals: Arrivals,
    delay: Peak,
    panicked: Option<(Timestamp, f64)>,
}

impl Knative {
    /// `delay`: `scale-down-delay`, by default nothing.
    pub fn new(target: f64, delay: Duration, workers_max: usize) -> Self {
        Self {
            target,
            workers_max,
            arrivals: Arrivals::new(STABLE),
            delay: Peak::new(delay),
            panicked: None,
        }
    }
}

impl Planner for Knative {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        self.arrivals.observe(inputs, now);
        let queued = backlog(inputs) / STABLE.as_secs_f64();
        let stable = (self.arrivals.mean(STABLE) + queued) / self.target;
        let panic = (self.arrivals.mean(PANIC) + queued) / self.target;
        let ready = ready(inputs);
        if ready > 0.0 && panic >= PANIC_FROM * ready {
            let most = self.panicked.map_or(0.0, |(_, most)| most);
            self.panicked = Some((now, most.max(panic)));
        }
        self.panicked = self.panicked.filter(|&(at, _)| now.since(at) < STABLE);
        let wanted = match self.panicked {
            Some((_, most)) => stable.max(panic).max(most),
            None => stable,
        };
        let hold = self.delay.push(wanted, now);
        towards(
            &Wanted::without_reserve(wanted, hold, self.workers_max),
            inputs,
        )
    }
}
