//! The life of a worker as the scaler and the router see it.

use serde::{Deserialize, Serialize};

use super::{InstanceState, Release, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum WorkerPhase {
    /// Being rented, booted or restarted; not healthy yet.
    Starting,
    /// Healthy; takes requests.
    Ready,
    /// Was ready, failed a probe; takes no requests.
    Unhealthy { failed_probes: u32 },
    /// Takes no new requests; released when empty.
    Draining { then: Release, since: Timestamp },
    /// Asked to stop or being stopped.
    Stopping,
    /// Kept without running.
    Stopped,
    /// Given up; its instance is being destroyed.
    Failed { reason: FailureReason },
    /// Being destroyed on purpose.
    Destroying,
    /// The market no longer has it.
    Gone,
}

impl WorkerPhase {
    /// The label in metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerPhase::Starting => "starting",
            WorkerPhase::Ready => "ready",
            WorkerPhase::Unhealthy { .. } => "unhealthy",
            WorkerPhase::Draining { .. } => "draining",
            WorkerPhase::Stopping => "stopping",
            WorkerPhase::Stopped => "stopped",
            WorkerPhase::Failed { .. } => "failed",
            WorkerPhase::Destroying => "destroying",
            WorkerPhase::Gone => "gone",
        }
    }

    pub const NAMES: [&'static str; 9] = [
        "starting",
        "ready",
        "unhealthy",
        "draining",
        "stopping",
        "stopped",
        "failed",
        "destroying",
        "gone",
    ];

    pub fn is_ready(self) -> bool {
        matches!(self, WorkerPhase::Ready)
    }

    /// On the way out: the market is being told to end it, or has.
    pub fn is_ending(self) -> bool {
        matches!(
            self,
            WorkerPhase::Failed { .. } | WorkerPhase::Destroying | WorkerPhase::Gone
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The market refused or lost the rental.
    RentRefused,
    /// Not healthy within the boot deadline.
    BootDeadline,
    /// The process or instance ended by itself.
    Exited,
    /// The market no longer lists it.
    Vanished,
    /// Probes failed too often in a row.
    Unresponsive,
}

impl FailureReason {
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::RentRefused => "rent_refused",
            FailureReason::BootDeadline => "boot_deadline",
            FailureReason::Exited => "exited",
            FailureReason::Vanished => "vanished",
            FailureReason::Unresponsive => "unresponsive",
        }
    }
}

/// How a request at a worker ended, as far as the worker is to be judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestOutcome {
    Succeeded,
    /// A broken connection, a server error, an answer that was cut short or came too late.
    Failed,
    /// No token for far longer than the worker takes for one.
    Hung,
}

/// What can happen to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerEvent {
    InstanceSeen(InstanceState),
    /// A complete listing of the market did not hold it.
    InstanceMissing,
    RentRefused,
    ProbeSucceeded,
    ProbeFailed,
    RestartOrdered,
    DrainOrdered(Release),
    /// Back to work: demand returned before the drain ended.
    DrainCancelled,
    /// Nothing in flight any more.
    Emptied,
    /// Time passed; deadlines are looked at.
    Tick,
}
