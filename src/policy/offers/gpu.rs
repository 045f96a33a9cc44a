//! How fast a machine is believed to be from its description alone.
//!
//! Generating a token reads the whole model, so speed follows memory bandwidth between classes of GPUs. Within a class
//! the market's own score (for Vast `dlperf`, a score of image models) tells good machines from throttled ones.

use crate::domain::{Hardware, Offer};

/// GB/s of one GPU, from the makers' data sheets. A name is found by its longest beginning here.
const BANDWIDTH: [(&str, f64); 52] = [
    ("A10", 600.0),
    ("A100", 1_555.0),
    ("A16", 200.0),
    ("A2", 200.0),
    ("A30", 933.0),
    ("A40", 696.0),
    ("A800", 1_555.0),
    ("B200", 8_000.0),
    ("B300", 8_000.0),
    ("GH200", 4_000.0),
    ("GTX1070", 256.0),
    ("GTX1080", 320.0),
    ("GTX1080TI", 484.0),
    ("H100", 2_000.0),
    ("H100NVL", 3_900.0),
    ("H100SXM", 3_350.0),
    ("H200", 4_800.0),
    ("L4", 300.0),
    ("L40", 864.0),
    ("MI300X", 5_300.0),
    ("P40", 347.0),
    ("P100", 732.0),
    ("RTX2060", 336.0),
    ("RTX2070", 448.0),
    ("RTX2080", 448.0),
    ("RTX2080TI", 616.0),
    ("RTX3060", 360.0),
    ("RTX3070", 448.0),
    ("RTX3080", 760.0),
    ("RTX3090", 936.0),
    ("RTX3090TI", 1_008.0),
    ("RTX4000ADA", 360.0),
    ("RTX4060", 280.0),
    ("RTX4070", 504.0),
    ("RTX4080", 720.0),
    ("RTX4090", 1_008.0),
    ("RTX4500ADA", 432.0),
    ("RTX5000ADA", 576.0),
    ("RTX5060", 448.0),
    ("RTX5070", 672.0),
    ("RTX5070TI", 896.0),
    ("RTX5080", 960.0),
    ("RTX5090", 1_792.0),
    ("RTX6000", 672.0),
    ("RTX6000ADA", 960.0),
    ("RTX8000", 672.0),
    ("RTXA4000", 448.0),
    ("RTXA5000", 768.0),
    ("RTXA6000", 768.0),
    ("RTXPRO6000", 1_792.0),
    ("T4", 320.0),
    ("V100", 900.0),
];
const UNKNOWN_GB_PER_S: f64 = 500.0;
/// The large A100 and A800 have faster memory as well as more.
const A100_LARGE_MB: f64 = 60_000.0;
const A100_LARGE_GB_PER_S: f64 = 2_000.0;
/// A model over several GPUs gains less with each.
const GPUS_EXPONENT: f64 = 0.9;
/// How much of a difference in the market's score within a class is one in tokens.
const SCORE_EXPONENT: f64 = 0.6;
/// A score further off says more of the score than of the machine.
const SCORE_TILT_MAX: f64 = 1.5;

/// Machines of one class are alike but for their condition: `RTX4090 x4`.
pub fn class_of(gpu_name: &str, gpu_count: u32) -> String {
    format!("{} x{gpu_count}", plain(gpu_name))
}

/// Whether two spellings mean the same GPU: one may say more than the other.
pub fn is_same_gpu(one: &str, other: &str) -> bool {
    let (one, other) = (plain(one), plain(other));
    one == other || one.is_empty() || other.is_empty()
}

/// Letters and digits without the maker's and the family's name.
fn plain(gpu_name: &str) -> String {
    let upper = gpu_name.to_uppercase();
    let words = upper
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| {
            !matches!(
                *word,
                "" | "NVIDIA" | "AMD" | "GEFORCE" | "TESLA" | "QUADRO" | "Q"
            )
        });
    words.collect()
}

fn bandwidth(name: &str, ram_mb: f64) -> Option<f64> {
    let name = plain(name);
    let known = BANDWIDTH
        .iter()
        .filter(|(start, _)| name.starts_with(start))
        .max_by_key(|(start, _)| start.len())?;
    let large = ram_mb > A100_LARGE_MB && matches!(known.0, "A100" | "A800");
    Some(if large { A100_LARGE_GB_PER_S } else { known.1 })
}

/// What speed is proportional to, for the whole machine.
pub(super) fn strength(hardware: &Hardware) -> f64 {
    let each = bandwidth(&hardware.gpu_name, hardware.gpu_ram_mb_each).unwrap_or(UNKNOWN_GB_PER_S);
    each * f64::from(hardware.gpu_count.max(1)).powf(GPUS_EXPONENT)
}

/// The middle machine on offer; what a group's stated speed is taken to mean.
pub fn middle_strength(offers: &[Offer]) -> Option<f64> {
    let of = |offer: &Offer| offer.hardware.as_ref().map(strength);
    median(offers.iter().filter_map(of))
}

/// The score of a machine over the middle one of its class, in tokens a second.
pub(super) fn tilt(hardware: &Hardware, offers: &[Offer]) -> f64 {
    let class = class_of(&hardware.gpu_name, hardware.gpu_count);
    let same = |other: &&Hardware| class_of(&other.gpu_name, other.gpu_count) == class;
    let scores = offers
        .iter()
        .filter_map(|offer| offer.hardware.as_ref())
        .filter(same)
        .map(|other| other.dlperf)
        .filter(|score| score.is_finite() && *score > 0.0);
    let own = hardware.dlperf;
    match median(scores) {
        Some(middle) if own.is_finite() && own > 0.0 => (own / middle)
            .powf(SCORE_EXPONENT)
            .clamp(1.0 / SCORE_TILT_MAX, SCORE_TILT_MAX),
        _ => 1.0,
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_known_in_every_spelling() {
        for (name, gb_per_s) in [
            ("RTX 4090", 1_008.0),
            ("NVIDIA GeForce RTX 4090", 1_008.0),
            ("RTX_3090_Ti", 1_008.0),
            ("RTX 3090", 936.0),
            ("H100 SXM", 3_350.0),
            ("H100 PCIE", 2_000.0),
            ("Tesla T4", 320.0),
            ("L40S", 864.0),
            ("L4", 300.0),
            ("RTX 6000Ada", 960.0),
        ] {
            assert_eq!(bandwidth(name, 24_000.0), Some(gb_per_s), "{name}");
        }
        assert_eq!(bandwidth("A100 SXM4", 81_920.0), Some(2_000.0));
        assert_eq!(bandwidth("A100 PCIE", 40_960.0), Some(1_555.0));
        assert_eq!(bandwidth("Radeon VII", 16_000.0), None);
    }

    #[test]
    fn the_same_gpu_is_told_by_its_name_whatever_stands_around_it() {
        assert!(is_same_gpu("RTX 4090", "NVIDIA RTX_4090"));
        assert!(!is_same_gpu("RTX 4090", "RTX 3090"));
        assert!(is_same_gpu("RTX 4090", ""));
    }
}
