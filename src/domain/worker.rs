//! The life of a worker as the scaler and the router see it.

use serde::{Deserialize, Serialize};

use super::{InstanceState, Release, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum WorkerPhase {
    /// Being rented, booted or restarted; not healthy yet.
    Starting,
    /// Healthy, and being measured before it serves.
    Benchmarking,
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
            WorkerPhase::Benchmarking => "benchmarking",
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

    pub const NAMES: [&'static str; 10] = [
        "starting",
        "benchmarking",
        "ready",
        "unhealthy",
        "draining",
        "stopping",
        "stopped",
        "failed",
        "destroying",
        "gone",
    ];

    /// On its way to serve, not there yet.
    pub fn is_starting(self) -> bool {
        matches!(self, WorkerPhase::Starting | WorkerPhase::Benchmarking)
    }

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
    /// The market says that it cannot start it.
    MarketError,
    /// It did not answer the benchmark.
    BenchmarkFailed,
    /// The benchmark fell far short of what was believed.
    TooSlow,
    /// Not the GPU that was offered.
    WrongHardware,
    /// Somebody bid more. Expected of an interruptible machine.
    Outbid,
    /// It waited for its GPUs in vain.
    NoGpu,
    /// Its host was not heard of for too long.
    HostOffline,
    /// The process or instance ended by itself.
    Exited,
    /// The market no longer lists it.
    Vanished,
    /// Probes failed too often in a row.
    Unresponsive,
}

impl FailureReason {
    pub const ALL: [FailureReason; 12] = [
        FailureReason::RentRefused,
        FailureReason::BootDeadline,
        FailureReason::MarketError,
        FailureReason::BenchmarkFailed,
        FailureReason::TooSlow,
        FailureReason::WrongHardware,
        FailureReason::Outbid,
        FailureReason::NoGpu,
        FailureReason::HostOffline,
        FailureReason::Exited,
        FailureReason::Vanished,
        FailureReason::Unresponsive,
    ];

    /// Nothing went wrong: no reason to hold back with the next one.
    pub fn is_expected(self) -> bool {
        self == FailureReason::Outbid
    }

    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::RentRefused => "rent_refused",
            FailureReason::BootDeadline => "boot_deadline",
            FailureReason::MarketError => "market_error",
            FailureReason::BenchmarkFailed => "benchmark_failed",
            FailureReason::TooSlow => "too_slow",
            FailureReason::WrongHardware => "wrong_hardware",
            FailureReason::Outbid => "outbid",
            FailureReason::NoGpu => "no_gpu",
            FailureReason::HostOffline => "host_offline",
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
    /// Every listing since then saw it so.
    InstanceLasts {
        state: InstanceState,
        since: Timestamp,
    },
    /// What the market says of it cannot be mended by waiting, or it is not what was rented.
    InstanceUnfit(FailureReason),
    /// Somebody bid more than it pays, and now it pays more: its GPUs are waited for.
    BidRaised,
    /// Its rental ends too soon for anything but leaving in good order.
    EndsSoon,
    /// It was ejected too often: another takes its place.
    GivenUp,
    /// A complete listing of the market did not hold it.
    InstanceMissing,
    RentRefused,
    ProbeSucceeded,
    /// Healthy for the first time, and to be measured before it serves.
    BenchmarkDue,
    BenchmarkPassed,
    BenchmarkFailed(FailureReason),
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
