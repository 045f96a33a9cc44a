//! The world under the production policy and under planners that only do what a test needs.

use std::f64::consts::TAU;

use proptest::prelude::*;

use super::*;
use crate::domain::{PlannedAction, Reason, Release, ScalingAction, WorkerView};
use crate::simulate::bound::{Prices, level};
use crate::simulate::chance::SplitMix;
use crate::simulate::load::Arrival;
use crate::simulate::market::{Failures, SlowHosts, Spot};
use crate::simulate::planner::Production;

/// Keeps so many workers ready or starting; surplus is stopped.
struct Keep(usize);

impl Planner for Keep {
    fn plan(&mut self, inputs: &ScalingInputs, _now: Timestamp) -> ScalingPlan {
        let running = |w: &&WorkerView| w.phase.is_ready() || w.phase.is_starting();
        let workers = &inputs.snapshot.workers;
        let have = workers.iter().filter(running).count();
        let mut actions: Vec<ScalingAction> = Vec::new();
        let stopped = workers.iter().filter(|w| w.phase == WorkerPhase::Stopped);
        let mut restarts = stopped.map(|w| ScalingAction::Restart {
            worker: w.id.clone(),
        });
        for _ in have..self.0 {
            let group = inputs.groups[0].group.clone();
            actions.push(restarts.next().unwrap_or(ScalingAction::Rent { group }));
        }
        let surplus = workers.iter().filter(|w| w.phase.is_ready()).skip(self.0);
        actions.extend(surplus.map(|w| ScalingAction::Drain {
            worker: w.id.clone(),
            then: Release::Stop,
        }));
        let planned = actions.into_iter().map(|action| PlannedAction {
            action,
            reason: Reason::EndpointRemoved,
        });
        ScalingPlan {
            actions: planned.collect(),
            ..ScalingPlan::default()
        }
    }
}

fn steady(rate: f64, seconds: usize) -> Load {
    Load {
        requests: Vec::new(),
        work: vec![rate; seconds],
    }
}

/// Two machines' work for so long.
fn scenario(seconds: usize) -> Scenario {
    Scenario::of_aims(steady(100.0, seconds), 2.0, 1)
}

/// Machines of many hosts, some of them slow, some to be bid away, all of which fail now and then.
fn varied(load: Load, seed: u64) -> Scenario {
    let mut scenario = Scenario::of_aims(load, 4.0, seed);
    let plain = scenario.kinds[0].clone();
    scenario.kinds = ["RTX 4090", "H100 SXM"]
        .into_iter()
        .zip([1.0, 3.0])
        .map(|(gpu, factor)| MachineKind {
            gpu_name: gpu.into(),
            speed: TokensPerSecond(plain.speed.0 * factor),
            usd_per_hour: UsdPerHour(plain.usd_per_hour.0 * factor),
            hosts: 60,
            failures: Failures {
                mtbf_h: 20.0,
                ..Failures::usual()
            },
            spot: Some(Spot::default()),
            slow: Some(SlowHosts {
                every: 5,
                factor: 0.6,
            }),
            ..plain.clone()
        })
        .collect();
    scenario.offers.interruptible = Interruptible::All;
    scenario
}

#[test]
fn a_fleet_that_is_just_enough_serves_everything_at_once_and_costs_its_price() {
    let run = run(&scenario(36_000), &mut Keep(2));
    let totals = &run.totals;
    assert_eq!(totals.late_share, 0.0);
    assert!(totals.utilisation > 0.6, "{totals:?}");
    let rent = 3.0 * 0.4 / 3_600.0;
    assert!(totals.bill.total() < rent * 36_000.0, "{totals:?}");
    assert!(totals.bill.serving > 2.0 * 0.94 * 0.4 * 9.9, "{totals:?}");
}

#[test]
fn what_waits_too_long_is_late_and_the_oldest_is_served_first() {
    let mut scenario = scenario(3_600);
    scenario.begin_with = 1;
    let run = run(&scenario, &mut Keep(1));
    // Half of what arrives is served: all but the first few seconds' work waits longer and longer.
    assert!(run.totals.late_share > 0.98, "{:?}", run.totals);
    let last = run.series.last().expect("a series");
    assert!((last.backlog / (50.0 * last.at_s) - 1.0).abs() < 0.01);
    assert!((last.waiting_s / (last.at_s / 2.0) - 1.0).abs() < 0.01);
}

#[test]
fn work_within_the_promise_is_not_late() {
    let mut scenario = scenario(3_600);
    // Twelve seconds' work at once, done in eleven by 2 machines with 9 s of waiting at most.
    scenario.load.work = vec![0.0; 3_600];
    scenario.load.work[1_000] = 11.0 * 100.0;
    let run = run(&scenario, &mut Keep(2));
    assert_eq!(run.totals.late_share, 0.0);
    assert_eq!(run.totals.wait_max_s, 10.0);
    let mut longer = scenario.clone();
    longer.load.work[1_000] = 12.0 * 100.0;
    let totals = super::run(&longer, &mut Keep(2)).totals;
    assert!((totals.late_share - 1.0 / 12.0).abs() < 1e-9, "{totals:?}");
}

#[test]
fn a_failed_restart_is_seen_and_ordered_again() {
    let mut scenario = scenario(50_000);
    scenario.kinds[0].starts.restart_fails = 0.5;
    struct InTurns(Keep);
    impl Planner for InTurns {
        fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
            self.0.0 = if (now.as_millis() / 1_000_000).is_multiple_of(2) {
                3
            } else {
                1
            };
            self.0.plan(inputs, now)
        }
    }
    let run = run(&scenario, &mut InTurns(Keep(1)));
    let starts = run.totals.starts;
    assert!(starts.restart > 60, "{starts:?}");
    let share = starts.restart_failed as f64 / starts.restart as f64;
    assert!((0.35..0.65).contains(&share), "{starts:?}");
}

#[test]
fn machines_that_are_lost_are_replaced_and_counted() {
    let mut scenario = varied(steady(100.0, 60_000), 5);
    scenario.tick = Duration::from_secs(20);
    let run = run(&scenario, &mut Keep(4));
    let totals = &run.totals;
    assert!(totals.preemptions > 3, "{totals:?}");
    assert!(totals.failures > 0, "{totals:?}");
    assert!(totals.ready_mean > 3.5, "{totals:?}");
}

#[test]
fn whoever_knows_the_machines_pays_less_for_its_tokens() {
    let dear = |chooser| {
        let mut scenario = varied(steady(1_000.0, 20_000), 2);
        scenario.tick = Duration::from_secs(20);
        scenario.offers.interruptible = Interruptible::Never;
        scenario.chooser = chooser;
        let run = run(&scenario, &mut Keep(10));
        let capacity: f64 = run.series.iter().map(|point| point.ready_capacity).sum();
        run.totals.bill.total() / capacity
    };
    let [learned, knowing] = [Chooser::Learned, Chooser::Knowing].map(dear);
    assert!(knowing < learned, "{knowing} {learned}");
}

#[test]
fn the_production_policy_keeps_up_with_a_day_that_swells_and_ebbs() {
    let wave = |second: usize| 100.0 * (1.0 + 0.6 * (second as f64 / 86_400.0 * TAU).sin());
    let load = Load {
        requests: Vec::new(),
        work: (0..172_800).map(wave).collect(),
    };
    let mut scenario = Scenario::of_aims(load, 8.0, 1).counting_from(Duration::from_secs(86_400));
    scenario.tick = Duration::from_secs(20);
    let run = run(&scenario, &mut Production::new(&scenario.scaling));
    let prices = Prices::of_kind(&scenario.kinds[0], 0.0);
    let bound = level(&scenario.load.work[86_400..], 60, &prices);
    let over = run.totals.bill.total() / bound.usd;
    assert!((0.9..1.6).contains(&over), "{over}");
    assert!(run.totals.late_share < 0.05, "{:?}", run.totals);
}

/// Requests of a few sizes, by chance, so many a second.
fn requests(rate: f64, seconds: f64, seed: u64) -> Load {
    let mut chance = SplitMix::about(seed, "a test's requests", 0);
    let (mut at_s, mut requests) = (0.0, Vec::new());
    loop {
        at_s += chance.exponential(1.0 / rate);
        if at_s > seconds {
            return Load::of_requests(requests, 5.0);
        }
        requests.push(Arrival {
            at_s,
            prompt_tokens: chance.exponential(500.0) as u32 + 8,
            output_tokens: chance.exponential(120.0) as u32 + 1,
        });
    }
}

fn by_requests(mut scenario: Scenario) -> Scenario {
    scenario.serving = Serving::Requests(Box::default());
    scenario
}

#[test]
fn every_request_is_served_once_whatever_becomes_of_the_machines() {
    let mut scenario = by_requests(varied(requests(3.0, 8_000.0, 1), 3));
    for kind in &mut scenario.kinds {
        kind.failures.mtbf_h = 1.2;
    }
    let run = run(&scenario, &mut Keep(9));
    let totals = run.totals.requests.expect("requests");
    assert!(
        run.totals.preemptions + run.totals.failures > 5,
        "{:?}",
        run.totals
    );
    assert!(totals.resumed > 20, "{totals:?}");
    let lost = totals.arrived - totals.served;
    assert!(lost <= totals.arrived / 100, "{totals:?}");
    // A few are still being answered when the world ends.
    let all = scenario.load.requests.len() as u64;
    assert!(
        (all - 200..=all).contains(&totals.arrived),
        "{totals:?} of {all}"
    );
}

#[test]
fn requests_cost_about_what_water_does() {
    let scenario = Scenario::of_aims(requests(4.0, 6_000.0, 1), 6.0, 1);
    let keep = || Keep(8);
    let water = run(&scenario, &mut keep()).totals;
    let real = run(&by_requests(scenario), &mut keep()).totals;
    let over = real.bill.total() / water.bill.total();
    assert!((0.98..1.02).contains(&over), "{over}");
    assert!((real.utilisation / water.utilisation - 1.0).abs() < 0.02);
    assert!(real.late_share < 0.01, "{real:?}");
    let requests = real.requests.expect("requests");
    assert!(requests.ttft_share > 0.5, "{requests:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]
    #[test]
    fn a_seed_replays_exactly_and_the_sums_add_up(seed: u64, rate in 10.0..400.0_f64) {
        let scenario = varied(steady(rate, 6_000), seed);
        let first = run(&scenario, &mut Production::new(&scenario.scaling));
        let again = run(&scenario, &mut Production::new(&scenario.scaling));
        prop_assert_eq!(&first, &again);
        let totals = &first.totals;
        prop_assert!((totals.work - rate * 6_000.0).abs() < 1e-3);
        prop_assert!((0.0..=1.0).contains(&totals.late_share));
        let bill = totals.bill;
        prop_assert!([bill.serving, bill.idle, bill.cold, bill.restart, bill.storage]
            .iter().all(|part| *part >= 0.0));
        let last = first.series.last().expect("a series");
        prop_assert!(last.usd <= bill.total() + 1e-9);
    }
}
