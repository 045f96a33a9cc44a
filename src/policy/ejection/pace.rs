//! How much slower than it was, and than its peers, a worker's streams flow.

use crate::domain::{EjectionSettings, GapLaw};

use super::Fault;

/// Samples until a worker's own past is known.
const PAST_KNOWN_AFTER: u32 = 60;
/// How fast the past follows the present while there is no suspicion: a quarter of an hour.
const PAST_PACE: f64 = 1.0 / 900.0;
/// A second counts as at most this many times slower.
const SURPRISE_MAX: f64 = 4.0;
/// A look after a long pause counts no more than this.
const LOOK_MAX_S: f64 = 2.0;

/// The streams of one worker in the last second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaceSample {
    pub mean_gap_s: f64,
    pub streams: f64,
    /// Since the sample before.
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    past: GapLaw,
    samples: u32,
    slower_than_before: f64,
    slower_than_peers: f64,
}

impl Pace {
    pub(super) fn watch(
        &mut self,
        sample: PaceSample,
        learned: GapLaw,
        peers: Option<GapLaw>,
        settings: &EjectionSettings,
    ) {
        self.samples = self.samples.saturating_add(1);
        if self.samples <= PAST_KNOWN_AFTER {
            self.past = learned;
        } else {
            add(&mut self.slower_than_before, sample, self.past, settings);
            if self.slower_than_before <= 0.0 {
                self.past = towards(self.past, learned);
            }
        }
        match peers {
            Some(peers) => add(&mut self.slower_than_peers, sample, peers, settings),
            None => self.slower_than_peers = 0.0,
        }
    }

    pub(super) fn fault(&self, settings: &EjectionSettings) -> Option<Fault> {
        let limit = half_way(settings) * settings.slow_for.as_secs_f64();
        if self.slower_than_peers > limit {
            Some(Fault::SlowerThanPeers)
        } else if self.slower_than_before > limit {
            Some(Fault::SlowerThanBefore)
        } else {
            None
        }
    }

    pub(super) fn forgive(&mut self) {
        self.slower_than_before = 0.0;
        self.slower_than_peers = 0.0;
    }
}

/// Half the logarithm of the slowdown that is a fault: what is slower adds up, what is faster takes away.
fn half_way(settings: &EjectionSettings) -> f64 {
    -settings.slow_ratio.clamp(0.01, 0.99).ln() / 2.0
}

fn add(sum: &mut f64, sample: PaceSample, expected: GapLaw, settings: &EjectionSettings) {
    let slower = sample.mean_gap_s / expected.at(sample.streams);
    if slower.is_finite() && slower > 0.0 {
        let slower = slower.clamp(1.0 / SURPRISE_MAX, SURPRISE_MAX);
        let seconds = sample.seconds.clamp(0.0, LOOK_MAX_S);
        *sum = (*sum + (slower.ln() - half_way(settings)) * seconds).max(0.0);
    }
}

fn towards(from: GapLaw, to: GapLaw) -> GapLaw {
    let step = |from: f64, to: f64| from + PAST_PACE * (to - from);
    GapLaw {
        base_s: step(from.base_s, to.base_s),
        per_stream_s: step(from.per_stream_s, to.per_stream_s),
    }
}

/// The middle of a group's laws, by their gaps at `streams`; `None` where there are too few to tell who is odd.
pub fn middle(laws: &mut [GapLaw], streams: f64) -> Option<GapLaw> {
    if laws.len() < 3 {
        return None;
    }
    laws.sort_unstable_by(|a, b| a.at(streams).total_cmp(&b.at(streams)));
    // The faster of the two middle ones: of four, two slow ones do not make the norm.
    laws.get((laws.len() - 1) / 2).copied()
}
