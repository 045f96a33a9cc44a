//! `tidegate.yaml`: what concerns the whole server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::section::{Reader, Section, shown};
use super::tree::Node;

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
    pub grace_period: Duration,
    pub scaler_interval: Duration,
    pub local_market: LocalMarketConfig,
    /// A filter of the `tracing` crate's EnvFilter.
    pub log: String,
}

#[derive(Clone, Debug)]
pub struct ApiKey {
    pub name: String,
    pub key: Secret,
}

#[derive(Clone, Debug)]
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
        f.write_str("[redacted]")
    }
}

const SECRET_CHARACTERS_MIN: usize = 16;
const MIB: usize = 1 << 20;

pub(super) fn read(reader: &Reader, root: &Node) -> ServerConfig {
    let s = reader.section(root, "the file");
    let local_address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let address = "an address and port such as 127.0.0.1:8080";
    let config = ServerConfig {
        listen: s.parsed("listen", local_address(8080), address),
        admin_listen: s.parsed("admin_listen", local_address(9464), address),
        insecure: s.flag("insecure", false),
        api_keys: api_keys(&s),
        admin_token: s
            .get("admin_token")
            .and_then(|node| secret(&s, node, "admin_token")),
        state_dir: s
            .text("state_dir")
            .map_or_else(|| PathBuf::from(".tidegate/state"), PathBuf::from),
        threads: s.count("threads", 0, 0..=1024) as usize,
        max_body_bytes: s.bytes("max_body_bytes", 16 * MIB, 1024..=1024 * MIB),
        body_timeout: s.duration("body_timeout", 60.0, 0.1..=3_600.0),
        grace_period: s.duration("grace_period", 30.0, 0.0..=3_600.0),
        scaler_interval: s.duration("scaler_interval", 1.0, 0.05..=60.0),
        local_market: local_market(&s),
        log: s.text("log").unwrap_or_else(|| "info".to_owned()),
    };
    refuse_open_listeners(&s, &config);
    s.finish();
    config
}

fn local_market(s: &Section) -> LocalMarketConfig {
    let default = LocalMarketConfig {
        slots: 8,
        keep_on_exit: false,
    };
    let Some(node) = s.get("local_market") else {
        return default;
    };
    let market = s.reader.section(node, "local_market");
    let config = LocalMarketConfig {
        slots: market.count("slots", default.slots, 1..=1_000),
        keep_on_exit: market.flag("keep_on_exit", default.keep_on_exit),
    };
    market.finish();
    config
}

fn api_keys(s: &Section) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for node in s.list("api_keys") {
        let entry = s.reader.section(node, "an API key");
        let name = entry
            .required("name", "a name for the key, used in metrics and logs")
            .and_then(|node| entry.text_of(node, "name"));
        let key = entry
            .required("key", "the key, usually ${NAME} of an environment variable")
            .and_then(|node| secret(&entry, node, "key"));
        if let (Some(name), Some(key)) = (name, key) {
            if keys.iter().any(|other| other.name == name) {
                s.reader.mistake_at(
                    node,
                    format!("a second API key named {name}"),
                    "a name of its own for each key",
                );
            }
            keys.push(ApiKey { name, key });
        }
        entry.finish();
    }
    keys
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
    Some(Secret(value))
}

fn refuse_open_listeners(s: &Section, config: &ServerConfig) {
    if config.listen == config.admin_listen {
        let node = s.get("admin_listen").or(s.get("listen")).unwrap_or(s.node);
        s.reader.mistake_at(
            node,
            "listen and admin_listen are the same",
            "a port for each",
        );
    }
    if config.insecure {
        return;
    }
    if let Some(node) = s.get("listen")
        && !config.listen.ip().is_loopback()
        && config.api_keys.is_empty()
    {
        let what = format!(
            "listen is {}, open to the network without API keys",
            shown(node)
        );
        s.reader.mistake_at(
            node,
            what,
            "api_keys, a loopback address, or insecure: true",
        );
    }
    if let Some(node) = s.get("admin_listen")
        && !config.admin_listen.ip().is_loopback()
        && config.admin_token.is_none()
    {
        let what = format!(
            "admin_listen is {}, open to the network without admin_token",
            shown(node)
        );
        s.reader.mistake_at(
            node,
            what,
            "admin_token, a loopback address, or insecure: true",
        );
    }
}
