//! The first requests of a worker that the gateway had started.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::policy::ramp::places;

/// `None` within: it was there before the gateway and may have served for days.
#[derive(Debug)]
pub(super) struct Ramp(Option<Started>);

#[derive(Debug)]
struct Started {
    prior_concurrency: u32,
    /// Requests that have their first token, or are over, since it came up.
    answered: AtomicU32,
}

impl Ramp {
    pub(super) fn new(is_started: bool, prior_concurrency: u32) -> Self {
        Self(is_started.then(|| Started {
            prior_concurrency,
            answered: AtomicU32::new(0),
        }))
    }

    pub(super) fn places(&self, most: Option<u32>) -> Option<u32> {
        match &self.0 {
            Some(started) => {
                let answered = started.answered.load(Relaxed);
                places(most, started.prior_concurrency, answered)
            }
            None => most,
        }
    }

    /// Whether this made a place.
    pub(super) fn answered(&self, most: Option<u32>) -> bool {
        let before = self.places(most);
        if let Some(started) = &self.0 {
            let count = |answered: u32| answered.checked_add(1);
            let _ = started.answered.fetch_update(Relaxed, Relaxed, count);
        }
        self.places(most) != before
    }

    /// It starts again, with an engine as new as the first.
    pub(super) fn begin_again(&self) {
        if let Some(started) = &self.0 {
            started.answered.store(0, Relaxed);
        }
    }
}
