//! What each key has used of its limits. An account lives as long as its key is configured, across reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::domain::{KeyLimits, Timestamp};
use crate::policy::limits::{Bucket, LimitRule, OverLimit, Quota, Rate, request_rate, token_rate};

/// A refused request asks again no sooner than this where nobody knows when a place becomes free.
const CONCURRENCY_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Account(Mutex<Usage>);

#[derive(Debug, Default)]
struct Usage {
    limits: KeyLimits,
    requests: Bucket,
    tokens: Bucket,
    under_way: u32,
}

/// What is left, for the client to see; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quotas {
    pub requests: Option<Quota>,
    pub tokens: Option<Quota>,
}

impl Account {
    pub fn new(limits: KeyLimits) -> Self {
        let account = Self::default();
        account.set_limits(limits);
        account
    }

    /// What was used stays used.
    pub fn set_limits(&self, limits: KeyLimits) {
        self.0.lock().limits = limits;
    }

    /// Counts a request, until the allowance is dropped.
    pub fn enter(self: &Arc<Self>, now: Timestamp) -> Result<Allowance, OverLimit> {
        let mut usage = self.0.lock();
        let max = usage.limits.max_concurrency.unwrap_or(u32::MAX);
        if usage.under_way >= max {
            return Err(OverLimit {
                rule: LimitRule::Concurrency,
                retry_after: CONCURRENCY_RETRY,
            });
        }
        if let Some(rate) = request_rate(&usage.limits) {
            take(&mut usage.requests, 1.0, &rate, now, LimitRule::Requests)?;
        }
        usage.under_way += 1;
        Ok(Allowance {
            account: Arc::clone(self),
            charged: 0.0,
            used: AtomicU64::new(0),
        })
    }

    pub fn quotas(&self, now: Timestamp) -> Quotas {
        let usage = &mut *self.0.lock();
        let limits = usage.limits;
        Quotas {
            requests: request_rate(&limits).map(|rate| usage.requests.quota(&rate, now)),
            tokens: token_rate(&limits).map(|rate| usage.tokens.quota(&rate, now)),
        }
    }

    pub fn under_way(&self) -> u32 {
        self.0.lock().under_way
    }
}

fn take(
    bucket: &mut Bucket,
    amount: f64,
    rate: &Rate,
    now: Timestamp,
    rule: LimitRule,
) -> Result<(), OverLimit> {
    bucket
        .take(amount, rate, now)
        .map_err(|retry_after| OverLimit { rule, retry_after })
}

/// One request's share of its key's limits. Dropping it settles the tokens and frees the place.
#[derive(Debug)]
pub struct Allowance {
    account: Arc<Account>,
    charged: f64,
    used: AtomicU64,
}

impl Allowance {
    /// Charges what the request is expected to take.
    pub fn charge(&mut self, tokens: f64, now: Timestamp) -> Result<(), OverLimit> {
        let usage = &mut *self.account.0.lock();
        if let Some(rate) = token_rate(&usage.limits) {
            take(&mut usage.tokens, tokens, &rate, now, LimitRule::Tokens)?;
            self.charged += tokens;
        }
        Ok(())
    }

    /// What it has really taken so far, of every attempt together.
    pub fn used(&self, tokens: u64) {
        self.used.fetch_add(tokens, Relaxed);
    }

    pub fn quotas(&self, now: Timestamp) -> Quotas {
        self.account.quotas(now)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        let mut usage = self.account.0.lock();
        usage.under_way = usage.under_way.saturating_sub(1);
        if usage.limits.tokens_per_minute.is_some() {
            let used = self.used.load(Relaxed) as f64;
            usage.tokens.correct(used - self.charged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: KeyLimits = KeyLimits {
        requests_per_second: Some(1.0),
        burst: 5,
        tokens_per_minute: Some(600.0),
        max_concurrency: Some(2),
    };

    fn account() -> Arc<Account> {
        Arc::new(Account::new(LIMITS))
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(5_000_000)
    }

    fn tokens_left(account: &Account) -> f64 {
        account.quotas(now()).tokens.expect("a limit").remaining
    }

    #[test]
    fn a_place_is_free_again_when_its_request_is_over() {
        let account = account();
        let first = account.enter(now()).expect("room");
        let _second = account.enter(now()).expect("room");
        let refused = account.enter(now()).expect_err("two at once");
        assert_eq!(refused.rule, LimitRule::Concurrency);
        drop(first);
        assert!(account.enter(now()).is_ok());
    }

    #[test]
    fn tokens_are_charged_at_arrival_and_corrected_at_the_end() {
        let account = account();
        let mut allowance = account.enter(now()).expect("room");
        assert_eq!(allowance.charge(400.0, now()), Ok(()));
        assert_eq!(tokens_left(&account), 200.0);
        let mut other = account.enter(now()).expect("room");
        let refused = other.charge(300.0, now()).expect_err("too many");
        assert_eq!(refused.rule, LimitRule::Tokens);
        assert_eq!(refused.retry_after.as_secs(), 10);
        allowance.used(100);
        drop(allowance);
        assert_eq!(tokens_left(&account), 500.0);
        assert_eq!(other.charge(300.0, now()), Ok(()));
        drop(other);
        assert_eq!(tokens_left(&account), 500.0, "it produced nothing");
    }

    #[test]
    fn changed_limits_keep_what_was_used() {
        let account = account();
        let mut allowance = account.enter(now()).expect("room");
        assert_eq!(allowance.charge(500.0, now()), Ok(()));
        account.set_limits(KeyLimits {
            tokens_per_minute: Some(1_000.0),
            ..LIMITS
        });
        assert_eq!(tokens_left(&account), 500.0);
        assert_eq!(account.under_way(), 1);
    }

    #[test]
    fn without_limits_everything_passes_and_nothing_is_told() {
        let account = Arc::new(Account::default());
        let mut allowances: Vec<_> = (0..1_000)
            .map(|_| account.enter(now()).expect("no limit"))
            .collect();
        assert_eq!(allowances[0].charge(1e12, now()), Ok(()));
        assert_eq!(account.quotas(now()), Quotas::default());
        allowances.clear();
        assert_eq!(account.under_way(), 0);
    }
}
