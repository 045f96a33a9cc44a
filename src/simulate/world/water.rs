//! Work as water: one queue, first in first out, served as fast as ready workers can; a step is a second.
//!
//! Work that arrives within a second and is served within it did not wait. No request is modelled: nothing is lost
//! with a machine, and a worker drains in a fixed time.

use crate::domain::{DemandView, Timestamp, Tokens, WaitingView, WorkerPhase};

use super::Scenario;
use super::fleet::Fleet;
use super::record::Counted;

/// Tokens of one pretended request, where the load has none.
const REQUEST_TOKENS: f64 = 250.0;

pub(super) struct Water<'a> {
    scenario: &'a Scenario,
    /// Work that arrived before each second.
    arrived_before: Vec<f64>,
    request_tokens: f64,
    /// Seconds whose work has arrived.
    seconds: usize,
    served: f64,
    late: f64,
    /// The second whose work is served next.
    head: usize,
    last_active: Option<Timestamp>,
    /// Of the time that is counted.
    counted: Counted,
}

impl<'a> Water<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let mut sum = 0.0;
        let mut arrived_before = vec![0.0];
        arrived_before.extend(scenario.load.work.iter().map(|work| {
            sum += work;
            sum
        }));
        let requests = scenario.load.requests.len();
        Self {
            scenario,
            arrived_before,
            request_tokens: if requests > 0 {
                (sum / requests as f64).max(1.0)
            } else {
                REQUEST_TOKENS
            },
            seconds: 0,
            served: 0.0,
            late: 0.0,
            head: 0,
            last_active: None,
            counted: Counted::default(),
        }
    }

    pub fn counted(&self) -> Counted {
        self.counted.clone()
    }

    fn arrived(&self) -> f64 {
        self.arrived_before[self.seconds]
    }

    pub fn backlog(&self) -> f64 {
        (self.arrived() - self.served).max(0.0)
    }

    /// How long the oldest work that waits has waited, seconds.
    pub fn oldest_s(&self) -> f64 {
        if self.backlog() > 1e-6 {
            (self.seconds - self.head) as f64
        } else {
            0.0
        }
    }

    /// One second, from `now` on.
    pub fn pass(&mut self, fleet: &mut Fleet, now: Timestamp) {
        let counted = now >= Timestamp::default() + self.scenario.count_from;
        let capacity = fleet.ready_capacity();
        self.seconds += 1;
        let (before, arrived) = (self.served, self.arrived());
        self.served = arrived.min(before + capacity);
        if self.served > before || arrived > self.served {
            self.last_active = Some(now);
        }
        self.note_waits(before, counted);
        self.note_late(counted);
        if counted {
            self.counted.capacity += capacity;
            self.counted.done += self.served - before;
        }
        let busy = if capacity > 0.0 {
            ((self.served - before) / capacity).min(1.0)
        } else {
            0.0
        };
        let drained_after = self.scenario.drain;
        for member in &mut fleet.members {
            let drains = matches!(member.view.phase, WorkerPhase::Draining { .. });
            let moved = std::mem::take(&mut member.moves);
            member.empty = drains && (moved || now.since(member.view.phase_since) >= drained_after);
            let works = member.works();
            member.busy = if works { busy } else { 0.0 };
            let held_s = drained_after.as_secs_f64().max(1.0) * member.busy;
            member.view.outstanding = Tokens(member.machine.speed * held_s);
            member.view.in_flight = (member.view.outstanding.0 / self.request_tokens) as u32;
        }
    }

    fn note_waits(&mut self, before: f64, counted: bool) {
        let mut from = before;
        while self.head < self.seconds {
            let end = self.arrived_before[self.head + 1];
            let upto = end.min(self.served);
            if counted && upto > from {
                let wait_s = (self.seconds - 1 - self.head) as f64;
                self.counted.waits.add(wait_s, upto - from);
            }
            from = from.max(upto);
            if end > self.served {
                return;
            }
            self.head += 1;
        }
    }

    /// What is to be served by now at the latest and is not.
    fn note_late(&mut self, counted: bool) {
        let wait_s = self.scenario.scaling.slo.wait.as_secs_f64().round() as usize;
        if self.seconds > wait_s {
            let second = self.seconds - 1 - wait_s;
            let (start, end) = (self.arrived_before[second], self.arrived_before[second + 1]);
            let late = (end - self.served.max(start)).max(0.0);
            self.late += late;
            if counted {
                self.counted.late += late;
            }
        }
    }

    pub fn demand(&self) -> DemandView {
        DemandView {
            arrived_total: Tokens(self.arrived()),
            corrected_total: Tokens::ZERO,
            late_total: Tokens(self.late),
            last_active: self.last_active,
        }
    }

    pub fn waiting(&self, now: Timestamp) -> WaitingView {
        let cost = self.backlog();
        let since = now
            .as_millis()
            .saturating_sub((self.oldest_s() * 1e3) as u64);
        WaitingView {
            requests: (cost / self.request_tokens - 1e-9).ceil().max(0.0) as usize,
            bytes: 0,
            cost: Tokens(cost),
            oldest_since: (cost > 0.0).then(|| Timestamp::from_millis(since)),
        }
    }
}
