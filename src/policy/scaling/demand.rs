//! How much work arrives: the load a plan is made for, from the running total of arrived work.
//!
//! Two views of the same arrivals: one that follows within seconds and one that is calm. The greater counts, so that
//! a burst is seen at once and forgotten slowly.

use serde::{Deserialize, Serialize};

use crate::domain::{DemandView, Timestamp, Tokens, TokensPerSecond};

/// Time constant of the calm view, seconds.
const CALM_TAU_S: f64 = 60.0;
/// Time constant of each of the two stages of the quick view, seconds. Two stages rather than one: a single long
/// request then moves it by a thirtieth of its cost and not by a tenth, which at low load would look like a burst.
const QUICK_TAU_S: f64 = 10.0;

/// Smoothed arrivals in tokens a second, none negative.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DemandMemory {
    last: Option<(Timestamp, Tokens)>,
    calm: f64,
    quick_first: f64,
    quick: f64,
}

impl DemandMemory {
    /// Takes in what arrived since the last call; calls may come at any pace.
    pub(super) fn observe(&mut self, demand: &DemandView, now: Timestamp) {
        let total = demand.arrived_total;
        if !total.0.is_finite() {
            return;
        }
        let Some((then, before)) = self.last else {
            self.last = Some((now, total));
            return;
        };
        let elapsed_s = now.seconds_since(then);
        if elapsed_s <= 0.0 {
            return;
        }
        self.last = Some((now, total));
        self.smooth((total - before).0 / elapsed_s, elapsed_s);
    }

    /// Exact for a rate that was constant over the interval, so that the pace of calls does not matter.
    fn smooth(&mut self, rate: f64, elapsed_s: f64) {
        let keep = (-elapsed_s / CALM_TAU_S).exp();
        self.calm = (rate + keep * (self.calm - rate)).max(0.0);
        let x = elapsed_s / QUICK_TAU_S;
        let keep = (-x).exp();
        let quick = rate + keep * ((self.quick - rate) + x * (self.quick_first - rate));
        self.quick = quick.max(0.0);
        self.quick_first = (rate + keep * (self.quick_first - rate)).max(0.0);
    }

    /// Work arriving a second, as far as it can be told now.
    pub fn load(&self) -> TokensPerSecond {
        TokensPerSecond(self.calm.max(self.quick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a constant rate in steps of `step_ms`.
    fn fed(memory: &DemandMemory, rate: f64, seconds: u64, step_ms: u64) -> DemandMemory {
        let mut memory = memory.clone();
        let (start, mut total) = match memory.last {
            Some((at, total)) => (at.as_millis(), total.0),
            None => (0, 0.0),
        };
        for step in 0..=(seconds * 1000 / step_ms) {
            if step > 0 {
                total += rate * step_ms as f64 / 1000.0;
            }
            let view = DemandView {
                arrived_total: Tokens(total),
                ..DemandView::default()
            };
            memory.observe(&view, Timestamp::from_millis(start + step * step_ms));
        }
        memory
    }

    #[test]
    fn steady_arrivals_are_learned_whatever_the_pace_of_calls() {
        for step_ms in [50, 1000, 7_000, 60_000] {
            let load = fed(&DemandMemory::default(), 120.0, 840, step_ms).load().0;
            assert!((load - 120.0).abs() < 0.1, "{step_ms} ms: {load}");
        }
    }

    #[test]
    fn a_burst_is_half_seen_within_twenty_seconds_and_forgotten_over_a_minute() {
        let calm = fed(&DemandMemory::default(), 100.0, 900, 1000);
        let burst = fed(&calm, 300.0, 20, 1000);
        assert!(burst.load().0 > 200.0, "{}", burst.load().0);
        let after = fed(&fed(&calm, 300.0, 300, 1000), 100.0, 30, 1000);
        assert!(after.load().0 > 200.0, "{}", after.load().0);
    }

    #[test]
    fn one_long_request_is_no_burst() {
        let mut memory = fed(&DemandMemory::default(), 0.0, 60, 1000);
        let view = DemandView {
            arrived_total: Tokens(500.0),
            ..DemandView::default()
        };
        let mut highest: f64 = 0.0;
        for step in 1..200 {
            memory.observe(&view, Timestamp::from_millis(60_000 + step * 100));
            highest = highest.max(memory.load().0);
        }
        assert!(highest < 500.0 / 25.0, "{highest}");
    }

    #[test]
    fn corrections_and_nonsense_never_make_the_load_negative() {
        let memory = fed(&DemandMemory::default(), 50.0, 60, 1000);
        let mut corrected = fed(&memory, -500.0, 30, 1000);
        assert!(corrected.load().0 >= 0.0);
        let before = corrected.clone();
        let view = DemandView {
            arrived_total: Tokens(f64::NAN),
            ..DemandView::default()
        };
        corrected.observe(&view, Timestamp::from_millis(u64::MAX));
        assert_eq!(corrected, before);
    }
}
