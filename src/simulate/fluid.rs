//! A small deterministic world in which work flows like water: demand is a curve in tokens a second, workers are
//! speeds that boot, die, stop and end, and what is not served at once piles up.
//!
//! Scaling and workers' lives are the production functions; only the market and the clock are pretended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::chance::SplitMix;
use crate::domain::{
    DemandView, EndpointName, FleetSnapshot, GroupName, InstanceState, Reason, Release,
    ScalingAction, ScalingPlan, ScalingSettings, TimeLimits, Timestamp, Tokens, TokensPerSecond,
    UsdPerHour, WaitingView, WorkerEvent, WorkerId, WorkerPhase, WorkerView,
};
use crate::policy::lifecycle::{Effect, advance};
use crate::policy::scaling::{
    DecisionRecord, GroupSupply, ScalingInputs, ScalingMemory, StartOutlook, plan_scaling,
};

/// Work that ready workers hold themselves; more waits at the gateway.
const HELD_BY_WORKERS_S: f64 = 10.0;
/// Tokens of one pretended request.
const REQUEST_TOKENS: f64 = 250.0;
/// How long a drain, a stop and an end take.
const DRAIN: Duration = Duration::from_secs(5);
const STOP: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(3);

/// What happens to whom; the demand is given to [`run`].
#[derive(Clone, Debug)]
pub struct Scenario {
    pub settings: ScalingSettings,
    pub times: TimeLimits,
    pub groups: Vec<FluidGroup>,
    pub tick: Duration,
    pub length: Duration,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct FluidGroup {
    pub name: GroupName,
    pub speed: TokensPerSecond,
    pub usd_per_hour: UsdPerHour,
    pub boot: Duration,
    pub restart: Duration,
    /// Share of the boots and restarts that end in death.
    pub dies_at_boot: f64,
    /// Most machines the market has; counts those that are being ended.
    pub offered: usize,
}

/// Everything of interest at one tick, in tokens, tokens a second and workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FluidPoint {
    pub at_s: f64,
    pub demand: f64,
    pub wanted: f64,
    pub ready_capacity: f64,
    pub ready: usize,
    pub starting: usize,
    pub stopped: usize,
    /// Not ending: what `max_workers` counts.
    pub live: usize,
    pub backlog: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FluidAction {
    pub at_s: f64,
    pub action: ScalingAction,
    pub reason: Reason,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FluidRun {
    pub series: Vec<FluidPoint>,
    pub actions: Vec<FluidAction>,
    pub usd: f64,
}

/// Runs the scenario under `demand` (tokens a second at a second) and shows every decision to `witness`.
pub fn run(
    scenario: &Scenario,
    demand: impl Fn(f64) -> f64,
    mut witness: impl FnMut(&DecisionRecord),
) -> FluidRun {
    let mut world = World::new(scenario);
    let mut result = FluidRun::default();
    let tick_ms = scenario.tick.as_millis().max(1) as u64;
    for tick in 0..=(scenario.length.as_millis() as u64 / tick_ms) {
        world.now = Timestamp::from_millis(tick * tick_ms);
        let at_s = world.now.as_millis() as f64 / 1000.0;
        let rate = demand(at_s).max(0.0);
        world.live_on();
        world.serve(
            rate,
            if tick == 0 {
                0.0
            } else {
                tick_ms as f64 / 1000.0
            },
        );
        let record = world.decide();
        witness(&record);
        world.carry_out(&record.plan);
        result.series.push(world.point(at_s, rate, &record.plan));
        let planned = record.plan.actions.into_iter();
        result.actions.extend(planned.map(|planned| FluidAction {
            at_s,
            action: planned.action,
            reason: planned.reason,
        }));
    }
    result.usd = world.usd;
    result
}

/// A machine as the pretended market knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Machine {
    Booting { until: Timestamp, dies: bool },
    Running,
    Dead,
    Stopping { until: Timestamp },
    Stopped,
    Ending { until: Timestamp },
}

struct FluidWorker {
    view: WorkerView,
    machine: Machine,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Timestamp,
    rng: SplitMix,
    workers: BTreeMap<WorkerId, FluidWorker>,
    rented: usize,
    failures: BTreeMap<GroupName, u64>,
    memory: ScalingMemory,
    arrived: f64,
    backlog: f64,
    last_active: Option<Timestamp>,
    usd: f64,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        Self {
            scenario,
            now: Timestamp::default(),
            rng: SplitMix(scenario.seed),
            workers: BTreeMap::new(),
            rented: 0,
            failures: BTreeMap::new(),
            memory: ScalingMemory::default(),
            arrived: 0.0,
            backlog: 0.0,
            last_active: None,
            usd: 0.0,
        }
    }

    /// What the market and the probes tell of each worker.
    fn live_on(&mut self) {
        let ids: Vec<WorkerId> = self.workers.keys().cloned().collect();
        for id in &ids {
            for event in self.events(id) {
                self.apply(id, event);
            }
        }
    }

    fn events(&mut self, id: &WorkerId) -> Vec<WorkerEvent> {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else {
            return Vec::new();
        };
        let mut events = vec![WorkerEvent::Tick];
        match worker.machine {
            Machine::Booting { until, dies } if until <= now => {
                worker.machine = if dies {
                    Machine::Dead
                } else {
                    Machine::Running
                };
            }
            Machine::Stopping { until } if until <= now => worker.machine = Machine::Stopped,
            _ => {}
        }
        events.push(match worker.machine {
            Machine::Booting { .. } => WorkerEvent::InstanceSeen(InstanceState::Loading),
            Machine::Running => WorkerEvent::ProbeSucceeded,
            Machine::Dead => WorkerEvent::InstanceSeen(InstanceState::Exited),
            Machine::Stopped => WorkerEvent::InstanceSeen(InstanceState::Stopped),
            Machine::Ending { until } if until <= now => WorkerEvent::InstanceMissing,
            Machine::Stopping { .. } | Machine::Ending { .. } => WorkerEvent::Tick,
        });
        if let WorkerPhase::Draining { since, .. } = worker.view.phase
            && now.since(since) >= DRAIN
        {
            events.push(WorkerEvent::Emptied);
        }
        events
    }

    fn apply(&mut self, id: &WorkerId, event: WorkerEvent) {
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        let before = worker.view.phase;
        let since = worker.view.phase_since;
        let next = advance(before, since, event, &self.scenario.times, self.now);
        worker.view.phase = next.phase;
        worker.view.phase_since = next.since;
        let failed = |phase: WorkerPhase| matches!(phase, WorkerPhase::Failed { .. });
        if failed(next.phase) && !failed(before) {
            *self.failures.entry(worker.view.group.clone()).or_default() += 1;
        }
        for effect in next.effects {
            self.effect(id, effect);
        }
    }

    fn effect(&mut self, id: &WorkerId, effect: Effect) {
        if effect == Effect::Forget {
            self.workers.remove(id);
            return;
        }
        let Some(group) = self.workers.get(id).map(|worker| worker.view.group.clone()) else {
            return;
        };
        let machine = match effect {
            Effect::MoveRequests => return,
            Effect::Start => self.boot(&group, |group| group.restart),
            Effect::Stop => Machine::Stopping {
                until: self.now + STOP,
            },
            Effect::Destroy | Effect::Forget => Machine::Ending {
                until: self.now + END,
            },
        };
        if let Some(worker) = self.workers.get_mut(id) {
            worker.machine = machine;
        }
    }

    fn boot(&mut self, name: &GroupName, time: impl Fn(&FluidGroup) -> Duration) -> Machine {
        let draw = self.rng.unit();
        let group = self
            .scenario
            .groups
            .iter()
            .find(|group| group.name == *name);
        Machine::Booting {
            until: self.now + group.map_or(Duration::ZERO, time),
            dies: group.is_some_and(|group| draw < group.dies_at_boot),
        }
    }

    fn serve(&mut self, rate: f64, elapsed_s: f64) {
        self.arrived += rate * elapsed_s;
        self.backlog += rate * elapsed_s;
        let served = self.backlog.min(self.ready_capacity() * elapsed_s);
        self.backlog -= served;
        if rate > 0.0 || self.backlog > 0.0 {
            self.last_active = Some(self.now);
        }
        let held = self.held_by_workers();
        let capacity = self.ready_capacity();
        for worker in self.workers.values_mut() {
            let share = if worker.view.phase.is_ready() {
                worker.view.speed.0 / capacity
            } else {
                0.0
            };
            worker.view.outstanding = Tokens(held * share);
            if !matches!(worker.machine, Machine::Stopped | Machine::Ending { .. }) {
                self.usd += worker.view.usd_per_hour.0 * elapsed_s / 3600.0;
            }
        }
    }

    fn ready_capacity(&self) -> f64 {
        let ready = self
            .workers
            .values()
            .filter(|worker| worker.view.phase.is_ready());
        ready.fold(0.0, |sum, worker| sum + worker.view.speed.0)
    }

    fn held_by_workers(&self) -> f64 {
        self.backlog.min(self.ready_capacity() * HELD_BY_WORKERS_S)
    }

    fn decide(&mut self) -> DecisionRecord {
        let inputs = ScalingInputs {
            snapshot: self.snapshot(),
            groups: self
                .scenario
                .groups
                .iter()
                .map(|group| self.supply(group))
                .collect(),
            removed: false,
        };
        let settings = &self.scenario.settings;
        let (plan, after) = plan_scaling(&inputs, &self.memory, settings, self.now);
        let memory = std::mem::replace(&mut self.memory, after.clone());
        DecisionRecord {
            at: self.now,
            inputs,
            memory,
            settings: settings.clone(),
            plan,
            memory_after: after,
            choices: Vec::new(),
        }
    }

    fn snapshot(&self) -> FleetSnapshot {
        let cost = self.backlog - self.held_by_workers();
        let requests = (cost / REQUEST_TOKENS).ceil() as usize;
        FleetSnapshot {
            endpoint: EndpointName::new("fluid"),
            taken_at: self.now,
            workers: self
                .workers
                .values()
                .map(|worker| worker.view.clone())
                .collect(),
            waiting: WaitingView {
                requests,
                cost: Tokens(cost),
                ..WaitingView::default()
            },
            demand: DemandView {
                arrived_total: Tokens(self.arrived),
                last_active: self.last_active,
                ..DemandView::default()
            },
        }
    }

    fn supply(&self, group: &FluidGroup) -> GroupSupply {
        let taken = self
            .workers
            .values()
            .filter(|worker| worker.view.group == group.name);
        GroupSupply {
            group: group.name.clone(),
            speed: group.speed,
            usd_per_hour: group.usd_per_hour,
            told_apart: false,
            rentable: taken.count() < group.offered,
            failures_total: self.failures.get(&group.name).copied().unwrap_or(0),
            starts: StartOutlook::default(),
        }
    }

    fn carry_out(&mut self, plan: &ScalingPlan) {
        for planned in &plan.actions {
            match &planned.action {
                ScalingAction::Rent { group } => self.rent(group),
                ScalingAction::Restart { worker } => {
                    self.apply(worker, WorkerEvent::RestartOrdered);
                }
                ScalingAction::Drain { worker, then } => {
                    self.apply(worker, WorkerEvent::DrainOrdered(*then));
                }
                ScalingAction::CancelDrain { worker } => {
                    self.apply(worker, WorkerEvent::DrainCancelled);
                }
                ScalingAction::Destroy { worker } => {
                    self.apply(worker, WorkerEvent::DrainOrdered(Release::Destroy));
                }
            }
        }
    }

    fn rent(&mut self, name: &GroupName) {
        let Some(group) = self
            .scenario
            .groups
            .iter()
            .find(|group| group.name == *name)
        else {
            return;
        };
        let id = WorkerId::new(format!("w{:05}", self.rented));
        self.rented += 1;
        let taken = self
            .workers
            .values()
            .filter(|worker| worker.view.group == *name);
        let refused = taken.count() >= group.offered;
        let machine = self.boot(name, |group| group.boot);
        let view = WorkerView {
            id: id.clone(),
            group: name.clone(),
            phase: WorkerPhase::Starting,
            phase_since: self.now,
            speed: group.speed,
            dependable: None,
            outstanding: Tokens::ZERO,
            in_flight: 0,
            usd_per_hour: group.usd_per_hour,
            stopped_usd_per_hour: UsdPerHour(0.0),
            spare: false,
            ends_soon: false,
            ejected_until: None,
        };
        self.workers
            .insert(id.clone(), FluidWorker { view, machine });
        if refused {
            self.apply(&id, WorkerEvent::RentRefused);
        }
    }

    fn point(&self, at_s: f64, demand: f64, plan: &ScalingPlan) -> FluidPoint {
        let count = |counts: fn(WorkerPhase) -> bool| {
            let workers = self.workers.values();
            workers.filter(|worker| counts(worker.view.phase)).count()
        };
        FluidPoint {
            at_s,
            demand,
            wanted: plan.wanted.0,
            ready_capacity: self.ready_capacity(),
            ready: count(WorkerPhase::is_ready),
            starting: count(WorkerPhase::is_starting),
            stopped: count(|phase| phase == WorkerPhase::Stopped),
            live: count(|phase| !phase.is_ending()),
            backlog: self.backlog,
        }
    }
}

#[cfg(test)]
#[path = "fluid_tests.rs"]
mod tests;
