//! Choosing a worker for a request.

use serde::{Deserialize, Serialize};

use super::{Tokens, TokensPerSecond};

/// What the router knows of one worker at one moment. `slot` is its place in the table the view was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub slot: usize,
    pub ready: bool,
    pub speed: TokensPerSecond,
    /// Predicted work that was sent and is not done.
    pub outstanding: Tokens,
    pub in_flight: u32,
    pub max_concurrency: Option<u32>,
    /// Already tried for this request.
    pub tried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub slot: usize,
    /// Seconds until the worker has done what it holds and this request.
    pub score_s: f64,
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
