//! `tidegate.yaml`: what concerns the whole server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::section::{REDACTED, Reader, Section, as_written, shown};
use super::tree::{Kind, NOTHING, Node};

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// Allows listeners that are neither loopback nor protected.
    pub insecure: bool,
    pub api_keys: Vec<ApiKey>,
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
    /// A filter of the `tracing` crate's EnvFilter.
    pub log: String,
}

#[derive(Clone, Debug)]
pub struct ApiKey {
    pub name: String,
    pub key: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalMarketConfig {
    /// Processes at most, in any state.
    pub slots: u32,
    /// Leave processes running when the gateway ends.
    pub keep_on_exit: bool,
}

/// A value that no message, log or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

const SECRET_CHARACTERS_MIN: usize = 16;
const MIB: usize = 1 << 20;

/// The settings and their summary.
pub(super) fn read(reader: &Reader, root: &Node) -> (ServerConfig, Value) {
    let s = reader.section(root, "the file");
    let local_address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let address = "an address and port such as 127.0.0.1:8080";
    let config = ServerConfig {
        listen: s.parsed("listen", local_address(8080), address),
        admin_listen: s.parsed("admin_listen", local_address(9464), address),
        insecure: s.flag("insecure", false),
        api_keys: api_keys(&s),
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
        log: log(&s),
    };
    refuse_shared_port(&s, &config);
    refuse_open_listeners(&s, &config);
    (config, s.finish())
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

fn log(s: &Section) -> String {
    let filter = s.parsed("log", "info".to_owned(), "a log filter");
    if let Some(node) = s.get("log")
        && EnvFilter::try_new(&filter).is_err()
    {
        let expected = "error, warn, info, debug, or a filter such as info,tidegate::scaler=debug";
        s.reader
            .mistake_at(node, format!("log is {}", shown(node)), expected);
    }
    filter
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

fn api_keys(s: &Section) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    let mut summary = Vec::new();
    for node in s.list("api_keys") {
        let entry = s.reader.section(node, "an API key");
        let name = key_name(&entry);
        let key = entry
            .required("key", "the key, usually ${NAME} of an environment variable")
            .and_then(|node| secret(&entry, node, "key"));
        entry.show("key", REDACTED);
        if let (Some(name), Some(key)) = (name, key) {
            if keys.iter().any(|other| other.name == name) {
                let what = format!(
                    "a second API key named {}",
                    entry.get("name").map(shown).unwrap_or_default()
                );
                let expected = "a name of its own for each key";
                s.reader.mistake_at(node, what, expected);
            } else if keys.iter().any(|other| other.key == key) {
                let what = "an API key that is in the list already";
                s.reader
                    .mistake_at(node, what, "a key of its own for each name");
            }
            keys.push(ApiKey { name, key });
        }
        summary.push(entry.finish());
    }
    s.show("api_keys", summary);
    keys
}

fn key_name(entry: &Section) -> Option<String> {
    let expected = "a name for the key, used for fairness and in logs";
    let node = entry.required("name", expected)?;
    entry.show("name", as_written(node));
    let name = entry.text_of(node, "name")?;
    if name.trim().is_empty() {
        entry.reader.mistake_at(node, "name is empty", expected);
        return None;
    }
    Some(name)
}

fn secret(s: &Section, node: &Node, key: &str) -> Option<Secret> {
    let value = s.text_of(node, key)?;
    if value.chars().count() < SECRET_CHARACTERS_MIN {
        let what = format!("{key} is too short to be secret");
        s.reader.mistake_at(
            node,
            what,
            format!("at least {SECRET_CHARACTERS_MIN} characters"),
        );
        return None;
    }
    // Anything else never arrives in a header; a line break at the end of a variable is the usual case.
    if !value.chars().all(|c| c.is_ascii_graphic()) {
        let what = format!("{key} has characters that no header carries");
        let expected = "ASCII letters, digits and signs, without blanks and line breaks";
        s.reader.mistake_at(node, what, expected);
        return None;
    }
    Some(Secret(value))
}

/// Port 0 is any free one; an unspecified address takes a port from all others.
fn refuse_shared_port(s: &Section, config: &ServerConfig) {
    let (one, other) = (config.listen, config.admin_listen);
    let overlap =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    if one.port() != 0 && one.port() == other.port() && overlap {
        let node = s.get("admin_listen").or(s.get("listen")).unwrap_or(s.node);
        let what = "listen and admin_listen are the same";
        s.reader.mistake_at(node, what, "a port for each");
    }
}

/// A key that is there but wrong has its own mistake and makes none here.
fn refuse_open_listeners(s: &Section, config: &ServerConfig) {
    if config.insecure {
        return;
    }
    let no_keys = s
        .get("api_keys")
        .is_none_or(|node| matches!(&node.kind, Kind::List(keys) if keys.is_empty()));
    if !config.listen.ip().is_loopback() && no_keys {
        open(s, "listen", "API keys", "api_keys");
    }
    if !config.admin_listen.ip().is_loopback() && s.get("admin_token").is_none() {
        open(s, "admin_listen", "admin_token", "admin_token");
    }
}

fn open(s: &Section, listener: &'static str, missing: &str, key: &str) {
    if let Some(node) = s.get(listener) {
        let address = shown(node);
        let what = format!("{listener} is {address}, open to the network without {missing}");
        let expected = format!("{key}, a loopback address, or insecure: true");
        s.reader.mistake_at(node, what, expected);
    }
}
