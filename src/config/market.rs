//! `market`: where an endpoint's workers come from, and the given ones.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::groups::{ENGINES, engine};
use super::keys;
use super::section::{Section, as_written, shown};
use super::tree::{Kind, Node};
use crate::domain::{EngineKind, FixedWorker, MarketKind};

const MARKETS: &str = "one of local, fixed, vast";
const WORKERS: &str = "a list of {url: \"http://HOST:PORT\"}";
const URL: &str = "\"http://HOST:PORT\" without a path";

/// `market` as written: a word, or a map with the given workers.
pub(super) struct MarketSection {
    pub(super) kind: MarketKind,
    /// Those that the market itself names; otherwise its groups do.
    pub(super) workers: Option<Vec<FixedWorker>>,
    pub(super) engine: Option<EngineKind>,
    /// There is one, and its mistake is noted.
    pub(super) engine_is_wrong: bool,
}

pub(super) fn read(s: &Section) -> MarketSection {
    let mut market = MarketSection {
        kind: MarketKind::Local,
        workers: None,
        engine: None,
        engine_is_wrong: false,
    };
    let Some(node) = s.get("market") else {
        s.show("market", "local");
        return market;
    };
    s.show("market", as_written(node));
    if let Kind::Map(_) = node.kind {
        map(s, node, &mut market);
        return market;
    }
    market.kind = word(s, node, "market", MARKETS, kind).unwrap_or(market.kind);
    market
}

fn map(s: &Section, node: &Node, market: &mut MarketSection) {
    let m = s.reader.section(node, "market");
    if let Some(node) = m.required("kind", MARKETS) {
        market.kind = word(&m, node, "kind", MARKETS, kind).unwrap_or(market.kind);
    }
    if market.kind == MarketKind::Fixed {
        if let Some(node) = m.get("engine") {
            market.engine = word(&m, node, "engine", ENGINES, engine);
            market.engine_is_wrong = market.engine.is_none();
        }
        market.workers = m.get("workers").is_some().then(|| given_workers(&m, &[]));
    } else {
        let expected = "market: {kind: fixed, ...}, or engine in worker_groups";
        m.refuse("engine", "is for market fixed", expected);
        m.refuse(
            "workers",
            "is for market fixed",
            "market: {kind: fixed, ...}",
        );
    }
    m.finish();
}

/// `workers` of a market or of a group; `others` are named elsewhere in the same file.
pub(super) fn given_workers(s: &Section, others: &[FixedWorker]) -> Vec<FixedWorker> {
    let mut given: Vec<FixedWorker> = Vec::new();
    for node in s.required_list("workers", WORKERS) {
        let Some(worker) = given_worker(s, node) else {
            continue;
        };
        let mut taken = others.iter().chain(&given);
        if taken.any(|other| other.address == worker.address) {
            let what = "a worker that is in the list already";
            s.reader.mistake_at(node, what, "each worker once");
        }
        given.push(worker);
    }
    given
}

/// Text that is one of a few words.
pub(super) fn word<T>(
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

fn kind(text: &str) -> Option<MarketKind> {
    Some(match text {
        "local" => MarketKind::Local,
        "fixed" => MarketKind::Fixed,
        "vast" => MarketKind::Vast,
        _ => return None,
    })
}

fn given_worker(s: &Section, node: &Node) -> Option<FixedWorker> {
    let w = s.reader.section(node, "a given worker");
    let api_key = keys::worker_key(&w);
    let worker = w.required("url", URL).and_then(|node| {
        let url = w.text_of(node, "url")?;
        match address(&url) {
            Ok(address) => Some(FixedWorker {
                url,
                address,
                api_key,
            }),
            Err(why) => {
                let what = format!("url {}: {why}", shown(node));
                w.reader.mistake_at(node, what, URL);
                None
            }
        }
    });
    w.finish();
    worker
}

/// Looks the host's name up; that is the only thing here that leaves the process.
fn address(url: &str) -> Result<SocketAddr, &'static str> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err("https to workers is not supported yet");
        }
        _ => return Err("does not begin with http://"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err("has more than a host and a port");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0);
    let port: u16 = port.ok_or("the port is not from 1 to 65535")?;
    if let Some(bracketed) = host.strip_prefix('[') {
        let ip = bracketed.strip_suffix(']').and_then(|ip| ip.parse().ok());
        return ip
            .map(|ip: IpAddr| SocketAddr::from((ip, port)))
            .ok_or("the host is no IPv6 address");
    }
    if host.is_empty() {
        return Err("has no host");
    }
    (host, port)
        .to_socket_addrs()
        .ok()
        // Engines commonly listen on IPv4 only, and `localhost` often names ::1 first.
        .and_then(|addresses| addresses.min_by_key(SocketAddr::is_ipv6))
        .ok_or("the host is not known")
}
