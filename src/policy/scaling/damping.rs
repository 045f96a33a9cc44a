//! What keeps plans calm: the peak of the recent past, and growing pauses after failures.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// A window is remembered in this many pieces at most, so that a memory stays small however often it is written.
const PIECES: u32 = 32;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The greatest of the values of the last while: values fall and times rise from front to back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeakWindow(VecDeque<(Timestamp, f64)>);

impl PeakWindow {
    /// Adds `value` and returns the peak of the last `window` (up to a 32nd of it longer), `value` included.
    pub(super) fn push(&mut self, value: f64, window: Duration, now: Timestamp) -> f64 {
        let piece_ms = (window / PIECES).as_millis().max(1) as u64;
        let piece_of = |at: Timestamp| at.as_millis() / piece_ms;
        let mut value = value;
        while let Some(&(at, last)) = self.0.back() {
            if last > value && piece_of(at) != piece_of(now) {
                break;
            }
            value = value.max(last);
            self.0.pop_back();
        }
        self.0.push_back((now, value));
        while self
            .0
            .front()
            .is_some_and(|&(at, _)| now.since(at) > window)
        {
            self.0.pop_front();
        }
        self.0.front().map_or(value, |&(_, peak)| peak)
    }
}

/// Failures in a row, in waves: what fails during a pause belongs to the failure that began it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    pub failures: u32,
    failed_at: Timestamp,
}

impl Backoff {
    pub(super) fn fail(&mut self, now: Timestamp) {
        if !self.blocks(now) {
            self.failures = self.failures.saturating_add(1);
            self.failed_at = now;
        }
    }

    pub(super) fn blocks(&self, now: Timestamp) -> bool {
        self.failures > 0 && now < self.failed_at + self.pause()
    }

    /// Whether something that went well at `at` came after the failures.
    pub(super) fn is_outdone_at(&self, at: Timestamp) -> bool {
        self.failures > 0 && at > self.failed_at
    }

    /// 1 s, 2 s, 4 s ... 60 s.
    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(6);
        (PAUSE_FIRST * (1 << doublings)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_millis((seconds * 1000.0) as u64)
    }

    #[test]
    fn a_peak_is_held_for_the_window_and_not_much_longer() {
        let window = Duration::from_secs(300);
        let mut peaks = PeakWindow::default();
        assert_eq!(peaks.push(9.0, window, at(0.0)), 9.0);
        for second in 1..=300 {
            assert_eq!(peaks.push(1.0, window, at(second as f64)), 9.0);
        }
        assert_eq!(peaks.push(1.0, window, at(320.0)), 1.0);
    }

    #[test]
    fn a_peak_is_never_forgotten_early_however_often_values_come() {
        let window = Duration::from_secs(10);
        let mut peaks = PeakWindow::default();
        let values: Vec<f64> = (0..2000).map(|i| f64::from((i * 7919) % 1000)).collect();
        for (i, &value) in values.iter().enumerate() {
            let held = peaks.push(value, window, at(i as f64 * 0.05));
            let recent = &values[i.saturating_sub(200)..=i];
            let peak = recent.iter().copied().fold(0.0, f64::max);
            assert!(held >= peak, "at {i}: {held} < {peak}");
        }
    }

    #[test]
    fn a_long_decline_is_remembered_in_few_pieces() {
        let mut peaks = PeakWindow::default();
        for i in 0..20_000 {
            peaks.push(
                1e6 - f64::from(i),
                Duration::from_secs(300),
                at(f64::from(i) * 0.05),
            );
        }
        assert!(peaks.0.len() <= PIECES as usize + 2, "{}", peaks.0.len());
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_one_wave_counts_once() {
        let mut backoff = Backoff::default();
        let mut now = at(100.0);
        for expected_s in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            backoff.fail(now);
            backoff.fail(now + Duration::from_millis(1));
            let end = now + Duration::from_secs_f64(expected_s);
            assert!(backoff.blocks(Timestamp::from_millis(end.as_millis() - 1)));
            assert!(!backoff.blocks(end), "{expected_s}");
            now = end;
        }
    }
}
