//! One worker on the floor with the gateway's book on it, and leaps over iterations in which nothing changes.

use super::Machine;
use super::gateway::Book;
use super::worker::ModelledWorker;
use crate::domain::{Candidate, RoutingSettings};
use crate::policy::ejection::PaceSample;
use crate::policy::ramp::places;

/// Iterations leapt over at once at most.
const LEAP_MAX: u32 = 4_096;

#[derive(Clone, Debug)]
pub(super) struct Station {
    pub machine: Machine,
    pub worker: ModelledWorker,
    pub book: Book,
    /// Requests may be sent to it.
    pub taking: bool,
    /// In an iteration.
    pub busy: bool,
    /// Hangs: what it began does not end.
    pub frozen: bool,
    /// Ends of iterations that were planned before this was counted up are void.
    pub epoch: u32,
    pub leap: Leap,
    /// Answers begun since it came up, where a new worker gets few at first.
    pub answered: Option<u32>,
    /// How its streams flowed in the last second.
    pub pace: Option<PaceSample>,
    /// Work done since this was last looked at, tokens.
    pub done: f64,
}

/// Iterations that are known in advance.
#[derive(Clone, Debug, Default)]
pub(super) struct Leap {
    ends_ns: Vec<u64>,
    /// So many of them are accounted for.
    settled: usize,
    /// When the iteration before them ended.
    began_ns: u64,
}

impl Station {
    pub fn new(machine: Machine, settings: &RoutingSettings) -> Self {
        Self {
            worker: ModelledWorker::new(machine.law),
            book: Book::new(&machine, settings),
            taking: true,
            busy: false,
            frozen: false,
            epoch: 0,
            leap: Leap::default(),
            answered: None,
            pace: None,
            done: 0.0,
            machine,
        }
    }

    pub fn candidate(&self, slot: usize) -> Candidate {
        let mut candidate = self.book.candidate(slot);
        if let Some(answered) = self.answered {
            let concurrency = self.machine.speed_prior.concurrency;
            let most = candidate.max_concurrency;
            candidate.max_concurrency = places(most, concurrency, answered);
        }
        candidate
    }
}

impl Leap {
    /// Plans from the iteration that was just begun at `began_ns` and ends after `first_s`.
    pub fn plan(&mut self, worker: &ModelledWorker, began_ns: u64, first_s: f64) {
        self.clear();
        self.began_ns = began_ns;
        let iterations = worker.steady().min(LEAP_MAX);
        if iterations < 2 {
            return;
        }
        let mut at_ns = after(began_ns, first_s);
        self.ends_ns.push(at_ns);
        for n in 1..iterations {
            at_ns = after(at_ns, worker.later_s(n));
            self.ends_ns.push(at_ns);
        }
    }

    pub fn clear(&mut self) {
        self.ends_ns.clear();
        self.settled = 0;
    }

    pub fn is_on(&self) -> bool {
        !self.ends_ns.is_empty()
    }

    /// When the last iteration ends.
    pub fn end_ns(&self) -> Option<u64> {
        self.ends_ns.last().copied()
    }

    /// Ends of the iterations before `ns` (and at it, where `at` is set) that were not accounted for, and the end before
    /// them; from now on they are.
    pub fn settle(&mut self, ns: u64, at: bool) -> (u64, &[u64]) {
        let from = self.settled;
        let open = &self.ends_ns[from..];
        let over = open.partition_point(|&end| end < ns || at && end == ns);
        self.settled += over;
        let last = match from {
            0 => self.began_ns,
            _ => self.ends_ns[from - 1],
        };
        (last, &self.ends_ns[from..from + over])
    }

    /// Only the iteration that is going on is still to come: everything before it has to be settled.
    pub fn cut(&mut self) {
        self.ends_ns.truncate(self.settled + 1);
    }
}

/// The clock counts nanoseconds, whatever the laws say in between.
pub(super) fn after(ns: u64, seconds: f64) -> u64 {
    ((ns as f64 / 1e9 + seconds) * 1e9) as u64
}
