//! What a scaler without a forecast sees of the load.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate::domain::Timestamp;
use tidegate::policy::scaling::ScalingInputs;

/// Work that arrived, kept for as long as the longest mean reaches back.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    kept_for: Duration,
    totals: VecDeque<(Timestamp, f64)>,
}

impl Arrivals {
    pub(super) fn new(kept_for: Duration) -> Self {
        Self {
            kept_for,
            totals: VecDeque::new(),
        }
    }

    pub(super) fn observe(&mut self, inputs: &ScalingInputs, now: Timestamp) {
        let total = inputs.snapshot.demand.arrived_total.0;
        self.totals.push_back((now, total));
        while self
            .totals
            .get(1)
            .is_some_and(|&(at, _)| now.since(at) >= self.kept_for)
        {
            self.totals.pop_front();
        }
    }

    /// Tokens a second over the last `window`, or over what there is of it.
    pub(super) fn mean(&self, window: Duration) -> f64 {
        let Some(&(now, total)) = self.totals.back() else {
            return 0.0;
        };
        let begin = self
            .totals
            .iter()
            .rev()
            .find(|&&(at, _)| now.since(at) >= window)
            .or(self.totals.front());
        let &(then, before) = begin.unwrap_or(&(now, total));
        let elapsed_s = now.seconds_since(then);
        if elapsed_s > 0.0 {
            ((total - before) / elapsed_s).max(0.0)
        } else {
            0.0
        }
    }
}

/// The greatest value of the last while.
#[derive(Clone, Debug)]
pub(super) struct Peak {
    window: Duration,
    values: VecDeque<(Timestamp, f64)>,
}

impl Peak {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            values: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, value: f64, now: Timestamp) -> f64 {
        while self.values.back().is_some_and(|&(_, last)| last <= value) {
            self.values.pop_back();
        }
        self.values.push_back((now, value));
        while self
            .values
            .front()
            .is_some_and(|&(at, _)| now.since(at) > self.window)
        {
            self.values.pop_front();
        }
        self.values.front().map_or(value, |&(_, peak)| peak)
    }
}

/// Work that waits for a worker. What workers have is being done.
pub(super) fn backlog(inputs: &ScalingInputs) -> f64 {
    inputs.snapshot.waiting.cost.0
}

/// Capacity that serves now.
pub(super) fn ready(inputs: &ScalingInputs) -> f64 {
    let workers = inputs.snapshot.workers.iter();
    let ready = workers.filter(|worker| worker.phase.is_ready());
    ready.map(|worker| worker.speed.0).sum()
}
