//! When capacity arrives: how long workers take to start, and how long a request has to wait for its turn.

use std::time::Duration;

use crate::domain::{Tokens, TokensPerSecond};

/// Weight of the newest start; the first few weigh 1/n.
const LEARNING_RATE: f64 = 0.25;
/// A start that is overdue is expected to take this share of the time it already took.
const OVERDUE: f64 = 0.25;
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// A client that is told more comes never.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// How long workers of one kind took from order to ready: mean and mean deviation, as TCP keeps round trips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StartTime {
    mean_s: f64,
    deviation_s: f64,
    seen: u32,
}

impl StartTime {
    /// What is believed before any start was seen.
    pub fn prior(expected: Duration) -> Self {
        Self {
            mean_s: expected.as_secs_f64(),
            deviation_s: 0.0,
            seen: 0,
        }
    }

    pub fn observe(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.seen = self.seen.saturating_add(1);
        let rate = (1.0 / f64::from(self.seen)).max(LEARNING_RATE);
        if self.seen > 1 {
            self.deviation_s += rate * ((took - self.mean_s).abs() - self.deviation_s);
        }
        self.mean_s += rate * (took - self.mean_s);
    }

    pub fn was_seen(&self) -> bool {
        self.seen > 0
    }

    /// Most starts are over by then.
    pub fn expected(&self) -> Duration {
        Duration::from_secs_f64(self.mean_s + self.deviation_s)
    }

    /// For a start ordered `ago`.
    pub fn left(&self, ago: Duration) -> Duration {
        self.expected()
            .saturating_sub(ago)
            .max(ago.mul_f64(OVERDUE).min(RETRY_AFTER_MAX))
    }
}

/// Restarts that failed: the newest count most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartLuck {
    tried: f64,
    failed: f64,
}

/// As if so many had been tried before any was, of which this share failed.
const RESTARTS_BELIEVED: f64 = 10.0;
const RESTART_FAILS_PRIOR: f64 = 0.15;
/// One more lets what was counted before count this much of what it did.
const RESTART_FADES: f64 = 0.98;

impl Default for RestartLuck {
    fn default() -> Self {
        Self {
            tried: RESTARTS_BELIEVED,
            failed: RESTARTS_BELIEVED * RESTART_FAILS_PRIOR,
        }
    }
}

impl RestartLuck {
    pub fn observe(&mut self, failed: bool) {
        self.tried = self.tried * RESTART_FADES + 1.0;
        self.failed = self.failed * RESTART_FADES + f64::from(u8::from(failed));
    }

    /// Share of the restarts that fail, in (0, 1).
    pub fn fails(&self) -> f64 {
        self.failed / self.tried
    }
}

/// Capacity that serves from `after` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supply {
    pub after: Duration,
    pub speed: TokensPerSecond,
}

/// Until `work` is done by what is there and what comes; `None` if nothing does.
pub fn time_to_do(work: Tokens, supplies: &[Supply]) -> Option<Duration> {
    let mut supplies: Vec<&Supply> = supplies
        .iter()
        .filter(|supply| supply.speed.0 > 0.0)
        .collect();
    supplies.sort_by_key(|supply| supply.after);
    let mut left = work.0.max(0.0);
    let (mut at, mut speed) = (0.0, 0.0);
    for supply in supplies {
        let next = supply.after.as_secs_f64();
        if speed > 0.0 && left <= speed * (next - at) {
            break;
        }
        left -= speed * (next - at);
        at = next;
        speed += supply.speed.0;
    }
    let seconds = at + left / speed;
    (speed > 0.0)
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
}

/// What a refused client is told, in whole seconds.
pub fn retry_after(expected: Duration) -> Duration {
    let seconds = expected.as_secs_f64().ceil() as u64;
    Duration::from_secs(seconds).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[track_caller]
    fn check_time(work: f64, supplies: &[(f64, f64)], expected: Option<f64>) {
        let supplies: Vec<Supply> = supplies
            .iter()
            .map(|(after, speed)| Supply {
                after: s(*after),
                speed: TokensPerSecond(*speed),
            })
            .collect();
        let found = time_to_do(Tokens(work), &supplies).map(|time| time.as_secs_f64());
        match (found, expected) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-6, "{found}"),
            _ => assert_eq!(found, expected),
        }
    }

    #[test]
    fn work_is_done_by_who_is_there_and_by_who_comes_in_time() {
        check_time(500.0, &[(0.0, 100.0)], Some(5.0));
        check_time(500.0, &[(30.0, 100.0), (0.0, 100.0)], Some(5.0));
        check_time(5_000.0, &[(30.0, 100.0), (0.0, 100.0)], Some(40.0));
        check_time(0.0, &[(30.0, 100.0)], Some(30.0));
        check_time(200.0, &[(30.0, 100.0), (60.0, 100.0)], Some(32.0));
    }

    #[test]
    fn without_capacity_there_is_no_answer() {
        check_time(1.0, &[], None);
        check_time(1.0, &[(0.0, 0.0), (1.0, f64::NAN)], None);
    }

    #[test]
    fn starts_are_learned_from_the_first_on() {
        let mut start = StartTime::prior(s(300.0));
        assert_eq!(start.expected(), s(300.0));
        start.observe(s(40.0));
        assert_eq!(start.expected(), s(40.0));
        for _ in 0..50 {
            start.observe(s(60.0));
        }
        assert!((start.expected().as_secs_f64() - 60.0).abs() < 0.5);
        for took in [50.0, 70.0].repeat(20) {
            start.observe(s(took));
        }
        assert!(
            start.expected() > s(65.0),
            "a variable start is not promised at its mean"
        );
    }

    #[test]
    fn restarts_that_fail_are_learned_and_so_is_that_they_no_longer_do() {
        let mut luck = RestartLuck::default();
        assert_eq!(luck.fails(), 0.15);
        for _ in 0..20 {
            luck.observe(true);
        }
        assert!(luck.fails() > 0.6, "{luck:?}");
        for _ in 0..150 {
            luck.observe(false);
        }
        assert!(luck.fails() < 0.1, "{luck:?}");
    }

    #[test]
    fn a_start_that_is_overdue_takes_a_while_yet() {
        let start = StartTime::prior(s(40.0));
        assert_eq!(start.left(s(10.0)), s(30.0));
        assert_eq!(start.left(s(100.0)), s(25.0));
    }

    #[test]
    fn retry_after_is_in_whole_seconds_within_reason() {
        assert_eq!(retry_after(s(0.0)), s(1.0));
        assert_eq!(retry_after(s(41.2)), s(42.0));
        assert_eq!(retry_after(s(1e9)), s(600.0));
    }
}
