//! A worker's load in one word, so that a claim sees and changes both parts at once.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::domain::{Choice, Tokens};

const WORK_BITS: u32 = 48;
/// Requests one worker can hold at most; far above what any engine takes.
const REQUESTS_MAX: u32 = (1 << (64 - WORK_BITS)) - 1;
const WORK_MASK: u64 = (1 << WORK_BITS) - 1;
const ONE_REQUEST: u64 = 1 << WORK_BITS;

/// Requests in flight (upper 16 bits) and their outstanding work in thousandths of a token (lower 48).
#[derive(Debug, Default)]
pub(super) struct Load(AtomicU64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadView(u64);

impl LoadView {
    pub fn in_flight(self) -> u32 {
        (self.0 >> WORK_BITS) as u32
    }

    pub fn outstanding(self) -> Tokens {
        Tokens((self.0 & WORK_MASK) as f64 / 1_000.0)
    }
}

impl Load {
    pub(super) fn view(&self) -> LoadView {
        LoadView(self.0.load(SeqCst))
    }

    /// Adds a request unless the load grew since the choice: then it was made on old news.
    pub(super) fn claim(&self, choice: &Choice, work: u64) -> bool {
        let work_seen = (choice.outstanding.0 * 1_000.0).round() as u64;
        let mut current = self.0.load(SeqCst);
        loop {
            let now = LoadView(current);
            let grew = now.in_flight() > choice.in_flight || now.0 & WORK_MASK > work_seen;
            if grew || now.in_flight() >= REQUESTS_MAX {
                return false;
            }
            let next = current + ONE_REQUEST + work;
            match self.0.compare_exchange_weak(current, next, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(actual) => current = actual,
            }
        }
    }

    /// `work` was claimed before and is not taken twice: `Claim` sees to it.
    pub(super) fn work_done(&self, work: u64) {
        self.0.fetch_sub(work, SeqCst);
    }

    /// A request turned out to be longer; it gives all back in the end.
    pub(super) fn work_added(&self, work: u64) {
        self.0.fetch_add(work, SeqCst);
    }

    pub(super) fn release(&self, work_left: u64) {
        self.0.fetch_sub(ONE_REQUEST + work_left, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::routing::hold::thousandths;

    fn seen(load: &Load) -> Choice {
        let view = load.view();
        Choice {
            slot: 0,
            score_s: 0.0,
            in_flight: view.in_flight(),
            outstanding: view.outstanding(),
        }
    }

    #[test]
    fn a_claim_on_old_news_is_refused_and_a_lighter_load_is_not() {
        let load = Load::default();
        let idle = load.view();
        let choice = seen(&load);
        assert!(load.claim(&choice, 500));
        assert!(!load.claim(&choice, 1));
        let choice = seen(&load);
        load.work_done(400);
        assert!(load.claim(&choice, 7));
        load.release(7);
        load.release(100);
        assert_eq!(load.view(), idle);
    }

    #[test]
    fn absurd_costs_do_not_spill_into_the_count() {
        let load = Load::default();
        let work = thousandths(Tokens(f64::INFINITY));
        for n in 1..=1_000 {
            assert!(load.claim(&seen(&load), work));
            assert_eq!(load.view().in_flight(), n);
        }
    }
}
