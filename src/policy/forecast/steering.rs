//! Which share of the surprises to cover, so that as much of the work is late as the endpoint allows.

use serde::{Deserialize, Serialize};

const BEGIN: f64 = 0.975;
const LEAST: f64 = 0.5;
const MOST: f64 = 0.999;
/// An integral controller in the logarithm of the uncovered share: with no late work at all it grows e-fold in this
/// time, seconds; late work at twice the allowed share undoes it at the same speed. The late share answers to the
/// uncovered share within minutes and about in proportion, so that this is the loop's time constant.
const TIME_S: f64 = 6.0 * 3600.0;
/// Late work raises the covered share by at most this much of the logarithm an hour: one bad hour, a market that had
/// nothing to offer or a gateway that began with nothing, is no reason to pay for more all day.
const RISE_MAX: f64 = 0.5;
const HOUR_S: f64 = 3600.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    uncovered: f64,
    /// By how much the logarithm may rise now.
    may_rise: f64,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            uncovered: 1.0 - BEGIN,
            may_rise: RISE_MAX,
        }
    }
}

impl Steering {
    /// Share of the surprises that is covered.
    pub fn covered(&self) -> f64 {
        1.0 - self.uncovered
    }

    /// `late` of `arrived` work; `usual` is what arrives in a second on average. Of what arrives the share `aim` may be
    /// late. All in the same unit.
    pub fn learn(&mut self, arrived: f64, late: f64, usual: f64, aim: f64) {
        if !(usual > 0.0 && aim > 0.0) {
            return;
        }
        let since = arrived / usual;
        self.may_rise = (self.may_rise + since / HOUR_S * RISE_MAX).min(RISE_MAX);
        let rise = (late / (aim * usual * TIME_S)).min(self.may_rise);
        self.may_rise -= rise;
        let step = rise - since / TIME_S;
        self.uncovered = (self.uncovered * (-step).exp()).clamp(1.0 - MOST, 1.0 - LEAST);
    }
}
