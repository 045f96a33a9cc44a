//! Faults, ejections and the way back.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::IterationLoad;

const LAW: IterationLaw = IterationLaw {
    base_s: 0.02,
    per_stream_s: 0.001,
    per_kv_kilotoken_s: 0.0,
    per_prompt_token_s: 0.0,
};

fn load(streams: f64) -> IterationLoad {
    IterationLoad {
        streams,
        ..IterationLoad::default()
    }
}

fn settings() -> EjectionSettings {
    EjectionSettings::default()
}

fn at(s: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + s * 1_000)
}

fn seen(slower: f64) -> PaceSample {
    PaceSample {
        mean_gap_s: LAW.at(load(5.0)) * slower,
        load: load(5.0),
        seconds: 1.0,
    }
}

fn fleet(size: usize) -> Vec<Health> {
    vec![Health::default(); size]
}

fn look(fleet: &mut [Health], now: Timestamp) -> Vec<(usize, Fault)> {
    look_closely(fleet, now).ejected
}

fn look_closely(fleet: &mut [Health], now: Timestamp) -> Review {
    let group = GroupName::new("g");
    let mut members: Vec<_> = fleet
        .iter_mut()
        .map(|health| Member {
            health,
            group: &group,
            capacity: TokensPerSecond(100.0),
        })
        .collect();
    review(&mut members, &settings(), now)
}

fn fail(health: &mut Health, times: usize) {
    for _ in 0..times {
        health.note(RequestOutcome::Failed);
    }
}

/// Seconds at `slower` times its gaps until the first of ten is ejected.
fn seconds_until_ejected(slower: f64, with_peers: bool) -> Option<u64> {
    let mut fleet = fleet(10);
    let peers = with_peers.then_some(LAW);
    for _ in 0..100 {
        fleet[0].watch(seen(1.0), LAW, peers, &settings());
    }
    (0..3_600).find(|s| {
        fleet[0].watch(seen(slower), LAW, peers, &settings());
        !look(&mut fleet, at(*s)).is_empty()
    })
}

#[test]
fn five_errors_in_a_row_or_three_of_ten_eject() {
    let mut fleet = fleet(4);
    fail(&mut fleet[0], 2);
    fleet[0].note(RequestOutcome::Succeeded);
    assert_eq!(look(&mut fleet, at(0)), []);
    fail(&mut fleet[0], 1);
    assert_eq!(look(&mut fleet, at(0)), [(0, Fault::Errors)]);
    assert_eq!(fleet[0].weight(), 0.0);
    for _ in 0..30 {
        fail(&mut fleet[1], 1);
        for _ in 0..4 {
            fleet[1].note(RequestOutcome::Succeeded);
        }
    }
    assert_eq!(look(&mut fleet, at(0)), [], "one of five is bad luck");
}

#[test]
fn an_ejected_worker_comes_back_on_probation_and_each_time_later() {
    let mut fleet = fleet(4);
    let mut now = 0;
    for expected in [30, 60, 120] {
        fail(&mut fleet[0], 5);
        assert_eq!(look(&mut fleet, at(now)).len(), 1);
        look(&mut fleet, at(now + expected - 1));
        assert_eq!(fleet[0].weight(), 0.0, "after {expected} s");
        look(&mut fleet, at(now + expected));
        assert_eq!(fleet[0].weight(), PROBATION_WEIGHT);
        now += expected;
        fail(&mut fleet[0], 1);
        assert_eq!(
            look(&mut fleet, at(now)),
            [(0, Fault::Errors)],
            "one error is enough on probation"
        );
        let Standing::Ejected { until, .. } = fleet[0].standing() else {
            panic!("ejected");
        };
        look(&mut fleet, until);
        for _ in 0..5 {
            fleet[0].note(RequestOutcome::Succeeded);
        }
        assert_eq!(fleet[0].weight(), 1.0);
        now = until.since(at(0)).as_secs();
        fleet[0].ejections -= 1;
    }
}

#[test]
fn half_speed_is_found_out_in_about_a_minute_and_seven_tenths_in_three() {
    for with_peers in [false, true] {
        let within = |slower, s: std::ops::Range<u64>| {
            let found = seconds_until_ejected(slower, with_peers);
            assert!(
                found.is_some_and(|found| s.contains(&found)),
                "{slower}: {found:?}"
            );
        };
        within(1.0 / 0.699, 145..180);
        within(2.0, 45..75);
        assert_eq!(seconds_until_ejected(1.1, with_peers), None);
    }
}

#[test]
fn a_bad_moment_is_forgotten() {
    let mut fleet = fleet(10);
    for second in 0..1_000 {
        let slower = if second % 10 == 0 { 4.0 } else { 1.0 };
        fleet[0].watch(seen(slower), LAW, Some(LAW), &settings());
        assert_eq!(look(&mut fleet, at(second)), []);
    }
}

#[test]
fn when_most_complain_it_is_the_work_and_nobody_is_ejected() {
    let mut fleet = fleet(4);
    fleet[..3].iter_mut().for_each(|health| fail(health, 5));
    assert_eq!(look(&mut fleet, at(0)), []);
    fail(&mut fleet[0], 5);
    assert_eq!(look(&mut fleet, at(1)), [(0, Fault::Errors)]);
}

#[test]
fn the_only_workers_are_never_ejected() {
    for size in [1, 2] {
        let mut fleet = fleet(size);
        fail(&mut fleet[0], 50);
        assert_eq!(look(&mut fleet, at(0)), []);
    }
}

#[test]
fn a_hang_while_other_streams_flow_is_an_error_and_else_silence() {
    let mut fleet = fleet(4);
    fleet[0].note(RequestOutcome::Hung);
    fleet[0].watch(seen(1.0), LAW, None, &settings());
    assert_eq!(look(&mut fleet, at(0)), []);
    fleet[1].note(RequestOutcome::Hung);
    assert_eq!(look(&mut fleet, at(1)), [(1, Fault::Silence)]);
}

#[test]
fn the_middle_of_a_group_is_that_of_its_healthy_half() {
    let law = |base_s| IterationLaw {
        base_s,
        ..IterationLaw::default()
    };
    let one = load(1.0);
    assert_eq!(middle(&mut [law(1.0), law(2.0)], one), None);
    assert_eq!(
        middle(&mut [law(9.0), law(1.0), law(2.0)], one),
        Some(law(2.0))
    );
    assert_eq!(
        middle(&mut [law(9.0), law(8.0), law(1.0), law(2.0)], one),
        Some(law(2.0))
    );
}

#[test]
fn a_fleet_that_slows_together_has_other_work_and_keeps_everybody() {
    let mut fleet = fleet(10);
    let mut forgiven = Vec::new();
    for second in 0..2_000_u64 {
        let slower = if second < 250 { 1.0 } else { 1.0 / 0.68 };
        for (n, health) in fleet.iter_mut().enumerate() {
            // They do not alarm in the same second: some have traffic more seldom.
            if second % (1 + n as u64 / 4) == 0 {
                let learned = if second < 300 { LAW } else { slowed(slower) };
                health.watch(seen(slower), learned, None, &settings());
            }
        }
        let found = look_closely(&mut fleet, at(second));
        assert_eq!(found.ejected, [], "after {second} s");
        assert!(found.given_up.is_empty());
        forgiven.extend(found.other_work);
    }
    forgiven.sort_unstable();
    forgiven.dedup();
    assert_eq!(forgiven, (0..10).collect::<Vec<_>>());
}

#[test]
fn slower_than_before_and_no_slower_than_its_equals_is_other_work() {
    let mut fleet = fleet(4);
    let mut found = Vec::new();
    for second in 0..600 {
        // Its equals have slowed too and are known for it; they have no traffic that would show in their own pace.
        let (slower, peers) = if second < 100 {
            (1.0, LAW)
        } else {
            (1.5, slowed(1.5))
        };
        fleet[0].watch(seen(slower), peers, Some(peers), &settings());
        let review = look_closely(&mut fleet, at(second));
        assert_eq!(review.ejected, [], "after {second} s");
        found.extend(review.other_work);
    }
    assert_eq!(found, [0], "once: then its past is another");
}

#[test]
fn one_of_another_group_is_not_excused_by_its_own_slowness() {
    let (own, other) = (GroupName::new("own"), GroupName::new("other"));
    let mut fleet = fleet(6);
    for _ in 0..400 {
        for (n, health) in fleet.iter_mut().enumerate() {
            let slower = if n == 0 && health.pace != Pace::default() {
                2.0
            } else {
                1.0
            };
            health.watch(seen(slower), LAW, Some(LAW), &settings());
        }
    }
    let mut members: Vec<_> = fleet
        .iter_mut()
        .enumerate()
        .map(|(n, health)| Member {
            health,
            group: if n == 0 { &own } else { &other },
            capacity: TokensPerSecond(100.0),
        })
        .collect();
    let found = review(&mut members, &settings(), at(0));
    assert_eq!(found.ejected, [(0, Fault::SlowerThanPeers)]);
    assert!(found.other_work.is_empty());
}

#[test]
fn a_worker_ejected_twice_within_an_hour_is_given_up_and_one_ejected_now_and_then_is_not() {
    for (apart_s, wanted) in [(1_800, true), (3_700, false)] {
        let mut fleet = fleet(4);
        for n in 0..3 {
            fail(&mut fleet[0], 5);
            let found = look_closely(&mut fleet, at(n * apart_s));
            assert_eq!(found.ejected.len(), 1);
            let given_up = n > 0 && wanted;
            assert_eq!(!found.given_up.is_empty(), given_up, "{n} of {apart_s} s");
            look(&mut fleet, at(n * apart_s + 700));
        }
    }
}

#[test]
fn one_of_two_that_is_slow_for_good_is_given_up_without_an_ejection() {
    let mut fleet = fleet(2);
    let given_up = (0..3_600).find_map(|second| {
        let slower = if second < 100 { 1.0 } else { 1.5 };
        fleet[0].watch(seen(slower), LAW, None, &settings());
        fleet[1].watch(seen(1.0), LAW, None, &settings());
        let found = look_closely(&mut fleet, at(second));
        assert_eq!(found.ejected, [], "half of all is too much");
        found.given_up.first().map(|given_up| (second, *given_up))
    });
    let (second, who) = given_up.expect("given up");
    assert!((800..1_000).contains(&second), "after {second} s");
    let fault = Fault::SlowerThanBefore;
    assert_eq!(who, (0, GivenUp::SlowForGood { fault }));
}

fn slowed(times: f64) -> IterationLaw {
    IterationLaw {
        base_s: LAW.base_s * times,
        per_stream_s: LAW.per_stream_s * times,
        ..LAW
    }
}

proptest! {
    #[test]
    fn never_more_than_a_third_of_the_capacity_is_ejected(
        capacities in prop::collection::vec(1.0..1_000.0_f64, 1..30),
        failing in prop::collection::vec((0_usize..30, 0_u64..400), 0..60),
    ) {
        let group = GroupName::new("g");
        let mut fleet = fleet(capacities.len());
        let mut failing = failing;
        failing.sort_by_key(|(_, s)| *s);
        for (who, s) in failing {
            fail(&mut fleet[who % capacities.len()], 5);
            let mut members: Vec<_> = fleet
                .iter_mut()
                .zip(&capacities)
                .map(|(health, capacity)| Member { health, group: &group, capacity: TokensPerSecond(*capacity) })
                .collect();
            review(&mut members, &settings(), at(s));
            let out: f64 = members
                .iter()
                .filter(|member| member.health.weight() == 0.0)
                .map(|member| member.capacity.0)
                .sum();
            let all: f64 = capacities.iter().sum();
            prop_assert!(out <= all / 3.0 * 1.000_001);
        }
    }
}

#[test]
fn times_are_bounded() {
    let mut health = Health::default();
    for _ in 0..100 {
        health.eject(Fault::Errors, &settings(), at(0));
    }
    let Standing::Ejected { until, .. } = health.standing() else {
        panic!("ejected");
    };
    assert_eq!(until.since(at(0)), Duration::from_secs(600));
}
