//! Choosing, by cases and by properties.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::Contention;
use crate::domain::{
    AffinitySettings, GapLaw, KvRoom, LatencyAim, Tokens, TokensPerSecond, UsdPerHour,
};
use crate::policy::cost::cost;

fn settings() -> RoutingSettings {
    RoutingSettings::default()
}

fn cheapest() -> RoutingSettings {
    RoutingSettings {
        prefer: Preference::Cost,
        ..settings()
    }
}

fn worker(slot: usize, speed: f64, outstanding: f64) -> Candidate {
    Candidate {
        slot,
        ready: true,
        tried: false,
        in_flight: u32::from(outstanding > 0.0),
        max_concurrency: None,
        full_concurrency: 8,
        speed: TokensPerSecond(speed),
        weight: 1.0,
        outstanding: Tokens(outstanding),
        prefilling: Tokens(0.0),
        gap: GapLaw {
            base_s: 4.0 / speed,
            per_stream_s: 0.5 / speed,
        },
        kv: None,
        usd_per_hour: UsdPerHour(0.0),
        prefix_held: 0.0,
    }
}

fn choose_with(candidates: &[Candidate], settings: &RoutingSettings) -> Result<usize, NoWorker> {
    choose_worker(
        &cost(100.0, 80.0, 5.0),
        candidates.iter().copied(),
        settings,
        Contention::Alone,
    )
    .map(|choice| choice.slot)
}

#[track_caller]
fn check(candidates: &[Candidate], expect: Result<usize, NoWorker>) {
    assert_eq!(choose_with(candidates, &settings()), expect);
}

#[test]
fn a_fast_worker_with_more_work_wins_when_it_is_done_sooner() {
    check(&[worker(0, 50.0, 30.0), worker(1, 500.0, 300.0)], Ok(1));
    check(&[worker(0, 50.0, 30.0), worker(1, 500.0, 2_000.0)], Ok(0));
}

#[test]
fn equal_scores_go_to_the_first() {
    check(&[worker(3, 50.0, 10.0), worker(4, 50.0, 10.0)], Ok(3));
    check(&[worker(3, 50.0, 100.0), worker(4, 50.0, 100.0)], Ok(3));
}

#[test]
fn while_nobody_has_much_to_do_the_first_to_finish_wins() {
    let slow_gaps = Candidate {
        gap: GapLaw {
            base_s: 0.1,
            per_stream_s: 0.0,
        },
        ..worker(0, 500.0, 0.0)
    };
    check(&[slow_gaps, worker(1, 400.0, 10.0)], Ok(1));
    let busy = Candidate {
        outstanding: Tokens(300.0),
        ..slow_gaps
    };
    check(&[busy, worker(1, 400.0, 210.0)], Ok(1));
    check(&[busy, worker(1, 400.0, 230.0)], Ok(0));
}

#[test]
fn a_worker_beyond_its_queue_time_gets_nothing_but_an_idle_one_always_may() {
    check(&[worker(0, 10.0, 301.0)], Err(NoWorker::AllBusy));
    check(&[worker(0, 0.001, 0.0)], Ok(0));
}

#[test]
fn a_worker_at_its_concurrency_is_busy() {
    let full = Candidate {
        in_flight: 4,
        max_concurrency: Some(4),
        ..worker(0, 50.0, 10.0)
    };
    check(&[full], Err(NoWorker::AllBusy));
}

#[test]
fn tried_ejected_and_starting_workers_are_told_apart() {
    let tried = Candidate {
        tried: true,
        ..worker(0, 50.0, 0.0)
    };
    let starting = Candidate {
        ready: false,
        ..worker(1, 50.0, 0.0)
    };
    let ejected = Candidate {
        weight: 0.0,
        ..worker(2, 50.0, 0.0)
    };
    check(&[tried, starting], Err(NoWorker::AllTried));
    check(&[ejected, tried], Err(NoWorker::AllTried));
    check(&[starting, ejected], Err(NoWorker::AllBusy));
    check(&[starting], Err(NoWorker::NoneReady));
    check(&[], Err(NoWorker::NoneReady));
}

#[test]
fn a_worker_whose_kv_cache_fills_is_avoided_and_a_full_one_gets_nothing() {
    let with_kv = |slot, outstanding, used| Candidate {
        kv: Some(KvRoom {
            used,
            capacity: 10_000.0,
        }),
        ..worker(slot, 100.0, outstanding)
    };
    check(
        &[with_kv(0, 100.0, 9_400.0), with_kv(1, 300.0, 1_000.0)],
        Ok(1),
    );
    check(
        &[with_kv(0, 100.0, 8_000.0), with_kv(1, 300.0, 1_000.0)],
        Ok(0),
    );
    check(&[with_kv(0, 100.0, 9_700.0)], Err(NoWorker::AllBusy));
    check(&[with_kv(0, 0.0, 9_900.0)], Ok(0));
}

#[test]
fn a_new_worker_gets_less_until_it_is_trusted() {
    let fresh = Candidate {
        weight: 0.2,
        ..worker(0, 100.0, 0.0)
    };
    check(&[fresh, worker(1, 100.0, 300.0)], Ok(1));
    check(&[fresh, worker(1, 100.0, 500.0)], Ok(0));
}

#[test]
fn who_holds_the_prompt_is_preferred_within_the_bound() {
    let holds = |outstanding| Candidate {
        prefix_held: 1.0,
        ..worker(1, 100.0, outstanding)
    };
    let long = cost(900.0, 80.0, 5.0);
    let choose = |candidates: &[Candidate]| {
        choose_worker(
            &long,
            candidates.iter().copied(),
            &settings(),
            Contention::Alone,
        )
        .map(|choice| choice.slot)
    };
    // 180 of the work is the prompt: 1.8 s; the bound is 1 s.
    assert_eq!(choose(&[worker(0, 100.0, 100.0), holds(190.0)]), Ok(1));
    assert_eq!(choose(&[worker(0, 100.0, 100.0), holds(210.0)]), Ok(0));
}

#[test]
fn by_cost_the_cheap_ones_are_filled_first_and_the_dear_ones_drain() {
    let priced = |slot, usd, in_flight| Candidate {
        usd_per_hour: UsdPerHour(usd),
        in_flight,
        ..worker(slot, 200.0, f64::from(in_flight) * 60.0)
    };
    let choose = |candidates: &[Candidate]| choose_with(candidates, &cheapest());
    assert_eq!(choose(&[priced(0, 2.0, 0), priced(1, 0.5, 5)]), Ok(1));
    let crowded = Candidate {
        in_flight: 40,
        ..priced(1, 0.5, 40)
    };
    assert_eq!(
        choose(&[priced(0, 2.0, 0), crowded]),
        Ok(0),
        "beyond the aim"
    );
    assert_eq!(
        choose(&[priced(0, 2.0, 1), priced(1, 2.05, 0)]),
        Ok(1),
        "as good as equal"
    );
    let free = Candidate {
        usd_per_hour: UsdPerHour(0.0),
        ..priced(1, 0.0, 3)
    };
    assert_eq!(choose(&[priced(0, 0.01, 0), free]), Ok(1));
}

prop_compose! {
    fn any_candidate()(
        speed in prop_oneof![Just(0.0), Just(f64::NAN), 0.1..5_000.0],
        outstanding in prop_oneof![Just(0.0), 0.0..50_000.0],
        in_flight in 0u32..64,
        max in proptest::option::of(1u32..64),
        ready: bool,
        tried in prop::bool::weighted(0.2),
        weight in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0],
        kv in proptest::option::of((0.0..20_000.0, 1.0..20_000.0)),
        held in prop_oneof![Just(0.0), 0.0..1.0],
        usd in prop_oneof![Just(0.0), 0.0..5.0],
    ) -> Candidate {
        Candidate {
            ready, tried, in_flight, max_concurrency: max, weight,
            kv: kv.map(|(used, capacity)| KvRoom { used, capacity }),
            prefix_held: held,
            usd_per_hour: UsdPerHour(usd),
            prefilling: Tokens(outstanding / 3.0),
            ..worker(0, speed, outstanding)
        }
    }
}

prop_compose! {
    fn any_fleet()(mut candidates in proptest::collection::vec(any_candidate(), 0..40)) -> Vec<Candidate> {
        for (slot, candidate) in candidates.iter_mut().enumerate() {
            candidate.slot = slot;
        }
        candidates
    }
}

prop_compose! {
    fn any_settings()(cost: bool, bound_s in 0.0..5.0, wait_s in 0.0..5.0) -> RoutingSettings {
        RoutingSettings {
            prefer: if cost { Preference::Cost } else { Preference::Latency },
            affinity: AffinitySettings {
                bound: Duration::from_secs_f64(bound_s),
                ..AffinitySettings::default()
            },
            latency_aim: LatencyAim {
                wait: Duration::from_secs_f64(wait_s),
                ..LatencyAim::default()
            },
            ..settings()
        }
    }
}

fn without_held(candidates: &[Candidate]) -> Vec<Candidate> {
    let forget = |candidate: &Candidate| Candidate {
        prefix_held: 0.0,
        ..*candidate
    };
    candidates.iter().map(forget).collect()
}

proptest! {
    #[test]
    fn whoever_is_chosen_may_take_it_and_nobody_is_chosen_only_if_nobody_may(
        candidates in any_fleet(),
        settings in any_settings(),
        prompt in 0.0..20_000.0,
        output in 1.0..4_000.0,
    ) {
        let cost = cost(prompt, output, 5.0);
        let may = |c: &Candidate| eligible::may_take(c, &cost, &settings, Contention::Alone);
        match choose_worker(&cost, candidates.iter().copied(), &settings, Contention::Alone) {
            Ok(choice) => {
                prop_assert!(may(&candidates[choice.slot]));
                prop_assert!(choice.score_s.is_finite());
            }
            Err(_) => prop_assert!(!candidates.iter().any(may)),
        }
    }

    #[test]
    fn under_load_nobody_eligible_scores_less_than_the_chosen(
        candidates in any_fleet(),
        output in 1.0..4_000.0,
    ) {
        let cost = cost(0.0, output, 5.0);
        let candidates = without_held(&candidates);
        let eligible: Vec<_> = candidates
            .iter()
            .filter(|c| eligible::may_take(c, &cost, &settings(), Contention::Alone))
            .collect();
        let all_small = eligible.iter().all(|c| score::queue_s(c) < SMALL_QUEUE_S);
        if let Ok(choice) = choose_worker(&cost, candidates.iter().copied(), &settings(), Contention::Alone)
            && !all_small
        {
            for other in eligible {
                prop_assert!(score::done_s(other, &cost) >= choice.score_s);
            }
        }
    }

    #[test]
    fn what_is_held_draws_no_request_beyond_the_bound(
        candidates in any_fleet(),
        bound_s in 0.0..5.0,
        prompt in 0.0..20_000.0,
    ) {
        let cost = cost(prompt, 100.0, 5.0);
        let mut settings = settings();
        settings.affinity.bound = Duration::from_secs_f64(bound_s);
        let blind = choose_worker(&cost, without_held(&candidates).into_iter(), &settings, Contention::Alone);
        let drawn = choose_worker(&cost, candidates.iter().copied(), &settings, Contention::Alone);
        prop_assert_eq!(blind.is_ok(), drawn.is_ok());
        if let (Ok(blind), Ok(drawn)) = (blind, drawn) && blind.slot != drawn.slot {
            let least = candidates
                .iter()
                .filter(|c| eligible::may_take(c, &cost, &settings, Contention::Alone))
                .map(|c| score::done_s(c, &cost))
                .fold(f64::INFINITY, f64::min);
            prop_assert!(score::done_s(&candidates[drawn.slot], &cost) <= least + bound_s + 1e-9);
        }
    }

    #[test]
    fn workers_that_may_not_take_it_do_not_change_the_choice(
        candidates in any_fleet(),
        settings in any_settings(),
    ) {
        let cost = cost(500.0, 100.0, 5.0);
        let only: Vec<_> = candidates
            .iter()
            .copied()
            .filter(|c| eligible::may_take(c, &cost, &settings, Contention::Alone))
            .collect();
        let of_all = choose_worker(&cost, candidates.iter().copied(), &settings, Contention::Alone).ok();
        let of_eligible = choose_worker(&cost, only.into_iter(), &settings, Contention::Alone).ok();
        prop_assert_eq!(of_all, of_eligible);
    }
}

#[test]
fn while_clients_compete_a_worker_with_prompts_to_read_gets_no_more() {
    let settings = settings();
    let reads = |slot, prompts| Candidate {
        in_flight: 1,
        prefilling: Tokens(prompts),
        ..worker(slot, 100.0, 200.0)
    };
    let choose = |candidates: &[Candidate], contention| {
        let cost = cost(100.0, 80.0, 5.0);
        choose_worker(&cost, candidates.iter().copied(), &settings, contention)
            .map(|choice| choice.slot)
    };
    // A tenth of a second of work.
    let (little, much) = (reads(0, 9.0), reads(1, 11.0));
    assert_eq!(choose(&[much, little], Contention::Several), Ok(0));
    assert_eq!(choose(&[much], Contention::Several), Err(NoWorker::AllBusy));
    assert_eq!(
        choose(&[much], Contention::Alone),
        Ok(1),
        "nobody else waits"
    );
}
