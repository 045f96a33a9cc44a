//! Which offers may be rented, and what a new worker has to show: `interruptible`, `offers`, `benchmark`.

use std::time::Duration;

use serde_json::Value;

use super::endpoint::DAY_S;
use super::section::{Section, shown};
use super::tree::{Kind, NOTHING, Node};
use crate::domain::{BenchmarkSettings, Interruptible, MarketKind, OfferSettings, WorkerGroup};

const BENCHMARK: &str = "off, or a map of settings";

pub(super) fn read(s: &Section) -> OfferSettings {
    const WORDS: [(&str, Interruptible); 3] = [
        ("never", Interruptible::Never),
        ("burst", Interruptible::Burst),
        ("all", Interruptible::All),
    ];
    let interruptible = s.one_of("interruptible", &WORDS, Interruptible::Never);
    let node = s.get("offers").unwrap_or(&NOTHING);
    let o = s.reader.section(node, "offers");
    let settings = OfferSettings {
        interruptible,
        race: o.count("race", 1, 0..=1),
        race_below: o.number("race_below", 0.85, 0.0..=1.0),
        horizon: o.duration("horizon", 7_200.0, 1.0..=30.0 * DAY_S),
    };
    s.show("offers", o.finish());
    settings
}

/// Where nothing is said of `interruptible`, a bid says it.
pub(super) fn refuse_bid(s: &Section, interruptible: Interruptible, group: &WorkerGroup) {
    if let Some(node) = s.get("interruptible")
        && interruptible == Interruptible::Never
        && group.bid_price().is_some()
    {
        let what = format!("interruptible is never, and group {} bids", group.name);
        let expected = "burst or all, or no bid_price in the group";
        s.reader.mistake_at(node, what, expected);
    }
}

/// Machines of strangers are measured; what the operator runs himself is believed.
pub(super) fn benchmark(
    s: &Section,
    market: MarketKind,
    deadline: Duration,
) -> Option<BenchmarkSettings> {
    let settings = wanted(s, market)?;
    if settings.length >= deadline {
        let node = s.get("benchmark").or(s.get("timeouts")).unwrap_or(s.node);
        let what = "a benchmark's seconds reach timeouts.benchmark: every worker would fail";
        s.reader
            .mistake_at(node, what, "seconds below timeouts.benchmark");
    }
    Some(settings)
}

fn wanted(s: &Section, market: MarketKind) -> Option<BenchmarkSettings> {
    match s.get("benchmark") {
        None => {
            let settings = (market == MarketKind::Vast).then(|| map(s, &NOTHING));
            if settings.is_none() {
                s.show("benchmark", "off");
            }
            settings
        }
        Some(node) => match &node.kind {
            Kind::Map(_) => Some(map(s, node)),
            Kind::Text(text) if text == "off" => {
                s.show("benchmark", "off");
                None
            }
            Kind::Text(text) if text == "on" => Some(map(s, &NOTHING)),
            _ => {
                let what = format!("benchmark is {}", shown(node));
                s.reader.mistake_at(node, what, BENCHMARK);
                None
            }
        },
    }
}

fn map(s: &Section, node: &Node) -> BenchmarkSettings {
    let b = s.reader.section(node, "benchmark");
    let settings = BenchmarkSettings {
        prompts: prompts(&b),
        prompt_tokens: b.count("prompt_tokens", 200, 1..=100_000),
        output_tokens: b.count("output_tokens", 128, 4..=10_000),
        concurrency: b.optional_count("concurrency", 1..=1_000),
        length: b.duration("seconds", 30.0, 0.1..=600.0),
        share_min: b.number("min_share", 0.4, 0.0..=1.0),
    };
    s.show("benchmark", b.finish());
    settings
}

fn prompts(b: &Section) -> Vec<String> {
    let mut prompts = Vec::new();
    for node in b.list("prompts") {
        match b.text_of(node, "prompts") {
            Some(text) if text.trim().is_empty() => {
                b.reader
                    .mistake_at(node, "a prompt is empty", "text, or no entry");
            }
            Some(text) => prompts.push(text),
            None => {}
        }
    }
    b.show(
        "prompts",
        prompts.iter().cloned().map(Value::from).collect::<Vec<_>>(),
    );
    prompts
}
