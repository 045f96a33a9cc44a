//! What a worker serves while it surely has more than it can do is what it can do.

use serde::{Deserialize, Serialize};

use super::operating::OperatingPoint;
use super::{Believed, Second};

/// It holds more work than it does in this time ...
const WORK_MIN_S: f64 = 1.0;
/// ... has nearly all requests that it can serve at once, most of them past their prompts ...
const FULL_SHARE: f64 = 0.9;
const DECODING_SHARE: f64 = 0.75;
/// ... or prompts wait this many times longer than reading them takes, and this much more ...
const LATE_TIMES: f64 = 2.0;
const LATE_MORE_S: f64 = 2.0;
/// ... and nearly all its streams flow: none waits for its client ...
const FLOWING_SHARE: f64 = 0.8;
/// ... for so long.
const CERTAIN_AFTER_S: f64 = 10.0;
/// What is looked at is averaged over this: tokens come in beats that no second is a multiple of.
const LOOK_S: f64 = 4.0;
/// A longer look tells nothing of the moments in it.
const LOOK_MAX_S: f64 = 10.0;
/// Memory of what was served, in seconds.
const MEMORY_S: f64 = 60.0;
/// The least that is doubted of it, and the doubt that a minute without a certificate adds (variances, relative).
const VARIANCE_MIN: f64 = 0.0009;
const VARIANCE_PER_MINUTE: f64 = 0.0025;
/// Seconds are not independent of each other: answers that are not streamed count when they end.
const DEPENDENCE: f64 = 4.0;
/// Seconds certified before anything is said.
const SECONDS_MIN: f64 = 5.0;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Saturation {
    look: Look,
    /// Seconds in a row that it had too much.
    too_much_for_s: f64,
    /// Output-equivalent tokens a second while that was certain: mean and variance of a second, seconds counted.
    mean: f64,
    variance: f64,
    seconds: f64,
    /// Since it was last certain.
    age_s: f64,
}

/// What a worker has and does, averaged over a few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Look {
    /// Seconds of work it holds.
    work_s: f64,
    in_flight: f64,
    decoding: f64,
    /// Streams that brought tokens without a pause of their client's.
    flowing: f64,
    /// Prompts wait longer than they should: the share of the time.
    late: f64,
}

impl Look {
    fn towards(&mut self, now: Look, step: f64) {
        let move_to = |from: &mut f64, to: f64| *from += step * (to - *from);
        move_to(&mut self.work_s, now.work_s);
        move_to(&mut self.in_flight, now.in_flight);
        move_to(&mut self.decoding, now.decoding);
        move_to(&mut self.flowing, now.flowing);
        move_to(&mut self.late, now.late);
    }

    fn is_too_much(&self, point: &OperatingPoint) -> bool {
        let full = self.in_flight >= FULL_SHARE * point.streams
            && self.decoding >= DECODING_SHARE * point.streams;
        self.work_s > WORK_MIN_S
            && (full || self.late > 0.9)
            && self.flowing > FLOWING_SHARE * self.decoding
    }
}

impl Saturation {
    /// `served`: output-equivalent tokens; `reading_s`: how long the prompts that have no first token take to read.
    pub(super) fn observe(
        &mut self,
        second: &Second,
        served: f64,
        reading_s: f64,
        capacity: f64,
        point: &OperatingPoint,
    ) {
        let seconds = second.seconds.max(0.0);
        if seconds <= 0.0 {
            return;
        }
        self.age_s += seconds;
        if seconds > LOOK_MAX_S {
            self.too_much_for_s = 0.0;
            return;
        }
        let late =
            second.prefilling.0 > 0.0 && second.unread_for_s > LATE_TIMES * reading_s + LATE_MORE_S;
        let flowing = second.gaps.map_or(0.0, |gaps| {
            f64::from(gaps.tokens) * gaps.mean_gap_s / seconds
        });
        let now = Look {
            work_s: second.outstanding.0 / capacity.max(f64::MIN_POSITIVE),
            in_flight: f64::from(second.in_flight),
            decoding: f64::from(second.decoding),
            flowing,
            late: if late { 1.0 } else { 0.0 },
        };
        self.look.towards(now, (seconds / LOOK_S).min(1.0));
        if !self.look.is_too_much(point) {
            self.too_much_for_s = 0.0;
            return;
        }
        self.too_much_for_s += seconds;
        if self.is_certain() && served > 0.0 {
            self.count(served / seconds, seconds);
        }
    }

    pub(super) fn is_certain(&self) -> bool {
        self.too_much_for_s >= CERTAIN_AFTER_S
    }

    fn count(&mut self, rate: f64, seconds: f64) {
        if !rate.is_finite() {
            return;
        }
        if self.age_s > MEMORY_S {
            *self = Self {
                look: self.look,
                too_much_for_s: self.too_much_for_s,
                ..Self::default()
            };
        }
        self.age_s = 0.0;
        self.seconds = (self.seconds + seconds).min(MEMORY_S);
        let step = (seconds / self.seconds).min(1.0);
        let off = rate - self.mean;
        self.mean += step * off;
        self.variance = (1.0 - step) * (self.variance + step * off * off);
    }

    /// `None` where nothing was certified, or too long ago to say more than the law.
    pub(super) fn served(&self) -> Option<Believed> {
        if self.seconds < SECONDS_MIN || self.mean <= 0.0 {
            return None;
        }
        let of_mean = DEPENDENCE * self.variance / self.seconds / self.mean.powi(2);
        let aged = VARIANCE_PER_MINUTE * self.age_s / 60.0;
        let sd = (of_mean.max(VARIANCE_MIN) + aged).sqrt() * self.mean;
        Some(Believed {
            mean: self.mean,
            sd,
        })
    }
}
