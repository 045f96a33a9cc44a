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
        let mut forecast = Forecast::default();
        forecast.aim_at(0.02);
        Self {
            forecast,
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
fn a_burst_in_the_first_seconds_is_not_taken_for_the_load() {
    let watched = Watched::new().after(6, 1000, |at_s| if at_s < 2.0 { 2500.0 } else { 0.0 });
    let wanted = watched.wanted();
    assert!(wanted < 5000.0 / 30.0, "{wanted}");
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
        if ((at_s / 1200.0) as u64).is_multiple_of(2) {
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
        let requests = |second: u64| if second.is_multiple_of(3) { 1.0 } else { 0.0 };
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
fn a_gateway_that_counts_from_nothing_again_has_not_lost_its_load() {
    let mut watched = Watched::new().after(2 * 3600, 1000, |_| 500.0);
    let before = watched.wanted();
    watched.now_ms += 20_000;
    watched.total = 0.0;
    let watched = watched.after(300, 1000, |_| 500.0);
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

/// One in which work of one a second arrives.
fn minute_with(late: f64) -> Seen {
    Seen {
        arrived: 60.0,
        late,
        within_s: 60.0,
    }
}

/// Runs the steering against a world in which the late share is in proportion to what is not covered; returns the mean
/// late share of the last of `days`.
fn steered(aim: f64, late_of_uncovered: f64, days: usize) -> f64 {
    let mut steering = Steering::default();
    steering.aim_at(aim);
    let mut last_day = 0.0;
    for minute in 0..days * 1440 {
        // Quiet nights; each fourth hour is hard, and all that is late is late there.
        let hard = if minute / 60 % 4 == 3 { 4.0 } else { 0.0 };
        let late = 60.0 * late_of_uncovered * (1.0 - steering.covered()) * hard;
        steering.learn(minute_with(late), 1.0, true);
        if minute >= (days - 1) * 1440 {
            last_day += late / 86_400.0;
        }
    }
    last_day
}

#[test]
fn the_late_share_comes_to_what_is_allowed_whatever_it_takes() {
    for aim in [0.003, 0.007, 0.02] {
        for late_of_uncovered in [0.1, 0.5, 2.0] {
            let found = steered(aim, late_of_uncovered, 30);
            assert!((found / aim - 1.0).abs() < 0.1, "{found} for {aim}");
        }
    }
}

#[test]
fn without_late_work_ever_half_of_the_surprises_stay_covered() {
    let mut steering = Steering::default();
    steering.aim_at(0.005);
    for _ in 0..30 * 1440 {
        steering.learn(minute_with(0.0), 1.0, true);
    }
    assert_eq!(steering.covered(), 0.5);
}

#[test]
fn one_bad_hour_is_not_paid_for_all_day() {
    let mut steering = Steering::default();
    steering.aim_at(0.005);
    let before = 1.0 - steering.covered();
    for _ in 0..60 {
        steering.learn(minute_with(60.0), 1.0, true);
    }
    assert!(1.0 - steering.covered() > before / 60.0);
    let strict = steering.covered();
    steering.aim_at(0.01);
    assert!(steering.covered() < strict);
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

#[test]
fn a_silent_night_neither_loosens_what_is_covered_nor_wipes_what_was_late() {
    let mut watched = Watched::new().after(6 * 3600, 1000, |_| 800.0);
    let mut counted = watched.total;
    let mut look = |watched: &mut Watched, late: f64| {
        let arrived = Tokens(watched.total - counted);
        counted = watched.total;
        let forecast = &mut watched.forecast;
        forecast.learn_late(arrived, Tokens(late), Duration::from_secs(1), true);
    };
    for _ in 0..2 * 3600 {
        watched = watched.after(1, 1000, |_| 800.0);
        look(&mut watched, 10.0);
    }
    let before = watched.forecast.expected();
    watched = watched.after(12 * 3600, 1000, |_| 0.0);
    for _ in 0..60 {
        watched = watched.after(1, 1000, |_| 800.0);
        look(&mut watched, 0.0);
    }
    let after = watched.forecast.expected();
    assert!(before.late_share > 0.01);
    assert!(
        after.late_share > 0.9 * before.late_share,
        "{after:?} after {before:?}"
    );
    assert!(
        1.0 - after.covered < 1.1 * (1.0 - before.covered),
        "{after:?} after {before:?}"
    );
}

#[test]
fn late_work_is_counted_where_it_does_not_steer() {
    let mut watched = Watched::new().after(3600, 1000, |_| 800.0);
    let covered = watched.forecast.expected().covered;
    let (second, arrived) = (Duration::from_secs(1), Tokens(800.0));
    watched
        .forecast
        .learn_late(arrived, Tokens(80.0), second, false);
    watched = watched.after(10, 1000, |_| 800.0);
    let expected = watched.forecast.expected();
    assert_eq!(expected.covered, covered);
    assert!((expected.late_share - 0.1).abs() < 1e-9);
}

#[test]
fn the_pool_is_for_no_more_than_a_little_beyond_what_was_ever_there() {
    // Half an hour of five workers' load, half an hour of next to nothing.
    let in_turns = |at_s: f64| {
        if at_s % 3600.0 < 1800.0 { 5.0 } else { 500.0 }
    };
    let expected = Watched::new()
        .after(24 * 3600, 5000, in_turns)
        .forecast
        .expected();
    assert!(expected.growth > 2.0, "{}", expected.growth);
    assert!(
        (500.0..=700.0).contains(&expected.pool.0),
        "{}",
        expected.pool.0
    );
}
