//! What holds of every plan, whatever the fleet and the past.

use proptest::prelude::*;

use super::tests::{Fleet, draining};
use super::*;
use crate::domain::{FailureReason, Reason, Release, ScalingAction, Tokens, WorkerId, WorkerPhase};
use WorkerPhase::{Ready, Starting, Stopped};

fn any_phase() -> impl Strategy<Value = WorkerPhase> {
    let phases = vec![
        Ready,
        Ready,
        Starting,
        Stopped,
        WorkerPhase::Benchmarking,
        WorkerPhase::Stopping,
        WorkerPhase::Destroying,
        WorkerPhase::Unhealthy { failed_probes: 1 },
        WorkerPhase::Failed {
            reason: FailureReason::Exited,
        },
        draining(Release::Stop, 5),
        draining(Release::Destroy, 9),
    ];
    prop::sample::select(phases)
}

/// A worker's phase, speed, price, age in that phase, and whether it is a spare and whether its rental ends.
type AnyWorker = (WorkerPhase, f64, f64, u64, bool, bool);

fn any_worker() -> impl Strategy<Value = AnyWorker> {
    let seldom = || prop::bool::weighted(0.05);
    (
        any_phase(),
        20.0..400.0_f64,
        0.05..2.0_f64,
        0..20_000_u64,
        seldom(),
        seldom(),
    )
}

/// The past: how much arrived, how long it took, and how much of it was late.
fn any_past() -> impl Strategy<Value = Vec<(f64, u64, f64)>> {
    prop::collection::vec((0.0..20_000.0_f64, 1..90_u64, 0.0..0.1_f64), 1..12)
}

fn any_settings() -> impl Strategy<Value = ScalingSettings> {
    (
        prop::option::of(0.3..1.0_f64),
        prop::option::of(1.0..3.0_f64),
        (0..5_u32, 0..14_u32),
        (0.0..300.0_f64, 0.0..300.0_f64),
        prop::option::of(0..1000_u64),
        0..600_u64,
    )
        .prop_map(
            |(util, mult, (cold, most), (min, min_cold), timeout, delay)| {
                let mut settings = Fleet::new(&[]).settings;
                settings.target_util = util;
                settings.cold_mult = mult;
                (settings.cold_workers, settings.max_workers) = (cold, most);
                settings.min_load = TokensPerSecond(min);
                settings.min_cold_load = TokensPerSecond(min_cold);
                settings.inactivity_timeout = timeout.map(Duration::from_secs);
                settings.scale_down_delay = Duration::from_secs(delay);
                settings
            },
        )
}

prop_compose! {
    /// Any fleet after any past under any settings; the last of its plans is not made yet.
    fn any_world()(
        workers in prop::collection::vec(any_worker(), 0..10),
        past in any_past(),
        settings in any_settings(),
        waiting in prop_oneof![Just(0.0), 0.0..50_000.0_f64],
        fails in 0.0..0.9_f64,
        rentable in prop::bool::ANY,
    ) -> Fleet {
        let phases: Vec<WorkerPhase> = workers.iter().map(|worker| worker.0).collect();
        let mut fleet = Fleet::new(&phases);
        fleet.settings = settings;
        let views = fleet.inputs.snapshot.workers.iter_mut();
        for (view, (_, speed, usd, age_s, spare, ends_soon)) in views.zip(workers) {
            view.speed = TokensPerSecond(speed);
            view.usd_per_hour = UsdPerHour(usd);
            view.stopped_usd_per_hour = UsdPerHour(usd / 16.0);
            view.phase_since = Timestamp::from_millis((fleet.now_s - age_s.min(9_000)) * 1000);
            (view.spare, view.ends_soon) = (spare, ends_soon);
        }
        fleet.inputs.groups[0].rentable = rentable;
        for group in &mut fleet.inputs.groups {
            group.starts.restart_fails = fails;
            group.starts.cold_usd = 0.03;
        }
        for (arrived, seconds, late) in past {
            fleet.now_s += seconds;
            let now = fleet.now();
            let demand = &mut fleet.inputs.snapshot.demand;
            demand.arrived_total += Tokens(arrived);
            demand.late_total += Tokens(arrived * late);
            if arrived > 1.0 {
                demand.last_active = Some(now);
            }
            (fleet.plan, fleet.memory) = fleet.next();
        }
        let fleet = fleet.waiting((waiting / 200.0) as usize, waiting);
        Fleet { now_s: fleet.now_s + 7, ..fleet }
    }
}

impl Fleet {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_s * 1000)
    }

    fn next(&self) -> (ScalingPlan, ScalingMemory) {
        plan_scaling(&self.inputs, &self.memory, &self.settings, self.now())
    }

    /// Capacity of the workers in these phases, as far as it is to be counted on.
    fn capacity(&self, counts: impl Fn(WorkerPhase) -> bool) -> f64 {
        let workers = self.inputs.snapshot.workers.iter();
        let counted = workers.filter(|w| counts(w.phase) && !w.spare && !w.ends_soon);
        counted.map(|worker| worker.speed.0).sum()
    }
}

fn running(phase: WorkerPhase) -> bool {
    phase.is_ready() || phase.is_starting()
}

/// Orders name what exists, each worker once.
fn names_what_exists(fleet: &Fleet, plan: &ScalingPlan) -> Result<(), TestCaseError> {
    let mut named = std::collections::BTreeSet::new();
    for planned in &plan.actions {
        let worker = match &planned.action {
            ScalingAction::Rent { group } => {
                let mut groups = fleet.inputs.groups.iter();
                let known = groups.find(|known| known.group == *group);
                prop_assert!(known.is_some_and(|known| known.rentable));
                continue;
            }
            ScalingAction::Restart { worker }
            | ScalingAction::Drain { worker, .. }
            | ScalingAction::CancelDrain { worker }
            | ScalingAction::Destroy { worker } => worker,
        };
        let mut workers = fleet.inputs.snapshot.workers.iter();
        prop_assert!(workers.any(|known| known.id == *worker));
        prop_assert!(
            named.insert(worker.clone()),
            "{worker} twice: {:#?}",
            plan.actions
        );
    }
    Ok(())
}

/// Rentals stay within `max_workers`, and each has a shortage, a doubtful restart or a saving for its reason.
fn rents_for_a_reason(fleet: &Fleet, plan: &ScalingPlan) -> Result<(), TestCaseError> {
    let rents: Vec<&Reason> = plan
        .actions
        .iter()
        .filter(|planned| matches!(planned.action, ScalingAction::Rent { .. }))
        .map(|planned| &planned.reason)
        .collect();
    let workers = &fleet.inputs.snapshot.workers;
    let live = workers
        .iter()
        .filter(|worker| !worker.phase.is_ending())
        .count();
    prop_assert!(rents.is_empty() || live + rents.len() <= fleet.settings.max_workers as usize);
    let none = !workers.iter().any(|worker| running(worker.phase));
    for reason in &rents {
        let fits = match reason {
            Reason::CapacityBelowWanted { .. } => none || fleet.capacity(running) < plan.wanted.0,
            // A reserve that did not come when it was asked is none, so that less may count than is there.
            Reason::PreparedBelowWanted { have, wanted } => {
                let prepared = workers.iter().filter(|worker| !worker.phase.is_ending());
                have.0 < wanted.0 || prepared.count() < fleet.settings.cold_workers as usize + 8
            }
            Reason::RequestsWaitAtZero { waiting } => {
                *waiting > 0 && fleet.capacity(WorkerPhase::is_ready) == 0.0
            }
            Reason::Replaces { .. } => {
                rents.len() == 1 && fleet.capacity(WorkerPhase::is_ready) >= plan.wanted.0
            }
            _ => false,
        };
        prop_assert!(fits, "{reason:?} of {:#?}", fleet.inputs.snapshot);
    }
    Ok(())
}

/// What is wanted is never given up for a surplus.
fn keeps_what_is_wanted(fleet: &Fleet, plan: &ScalingPlan) -> Result<(), TestCaseError> {
    let goes = |worker: &WorkerId| {
        plan.actions.iter().any(|planned| {
            matches!(planned.reason, Reason::SurplusCapacity { .. })
                && matches!(&planned.action, ScalingAction::Drain { worker: gone, .. } if gone == worker)
        })
    };
    let comes_back = |worker: &WorkerId| {
        let order = ScalingAction::CancelDrain {
            worker: worker.clone(),
        };
        plan.actions.iter().any(|planned| planned.action == order)
    };
    let workers = fleet.inputs.snapshot.workers.iter();
    let (mut left, mut gone) = (0.0, 0);
    for worker in workers.filter(|worker| !worker.spare && !worker.ends_soon) {
        if goes(&worker.id) {
            gone += 1;
        } else if worker.phase.is_ready() || comes_back(&worker.id) {
            left += worker.speed.0;
        }
    }
    prop_assert!(
        gone == 0 || left >= plan.wanted.0 * (1.0 - 1e-6),
        "{left} of {}",
        plan.wanted.0
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn plans_of_any_world_keep_their_promises(fleet in any_world()) {
        let (plan, memory_after) = fleet.next();
        prop_assert_eq!(&fleet.next(), &(plan.clone(), memory_after));
        prop_assert!(plan.wanted.0.is_finite() && plan.wanted.0 >= 0.0);
        names_what_exists(&fleet, &plan)?;
        rents_for_a_reason(&fleet, &plan)?;
        keeps_what_is_wanted(&fleet, &plan)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn more_work_now_more_waiting_or_a_higher_floor_never_want_less(
        fleet in any_world(),
        arrived in 0.0..5000.0_f64,
        waiting in 0.0..5000.0_f64,
        floor in 0.0..100.0_f64,
    ) {
        let mut more = fleet.clone();
        more.inputs.snapshot.demand.arrived_total += Tokens(arrived);
        more.inputs.snapshot.waiting.cost += Tokens(waiting);
        more.settings.min_load += TokensPerSecond(floor);
        let (less, more) = (fleet.next().0, more.next().0);
        prop_assert!(more.wanted.0 >= less.wanted.0 * (1.0 - 1e-9), "{} after {}", more.wanted.0, less.wanted.0);
    }

    #[test]
    fn a_decision_is_made_again_from_its_record(fleet in any_world()) {
        let (plan, memory_after) = fleet.next();
        let record = DecisionRecord {
            at: fleet.now(),
            inputs: fleet.inputs,
            memory: fleet.memory,
            settings: fleet.settings,
            plan,
            memory_after,
            choices: Vec::new(),
        };
        let line = serde_json::to_string(&record).unwrap();
        let read: DecisionRecord = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert!(replay(&read));
    }

    #[test]
    fn more_demand_never_gives_less_where_a_share_is_set(
        steps in prop::collection::vec((0.0..500.0_f64, 0.0..200.0_f64, 1..60_000_u64), 1..60),
        waiting in 0.0..5000.0_f64,
    ) {
        let mut less = Fleet::new(&[Ready; 3]).waiting(1, waiting);
        let mut more = Fleet::new(&[Ready; 3]).waiting(2, waiting * 1.1);
        let mut now = Timestamp::from_millis(1_000_000);
        for (arriving, extra, pause_ms) in steps {
            now = now + Duration::from_millis(pause_ms);
            for (fleet, arriving) in [(&mut less, arriving), (&mut more, arriving + extra)] {
                let demand = &mut fleet.inputs.snapshot.demand;
                demand.arrived_total += Tokens(arriving);
                demand.last_active = Some(now);
                let (plan, memory) =
                    plan_scaling(&fleet.inputs, &fleet.memory, &fleet.settings, now);
                (fleet.plan, fleet.memory) = (plan, memory);
            }
            prop_assert!(more.plan.wanted.0 >= less.plan.wanted.0 * (1.0 - 1e-9));
            prop_assert!(
                more.plan.prepared_wanted.0 >= less.plan.prepared_wanted.0 * (1.0 - 1e-9)
            );
        }
    }
}
