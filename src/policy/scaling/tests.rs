//! Single plans: given this fleet and this past, which orders, and why.

use super::*;
use crate::domain::{
    Alternative, DemandView, EndpointName, FailureReason, LatenessAim, Offer, OfferId, Reason,
    Release, ScalingAction, Tokens, WaitingView, WorkerId, WorkerPhase, WorkerView,
};

const START_S: u64 = 10_000;

fn settings() -> ScalingSettings {
    ScalingSettings {
        min_load: TokensPerSecond(0.0),
        target_util: Some(0.8),
        cold_mult: Some(1.0),
        min_cold_load: TokensPerSecond::ZERO,
        cold_workers: 0,
        max_workers: 20,
        inactivity_timeout: Some(Duration::from_secs(600)),
        scale_down_delay: Duration::from_secs(120),
        drain_backlog_within: Duration::from_secs(60),
        slo: LatenessAim {
            wait: Duration::from_secs(10),
            late_share: 0.005,
        },
    }
}

/// A fleet of workers that each do 100 tokens a second, seen once a second under a constant load.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) inputs: ScalingInputs,
    pub(super) memory: ScalingMemory,
    pub(super) settings: ScalingSettings,
    pub(super) now_s: u64,
    pub(super) plan: ScalingPlan,
}

impl Fleet {
    pub(super) fn new(phases: &[WorkerPhase]) -> Self {
        let workers = phases.iter().enumerate();
        let snapshot = FleetSnapshot {
            endpoint: EndpointName::new("test"),
            taken_at: Timestamp::default(),
            workers: workers.map(|(i, &phase)| worker(i, phase)).collect(),
            waiting: WaitingView::default(),
            demand: DemandView::default(),
        };
        let inputs = ScalingInputs {
            snapshot,
            groups: vec![group("dear", 100.0, 0.9), group("cheap", 100.0, 0.4)],
            removed: false,
        };
        Self {
            inputs,
            memory: ScalingMemory::default(),
            settings: settings(),
            now_s: START_S,
            plan: ScalingPlan::default(),
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut ScalingSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn worker(mut self, index: usize, change: impl FnOnce(&mut WorkerView)) -> Self {
        change(&mut self.inputs.snapshot.workers[index]);
        self
    }

    pub(super) fn waiting(mut self, requests: usize, cost: f64) -> Self {
        self.inputs.snapshot.waiting.requests = requests;
        self.inputs.snapshot.waiting.cost = Tokens(cost);
        self
    }

    /// As if `load` had been there for long, with all it needed.
    fn knowing(mut self, load: f64) -> Self {
        let workers = std::mem::take(&mut self.inputs.snapshot.workers);
        self = self.after(load, 900);
        self.inputs.snapshot.workers = workers;
        self.after(load, 0)
    }

    /// Lets `seconds` pass under `load`; the fleet itself does not change.
    pub(super) fn after(mut self, load: f64, seconds: u64) -> Self {
        for _ in 0..=seconds {
            self.now_s += 1;
            let now = Timestamp::from_millis(self.now_s * 1000);
            let demand = &mut self.inputs.snapshot.demand;
            demand.arrived_total += Tokens(load);
            if load > 0.0 {
                demand.last_active = Some(now);
            }
            let (plan, memory) = plan_scaling(&self.inputs, &self.memory, &self.settings, now);
            (self.plan, self.memory) = (plan, memory);
        }
        self
    }

    fn orders(&self) -> Vec<String> {
        self.plan
            .actions
            .iter()
            .map(|planned| short(&planned.action))
            .collect()
    }

    #[track_caller]
    fn expect(&self, orders: &[&str]) {
        assert_eq!(self.orders(), orders, "{:#?}", self.plan);
    }

    #[track_caller]
    fn expect_reason(&self, fits: impl Fn(&Reason) -> bool) {
        assert!(!self.plan.actions.is_empty());
        let reasons = self.plan.actions.iter().map(|planned| &planned.reason);
        assert!(
            reasons.clone().all(fits),
            "{:#?}",
            reasons.collect::<Vec<_>>()
        );
    }
}

fn short(action: &ScalingAction) -> String {
    match action {
        ScalingAction::Rent { group } => format!("rent {group}"),
        ScalingAction::Restart { worker } => format!("restart {worker}"),
        ScalingAction::Drain {
            worker,
            then: Release::Stop,
        } => format!("drain {worker} to stop"),
        ScalingAction::Drain { worker, .. } => format!("drain {worker} to destroy"),
        ScalingAction::CancelDrain { worker } => format!("cancel {worker}"),
        ScalingAction::Destroy { worker } => format!("destroy {worker}"),
    }
}

fn worker(index: usize, phase: WorkerPhase) -> WorkerView {
    WorkerView {
        id: WorkerId::new(format!("w{index}")),
        group: GroupName::new("cheap"),
        phase,
        phase_since: Timestamp::default(),
        speed: TokensPerSecond(100.0),
        dependable: None,
        outstanding: Tokens::ZERO,
        in_flight: 0,
        usd_per_hour: UsdPerHour(0.4),
        stopped_usd_per_hour: UsdPerHour::ZERO,
        spare: false,
        ends_soon: false,
        ejected_until: None,
    }
}

fn group(name: &str, speed: f64, usd: f64) -> GroupSupply {
    GroupSupply {
        group: GroupName::new(name),
        speed: TokensPerSecond(speed),
        usd_per_hour: UsdPerHour(usd),
        told_apart: false,
        rentable: true,
        failures_total: 0,
        starts: StartOutlook::default(),
    }
}

pub(super) fn draining(then: Release, since_s: u64) -> WorkerPhase {
    let since = Timestamp::from_millis(since_s * 1000);
    WorkerPhase::Draining { then, since }
}

use WorkerPhase::{Ready, Starting, Stopped};

#[test]
fn an_endpoint_nobody_used_rents_nothing() {
    Fleet::new(&[]).after(0.0, 100).expect(&[]);
}

#[test]
fn capacity_covers_the_load_with_the_headroom_asked_for() {
    // 300 / 0.8 = 375: four workers of 100.
    let fleet = Fleet::new(&[Ready, Starting]).after(300.0, 900);
    fleet.expect(&["rent cheap", "rent cheap"]);
    fleet.expect_reason(|reason| matches!(reason, Reason::CapacityBelowWanted { .. }));
    assert!((fleet.plan.wanted.0 - 375.0).abs() < 1.0);
    Fleet::new(&[Ready; 4]).after(300.0, 900).expect(&[]);
}

#[test]
fn a_floor_is_kept_without_any_demand() {
    let floor = |settings: &mut ScalingSettings| settings.min_load = TokensPerSecond(150.0);
    Fleet::new(&[])
        .with(floor)
        .after(0.0, 0)
        .expect(&["rent cheap"; 2]);
    Fleet::new(&[Ready; 2])
        .with(floor)
        .after(0.0, 9000)
        .expect(&[]);
}

#[test]
fn a_waiting_request_wakes_one_worker_however_small_it_is() {
    let fleet = Fleet::new(&[]).waiting(1, 0.001).after(0.0, 0);
    fleet.expect(&["rent cheap"]);
    fleet.expect_reason(|reason| *reason == Reason::RequestsWaitAtZero { waiting: 1 });
    Fleet::new(&[Starting])
        .waiting(1, 0.001)
        .after(0.0, 0)
        .expect(&[]);
    Fleet::new(&[Stopped])
        .waiting(1, 0.001)
        .after(0.0, 0)
        .expect(&["restart w0"]);
}

#[test]
fn a_backlog_is_left_to_who_works_it_off_before_anyone_ordered_now_could_help() {
    // A new worker takes 240 s, and the one that is there does 24,000 tokens until then.
    let waiting = |cost| Fleet::new(&[Ready]).waiting(40, cost).after(0.0, 0);
    waiting(23_000.0).expect(&[]);
    // 126,000 are left then. Within twice as long that is 262 a second.
    waiting(150_000.0).expect(&["rent cheap", "rent cheap"]);
    let starting = Fleet::new(&[Ready, Starting, Starting]).waiting(40, 150_000.0);
    starting.after(0.0, 0).expect(&[]);
    // A stopped one is back within a minute.
    let stopped = Fleet::new(&[Ready, Stopped]).waiting(40, 24_000.0);
    stopped.after(0.0, 0).expect(&["restart w1"]);
}

#[test]
fn what_is_quickest_comes_back_first() {
    let before = [
        Stopped,
        draining(Release::Stop, 20),
        draining(Release::Destroy, 30),
        Ready,
    ];
    let orders = ["cancel w2", "cancel w1", "restart w0", "rent cheap"];
    Fleet::new(&before).knowing(370.0).expect(&orders);
}

#[test]
fn a_machine_whose_rental_ends_is_replaced_and_neither_taken_back_nor_restarted() {
    let ends = |view: &mut WorkerView| view.ends_soon = true;
    Fleet::new(&[Stopped, draining(Release::Destroy, 30)])
        .worker(0, ends)
        .worker(1, ends)
        .waiting(1, 0.001)
        .after(0.0, 0)
        .expect(&["rent cheap"]);
}

#[test]
fn what_is_missing_is_covered_by_the_set_that_costs_least() {
    let rented = |load: f64, usd_of_large: f64| {
        let mut fleet = Fleet::new(&[Ready]);
        fleet
            .inputs
            .groups
            .push(group("large", 300.0, usd_of_large));
        fleet.after(load, 900).orders()
    };
    // Of 87 missing a small machine is enough, though the large one has the better price for capacity.
    assert_eq!(rented(150.0, 1.0), ["rent cheap"]);
    // 275 are three small ones' or one large one's.
    assert_eq!(rented(300.0, 1.0), ["rent large"]);
    assert_eq!(rented(300.0, 1.3), ["rent cheap"; 3]);
    // 400: a large and a small one.
    assert_eq!(rented(400.0, 1.0), ["rent large", "rent cheap"]);
    let mut fleet = Fleet::new(&[Ready]);
    fleet.inputs.groups[1].rentable = false;
    fleet.after(150.0, 900).expect(&["rent dear"]);
}

/// One dear worker that has served for two hours under a load it just covers.
fn dearly_served(usd: f64) -> Fleet {
    let long_ago = Timestamp::from_millis(1000 * (START_S - 7200));
    let mut fleet = Fleet::new(&[Ready]).worker(0, |worker| {
        worker.usd_per_hour = UsdPerHour(usd);
        worker.phase_since = long_ago;
    });
    for group in &mut fleet.inputs.groups {
        group.starts.cold_usd = 0.03;
    }
    // To the first moment at which enough is known of the past.
    fleet.after(66.0, 1800)
}

#[test]
fn a_dear_worker_gives_way_to_one_that_does_the_same_for_less() {
    let fleet = dearly_served(0.6);
    fleet.expect(&["rent cheap"]);
    fleet.expect_reason(|reason| match reason {
        Reason::Replaces { worker, saves } => {
            worker.as_str() == "w0" && (saves.0 - 0.2).abs() < 1e-9
        }
        _ => false,
    });
    // When the new one serves, the dear one goes.
    let mut fleet = Fleet::new(&[Ready, Ready]).worker(0, |worker| {
        worker.usd_per_hour = UsdPerHour(0.6);
    });
    fleet = fleet.after(75.0, 2000);
    fleet.expect(&["drain w0 to destroy"]);
}

#[test]
fn nothing_is_replaced_for_a_small_saving_nor_before_it_has_paid_nor_twice_at_once() {
    dearly_served(0.43).expect(&[]);
    let newly = Fleet::new(&[Ready]).worker(0, |worker| {
        worker.usd_per_hour = UsdPerHour(0.6);
        worker.phase_since = Timestamp::from_millis(1000 * (START_S + 1800));
    });
    let mut newly = newly;
    newly.inputs.groups[1].starts.cold_usd = 0.03;
    newly.after(66.0, 1800).expect(&[]);
    let mut starting = dearly_served(0.6);
    starting.inputs.snapshot.workers.push(worker(1, Starting));
    starting.after(66.0, 0).expect(&[]);
}

#[test]
fn machines_like_those_on_offer_are_not_replaced_by_them_because_doubt_makes_them_look_slow() {
    // In use each counts for 85 of 100; one more at its full 100 would seem to do what two do.
    let mut fleet = Fleet::new(&[Ready; 3]);
    for worker in &mut fleet.inputs.snapshot.workers {
        worker.dependable = Some(TokensPerSecond(85.0));
    }
    for _ in 0..4 * 3600 {
        fleet = fleet.after(146.0, 0);
        fleet.expect(&[]);
    }
}

#[test]
fn replacements_pause_and_longer_the_oftener_they_bring_nothing() {
    let long_ago = Timestamp::from_millis(1000 * (START_S - 7200));
    let mut fleet = Fleet::new(&[Ready]).worker(0, |worker| {
        worker.usd_per_hour = UsdPerHour(0.6);
        worker.phase_since = long_ago;
    });
    let mut rented_at = Vec::new();
    for second in 0..12 * 3600 {
        fleet = fleet.after(66.0, 0);
        if !fleet.plan.actions.is_empty() {
            fleet.expect(&["rent cheap"]);
            rented_at.push(second);
        }
    }
    assert_eq!(rented_at, [1800, 5400, 12_600, 27_000]);
}

#[test]
fn nothing_is_replaced_by_what_failed_to_come_up() {
    let mut fleet = dearly_served(0.43);
    fleet.inputs.snapshot.workers[0].usd_per_hour = UsdPerHour(0.6);
    fleet.inputs.groups[1].failures_total = 1;
    fleet.after(66.0, 600).expect(&[]);
}

#[test]
fn a_replacement_is_made_only_with_what_is_no_worse_than_it_was_reckoned_with() {
    let planned = GroupSupply {
        told_apart: true,
        ..group("cheap", 100.0, 0.4)
    };
    let pays = |speed: f64, usd: f64| {
        let offer = Offer::plain(OfferId::new("o1"), UsdPerHour(usd));
        still_replaces(
            &planned,
            &Alternative::plain(&offer, TokensPerSecond(speed)),
        )
    };
    assert!(pays(100.0, 0.4) && pays(120.0, 0.3));
    assert!(!pays(100.0, 0.5), "dearer");
    assert!(!pays(80.0, 0.3), "slower");
}

#[test]
fn an_ejection_that_ends_before_another_could_help_rents_nothing() {
    let ejected_for = |seconds: u64| {
        let fleet = Fleet::new(&[Ready, Ready]).knowing(120.0);
        let until = Timestamp::from_millis((fleet.now_s + seconds) * 1000);
        let fleet = fleet.worker(1, |worker| worker.ejected_until = Some(until));
        fleet.after(120.0, 0)
    };
    ejected_for(30).expect(&[]);
    ejected_for(600).expect(&["rent cheap"]);
}

#[test]
fn where_nothing_serves_a_doubtful_restart_is_not_waited_for_alone() {
    let asleep = |fails: f64| {
        let mut fleet = Fleet::new(&[Stopped]);
        for group in &mut fleet.inputs.groups {
            group.starts.restart_fails = fails;
        }
        fleet.waiting(1, 10.0).after(0.0, 0)
    };
    asleep(0.15).expect(&["restart w0"]);
    let fleet = asleep(0.3);
    fleet.expect(&["restart w0", "rent cheap"]);
    let mut fleet = fleet;
    fleet.inputs.snapshot.workers[0].phase = Starting;
    fleet.inputs.snapshot.workers.push(worker(1, Starting));
    fleet.after(0.0, 0).expect(&[]);
}

#[test]
fn max_workers_is_never_exceeded() {
    let most = |settings: &mut ScalingSettings| settings.max_workers = 3;
    Fleet::new(&[Ready])
        .with(most)
        .after(5000.0, 600)
        .expect(&["rent cheap"; 2]);
    Fleet::new(&[Ready, Starting, Stopped])
        .with(most)
        .knowing(5000.0)
        .expect(&["restart w2"]);
}

#[test]
fn a_failed_worker_is_replaced_but_not_without_bound() {
    let one = |settings: &mut ScalingSettings| settings.max_workers = 1;
    let failed = WorkerPhase::Failed {
        reason: FailureReason::Exited,
    };
    Fleet::new(&[failed])
        .with(one)
        .after(50.0, 60)
        .expect(&["rent cheap"]);
    Fleet::new(&[failed, WorkerPhase::Destroying])
        .with(one)
        .after(50.0, 60)
        .expect(&[]);
}

#[test]
fn a_lowered_max_lets_go_of_stopped_workers_first_and_spares_starting_ones() {
    let most = |settings: &mut ScalingSettings| settings.max_workers = 2;
    let fleet = Fleet::new(&[Ready, Starting, Stopped, Ready])
        .with(most)
        .after(350.0, 60);
    fleet.expect(&["destroy w2", "drain w0 to destroy"]);
    fleet.expect_reason(|reason| *reason == Reason::AboveMaxWorkers { max_workers: 2 });
}

#[test]
fn a_worker_on_its_way_out_for_max_workers_is_not_called_back() {
    let most = |settings: &mut ScalingSettings| settings.max_workers = 2;
    let before = [Ready, Ready, draining(Release::Destroy, 5)];
    Fleet::new(&before).with(most).after(900.0, 60).expect(&[]);
}

#[test]
fn surplus_is_released_only_after_the_delay_and_the_dearest_goes_first() {
    let fleet = || {
        Fleet::new(&[Ready; 4])
            .worker(1, |worker| worker.usd_per_hour = UsdPerHour(0.7))
            .worker(2, |worker| worker.outstanding = Tokens(50.0))
            .worker(3, |worker| worker.outstanding = Tokens(90.0))
    };
    fleet().after(100.0, 100).expect(&[]);
    let late = fleet().after(100.0, 130);
    late.expect(&["drain w1 to destroy", "drain w0 to destroy"]);
    late.expect_reason(|reason| matches!(reason, Reason::SurplusCapacity { .. }));
}

#[test]
fn with_a_share_as_a_number_surplus_goes_after_the_delay_whatever_a_restart_costs() {
    let released = |target_util: Option<f64>| {
        let mut fleet = Fleet::new(&[Ready; 3]).with(|settings| {
            settings.target_util = target_util;
            settings.scale_down_delay = Duration::from_secs(120);
        });
        for group in &mut fleet.inputs.groups {
            group.starts.restart_fails = 1.0;
        }
        for worker in &mut fleet.inputs.snapshot.workers {
            worker.phase_since = Timestamp::from_millis(1000 * START_S);
        }
        (0..900).find(|_| {
            fleet = fleet.clone().after(60.0, 0);
            !fleet.plan.actions.is_empty()
        })
    };
    assert_eq!(released(Some(0.8)), Some(120));
    assert!(released(None).is_none_or(|second| second > 200));
}

#[test]
fn late_work_teaches_nothing_where_covering_more_would_not_have_helped() {
    let mut auto = Fleet::new(&[Ready; 5]).with(|settings| settings.target_util = None);
    for group in &mut auto.inputs.groups {
        group.rentable = false;
    }
    // Once something serves; a cold start takes four minutes.
    let taught = |mut fleet: Fleet, load: f64, from_s: u64| {
        fleet = fleet.after(load, from_s);
        let before = fleet.memory.forecast.expected().covered;
        for _ in 0..60 {
            fleet.inputs.snapshot.demand.late_total += Tokens(load);
            fleet = fleet.after(load, 0);
        }
        fleet = fleet.after(load, 10);
        let expected = fleet.memory.forecast.expected();
        assert!(expected.late_share > 0.0);
        expected.covered > before
    };
    assert!(taught(auto.clone(), 100.0, 900));
    assert!(!taught(auto.clone(), 100.0, 100), "it has just woken");
    assert!(
        !taught(auto.clone(), 2000.0, 900),
        "there was nothing to rent"
    );
}

#[test]
fn a_peak_keeps_its_capacity_until_the_delay_has_passed() {
    let peak = || Fleet::new(&[Ready; 5]).after(390.0, 900);
    peak().after(50.0, 100).expect(&[]);
    assert!(!peak().after(50.0, 600).plan.actions.is_empty());
}

#[test]
fn surplus_counts_on_no_worker_that_is_not_ready_yet() {
    Fleet::new(&[Ready, Ready, Starting])
        .after(120.0, 900)
        .expect(&[]);
}

#[test]
fn the_last_worker_stays_while_there_was_demand_lately() {
    let fleet = Fleet::new(&[Ready; 2]).after(10.0, 300).after(0.0, 500);
    fleet.expect(&["drain w0 to destroy"]);
    Fleet::new(&[Ready])
        .after(10.0, 300)
        .after(0.0, 500)
        .expect(&[]);
}

#[test]
fn everything_goes_when_nobody_asks_for_long_enough() {
    let fleet = Fleet::new(&[Ready, Ready])
        .after(120.0, 300)
        .after(0.0, 600);
    fleet.expect(&["drain w0 to destroy", "drain w1 to destroy"]);
    fleet.expect_reason(|reason| matches!(reason, Reason::Idle { idle_s } if *idle_s >= 600.0));
    let never = |settings: &mut ScalingSettings| settings.inactivity_timeout = None;
    let fleet = Fleet::new(&[Ready])
        .with(never)
        .after(50.0, 300)
        .after(0.0, 90_000);
    fleet.expect(&[]);
}

#[test]
fn without_a_timeout_the_last_worker_never_goes_and_is_replaced_when_lost() {
    let never = |settings: &mut ScalingSettings| settings.inactivity_timeout = None;
    let unused = Fleet::new(&[Ready]).with(never);
    unused.after(0.0, 9000).expect(&[]);
    let lost = Fleet::new(&[]).with(never).after(50.0, 300);
    lost.after(0.0, 90_000).expect(&["rent cheap"]);
}

#[test]
fn after_sleep_the_fading_memory_of_load_wakes_nobody() {
    Fleet::new(&[])
        .after(120.0, 300)
        .after(0.0, 600)
        .expect(&[]);
}

#[test]
fn a_reserve_is_rented_and_later_kept_stopped() {
    let double = |settings: &mut ScalingSettings| settings.cold_mult = Some(2.0);
    let fleet = Fleet::new(&[Ready; 2]).with(double).after(150.0, 900);
    fleet.expect(&["rent cheap", "rent cheap"]);
    fleet.expect_reason(|reason| matches!(reason, Reason::PreparedBelowWanted { .. }));
    let fleet = Fleet::new(&[Ready; 4]).with(double).after(150.0, 900);
    fleet.expect(&["drain w0 to stop", "drain w1 to stop"]);
    let fleet = Fleet::new(&[Ready, Ready, Stopped, Stopped]).with(double);
    fleet.after(150.0, 900).expect(&[]);
}

#[test]
fn stopped_workers_beyond_the_reserve_are_destroyed() {
    let fleet = Fleet::new(&[Ready, Stopped, Stopped]).after(50.0, 900);
    fleet.expect(&["destroy w1", "destroy w2"]);
    let one = |settings: &mut ScalingSettings| settings.cold_workers = 2;
    let fleet = Fleet::new(&[Ready, Stopped, Stopped])
        .with(one)
        .after(50.0, 900);
    fleet.expect(&["destroy w1"]);
}

#[test]
fn a_reserve_outlives_its_need_by_the_delay() {
    let peak = || Fleet::new(&[Ready, Stopped]).knowing(150.0);
    peak().after(40.0, 100).expect(&[]);
    peak().after(40.0, 300).expect(&["destroy w1"]);
}

#[test]
fn cold_workers_exist_before_anyone_asks_and_survive_idleness() {
    let two = |settings: &mut ScalingSettings| settings.cold_workers = 2;
    Fleet::new(&[])
        .with(two)
        .after(0.0, 0)
        .expect(&["rent cheap"; 2]);
    let idle = Fleet::new(&[Ready; 3]).with(two).after(0.0, 600);
    idle.expect(&[
        "drain w0 to destroy",
        "drain w1 to stop",
        "drain w2 to stop",
    ]);
    Fleet::new(&[Stopped; 2])
        .with(two)
        .after(0.0, 9000)
        .expect(&[]);
}

#[test]
fn a_worker_draining_to_its_end_is_kept_as_reserve_rather_than_a_new_one_rented() {
    let two = |settings: &mut ScalingSettings| settings.cold_workers = 2;
    let before = [Ready, draining(Release::Destroy, 5)];
    Fleet::new(&before)
        .with(two)
        .after(50.0, 60)
        .expect(&["drain w1 to stop"]);
}

#[test]
fn a_removed_endpoint_releases_everything_even_what_starts() {
    let mut fleet = Fleet::new(&[
        Ready,
        Starting,
        Stopped,
        draining(Release::Stop, 5),
        draining(Release::Destroy, 5),
        WorkerPhase::Destroying,
    ]);
    fleet.inputs.removed = true;
    let fleet = fleet.waiting(3, 500.0).after(500.0, 10);
    fleet.expect(&[
        "drain w0 to destroy",
        "destroy w1",
        "destroy w2",
        "drain w3 to destroy",
    ]);
    fleet.expect_reason(|reason| *reason == Reason::EndpointRemoved);
}

#[test]
fn a_group_whose_workers_fail_is_retried_ever_more_rarely_and_another_is_used_meanwhile() {
    let mut fleet = Fleet::new(&[]).waiting(1, 10.0).after(0.0, 0);
    for (failures, pause_s) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        fleet.inputs.groups[1].failures_total = failures;
        for _ in 0..pause_s {
            fleet = fleet.after(0.0, 0);
            fleet.expect(&["rent dear"]);
        }
        fleet = fleet.after(0.0, 0);
        fleet.expect(&["rent cheap"]);
    }
}

#[test]
fn a_group_that_works_again_is_trusted_again() {
    let mut fleet = Fleet::new(&[Ready]).waiting(1, 90_000.0).after(0.0, 0);
    for failures in 1..=8 {
        fleet.inputs.groups[1].failures_total = failures;
        fleet = fleet.after(0.0, 60);
    }
    fleet.inputs.groups[1].failures_total = 9;
    let fleet = fleet.after(0.0, 0);
    let since = Timestamp::from_millis(fleet.now_s * 1000 + 1);
    let fleet = fleet.worker(0, |worker| worker.phase_since = since);
    let fleet = fleet.after(0.0, 9);
    fleet.expect(&["rent dear"]);
    fleet.after(0.0, 0).expect(&["rent cheap"]);
}

#[test]
fn after_failures_only_part_of_a_fleet_is_started_at_once() {
    let mut fleet = Fleet::new(&[]);
    fleet.inputs.groups.remove(0);
    let mut fleet = fleet.waiting(90, 384_000.0).after(0.0, 0);
    fleet.expect(&["rent cheap"; 8]);
    fleet.inputs.groups[0].failures_total = 8;
    let fleet = fleet.after(0.0, 5);
    fleet.expect(&["rent cheap"; 4]);
}

#[test]
fn a_stopped_worker_that_does_not_come_up_is_not_waited_for_again() {
    let patient = |settings: &mut ScalingSettings| {
        settings.scale_down_delay = Duration::from_secs(3600);
    };
    let stopped = Fleet::new(&[Stopped]).with(patient);
    let fleet = stopped.waiting(1, 10.0).after(0.0, 0);
    fleet.expect(&["restart w0"]);
    // It was about to start and stands where it was.
    let since = Timestamp::from_millis(fleet.now_s * 1000 + 500);
    let mut fleet = fleet.worker(0, |worker| worker.phase_since = since);
    for _ in 0..500 {
        fleet = fleet.after(0.0, 0);
        fleet.expect(&["rent cheap"]);
    }
    for group in &mut fleet.inputs.groups {
        group.rentable = false;
    }
    let fleet = fleet.after(0.0, 30);
    fleet.expect(&[]);
    let mut restarts = 0;
    let mut fleet = fleet;
    for _ in 0..200 {
        fleet = fleet.after(0.0, 0);
        restarts += fleet.plan.actions.len();
    }
    assert!((2..=4).contains(&restarts), "{restarts}");
}

#[test]
fn a_restart_that_was_refused_says_nothing_of_the_machine() {
    let mut fleet = Fleet::new(&[Stopped]).with(|settings| {
        settings.cold_workers = 1;
        settings.min_cold_load = TokensPerSecond(100.0);
    });
    for group in &mut fleet.inputs.groups {
        group.rentable = false;
    }
    fleet = fleet.waiting(1, 10.0).after(0.0, 0);
    fleet.expect(&["restart w0"]);
    // Nothing came of it: the machine stays a reserve, and is asked again after a while.
    let mut fleet = fleet.waiting(0, 0.0);
    fleet.inputs.groups[1].rentable = true;
    fleet = fleet.after(0.0, 100);
    fleet.expect(&[]);
    fleet.waiting(1, 10.0).after(0.0, 0).expect(&["restart w0"]);
}

#[test]
fn a_restarted_gateway_releases_nothing_before_it_knows_the_load() {
    Fleet::new(&[Ready; 4]).after(20.0, 100).expect(&[]);
}

#[test]
fn measurements_that_are_no_numbers_break_nothing() {
    let mut fleet = Fleet::new(&[Ready, Stopped])
        .worker(0, |worker| worker.speed = TokensPerSecond(f64::NAN))
        .worker(1, |worker| worker.speed = TokensPerSecond(-3.0))
        .waiting(1, f64::INFINITY);
    fleet.inputs.groups[0].speed = TokensPerSecond(0.0);
    fleet.inputs.groups[1].speed = TokensPerSecond(f64::NAN);
    let fleet = fleet.after(100.0, 600);
    fleet.expect(&[]);
    assert!(fleet.plan.wanted.0.is_finite());
}
