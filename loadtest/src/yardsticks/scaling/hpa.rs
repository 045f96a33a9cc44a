//! Kubernetes' horizontal pod autoscaler: the fleet times utilisation over its target.
//!
//! Defaults of kube-controller-manager: every 15 s, 10 % tolerance, down only to the most of the last 300 s, up by at
//! most the greater of four pods and the fleet again in 15 s.

use std::time::Duration;

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::load::{Arrivals, Peak, backlog, ready};
use super::orders::{Wanted, towards};

const PERIOD: Duration = Duration::from_secs(15);
const STABILISED: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_secs(30);
const TOLERANCE: f64 = 0.1;
const UP_PODS: f64 = 4.0;

/// Utilisation counts what waits, as a custom metric of an engine's queue would; that of a CPU cannot exceed one.
#[derive(Clone, Debug)]
pub struct Hpa {
    target: f64,
    workers_max: usize,
    arrivals: Arrivals,
    peak: Peak,
    decided: Option<Timestamp>,
    wanted: f64,
    hold: f64,
}

impl Hpa {
    pub fn new(target: f64, workers_max: usize) -> Self {
        Self {
            target,
            workers_max,
            arrivals: Arrivals::new(WINDOW),
            peak: Peak::new(STABILISED),
            decided: None,
            wanted: 0.0,
            hold: 0.0,
        }
    }

    fn decide(&mut self, inputs: &ScalingInputs, now: Timestamp) {
        let capacity = ready(inputs);
        let queued = backlog(inputs) / WINDOW.as_secs_f64();
        let used = self.arrivals.mean(WINDOW) + queued;
        let speed = inputs.groups.first().map_or(0.0, |group| group.speed.0);
        self.wanted = if capacity > 0.0 {
            let ratio = used / capacity / self.target;
            let most = (2.0 * capacity).max(capacity + UP_PODS * speed);
            let calm = (ratio - 1.0).abs() <= TOLERANCE;
            if calm { capacity } else { capacity * ratio }.min(most)
        } else if used > 0.0 {
            // It cannot scale from zero by itself; an activator in front of it would ask for one.
            speed
        } else {
            0.0
        };
        self.hold = self.peak.push(self.wanted, now);
    }
}

impl Planner for Hpa {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        self.arrivals.observe(inputs, now);
        if self.decided.is_none_or(|at| now.since(at) >= PERIOD) {
            self.decided = Some(now);
            self.decide(inputs, now);
        }
        towards(
            &Wanted::without_reserve(self.wanted, self.hold, self.workers_max),
            inputs,
        )
    }
}
