//! What the scaler decided, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GroupName, LoadForecast, TokensPerSecond, UsdPerHour, WorkerId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    Stop,
    Destroy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum ScalingAction {
    /// Rent a new worker of this group.
    Rent { group: GroupName },
    /// Start a stopped worker.
    Restart { worker: WorkerId },
    /// Take a ready worker out of service, then release it.
    Drain { worker: WorkerId, then: Release },
    /// Put a draining worker back into service.
    CancelDrain { worker: WorkerId },
    /// End a worker that serves nobody (stopped, starting or failed).
    Destroy { worker: WorkerId },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Reason {
    /// Running and starting capacity is below what is wanted.
    CapacityBelowWanted {
        have: TokensPerSecond,
        wanted: TokensPerSecond,
    },
    /// Requests wait and no worker runs or starts.
    RequestsWaitAtZero { waiting: usize },
    /// Fewer workers exist than `cold_workers` or `cold_mult` ask to be prepared.
    PreparedBelowWanted {
        have: TokensPerSecond,
        wanted: TokensPerSecond,
    },
    /// Without this worker capacity still covers the most that was wanted within `scale_down_delay`.
    SurplusCapacity {
        left: TokensPerSecond,
        wanted: TokensPerSecond,
    },
    /// No request for `inactivity_timeout`.
    Idle { idle_s: f64 },
    /// More stopped workers than the prepared capacity asks for.
    SurplusPrepared {
        left: TokensPerSecond,
        wanted: TokensPerSecond,
    },
    /// A machine on offer does for less what this worker does, by so much.
    Replaces { worker: WorkerId, saves: UsdPerHour },
    /// More workers than `max_workers`.
    AboveMaxWorkers { max_workers: u32 },
    /// The endpoint left the configuration.
    EndpointRemoved,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedAction {
    #[serde(flatten)]
    pub action: ScalingAction,
    pub reason: Reason,
}

/// The actions of one tick, in order, with the figures they follow from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingPlan {
    pub actions: Vec<PlannedAction>,
    /// Load expected now.
    pub predicted_load: TokensPerSecond,
    /// Running capacity wanted.
    pub wanted: TokensPerSecond,
    /// Running, starting and stopped capacity wanted.
    pub prepared_wanted: TokensPerSecond,
    /// What was learned of the load; made also where a setting is followed instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<LoadForecast>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::CapacityBelowWanted { have, wanted } => {
                write!(
                    f,
                    "{:.0} of {:.0} tokens/s wanted are running or starting",
                    have.0, wanted.0
                )
            }
            Reason::RequestsWaitAtZero { waiting } => {
                let (what, s) = if *waiting == 1 {
                    ("request", "s")
                } else {
                    ("requests", "")
                };
                write!(f, "{waiting} {what} wait{s} and no worker runs or starts")
            }
            Reason::PreparedBelowWanted { have, wanted } => {
                write!(
                    f,
                    "{:.0} of {:.0} tokens/s wanted are prepared",
                    have.0, wanted.0
                )
            }
            Reason::SurplusCapacity { left, wanted } => {
                write!(
                    f,
                    "{:.0} tokens/s are left without it and {:.0} are wanted",
                    left.0, wanted.0
                )
            }
            Reason::Idle { idle_s } => write!(f, "no request for {idle_s:.0} s"),
            Reason::SurplusPrepared { left, wanted } => {
                let (left, wanted) = (left.0, wanted.0);
                write!(
                    f,
                    "{left:.0} tokens/s are prepared without it and {wanted:.0} are wanted"
                )
            }
            Reason::Replaces { worker, saves } => {
                write!(f, "does for ${:.3}/h less what {worker} does", saves.0)
            }
            Reason::AboveMaxWorkers { max_workers } => {
                write!(f, "more workers than max_workers ({max_workers})")
            }
            Reason::EndpointRemoved => f.write_str("the endpoint left the configuration"),
        }
    }
}
