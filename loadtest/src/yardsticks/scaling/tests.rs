//! That each yardstick does what its originals' documents say, on hand-made fleets.

use std::time::Duration;

use tidegate::domain::{
    DemandView, EndpointName, FleetSnapshot, GroupName, Release, ScalingAction, ScalingPlan,
    Timestamp, Tokens, TokensPerSecond, UsdPerHour, WaitingView, WorkerId, WorkerPhase, WorkerView,
};
use tidegate::policy::scaling::{GroupSupply, ScalingInputs, StartOutlook};
use tidegate::simulate::planner::Planner;

use super::*;

const SPEED: f64 = 100.0;

/// A fleet that obeys at once.
struct World {
    inputs: ScalingInputs,
    now_s: u64,
}

impl World {
    fn new() -> Self {
        Self {
            inputs: ScalingInputs {
                snapshot: FleetSnapshot {
                    endpoint: EndpointName::new("e"),
                    taken_at: Timestamp::default(),
                    workers: Vec::new(),
                    waiting: WaitingView::default(),
                    demand: DemandView::default(),
                },
                groups: vec![GroupSupply {
                    group: GroupName::new("g"),
                    speed: TokensPerSecond(SPEED),
                    usd_per_hour: UsdPerHour(0.4),
                    told_apart: false,
                    rentable: true,
                    failures_total: 0,
                    starts: StartOutlook::default(),
                }],
                removed: false,
            },
            now_s: 0,
        }
    }

    fn run(&mut self, planner: &mut dyn Planner, load: f64, seconds: u64) -> ScalingPlan {
        let mut plan = ScalingPlan::default();
        for _ in 0..seconds {
            self.now_s += 1;
            self.inputs.snapshot.demand.arrived_total += Tokens(load);
            plan = planner.plan(&self.inputs, Timestamp::from_millis(self.now_s * 1_000));
            for planned in &plan.actions {
                self.obey(&planned.action);
            }
        }
        plan
    }

    fn obey(&mut self, action: &ScalingAction) {
        let workers = &mut self.inputs.snapshot.workers;
        let mut set = |id: &WorkerId, phase| {
            let found = workers.iter_mut().find(|worker| worker.id == *id);
            found.expect("orders name who exists").phase = phase;
        };
        match action {
            ScalingAction::Rent { group } => workers.push(WorkerView {
                id: WorkerId::new(format!("w{:04}", workers.len())),
                group: group.clone(),
                phase: WorkerPhase::Ready,
                phase_since: Timestamp::default(),
                speed: TokensPerSecond(SPEED),
                dependable: None,
                outstanding: Tokens::ZERO,
                in_flight: 0,
                usd_per_hour: UsdPerHour(0.4),
                stopped_usd_per_hour: UsdPerHour(0.02),
                spare: false,
                ends_soon: false,
                ejected_until: None,
            }),
            ScalingAction::Restart { worker } | ScalingAction::CancelDrain { worker } => {
                set(worker, WorkerPhase::Ready);
            }
            ScalingAction::Drain { worker, then } => match then {
                Release::Stop => set(worker, WorkerPhase::Stopped),
                Release::Destroy => set(worker, WorkerPhase::Gone),
            },
            ScalingAction::Destroy { worker } => set(worker, WorkerPhase::Gone),
        }
    }

    fn count(&self, phase: WorkerPhase) -> usize {
        let workers = self.inputs.snapshot.workers.iter();
        workers.filter(|worker| worker.phase == phase).count()
    }
}

fn all() -> Vec<(&'static str, Box<dyn Planner>)> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    vec![
        ("reactive", Box::new(Reactive::new(0.7, minutes(5), 50))),
        ("vast-like", Box::new(Reactive::vast_like(0.9, 3.0, 50))),
        ("knative", Box::new(Knative::new(0.7, minutes(15), 50))),
        ("hpa", Box::new(Hpa::new(0.7, 50))),
        ("skyserve", Box::new(SkyServe::new(0.7, 1, 50))),
    ]
}

#[test]
fn each_covers_a_steady_load_and_lets_go_of_what_it_does_not_need() {
    for (name, mut planner) in all() {
        let mut world = World::new();
        world.run(planner.as_mut(), 700.0, 1_200);
        let many = world.count(WorkerPhase::Ready);
        assert!((8..=12).contains(&many), "{name}: {many}");
        let steady = world.run(planner.as_mut(), 700.0, 1);
        assert!(steady.actions.is_empty(), "{name}: {:?}", steady.actions);
        world.run(planner.as_mut(), 70.0, 3_000);
        let few = world.count(WorkerPhase::Ready);
        assert!((1..=3).contains(&few), "{name}: {few}");
    }
}

#[test]
fn vasts_reserve_stands_stopped() {
    let mut world = World::new();
    world.run(&mut Reactive::vast_like(0.9, 2.0, 50), 450.0, 900);
    let (ready, stopped) = (
        world.count(WorkerPhase::Ready),
        world.count(WorkerPhase::Stopped),
    );
    assert_eq!((ready, stopped), (5, 5));
}

#[test]
fn knative_panics_at_a_burst_before_its_stable_window_would() {
    let mut world = World::new();
    let mut knative = Knative::new(0.7, Duration::ZERO, 50);
    world.run(&mut knative, 140.0, 300);
    assert_eq!(world.count(WorkerPhase::Ready), 2);
    world.run(&mut knative, 1_400.0, 7);
    let many = world.count(WorkerPhase::Ready);
    assert!(many >= 18, "{many}");
}

#[test]
fn an_oracle_has_the_capacity_when_the_load_comes() {
    let mut work = vec![100.0; 600];
    work.extend(vec![900.0; 600]);
    work.extend(vec![0.0; 1_200]);
    let mut world = World::new();
    let mut oracle = Oracle::new(&work, 10, 60, 300);
    world.run(&mut oracle, 100.0, 350);
    let there = world.inputs.snapshot.workers.len();
    assert!(there >= 8, "prepared a cold start ahead: {there}");
    world.run(&mut oracle, 100.0, 230);
    assert!(world.count(WorkerPhase::Ready) >= 8);
    world.run(&mut oracle, 900.0, 620);
    world.run(&mut oracle, 0.0, 60);
    assert_eq!(world.count(WorkerPhase::Ready), 0);
}

#[test]
fn a_fixed_fleet_is_the_peak_of_the_minutes() {
    let mut work = vec![100.0; 6_000];
    work[3_000..3_060].fill(500.0);
    assert_eq!(Fixed::peak(&work, 1.0).capacity, 500.0);
    assert_eq!(Fixed::peak(&work, 0.9).capacity, 100.0);
    let mut world = World::new();
    world.run(&mut Fixed::peak(&work, 1.0), 0.0, 100);
    assert_eq!(world.count(WorkerPhase::Ready), 5);
}
