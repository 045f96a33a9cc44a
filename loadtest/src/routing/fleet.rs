//! The fleet the routers are compared on: Llama-3-8B in BF16 on one H100, two A100 and six RTX 4090.

use std::time::Duration;

use tidegate::domain::{RoutingSettings, SpeedPrior, TokensPerSecond, UsdPerHour};
use tidegate::simulate::serving::{Machine, MachineLaw};

/// Sequences at once, as the engines are started.
pub(super) const BATCH_MAX: u32 = 64;

/// Least squares and rooflines of published measurements.
const H100: MachineLaw = law(6.2, 0.06, 0.056, 25_000.0, 400_000);
const A100: MachineLaw = law(10.3, 0.10, 0.092, 9_700.0, 400_000);
const RTX_4090: MachineLaw = law(17.0, 0.16, 0.19, 6_000.0, 31_000);

const fn law(
    base_ms: f64,
    per_sequence_ms: f64,
    per_kilotoken_ms: f64,
    prefill_tokens_per_s: f64,
    kv_tokens: u32,
) -> MachineLaw {
    MachineLaw {
        base_s: base_ms / 1e3,
        per_sequence_s: per_sequence_ms / 1e3,
        per_kv_token_s: per_kilotoken_ms / 1e6,
        prefill_tokens_per_s,
        kv_tokens,
        batch_max: BATCH_MAX,
    }
}

/// Machines of one kind.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) count: usize,
    pub(super) machine: Machine,
}

pub(super) fn kinds() -> [Kind; 3] {
    let kind = |name, count, machine| Kind {
        name,
        count,
        machine,
    };
    [
        kind("h100", 1, machine(H100, 4_000.0, 64, 2.5)),
        kind("a100", 2, machine(A100, 1_800.0, 64, 1.2)),
        kind("rtx4090", 6, machine(RTX_4090, 700.0, 20, 0.4)),
    ]
}

pub(super) fn machines() -> Vec<Machine> {
    kinds()
        .into_iter()
        .flat_map(|kind| std::iter::repeat_n(kind.machine, kind.count))
        .collect()
}

/// The prior is what an operator knows from a benchmark: the output-equivalent tokens a second when full.
fn machine(law: MachineLaw, tokens_per_second: f64, concurrency: u32, usd: f64) -> Machine {
    Machine {
        law,
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(tokens_per_second),
            concurrency,
        },
        kv_tokens: Some(law.kv_tokens),
        max_concurrency: Some(BATCH_MAX),
        usd_per_hour: UsdPerHour(usd),
    }
}

/// A machine that takes so many times as long for everything, and is known to.
pub(super) fn slowed(mut machine: Machine, times: f64) -> Machine {
    let law = &mut machine.law;
    law.base_s *= times;
    law.per_sequence_s *= times;
    law.per_kv_token_s *= times;
    law.prefill_tokens_per_s /= times;
    machine.speed_prior.tokens_per_second.0 /= times;
    machine
}

pub(super) fn settings() -> RoutingSettings {
    RoutingSettings::default()
}

/// The settings for machines so many times as slow. The half second of `policy::routing`'s small queues and its five for a full
/// cache are no settings and stay.
pub(super) fn settings_for(times: f64) -> RoutingSettings {
    let mut settings = settings();
    let stretch = |time: &mut Duration| *time = time.mul_f64(times);
    stretch(&mut settings.max_queue_time);
    stretch(&mut settings.latency_aim.wait);
    stretch(&mut settings.latency_aim.gap);
    stretch(&mut settings.affinity.bound);
    settings
}

/// Requests a second of this size that the whole fleet can just serve.
pub(super) fn capacity(prompt_tokens: f64, output_tokens: f64) -> f64 {
    machines()
        .iter()
        .map(|machine| machine.law.requests_per_s(prompt_tokens, output_tokens))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::worker::SpeedLaw;

    #[test]
    fn stand_in_workers_obey_the_laws_of_the_modelled_ones() {
        let same = |modelled: MachineLaw, stand_in: SpeedLaw| {
            assert_eq!(modelled.base_s * 1e3, stand_in.a_ms);
            assert_eq!(modelled.per_sequence_s * 1e3, stand_in.c_ms);
            assert!((modelled.per_kv_token_s * 1e6 - stand_in.k_ms).abs() < 1e-12);
            assert_eq!(modelled.prefill_tokens_per_s, stand_in.prefill_tps);
            assert_eq!(u64::from(modelled.kv_tokens), stand_in.kv_tokens);
        };
        same(H100, SpeedLaw::H100);
        same(A100, SpeedLaw::A100);
        same(RTX_4090, SpeedLaw::RTX4090);
    }
}
