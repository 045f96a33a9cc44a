//! Vast's published intervals between calls of one kind and one key: kept here, so that no call is refused for haste.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Calls that share an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Search,
    /// A search that tells somebody what a filter keeps out.
    Exclude,
    Create,
    List,
    Change,
    Destroy,
    Bid,
    Logs,
    Account,
    Charges,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Search => "search",
            Kind::Exclude => "exclude",
            Kind::Create => "create",
            Kind::List => "list",
            Kind::Change => "change",
            Kind::Destroy => "destroy",
            Kind::Bid => "bid",
            Kind::Logs => "logs",
            Kind::Account => "account",
            Kind::Charges => "charges",
        }
    }

    /// From Vast's documentation; where it names none, one second.
    fn interval(self) -> Duration {
        let seconds = match self {
            Kind::Search => 6.0,
            Kind::Create => 4.5,
            Kind::Exclude | Kind::List | Kind::Change | Kind::Account | Kind::Charges => 1.0,
            Kind::Destroy => 3.0,
            Kind::Bid => 5.5,
            Kind::Logs => 1.5,
        };
        Duration::from_secs_f64(seconds)
    }

    /// After a refusal that does not say when to come back.
    fn penalty(self) -> Duration {
        match self {
            Kind::Create => Duration::from_secs(12),
            kind => 2 * kind.interval(),
        }
    }
}

/// Too many calls wait already; nothing was sent.
#[derive(Debug, PartialEq)]
pub(super) struct Busy;

#[derive(Default)]
pub(super) struct Limiter {
    /// When the next call may be sent.
    next: Mutex<HashMap<(usize, Kind), Instant>>,
}

impl Limiter {
    /// Waits for this call's turn, `longest` at most; turns are given in the order of asking.
    pub(super) async fn turn(
        &self,
        account: usize,
        kind: Kind,
        scale: f64,
        longest: Duration,
    ) -> Result<(), Busy> {
        let at = self.book(account, kind, scale, longest, Instant::now())?;
        tokio::time::sleep_until(at).await;
        Ok(())
    }

    /// When this call may be sent; who asks next comes an interval later.
    fn book(
        &self,
        account: usize,
        kind: Kind,
        scale: f64,
        longest: Duration,
        now: Instant,
    ) -> Result<Instant, Busy> {
        let mut next = self.next.lock();
        let next = next.entry((account, kind)).or_insert(now);
        let at = (*next).max(now);
        if at - now > longest {
            return Err(Busy);
        }
        *next = at + kind.interval().mul_f64(scale);
        Ok(at)
    }

    /// The market refused for haste: nobody calls before `after`, or before what is usual. Says how long that is.
    pub(super) fn refused(
        &self,
        account: usize,
        kind: Kind,
        scale: f64,
        after: Option<Duration>,
    ) -> Duration {
        let pause = after.unwrap_or_else(|| kind.penalty().mul_f64(scale));
        let until = Instant::now() + pause;
        let mut next = self.next.lock();
        let next = next.entry((account, kind)).or_insert(until);
        *next = (*next).max(until);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    /// Seconds that each of several calls waits, all asked for at once.
    fn waits(kind: Kind, calls: usize, scale: f64) -> Vec<f64> {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let book = |_| limiter.book(0, kind, scale, LONGEST, now);
        let turns = (0..calls).map(book);
        turns
            .map(|turn| (turn.expect("a turn") - now).as_secs_f64())
            .collect()
    }

    #[test]
    fn calls_of_one_kind_keep_its_interval_and_the_first_waits_for_nothing() {
        assert_eq!(waits(Kind::Create, 3, 1.0), [0.0, 4.5, 9.0]);
        assert_eq!(waits(Kind::Create, 3, 0.1), [0.0, 0.45, 0.9]);
        assert_eq!(waits(Kind::Search, 2, 0.0), [0.0, 0.0]);
    }

    #[test]
    fn kinds_and_accounts_do_not_wait_for_each_other() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for (account, kind) in [(0, Kind::Create), (1, Kind::Create), (0, Kind::Search)] {
            assert_eq!(limiter.book(account, kind, 1.0, LONGEST, now), Ok(now));
        }
    }

    #[test]
    fn who_would_wait_too_long_is_told_at_once_and_takes_no_turn() {
        let limiter = Limiter::default();
        let minute = Duration::from_secs(60);
        limiter.refused(0, Kind::List, 1.0, Some(minute));
        let now = Instant::now();
        assert_eq!(limiter.book(0, Kind::List, 1.0, LONGEST, now), Err(Busy));
        let later = now + minute;
        assert_eq!(limiter.book(0, Kind::List, 1.0, LONGEST, later), Ok(later));
    }
}
