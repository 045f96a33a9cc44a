//! What a worker serves while it surely has more than it can do is what it can do.

use serde::{Deserialize, Serialize};

use super::operating::OperatingPoint;
use super::{Believed, Second};

/// It holds more work than it does in this time ...
const WORK_MIN_S: f64 = 1.0;
/// ... has nearly all requests that it can serve at once, most of them past their prompts ...
const FULL_SHARE: f64 = 0.95;
const DECODING_SHARE: f64 = 0.75;
/// ... or prompts wait this many times longer than reading them takes, and this much more ...
const LATE_TIMES: f64 = 2.0;
const LATE_MORE_S: f64 = 2.0;
/// ... and nearly all its streams flow: none waits for its client ...
const FLOWING_SHARE: f64 = 0.8;
/// ... for so long.
const CERTAIN_AFTER_S: f64 = 10.0;
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
    /// Seconds in a row that it had too much.
    too_much_for_s: f64,
    /// Output-equivalent tokens a second while that was certain: mean and variance of a second, seconds counted.
    mean: f64,
    variance: f64,
    seconds: f64,
    /// Since it was last certain.
    age_s: f64,
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
        let seconds = second.seconds.clamp(0.0, MEMORY_S);
        if seconds <= 0.0 {
            return;
        }
        self.age_s += seconds;
        let work_s = second.outstanding.0 / capacity.max(f64::MIN_POSITIVE);
        let full = f64::from(second.in_flight) >= FULL_SHARE * point.streams
            && f64::from(second.decoding) >= DECODING_SHARE * point.streams;
        let late =
            second.prefilling.0 > 0.0 && second.unread_for_s > LATE_TIMES * reading_s + LATE_MORE_S;
        if !(work_s > WORK_MIN_S && (full || late) && flowing_share(second) > FLOWING_SHARE) {
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

/// Streams that brought tokens without a pause of their client's, as a share of all.
fn flowing_share(second: &Second) -> f64 {
    second.gaps.map_or(0.0, |sample| {
        let flowing = f64::from(sample.tokens) * sample.mean_gap_s / second.seconds;
        flowing / f64::from(second.decoding.max(1))
    })
}
