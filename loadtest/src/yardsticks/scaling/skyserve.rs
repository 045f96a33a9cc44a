//! SkyServe's request-rate autoscaler with spares: replicas by load, patient both ways.
//!
//! Defaults of skypilot `serve`: up after 300 s above, down after 1,200 s below; its spot policy keeps spare replicas
//! (`num_overprovision`) for those that are taken away.

use std::time::Duration;

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::load::Arrivals;
use super::orders::{Wanted, towards};

const WINDOW: Duration = Duration::from_secs(60);
const UP_AFTER: Duration = Duration::from_secs(300);
const DOWN_AFTER: Duration = Duration::from_secs(1_200);

#[derive(Clone, Debug)]
pub struct SkyServe {
    /// Load a replica is given, as a share of its capacity.
    target: f64,
    spares: u32,
    workers_max: usize,
    arrivals: Arrivals,
    /// Of all replicas, in workers of the first group.
    replicas: f64,
    above_since: Option<Timestamp>,
    below_since: Option<Timestamp>,
}

impl SkyServe {
    pub fn new(target: f64, spares: u32, workers_max: usize) -> Self {
        Self {
            target,
            spares,
            workers_max,
            arrivals: Arrivals::new(WINDOW),
            replicas: 0.0,
            above_since: None,
            below_since: None,
        }
    }
}

impl Planner for SkyServe {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        self.arrivals.observe(inputs, now);
        let speed = inputs.groups.first().map_or(0.0, |group| group.speed.0);
        let desired = (self.arrivals.mean(WINDOW) / (self.target * speed).max(1e-9)).ceil();
        let since = |counter: &mut Option<Timestamp>, counts: bool| {
            *counter = counts.then(|| counter.unwrap_or(now));
            counter.map_or(Duration::ZERO, |at| now.since(at))
        };
        let above = since(&mut self.above_since, desired > self.replicas);
        let below = since(&mut self.below_since, desired < self.replicas);
        let wakes = self.replicas == 0.0 && desired > 0.0;
        if wakes || above >= UP_AFTER || below >= DOWN_AFTER {
            self.replicas = desired;
            (self.above_since, self.below_since) = (None, None);
        }
        let spares = if self.replicas > 0.0 {
            f64::from(self.spares)
        } else {
            0.0
        };
        let wanted = (self.replicas + spares) * speed;
        towards(
            &Wanted::without_reserve(wanted, wanted, self.workers_max),
            inputs,
        )
    }
}
