//! What to do when an attempt failed before the client saw a byte.

use crate::domain::RetrySettings;

/// How an attempt at a worker failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// A connection kept from earlier was closed by the worker before it answered: says nothing about the worker.
    StaleConnection,
    /// No connection, or it broke before the response header.
    Broken,
    /// No answer in time.
    TimedOut,
    /// An answer with this status.
    Status(u16),
    /// An answer that cannot be passed on: too large, or not understood. Another worker would say the same.
    Unusable,
    /// The worker is being taken out of service.
    Taken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again, the same worker included. Does not count as an attempt.
    SameAgain,
    /// Again on any worker; this one is doubted until a probe clears it.
    ElsewhereDoubted,
    /// Again on any worker that takes requests.
    Elsewhere,
    /// Again on a worker not tried yet; if there is none, the client gets this answer.
    ElsewhereUntried,
    /// The client gets the answer, or the error.
    GiveUp,
}

/// So many kept connections in a row may be found closed before the worker is blamed.
const STALE_MAX: u32 = 3;

/// What a failure counts as, after `stale` kept connections in a row that were found closed.
pub fn blamed(failure: AttemptFailure, stale: u32) -> AttemptFailure {
    match failure {
        AttemptFailure::StaleConnection if stale >= STALE_MAX => AttemptFailure::Broken,
        other => other,
    }
}

/// `attempts_made` counts this one. Whose fault it was decides: what the client did wrong is wrong everywhere.
pub fn after_failure(
    failure: AttemptFailure,
    attempts_made: u32,
    settings: &RetrySettings,
) -> Verdict {
    if failure == AttemptFailure::StaleConnection {
        return Verdict::SameAgain;
    }
    if attempts_made >= settings.attempts_max {
        return Verdict::GiveUp;
    }
    match failure {
        AttemptFailure::StaleConnection | AttemptFailure::Broken | AttemptFailure::TimedOut => {
            Verdict::ElsewhereDoubted
        }
        // Another worker would say the same.
        AttemptFailure::Unusable => Verdict::GiveUp,
        // The worker's own key is wrong, it is overloaded, or it failed.
        AttemptFailure::Status(401 | 403 | 407 | 408 | 429) => Verdict::ElsewhereUntried,
        AttemptFailure::Status(501 | 505) => Verdict::GiveUp,
        AttemptFailure::Status(status) if status >= 500 => Verdict::ElsewhereUntried,
        AttemptFailure::Taken => Verdict::Elsewhere,
        AttemptFailure::Status(_) => Verdict::GiveUp,
    }
}

/// Further attempts that may be saved up: a worker that dies takes all its requests with it at once.
const BUDGET_BURST: f64 = 100.0;

/// Bounds further attempts to a share of the requests, so that a broken fleet is not hammered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget(f64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(BUDGET_BURST)
    }
}

impl RetryBudget {
    /// A request came; it earns its share of a further attempt.
    pub fn earn(&mut self, settings: &RetrySettings) {
        self.0 = (self.0 + settings.budget_share).min(BUDGET_BURST);
    }

    /// Takes one further attempt.
    pub fn spend(&mut self) -> bool {
        let may = self.0 >= 1.0;
        if may {
            self.0 -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(failure: AttemptFailure, attempts_made: u32, expect: Verdict) {
        let settings = RetrySettings {
            attempts_max: 3,
            budget_share: 0.2,
        };
        assert_eq!(after_failure(failure, attempts_made, &settings), expect);
    }

    #[test]
    fn a_dead_worker_costs_the_client_nothing_until_attempts_run_out() {
        check(AttemptFailure::Broken, 1, Verdict::ElsewhereDoubted);
        check(AttemptFailure::Broken, 3, Verdict::GiveUp);
    }

    #[test]
    fn a_stale_connection_is_nobodys_fault() {
        check(AttemptFailure::StaleConnection, 3, Verdict::SameAgain);
    }

    #[test]
    fn a_worker_that_closes_connection_after_connection_is_blamed_at_last() {
        let stale = AttemptFailure::StaleConnection;
        assert_eq!(blamed(stale, 2), stale);
        assert_eq!(blamed(stale, 3), AttemptFailure::Broken);
        assert_eq!(
            blamed(AttemptFailure::TimedOut, 3),
            AttemptFailure::TimedOut
        );
    }

    #[test]
    fn the_clients_own_mistake_is_not_repeated() {
        for status in [400, 404, 413, 422, 501] {
            check(AttemptFailure::Status(status), 1, Verdict::GiveUp);
        }
        check(AttemptFailure::Status(503), 1, Verdict::ElsewhereUntried);
    }

    #[test]
    fn what_is_the_workers_fault_is_tried_elsewhere() {
        for status in [401, 429, 500, 503, 529] {
            check(AttemptFailure::Status(status), 1, Verdict::ElsewhereUntried);
        }
        check(AttemptFailure::TimedOut, 1, Verdict::ElsewhereDoubted);
        check(AttemptFailure::Taken, 1, Verdict::Elsewhere);
        check(AttemptFailure::Unusable, 1, Verdict::GiveUp);
    }

    #[test]
    fn a_broken_fleet_is_asked_again_for_a_share_of_the_requests_only() {
        let settings = RetrySettings {
            attempts_max: 3,
            budget_share: 0.1,
        };
        let mut budget = RetryBudget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.earn(&settings);
            while budget.spend() {
                retries += 1;
            }
        }
        assert!((1_090..=1_100).contains(&retries), "{retries}");
    }
}
