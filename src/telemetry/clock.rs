//! The one place that reads the clock for a `Timestamp`.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::domain::Timestamp;

static START: LazyLock<(Instant, u64)> = LazyLock::new(|| {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    (Instant::now(), wall)
});

/// Wall time at the first call plus monotonic time since: later calls never see it go back.
pub fn now() -> Timestamp {
    let (start, wall) = &*START;
    Timestamp::from_millis(wall + start.elapsed().as_millis() as u64)
}
