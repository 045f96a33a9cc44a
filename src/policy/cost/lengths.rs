//! How long answers get: a histogram over the logarithm of their length, in which the recent weighs most.

use crate::domain::{LENGTH_BINS, length_bin, length_bin_start};

/// What an observation weighs after each later one: about the last two hundred are remembered.
const KEPT: f32 = 0.995;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lengths {
    bins: [Bin; LENGTH_BINS],
}

/// Answers of about one length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    weight: f32,
    tokens: f32,
}

/// The answers that are longer than something: their share of all, and their tokens divided by all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Longer {
    pub(super) share: f64,
    pub(super) tokens: f64,
}

impl Lengths {
    pub(super) fn observe(&mut self, tokens: f64) {
        for bin in &mut self.bins {
            bin.weight *= KEPT;
            bin.tokens *= KEPT;
        }
        let bin = &mut self.bins[length_bin(tokens)];
        bin.weight += 1.0;
        bin.tokens += tokens as f32;
    }

    /// For each bin, of the answers that reach it.
    pub(super) fn reaching(&self) -> [Longer; LENGTH_BINS] {
        let all: f64 = self.bins.iter().map(|bin| f64::from(bin.weight)).sum();
        let mut reaching = [Longer::default(); LENGTH_BINS];
        if all <= 0.0 {
            return reaching;
        }
        let mut longer = Longer::default();
        for (bin, of) in self.bins.iter().zip(&mut reaching).rev() {
            longer.share += f64::from(bin.weight) / all;
            longer.tokens += f64::from(bin.tokens) / all;
            *of = longer;
        }
        reaching
    }

    /// Mean length.
    pub(super) fn mean(&self) -> f64 {
        self.reaching()[0].tokens
    }
}

/// Before anything was seen: lengths that could end at every token alike, with this mean.
pub(super) fn memoryless(mean: f64) -> [Longer; LENGTH_BINS] {
    let mean = mean.max(1.0);
    std::array::from_fn(|bin| {
        let tokens = length_bin_start(bin);
        let share = ((1.0 - tokens) / mean).exp();
        Longer {
            share,
            tokens: share * (tokens + mean),
        }
    })
}
