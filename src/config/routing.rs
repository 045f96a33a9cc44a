//! How workers are chosen for requests, and when one is passed over.

use super::endpoint::DAY_S;
use super::market::word;
use super::section::{Section, as_written};
use super::tree::NOTHING;
use crate::domain::{AffinitySettings, EjectionSettings, LatencyAim, Preference, RoutingSettings};

pub(super) fn read(s: &Section) -> RoutingSettings {
    let default = RoutingSettings::default();
    RoutingSettings {
        max_queue_time: s.duration(
            "max_queue_time",
            default.max_queue_time.as_secs_f64(),
            0.0..=DAY_S,
        ),
        max_prompts_ahead: s.duration(
            "max_prompts_ahead",
            default.max_prompts_ahead.as_secs_f64(),
            0.0..=DAY_S,
        ),
        spare_places: s.number("spare_places", default.spare_places, 0.0..=0.5),
        kappa: s.number("kappa", default.kappa, 0.1..=1_000.0),
        prefer: prefer(s),
        latency_aim: latency_aim(s),
        slow_start: s.duration("slow_start", default.slow_start.as_secs_f64(), 0.0..=DAY_S),
        affinity: affinity(s),
        ejection: ejection(s),
    }
}

fn prefer(s: &Section) -> Preference {
    let Some(node) = s.get("prefer") else {
        s.show("prefer", "latency");
        return Preference::Latency;
    };
    s.show("prefer", as_written(node));
    let read = |text: &str| match text {
        "latency" => Some(Preference::Latency),
        "cost" => Some(Preference::Cost),
        _ => None,
    };
    word(s, node, "prefer", "one of latency, cost", read).unwrap_or_default()
}

fn latency_aim(s: &Section) -> LatencyAim {
    let default = LatencyAim::default();
    let a = section(s, "latency_aim");
    let aim = LatencyAim {
        wait: a.duration("wait", default.wait.as_secs_f64(), 0.0..=DAY_S),
        gap: a.duration("gap", default.gap.as_secs_f64(), 0.0..=60.0),
    };
    s.show("latency_aim", a.finish());
    aim
}

fn affinity(s: &Section) -> AffinitySettings {
    let default = AffinitySettings::default();
    let a = section(s, "prefix_affinity");
    let affinity = AffinitySettings {
        bound: a.duration("bound", default.bound.as_secs_f64(), 0.0..=DAY_S),
        remembered: a.count("remembered", default.remembered as u32, 0..=10_000_000) as usize,
        max_age: a.duration("max_age", default.max_age.as_secs_f64(), 1.0..=DAY_S),
    };
    s.show("prefix_affinity", a.finish());
    affinity
}

fn ejection(s: &Section) -> EjectionSettings {
    let default = EjectionSettings::default();
    let e = section(s, "ejection");
    let ejection = EjectionSettings {
        consecutive_errors: e.count("consecutive_errors", default.consecutive_errors, 0..=1_000),
        errors_of_ten: e.count("errors_of_ten", default.errors_of_ten, 1..=10),
        slow_ratio: e.number("slow_ratio", default.slow_ratio, 0.05..=0.95),
        slow_for: e.duration("slow_for", default.slow_for.as_secs_f64(), 1.0..=DAY_S),
        base_time: e.duration("base_time", default.base_time.as_secs_f64(), 0.1..=DAY_S),
        max_time: e.duration("max_time", default.max_time.as_secs_f64(), 0.1..=DAY_S),
        share_max: e.number("share_max", 0.33, 0.0..=1.0),
        probation_requests: e.count("probation_requests", default.probation_requests, 1..=1_000),
    };
    s.show("ejection", e.finish());
    ejection
}

fn section<'n, 'r>(s: &Section<'n, 'r>, key: &'static str) -> Section<'n, 'r>
where
    'r: 'n,
{
    s.reader.section(s.get(key).unwrap_or(&NOTHING), key)
}
