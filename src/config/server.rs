//! `tidegate.yaml`: what concerns the whole server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::connections::{self, TlsConfig};
use super::endpoint::DAY_S;
use super::keys::{self, KeyList};
use super::mistakes::Mistake;
use super::section::{REDACTED, Reader, Section, as_written, shown};
use super::spending;
use super::tree::{Kind, NOTHING, Node};
use super::vast::usable_key;
use crate::domain::{ConnectionLimits, Secret, SpendingSettings};

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// Allows listeners that are neither loopback nor protected.
    pub insecure: bool,
    pub connections: ConnectionLimits,
    pub tls: Option<TlsConfig>,
    /// Needed by admin calls that change something.
    pub admin_token: Option<Secret>,
    pub state_dir: PathBuf,
    /// Threads of the data path; 0: one per core.
    pub threads: usize,
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
    /// From SIGTERM to the end of listening; `/readyz` says no meanwhile.
    pub stop_delay: Duration,
    pub grace_period: Duration,
    pub scaler_interval: Duration,
    /// Take a changed configuration without being asked.
    pub reload_on_change: bool,
    pub local_market: LocalMarketConfig,
    pub spending: SpendingSettings,
    pub vast: VastConfig,
    /// Where the gateway is reached from rented machines, without a slash at its end.
    pub public_url: Option<String>,
    /// Rented machines end themselves when no gateway of theirs has answered there for so long.
    pub orphan_after: Duration,
    /// A filter of the `tracing` crate's EnvFilter.
    pub log: String,
    pub access_log: AccessLogTo,
    /// Lines that may wait to be written.
    pub access_log_queue: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalMarketConfig {
    /// Processes at most, in any state.
    pub slots: u32,
    /// Leave processes running when the gateway ends.
    pub keep_on_exit: bool,
}

/// The account of Vast and how it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct VastConfig {
    pub api_key: Option<Secret>,
    pub url: String,
    /// What the published intervals between calls are multiplied with.
    pub interval_scale: f64,
    /// How old offers may be before they are looked for again.
    pub search_interval: Duration,
}

const MIB: usize = 1 << 20;
const VAST_URL: &str = "https://console.vast.ai";

/// What the file says.
pub(super) struct ServerFile {
    pub(super) config: ServerConfig,
    pub(super) keys: KeyList,
    /// To be told if not every endpoint has keys of its own.
    pub(super) open_to_all: Option<Mistake>,
    pub(super) summary: Value,
}

pub(super) fn read(reader: &Reader, root: &Node) -> ServerFile {
    let s = reader.section(root, "the file");
    let local_address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let address = "an address and port such as 127.0.0.1:8080";
    let keys = keys::read(&s, true);
    let config = ServerConfig {
        listen: s.parsed("listen", local_address(8080), address),
        admin_listen: s.parsed("admin_listen", local_address(9464), address),
        insecure: s.flag("insecure", false),
        connections: connections::limits(&s),
        tls: connections::tls(&s),
        admin_token: admin_token(&s),
        state_dir: state_dir(&s),
        threads: s.count("threads", 0, 0..=1024) as usize,
        max_body_bytes: s.bytes("max_body_bytes", 16 * MIB, 1024..=1024 * MIB),
        body_timeout: s.duration("body_timeout", 60.0, 0.1..=3_600.0),
        stop_delay: s.duration("stop_delay", 0.0, 0.0..=3_600.0),
        grace_period: s.duration("grace_period", 30.0, 0.0..=3_600.0),
        scaler_interval: s.duration("scaler_interval", 1.0, 0.05..=60.0),
        reload_on_change: s.flag("reload_on_change", true),
        local_market: local_market(&s),
        spending: spending::installation(&s),
        vast: vast(&s),
        public_url: url(&s, "public_url"),
        orphan_after: s.duration("orphan_after", 600.0, 1.0..=DAY_S),
        log: log(&s),
        access_log: access_log(&s),
        access_log_queue: s.count("access_log_queue", 8_192, 1..=1_000_000) as usize,
    };
    refuse_shared_port(&s, &config);
    refuse_open_admin(&s, &config);
    ServerFile {
        open_to_all: open_to_all(&s, &config),
        config,
        keys,
        summary: s.finish(),
    }
}

fn admin_token(s: &Section) -> Option<Secret> {
    let node = s.get("admin_token");
    s.show("admin_token", node.map(|_| REDACTED));
    secret(s, node?, "admin_token")
}

fn state_dir(s: &Section) -> PathBuf {
    let default = ".tidegate/state".to_owned();
    let path = s.parsed("state_dir", default, "a directory");
    if let Some(node) = s.get("state_dir").filter(|_| path.trim().is_empty()) {
        s.reader
            .mistake_at(node, "state_dir is empty", "a directory");
    }
    PathBuf::from(path)
}

fn access_log(s: &Section) -> AccessLogTo {
    let expected = "off, - for standard output, or a file";
    let to = s.parsed("access_log", "off".to_owned(), expected);
    match to.as_str() {
        "off" => AccessLogTo::Off,
        "-" => AccessLogTo::Stdout,
        path => {
            if let Some(node) = s.get("access_log").filter(|_| path.trim().is_empty()) {
                s.reader.mistake_at(node, "access_log is empty", expected);
            }
            AccessLogTo::File(PathBuf::from(path))
        }
    }
}

fn log(s: &Section) -> String {
    let filter = s.parsed("log", "info".to_owned(), "a log filter");
    if let Some(node) = s.get("log")
        && !is_log_filter(&filter)
    {
        let expected = "error, warn, info, debug, or a filter such as info,tidegate::scaler=debug";
        s.reader
            .mistake_at(node, format!("log is {}", shown(node)), expected);
    }
    filter
}

/// A word that is no level would be taken for the name of a target, and silence all others.
fn is_log_filter(filter: &str) -> bool {
    let words = filter.split(',').map(str::trim);
    let mut plain = words.filter(|word| !word.contains(['=', '[', ':']));
    let levels = ["trace", "debug", "info", "warn", "error", "off"];
    EnvFilter::try_new(filter).is_ok()
        && plain.all(|word| {
            let word = word.to_ascii_lowercase();
            levels.contains(&word.as_str()) || word.parse::<u8>().is_ok_and(|level| level <= 5)
        })
}

fn local_market(s: &Section) -> LocalMarketConfig {
    let default = LocalMarketConfig {
        slots: 8,
        keep_on_exit: false,
    };
    let node = s.get("local_market").unwrap_or(&NOTHING);
    let market = s.reader.section(node, "local_market");
    let config = LocalMarketConfig {
        slots: market.count("slots", default.slots, 1..=1_000),
        keep_on_exit: market.flag("keep_on_exit", default.keep_on_exit),
    };
    s.show("local_market", market.finish());
    config
}

fn vast(s: &Section) -> VastConfig {
    let node = s.get("vast").unwrap_or(&NOTHING);
    let v = s.reader.section(node, "vast");
    let config = VastConfig {
        api_key: vast_key(&v),
        url: url(&v, "url").unwrap_or_else(|| VAST_URL.to_owned()),
        interval_scale: v.number("interval_scale", 1.0, 0.0..=100.0),
        search_interval: v.duration("search_interval", 30.0, 0.0..=600.0),
    };
    v.show("url", config.url.as_str());
    s.show("vast", v.finish());
    config
}

/// From where it is said to be, else from the environment under the name that Vast's own tools use.
fn vast_key(v: &Section) -> Option<Secret> {
    let (key, file) = (v.get("api_key"), v.get("api_key_file"));
    v.show("api_key", key.map(|_| REDACTED));
    v.show("api_key_file", file.map(as_written));
    match (key, file) {
        (Some(_), Some(file)) => {
            let what = "api_key and api_key_file together";
            v.reader.mistake_at(file, what, "one of the two");
            None
        }
        (Some(key), None) => {
            let value = v.text_of(key, "api_key")?;
            if !key.names_environment() {
                let what = "api_key is written out in the file";
                let expected = "\"${NAME}\" of an environment variable, or api_key_file";
                v.reader.mistake_at(key, what, expected);
                return None;
            }
            usable_key(v, key, value)
        }
        (None, Some(file)) => {
            let path = v.text_of(file, "api_key_file")?;
            match std::fs::read_to_string(&path) {
                Ok(key) => usable_key(v, file, key),
                Err(error) => {
                    let what = format!("api_key_file cannot be read: {error}");
                    v.reader.mistake_at(file, what, "a file with the key alone");
                    None
                }
            }
        }
        (None, None) => {
            let key = (v.reader.env)("VAST_API_KEY").filter(|key| !key.trim().is_empty())?;
            usable_key(v, v.node, key)
        }
    }
}

/// Scheme, host and perhaps a path; without the slash at its end.
fn url(s: &Section, key: &'static str) -> Option<String> {
    let Some(node) = s.get(key) else {
        s.show(key, Value::Null);
        return None;
    };
    s.show(key, as_written(node));
    let text = s.text_of(node, key)?;
    let url = text.trim_end_matches('/');
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c);
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || !rest.chars().all(plain))
    {
        let expected = "a URL such as https://gateway.example.com without user, query and blanks";
        s.reader
            .mistake_at(node, format!("{key} is {}", shown(node)), expected);
        return None;
    }
    Some(url.to_owned())
}

/// A token may be written out: it opens nothing from afar unless the admin port is exposed.
fn secret(s: &Section, node: &Node, key: &str) -> Option<Secret> {
    let value = s.text_of(node, key)?;
    keys::fit_for_header(s, node, key, &value).then(|| Secret::new(value))
}

/// Port 0 is any free one; an unspecified address takes a port from all others.
fn refuse_shared_port(s: &Section, config: &ServerConfig) {
    let overlap = |one: SocketAddr, other: SocketAddr| {
        let same = one.ip() == other.ip();
        let overlap = same || one.ip().is_unspecified() || other.ip().is_unspecified();
        one.port() != 0 && one.port() == other.port() && overlap
    };
    let refuse = |node: Option<&Node>, what: &str| {
        s.reader
            .mistake_at(node.unwrap_or(s.node), what, "a port for each");
    };
    if overlap(config.listen, config.admin_listen) {
        let node = s.get("admin_listen").or(s.get("listen"));
        refuse(node, "listen and admin_listen are the same");
    }
    let Some(tls) = &config.tls else { return };
    if overlap(tls.listen, config.listen) || overlap(tls.listen, config.admin_listen) {
        refuse(s.get("tls"), "tls.listen is the same as another listener");
    }
}

fn refuse_open_admin(s: &Section, config: &ServerConfig) {
    let protected =
        config.insecure || config.admin_listen.ip().is_loopback() || s.get("admin_token").is_some();
    if !protected && let Some(mistake) = open(s, "admin_listen", "admin_token", "admin_token") {
        s.reader.mistakes.borrow_mut().push(mistake);
    }
}

/// A key that is there but wrong has its own mistake and makes none here.
fn open_to_all(s: &Section, config: &ServerConfig) -> Option<Mistake> {
    let no_keys = s
        .get("api_keys")
        .is_none_or(|node| matches!(&node.kind, Kind::List(keys) if keys.is_empty()));
    if config.insecure || !no_keys {
        return None;
    }
    if !config.listen.ip().is_loopback() {
        return open(s, "listen", "API keys", "api_keys");
    }
    let tls = config.tls.as_ref()?.listen;
    let node = s.get("tls").filter(|_| !tls.ip().is_loopback())?;
    Some(open_mistake(
        s,
        node,
        "tls.listen is not loopback",
        "API keys",
        "api_keys",
    ))
}

fn open(s: &Section, listener: &'static str, missing: &str, key: &str) -> Option<Mistake> {
    let node = s.get(listener)?;
    let what = format!("{listener} is {}", shown(node));
    Some(open_mistake(s, node, &what, missing, key))
}

fn open_mistake(s: &Section, node: &Node, what: &str, missing: &str, key: &str) -> Mistake {
    Mistake {
        file: s.reader.file.to_owned(),
        line: node.line,
        column: node.column,
        what: format!("{what}, open to the network without {missing}"),
        expected: format!("{key}, a loopback address, or insecure: true"),
    }
}
