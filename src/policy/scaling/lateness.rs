//! Late work as it teaches: all of it is counted, and only what was late for want of covering more steers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::need::Typical;
use super::supply::Stock;
use super::{Need, ScalingInputs, ScalingMemory};
use crate::domain::{ScalingSettings, Timestamp, Tokens};

/// What waited while nothing served, or for a machine that could not be had, was served or given up after so long, or
/// after a cold start.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A fleet with less than this share of what was wanted could not have what it wanted. Speeds are estimates: a little less
/// is none.
const HAD_LEAST: f64 = 0.9;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lateness {
    /// Arrived and late work as last seen, and when.
    counted: Option<(Tokens, Tokens, Timestamp)>,
    /// By the last plan.
    wanted: f64,
    /// Since when something serves and all that was wanted is there or starts.
    had_since: Option<Timestamp>,
}

impl ScalingMemory {
    /// Late work teaches how much of the surprises to cover, where it was for want of covering more: not where nothing
    /// was running, not where all that was wanted could not be had, and not while such work is still worked off.
    pub(super) fn steer(
        &mut self,
        inputs: &ScalingInputs,
        stock: &Stock,
        typical: &Typical,
        settings: &ScalingSettings,
        now: Timestamp,
    ) {
        let lateness = &mut self.lateness;
        let had = stock.ready() > 0.0 && stock.running() >= HAD_LEAST * lateness.wanted;
        lateness.had_since = match had {
            true => lateness.had_since.or(Some(now)),
            false => None,
        };
        let demand = &inputs.snapshot.demand;
        let total = (demand.arrived_total, demand.late_total, now);
        let Some(before) = lateness.counted.replace(total) else {
            return;
        };
        let pause = typical.starts.cold.max(LONGEST_WAIT);
        let had_long = lateness.had_since.is_some_and(|at| now.since(at) >= pause);
        let steers = settings.target_util.is_none() && had_long;
        let (arrived, late) = (total.0 - before.0, total.1 - before.1);
        let elapsed = now.since(before.2);
        self.forecast.learn_late(arrived, late, elapsed, steers);
    }

    /// What this plan wants of a market.
    pub(super) fn note_wanted(&mut self, need: &Need) {
        self.lateness.wanted = need.wanted_cold;
    }
}
