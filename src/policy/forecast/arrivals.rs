//! Arrivals on a time grid: running totals, looked at whenever somebody looks, become loads of whole bins.

use serde::{Deserialize, Serialize};

use super::Pace;
use crate::domain::{DemandView, Timestamp};

/// The bin where a restart takes a minute and ten seconds of waiting are allowed.
const BIN_USUAL_MS: u64 = 5_000;
const USUAL_S: f64 = 110.0;
/// Shorter and longer bins are halves and doubles of it; most of either.
const HALVINGS_MAX: i32 = 6;
const DOUBLINGS_MAX: i32 = 2;
/// A bin is kept while the one that would fit is off by less than this many doublings.
const KEPT_WITHIN: f64 = 0.75;
/// More bins than this without a look are a gap.
const GAP_BINS: u64 = 60;
/// The share of predicted work that corrections come to, learned with this time constant, in bins.
const CORRECTION_BINS: f64 = 240.0;

/// Totals as last seen, and the bin that is being filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    bin_ms: u64,
    last: Option<Seen>,
    filling: f64,
    /// Work taken back by corrections and not yet out of a bin.
    owed: f64,
    predicted: f64,
    corrected: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    at: Timestamp,
    arrived: f64,
    corrected: f64,
}

impl Seen {
    /// Another process counts, from nothing: what ever arrived cannot have been less before its corrections.
    fn counts_anew_after(&self, before: &Seen) -> bool {
        let predicted = |seen: &Seen| seen.arrived - seen.corrected;
        predicted(self) < 0.5 * predicted(before)
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            bin_ms: BIN_USUAL_MS,
            last: None,
            filling: 0.0,
            owed: 0.0,
            predicted: 0.0,
            corrected: 0.0,
        }
    }
}

impl Arrivals {
    pub fn bin_s(&self) -> f64 {
        self.bin_ms as f64 / 1000.0
    }

    /// True if the grid changed: what was counted in bins of another length is of no use.
    pub fn adopt_bin(&mut self, pace: Pace) -> bool {
        let horizon_s = pace.wait.as_secs_f64() + pace.restart.as_secs_f64() * 5.0 / 3.0;
        let fits = (horizon_s.max(1e-3) / USUAL_S).log2();
        let has = (self.bin_ms as f64 / BIN_USUAL_MS as f64).log2();
        if (fits - has).abs() < KEPT_WITHIN {
            return false;
        }
        let doublings = (fits.round() as i32).clamp(-HALVINGS_MAX, DOUBLINGS_MAX);
        let bin_ms = (BIN_USUAL_MS as f64 * f64::from(doublings).exp2()) as u64;
        let changed = bin_ms != self.bin_ms;
        if changed {
            self.bin_ms = bin_ms;
            self.filling = 0.0;
        }
        changed
    }

    pub fn begin_anew(&mut self) {
        self.last = None;
        self.filling = 0.0;
        self.owed = 0.0;
    }

    /// Loads of the bins that are over, in tokens a second. What arrived between two looks counts as evenly spread.
    /// `None` after a gap: what arrived meanwhile is not known, and what was before is not next to what comes.
    pub fn take(&mut self, demand: &DemandView, now: Timestamp) -> Option<Vec<f64>> {
        let seen = Seen {
            at: now,
            arrived: demand.arrived_total.0,
            corrected: demand.corrected_total.0,
        };
        if !(seen.arrived.is_finite() && seen.corrected.is_finite()) {
            return Some(Vec::new());
        }
        let Some(before) = self.last else {
            self.last = Some(seen);
            return Some(Vec::new());
        };
        let (from, to) = (before.at.as_millis(), now.as_millis());
        if to <= from {
            return Some(Vec::new());
        }
        self.last = Some(seen);
        let gap = to / self.bin_ms - from / self.bin_ms > GAP_BINS;
        if gap || seen.counts_anew_after(&before) {
            self.filling = 0.0;
            self.owed = 0.0;
            return None;
        }
        let work = self.foretold(seen, before);
        Some(self.spread(work, from, to))
    }

    /// What the new arrivals will have cost when all is known: as predicted, times what corrections came to of late.
    fn foretold(&mut self, seen: Seen, before: Seen) -> f64 {
        let corrected = seen.corrected - before.corrected;
        let predicted = (seen.arrived - before.arrived) - corrected;
        self.predicted += predicted.max(0.0);
        self.corrected += corrected;
        let ratio = match self.predicted > 0.0 {
            true => (1.0 + self.corrected / self.predicted).clamp(0.2, 5.0),
            false => 1.0,
        };
        predicted * ratio
    }

    fn spread(&mut self, work: f64, from: u64, to: u64) -> Vec<f64> {
        let mut loads = Vec::new();
        let mut at = from;
        while at < to {
            let end = ((at / self.bin_ms + 1) * self.bin_ms).min(to);
            self.filling += work * (end - at) as f64 / (to - from) as f64;
            if end.is_multiple_of(self.bin_ms) {
                loads.push(self.finish());
            }
            at = end;
        }
        loads
    }

    fn finish(&mut self) -> f64 {
        let keep = 1.0 - 1.0 / CORRECTION_BINS;
        self.predicted *= keep;
        self.corrected *= keep;
        let net = std::mem::take(&mut self.filling) + self.owed;
        self.owed = net.min(0.0);
        net.max(0.0) / self.bin_s()
    }
}
