//! `worker_groups`: what runs on the workers, how fast it is believed to be, and how it is launched.

use std::collections::BTreeMap;

use serde_json::Value;

use super::endpoint::is_plain_name;
use super::keys;
use super::market::{self, MarketSection};
use super::section::{REDACTED, Section, as_written, shown};
use super::tree::{Kind, Node};
use super::vast;
use crate::domain::{
    EngineKind, FixedWorker, GroupName, LocalLaunch, MarketKind, Source, SpeedPrior,
    TokensPerSecond, UsdPerHour, WorkerGroup,
};

pub(super) const ENGINES: &str = "one of llamacpp, vllm, tgi, fake";
const NAME: &str = "letters, digits, - and _";
const DAY_S: f64 = 86_400.0;

/// Keys of a group that only one market understands.
const LOCAL_KEYS: [&str; 4] = ["command", "env", "boot_time", "restart_time"];
const FIXED_KEYS: [&str; 1] = ["workers"];

/// The market of an endpoint and its groups.
pub(super) fn read(s: &Section) -> (MarketKind, Vec<WorkerGroup>) {
    let market = market::read(s);
    let nodes = if market.kind == MarketKind::Fixed && market.workers.is_some() {
        s.list("worker_groups")
    } else if market.kind == MarketKind::Fixed {
        required_given(s)
    } else {
        s.required_list("worker_groups", "a list of at least one worker group")
    };
    let mut groups: Vec<WorkerGroup> = Vec::new();
    let mut summaries = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let (group, summary) = group(s, node, n, &market, &groups);
        summaries.push(summary);
        if let Some(group) = group {
            refuse_second(s, node, &group, &groups);
            groups.push(group);
        }
    }
    s.show("worker_groups", summaries);
    if let Some(workers) = &market.workers {
        if let Some(second) = nodes.get(1) {
            let expected = "workers in each group, and none in market";
            s.reader
                .mistake_at(second, "a second worker group", expected);
        }
        if nodes.is_empty() {
            groups.extend(given_group(s, &market, workers));
        }
    }
    (market.kind, groups)
}

/// Groups that have to name their workers themselves.
fn required_given<'n>(s: &Section<'n, '_>) -> &'n [Node] {
    let nodes = s.list("worker_groups");
    if nodes.is_empty() {
        let expected =
            "market: {kind: fixed, engine: ENGINE, workers: [{url: \"http://HOST:PORT\"}]}";
        let node = s.get("market").unwrap_or(s.node);
        s.reader
            .mistake_at(node, "a fixed market without workers", expected);
    }
    nodes
}

fn refuse_second(s: &Section, node: &Node, group: &WorkerGroup, others: &[WorkerGroup]) {
    if others.iter().any(|other| other.name == group.name) {
        let name = match &node.kind {
            Kind::Map(entries) => entries.iter().find(|(key, _)| key.name == "name"),
            _ => None,
        };
        let name = name.map_or(group.name.to_string(), |(_, name)| as_text(name));
        let what = format!("a second worker group named {name}");
        s.reader
            .mistake_at(node, what, "a name of its own for each group");
    }
}

fn as_text(node: &Node) -> String {
    match &node.kind {
        Kind::Text(text) => text.clone(),
        _ => shown(node),
    }
}

pub(super) fn engine(text: &str) -> Option<EngineKind> {
    Some(match text {
        "llamacpp" => EngineKind::LlamaCpp,
        "vllm" => EngineKind::Vllm,
        "tgi" => EngineKind::Tgi,
        "fake" => EngineKind::Fake,
        _ => return None,
    })
}

/// A fixed market without `worker_groups` says its engine itself.
fn given_group(
    s: &Section,
    market: &MarketSection,
    workers: &[FixedWorker],
) -> Option<WorkerGroup> {
    let Some(engine) = market.engine else {
        if !market.engine_is_wrong {
            let node = s.get("market").unwrap_or(s.node);
            let expected = format!("market: {{engine: {ENGINES}, ...}}");
            s.reader.mistake_at(node, "engine is missing", expected);
        }
        return None;
    };
    Some(WorkerGroup {
        name: GroupName::new("given"),
        engine,
        source: Source::Fixed {
            workers: workers.to_vec(),
        },
        speed_prior: default_prior(engine),
        max_concurrency: None,
        kv_tokens: None,
        image_gb: 0.0,
        model_gb: 0.0,
        usd_per_hour: UsdPerHour::ZERO,
        interruptible: false,
        api_key: None,
    })
}

fn default_prior(engine: EngineKind) -> SpeedPrior {
    let (speed, concurrency) = match engine {
        EngineKind::LlamaCpp => (100.0, 4),
        EngineKind::Vllm | EngineKind::Tgi | EngineKind::Fake => (500.0, 8),
    };
    SpeedPrior {
        tokens_per_second: TokensPerSecond(speed),
        concurrency,
    }
}

/// `None` without an engine.
fn group(
    s: &Section,
    node: &Node,
    n: usize,
    market: &MarketSection,
    others: &[WorkerGroup],
) -> (Option<WorkerGroup>, Value) {
    let g = s.reader.section(node, "a worker group");
    let name = group_name(&g, n);
    let engine = group_engine(&g, market);
    let prior = default_prior(engine.unwrap_or(EngineKind::Fake));
    let speed_prior = SpeedPrior {
        tokens_per_second: TokensPerSecond(g.number(
            "tokens_per_second",
            prior.tokens_per_second.0,
            0.1..=1e7,
        )),
        concurrency: g.count("concurrency", prior.concurrency, 1..=100_000),
    };
    let max_concurrency = g.optional_count("max_concurrency", 1..=100_000);
    let kv_tokens = g.optional_count("kv_tokens", 1..=u32::MAX);
    let usd_per_hour = UsdPerHour(g.number("usd_per_hour", 0.0, 0.0..=10_000.0));
    let (image_gb, model_gb) = downloads(&g, market);
    let api_key = keys::worker_key(&g);
    let source = source(&g, engine, market, others);
    let group = engine.map(|engine| WorkerGroup {
        name,
        engine,
        source,
        speed_prior,
        max_concurrency,
        kv_tokens,
        image_gb,
        model_gb,
        usd_per_hour,
        interruptible: false,
        api_key,
    });
    (group, g.finish())
}

/// What a rented machine fetches before it serves.
fn downloads(g: &Section, market: &MarketSection) -> (f64, f64) {
    if market.kind != MarketKind::Vast {
        return (0.0, 0.0);
    }
    let size = |key, default| g.number(key, default, 0.0..=10_000.0);
    (size("image_gb", 10.0), size("model_gb", 15.0))
}

fn group_name(g: &Section, n: usize) -> GroupName {
    let default = format!("group-{}", n + 1);
    let name = g.parsed("name", default, NAME);
    if let Some(node) = g.get("name").filter(|_| !is_plain_name(&name)) {
        g.reader
            .mistake_at(node, format!("name is {}", shown(node)), NAME);
    }
    GroupName::new(name)
}

fn group_engine(g: &Section, market: &MarketSection) -> Option<EngineKind> {
    let node = match g.get("engine") {
        Some(node) => node,
        None if market.engine.is_some() => return market.engine,
        None => {
            g.required("engine", ENGINES);
            return None;
        }
    };
    let found = market::word(g, node, "engine", ENGINES, engine);
    g.show("engine", as_written(node));
    if let (Some(found), Some(given)) = (found, market.engine)
        && found != given
    {
        let what = format!("engine is {}, the market's is another", shown(node));
        g.reader.mistake_at(node, what, "engine in one of the two");
    }
    found
}

fn source(
    g: &Section,
    engine: Option<EngineKind>,
    market: &MarketSection,
    others: &[WorkerGroup],
) -> Source {
    let foreign = |keys: &[&'static str], of: &str| {
        for &key in keys {
            let what = format!("is for workers of market {of}");
            let expected = format!("no {key}, or market: {of}");
            g.refuse(key, &what, &expected);
        }
    };
    if market.kind != MarketKind::Fixed {
        foreign(&FIXED_KEYS, "fixed");
    }
    match market.kind {
        MarketKind::Fixed => {
            foreign(&LOCAL_KEYS, "local");
            foreign(&vast::KEYS, "vast");
            Source::Fixed {
                workers: given(g, market, others),
            }
        }
        MarketKind::Local => {
            foreign(&vast::KEYS, "vast");
            Source::Local(local(g))
        }
        MarketKind::Vast => {
            foreign(&LOCAL_KEYS, "local");
            Source::Vast(Box::new(vast::read(g, engine)))
        }
    }
}

/// The workers of a fixed group: its own, or the market's, which has then one group.
fn given(g: &Section, market: &MarketSection, others: &[WorkerGroup]) -> Vec<FixedWorker> {
    if let Some(workers) = &market.workers {
        g.refuse(
            "workers",
            "are given in market",
            "workers in one of the two",
        );
        return workers.clone();
    }
    let named: Vec<FixedWorker> = others
        .iter()
        .flat_map(WorkerGroup::given)
        .cloned()
        .collect();
    let workers = market::given_workers(g, &named);
    let urls: Vec<Value> = g.list("workers").iter().map(as_written).collect();
    g.show("workers", urls);
    workers
}

fn local(g: &Section) -> LocalLaunch {
    let launch = LocalLaunch {
        command: command(g).unwrap_or_default(),
        env: environment(g),
        boot_time: g.duration("boot_time", 0.0, 0.0..=DAY_S),
        restart_time: g.duration("restart_time", 0.0, 0.0..=DAY_S),
    };
    let mut words = launch.command.iter().chain(launch.env.values());
    let has_port = words.any(|text| text.contains("{port}"));
    if let Some(node) = g.get("command")
        && !launch.command.is_empty()
        && !has_port
    {
        let expected = "{port} in command or in a value of env";
        g.reader
            .mistake_at(node, "the command is not told its port", expected);
    }
    launch
}

pub(super) fn environment(g: &Section) -> BTreeMap<String, String> {
    let Some(node) = g.get("env") else {
        return BTreeMap::new();
    };
    let Kind::Map(entries) = &node.kind else {
        g.wrong_type(node, "env", "a map of names and text");
        return BTreeMap::new();
    };
    // Values may be secrets even where they are written out.
    let summary = entries
        .iter()
        .map(|(key, _)| (key.name.clone(), REDACTED.into()));
    g.show("env", Value::Object(summary.collect()));
    g.reader.section(node, "env");
    let mut env = BTreeMap::new();
    for (key, value) in entries {
        if key.name.is_empty() || key.name.contains(['=', '\0']) {
            let what = format!("{:?} cannot name a variable", key.name);
            let expected = "a name without =";
            g.reader.mistake(key.line, key.column, what, expected);
        } else if let Some(text) = g.word_of(value, &key.name) {
            env.insert(key.name.clone(), text);
        }
    }
    env
}

/// A list of words, or one text split as a shell would.
fn command(g: &Section) -> Option<Vec<String>> {
    let expected = "a program and its arguments, with {port}";
    let node = g.required("command", expected)?;
    let words: Vec<String> = match &node.kind {
        Kind::List(items) => {
            let words = items.iter().map(|item| g.word_of(item, "command"));
            words.collect::<Option<_>>()?
        }
        // Split before the environment is filled in: a value with blanks stays one word.
        Kind::Text(text) => match shlex::split(text) {
            Some(words) => {
                let words = words.iter().map(|word| g.reader.fill_in(node, word));
                words.collect::<Option<_>>()?
            }
            None => {
                g.reader
                    .mistake_at(node, "command has an open quote", expected);
                return None;
            }
        },
        _ => {
            g.wrong_type(node, "command", expected);
            return None;
        }
    };
    g.note("command", words.clone());
    if words
        .first()
        .is_none_or(|program| program.trim().is_empty())
    {
        g.reader.mistake_at(node, "command is empty", expected);
        return None;
    }
    Some(words)
}
