//! The simulated fleet under small loads.

use proptest::prelude::*;

use super::*;
use crate::domain::TokensPerSecond;

fn law(factor: f64) -> MachineLaw {
    MachineLaw {
        base_s: 0.017 / factor,
        per_sequence_s: 0.000_16 / factor,
        per_kv_token_s: 0.000_000_19 / factor,
        prefill_tokens_per_s: 6_000.0 * factor,
        kv_tokens: 31_000,
        batch_max: 64,
    }
}

fn scenario(factors: &[f64], seed: u64) -> Scenario {
    let machine = |factor: &f64| Machine {
        law: law(*factor),
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(700.0 * factor),
            concurrency: 20,
        },
        kv_tokens: Some(31_000),
        max_concurrency: None,
        usd_per_hour: UsdPerHour(0.5 * factor),
    };
    Scenario {
        machines: factors.iter().map(machine).collect(),
        settings: RoutingSettings::default(),
        reserve_tokens: u32::MAX,
        clients: 1,
        slowdowns: Vec::new(),
        seed,
    }
}

fn steady(rate: f64, count: usize) -> Vec<Arrival> {
    (0..count)
        .map(|n| Arrival {
            at_s: n as f64 / rate,
            prompt_tokens: 500 + (n * 137 % 800) as u32,
            output_tokens: 20 + (n * 61 % 200) as u32,
        })
        .collect()
}

fn served(scenario: &Scenario, arrivals: &[Arrival]) -> Vec<Served> {
    let mut router = Production::new(&scenario.settings);
    run(scenario, arrivals, &mut router)
}

#[test]
fn a_seed_replays_exactly_and_everybody_is_served() {
    let scenario = scenario(&[1.0, 1.0, 4.0], 7);
    let arrivals = steady(8.0, 400);
    let first = served(&scenario, &arrivals);
    assert_eq!(first.len(), 400);
    assert_eq!(first, served(&scenario, &arrivals));
}

#[test]
fn work_is_spread_by_speed() {
    let scenario = scenario(&[1.0, 4.0], 1);
    let result = served(&scenario, &steady(16.0, 1_000));
    let fast = result.iter().filter(|served| served.machine == 1).count();
    assert!((650..950).contains(&fast), "{fast} of 1000");
}

#[test]
fn by_cost_the_cheapest_is_used_first() {
    let mut scenario = scenario(&[1.0, 1.0], 1);
    scenario.machines[0].usd_per_hour = UsdPerHour(2.0);
    let mut router = Production::cheapest(&scenario.settings);
    let result = run(&scenario, &steady(1.0, 300), &mut router);
    let cheap = result.iter().filter(|served| served.machine == 1).count();
    assert!(cheap > 280, "{cheap} of 300");
}

#[test]
fn a_burst_beyond_the_caches_waits_at_the_gateway_and_is_served() {
    let scenario = scenario(&[1.0], 1);
    let burst: Vec<_> = steady(1_000.0, 200);
    let result = served(&scenario, &burst);
    assert_eq!(result.len(), 200);
    assert!(result.iter().any(|served| served.held_s > 1.0));
}

#[test]
fn leaps_change_nothing() {
    for (seed, reserve, clients, rate) in [(1, u32::MAX, 1, 9.0), (2, 1, 4, 12.0), (3, 32, 1, 4.0)]
    {
        let mut scenario = scenario(&[1.0, 2.0, 0.5], seed);
        scenario.reserve_tokens = reserve;
        scenario.clients = clients;
        scenario.slowdowns = vec![Slowdown {
            machine: 1,
            at_s: 50.0,
            times: 1.5,
        }];
        let mut arrivals = steady(rate, 1_500);
        let mut chance = crate::simulate::chance::SplitMix(seed);
        for arrival in &mut arrivals {
            arrival.at_s += chance.unit() / rate;
        }
        let plays = |leaps| {
            let mut router = Production::new(&scenario.settings);
            play(&scenario, &arrivals, &mut router, leaps, |_, _| {})
        };
        assert_eq!(plays(true), plays(false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_arrives_is_served_once(
        seed: u64,
        sizes in prop::collection::vec((0.0..20.0_f64, 1..6_000_u32, 1..400_u32), 1..80),
        reserve in prop_oneof![Just(1_u32), Just(u32::MAX)],
    ) {
        let mut arrivals: Vec<_> = sizes
            .iter()
            .map(|(at_s, prompt_tokens, output_tokens)| Arrival {
                at_s: *at_s,
                prompt_tokens: *prompt_tokens,
                output_tokens: *output_tokens,
            })
            .collect();
        arrivals.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let mut scenario = scenario(&[1.0, 2.0], seed);
        scenario.reserve_tokens = reserve;
        let result = served(&scenario, &arrivals);
        prop_assert_eq!(result.len(), arrivals.len());
        prop_assert!(result.iter().all(|served| served.first_token_s > 0.0));
    }
}
