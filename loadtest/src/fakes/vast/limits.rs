//! Rate limits as Vast publishes them: a least interval for each endpoint and key; searches by a number a minute.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::At;

/// The endpoints that have a limit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Search,
    Create,
    List,
    One,
    /// Start, stop, label.
    Change,
    Reboot,
    Destroy,
    Bid,
    Other,
}

impl Endpoint {
    /// Seconds of the market between two calls, and how many may come at once after a pause.
    fn limit(self) -> (f64, f64) {
        match self {
            Endpoint::Search => (6.0, 10.0),
            Endpoint::Create => (4.5, 1.0),
            Endpoint::List => (1.0, 1.0),
            Endpoint::One => (2.0, 1.0),
            Endpoint::Change | Endpoint::Reboot => (1.0, 1.0),
            Endpoint::Destroy => (3.0, 1.0),
            Endpoint::Bid => (5.5, 1.0),
            Endpoint::Other => (0.0, 1.0),
        }
    }

    /// After a call that came too early, the next may come no sooner.
    fn penalty_s(self) -> f64 {
        match self {
            Endpoint::Create => 12.0,
            _ => 0.0,
        }
    }

    pub fn threshold_s(self) -> f64 {
        self.limit().0
    }
}

/// A call that came too early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TooEarly;

/// Searches of the present day, by key.
#[derive(Debug, Default)]
pub struct Quota {
    day: u64,
    used: HashMap<String, u32>,
}

impl Quota {
    /// Counts a search; false where the key has none left today.
    pub fn take(&mut self, key: &str, day: u64, most: u32) -> bool {
        if day != self.day {
            *self = Self {
                day,
                ..Self::default()
            };
        }
        let used = self.used.entry(key.to_owned()).or_default();
        let left = *used < most;
        *used += u32::from(left);
        left
    }
}

/// When each would be full again, by endpoint and key.
#[derive(Debug, Default)]
pub struct Limits(HashMap<(Endpoint, String), At>);

impl Limits {
    /// Counts a call that does not come too early. `real` turns the market's seconds into this machine's.
    pub fn take(
        &mut self,
        endpoint: Endpoint,
        key: &str,
        now: At,
        real: impl Fn(f64) -> Duration,
    ) -> Result<(), TooEarly> {
        let (interval_s, burst) = endpoint.limit();
        let interval = real(interval_s);
        let full = self.0.entry((endpoint, key.to_owned())).or_default();
        let allowance = real(interval_s * (burst - 1.0));
        let wait = full.since(now.plus(allowance));
        if wait > Duration::ZERO {
            let penalty = real(endpoint.penalty_s());
            *full = (*full).max(now.plus(penalty));
            return Err(TooEarly);
        }
        *full = (*full).max(now).plus(interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenth(market_s: f64) -> Duration {
        Duration::from_secs_f64(market_s / 10.0)
    }

    fn second(s: f64) -> At {
        At::default().plus(Duration::from_secs_f64(s))
    }

    #[test]
    fn each_key_and_endpoint_has_its_own_interval() {
        let mut limits = Limits::default();
        let mut take = |endpoint, key, at| limits.take(endpoint, key, second(at), tenth).is_ok();
        assert!(take(Endpoint::List, "a", 1.0));
        assert!(!take(Endpoint::List, "a", 1.05));
        assert!(take(Endpoint::List, "b", 1.05));
        assert!(take(Endpoint::One, "a", 1.05));
        assert!(take(Endpoint::List, "a", 1.1));
    }

    #[test]
    fn ten_searches_come_at_once_and_the_next_has_to_wait() {
        let mut limits = Limits::default();
        let mut search = |at| {
            limits
                .take(Endpoint::Search, "a", second(at), tenth)
                .is_ok()
        };
        assert_eq!((0..12).filter(|_| search(5.0)).count(), 10);
        assert!(search(5.61) && !search(5.62));
    }

    #[test]
    fn creating_too_early_costs_more_than_the_interval() {
        let mut limits = Limits::default();
        let mut create = |at| limits.take(Endpoint::Create, "a", second(at), tenth);
        assert!(create(1.0).is_ok());
        assert!(create(1.1).is_err());
        assert!(create(1.5).is_err(), "the penalty is 1.2 s here");
        assert!(create(2.8).is_ok());
    }
}
