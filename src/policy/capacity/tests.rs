//! Capacity is found, at any demand, and nothing but a slower worker looks like one.

use proptest::prelude::*;

use super::*;
use crate::domain::{Timestamp, Tokens};

const CONTEXT: f64 = law::PRIOR_CONTEXT;

fn prior(speed: f64, concurrency: u32) -> SpeedPrior {
    SpeedPrior {
        tokens_per_second: TokensPerSecond(speed),
        concurrency,
    }
}

fn estimate(speed: f64, concurrency: u32, most: Option<u32>) -> CapacityEstimate {
    let prior = prior(speed, concurrency);
    let terms = Terms::new(prior, most, None, &RoutingSettings::default());
    CapacityEstimate::new(prior, PRIOR_SD_UNSEEN, terms)
}

fn law_of(base_s: f64, per_stream_s: f64) -> IterationLaw {
    IterationLaw {
        base_s,
        per_stream_s,
        ..IterationLaw::default()
    }
}

fn slower(law: IterationLaw, times: f64) -> IterationLaw {
    IterationLaw {
        base_s: law.base_s * times,
        per_stream_s: law.per_stream_s * times,
        per_kv_kilotoken_s: law.per_kv_kilotoken_s * times,
        per_prompt_token_s: law.per_prompt_token_s * times,
    }
}

fn load(streams: f64) -> IterationLoad {
    IterationLoad {
        streams,
        kv_kilotokens: streams * CONTEXT,
        prompt_tokens: 0.0,
    }
}

fn second(mean_gap_s: f64, load: IterationLoad, tokens: u32) -> Second {
    Second {
        seconds: 1.0,
        gaps: Some(GapSample {
            mean_gap_s,
            load,
            tokens,
        }),
        decoding: load.streams as u32,
        ..Second::default()
    }
}

fn flow(law: IterationLaw, load: IterationLoad) -> Second {
    let gap = law.at(load);
    second(gap, load, (load.streams / gap).ceil() as u32)
}

/// Sees `n` seconds of a worker with such a law at each of the given concurrencies in turn.
fn watch(estimate: &mut CapacityEstimate, law: IterationLaw, streams: &[f64], n: usize) {
    for i in 0..n {
        estimate.observe(&flow(law, load(streams[i % streams.len()])));
    }
}

#[track_caller]
fn assert_near(estimate: &CapacityEstimate, expected: f64, within: f64) {
    let speed = estimate.speed().0;
    let off = (speed / expected - 1.0).abs();
    assert!(
        off <= within,
        "{speed}, expected {expected} within {within}: {:?}",
        estimate.view()
    );
}

#[test]
fn before_anything_is_seen_the_prior_holds() {
    let fresh = estimate(800.0, 32, None);
    assert_near(&fresh, 800.0, 1e-9);
    assert_eq!(fresh.dependable(), fresh.speed(), "nothing can tell yet");
    let limited = estimate(800.0, 32, Some(8));
    assert!(limited.speed().0 < 300.0);
}

#[test]
fn low_demand_does_not_look_like_low_capacity() {
    for concurrency in [1, 4, 32, 256] {
        let mut estimate = estimate(800.0, concurrency, None);
        let law = estimate.law();
        watch(&mut estimate, law, &[1.0], 5000);
        assert_near(&estimate, 800.0, 0.001);
        let used = (1.0 / f64::from(concurrency) / DOUBT_WHOLE_AT).min(1.0);
        let least = 800.0 * (1.0 - used * DOUBT_MAX) - 1.0;
        let dependable = estimate.dependable().0;
        assert!(dependable >= least, "{dependable}");
    }
}

#[test]
fn a_worker_that_slows_by_thirty_percent_is_found_out_within_180_seconds_at_any_concurrency() {
    for b in [1.0, 2.0, 7.5, 32.0, 60.0] {
        let mut estimate = estimate(800.0, 32, None);
        let law = estimate.law();
        watch(&mut estimate, law, &[b], 1000);
        watch(&mut estimate, slower(law, 1.0 / 0.7), &[b], 180);
        assert_near(&estimate, 560.0, 0.03);
    }
}

#[test]
fn a_prior_wrong_by_a_factor_of_three_is_corrected_within_60_seconds() {
    for factor in [3.0, 1.0 / 3.0] {
        for b in [28.0, 32.0, 36.0] {
            let mut wrong = estimate(800.0 * factor, 32, None);
            let truth = estimate(800.0, 32, None).law();
            watch(&mut wrong, truth, &[b], 60);
            assert_near(&wrong, 800.0, 0.05);
        }
    }
}

#[test]
fn an_engine_that_saturates_early_is_learned_and_not_forgotten_at_low_demand() {
    // Twice the gap at five streams: 1 / (0.05 + 0.01 b) tokens a second each.
    let mut estimate = estimate(300.0, 8, None);
    let law = law_of(0.05, 0.01);
    watch(&mut estimate, law, &[1.0, 3.0, 5.0, 8.0], 1200);
    let truth = 8.0 / 0.13;
    assert_near(&estimate, truth, 0.03);
    watch(&mut estimate, law, &[1.0], 3600);
    assert_near(&estimate, truth, 0.08);
}

#[test]
fn a_stall_now_and_then_moves_little() {
    let mut estimate = estimate(800.0, 32, None);
    let law = estimate.law();
    for _ in 0..20 {
        watch(&mut estimate, law, &[8.0], 60);
        estimate.observe(&second(9.0, load(8.0), 1));
    }
    assert_near(&estimate, 800.0, 0.05);
}

#[test]
fn long_contexts_and_prompts_are_told_from_a_slow_worker() {
    let truth = IterationLaw {
        base_s: 0.017,
        per_stream_s: 0.000_16,
        per_kv_kilotoken_s: 0.000_19,
        per_prompt_token_s: 1.0 / 6_000.0,
    };
    let mut estimate = estimate(700.0, 20, None);
    for n in 0..900_u32 {
        let streams = 1.0 + f64::from(n % 20);
        let seen = IterationLoad {
            streams,
            kv_kilotokens: streams * (0.2 + 0.3 * f64::from(n % 7)),
            prompt_tokens: 30.0 * f64::from(n % 5),
        };
        estimate.observe(&flow(truth, seen));
    }
    let law = estimate.law();
    for (name, found, wanted, within) in [
        ("a", law.base_s, truth.base_s, 0.05),
        ("c", law.per_stream_s, truth.per_stream_s, 0.3),
        ("k", law.per_kv_kilotoken_s, truth.per_kv_kilotoken_s, 0.3),
        ("m", law.per_prompt_token_s, truth.per_prompt_token_s, 0.1),
    ] {
        let off = (found / wanted - 1.0).abs();
        assert!(off < within, "{name}: {found}, not {wanted}");
    }
}

#[test]
fn prompts_that_were_predicted_too_long_are_corrected_by_what_engines_tell() {
    let mut estimate = estimate(800.0, 32, None);
    for _ in 0..200 {
        let mut second = flow(estimate.law(), load(8.0));
        second.served = Served {
            prompt_tokens: 1_400.0,
            output_tokens: 200.0,
            told: Told {
                predicted: 1_400.0,
                actual: 700.0,
            },
        };
        estimate.observe(&second);
    }
    let ratio = estimate.view().prompt_per_output;
    assert!((ratio / 3.5 - 1.0).abs() < 0.1, "{ratio}");
}

#[test]
fn uncertainty_shrinks_with_what_is_seen() {
    let sd = |estimate: &CapacityEstimate| estimate.view().sd.0 / estimate.speed().0;
    let mut estimate = estimate(800.0, 32, None);
    let law = estimate.law();
    let before = sd(&estimate);
    watch(&mut estimate, law, &[2.0], 60);
    let little = sd(&estimate);
    watch(&mut estimate, law, &[2.0, 16.0, 32.0], 120);
    let much = sd(&estimate);
    assert!(
        before > 0.35 && little < before && much < 0.06 && much < little,
        "{before} {little} {much}"
    );
}

#[test]
fn doubt_counts_where_the_worker_is_used_and_not_where_it_is_a_reserve() {
    let share = |estimate: &CapacityEstimate| estimate.dependable().0 / estimate.speed().0;
    let mut estimate = estimate(800.0, 32, None);
    let law = estimate.law();
    watch(&mut estimate, law, &[24.0], 9);
    assert_eq!(share(&estimate), 1.0, "soon something is known");
    watch(&mut estimate, law, &[24.0], 120);
    let view = estimate.view();
    let sd = view.sd.0 / view.mean.0;
    assert!((share(&estimate) - (1.0 - sd)).abs() < 1e-9);
    for _ in 0..600 {
        estimate.observe(&Second {
            seconds: 1.0,
            ..Second::default()
        });
    }
    assert!(share(&estimate) > 0.999);
}

#[test]
fn a_benchmark_outweighs_the_prior_and_traffic_the_benchmark() {
    let mut measured = estimate(800.0, 32, None);
    let truth = slower(measured.law(), 2.0);
    let result = BenchmarkResult {
        at: Timestamp::default(),
        tokens_per_second: TokensPerSecond(32.0 / truth.at(load(32.0))),
        concurrency: 32,
        tokens_per_second_alone: Some(TokensPerSecond(1.0 / truth.at(load(1.0)))),
        first_token_s: None,
        output_tokens: 1_000,
        failed_requests: 0,
        took_s: 20.0,
    };
    let asked = BenchmarkSettings {
        prompts: Vec::new(),
        prompt_tokens: 400,
        output_tokens: 200,
        concurrency: None,
        length: std::time::Duration::from_secs(30),
        share_min: 0.4,
    };
    measured.take_benchmark(&result, Some(&asked));
    assert_near(&measured, 400.0, 0.05);
    let view = measured.view();
    assert!(view.sd.0 / view.mean.0 < 0.1, "{view:?}");
    watch(&mut measured, slower(truth, 1.5), &[4.0, 12.0], 120);
    assert_near(&measured, 400.0 / 1.5, 0.06);
}

#[test]
fn the_kv_cache_and_a_promised_gap_bound_the_concurrency() {
    let prior = prior(800.0, 64);
    let mut terms = Terms::new(prior, None, Some(20_000), &RoutingSettings::default());
    let mut estimate = CapacityEstimate::new(prior, PRIOR_SD_UNSEEN, terms);
    for _ in 0..50 {
        estimate.observe(&Second {
            served: Served {
                prompt_tokens: 800.0,
                output_tokens: 200.0,
                ..Served::default()
            },
            in_flight: 8,
            kv_reserved_tokens: 8_000.0,
            ..flow(estimate.law(), load(8.0))
        });
    }
    let at = estimate.view().at_streams;
    assert!((19.9..20.1).contains(&at), "{at}");
    let gap = estimate.gap();
    terms.gap_max_s = Some(gap.at(5.0));
    estimate.state_on(terms);
    assert!((estimate.view().at_streams - 5.0).abs() < 1e-6);
    terms.gap_max_s = Some(1e-6);
    estimate.state_on(terms);
    assert_eq!(estimate.view().at_streams, 1.0, "one is always served");
}

/// A worker with 16 streams of 16 and more waiting, of which it serves `rate` tokens a second.
fn overloaded(rate: f64) -> Second {
    Second {
        served: Served {
            prompt_tokens: 0.0,
            output_tokens: rate,
            ..Served::default()
        },
        in_flight: 16,
        outstanding: Tokens(1e5),
        ..second(16.0 / rate, load(16.0), rate as u32)
    }
}

#[test]
fn what_a_worker_serves_while_it_has_too_much_is_what_it_can_do() {
    let mut estimate = estimate(800.0, 16, None);
    // Its law is that of 500 tokens a second and its streams bring 400: something the law has no part for.
    for n in 0..120 {
        let mut second = overloaded(400.0);
        second.gaps = flow(slower(estimate.law(), 1.0), load(16.0)).gaps;
        if let Some(gaps) = &mut second.gaps {
            gaps.mean_gap_s = 16.0 / 500.0;
            gaps.tokens = 480;
        }
        estimate.observe(&second);
        let certain = estimate.view().saturated;
        assert!(certain == (n >= 20) || (9..20).contains(&n), "after {n} s");
    }
    let speed = estimate.speed().0;
    assert!((400.0..470.0).contains(&speed), "{speed}");
    watch(&mut estimate, law_of(0.03, 0.0), &[2.0], 5);
    assert!(!estimate.view().saturated);
}

#[test]
fn a_look_that_came_late_is_no_faster_worker() {
    let mut estimate = estimate(800.0, 16, None);
    for _ in 0..60 {
        estimate.observe(&overloaded(400.0));
    }
    let before = estimate.speed().0;
    let mut late = overloaded(400.0);
    late.seconds = 300.0;
    late.served.output_tokens *= 300.0;
    late.gaps.iter_mut().for_each(|gaps| gaps.tokens *= 300);
    estimate.observe(&late);
    let after = estimate.speed().0;
    assert!(
        (after / before - 1.0).abs() < 0.05,
        "{before}, then {after}"
    );
    assert!(!estimate.view().saturated);
}

#[test]
fn few_streams_and_streams_that_wait_for_their_clients_certify_nothing() {
    let mut estimate = estimate(800.0, 16, None);
    for _ in 0..60 {
        let mut few = overloaded(100.0);
        few.in_flight = 4;
        few.decoding = 4;
        estimate.observe(&few);
        assert!(!estimate.view().saturated);
    }
    for _ in 0..60 {
        let mut stalled = overloaded(100.0);
        stalled.gaps.iter_mut().for_each(|gaps| gaps.tokens = 20);
        estimate.observe(&stalled);
        assert!(!estimate.view().saturated);
    }
}

#[test]
fn other_work_is_learned_anew_at_once() {
    let mut estimate = estimate(800.0, 32, None);
    let law = estimate.law();
    watch(&mut estimate, law, &[8.0], 1000);
    estimate.widen();
    watch(&mut estimate, slower(law, 1.6), &[8.0], 5);
    assert_near(&estimate, 500.0, 0.05);
}

#[test]
fn nonsense_changes_nothing() {
    let mut estimate = estimate(800.0, 32, None);
    let before = estimate.law.clone();
    for gap in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        estimate.observe(&second(gap, load(4.0), 10));
    }
    for streams in [f64::NAN, 0.0, 0.5, -3.0, f64::INFINITY] {
        estimate.observe(&second(0.02, load(streams), 10));
    }
    estimate.observe(&second(0.02, load(4.0), 0));
    assert_eq!(estimate.law, before);
    assert!(estimate.speed().0.is_finite());
    let odd = self::estimate(f64::NAN, 0, Some(0));
    assert!(odd.speed().0 > 0.0);
}

proptest! {
    #[test]
    fn whatever_is_seen_the_law_stays_a_law(
        seen in prop::collection::vec(
            (1e-4..10.0_f64, 1.0..300.0_f64, 0.0..500.0_f64, 0.0..3_000.0_f64, 1..5000_u32), 1..300),
        concurrency in 1..256_u32,
    ) {
        let mut estimate = estimate(500.0, concurrency, None);
        for (gap, streams, kv_kilotokens, prompt_tokens, tokens) in seen {
            let load = IterationLoad { streams, kv_kilotokens, prompt_tokens };
            let mut second = second(gap, load, tokens);
            second.served = Served { prompt_tokens, output_tokens: f64::from(tokens), ..Served::default() };
            second.outstanding = Tokens(1e4);
            estimate.observe(&second);
            let law = estimate.law();
            for part in [law.base_s, law.per_stream_s, law.per_kv_kilotoken_s, law.per_prompt_token_s] {
                prop_assert!(part >= 0.0 && part.is_finite());
            }
            let (speed, dependable) = (estimate.speed().0, estimate.dependable().0);
            prop_assert!(speed.is_finite() && speed > 0.0);
            prop_assert!(dependable > 0.0 && dependable <= speed * 1.000_001);
            prop_assert!(estimate.view().sd.0.is_finite());
        }
    }
}
