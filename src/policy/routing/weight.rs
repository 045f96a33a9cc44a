//! The share of its speed that a worker is trusted with while it is new.

use std::time::Duration;

/// A new worker's share: its caches are empty and its engine compiles at first requests.
const FIRST_SHARE: f64 = 0.2;
/// Requests after which it is new no more, whatever the time.
const FINISHED_ENOUGH: u32 = 20;

pub fn slow_start(ready_for: Duration, finished: u32, window: Duration) -> f64 {
    if finished >= FINISHED_ENOUGH || window.is_zero() {
        return 1.0;
    }
    let passed = ready_for.as_secs_f64() / window.as_secs_f64();
    (FIRST_SHARE + (1.0 - FIRST_SHARE) * passed).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_worker_gets_a_fifth_and_then_more_until_it_is_known() {
        let window = Duration::from_secs(30);
        let share = |s, finished| slow_start(Duration::from_secs(s), finished, window);
        assert_eq!(share(0, 0), 0.2);
        assert!((share(15, 3) - 0.6).abs() < 1e-9);
        assert_eq!(share(1, 20), 1.0);
        assert_eq!(share(31, 0), 1.0);
        assert_eq!(slow_start(Duration::ZERO, 0, Duration::ZERO), 1.0);
    }
}
