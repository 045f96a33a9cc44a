//! How much work arrives: predicted on arrival, corrected when it is known.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::domain::{DemandView, Timestamp, Tokens};

#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Thousandths of a token.
    arrived: AtomicI64,
    /// Thousandths of a token, of `arrived`.
    corrected: AtomicI64,
    /// Thousandths of a token.
    late: AtomicI64,
    last_active_ms: AtomicU64,
}

impl Demand {
    pub(super) fn arrived(&self, cost: Tokens, now: Timestamp) {
        self.arrived.fetch_add(thousandths(cost), Relaxed);
        self.active(now);
    }

    /// What arrived waited too long.
    pub(super) fn late(&self, cost: Tokens) {
        self.late.fetch_add(thousandths(cost), Relaxed);
    }

    pub(super) fn corrected(&self, predicted: Tokens, actual: Tokens) {
        let correction = thousandths(actual) - thousandths(predicted);
        self.arrived.fetch_add(correction, Relaxed);
        self.corrected.fetch_add(correction, Relaxed);
    }

    pub(super) fn active(&self, now: Timestamp) {
        self.last_active_ms.fetch_max(now.as_millis(), Relaxed);
    }

    /// When something last happened.
    pub(super) fn last_active(&self) -> Timestamp {
        Timestamp::from_millis(self.last_active_ms.load(Relaxed))
    }

    pub(super) fn view(&self) -> DemandView {
        let last = self.last_active_ms.load(Relaxed);
        DemandView {
            arrived_total: Tokens(self.arrived.load(Relaxed) as f64 / 1_000.0),
            corrected_total: Tokens(self.corrected.load(Relaxed) as f64 / 1_000.0),
            late_total: Tokens(self.late.load(Relaxed) as f64 / 1_000.0),
            last_active: (last > 0).then(|| Timestamp::from_millis(last)),
        }
    }
}

fn thousandths(cost: Tokens) -> i64 {
    (cost.0 * 1_000.0).clamp(0.0, 1e15) as i64
}
