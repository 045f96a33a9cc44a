//! The machines of known laws, and the requests they get.

use tidegate::simulate::chance::SplitMix;
use tidegate::simulate::serving::{Arrival, MachineLaw};

use crate::fakes::worker::SpeedLaw;

pub(super) const PROMPT_MEAN: f64 = 700.0;
pub(super) const OUTPUT_MEAN: f64 = 150.0;
pub(super) const KAPPA: f64 = 5.0;
/// Nobody asks for more than so many times the mean.
const SIZE_MAX: f64 = 5.0;

/// One kind of machine, and by what factor its configuration is wrong about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    pub(super) law: SpeedLaw,
    pub(super) stated_wrong: f64,
}

pub(super) const MACHINES: [Machine; 4] = [
    Machine {
        name: "rtx4090",
        law: SpeedLaw {
            max_batch: 48,
            ..SpeedLaw::RTX4090
        },
        stated_wrong: 0.6,
    },
    Machine {
        name: "a100",
        law: SpeedLaw {
            max_batch: 48,
            ..SpeedLaw::A100
        },
        stated_wrong: 1.5,
    },
    // A large model over slow links: each stream costs much.
    Machine {
        name: "steep",
        law: SpeedLaw {
            a_ms: 30.0,
            c_ms: 0.9,
            k_ms: 0.10,
            prefill_tps: 3_500.0,
            kv_tokens: 90_000,
            max_batch: 24,
        },
        stated_wrong: 1.5,
    },
    // A processor without a GPU, which is full with a few streams.
    Machine {
        name: "small",
        law: SpeedLaw {
            a_ms: 25.0,
            c_ms: 4.0,
            k_ms: 0.8,
            prefill_tps: 1_500.0,
            kv_tokens: 40_000,
            max_batch: 8,
        },
        stated_wrong: 0.6,
    },
];

impl Machine {
    /// The same machine for the simulator.
    pub(super) fn modelled(&self) -> MachineLaw {
        MachineLaw {
            base_s: self.law.a_ms / 1e3,
            per_sequence_s: self.law.c_ms / 1e3,
            per_kv_token_s: self.law.k_ms / 1e6,
            prefill_tokens_per_s: self.law.prefill_tps,
            kv_tokens: self.law.kv_tokens as u32,
            batch_max: self.law.max_batch as u32,
        }
    }

    /// What makes the stand-in worker such a machine, everything taking so many times as long.
    pub(super) fn flags(&self, slower: f64) -> Vec<String> {
        let law = &self.law;
        vec![
            format!("--a-ms={}", law.a_ms),
            format!("--c-ms={}", law.c_ms),
            format!("--k-ms={}", law.k_ms),
            format!("--prefill={}", law.prefill_tps),
            format!("--kv-tokens={}", law.kv_tokens),
            format!("--max-batch={}", law.max_batch),
            format!("--time-scale={}", 1.0 / slower),
        ]
    }
}

/// Requests that come by chance, so many a second, long and short ones.
pub(super) fn traffic(rate: f64, seconds: f64, seed: u64) -> Vec<Arrival> {
    let mut chance = SplitMix(seed);
    let exponential = |mean: f64, draw: f64| -mean * (1.0 - draw).ln();
    let mut at_s = 0.0;
    let mut arrivals = Vec::new();
    loop {
        at_s += exponential(1.0 / rate, chance.unit());
        if at_s > seconds {
            return arrivals;
        }
        let mut size = |mean: f64| {
            let drawn = exponential(mean, chance.unit());
            drawn.clamp(16.0, SIZE_MAX * mean) as u32
        };
        arrivals.push(Arrival {
            at_s,
            prompt_tokens: size(PROMPT_MEAN),
            output_tokens: size(OUTPUT_MEAN),
        });
    }
}

/// Output-equivalent tokens of a request of mean size.
pub(super) fn work_of_one() -> f64 {
    OUTPUT_MEAN + PROMPT_MEAN / KAPPA
}
