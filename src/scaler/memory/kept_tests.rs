//! What a restart still knows of the load.

use super::*;
use crate::domain::{
    EndpointName, FleetSnapshot, GroupName, LatenessAim, ScalingSettings, Tokens, TokensPerSecond,
    UsdPerHour, WaitingView,
};
use crate::policy::scaling::{GroupSupply, ScalingInputs, plan_scaling};

const START_MS: u64 = 1_700_000_000_000;
/// Tokens a second.
const LOAD: f64 = 500.0;

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(START_MS + second * 1_000)
}

/// How much to have is learned: all of the memory is in use.
fn settings() -> ScalingSettings {
    ScalingSettings {
        min_load: TokensPerSecond::ZERO,
        target_util: None,
        cold_mult: None,
        min_cold_load: TokensPerSecond::ZERO,
        cold_workers: 0,
        max_workers: 20,
        inactivity_timeout: Some(Duration::from_secs(60)),
        scale_down_delay: Duration::from_secs(60),
        drain_backlog_within: Duration::from_secs(60),
        slo: LatenessAim {
            wait: Duration::from_secs(10),
            late_share: 0.005,
        },
    }
}

/// A tick at each second of `seconds`, with `LOAD` arriving all along; what is counted begins at 0 in the first.
fn watched(
    mut memory: ScalingMemory,
    before: f64,
    seconds: std::ops::RangeInclusive<u64>,
) -> (ScalingMemory, DemandView, f64) {
    let (first, mut wanted, mut demand) = (*seconds.start(), 0.0, DemandView::default());
    for second in seconds {
        demand = DemandView {
            arrived_total: Tokens(before + LOAD * (second - first) as f64),
            last_active: Some(at(second)),
            ..DemandView::default()
        };
        let inputs = inputs(demand, second);
        let (plan, after) = plan_scaling(&inputs, &memory, &settings(), at(second));
        (memory, wanted) = (after, plan.wanted.0);
    }
    (memory, demand, wanted)
}

fn inputs(demand: DemandView, second: u64) -> ScalingInputs {
    ScalingInputs {
        snapshot: FleetSnapshot {
            endpoint: EndpointName::new("chat"),
            taken_at: at(second),
            workers: Vec::new(),
            waiting: WaitingView::default(),
            demand,
        },
        groups: vec![supply()],
        removed: false,
    }
}

fn supply() -> GroupSupply {
    GroupSupply {
        group: GroupName::new("g"),
        speed: TokensPerSecond(100.0),
        usd_per_hour: UsdPerHour(1.0),
        rentable: true,
        told_apart: false,
        failures_total: 0,
        starts: Default::default(),
    }
}

fn kept_and_read(memory: &ScalingMemory, demand: DemandView, second: u64) -> Kept {
    let kept = Kept::of(memory, demand, at(second)).expect("kept");
    let text = serde_json::to_string(&kept).expect("JSON");
    serde_json::from_str(&text).expect("read")
}

#[test]
fn a_short_gap_is_neither_silence_nor_a_burst() {
    let (memory, demand, before) = watched(ScalingMemory::default(), 0.0, 0..=900);
    assert!(before > 0.8 * LOAD, "{before}");
    for gap in [1, 30, 300] {
        let kept = kept_and_read(&memory, demand, 900);
        let (resumed, counted) = kept.resume(at(900 + gap)).expect("taken up");
        let total = counted.arrived_total.0;
        for watched_for in [0, 1, 5, 120] {
            let seconds = 900 + gap..=900 + gap + watched_for;
            let (_, _, after) = watched(resumed.clone(), total, seconds);
            let (_, _, without) = watched(memory.clone(), total, 900..=900 + watched_for);
            // The forecast's bins lie on the clock's grid, which a gap moves them against.
            assert!(
                (after - without).abs() < 0.05 * LOAD,
                "{after} tokens/s wanted {watched_for} s after a gap of {gap} s, and {without} without one"
            );
        }
    }
}

#[test]
fn a_load_of_hours_ago_asks_for_nothing_and_what_it_taught_is_kept() {
    let learned = settings();
    let told = ScalingSettings {
        target_util: Some(0.9),
        cold_mult: Some(3.0),
        ..settings()
    };
    let (memory, demand, _) = watched(ScalingMemory::default(), 0.0, 0..=4 * 3_600);
    let end = 4 * 3_600;
    for (settings, gap) in [(&learned, 600), (&learned, 4 * 3_600), (&told, 4 * 3_600)] {
        let kept = kept_and_read(&memory, demand, end);
        let (mut resumed, demand) = kept.resume(at(end + gap)).expect("taken up");
        for second in end + gap..end + gap + 120 {
            let inputs = inputs(demand, second);
            let (plan, after) = plan_scaling(&inputs, &resumed, settings, at(second));
            assert_eq!(
                (plan.wanted.0, plan.prepared_wanted.0),
                (0.0, 0.0),
                "{gap} s"
            );
            assert!(plan.actions.is_empty(), "{:?}", plan.actions);
            resumed = after;
        }
    }

    let kept = kept_and_read(&memory, demand, end);
    let (resumed, counted) = kept.resume(at(end + 3_600)).expect("taken up");
    let seconds = end + 3_600..=end + 3_600 + 90;
    let (_, _, after) = watched(resumed, counted.arrived_total.0, seconds.clone());
    let (_, _, anew) = watched(ScalingMemory::default(), 0.0, seconds);
    // Four hours of a steady load have taught how little it surprises.
    assert!(
        (LOAD..anew).contains(&after),
        "{after}, and {anew} unlearned"
    );
}

#[test]
fn what_is_a_day_old_or_of_another_version_is_not_taken_up() {
    let (memory, demand, _) = watched(ScalingMemory::default(), 0.0, 0..=60);
    let kept = || kept_and_read(&memory, demand, 60);
    assert!(kept().resume(at(60 + 86_399)).is_some());
    assert!(kept().resume(at(60 + 86_400)).is_none());
    assert!(kept().resume(at(59)).is_none(), "a clock that went back");
    let mut other = kept();
    other.shape += 1;
    assert!(other.resume(at(61)).is_none());
    let mut more = kept();
    more.memory["a_field_of_tomorrow"] = 1.into();
    assert!(more.resume(at(61)).is_none());
}

#[test]
fn whole_numbers_that_are_no_moments_stay_as_they_are() {
    let mut value =
        serde_json::json!({"at": START_MS, "count": 3, "tokens": 5e12, "list": [START_MS + 1]});
    move_moments(&mut value, 10);
    let moved = serde_json::json!({"at": START_MS + 10, "count": 3, "tokens": 5e12, "list": [START_MS + 11]});
    assert_eq!(value, moved);
}
