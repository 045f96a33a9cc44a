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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again, the same worker included. Does not count as an attempt.
    SameAgain,
    /// Again on any worker; this one is doubted until a probe clears it.
    ElsewhereDoubted,
    /// Again on a worker not tried yet; if there is none, the client gets this answer.
    ElsewhereUntried,
    /// The client gets the answer, or the error.
    GiveUp,
}

/// `attempts_made` counts this one. Statuses below 500 but 429 are the client's or the worker's honest answer.
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
        AttemptFailure::StaleConnection | AttemptFailure::Broken => Verdict::ElsewhereDoubted,
        // A slow worker has done the work already; doing it twice doubles the load that made it slow.
        AttemptFailure::TimedOut | AttemptFailure::Unusable => Verdict::GiveUp,
        AttemptFailure::Status(429 | 500 | 502 | 503 | 504) => Verdict::ElsewhereUntried,
        AttemptFailure::Status(_) => Verdict::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(failure: AttemptFailure, attempts_made: u32, expect: Verdict) {
        let settings = RetrySettings { attempts_max: 3 };
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
    fn the_clients_own_mistake_is_not_repeated() {
        for status in [400, 401, 404, 413, 422, 501] {
            check(AttemptFailure::Status(status), 1, Verdict::GiveUp);
        }
        check(AttemptFailure::Status(503), 1, Verdict::ElsewhereUntried);
        check(AttemptFailure::TimedOut, 1, Verdict::GiveUp);
    }
}
