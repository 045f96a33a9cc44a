//! `endpoints/<name>.yaml`: one model service.

use std::time::Duration;

use serde_json::Value;

use super::keys::{self, KeyList};
use super::section::{Reader, Section, as_written, shown};
use super::tree::{NOTHING, Node};
use super::{groups, offers, routes, routing, spending};
use crate::domain::{
    Endpoint, EndpointName, HedgeSettings, Interruptible, LatenessAim, RequestLimits, ResumeMode,
    ResumeSettings, RetrySettings, ScalingSettings, TimeLimits, TokensPerSecond, WaitingSettings,
};

/// First path segments that are routes of the gateway.
const RESERVED: [&str; 15] = [
    "generate",
    "generate_stream",
    "v1",
    "health",
    "healthz",
    "readyz",
    "metrics",
    "info",
    "route",
    "fleet",
    "decisions",
    "admin",
    "api",
    "reload",
    "tidegate",
];
pub(super) const DAY_S: f64 = 86_400.0;
const MIB: usize = 1 << 20;

/// What one file says. Its mistakes are noted with the reader.
pub(super) struct EndpointFile {
    /// `None` where too much is missing to go on.
    pub(super) endpoint: Option<Endpoint>,
    /// Everything a request's `model` may say to mean this endpoint.
    pub(super) names: Vec<Name>,
    pub(super) keys: KeyList,
    /// Every setting, defaults included; nothing from the environment.
    pub(super) summary: Value,
}

pub(super) struct Name {
    pub(super) text: String,
    /// For messages.
    pub(super) shown: String,
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Name {
    fn new(text: String, node: &Node) -> Self {
        Self {
            text,
            shown: shown(node),
            line: node.line,
            column: node.column,
        }
    }
}

pub(super) fn read(reader: &Reader, root: &Node) -> EndpointFile {
    let s = reader.section(root, "the file");
    let name = endpoint_name(&s);
    let models = model_names(&s);
    let model_names = models.iter().map(|name| name.text.clone()).collect();
    let scaling = scaling(&s);
    let routing = routing::read(&s);
    let waiting = WaitingSettings {
        requests_max: s.count("max_waiting_requests", 1_000, 0..=1_000_000) as usize,
        bytes_max: s.bytes("max_waiting_bytes", 256 * MIB, 0..=65_536 * MIB),
        share_max: s.number("max_waiting_share", 0.8, 0.01..=1.0),
        wait_max: s.duration("max_wait_time", 300.0, 0.0..=DAY_S),
        wait_max_busy: s.duration("max_wait_time_busy", 120.0, 0.0..=DAY_S),
        events: s.flag("wait_events", false),
        events_interval: s.duration("wait_events_interval", 10.0, 0.1..=3_600.0),
    };
    let retry = RetrySettings {
        attempts_max: s.count("retry_attempts", 3, 1..=10),
        budget_share: s.number("retry_budget", 0.2, 0.0..=10.0),
    };
    let resume = ResumeSettings {
        mode: resume_mode(&s),
        times_max: s.count("resume_times", 3, 0..=100),
    };
    let hedge = HedgeSettings {
        share: s.number("hedge_share", 0.02, 0.0..=1.0),
        after_min: s.duration("hedge_after_min", 0.5, 0.0..=DAY_S),
    };
    let limits = RequestLimits {
        max_new_tokens: s.count("max_new_tokens", 131_072, 1..=10_000_000),
    };
    let passage = routes::read(&s);
    let times = times(&s);
    let spending = spending::endpoint(&s);
    let offers = offers::read(&s);
    let (market, mut groups) = groups::read(&s);
    for group in &mut groups {
        offers::refuse_bid(&s, offers.interruptible, group);
        group.interruptible =
            offers.interruptible != Interruptible::Never || group.bid_price().is_some();
    }
    let benchmark = offers::benchmark(&s, market, times.benchmark);
    let keys = keys::read(&s, false);
    let endpoint = name.as_ref().map(|name| Endpoint {
        name: EndpointName::new(&name.text),
        model_names,
        market,
        scaling,
        routing,
        waiting,
        retry,
        resume,
        hedge,
        limits,
        passage,
        times,
        spending,
        offers,
        benchmark,
        groups,
    });
    EndpointFile {
        endpoint,
        names: name.into_iter().chain(models).collect(),
        keys,
        summary: s.finish(),
    }
}

fn endpoint_name(s: &Section) -> Option<Name> {
    let expected = "a name of letters, digits, - and _ that clients use";
    let node = s.required("endpoint_name", expected)?;
    s.show("endpoint_name", as_written(node));
    let name = s.text_of(node, "endpoint_name")?;
    if !is_plain_name(&name) {
        s.reader
            .mistake_at(node, format!("endpoint_name is {}", shown(node)), expected);
        return None;
    }
    if RESERVED.contains(&name.as_str()) {
        let what = format!("endpoint_name {} is a route of the gateway", shown(node));
        s.reader
            .mistake_at(node, what, format!("none of {}", RESERVED.join(", ")));
        return None;
    }
    Some(Name::new(name, node))
}

/// Fit for paths, labels and metrics.
pub(super) fn is_plain_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

fn model_names(s: &Section) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for node in s.list("model_names") {
        let Some(text) = s.text_of(node, "model_names") else {
            continue;
        };
        if text.trim().is_empty() {
            s.reader
                .mistake_at(node, "a model name is empty", "a name, or no entry");
        } else if names.iter().any(|other| other.text == text) {
            let what = format!("the model name {} is listed twice", shown(node));
            s.reader.mistake_at(node, what, "each name once");
        } else {
            names.push(Name::new(text, node));
        }
    }
    let texts: Vec<_> = names.iter().map(|name| name.text.clone()).collect();
    s.note("model_names", texts);
    names
}

fn scaling(s: &Section) -> ScalingSettings {
    let max_workers = s.count("max_workers", 16, 1..=10_000);
    let cold_workers = s.count("cold_workers", 0, 0..=10_000);
    if let Some(node) = s.get("cold_workers")
        && cold_workers > max_workers
    {
        let limit = s.get("max_workers").map_or(max_workers.to_string(), shown);
        let what = format!(
            "cold_workers is {}, more than max_workers ({limit})",
            shown(node)
        );
        s.reader.mistake_at(node, what, "at most max_workers");
    }
    let inactivity = s.signed_seconds("inactivity_timeout", 300.0, -1.0..=365.0 * DAY_S);
    ScalingSettings {
        min_load: TokensPerSecond(s.number("min_load", 0.0, 0.0..=1e9)),
        target_util: s.number_or_auto("target_util", Some(0.9), 0.01..=1.0),
        cold_mult: s.number_or_auto("cold_mult", Some(1.0), 1.0..=100.0),
        min_cold_load: TokensPerSecond(s.number("min_cold_load", 0.0, 0.0..=1e9)),
        cold_workers,
        max_workers,
        inactivity_timeout: (inactivity >= 0.0).then(|| Duration::from_secs_f64(inactivity)),
        scale_down_delay: s.duration("scale_down_delay", 120.0, 0.0..=DAY_S),
        drain_backlog_within: s.duration("drain_backlog_within", 60.0, 0.1..=DAY_S),
        slo: slo(s),
    }
}

fn slo(s: &Section) -> LatenessAim {
    let wait = s.duration("target_queue_time", 10.0, 0.1..=DAY_S);
    let node = s.get("slo").unwrap_or(&NOTHING);
    let slo = s.reader.section(node, "slo");
    let aim = LatenessAim {
        wait: slo.duration("wait", wait.as_secs_f64(), 0.1..=DAY_S),
        late_share: slo.number("late_share", 0.005, 1e-5..=0.5),
    };
    s.show("slo", slo.finish());
    aim
}

fn resume_mode(s: &Section) -> ResumeMode {
    const MODES: [(&str, ResumeMode); 3] = [
        ("always", ResumeMode::Always),
        ("deterministic", ResumeMode::Deterministic),
        ("never", ResumeMode::Never),
    ];
    s.one_of("resume", &MODES, ResumeMode::Always)
}

fn times(s: &Section) -> TimeLimits {
    let probe_interval = s.duration("probe_interval", 2.0, 0.05..=3_600.0);
    let node = s.get("timeouts").unwrap_or(&NOTHING);
    let t = s.reader.section(node, "timeouts");
    let limits = TimeLimits {
        connect: t.duration("connect", 5.0, 0.01..=600.0),
        first_byte: t.duration("first_byte", 600.0, 0.01..=DAY_S),
        between_bytes: t.duration("between_bytes", 120.0, 0.01..=DAY_S),
        boot: t.duration("boot", 600.0, 0.01..=DAY_S),
        scheduling: t.duration("scheduling", 60.0, 0.01..=DAY_S),
        offline: t.duration("offline", 120.0, 0.01..=DAY_S),
        benchmark: t.duration("benchmark", 90.0, 0.01..=DAY_S),
        unresponsive: t.duration("unresponsive", 20.0, 0.0..=DAY_S),
        silence: t.duration("silence", 5.0, 0.01..=DAY_S),
        drain: t.duration("drain", 120.0, 0.0..=DAY_S),
        drain_limit: t.duration("drain_limit", 1_200.0, 0.0..=DAY_S),
        probe_interval,
        probe: t.duration("probe", 5.0, 0.01..=600.0),
    };
    s.show("timeouts", t.finish());
    limits
}
