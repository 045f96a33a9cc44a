//! How long a machine that is not needed is kept running, and how long stopped: until what it cost is what it would
//! cost to have it back (ski rental; each rule alone costs at most twice what hindsight would).

use std::time::Duration;

use super::StartOutlook;
use super::supply::sane;
use crate::domain::WorkerView;

/// A second that capacity is short for is worth so many seconds of a running machine.
const DELAY_WORTH: f64 = 0.7;
/// Storage where no price is known, as a share of the running price.
const STORAGE_SHARE: f64 = 0.06;
pub(super) const STOP_LATEST: Duration = Duration::from_secs(1800);
pub(super) const DESTROY_LATEST: Duration = Duration::from_secs(48 * 3600);
const DESTROY_EARLIEST: Duration = Duration::from_secs(600);
/// Restarts that fail more often than this are none.
pub(super) const RESTARTS_FAIL_MOST: f64 = 0.9;

/// Break-even times of one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BreakEven {
    /// Running without need until it is stopped.
    pub stop: Duration,
    /// Stopped without need until it is destroyed.
    pub destroy: Duration,
}

/// Of what nothing is known.
pub(super) const NEVER: BreakEven = BreakEven {
    stop: Duration::MAX,
    destroy: Duration::MAX,
};

/// From the machine's own prices; all costs in seconds of the running machine.
pub(super) fn break_even(worker: &WorkerView, starts: &StartOutlook) -> BreakEven {
    let usd_per_s = sane(worker.usd_per_hour.0) / 3600.0;
    let (cold_s, restart_s) = (starts.cold.as_secs_f64(), starts.restart.as_secs_f64());
    let fails = sane(starts.restart_fails).min(1.0);
    let cold = match usd_per_s > 0.0 {
        true => sane(starts.cold_usd) / usd_per_s,
        false => cold_s,
    };
    let stopped = sane(worker.stopped_usd_per_hour.0) / 3600.0;
    let storage = match usd_per_s > 0.0 && stopped > 0.0 {
        true => stopped / usd_per_s,
        false => STORAGE_SHARE,
    };
    let restart = restart_s + fails * (cold + DELAY_WORTH * cold_s);
    let stop = restart / (1.0 - storage).max(1e-3);
    let destroy = (cold + DELAY_WORTH * (cold_s - restart_s) - restart) / storage;
    BreakEven {
        stop: seconds(stop).min(STOP_LATEST),
        destroy: seconds(destroy).clamp(DESTROY_EARLIEST, DESTROY_LATEST),
    }
}

fn seconds(figure: f64) -> Duration {
    Duration::try_from_secs_f64(figure.max(0.0)).unwrap_or(Duration::MAX)
}
