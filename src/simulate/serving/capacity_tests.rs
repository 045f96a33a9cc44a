//! What the gateway believes of its workers, beside what they are.

use super::*;
use crate::domain::{CapacityView, TokensPerSecond};
use crate::simulate::chance::SplitMix;

const KAPPA: f64 = 5.0;

const RTX_4090: MachineLaw = MachineLaw {
    base_s: 0.017,
    per_sequence_s: 0.000_16,
    per_kv_token_s: 0.19e-6,
    prefill_tokens_per_s: 6_000.0,
    kv_tokens: 31_000,
    batch_max: 64,
};
const A100: MachineLaw = MachineLaw {
    base_s: 0.010_3,
    per_sequence_s: 0.000_1,
    per_kv_token_s: 0.092e-6,
    prefill_tokens_per_s: 9_700.0,
    kv_tokens: 400_000,
    batch_max: 64,
};

/// Requests that come by chance, so many a second, with long and short ones among them.
fn traffic(rate: f64, seconds: f64, seed: u64) -> Vec<Arrival> {
    let mut chance = SplitMix(seed);
    let mut at_s = 0.0;
    let mut arrivals = Vec::new();
    loop {
        at_s -= (1.0 - chance.unit()).ln() / rate;
        if at_s > seconds {
            return arrivals;
        }
        let skewed =
            |mean: f64, draw: f64| (-mean * (1.0 - draw).ln()).clamp(8.0, 6.0 * mean) as u32;
        arrivals.push(Arrival {
            at_s,
            prompt_tokens: skewed(700.0, chance.unit()),
            output_tokens: skewed(200.0, chance.unit()),
        });
    }
}

fn machine(law: MachineLaw, stated: f64) -> Machine {
    Machine {
        law,
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(stated),
            concurrency: law.batch_max,
        },
        kv_tokens: Some(law.kv_tokens),
        max_concurrency: None,
        usd_per_hour: UsdPerHour(0.5),
    }
}

fn scenario(machines: Vec<Machine>, seed: u64) -> Scenario {
    let settings = RoutingSettings {
        kappa: KAPPA,
        ..RoutingSettings::default()
    };
    Scenario {
        machines,
        settings,
        reserve_tokens: u32::MAX,
        clients: 1,
        slowdowns: Vec::new(),
        seed,
    }
}

fn watch(scenario: &Scenario, arrivals: &[Arrival]) -> Vec<Watched> {
    let mut seen = Vec::new();
    let mut router = Production::new(&scenario.settings);
    let mut keep = |watched: &Watched| seen.push(watched.clone());
    run_watched(scenario, arrivals, &mut router, &mut keep);
    seen
}

/// Output-equivalent tokens a second that a worker really serves while far more is asked of it.
fn served_when_overloaded(law: MachineLaw) -> f64 {
    saturated(law, &traffic(60.0, 60.0, 9), KAPPA)
}

fn off(found: f64, truth: f64) -> f64 {
    (found / truth - 1.0).abs()
}

fn last(seen: &[Watched], machine: usize) -> CapacityView {
    seen.last().map(|last| last.capacities[machine]).unwrap()
}

#[test]
fn capacity_is_found_at_low_and_at_high_demand() {
    for (name, law) in [("rtx 4090", RTX_4090), ("a100", A100)] {
        let truth = served_when_overloaded(law);
        for (share, within) in [(0.1, 0.25), (0.5, 0.12), (0.9, 0.1), (1.3, 0.1)] {
            // What was stated is wrong by a third.
            let rate = share * truth / (200.0 + 700.0 / KAPPA);
            let scenario = scenario(vec![machine(law, truth * 0.67)], 1);
            let seen = watch(&scenario, &traffic(rate, 600.0, 1));
            let during = &seen[..600.min(seen.len())];
            let view = last(during, 0);
            assert!(
                off(view.mean.0, truth) < within,
                "{name} at {share} of {truth}: {view:?}"
            );
        }
    }
}

#[test]
fn the_parts_of_the_law_are_told_apart_where_demand_varies() {
    let scenario = scenario(vec![machine(RTX_4090, 900.0)], 1);
    let mut arrivals = traffic(0.6, 300.0, 1);
    let later = traffic(2.2, 600.0, 2).into_iter().map(|arrival| Arrival {
        at_s: arrival.at_s + 300.0,
        ..arrival
    });
    arrivals.extend(later);
    let law = last(&watch(&scenario, &arrivals), 0).law;
    assert!(off(law.base_s, 0.017) < 0.1, "{law:?}");
    assert!(off(law.per_prompt_token_s, 1.0 / 6_000.0) < 0.2, "{law:?}");
    // Streams and what they hold come together; their sum is what capacity needs.
    let per_stream = law.per_stream_s + law.per_kv_kilotoken_s * 0.9;
    assert!(off(per_stream, 0.000_16 + 0.000_19 * 0.9) < 0.35, "{law:?}");
}

#[test]
fn one_that_slows_by_thirty_percent_is_found_out_within_three_minutes_at_any_demand() {
    for share in [0.15, 0.6] {
        let machines: Vec<_> = (0..4).map(|_| machine(RTX_4090, 700.0)).collect();
        let mut scenario = scenario(machines, 1);
        scenario.slowdowns = vec![Slowdown {
            machine: 2,
            at_s: 400.0,
            times: 1.0 / 0.69,
        }];
        let truth = served_when_overloaded(RTX_4090);
        let rate = share * 4.0 * truth / (200.0 + 700.0 / KAPPA);
        let seen = watch(&scenario, &traffic(rate, 800.0, 3));
        let mut before = seen.iter().filter(|watched| watched.at_s < 400.0);
        assert!(before.all(|watched| watched.ejected.is_empty()));
        let found = seen
            .iter()
            .find(|watched| !watched.ejected.is_empty())
            .unwrap();
        assert_eq!(found.ejected[0].0, 2);
        assert!(found.at_s - 400.0 <= 180.0, "{}", found.at_s - 400.0);
        let healthy = last(&seen[..590], 1).mean.0;
        let slow = last(&seen[..590], 2).mean.0;
        assert!(off(slow / healthy, 0.69) < 0.12, "{slow} of {healthy}");
    }
}

#[test]
fn a_fleet_that_slows_together_is_learned_anew_and_keeps_everybody() {
    let machines: Vec<_> = (0..4).map(|_| machine(RTX_4090, 700.0)).collect();
    let mut scenario = scenario(machines, 1);
    let slow = |machine| Slowdown {
        machine,
        at_s: 400.0,
        times: 1.6,
    };
    scenario.slowdowns = (0..4).map(slow).collect();
    let seen = watch(&scenario, &traffic(4.0, 900.0, 3));
    assert!(seen.iter().all(|watched| watched.ejected.is_empty()));
    assert!(seen.iter().any(|watched| !watched.other_work.is_empty()));
    let truth = served_when_overloaded(RTX_4090) / 1.6;
    for machine in 0..4 {
        assert!(off(last(&seen, machine).mean.0, truth) < 0.15);
    }
}
