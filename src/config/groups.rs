//! Where an endpoint's workers come from: `market` and `worker_groups`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};

use super::section::{Section, shown};
use super::tree::{Kind, Node};
use crate::domain::{
    EngineKind, FixedWorker, GroupName, LocalLaunch, MarketKind, Source, SpeedPrior,
    TokensPerSecond, UsdPerHour, VastLaunch, WorkerGroup,
};

const ENGINES: &str = "one of llamacpp, vllm, tgi, fake";
const MARKETS: &str = "one of local, fixed, vast";
const DAY_S: f64 = 86_400.0;

/// `market` as written: a word, or a map with the given workers.
struct MarketSection {
    kind: MarketKind,
    workers: Vec<FixedWorker>,
    engine: Option<EngineKind>,
}

pub(super) fn read(s: &Section) -> (MarketKind, Vec<WorkerGroup>) {
    let market = market(s);
    let nodes = s.list("worker_groups");
    if nodes.is_empty() && market.kind != MarketKind::Fixed {
        s.required("worker_groups", "a list of at least one worker group");
        if let Some(node) = s.get("worker_groups") {
            s.reader
                .mistake_at(node, "worker_groups is empty", "at least one worker group");
        }
    }
    let mut groups: Vec<WorkerGroup> = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let Some(group) = group(s, node, n, &market) else {
            continue;
        };
        if groups.iter().any(|other| other.name == group.name) {
            let what = format!("a second worker group named {}", group.name);
            s.reader
                .mistake_at(node, what, "a name of its own for each group");
        }
        groups.push(group);
    }
    if market.kind == MarketKind::Fixed {
        if let Some(second) = nodes.get(1) {
            s.reader.mistake_at(
                second,
                "a second worker group",
                "one at most with a fixed market",
            );
        }
        groups.truncate(1);
        if nodes.is_empty() {
            groups.extend(given_group(s, &market));
        }
    }
    (market.kind, groups)
}

fn market(s: &Section) -> MarketSection {
    let mut out = MarketSection {
        kind: MarketKind::Local,
        workers: Vec::new(),
        engine: None,
    };
    let Some(node) = s.get("market") else {
        return out;
    };
    if let Kind::Map(_) = node.kind {
        let m = s.reader.section(node, "market");
        if let Some(kind) = m.required("kind", MARKETS) {
            out.kind = word(&m, kind, "kind", MARKETS, market_kind).unwrap_or(out.kind);
        }
        if out.kind == MarketKind::Fixed {
            out.engine = m
                .get("engine")
                .and_then(|node| word(&m, node, "engine", ENGINES, engine));
            if m.required("workers", "a list of {url: \"http://HOST:PORT\"}")
                .is_some()
            {
                out.workers = m
                    .list("workers")
                    .iter()
                    .filter_map(|node| given_worker(&m, node))
                    .collect();
            }
        }
        m.finish();
    } else {
        out.kind = word(s, node, "market", MARKETS, market_kind).unwrap_or(out.kind);
        if out.kind == MarketKind::Fixed {
            let expected = "market: {kind: fixed, workers: [{url: \"http://HOST:PORT\"}]}";
            s.reader
                .mistake_at(node, "a fixed market without workers", expected);
        }
    }
    out
}

fn word<T>(
    s: &Section,
    node: &Node,
    key: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = s.text_of(node, key)?;
    let found = read(&text);
    if found.is_none() {
        s.reader
            .mistake_at(node, format!("{key} is {}", shown(node)), expected);
    }
    found
}

fn market_kind(text: &str) -> Option<MarketKind> {
    Some(match text {
        "local" => MarketKind::Local,
        "fixed" => MarketKind::Fixed,
        "vast" => MarketKind::Vast,
        _ => return None,
    })
}

fn engine(text: &str) -> Option<EngineKind> {
    Some(match text {
        "llamacpp" => EngineKind::LlamaCpp,
        "vllm" => EngineKind::Vllm,
        "tgi" => EngineKind::Tgi,
        "fake" => EngineKind::Fake,
        _ => return None,
    })
}

fn given_worker(s: &Section, node: &Node) -> Option<FixedWorker> {
    let w = s.reader.section(node, "a given worker");
    let url = w.required("url", "\"http://HOST:PORT\"");
    let worker = url.and_then(|node| {
        let url = w.text_of(node, "url")?;
        match address(&url) {
            Ok(address) => Some(FixedWorker { url, address }),
            Err(why) => {
                let what = format!("url {}: {why}", shown(node));
                w.reader
                    .mistake_at(node, what, "\"http://HOST:PORT\" without a path");
                None
            }
        }
    });
    w.finish();
    worker
}

fn address(url: &str) -> Result<SocketAddr, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err("https to workers is not supported yet".into()),
        _ => return Err("does not begin with http://".into()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err("has more than a host and a port".into());
    }
    let bracketed_or_name = authority
        .rsplit_once(']')
        .map_or(authority, |(_, port)| port);
    let with_port = if bracketed_or_name.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    with_port
        .to_socket_addrs()
        .map_err(|_| "the host is not known".to_owned())?
        .next()
        .ok_or_else(|| "the host has no address".to_owned())
}

/// A fixed market without `worker_groups` says its engine itself.
fn given_group(s: &Section, market: &MarketSection) -> Option<WorkerGroup> {
    let Some(engine) = market.engine else {
        let node = s.get("market").unwrap_or(s.node);
        s.reader.mistake_at(
            node,
            "engine is missing",
            format!("market: {{engine: {ENGINES}, ...}}"),
        );
        return None;
    };
    Some(WorkerGroup {
        name: GroupName::new("given"),
        engine,
        source: Source::Fixed {
            workers: market.workers.clone(),
        },
        speed_prior: default_prior(engine),
        max_concurrency: None,
        usd_per_hour: UsdPerHour::ZERO,
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

fn group(s: &Section, node: &Node, n: usize, market: &MarketSection) -> Option<WorkerGroup> {
    let g = s.reader.section(node, "a worker group");
    let name = g.text("name").unwrap_or_else(|| format!("group-{}", n + 1));
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if let Some(node) = g
        .get("name")
        .filter(|_| name.is_empty() || name.len() > 64 || !name.chars().all(allowed))
    {
        g.reader.mistake_at(
            node,
            format!("name is {}", shown(node)),
            "letters, digits, - and _",
        );
    }
    let kind = match (g.get("engine"), market.engine) {
        (Some(node), _) => word(&g, node, "engine", ENGINES, engine),
        (None, Some(engine)) => Some(engine),
        (None, None) => {
            g.required("engine", ENGINES);
            None
        }
    };
    let prior = default_prior(kind.unwrap_or(EngineKind::Fake));
    let source = source(&g, market);
    let group = WorkerGroup {
        name: GroupName::new(name),
        engine: kind.unwrap_or(EngineKind::Fake),
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(g.number(
                "tokens_per_second",
                prior.tokens_per_second.0,
                0.1..=1e7,
            )),
            concurrency: g.count("concurrency", prior.concurrency, 1..=100_000),
        },
        max_concurrency: g.optional_count("max_concurrency", 1..=100_000),
        usd_per_hour: UsdPerHour(g.number("usd_per_hour", 0.0, 0.0..=10_000.0)),
        source: source?,
    };
    g.finish();
    kind.map(|_| group)
}

/// Keys of the other markets stay unknown, and `finish` says so.
fn source(g: &Section, market: &MarketSection) -> Option<Source> {
    match market.kind {
        MarketKind::Fixed => Some(Source::Fixed {
            workers: market.workers.clone(),
        }),
        MarketKind::Local => local(g).map(Source::Local),
        MarketKind::Vast => Some(Source::Vast(VastLaunch {
            search_params: g.raw_text("search_params").unwrap_or_default(),
            launch_args: g.raw_text("launch_args").unwrap_or_default(),
        })),
    }
}

fn local(g: &Section) -> Option<LocalLaunch> {
    let env = environment(g);
    let launch = LocalLaunch {
        command: command(g).unwrap_or_default(),
        env,
        boot_time: g.duration("boot_time", 0.0, 0.0..=DAY_S),
        restart_time: g.duration("restart_time", 0.0, 0.0..=DAY_S),
    };
    let has_port = launch
        .command
        .iter()
        .chain(launch.env.values())
        .any(|text| text.contains("{port}"));
    if let Some(node) = g
        .get("command")
        .filter(|_| !launch.command.is_empty() && !has_port)
    {
        g.reader.mistake_at(
            node,
            "the command is not told its port",
            "{port} in command or in a value of env",
        );
    }
    Some(launch)
}

fn environment(g: &Section) -> BTreeMap<String, String> {
    let Some(node) = g.get("env") else {
        return BTreeMap::new();
    };
    let Kind::Map(entries) = &node.kind else {
        g.wrong_type(node, "env", "a map of names and text");
        return BTreeMap::new();
    };
    entries
        .iter()
        .filter_map(|(key, value)| {
            let text = match &value.kind {
                Kind::Number(number) => Some(number.to_string()),
                Kind::Bool(flag) => Some(flag.to_string()),
                _ => g.text_of(value, &key.name),
            };
            Some((key.name.clone(), text?))
        })
        .collect()
}

/// A list of words, or one text split as a shell would.
fn command(g: &Section) -> Option<Vec<String>> {
    let expected = "a program and its arguments, with {port}";
    let node = g.required("command", expected)?;
    let words = match &node.kind {
        Kind::List(items) => items
            .iter()
            .map(|item| g.text_of(item, "command"))
            .collect::<Option<Vec<_>>>()?,
        Kind::Text(_) => {
            let text = g.text_of(node, "command")?;
            let Some(words) = shlex::split(&text) else {
                g.reader
                    .mistake_at(node, "command has an open quote", expected);
                return None;
            };
            words
        }
        _ => {
            g.wrong_type(node, "command", expected);
            return None;
        }
    };
    if words.is_empty() {
        g.reader.mistake_at(node, "command is empty", expected);
        return None;
    }
    Some(words)
}
