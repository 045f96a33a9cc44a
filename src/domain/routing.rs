//! What the configuration says of choosing workers, and what is known of a prompt's beginning.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::seconds;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutingSettings {
    /// A worker whose outstanding work exceeds this many seconds gets no more.
    #[serde(with = "seconds")]
    pub max_queue_time: Duration,
    /// While several clients compete, a worker with more seconds of prompts that have no first token gets no more; zero: no
    /// bound.
    #[serde(with = "seconds", default)]
    pub max_prompts_ahead: Duration,
    /// Share of all places that, while several clients compete, is left to those that have less than an equal part.
    #[serde(default)]
    pub spare_places: f64,
    /// Prompt tokens that cost as much as one output token.
    pub kappa: f64,
    pub prefer: Preference,
    pub latency_aim: LatencyAim,
    /// A new worker's share of requests grows to the whole within this time.
    #[serde(with = "seconds")]
    pub slow_start: Duration,
    pub affinity: AffinitySettings,
    pub ejection: EjectionSettings,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self {
            max_queue_time: Duration::from_secs(30),
            max_prompts_ahead: Duration::from_millis(100),
            spare_places: 0.02,
            kappa: 5.0,
            prefer: Preference::Latency,
            latency_aim: LatencyAim::default(),
            slow_start: Duration::from_secs(30),
            affinity: AffinitySettings::default(),
            ejection: EjectionSettings::default(),
        }
    }
}

/// Whether one client's requests stand in another's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contention {
    /// All that waits or is served belongs to one client.
    Alone,
    Several,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The worker that is done first.
    #[default]
    Latency,
    /// The cheapest a token among those that meet the latency aim, so that dear ones drain.
    Cost,
}

/// What a worker has to promise to be chosen for its price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyAim {
    /// Longest predicted wait for the first token.
    #[serde(with = "seconds")]
    pub wait: Duration,
    /// Longest predicted time between two tokens.
    #[serde(with = "seconds")]
    pub gap: Duration,
}

impl Default for LatencyAim {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(1),
            gap: Duration::from_millis(100),
        }
    }
}

/// How far a prompt that a worker is believed to hold may draw a request to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AffinitySettings {
    /// A worker whose score exceeds the least by more is not preferred for what it holds; zero: never.
    #[serde(with = "seconds")]
    pub bound: Duration,
    /// Prefixes remembered for an endpoint; 0: none.
    pub remembered: usize,
    /// A prefix not seen for this long is forgotten.
    #[serde(with = "seconds")]
    pub max_age: Duration,
}

impl Default for AffinitySettings {
    fn default() -> Self {
        Self {
            bound: Duration::from_secs(1),
            remembered: 65_536,
            max_age: Duration::from_secs(600),
        }
    }
}

/// When a worker that answers its probes gets no requests all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EjectionSettings {
    /// Errors in a row; 0 turns ejection off.
    pub consecutive_errors: u32,
    /// Errors among the last ten requests.
    pub errors_of_ten: u32,
    /// A worker at this share of its class's or its own former pace for `slow_for` is ejected; a slower one sooner.
    pub slow_ratio: f64,
    #[serde(with = "seconds")]
    pub slow_for: Duration,
    /// The first ejection's length; each further one is twice as long.
    #[serde(with = "seconds")]
    pub base_time: Duration,
    #[serde(with = "seconds")]
    pub max_time: Duration,
    /// Most of the ready capacity that may be ejected at once.
    pub share_max: f64,
    /// Requests that have to succeed on probation.
    pub probation_requests: u32,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            errors_of_ten: 3,
            slow_ratio: 0.7,
            slow_for: Duration::from_secs(180),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(600),
            share_max: 1.0 / 3.0,
            probation_requests: 5,
        }
    }
}

/// Hashes of a prompt's beginnings, each longer than the one before, the last being the whole of it.
/// Empty where the prompt is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(Option<Arc<[PrefixBlock]>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixBlock {
    /// Hash of the first `bytes` bytes.
    pub hash: u64,
    pub bytes: u32,
}

impl Prefix {
    pub fn new(blocks: Vec<PrefixBlock>) -> Self {
        Self((!blocks.is_empty()).then(|| blocks.into()))
    }

    pub fn blocks(&self) -> &[PrefixBlock] {
        self.0.as_deref().unwrap_or_default()
    }
}
