//! What the configuration says of one endpoint, validated.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    BenchmarkSettings, EndpointName, EndpointSpending, GroupName, OfferSettings, PassageSettings,
    ResumeSettings, RoutingSettings, Secret, TokensPerSecond, UsdPerHour, VastLaunch,
};

/// One model service: a name, its limits and the groups of workers behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    pub name: EndpointName,
    /// Names a request's `model` may use besides the endpoint's own.
    pub model_names: Vec<String>,
    pub market: MarketKind,
    pub scaling: ScalingSettings,
    pub routing: RoutingSettings,
    pub waiting: WaitingSettings,
    pub retry: RetrySettings,
    pub resume: ResumeSettings,
    pub hedge: HedgeSettings,
    pub limits: RequestLimits,
    pub passage: PassageSettings,
    pub times: TimeLimits,
    pub spending: EndpointSpending,
    pub offers: OfferSettings,
    /// What a new worker has to show before it serves; `None`: nothing.
    pub benchmark: Option<BenchmarkSettings>,
    /// Never empty. A fixed market has one group.
    pub groups: Vec<WorkerGroup>,
}

impl Endpoint {
    pub fn group(&self, name: &GroupName) -> Option<&WorkerGroup> {
        self.groups.iter().find(|group| group.name == *name)
    }

    pub fn answers_to(&self, model: &str) -> bool {
        self.name.as_str() == model || self.model_names.iter().any(|name| name == model)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarketKind {
    /// Processes on this machine.
    Local,
    /// Given URLs; nothing is rented.
    Fixed,
    /// Instances of Vast.ai.
    Vast,
}

impl MarketKind {
    pub fn as_str(self) -> &'static str {
        match self {
            MarketKind::Local => "local",
            MarketKind::Fixed => "fixed",
            MarketKind::Vast => "vast",
        }
    }
}

/// When to have how much capacity; the names are Vast's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalingSettings {
    /// Load for which capacity is kept even without demand.
    pub min_load: TokensPerSecond,
    /// Share of the running capacity that the load may use, in (0, 1]. `None`: as learned from the load's surprises.
    pub target_util: Option<f64>,
    /// Prepared (running, starting and stopped) capacity as a multiple of the capacity wanted; at least 1. `None`: as
    /// learned from how the load grows within a cold start.
    pub cold_mult: Option<f64>,
    /// Load for which prepared capacity is kept even without demand.
    pub min_cold_load: TokensPerSecond,
    /// Workers kept in existence, running or stopped, whatever the load.
    pub cold_workers: u32,
    /// Most workers in any state.
    pub max_workers: u32,
    /// Idle time before the last worker may go. `None`: never.
    #[serde(with = "super::time::optional_seconds")]
    pub inactivity_timeout: Option<Duration>,
    /// How long surplus capacity is kept before it is released.
    #[serde(with = "super::time::seconds")]
    pub scale_down_delay: Duration,
    /// A backlog is planned to be worked off within this time.
    #[serde(with = "super::time::seconds")]
    pub drain_backlog_within: Duration,
    pub slo: LatenessAim,
}

/// What the endpoint promises: at most `late_share` of the work waits longer than `wait` at the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatenessAim {
    #[serde(with = "super::time::seconds")]
    pub wait: Duration,
    /// In (0, 1).
    pub late_share: f64,
}

/// Bounds of the waiting room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingSettings {
    pub requests_max: usize,
    pub bytes_max: usize,
    /// Most of the room that one client may take when it is alone in it, in (0, 1].
    pub share_max: f64,
    /// While no worker is ready.
    #[serde(with = "super::time::seconds")]
    pub wait_max: Duration,
    /// While there are ready workers and all are busy.
    #[serde(with = "super::time::seconds")]
    pub wait_max_busy: Duration,
    /// Held streaming clients are told their place, unless a request asks otherwise.
    pub events: bool,
    #[serde(with = "super::time::seconds")]
    pub events_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrySettings {
    /// Attempts in all, the first included.
    pub attempts_max: u32,
    /// Further attempts as a share of all requests, beyond a small reserve.
    pub budget_share: f64,
}

/// Asking a second worker when the first token is late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HedgeSettings {
    /// Share of the requests that may be sent twice; 0: none.
    pub share: f64,
    /// No first token counts as late before.
    #[serde(with = "super::time::seconds")]
    pub after_min: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestLimits {
    /// Largest `max_new_tokens` or `max_tokens` a request may ask for.
    pub max_new_tokens: u32,
}

/// Bounds on waiting for workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeLimits {
    #[serde(with = "super::time::seconds")]
    pub connect: Duration,
    /// From the request sent to the response header (for unstreamed requests: the whole answer).
    #[serde(with = "super::time::seconds")]
    pub first_byte: Duration,
    /// Between two reads of one response.
    #[serde(with = "super::time::seconds")]
    pub between_bytes: Duration,
    /// From rental to the first healthy answer.
    #[serde(with = "super::time::seconds")]
    pub boot: Duration,
    /// A machine that waits for its GPUs so long is given up.
    #[serde(with = "super::time::seconds")]
    pub scheduling: Duration,
    /// The same for one whose host is not heard of.
    #[serde(with = "super::time::seconds")]
    pub offline: Duration,
    /// From the first healthy answer to the benchmark's end.
    #[serde(with = "super::time::seconds")]
    pub benchmark: Duration,
    /// From the first failed probe until a worker is given up.
    #[serde(with = "super::time::seconds")]
    pub unresponsive: Duration,
    /// Without a token for this long, and for 20 of its usual gaps, a stream counts as broken.
    #[serde(with = "super::time::seconds")]
    pub silence: Duration,
    /// From drain order until the streams that are left are moved to other workers.
    #[serde(with = "super::time::seconds")]
    pub drain: Duration,
    /// From drain order to release, streams that cannot be moved or not.
    #[serde(with = "super::time::seconds")]
    pub drain_limit: Duration,
    #[serde(with = "super::time::seconds")]
    pub probe_interval: Duration,
    #[serde(with = "super::time::seconds")]
    pub probe: Duration,
}

/// Machines of one kind: what to rent and what runs on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerGroup {
    pub name: GroupName,
    pub engine: EngineKind,
    pub source: Source,
    pub speed_prior: SpeedPrior,
    /// Requests a worker takes at once; `None` leaves it to the engine's own queue.
    pub max_concurrency: Option<u32>,
    /// Tokens its KV cache holds, where that is known.
    pub kv_tokens: Option<u32>,
    /// What a new machine downloads before it serves.
    pub image_gb: f64,
    pub model_gb: f64,
    /// Pretend or known price, for markets that do not state one.
    pub usd_per_hour: UsdPerHour,
    /// Interruptible machines will do too.
    pub interruptible: bool,
    /// What the engine wants to see as `Authorization: Bearer`.
    #[serde(skip)]
    pub api_key: Option<Secret>,
}

impl WorkerGroup {
    /// Workers that stand somewhere already.
    pub fn given(&self) -> &[FixedWorker] {
        match &self.source {
            Source::Fixed { workers } => workers,
            Source::Local(_) | Source::Vast(_) => &[],
        }
    }

    /// The most that is bid for a machine, dollars an hour; then only such as others may bid away will do.
    pub fn bid_price(&self) -> Option<f64> {
        match &self.source {
            Source::Vast(launch) => launch.launch.bid_price,
            Source::Local(_) | Source::Fixed { .. } => None,
        }
    }

    pub fn gives(&self, address: SocketAddr) -> bool {
        self.given().iter().any(|worker| worker.address == address)
    }

    /// The key for the worker at `address`: its own, else the group's.
    pub fn key_for(&self, address: SocketAddr) -> Option<&Secret> {
        let mut given = self.given().iter();
        let own = given
            .find(|worker| worker.address == address)
            .and_then(|worker| worker.api_key.as_ref());
        own.or(self.api_key.as_ref())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    LlamaCpp,
    Vllm,
    Tgi,
    Fake,
}

/// What a worker of this kind is believed to do before it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedPrior {
    /// Output-equivalent tokens a second with `concurrency` requests at once.
    pub tokens_per_second: TokensPerSecond,
    pub concurrency: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    Local(LocalLaunch),
    Fixed { workers: Vec<FixedWorker> },
    Vast(Box<VastLaunch>),
}

/// A process on this machine that serves an engine on a port of 127.0.0.1.
#[derive(Clone, PartialEq, Serialize)]
pub struct LocalLaunch {
    /// Program and arguments; `{port}` is replaced.
    pub command: Vec<String>,
    /// Values may hold secrets.
    #[serde(skip)]
    pub env: BTreeMap<String, String>,
    /// Pretended time between rental and start of the process.
    #[serde(with = "super::time::seconds")]
    pub boot_time: Duration,
    /// The same for a stopped worker.
    #[serde(with = "super::time::seconds")]
    pub restart_time: Duration,
}

impl std::fmt::Debug for LocalLaunch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLaunch")
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("boot_time", &self.boot_time)
            .field("restart_time", &self.restart_time)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FixedWorker {
    /// As written, for display.
    pub url: String,
    pub address: SocketAddr,
    #[serde(skip)]
    pub api_key: Option<Secret>,
}
