//! How much capacity an endpoint should have, and the orders that lead there.
//!
//! One pure function, [`plan_scaling`], called every few seconds and at events. What it must remember between calls
//! is a value it returns, so that a decision can be written down and replayed ([`replay`]).
//!
//! Its orders take effect at once in the fleet it sees next: a rented worker is there as `Starting`, a drained one as
//! `Draining`. A plan made from a fleet that does not show the last plan's orders yet would give them again.

mod damping;
mod demand;
mod grow;
mod keep;
mod lateness;
mod need;
#[cfg(test)]
mod properties;
mod replace;
mod restarts;
mod shrink;
mod supply;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    FleetSnapshot, GroupName, OfferChoice, ScalingPlan, ScalingSettings, Timestamp,
    TokensPerSecond, UsdPerHour,
};
use crate::policy::forecast::Forecast;

pub use damping::{Backoff, PeakWindow};
pub use demand::DemandMemory;
pub use grow::is_wanting;
pub use replace::still_replaces;

use lateness::Lateness;
use need::Typical;
use replace::Replacement;
use restarts::Restarts;
use supply::{Stock, tps};

/// A worker that has been ready for so long is a success; one that falls over at its first request is not.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// All that a plan depends on besides memory, settings and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalingInputs {
    pub snapshot: FleetSnapshot,
    pub groups: Vec<GroupSupply>,
    /// The endpoint left the configuration: everything is released.
    pub removed: bool,
}

/// What renting one more worker of a group would bring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSupply {
    pub group: GroupName,
    /// Expected of a new worker.
    pub speed: TokensPerSecond,
    pub usd_per_hour: UsdPerHour,
    /// The speed is that of a certain machine on offer, not of the group.
    #[serde(default)]
    pub told_apart: bool,
    /// The market has an offer.
    pub rentable: bool,
    /// Workers of this group that ever failed, refused rentals included.
    pub failures_total: u64,
    #[serde(default)]
    pub starts: StartOutlook,
}

/// What it takes to have one more worker of a group, and to have a stopped one back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartOutlook {
    /// From order to ready.
    #[serde(with = "crate::domain::seconds")]
    pub cold: Duration,
    /// Paid for a cold start before it serves: GPU while it loads, downloads.
    pub cold_usd: f64,
    #[serde(with = "crate::domain::seconds")]
    pub restart: Duration,
    /// Share of the restarts that fail, in [0, 1].
    pub restart_fails: f64,
}

impl Default for StartOutlook {
    fn default() -> Self {
        Self {
            cold: Duration::from_secs(240),
            cold_usd: 0.0,
            restart: Duration::from_secs(60),
            restart_fails: 0.15,
        }
    }
}

/// Of `ScalingMemory`, for who keeps it: raised when a field comes to mean something else. One that comes or goes shows by
/// itself.
pub const MEMORY_SHAPE: u32 = 1;

/// What one plan leaves for the next. Starts as `default()`; losing it costs time, not correctness: nothing is
/// released as surplus before `scale_down_delay` was watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingMemory {
    first_seen: Option<Timestamp>,
    pub demand: DemandMemory,
    forecast: Forecast,
    lateness: Lateness,
    wanted: PeakWindow,
    prepared: PeakWindow,
    groups: BTreeMap<GroupName, GroupMemory>,
    restarts: Restarts,
    replaced: Option<Replacement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct GroupMemory {
    failures_seen: u64,
    backoff: Backoff,
}

/// What the load asks for, in tokens a second.
struct Need {
    /// The load that it is made for, the backlog's share included.
    load: TokensPerSecond,
    wanted: f64,
    /// The part of it that a cold start could still help.
    wanted_cold: f64,
    prepared_wanted: f64,
    waiting: usize,
    /// There was demand recently: a lost last worker is replaced.
    at_least_one: bool,
    /// Seconds without demand, once they are enough to go to zero.
    idle_s: Option<f64>,
    /// So much of the past is known.
    watched_for: Duration,
}

/// One decision with all it depends on: a line of the decision log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub at: Timestamp,
    pub inputs: ScalingInputs,
    pub memory: ScalingMemory,
    pub settings: ScalingSettings,
    pub plan: ScalingPlan,
    pub memory_after: ScalingMemory,
    /// By which offers its rentals are made, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<OfferChoice>,
}

/// Whether the recorded decision is the one that would be made today.
pub fn replay(line: &DecisionRecord) -> bool {
    let (plan, memory_after) = plan_scaling(&line.inputs, &line.memory, &line.settings, line.at);
    plan == line.plan && memory_after == line.memory_after
}

/// What to do now to have the capacity the load asks for. Deterministic; orders name existing workers and groups.
pub fn plan_scaling(
    inputs: &ScalingInputs,
    memory: &ScalingMemory,
    settings: &ScalingSettings,
    now: Timestamp,
) -> (ScalingPlan, ScalingMemory) {
    let mut memory = memory.clone();
    let typical = need::typical(inputs);
    memory.observe(inputs, &typical, settings, now);
    let mut stock = Stock::new(inputs, &memory, settings.max_workers, now);
    let need = memory.need(inputs, &stock, &typical, settings, now);
    memory.steer(inputs, &stock, &typical, settings, now);
    memory.note_wanted(&need);
    if inputs.removed {
        shrink::release_all(&mut stock);
    } else {
        let replaced = adjust(&mut stock, inputs, &memory, &need, settings, now);
        memory.replaced = replaced.or(memory.replaced);
    }
    memory.restarts.note(&stock.actions, now);
    let plan = ScalingPlan {
        actions: stock.actions,
        predicted_load: need.load,
        wanted: tps(need.wanted),
        prepared_wanted: tps(need.prepared_wanted),
        forecast: Some(memory.forecast.expected()),
    };
    (plan, memory)
}

fn adjust<'a>(
    stock: &mut Stock<'a>,
    inputs: &'a ScalingInputs,
    memory: &ScalingMemory,
    need: &Need,
    settings: &ScalingSettings,
    now: Timestamp,
) -> Option<Replacement> {
    let mut replaced = None;
    let past = shrink::Past {
        need,
        memory,
        settings,
        now,
    };
    shrink::respect_max(stock, settings.max_workers);
    let rentable = grow::rentable(inputs, memory, need, now);
    grow::cover(stock, need, &rentable);
    grow::prepare(stock, need, settings.cold_workers, &rentable);
    match need.idle_s {
        Some(idle_s) => shrink::release_idle(stock, &past, idle_s),
        None => {
            let quiet = stock.actions.is_empty() && need.waiting == 0;
            shrink::release_surplus(stock, &past);
            let window = keep::STOP_LATEST.max(settings.scale_down_delay);
            if quiet && stock.actions.is_empty() && need.watched_for >= window {
                let held = memory.wanted.within(window, now);
                replaced = replace::replace(stock, &rentable, memory.replaced, held, now);
            }
        }
    }
    shrink::destroy_surplus_stopped(stock, &past);
    replaced
}

impl ScalingMemory {
    /// Nobody watched for so long that the load of before says nothing of now's. What was learned stays.
    pub fn after_a_gap(&mut self) {
        self.first_seen = None;
        self.demand = DemandMemory::default();
        self.forecast.after_a_gap();
        self.wanted = PeakWindow::default();
        self.prepared = PeakWindow::default();
        self.restarts = Restarts::default();
        self.lateness = Lateness::default();
    }

    fn observe(
        &mut self,
        inputs: &ScalingInputs,
        typical: &Typical,
        settings: &ScalingSettings,
        now: Timestamp,
    ) {
        self.first_seen.get_or_insert(now);
        let demand = &inputs.snapshot.demand;
        self.demand.observe(demand, now);
        let pace = typical.pace(settings);
        self.forecast.aim_at(settings.slo.late_share);
        self.forecast.observe(demand, typical.speed, pace, now);
        self.observe_failures(inputs, now);
        self.restarts.observe(&inputs.snapshot, now);
    }

    fn observe_failures(&mut self, inputs: &ScalingInputs, now: Timestamp) {
        let before = std::mem::take(&mut self.groups);
        for supply in &inputs.groups {
            let total = supply.failures_total;
            let mut group = before.get(&supply.group).copied().unwrap_or(GroupMemory {
                failures_seen: total,
                backoff: Backoff::default(),
            });
            let settled = inputs.snapshot.workers.iter().any(|worker| {
                worker.group == supply.group
                    && worker.phase.is_ready()
                    && group.backoff.is_outdone_at(worker.phase_since)
                    && now.since(worker.phase_since) >= SETTLED_AFTER
            });
            if settled {
                group.backoff = Backoff::default();
            }
            if total > group.failures_seen {
                group.backoff.fail(now);
            }
            group.failures_seen = total;
            self.groups.insert(supply.group.clone(), group);
        }
    }

    fn group(&self, name: &GroupName) -> Backoff {
        self.groups
            .get(name)
            .map(|group| group.backoff)
            .unwrap_or_default()
    }
}
