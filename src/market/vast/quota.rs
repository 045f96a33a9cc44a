//! The searches a day has: used up, none is sent before the market says that there are more.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::Timestamp;
use crate::telemetry::Metrics;

const DAY_MS: u64 = 86_400_000;

pub(super) struct Quota {
    /// By account.
    again_at: Mutex<BTreeMap<usize, Timestamp>>,
    metrics: Arc<Metrics>,
}

impl Quota {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let quota = Self {
            again_at: Mutex::default(),
            metrics,
        };
        quota.show(0);
        quota
    }

    /// Why no search may be sent now.
    pub(super) fn forbids(&self, account: usize, now: Timestamp) -> Option<String> {
        let mut again_at = self.again_at.lock();
        let until = *again_at.get(&account)?;
        if now < until {
            return Some(words(until));
        }
        again_at.remove(&account);
        tracing::info!("searches on Vast are allowed again");
        self.show(again_at.len());
        None
    }

    /// The market refused one; says why.
    pub(super) fn used_up(&self, account: usize, reset: Option<&str>, now: Timestamp) -> String {
        let until = reset_at(reset, now);
        let mut again_at = self.again_at.lock();
        again_at.insert(account, until);
        tracing::warn!(
            until = %clock(until),
            "the day's searches on Vast are used up: nothing new is rented there until then, what runs goes on"
        );
        self.show(again_at.len());
        words(until)
    }

    fn show(&self, accounts: usize) {
        let gauge = &self.metrics.vast_searches_used_up;
        gauge.with_label_values(&[] as &[&str]).set(accounts as f64);
    }
}

fn words(until: Timestamp) -> String {
    format!("the day's searches are used up until {}", clock(until))
}

fn clock(at: Timestamp) -> String {
    let minutes = at.as_millis() % DAY_MS / 60_000;
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// When searches are allowed again: as the market says, else at the next midnight of UTC.
fn reset_at(reset: Option<&str>, now: Timestamp) -> Timestamp {
    /// Smaller numbers are seconds from now.
    const EPOCH_S_MIN: f64 = 1e9;
    let midnight = (now.as_millis() / DAY_MS + 1) * DAY_MS;
    let told = reset.and_then(|reset| reset.trim().parse::<f64>().ok());
    let told = told.filter(|seconds| (0.0..1e12).contains(seconds));
    let at_ms = match told {
        Some(seconds) if seconds >= EPOCH_S_MIN => (seconds * 1_000.0) as u64,
        Some(seconds) => now.as_millis() + (seconds * 1_000.0) as u64,
        None => midnight,
    };
    // A day is the longest there is, whatever is told.
    Timestamp::from_millis(at_ms.min(now.as_millis() + DAY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_allowed_again_when_the_market_says_so_and_at_midnight_where_it_does_not() {
        let now = Timestamp::from_millis(20_000 * DAY_MS + 3_600_000);
        let after_s =
            |reset: Option<&str>| (reset_at(reset, now).as_millis() - now.as_millis()) / 1_000;
        assert_eq!(after_s(None), 23 * 3_600);
        assert_eq!(after_s(Some("nonsense")), 23 * 3_600);
        assert_eq!(after_s(Some("90")), 90);
        let in_an_hour = now.as_millis() / 1_000 + 3_600;
        assert_eq!(after_s(Some(&in_an_hour.to_string())), 3_600);
        assert_eq!(after_s(Some("99999999999")), 86_400, "no longer than a day");
        assert_eq!(words(now), "the day's searches are used up until 01:00 UTC");
    }

    #[test]
    fn each_account_has_its_own_day() {
        let quota = Quota::new(Arc::new(Metrics::new().expect("metrics")));
        let at = |s: u64| Timestamp::from_millis(20_000 * DAY_MS + s * 1_000);
        quota.used_up(0, Some("60"), at(0));
        assert!(quota.forbids(0, at(59)).is_some());
        assert!(quota.forbids(1, at(59)).is_none());
        assert!(quota.forbids(0, at(60)).is_none());
    }
}
