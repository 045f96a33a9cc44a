//! What keeps plans calm: the peak of the recent past, and growing pauses after failures.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// Values are remembered in pieces of at most this part of their age, so that a memory stays small however often it is
/// written.
const PIECES: u64 = 8;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The greatest of the values of the last while, for whiles of any length: values fall and times rise from front to back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeakWindow(VecDeque<(Timestamp, f64)>);

impl PeakWindow {
    /// Adds `value`; what is older than `longest` is forgotten.
    pub(super) fn push(&mut self, value: f64, longest: Duration, now: Timestamp) {
        while self.0.back().is_some_and(|&(_, last)| last <= value) {
            self.0.pop_back();
        }
        self.0.push_back((now, value));
        while self
            .0
            .front()
            .is_some_and(|&(at, _)| now.since(at) > longest)
        {
            self.0.pop_front();
        }
        self.merge(now);
    }

    /// The peak of the last `window`, or of a little longer.
    pub(super) fn within(&self, window: Duration, now: Timestamp) -> f64 {
        let mut recent = self.0.iter().filter(|(at, _)| now.since(*at) <= window);
        recent.next().map_or(0.0, |&(_, peak)| peak)
    }

    /// The last of a piece stands for all of it, with the greatest value.
    fn merge(&mut self, now: Timestamp) {
        let mut kept: VecDeque<(Timestamp, f64)> = VecDeque::with_capacity(self.0.len());
        for &(at, value) in &self.0 {
            match kept.back_mut() {
                Some(last) if piece(last.0, now) == at.as_millis() / piece_ms(last.0, now) => {
                    last.0 = at;
                }
                _ => kept.push_back((at, value)),
            }
        }
        self.0 = kept;
    }
}

/// Which piece of time, counted from the beginning of all time, a moment is in.
fn piece(at: Timestamp, now: Timestamp) -> u64 {
    at.as_millis() / piece_ms(at, now)
}

/// Powers of two, so that a piece only ever grows into one that holds it.
fn piece_ms(at: Timestamp, now: Timestamp) -> u64 {
    let most = now.since(at).as_millis() as u64 / PIECES;
    most.checked_ilog2().map_or(1, |doublings| 1 << doublings)
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
        let (longest, window) = (Duration::from_secs(7200), Duration::from_secs(300));
        let mut peaks = PeakWindow::default();
        peaks.push(9.0, longest, at(0.0));
        for second in 1..=300 {
            peaks.push(1.0, longest, at(second as f64));
            assert_eq!(peaks.within(window, at(second as f64)), 9.0);
        }
        peaks.push(1.0, longest, at(340.0));
        assert_eq!(peaks.within(window, at(340.0)), 1.0);
        assert_eq!(peaks.within(2 * window, at(340.0)), 9.0);
    }

    #[test]
    fn a_peak_is_never_forgotten_early_however_often_values_come() {
        let mut peaks = PeakWindow::default();
        let values: Vec<f64> = (0..4000).map(|i| f64::from((i * 7919) % 1000)).collect();
        for (i, &value) in values.iter().enumerate() {
            let now = at(i as f64 * 0.05);
            peaks.push(value, Duration::from_secs(60), now);
            for ticks in [20, 200, 1200] {
                let held = peaks.within(Duration::from_millis(ticks * 50), now);
                let recent = &values[i.saturating_sub(ticks as usize)..=i];
                let peak = recent.iter().copied().fold(0.0, f64::max);
                assert!(held >= peak, "at {i}: {held} < {peak}");
            }
        }
    }

    #[test]
    fn a_long_decline_is_remembered_in_few_pieces() {
        let mut peaks = PeakWindow::default();
        for i in 0..200_000 {
            let longest = Duration::from_secs(48 * 3600);
            peaks.push(1e6 - f64::from(i), longest, at(f64::from(i)));
        }
        assert!(peaks.0.len() <= 200, "{}", peaks.0.len());
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
