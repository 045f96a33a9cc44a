//! Each phase, each event: what a worker becomes and what is done about it.

use proptest::prelude::*;

use super::*;
use WorkerEvent as E;
use WorkerPhase as P;

const NOW: Timestamp = Timestamp::from_millis(10_000_000);

fn times() -> TimeLimits {
    let second = Duration::from_secs(1);
    TimeLimits {
        connect: second,
        first_byte: 60 * second,
        between_bytes: 30 * second,
        boot: 600 * second,
        scheduling: Duration::from_secs(60),
        offline: Duration::from_secs(120),
        benchmark: Duration::from_secs(90),
        unresponsive: Duration::from_secs(1),
        silence: 5 * second,
        drain: 120 * second,
        drain_limit: 300 * second,
        probe_interval: 5 * second,
        probe: 2 * second,
    }
}

fn ago(seconds: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - seconds * 1000)
}

/// The worker entered `phase` `seconds` ago.
#[track_caller]
fn check(phase: P, seconds: u64, event: E, expect: P, effects: &[Effect]) {
    let result = advance(phase, ago(seconds), event, &times(), NOW);
    assert_eq!(result.phase, expect, "{phase:?} after {event:?}");
    assert_eq!(result.effects, effects, "{phase:?} after {event:?}");
}

fn failed(reason: FailureReason) -> P {
    P::Failed { reason }
}

#[test]
fn a_worker_is_ready_when_it_first_answers_and_failed_when_it_never_does() {
    check(P::Starting, 10, E::ProbeFailed, P::Starting, &[]);
    check(P::Starting, 599, E::Tick, P::Starting, &[]);
    check(P::Starting, 700, E::ProbeSucceeded, P::Ready, &[]);
    let late = failed(FailureReason::BootDeadline);
    check(P::Starting, 600, E::Tick, late, &[Effect::Destroy]);
}

fn lasting(state: InstanceState, seconds: u64) -> E {
    let since = ago(seconds);
    E::InstanceLasts { state, since }
}

#[test]
fn a_worker_that_is_measured_first_serves_only_when_it_passed() {
    check(P::Starting, 90, E::BenchmarkDue, P::Benchmarking, &[]);
    check(P::Benchmarking, 20, E::ProbeSucceeded, P::Benchmarking, &[]);
    check(P::Benchmarking, 20, E::ProbeFailed, P::Benchmarking, &[]);
    check(P::Benchmarking, 30, E::BenchmarkPassed, P::Ready, &[]);
    let slow = FailureReason::TooSlow;
    check(
        P::Benchmarking,
        30,
        E::BenchmarkFailed(slow),
        failed(slow),
        &[Effect::Destroy],
    );
    check(P::Benchmarking, 89, E::Tick, P::Benchmarking, &[]);
    let never = failed(FailureReason::BenchmarkFailed);
    check(P::Benchmarking, 90, E::Tick, never, &[Effect::Destroy]);
    check(P::Ready, 1, E::BenchmarkFailed(slow), P::Ready, &[]);
}

#[test]
fn a_serving_worker_that_waits_for_its_gpus_was_outbid_and_is_destroyed() {
    let outbid = failed(FailureReason::Outbid);
    let draining = P::Draining {
        then: Release::Stop,
        since: NOW,
    };
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    let seen = E::InstanceSeen(InstanceState::Scheduling);
    for phase in [P::Benchmarking, unhealthy, draining] {
        check(phase, 9, seen, outbid, &[Effect::Destroy]);
    }
}

#[test]
fn a_worker_that_answers_is_not_ended_by_what_a_listing_says() {
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    for event in [
        E::InstanceSeen(InstanceState::Scheduling),
        E::InstanceSeen(InstanceState::Stopped),
        E::InstanceMissing,
    ] {
        check(P::Ready, 9, event, P::Ready, &[]);
        let doubted = advance(unhealthy, ago(1), event, &times(), NOW);
        assert_ne!(doubted.phase, unhealthy, "{event:?}");
    }
}

#[test]
fn a_machine_that_does_not_get_its_gpus_in_time_is_given_up() {
    let seen = E::InstanceSeen(InstanceState::Scheduling);
    check(P::Starting, 70, seen, P::Starting, &[]);
    let waiting = |seconds| lasting(InstanceState::Scheduling, seconds);
    check(P::Starting, 70, waiting(59), P::Starting, &[]);
    let given_up = failed(FailureReason::NoGpu);
    check(P::Starting, 70, waiting(60), given_up, &[Effect::Destroy]);
    check(P::Stopped, 70, seen, P::Stopping, &[Effect::Stop]);
}

#[test]
fn a_host_that_is_not_heard_of_is_given_up_unless_its_worker_answers() {
    let offline = failed(FailureReason::HostOffline);
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    for phase in [
        P::Starting,
        P::Benchmarking,
        unhealthy,
        P::Stopped,
        P::Stopping,
    ] {
        let still = lasting(InstanceState::Offline, 119);
        assert_ne!(advance(phase, NOW, still, &times(), NOW).phase, offline);
        let long = lasting(InstanceState::Offline, 120);
        check(phase, 1, long, offline, &[Effect::Destroy]);
    }
    let long = lasting(InstanceState::Offline, 9_999);
    check(P::Ready, 1, long, P::Ready, &[]);
}

#[test]
fn a_market_that_reports_an_error_is_understood_and_one_that_reports_progress_is_not() {
    for said in [
        "Error response from daemon: pull access denied for x/y",
        "error: something",
        "OCI runtime create failed: runc create failed",
    ] {
        assert!(cannot_start(said), "{said}");
    }
    for said in ["", "Status: Downloaded newer image", "loading, 43% of 9 GB"] {
        assert!(!cannot_start(said), "{said}");
    }
}

#[test]
fn a_machine_that_cannot_start_or_is_another_is_given_up_at_once() {
    for reason in [FailureReason::MarketError, FailureReason::WrongHardware] {
        let unfit = E::InstanceUnfit(reason);
        check(P::Starting, 5, unfit, failed(reason), &[Effect::Destroy]);
    }
}

#[test]
fn one_failed_probe_takes_a_worker_out_of_service_and_the_third_gives_it_up() {
    let once = P::Unhealthy { failed_probes: 1 };
    let twice = P::Unhealthy { failed_probes: 2 };
    check(P::Ready, 50, E::ProbeFailed, once, &[]);
    check(once, 5, E::ProbeFailed, twice, &[]);
    check(twice, 10, E::ProbeSucceeded, P::Ready, &[]);
    let silent = failed(FailureReason::Unresponsive);
    check(twice, 10, E::ProbeFailed, silent, &[Effect::Destroy]);
}

#[test]
fn a_drained_worker_is_released_when_empty_and_its_streams_are_moved_before_they_are_cut() {
    for (then, phase, effect) in [
        (Release::Stop, P::Stopping, Effect::Stop),
        (Release::Destroy, P::Destroying, Effect::Destroy),
    ] {
        let young = P::Draining {
            then,
            since: ago(10),
        };
        let old = P::Draining {
            then,
            since: ago(120),
        };
        let older = P::Draining {
            then,
            since: ago(300),
        };
        check(
            P::Ready,
            99,
            E::DrainOrdered(then),
            P::Draining { then, since: NOW },
            &[],
        );
        check(young, 10, E::Emptied, phase, &[effect]);
        check(young, 10, E::Tick, young, &[]);
        check(old, 120, E::Tick, old, &[Effect::MoveRequests]);
        check(older, 300, E::Tick, phase, &[effect]);
        check(young, 10, E::DrainCancelled, P::Ready, &[]);
        // It may have died, and its streams need not wait for that to be sure.
        check(young, 10, E::ProbeFailed, young, &[Effect::MoveRequests]);
    }
}

#[test]
fn a_second_drain_order_changes_the_end_and_not_the_deadline() {
    let since = ago(100);
    let before = P::Draining {
        then: Release::Stop,
        since,
    };
    let after = P::Draining {
        then: Release::Destroy,
        since,
    };
    check(before, 100, E::DrainOrdered(Release::Destroy), after, &[]);
}

#[test]
fn a_stopped_worker_can_be_restarted_and_may_be_listed_as_stopped_for_a_moment() {
    let seen = E::InstanceSeen(InstanceState::Stopped);
    check(P::Stopping, 1, seen, P::Stopped, &[]);
    check(
        P::Stopped,
        99,
        E::RestartOrdered,
        P::Starting,
        &[Effect::Start],
    );
    check(P::Starting, 2, seen, P::Starting, &[]);
    check(P::Starting, 46, seen, P::Stopped, &[]);
}

#[test]
fn a_rental_is_left_in_good_order_before_it_ends_by_itself() {
    let (then, stop) = (Release::Destroy, Release::Stop);
    // Another boots in 600 s, and a drain takes 120 s.
    let after = |seconds| ends_soon(NOW + Duration::from_secs(seconds), &times(), NOW);
    assert!(after(720) && !after(721));
    assert!(ends_soon(ago(5), &times(), NOW));
    let leaving = |since| P::Draining { then, since };
    check(P::Ready, 99, E::EndsSoon, leaving(NOW), &[]);
    check(P::Ready, 99, E::GivenUp, leaving(NOW), &[]);
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    check(unhealthy, 1, E::EndsSoon, leaving(NOW), &[]);
    let since = ago(30);
    let to_stop = P::Draining { then: stop, since };
    check(to_stop, 30, E::EndsSoon, leaving(since), &[]);
    check(leaving(since), 30, E::EndsSoon, leaving(since), &[]);
    let destroyed = &[Effect::Destroy];
    check(P::Stopped, 9, E::EndsSoon, P::Destroying, destroyed);
    check(P::Stopping, 9, E::EndsSoon, P::Destroying, destroyed);
    check(P::Starting, 9, E::EndsSoon, P::Starting, &[]);
    check(P::Destroying, 9, E::EndsSoon, P::Destroying, &[]);
}

#[test]
fn a_stopped_worker_that_someone_else_started_is_stopped_again() {
    let seen = E::InstanceSeen(InstanceState::Running);
    check(P::Stopped, 99, seen, P::Stopping, &[Effect::Stop]);
}

#[test]
fn a_worker_that_ended_by_itself_is_failed_and_cleared_away() {
    let exited = failed(FailureReason::Exited);
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    let draining = P::Draining {
        then: Release::Stop,
        since: NOW,
    };
    for phase in [
        P::Starting,
        P::Ready,
        unhealthy,
        draining,
        P::Stopping,
        P::Stopped,
    ] {
        let seen = E::InstanceSeen(InstanceState::Exited);
        check(phase, 1, seen, exited, &[Effect::Destroy]);
    }
}

#[test]
fn a_worker_is_forgotten_only_when_two_listings_miss_it_or_it_was_to_end() {
    let vanished = failed(FailureReason::Vanished);
    check(
        P::Starting,
        1,
        E::InstanceMissing,
        vanished,
        &[Effect::Destroy],
    );
    check(vanished, 1, E::InstanceMissing, P::Gone, &[Effect::Forget]);
    check(
        P::Destroying,
        1,
        E::InstanceMissing,
        P::Gone,
        &[Effect::Forget],
    );
}

#[test]
fn a_refused_rental_leaves_nothing_to_destroy() {
    let refused = failed(FailureReason::RentRefused);
    check(P::Starting, 1, E::RentRefused, refused, &[Effect::Forget]);
    check(P::Destroying, 1, E::RentRefused, P::Gone, &[Effect::Forget]);
    check(P::Ready, 1, E::RentRefused, P::Ready, &[]);
}

#[test]
fn a_call_is_made_again_soon_if_it_shows_not_to_have_worked_and_rarely_if_nothing_does() {
    let seen = E::InstanceSeen(InstanceState::Running);
    for (phase, effect) in [
        (P::Stopping, Effect::Stop),
        (P::Destroying, Effect::Destroy),
        (failed(FailureReason::Vanished), Effect::Destroy),
    ] {
        for (event, in_two_minutes) in [(seen, 24), (E::Tick, 2)] {
            let (mut since, mut calls) = (NOW, 0);
            for second in 1..=120 {
                let now = NOW + Duration::from_secs(second);
                let next = advance(phase, since, event, &times(), now);
                assert_eq!(next.phase, phase);
                assert!(next.effects.iter().all(|given| *given == effect));
                calls += next.effects.len();
                since = next.since;
            }
            assert_eq!(calls, in_two_minutes, "{phase:?} {event:?}");
        }
    }
}

#[test]
fn the_start_of_a_phase_is_kept_while_it_lasts() {
    let unhealthy = P::Unhealthy { failed_probes: 1 };
    let next = advance(unhealthy, ago(5), E::ProbeFailed, &times(), NOW);
    assert_eq!(next.since, ago(5));
    assert_eq!(
        advance(P::Starting, ago(7), E::Tick, &times(), NOW).since,
        ago(7)
    );
    assert_eq!(
        advance(P::Ready, ago(7), E::ProbeFailed, &times(), NOW).since,
        NOW
    );
}

fn any_release() -> impl Strategy<Value = Release> {
    prop_oneof![Just(Release::Stop), Just(Release::Destroy)]
}

fn any_phase() -> impl Strategy<Value = P> {
    prop_oneof![
        Just(P::Starting),
        Just(P::Benchmarking),
        Just(P::Ready),
        (1..4_u32).prop_map(|failed_probes| P::Unhealthy { failed_probes }),
        (any_release(), 0..300_u64).prop_map(|(then, seconds)| P::Draining {
            then,
            since: ago(seconds)
        }),
        Just(P::Stopping),
        Just(P::Stopped),
        prop::sample::select(FailureReason::ALL.to_vec()).prop_map(failed),
        Just(P::Destroying),
        Just(P::Gone),
    ]
}

fn any_event() -> impl Strategy<Value = E> {
    let plain = [
        E::InstanceSeen(InstanceState::Loading),
        E::InstanceSeen(InstanceState::Running),
        E::InstanceSeen(InstanceState::Stopped),
        E::InstanceSeen(InstanceState::Exited),
        E::InstanceSeen(InstanceState::Scheduling),
        E::InstanceSeen(InstanceState::Offline),
        lasting(InstanceState::Scheduling, 100),
        lasting(InstanceState::Offline, 200),
        E::InstanceUnfit(FailureReason::WrongHardware),
        E::InstanceMissing,
        E::EndsSoon,
        E::RentRefused,
        E::ProbeSucceeded,
        E::BenchmarkDue,
        E::BenchmarkPassed,
        E::BenchmarkFailed(FailureReason::TooSlow),
        E::ProbeFailed,
        E::RestartOrdered,
        E::DrainCancelled,
        E::Emptied,
        E::Tick,
    ];
    let ordered = any_release().prop_map(E::DrainOrdered);
    prop_oneof![12 => prop::sample::select(plain.to_vec()), 2 => ordered]
}

proptest! {
    #[test]
    fn nothing_comes_back_from_the_end(
        phase in any_phase(), event in any_event(), seconds in 0..2000_u64,
    ) {
        let next = advance(phase, ago(seconds), event, &times(), NOW);
        if phase == P::Gone {
            prop_assert_eq!(next.phase, P::Gone);
            prop_assert!(next.effects.is_empty());
        }
        if phase.is_ending() {
            prop_assert!(next.phase.is_ending(), "{:?}", next.phase);
        }
    }

    #[test]
    fn each_effect_belongs_to_the_phase_it_leads_to(
        phase in any_phase(), event in any_event(), seconds in 0..2000_u64,
    ) {
        let next = advance(phase, ago(seconds), event, &times(), NOW);
        let refused = failed(FailureReason::RentRefused);
        for effect in next.effects {
            let fits = match effect {
                Effect::Start => next.phase == P::Starting,
                Effect::Stop => next.phase == P::Stopping,
                Effect::Destroy => next.phase.is_ending()
                    && next.phase != P::Gone && next.phase != refused,
                Effect::MoveRequests => matches!(next.phase, P::Draining { .. }),
                Effect::Forget => next.phase == P::Gone || next.phase == refused,
            };
            prop_assert!(fits, "{effect:?} in {:?}", next.phase);
        }
    }

    #[test]
    fn whoever_pays_for_a_machine_that_is_to_end_asks_for_its_end(
        phase in any_phase(), event in any_event(), seconds in 0..2000_u64,
    ) {
        let next = advance(phase, ago(seconds), event, &times(), NOW);
        let begins = next.phase.is_ending() && !phase.is_ending();
        prop_assert!(!begins || !next.effects.is_empty());
    }
}
