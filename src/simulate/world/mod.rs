//! A world of machines in virtual time: a market, machines that start slowly and fail, a load, and whoever plans.
//!
//! Workers' lives, the choice of offers and what is learned of them are the production functions; how many machines
//! there should be is asked of a [`Planner`]. One seed, one world: policies in it meet the same market and the same luck.

mod fleet;
mod record;
mod renting;
mod requests;
mod serve;
#[cfg(test)]
mod tests;
mod water;

use std::time::Duration;

use crate::domain::{
    EndpointName, EngineKind, FleetSnapshot, GroupName, Interruptible, LatenessAim, OfferSettings,
    RoutingSettings, ScalingPlan, ScalingSettings, Source, SpeedPrior, TimeLimits, Timestamp,
    TokensPerSecond, UsdPerHour, WorkerGroup, WorkerPhase,
};
use crate::policy::scaling::ScalingInputs;

use super::load::Load;
use super::machines::Bill;
use super::market::MachineKind;
use super::planner::Planner;
use super::serving::{MachineLaw, Patience};
use fleet::{Counts, Fleet};
use serve::Server;

pub use record::{Ordered, Point, RequestTotals, Run, Starts, Totals};

const STEP: Duration = Duration::from_secs(1);
/// Capacity is compared with the load over so long.
const LAG_WINDOW_S: usize = 60;

/// All that a run depends on besides the planner.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub load: Load,
    pub groups: Vec<WorkerGroup>,
    pub kinds: Vec<MachineKind>,
    pub scaling: ScalingSettings,
    pub times: TimeLimits,
    pub offers: OfferSettings,
    pub chooser: Chooser,
    /// Workers of the first group that are ready when the world begins; their cold starts are on the bill.
    pub begin_with: u32,
    /// Between two plans; whole seconds.
    pub tick: Duration,
    /// Between two points of the series; whole seconds.
    pub sample: Duration,
    /// What is before only teaches: sums begin here.
    pub count_from: Duration,
    /// How long a worker takes to drain where work flows like water.
    pub drain: Duration,
    pub serving: Serving,
    pub seed: u64,
}

/// How work is served.
#[derive(Clone, Debug)]
pub enum Serving {
    /// As water: one queue, a grid of a second. A fortnight takes a second.
    Water,
    /// Request by request on workers with continuous batching, by the production router. The load needs requests.
    Requests(Box<RequestRules>),
}

/// What holds where requests are modelled.
#[derive(Clone, Debug)]
pub struct RequestRules {
    pub routing: RoutingSettings,
    /// How machines of kinds without a law of their own run the model, but for their speed.
    pub law: MachineLaw,
    /// Output tokens the engines keep room for when they admit a request; the maximum: all of them.
    pub reserve_tokens: u32,
    /// Requests belong to one of so many clients by chance.
    pub clients: u32,
    pub patience: Patience,
}

impl Default for RequestRules {
    /// An RTX 4090 with an 8B model; patience as the configuration's defaults.
    fn default() -> Self {
        Self {
            routing: RoutingSettings::default(),
            law: MachineLaw {
                base_s: 0.017,
                per_sequence_s: 0.000_16,
                per_kv_token_s: 0.19e-6,
                prefill_tokens_per_s: 6_000.0,
                kv_tokens: 31_000,
                batch_max: 64,
            },
            reserve_tokens: u32::MAX,
            clients: 1,
            patience: Patience {
                waiting_max: 1_000,
                wait_max: Duration::from_secs(300),
                wait_max_busy: Duration::from_secs(120),
                attempts_max: 3,
                resumes_max: 3,
            },
        }
    }
}

/// Who chooses among offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chooser {
    /// The production choice, with what it learned.
    Learned,
    /// The same knowing every machine's real speed.
    Knowing,
    /// Least dollars an hour.
    CheapestByHour,
}

impl Scenario {
    /// The market of the aims: one kind of machine without end, cold start 300 s with cv 0.35 of which 60% is billed,
    /// restart 60 s failing 15%, storage 6% of the price; of a speed by which `load` is `workers` machines' work.
    pub fn of_aims(load: Load, workers: f64, seed: u64) -> Self {
        let speed = load.mean() / workers;
        let kind = MachineKind::plain("all", speed, 0.40);
        let first = load.work.iter().take(600).sum::<f64>() / load.length_s().clamp(1, 600) as f64;
        Self {
            begin_with: (1.2 * first / speed).ceil() as u32,
            groups: vec![group_of(&kind)],
            kinds: vec![kind],
            scaling: usual_scaling(),
            times: usual_times(),
            offers: usual_offers(),
            chooser: Chooser::Learned,
            tick: Duration::from_secs(5),
            sample: Duration::from_secs(60),
            count_from: Duration::ZERO,
            drain: Duration::from_secs(10),
            serving: Serving::Water,
            seed,
            load,
        }
    }

    /// The same with the load's requests played one by one on machines whose speed is that of the law; machines know
    /// their KV cache, as an operator would state it. Without requests in the load it stays as it is.
    pub fn by_requests(mut self) -> Self {
        if self.load.requests.is_empty() {
            return self;
        }
        let rules = RequestRules::default();
        for group in &mut self.groups {
            group.kv_tokens = Some(rules.law.kv_tokens);
            group.speed_prior.concurrency = 20;
        }
        self.serving = Serving::Requests(Box::new(rules));
        self
    }

    /// What is before only teaches.
    pub fn counting_from(mut self, from: Duration) -> Self {
        self.count_from = from;
        self
    }
}

/// The group that machines of a kind belong to, stated as they are.
pub fn group_of(kind: &MachineKind) -> WorkerGroup {
    group(kind.group.clone(), kind.speed, kind.usd_per_hour)
}

/// A group that says this of its machines.
pub fn group(name: GroupName, speed: TokensPerSecond, usd_per_hour: UsdPerHour) -> WorkerGroup {
    WorkerGroup {
        name,
        engine: EngineKind::Vllm,
        source: Source::Fixed {
            workers: Vec::new(),
        },
        speed_prior: SpeedPrior {
            tokens_per_second: speed,
            concurrency: 32,
        },
        max_concurrency: None,
        kv_tokens: None,
        image_gb: 0.0,
        model_gb: 0.0,
        usd_per_hour,
        interruptible: false,
        api_key: None,
    }
}

/// Nothing is set but the promise: at most 0.5% of the work waits over 10 s.
pub fn usual_scaling() -> ScalingSettings {
    let second = Duration::from_secs(1);
    ScalingSettings {
        min_load: TokensPerSecond::ZERO,
        target_util: None,
        cold_mult: None,
        min_cold_load: TokensPerSecond::ZERO,
        cold_workers: 0,
        max_workers: 200,
        inactivity_timeout: Some(300 * second),
        scale_down_delay: 120 * second,
        drain_backlog_within: 60 * second,
        slo: LatenessAim {
            wait: 10 * second,
            late_share: 0.005,
        },
    }
}

/// The defaults of the configuration, but for machines that may take long to boot.
pub fn usual_times() -> TimeLimits {
    let second = Duration::from_secs(1);
    TimeLimits {
        connect: 5 * second,
        first_byte: 600 * second,
        between_bytes: 120 * second,
        boot: 900 * second,
        scheduling: 60 * second,
        offline: 120 * second,
        benchmark: 90 * second,
        unresponsive: 20 * second,
        silence: 5 * second,
        drain: 120 * second,
        drain_limit: 1_200 * second,
        probe_interval: 2 * second,
        probe: 5 * second,
    }
}

pub fn usual_offers() -> OfferSettings {
    OfferSettings {
        interruptible: Interruptible::Never,
        race: 0,
        race_below: 0.8,
        horizon: Duration::from_secs(4 * 3_600),
    }
}

/// Plays the whole load.
pub fn run(scenario: &Scenario, planner: &mut dyn Planner) -> Run {
    let mut world = World::new(scenario);
    let length_s = scenario.load.length_s();
    for second in 0..length_s {
        world.pass(second, planner);
    }
    world.end()
}

struct World<'a> {
    scenario: &'a Scenario,
    fleet: Fleet<'a>,
    floor: Server<'a>,
    plan: ScalingPlan,
    run: Run,
    begun: Option<(Bill, Counts)>,
    lag: Lag,
    arrived_at_point: f64,
    sums: [f64; 3],
    counted_s: f64,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        Self {
            scenario,
            fleet: Fleet::new(scenario),
            floor: Server::new(scenario),
            plan: ScalingPlan::default(),
            run: Run::default(),
            begun: None,
            lag: Lag::default(),
            arrived_at_point: 0.0,
            sums: [0.0; 3],
            counted_s: 0.0,
        }
    }

    fn pass(&mut self, second: usize, planner: &mut dyn Planner) {
        let scenario = self.scenario;
        let now = Timestamp::from_millis(second as u64 * 1_000);
        self.fleet.live_on(now);
        if is_due(second, scenario.tick) {
            self.decide(planner, now);
        }
        if is_due(second, scenario.sample) {
            self.point(second, now);
        }
        let counted = second >= scenario.count_from.as_secs() as usize;
        if counted && self.begun.is_none() {
            // What is there before the world begins has been paid for in it.
            let paid = if second > 0 {
                self.fleet.bill()
            } else {
                Bill::default()
            };
            self.begun = Some((paid, self.fleet.counts));
        }
        self.floor.pass(&mut self.fleet, now);
        self.fleet.pay(STEP, now);
        if counted {
            self.count(second);
        }
    }

    fn decide(&mut self, planner: &mut dyn Planner, now: Timestamp) {
        let snapshot = FleetSnapshot {
            endpoint: EndpointName::new("simulated"),
            taken_at: now,
            workers: self.fleet.views(),
            waiting: self.floor.waiting(now),
            demand: self.floor.demand(),
        };
        let inputs = ScalingInputs {
            snapshot,
            groups: self.fleet.supply(now),
            removed: false,
        };
        let plan = planner.plan(&inputs, now);
        self.fleet.carry_out(&plan, &inputs.snapshot, now);
        self.run.totals.plans += 1;
        let at_s = now.as_millis() as f64 / 1e3;
        let ordered = plan.actions.iter().map(|planned| Ordered {
            at_s,
            action: planned.action.clone(),
            reason: planned.reason.clone(),
        });
        self.run.orders.extend(ordered);
        self.plan = plan;
    }

    fn point(&mut self, second: usize, now: Timestamp) {
        let arrived = self.floor.demand().arrived_total.0;
        let fleet = &self.fleet;
        let draining = |phase: WorkerPhase| matches!(phase, WorkerPhase::Draining { .. });
        let stopped = |phase| phase == WorkerPhase::Stopped;
        let since = arrived - self.arrived_at_point;
        self.run.series.push(Point {
            at_s: second as f64,
            load: since / self.scenario.sample.as_secs_f64().max(1.0),
            wanted: self.plan.wanted.0,
            prepared_wanted: self.plan.prepared_wanted.0,
            ready_capacity: fleet.ready_capacity(),
            starting_capacity: fleet.capacity(WorkerPhase::is_starting),
            stopped_capacity: fleet.capacity(stopped),
            ready: fleet.count(WorkerPhase::is_ready),
            starting: fleet.count(WorkerPhase::is_starting),
            draining: fleet.count(draining),
            stopped: fleet.count(stopped),
            backlog: self.floor.waiting(now).cost.0,
            waiting_s: self.floor.oldest_s(),
            usd: fleet.bill().total(),
        });
        self.arrived_at_point = arrived;
    }

    fn count(&mut self, second: usize) {
        self.counted_s += 1.0;
        let fleet = &self.fleet;
        let states: [fn(WorkerPhase) -> bool; 3] = [
            WorkerPhase::is_ready,
            |phase| phase == WorkerPhase::Stopped,
            WorkerPhase::is_starting,
        ];
        for (sum, state) in self.sums.iter_mut().zip(states) {
            *sum += f64::from(fleet.count(state));
        }
        let from = (second + 1).saturating_sub(LAG_WINDOW_S);
        let window = &self.scenario.load.work[from..=second];
        let load = window.iter().sum::<f64>() / window.len() as f64;
        self.lag.see(fleet.ready_capacity() < load);
    }

    fn end(mut self) -> Run {
        self.lag.see(false);
        let (bill, counts) = self.begun.unwrap_or_default();
        let now = self.fleet.counts;
        let work = self
            .scenario
            .load
            .total_from(self.scenario.count_from.as_secs() as usize);
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let seconds = self.counted_s;
        let counted = self.floor.counted();
        let waits = &counted.waits;
        let [ready, stopped, starting] = self.sums.map(|sum| share(sum, seconds));
        self.run.totals = Totals {
            seconds,
            work,
            bill: self.fleet.bill().minus(&bill),
            late_share: share(counted.late, work),
            wait_p50_s: waits.quantile(0.5),
            wait_p95_s: waits.quantile(0.95),
            wait_p99_s: waits.quantile(0.99),
            wait_max_s: waits.max_s,
            utilisation: share(counted.done, counted.capacity),
            starts: now.starts.since(&counts.starts),
            preemptions: now.preemptions - counts.preemptions,
            failures: now.failures - counts.failures,
            wasted_start_s: now.wasted_start_s - counts.wasted_start_s,
            lag_mean_s: share(self.lag.sum_s, self.lag.times as f64),
            lag_max_s: self.lag.max_s,
            lags: self.lag.times,
            flaps: now.flaps - counts.flaps,
            ready_mean: ready,
            stopped_mean: stopped,
            starting_mean: starting,
            plans: self.run.totals.plans,
            requests: counted.requests,
        };
        self.run
    }
}

fn is_due(second: usize, every: Duration) -> bool {
    (second as u64).is_multiple_of(every.as_secs().max(1))
}

/// Stretches in which ready capacity was below the load.
#[derive(Default)]
struct Lag {
    for_s: f64,
    sum_s: f64,
    max_s: f64,
    times: u64,
}

impl Lag {
    /// Of one second.
    fn see(&mut self, short: bool) {
        if short {
            self.for_s += 1.0;
        } else if self.for_s > 0.0 {
            self.times += 1;
            self.sum_s += self.for_s;
            self.max_s = self.max_s.max(self.for_s);
            self.for_s = 0.0;
        }
    }
}

impl Starts {
    fn since(&self, earlier: &Starts) -> Starts {
        Starts {
            cold: self.cold - earlier.cold,
            cold_failed: self.cold_failed - earlier.cold_failed,
            restart: self.restart - earlier.restart,
            restart_failed: self.restart_failed - earlier.restart_failed,
            refused: self.refused - earlier.refused,
        }
    }
}
