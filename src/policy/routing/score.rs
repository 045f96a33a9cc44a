//! What a choice would cost in time.

use crate::domain::{Candidate, Tokens};

/// A worker believed to do less than this is scored as if it did this much, so that scores stay finite.
const SPEED_FLOOR: f64 = 1e-3;

/// Seconds until the worker has done what it holds and `cost` more: least work left, normalised by speed.
pub(super) fn seconds_until_done(candidate: &Candidate, cost: Tokens) -> f64 {
    let speed = candidate.speed.0.max(SPEED_FLOOR);
    (candidate.outstanding.0.max(0.0) + cost.0.max(0.0)) / speed
}
