//! Who calls: keys, what each may call, and how much of it.

use std::collections::BTreeSet;
use std::fmt;

use super::{ClientKey, EndpointName};

/// A value that no message, log or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// All keys, and where one is needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub keys: Vec<ApiKey>,
    pub needs_key: NeedsKey,
}

/// A key as it is kept: the key itself is known to its owner alone.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// For fairness, limits, metrics and logs.
    pub name: ClientKey,
    pub sha256: [u8; 32],
    pub scope: KeyScope,
    pub limits: KeyLimits,
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyScope {
    Every,
    Only(BTreeSet<EndpointName>),
}

impl KeyScope {
    pub fn holds(&self, endpoint: &EndpointName) -> bool {
        match self {
            KeyScope::Every => true,
            KeyScope::Only(names) => names.contains(endpoint),
        }
    }
}

/// Endpoints that nobody calls without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NeedsKey {
    Every,
    Only(BTreeSet<EndpointName>),
}

impl Default for NeedsKey {
    fn default() -> Self {
        NeedsKey::Only(BTreeSet::new())
    }
}

impl NeedsKey {
    pub fn holds(&self, endpoint: &EndpointName) -> bool {
        match self {
            NeedsKey::Every => true,
            NeedsKey::Only(names) => names.contains(endpoint),
        }
    }
}

/// Bounds of one key over all it calls; `None` is unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyLimits {
    pub requests_per_second: Option<f64>,
    /// Requests that may come at once after a pause.
    pub burst: u32,
    /// Prompt and output tokens.
    pub tokens_per_minute: Option<f64>,
    /// Requests at once, those that wait included.
    pub max_concurrency: Option<u32>,
}
