//! Which share of the surprises to cover, so that as much of the work is late as the endpoint allows.
//!
//! An integral controller of the logarithm of the uncovered share. That share acts on the late one within minutes and
//! about in proportion, so the loop is of the first order: with a gain of 1 / [`TIME_S`] it settles within a few days
//! and cannot swing.

use serde::{Deserialize, Serialize};

/// With no late work at all the uncovered share grows e-fold in this time, seconds; late work at twice the allowed share
/// undoes it at the same speed. Within a day the load has its quiet and its hard hours.
const TIME_S: f64 = 86_400.0;
/// The uncovered share to begin with, in allowed late shares.
const BEGIN: f64 = 1.0;
const UNCOVERED_LEAST: f64 = 0.001;
const UNCOVERED_MOST: f64 = 0.5;
/// Late work lowers the logarithm by at most this much an hour: one bad hour, a market that had nothing to offer or a
/// gateway that began with nothing, is no reason to pay more all day.
const FALL_MAX: f64 = 2.0;
const HOUR_S: f64 = 3600.0;
/// What arrives counts as at most so many times the time it took, beside this much to begin with: after silence a little
/// is many times the usual.
const TIMES_MOST: f64 = 2.0;
const AHEAD_S: f64 = 600.0;
/// And the usual is no less than this share of the last day's mean.
const USUAL_LEAST: f64 = 0.1;

/// Work of one look, and how long after the one before it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    pub arrived: f64,
    pub late: f64,
    pub within_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Steering {
    /// The share that may be late, as it was last set; 0 before.
    aim: f64,
    uncovered: f64,
    /// By how much the logarithm may fall now.
    may_fall: f64,
    /// Seconds of usual load that may be counted now.
    may_count_s: f64,
    /// Work of about the last day, and what was late of it.
    arrived: f64,
    late: f64,
}

impl Steering {
    /// Share of the surprises that is covered.
    pub fn covered(&self) -> f64 {
        1.0 - self.uncovered
    }

    /// Share of the work of about the last day that was late.
    pub fn late_share(&self) -> f64 {
        if self.arrived > 0.0 {
            self.late / self.arrived
        } else {
            0.0
        }
    }

    /// Another aim is begun with what was found for the one before.
    pub fn aim_at(&mut self, late_share: f64) {
        if late_share == self.aim || !(late_share > 0.0 && late_share < 1.0) {
            return;
        }
        if self.aim > 0.0 {
            self.uncovered *= late_share / self.aim;
        } else {
            self.uncovered = BEGIN * late_share;
            self.may_fall = FALL_MAX;
        }
        self.aim = late_share;
        self.bound();
    }

    /// `usual` is what arrives in a second on average, in the unit of what was seen. Counts always, steers where asked.
    pub fn learn(&mut self, seen: Seen, usual: f64, steers: bool) {
        let Seen { arrived, late, .. } = seen;
        self.may_count_s = (self.may_count_s + TIMES_MOST * seen.within_s).min(AHEAD_S);
        let usual = usual.max(USUAL_LEAST * self.arrived / TIME_S);
        if !(usual > 0.0 && self.aim > 0.0) {
            return;
        }
        let usual_s = (arrived / usual).min(self.may_count_s);
        self.may_count_s -= usual_s;
        let keep = (-usual_s / TIME_S).exp();
        self.arrived = self.arrived * keep + arrived;
        self.late = self.late * keep + late;
        if !steers {
            return;
        }
        self.may_fall = (self.may_fall + usual_s / HOUR_S * FALL_MAX).min(FALL_MAX);
        // Counted for less, it teaches less either way.
        let usual = match usual_s > 0.0 {
            true => usual.max(arrived / usual_s),
            false => usual,
        };
        let fall = (late / (self.aim * usual * TIME_S)).min(self.may_fall);
        self.may_fall -= fall;
        self.uncovered *= (usual_s / TIME_S - fall).exp();
        self.bound();
    }

    fn bound(&mut self) {
        self.uncovered = self.uncovered.clamp(UNCOVERED_LEAST, UNCOVERED_MOST);
    }
}
