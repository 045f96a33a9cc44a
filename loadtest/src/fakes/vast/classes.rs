//! The GPUs on offer: what a search shows of them, what they cost, and how fast the stand-in worker on them is.

use crate::fakes::worker::SpeedLaw;

/// What is said of one GPU of its kind.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// As Vast spells it.
    pub gpu_name: &'static str,
    pub gpu_ram_mb: u64,
    /// Dollars an hour for one GPU: the lowest, the middle and the highest asked.
    pub usd_per_hour: [f64; 3],
    /// Vast's own score, for one GPU.
    pub dlperf: f64,
    /// Thousands of billions of operations a second, as Vast counts them.
    pub tflops: f64,
    /// GB a second.
    pub memory_bandwidth: f64,
    pub compute_cap: u32,
    pub watts: u32,
    /// In a datacenter, whose machines are more reliable.
    pub datacenter: bool,
    pub law: SpeedLaw,
    /// How many of the forty machines have it.
    pub machines: usize,
}

/// Prices of A100 and H100: p10, median and p90 (each the median over four weeks) of list prices in
/// tugot17/gpu-price-tracker (MIT), 2025-10-19 to 2025-11-16. The tracker has none of the others: theirs are assumed.
pub const CLASSES: [Class; 5] = [
    Class {
        gpu_name: "RTX 4090",
        gpu_ram_mb: 24_564,
        usd_per_hour: [0.28, 0.38, 0.60],
        dlperf: 95.0,
        tflops: 82.0,
        memory_bandwidth: 860.0,
        compute_cap: 890,
        watts: 450,
        datacenter: false,
        law: SpeedLaw::RTX4090,
        machines: 16,
    },
    Class {
        gpu_name: "RTX 3090",
        gpu_ram_mb: 24_576,
        usd_per_hour: [0.12, 0.19, 0.30],
        dlperf: 47.0,
        tflops: 35.6,
        memory_bandwidth: 800.0,
        compute_cap: 860,
        watts: 350,
        datacenter: false,
        // The 4090's by memory bandwidth (936 to 1008 GB/s) and arithmetic (71 to 165 TFLOPS).
        law: SpeedLaw {
            a_ms: 18.5,
            c_ms: 0.37,
            k_ms: 0.20,
            prefill_tps: 2_600.0,
            ..SpeedLaw::RTX4090
        },
        machines: 9,
    },
    Class {
        gpu_name: "L40S",
        gpu_ram_mb: 46_068,
        usd_per_hour: [0.60, 0.85, 1.20],
        dlperf: 90.0,
        tflops: 91.6,
        memory_bandwidth: 720.0,
        compute_cap: 890,
        watts: 350,
        datacenter: true,
        // The 4090's by memory bandwidth (864 to 1008 GB/s) and arithmetic.
        law: SpeedLaw {
            a_ms: 19.8,
            c_ms: 0.10,
            k_ms: 0.22,
            prefill_tps: 9_000.0,
            kv_tokens: 180_000,
            ..SpeedLaw::RTX4090
        },
        machines: 5,
    },
    Class {
        gpu_name: "A100 SXM4",
        gpu_ram_mb: 81_920,
        usd_per_hour: [1.23, 1.75, 2.40],
        dlperf: 110.0,
        tflops: 19.5,
        memory_bandwidth: 1_700.0,
        compute_cap: 800,
        watts: 400,
        datacenter: true,
        law: SpeedLaw::A100,
        machines: 6,
    },
    Class {
        gpu_name: "H100 SXM",
        gpu_ram_mb: 81_559,
        usd_per_hour: [1.80, 2.69, 2.71],
        dlperf: 300.0,
        tflops: 53.0,
        memory_bandwidth: 2_600.0,
        compute_cap: 900,
        watts: 700,
        datacenter: true,
        law: SpeedLaw::H100,
        machines: 4,
    },
];

impl Class {
    /// The law of several together, `slowness` times as slow: they share the work, not quite evenly.
    pub fn law_of(&self, gpus: u32, slowness: f64) -> SpeedLaw {
        let share = f64::from(gpus.max(1)).powf(0.85) / slowness.max(1e-3);
        SpeedLaw {
            a_ms: self.law.a_ms / share,
            c_ms: self.law.c_ms / share,
            k_ms: self.law.k_ms / share,
            prefill_tps: self.law.prefill_tps * share,
            kv_tokens: self.law.kv_tokens * u64::from(gpus.max(1)),
            max_batch: self.law.max_batch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_gpus_are_faster_and_wrong_hardware_is_slower() {
        for class in &CLASSES {
            let (one, four) = (class.law_of(1, 1.0), class.law_of(4, 1.0));
            assert_eq!(one, class.law);
            assert!(four.a_ms < one.a_ms / 2.5 && four.prefill_tps > one.prefill_tps * 2.5);
            let slow = class.law_of(4, 4.0);
            assert!((slow.a_ms / four.a_ms - 4.0).abs() < 1e-9 && slow.check().is_ok());
        }
    }

    #[test]
    fn there_are_forty_machines() {
        let machines: usize = CLASSES.iter().map(|class| class.machines).sum();
        assert_eq!(machines, 40);
    }
}
