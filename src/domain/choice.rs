//! Choosing a worker for a request.

use serde::{Deserialize, Serialize};

use super::{Tokens, TokensPerSecond, UsdPerHour};

/// What the router knows of one worker at one moment. `slot` is its place in the table the view was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub slot: usize,
    pub ready: bool,
    /// Already tried for this request.
    pub tried: bool,
    pub in_flight: u32,
    pub max_concurrency: Option<u32>,
    /// Streams at once at which `speed` is stated.
    pub full_concurrency: u32,
    pub speed: TokensPerSecond,
    /// Share of its speed that may be used, in 0 to 1: less while it starts or is on probation, 0 while ejected.
    pub weight: f64,
    /// Predicted work that was sent and is not done.
    pub outstanding: Tokens,
    /// The part of it that is prompts not read yet.
    pub prefilling: Tokens,
    pub gap: GapLaw,
    /// `None` where the worker's KV cache is not known.
    pub kv: Option<KvRoom>,
    pub usd_per_hour: UsdPerHour,
    /// Share of this request's prompt that the worker is believed to hold, in 0 to 1.
    pub prefix_held: f64,
}

/// Time between two tokens of a stream: `base_s + per_stream_s * streams`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GapLaw {
    pub base_s: f64,
    pub per_stream_s: f64,
}

impl GapLaw {
    pub fn at(self, streams: f64) -> f64 {
        self.base_s + self.per_stream_s * streams
    }
}

/// Tokens in a worker's KV cache, those included that its requests are expected to add.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvRoom {
    pub used: f64,
    pub capacity: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub slot: usize,
    /// Seconds until the worker has done what it holds and this request, penalties included.
    pub score_s: f64,
    /// The load the choice was made on; a claim on a load that grew since is refused.
    pub in_flight: u32,
    pub outstanding: Tokens,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoWorker {
    /// No worker is ready.
    NoneReady,
    /// Every ready worker has as much as it may hold.
    AllBusy,
    /// Every ready worker was tried for this request.
    AllTried,
}

/// What a held request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// No worker is ready: one has to start.
    NoneReady,
    /// There are ready workers, and all are busy.
    AllBusy,
}

impl WaitReason {
    pub const ALL: [WaitReason; 2] = [WaitReason::NoneReady, WaitReason::AllBusy];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::NoneReady => "none_ready",
            WaitReason::AllBusy => "all_busy",
        }
    }
}
