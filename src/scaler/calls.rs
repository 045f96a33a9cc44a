//! Which market calls are under way, so that a listing from before a call is not read as news after it.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::{Timestamp, WorkerId};

#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<WorkerId, Call>>);

#[derive(Clone, Copy)]
enum Call {
    /// With what was counted before it.
    UnderWay { missing: u32 },
    /// When the last one returned, and how many later listings did not hold the worker.
    Settled { at: Timestamp, missing: u32 },
}

/// A worker is missing when this many listings in a row, all begun after the last call, do not hold it.
const LISTINGS_UNTIL_MISSING: u32 = 2;

impl Calls {
    /// False when one is under way already: a worker has at most one call at a time.
    pub(super) fn begin(&self, worker: &WorkerId) -> bool {
        let mut calls = self.0.lock();
        let missing = match calls.get(worker) {
            Some(Call::UnderWay { .. }) => return false,
            Some(Call::Settled { missing, .. }) => *missing,
            None => 0,
        };
        calls.insert(worker.clone(), Call::UnderWay { missing });
        true
    }

    /// A destroy that is repeated must not make an absent worker look new: `keep_missing`.
    pub(super) fn settled(&self, worker: &WorkerId, at: Timestamp, keep_missing: bool) {
        let mut calls = self.0.lock();
        let missing = match calls.get(worker) {
            Some(Call::UnderWay { missing }) if keep_missing => *missing,
            _ => 0,
        };
        calls.insert(worker.clone(), Call::Settled { at, missing });
    }

    /// No call is under way: nothing of ours can still happen at a market.
    pub(super) fn is_quiet(&self) -> bool {
        let calls = self.0.lock();
        !calls
            .values()
            .any(|call| matches!(call, Call::UnderWay { .. }))
    }

    pub(super) fn forget(&self, worker: &WorkerId) {
        self.0.lock().remove(worker);
    }

    /// May a listing begun at `listed_at` speak about this worker?
    pub(super) fn is_news(&self, worker: &WorkerId, listed_at: Timestamp) -> bool {
        match self.0.lock().get(worker) {
            Some(Call::UnderWay { .. }) => false,
            Some(Call::Settled { at, .. }) => listed_at >= *at,
            None => true,
        }
    }

    pub(super) fn seen(&self, worker: &WorkerId) {
        if let Some(Call::Settled { missing, .. }) = self.0.lock().get_mut(worker) {
            *missing = 0;
        }
    }

    /// Counts a listing without the worker; true when it was missing often enough.
    pub(super) fn missed(&self, worker: &WorkerId, at: Timestamp) -> bool {
        let mut calls = self.0.lock();
        let call = calls
            .entry(worker.clone())
            .or_insert(Call::Settled { at, missing: 0 });
        match call {
            Call::UnderWay { .. } => false,
            Call::Settled { missing, .. } => {
                *missing += 1;
                *missing >= LISTINGS_UNTIL_MISSING
            }
        }
    }
}
