//! Two times: this machine's, in which money is owed, and the market's, which runs `speed` times as fast.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds of this machine since the fake started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub u64);

impl At {
    pub fn plus(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    /// Seconds since 1970 at the start.
    epoch: f64,
    speed: f64,
}

impl Clock {
    pub fn start(speed: f64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: Instant::now(),
            epoch: since.map_or(0.0, |since| since.as_secs_f64()),
            speed,
        }
    }

    pub fn now(&self) -> At {
        At::default().plus(self.started.elapsed())
    }

    /// What so many seconds of the market last here.
    pub fn real(&self, market_s: f64) -> Duration {
        Duration::try_from_secs_f64(market_s / self.speed).unwrap_or(Duration::MAX)
    }

    pub fn market_s(&self, real: Duration) -> f64 {
        real.as_secs_f64() * self.speed
    }

    /// Seconds since 1970, of this machine.
    pub fn epoch_s(&self, at: At) -> f64 {
        self.epoch + at.seconds()
    }

    /// The moment of a date; the start for dates before it.
    pub fn at_epoch(&self, epoch_s: f64) -> At {
        At::default().plus(Duration::try_from_secs_f64(epoch_s - self.epoch).unwrap_or_default())
    }
}
