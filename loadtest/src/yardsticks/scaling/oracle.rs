//! One that knows the load one cold start ahead, and nothing of how long the next start takes or whether it fails.

use std::sync::Arc;

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::load::backlog;
use super::orders::{Wanted, towards};

/// Knows `work`, the tokens of each second. Runs what the next `restart_s` need, keeps prepared what the next `cold_s`
/// need, and keeps stopped what `kept_s` will need: the longest that storage is cheaper than another cold start.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Sums from the beginning, one more than there are seconds.
    sums: Arc<[f64]>,
    pub wait_s: usize,
    pub restart_s: usize,
    pub cold_s: usize,
    pub kept_s: usize,
    pub workers_max: usize,
    planned_s: Option<usize>,
    needs: Option<Wanted>,
}

impl Oracle {
    pub fn new(work: &[f64], wait_s: usize, restart_s: usize, cold_s: usize) -> Self {
        let mut sum = 0.0;
        let sums = std::iter::once(0.0).chain(work.iter().map(|tokens| {
            sum += tokens;
            sum
        }));
        Self {
            sums: sums.collect(),
            wait_s,
            restart_s,
            cold_s,
            kept_s: cold_s,
            workers_max: usize::MAX,
            planned_s: None,
            needs: None,
        }
    }

    /// The least constant capacity with which nothing that arrives in `[from, to)` waits over `wait_s`.
    fn need(&self, from: usize, to: usize) -> f64 {
        let last = self.sums.len() - 1;
        let at = |second: usize| self.sums[second.min(last)];
        let mut most: f64 = 0.0;
        for begin in (from..to.min(last)).step_by(5) {
            for length in (10..=110).step_by(10) {
                let arrived = at((begin + length).min(to)) - at(begin);
                most = most.max(arrived / (length + self.wait_s) as f64);
            }
        }
        most
    }
}

impl Planner for Oracle {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        let second = (now.as_millis() / 1_000) as usize;
        let fresh = self.planned_s.is_some_and(|at| second < at + 5);
        if !fresh || self.needs.is_none() {
            let near = self.need(second, second + self.restart_s + 20);
            let far = self.need(second, second + self.cold_s + 20);
            let kept = self.need(second, second + self.cold_s.max(self.kept_s) + 20);
            self.planned_s = Some(second);
            self.needs = Some(Wanted {
                running: near,
                prepared: far,
                hold: near,
                hold_prepared: kept,
                workers_max: self.workers_max,
            });
        }
        let mut wanted = self.needs.unwrap_or(Wanted::without_reserve(0.0, 0.0, 0));
        wanted.running += (backlog(inputs) - self.wait_s as f64 * wanted.running).max(0.0) / 60.0;
        towards(&wanted, inputs)
    }
}
