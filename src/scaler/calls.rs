//! Which market calls are under way, so that a listing from before a call is not read as news after it.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::{Timestamp, WorkerId};

#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<WorkerId, Call>>);

#[derive(Clone, Copy)]
enum Call {
    UnderWay,
    /// When the last one returned.
    Settled {
        at: Timestamp,
    },
}

impl Calls {
    /// False when one is under way already: a worker has at most one call at a time.
    pub(super) fn begin(&self, worker: &WorkerId) -> bool {
        let mut calls = self.0.lock();
        if matches!(calls.get(worker), Some(Call::UnderWay)) {
            return false;
        }
        calls.insert(worker.clone(), Call::UnderWay);
        true
    }

    pub(super) fn settled(&self, worker: &WorkerId, at: Timestamp) {
        self.0.lock().insert(worker.clone(), Call::Settled { at });
    }

    /// No call is under way: nothing of ours can still happen at a market.
    pub(super) fn is_quiet(&self) -> bool {
        let calls = self.0.lock();
        !calls.values().any(|call| matches!(call, Call::UnderWay))
    }

    pub(super) fn forget(&self, worker: &WorkerId) {
        self.0.lock().remove(worker);
    }

    /// May a listing begun at `listed_at` speak about this worker?
    pub(super) fn is_news(&self, worker: &WorkerId, listed_at: Timestamp) -> bool {
        match self.0.lock().get(worker) {
            Some(Call::UnderWay) => false,
            Some(Call::Settled { at }) => listed_at >= *at,
            None => true,
        }
    }

    pub(super) fn is_under_way(&self, worker: &WorkerId) -> bool {
        matches!(self.0.lock().get(worker), Some(Call::UnderWay))
    }
}
