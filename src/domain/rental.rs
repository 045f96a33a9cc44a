//! What a market offers, what is rented from it, and what the ledger remembers.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    EndpointName, GroupName, InstallationId, InstanceId, OfferId, Timestamp, UsdPerHour, WorkerId,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    pub id: OfferId,
    pub usd_per_hour: UsdPerHour,
}

/// A rented machine as its market lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub label: RentalLabel,
    pub state: InstanceState,
    /// Where its engine listens, once known.
    pub address: Option<SocketAddr>,
    pub usd_per_hour: UsdPerHour,
}

/// The states of Vast that matter to us; other markets use the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    Loading,
    Running,
    Stopped,
    /// Ended by itself; never turns into running.
    Exited,
}

impl InstanceState {
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceState::Loading => "loading",
            InstanceState::Running => "running",
            InstanceState::Stopped => "stopped",
            InstanceState::Exited => "exited",
        }
    }
}

/// Written on every machine: `tidegate/<installation>/<endpoint>/<rental>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RentalLabel {
    pub installation: InstallationId,
    pub endpoint: EndpointName,
    pub worker: WorkerId,
}

impl fmt::Display for RentalLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tidegate/{}/{}/{}",
            self.installation, self.endpoint, self.worker
        )
    }
}

impl FromStr for RentalLabel {
    /// Not one of our labels.
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let (Some("tidegate"), Some(installation), Some(endpoint), Some(worker), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(());
        };
        if [installation, endpoint, worker]
            .iter()
            .any(|part| part.is_empty())
        {
            return Err(());
        }
        Ok(Self {
            installation: InstallationId::new(installation),
            endpoint: EndpointName::new(endpoint),
            worker: WorkerId::new(worker),
        })
    }
}

/// Where a rental stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RentalState {
    /// Durable before the market is asked.
    Intended,
    /// The market named an instance.
    Rented,
    /// The market confirmed its end, or never knew it.
    Ended,
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rental {
    pub worker: WorkerId,
    pub endpoint: EndpointName,
    pub group: GroupName,
    pub state: RentalState,
    pub instance: Option<InstanceId>,
    pub usd_per_hour: UsdPerHour,
    pub intended_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Why it was rented or why it ended, the last that was said.
    pub reason: String,
}
