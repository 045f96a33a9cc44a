//! Where a worker comes from: the offer it was rented by, what its market says of it, what it showed before it served.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::{Alternative, BenchmarkResult, InstanceState, Timestamp};

#[derive(Default)]
pub struct Origin {
    rented_as: Mutex<Option<Arc<Alternative>>>,
    benchmark: Mutex<Option<BenchmarkResult>>,
    /// The last state seen, and the first listing in a row that saw it.
    seen: Mutex<Option<(InstanceState, Timestamp)>>,
}

impl Origin {
    /// The offer as it was judged; `None` where nothing was chosen.
    pub fn rented_as(&self) -> Option<Arc<Alternative>> {
        self.rented_as.lock().clone()
    }

    pub fn set_rented_as(&self, offer: Alternative) {
        *self.rented_as.lock() = Some(Arc::new(offer));
    }

    pub fn benchmark(&self) -> Option<BenchmarkResult> {
        *self.benchmark.lock()
    }

    pub fn set_benchmark(&self, result: BenchmarkResult) {
        *self.benchmark.lock() = Some(result);
    }

    /// A listing begun at `at` saw this state; since when they all did.
    pub fn see(&self, state: InstanceState, at: Timestamp) -> Timestamp {
        let mut seen = self.seen.lock();
        match *seen {
            Some((before, since)) if before == state => since,
            _ => {
                *seen = Some((state, at));
                at
            }
        }
    }

    pub fn seen(&self) -> Option<(InstanceState, Timestamp)> {
        *self.seen.lock()
    }

    /// An order was given: what was seen before says nothing of how long anything lasts.
    pub fn forget_seen(&self) {
        *self.seen.lock() = None;
    }
}
