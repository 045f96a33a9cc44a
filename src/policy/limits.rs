//! How much of something a client may use: a bucket that fills by time, and may be corrected afterwards
//! by what a request really took.

use std::time::Duration;

use crate::domain::{KeyLimits, Timestamp};

const SECONDS_PER_MINUTE: f64 = 60.0;
/// Sums of fractions are not exact.
const SLACK: f64 = 1e-6;

/// So much a second on the average, and so much at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub at_once: f64,
}

/// Which bound a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitRule {
    Requests,
    Tokens,
    Concurrency,
}

impl LimitRule {
    /// The setting's name; the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitRule::Requests => "requests_per_second",
            LimitRule::Tokens => "tokens_per_minute",
            LimitRule::Concurrency => "max_concurrency",
        }
    }
}

/// A request came too early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverLimit {
    pub rule: LimitRule,
    /// Until the same request would pass. For concurrency there is no knowing.
    pub retry_after: Duration,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    pub limit: f64,
    pub remaining: f64,
    /// Until all of it is there again.
    pub full_after: Duration,
}

pub fn request_rate(limits: &KeyLimits) -> Option<Rate> {
    limits.requests_per_second.map(|per_second| Rate {
        per_second,
        at_once: f64::from(limits.burst.max(1)),
    })
}

/// A minute's tokens may be used at once.
pub fn token_rate(limits: &KeyLimits) -> Option<Rate> {
    limits.tokens_per_minute.map(|per_minute| Rate {
        per_second: per_minute / SECONDS_PER_MINUTE,
        at_once: per_minute,
    })
}

/// What was used and has not been earned back yet. It holds no limit, so that a changed one applies at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    used: f64,
    at: Timestamp,
}

impl Bucket {
    /// Takes `amount`, or says how long to wait. More than there can ever be is let through once all is there;
    /// what follows waits the longer.
    pub fn take(&mut self, amount: f64, rate: &Rate, now: Timestamp) -> Result<(), Duration> {
        self.pass_time(rate, now);
        let room = rate.at_once - amount.min(rate.at_once);
        if self.used > room + SLACK {
            return Err(time_for(self.used - room, rate));
        }
        self.used += amount;
        Ok(())
    }

    /// A request took `more` than was charged for it; less if negative.
    pub fn correct(&mut self, more: f64) {
        self.used = (self.used + more).max(0.0);
    }

    pub fn quota(&mut self, rate: &Rate, now: Timestamp) -> Quota {
        self.pass_time(rate, now);
        Quota {
            limit: rate.at_once,
            remaining: (rate.at_once - self.used).max(0.0),
            full_after: time_for(self.used, rate),
        }
    }

    fn pass_time(&mut self, rate: &Rate, now: Timestamp) {
        let earned = now.seconds_since(self.at) * rate.per_second;
        self.used = (self.used - earned).max(0.0);
        self.at = self.at.max(now);
    }
}

fn time_for(amount: f64, rate: &Rate) -> Duration {
    Duration::try_from_secs_f64(amount / rate.per_second).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_A_SECOND: Rate = Rate {
        per_second: 2.0,
        at_once: 3.0,
    };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    #[test]
    fn a_burst_passes_and_what_follows_waits_for_its_share() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(1.0, &TWO_A_SECOND, at(0)), Ok(()));
        }
        let wait = bucket.take(1.0, &TWO_A_SECOND, at(0));
        assert_eq!(wait, Err(Duration::from_millis(500)));
        assert!(bucket.take(1.0, &TWO_A_SECOND, at(499)).is_err());
        assert_eq!(bucket.take(1.0, &TWO_A_SECOND, at(500)), Ok(()));
    }

    #[test]
    fn a_refused_request_costs_nothing() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            let _ = bucket.take(1.0, &TWO_A_SECOND, at(0));
        }
        for _ in 0..100 {
            assert!(bucket.take(1.0, &TWO_A_SECOND, at(0)).is_err());
        }
        assert_eq!(bucket.take(1.0, &TWO_A_SECOND, at(500)), Ok(()));
    }

    #[test]
    fn more_than_the_whole_passes_when_all_is_there_and_is_paid_for_afterwards() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(7.0, &TWO_A_SECOND, at(0)), Ok(()));
        let wait = bucket.take(1.0, &TWO_A_SECOND, at(0));
        assert_eq!(wait, Err(Duration::from_millis(2_500)));
    }

    #[test]
    fn what_was_charged_too_much_comes_back_and_never_more() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(3.0, &TWO_A_SECOND, at(0)), Ok(()));
        bucket.correct(-2.0);
        assert_eq!(bucket.quota(&TWO_A_SECOND, at(0)).remaining, 2.0);
        bucket.correct(-100.0);
        let quota = bucket.quota(&TWO_A_SECOND, at(0));
        assert_eq!((quota.remaining, quota.full_after), (3.0, Duration::ZERO));
    }

    #[test]
    fn a_lower_limit_holds_at_once() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(3.0, &TWO_A_SECOND, at(0)), Ok(()));
        let slow = Rate {
            per_second: 1.0,
            at_once: 1.0,
        };
        assert_eq!(
            bucket.take(1.0, &slow, at(0)),
            Err(Duration::from_secs(3)),
            "three are still to be earned back"
        );
    }

    proptest! {
        /// Over any time no more passes than the burst and what the rate gives.
        #[test]
        fn no_more_passes_than_the_rate_allows(
            gaps_ms in prop::collection::vec(0u64..2_000, 1..200),
            per_second in 0.1f64..50.0,
            at_once in 1.0f64..20.0,
        ) {
            let rate = Rate { per_second, at_once };
            let (mut bucket, mut now, mut passed) = (Bucket::default(), 0, 0.0);
            for gap in &gaps_ms {
                now += gap;
                if bucket.take(1.0, &rate, at(now)).is_ok() {
                    passed += 1.0;
                }
            }
            prop_assert!(passed <= at_once + per_second * now as f64 / 1_000.0 + 0.01);
        }

        /// Whoever waits as long as told is let through.
        #[test]
        fn the_time_told_is_enough(takes in prop::collection::vec(0.0f64..10.0, 1..50), amount in 0.1f64..10.0) {
            let rate = Rate { per_second: 3.0, at_once: 5.0 };
            let mut bucket = Bucket::default();
            for take in takes {
                let _ = bucket.take(take, &rate, at(0));
            }
            if let Err(wait) = bucket.take(amount, &rate, at(0)) {
                let then = at(wait.as_millis() as u64 + 1);
                prop_assert_eq!(bucket.take(amount, &rate, then), Ok(()));
            }
        }
    }
}
