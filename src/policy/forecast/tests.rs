//! What is foretold of loads whose truth is known.

use super::*;
use crate::domain::Tokens;

const START_MS: u64 = 1_000_000_000;

fn pace() -> Pace {
    Pace {
        wait: Duration::from_secs(10),
        restart: Duration::from_secs(60),
        cold: Duration::from_secs(300),
    }
}

/// A forecast that is shown a load at a pace.
struct Watched {
    forecast: Forecast,
    total: f64,
    now_ms: u64,
    typical: f64,
}

impl Watched {
    fn new() -> Self {
        Self {
            forecast: Forecast::default(),
            total: 0.0,
            now_ms: START_MS,
            typical: 100.0,
        }
    }

    /// `load` in tokens a second, at a second from now on.
    fn after(mut self, seconds: u64, step_ms: u64, load: impl Fn(f64) -> f64) -> Self {
        let from = self.now_ms;
        self.look(Tokens::ZERO);
        while self.now_ms < from + seconds * 1000 {
            let at_s = (self.now_ms - from) as f64 / 1000.0;
            self.total += load(at_s) * step_ms as f64 / 1000.0;
            self.now_ms += step_ms;
            self.look(Tokens::ZERO);
        }
        self
    }

    fn look(&mut self, corrected: Tokens) {
        let view = DemandView {
            arrived_total: Tokens(self.total),
            corrected_total: corrected,
            ..DemandView::default()
        };
        let now = Timestamp::from_millis(self.now_ms);
        let typical = TokensPerSecond(self.typical);
        self.forecast.observe(&view, typical, pace(), now);
    }

    fn wanted(&self) -> f64 {
        let expected = self.forecast.expected();
        (expected.need.0 + expected.surprise.0).max(expected.lasting.0)
    }
}

#[test]
fn a_steady_load_asks_for_itself_and_little_more_whatever_the_pace_of_looks() {
    for step_ms in [200, 1000, 7000, 30_000] {
        let watched = Watched::new().after(4 * 3600, step_ms, |_| 800.0);
        let wanted = watched.wanted();
        assert!((799.0..850.0).contains(&wanted), "{step_ms} ms: {wanted}");
        let pool = watched.forecast.expected().pool.0;
        assert!((799.0..1200.0).contains(&pool), "{step_ms} ms: {pool}");
    }
}

#[test]
fn a_load_that_jumps_is_covered_more_generously_than_one_that_does_not() {
    let restless = |at_s: f64| {
        if (at_s / 60.0) as u64 % 7 < 2 {
            1200.0
        } else {
            640.0
        }
    };
    let wanted = Watched::new().after(6 * 3600, 1000, restless).wanted();
    let calm = Watched::new().after(6 * 3600, 1000, |_| 800.0).wanted();
    assert!(wanted > calm * 1.1, "{wanted} after {calm}");
}

#[test]
fn the_pool_learns_by_how_much_the_load_grows_within_a_cold_start() {
    let doubling = |at_s: f64| {
        if (at_s / 1200.0) as u64 % 2 == 0 {
            400.0
        } else {
            800.0
        }
    };
    let watched = Watched::new().after(24 * 3600, 5000, doubling);
    let growth = watched.forecast.expected().growth;
    assert!((1.6..2.6).contains(&growth), "{growth}");
}

#[test]
fn corrections_that_come_later_shake_nothing() {
    // Each request is foretold at 500 tokens and turns out to be 200 a minute later.
    let mut watched = Watched::new();
    let mut wanted = Vec::new();
    let mut corrected = 0.0;
    for second in 0..4 * 3600_u64 {
        watched.now_ms += 1000;
        let requests = |second: u64| if second % 3 == 0 { 1.0 } else { 0.0 };
        watched.total += 500.0 * requests(second);
        if second >= 60 {
            watched.total -= 300.0 * requests(second - 60);
            corrected -= 300.0 * requests(second - 60);
        }
        watched.look(Tokens(corrected));
        if second > 3600 {
            wanted.push(watched.wanted());
        }
    }
    let most = wanted.iter().copied().fold(0.0, f64::max);
    let least = wanted.iter().copied().fold(f64::MAX, f64::min);
    assert!(least > 0.95 * 200.0 / 3.0, "{least}");
    assert!(most < 110.0, "{most}");
}

#[test]
fn a_gap_is_neither_silence_nor_a_burst() {
    let mut watched = Watched::new().after(2 * 3600, 1000, |_| 500.0);
    let before = watched.wanted();
    watched.forecast.after_a_gap();
    watched.now_ms += 7200 * 1000;
    watched.total = 0.0;
    let watched = watched.after(60, 1000, |_| 500.0);
    let after = watched.wanted();
    assert!(
        (after / before - 1.0).abs() < 0.05,
        "{before}, then {after}"
    );
}

#[test]
fn a_new_unit_changes_nothing_that_is_foretold() {
    let waves = |at_s: f64| 600.0 + 300.0 * (at_s / 700.0).sin();
    let mut watched = Watched::new().after(8 * 3600, 5000, waves);
    let before = watched.forecast.expected();
    watched.typical = 250.0;
    let watched = watched.after(5, 5000, |_| waves(8.0 * 3600.0));
    let after = watched.forecast.expected();
    let near = |a: TokensPerSecond, b: TokensPerSecond| (a.0 / b.0 - 1.0).abs() < 0.1;
    assert!(near(before.need, after.need), "{before:?}, {after:?}");
    assert!(near(before.lasting, after.lasting), "{before:?}, {after:?}");
}

#[test]
fn late_work_raises_what_is_covered_within_hours_and_its_absence_lowers_it() {
    let mut steering = Steering::default();
    let begin = steering.covered();
    for _ in 0..6 * 60 {
        steering.learn(60.0, 0.0, 1.0, 0.005);
    }
    let rested = steering.covered();
    assert!(rested < begin, "{rested}");
    for _ in 0..12 * 60 {
        steering.learn(60.0, 60.0 * 0.03, 1.0, 0.005);
    }
    assert!(steering.covered() > begin, "{}", steering.covered());
    for _ in 0..100_000 {
        steering.learn(60.0, 0.0, 1.0, 0.005);
    }
    assert_eq!(steering.covered(), 0.5);
}

#[test]
fn what_is_remembered_stays_small() {
    let noise = |at_s: f64| 700.0 + 300.0 * (at_s * 12.9898).sin();
    let watched = Watched::new().after(12 * 3600, 1000, noise);
    let written = serde_json::to_string(&watched.forecast).expect("is written");
    assert!(written.len() < 9_000, "{} bytes", written.len());
    let read: Forecast = serde_json::from_str(&written).expect("is read");
    assert_eq!(read, watched.forecast);
}
