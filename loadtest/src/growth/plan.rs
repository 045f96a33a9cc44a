//! How long a plan takes: for a load that stays, one that doubles and one that is gone.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate::domain::{RoutingSettings, ScalingSettings, Timestamp, Tokens};
use tidegate::fleet::EndpointFleet;
use tidegate::policy::cost::cost;
use tidegate::policy::plan_scaling;
use tidegate::policy::scaling::{GroupSupply, ScalingInputs, ScalingMemory};

use super::fleet::{occupy, ready};
use super::least_us;

/// Microseconds.
pub(super) struct PlanTimes {
    pub look_us: f64,
    pub steady_us: f64,
    pub grow_us: f64,
    pub shrink_us: f64,
}

impl PlanTimes {
    pub fn longest_us(&self) -> f64 {
        self.steady_us.max(self.grow_us).max(self.shrink_us)
    }
}

/// The load that was there long enough for a plan to know it.
const KNOWN_S: u64 = 900;
const STEP_S: u64 = 5;
/// What a worker is known to do, and the share of it that is asked.
const TOKENS_PER_SECOND: f64 = 700.0;
const USE: f64 = 0.6;

pub(super) fn measure(workers: usize) -> Result<PlanTimes> {
    let endpoint = ready(workers)?;
    let asked = cost(1_000.0, 200.0, RoutingSettings::default().kappa);
    let load = occupy(&endpoint, workers, &asked)?;
    let look = || endpoint.snapshot(Timestamp::from_millis(2_000));
    let look_us = least_us(|| {
        black_box(look());
    });
    let mut past = Past::new(&endpoint, workers)?;
    let tokens_per_second = workers as f64 * TOKENS_PER_SECOND * USE;
    past.live(tokens_per_second, KNOWN_S);
    let steady_us = past.time(tokens_per_second);
    let grow_us = past.time(2.0 * tokens_per_second);
    past.live(0.0, KNOWN_S);
    let shrink_us = past.time(0.0);
    ensure!(past.orders(0.0) > 0, "a load that is gone releases nobody");
    drop(load);
    Ok(PlanTimes {
        look_us,
        steady_us,
        grow_us,
        shrink_us,
    })
}

/// An endpoint's plans so far; the fleet itself stays.
struct Past {
    inputs: ScalingInputs,
    memory: ScalingMemory,
    settings: ScalingSettings,
    now_s: u64,
}

impl Past {
    fn new(endpoint: &EndpointFleet, workers: usize) -> Result<Self> {
        let mut settings = endpoint.settings().scaling.clone();
        settings.max_workers = u32::try_from(3 * workers)?;
        let group = endpoint
            .settings()
            .groups
            .first()
            .context("configured")?
            .name
            .clone();
        // What is not named here has a default.
        let supply: GroupSupply = serde_json::from_value(json!({
            "group": group,
            "speed": TOKENS_PER_SECOND,
            "usd_per_hour": 0.4,
            "rentable": true,
            "failures_total": 0,
        }))?;
        let mut snapshot = endpoint.snapshot(Timestamp::from_millis(2_000));
        // Idle: a worker with work on it is not let go of.
        for worker in &mut snapshot.workers {
            worker.in_flight = 0;
        }
        Ok(Self {
            inputs: ScalingInputs {
                snapshot,
                groups: vec![supply],
                removed: false,
            },
            memory: ScalingMemory::default(),
            settings,
            now_s: 10,
        })
    }

    /// A plan every few seconds is enough to know a load by.
    fn live(&mut self, tokens_per_second: f64, seconds: u64) {
        for _ in 0..seconds / STEP_S {
            let (inputs, now) = self.a_step_later(tokens_per_second);
            let (_, memory) = plan_scaling(&inputs, &self.memory, &self.settings, now);
            (self.inputs, self.memory) = (inputs, memory);
            self.now_s += STEP_S;
        }
    }

    fn a_step_later(&self, tokens_per_second: f64) -> (ScalingInputs, Timestamp) {
        let now = Timestamp::from_millis((self.now_s + STEP_S) * 1_000);
        let mut inputs = self.inputs.clone();
        inputs.snapshot.taken_at = now;
        inputs.snapshot.demand.arrived_total += Tokens(tokens_per_second * STEP_S as f64);
        if tokens_per_second > 0.0 {
            inputs.snapshot.demand.last_active = Some(now);
        }
        (inputs, now)
    }

    fn time(&self, tokens_per_second: f64) -> f64 {
        let (inputs, now) = self.a_step_later(tokens_per_second);
        least_us(|| {
            black_box(plan_scaling(
                black_box(&inputs),
                &self.memory,
                &self.settings,
                now,
            ));
        })
    }

    fn orders(&self, tokens_per_second: f64) -> usize {
        let (inputs, now) = self.a_step_later(tokens_per_second);
        let (plan, _) = plan_scaling(&inputs, &self.memory, &self.settings, now);
        plan.actions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_load_rents_and_a_load_that_is_gone_releases() {
        let endpoint = ready(10).unwrap();
        let mut past = Past::new(&endpoint, 10).unwrap();
        let load = 10.0 * TOKENS_PER_SECOND * USE;
        past.live(load, 60);
        assert_eq!(past.orders(load), 0);
        past.live(2.0 * load, 60);
        assert!(past.orders(2.0 * load) > 0);
        past.live(0.0, KNOWN_S);
        assert!(past.orders(0.0) > 0);
    }
}
