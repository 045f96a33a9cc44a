//! One endpoint's fleet at one moment: what plans, `/fleet` and metrics are made from.

use serde::{Deserialize, Serialize};

use super::{
    EndpointName, GroupName, Timestamp, Tokens, TokensPerSecond, UsdPerHour, WorkerId, WorkerPhase,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetSnapshot {
    pub endpoint: EndpointName,
    pub taken_at: Timestamp,
    /// Ordered by id.
    pub workers: Vec<WorkerView>,
    pub waiting: WaitingView,
    pub demand: DemandView,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    pub id: WorkerId,
    pub group: GroupName,
    pub phase: WorkerPhase,
    pub phase_since: Timestamp,
    /// Capacity, not what happens to be served.
    pub speed: TokensPerSecond,
    /// What of it is surely there: less by the estimate's standard deviation, nothing while the worker serves nobody.
    /// `None` where that is not known apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependable: Option<TokensPerSecond>,
    pub outstanding: Tokens,
    pub in_flight: u32,
    pub usd_per_hour: UsdPerHour,
    /// While it is stopped: its storage.
    #[serde(default)]
    pub stopped_usd_per_hour: UsdPerHour,
    /// Rented beside another whose start is doubtful: one of the two goes, so it counts as no capacity yet.
    #[serde(default)]
    pub spare: bool,
    /// Its rental ends by itself before long: no capacity to count on, to restart or to take back from a drain.
    #[serde(default)]
    pub ends_soon: bool,
    /// It answers its probes and is passed over for new requests until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<Timestamp>,
}

impl WorkerView {
    /// The capacity that demand may be covered with.
    pub fn dependable(&self) -> TokensPerSecond {
        self.dependable.unwrap_or(self.speed)
    }
}

/// Requests held because no worker could take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitingView {
    pub requests: usize,
    pub bytes: usize,
    pub cost: Tokens,
    pub oldest_since: Option<Timestamp>,
}

/// Demand as counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DemandView {
    /// All work that ever arrived: predicted, corrected when a request ends. Never decreases by more than corrections.
    pub arrived_total: Tokens,
    /// The corrections in it: what requests that ended cost beyond their prediction, below zero where they cost less.
    #[serde(default)]
    pub corrected_total: Tokens,
    /// Of it what waited longer than the lateness aim allows.
    #[serde(default)]
    pub late_total: Tokens,
    /// When a request last arrived, waited or was in flight.
    pub last_active: Option<Timestamp>,
}
