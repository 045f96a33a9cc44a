//! The fleet the routers are compared on: Llama-3-8B in BF16 on one H100, two A100 and six RTX 4090.

use tidegate::domain::{RoutingSettings, SpeedPrior, TokensPerSecond, UsdPerHour};
use tidegate::simulate::serving::{Machine, MachineLaw};

/// Sequences at once, as the engines are started.
const BATCH_MAX: u32 = 64;

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

pub(super) fn machines() -> Vec<Machine> {
    let mut machines = vec![machine(H100, 4_000.0, 64, 2.5)];
    machines.extend([A100, A100].map(|law| machine(law, 1_800.0, 64, 1.2)));
    machines.extend([RTX_4090; 6].map(|law| machine(law, 700.0, 20, 0.4)));
    machines
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

pub(super) fn settings() -> RoutingSettings {
    RoutingSettings::default()
}

/// Requests a second of this size that the whole fleet can just serve.
pub(super) fn capacity(prompt_tokens: f64, output_tokens: f64) -> f64 {
    machines()
        .iter()
        .map(|machine| machine.law.requests_per_s(prompt_tokens, output_tokens))
        .sum()
}
