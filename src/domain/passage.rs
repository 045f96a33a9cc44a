//! Routes of workers that are no generations: what may pass through to them, and what work it makes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tokens;

/// What an endpoint lets through besides generations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PassageSettings {
    /// From the endpoint's file; looked at before the built-in ones.
    pub routes: Vec<PassRoute>,
    /// Let through what the endpoint's engines are known to have.
    pub builtin: bool,
    /// Let through everything else too.
    pub all: bool,
    /// A websocket on which the worker says nothing for this long is closed.
    #[serde(with = "super::time::seconds")]
    pub websocket_idle: Duration,
}

/// One route that passes through.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassRoute {
    pub path: PathPattern,
    /// In capitals; empty: any.
    pub methods: Vec<String>,
    pub cost: PassCost,
    /// May be upgraded to a websocket.
    pub websocket: bool,
    /// Doing it twice does no harm, so a worker that broke off is replaced by another whatever the method.
    pub repeatable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum PathPattern {
    Exact(String),
    /// Everything that begins so; written with a `*` at its end.
    Prefix(String),
}

impl PathPattern {
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact,
            PathPattern::Prefix(prefix) => path.starts_with(prefix),
        }
    }
}

impl From<String> for PathPattern {
    fn from(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(text),
        }
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        match pattern {
            PathPattern::Exact(path) => path,
            PathPattern::Prefix(prefix) => prefix + "*",
        }
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathPattern::Exact(path) => f.write_str(path),
            PathPattern::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// The work of a passed request: `tokens + per_kib x KiB`, in output-equivalent tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassCost {
    pub tokens: Tokens,
    pub per_kib: f64,
    /// Counts this field of a JSON body instead of the whole body.
    pub field: Option<String>,
}
