//! Whether a new worker is what it was believed to be.

use crate::domain::{BenchmarkResult, FailureReason, GapLaw, TokensPerSecond};

/// A stated speed that no machine has shown yet is a guess: only a small part of the share is asked then.
const UNPROVEN_SHARE: f64 = 0.25;

/// What is expected of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    /// With as many requests at once as were measured.
    pub tokens_per_second: TokensPerSecond,
    /// Some machine of the group was measured before.
    pub proven: bool,
}

/// The speed that a gap law means with so many streams.
pub fn speed_at(gap: GapLaw, concurrency: u32) -> TokensPerSecond {
    let streams = f64::from(concurrency.max(1));
    TokensPerSecond(streams / gap.at(streams).max(f64::MIN_POSITIVE))
}

/// `Err` where it falls far short.
pub fn judge(
    measured: &BenchmarkResult,
    expected: Expectation,
    share_min: f64,
) -> Result<(), FailureReason> {
    let share = if expected.proven {
        share_min
    } else {
        share_min * UNPROVEN_SHARE
    };
    let least = expected.tokens_per_second.0 * share;
    // Nothing that can be compared: the benchmark was answered, and that is all that is known.
    if !least.is_finite() || measured.tokens_per_second.0 >= least {
        Ok(())
    } else {
        Err(FailureReason::TooSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn measured(speed: f64) -> BenchmarkResult {
        BenchmarkResult {
            at: Timestamp::default(),
            tokens_per_second: TokensPerSecond(speed),
            concurrency: 8,
            tokens_per_second_alone: None,
            first_token_s: None,
            output_tokens: 1_000,
            failed_requests: 0,
            took_s: 10.0,
        }
    }

    #[track_caller]
    fn check(speed: f64, expected: f64, proven: bool, passes: bool) {
        let expected = Expectation {
            tokens_per_second: TokensPerSecond(expected),
            proven,
        };
        let verdict = judge(&measured(speed), expected, 0.4);
        assert_eq!(verdict.is_ok(), passes, "{speed} of {expected:?}");
    }

    #[test]
    fn a_worker_far_short_of_what_others_showed_is_given_up() {
        check(410.0, 1_000.0, true, true);
        check(390.0, 1_000.0, true, false);
    }

    #[test]
    fn a_speed_that_was_only_stated_fails_nobody_that_is_near() {
        check(150.0, 1_000.0, false, true);
        check(50.0, 1_000.0, false, false);
    }

    #[test]
    fn nothing_to_compare_with_is_no_failure() {
        check(100.0, f64::NAN, true, true);
        check(100.0, f64::INFINITY, true, true);
    }
}
