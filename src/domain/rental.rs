//! What a market offers, what is rented from it, and what the ledger remembers.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    EndpointName, GroupName, HostId, InstallationId, InstanceId, MachineId, OfferId, Timestamp,
    Usd, UsdPerHour, WorkerId,
};

/// Something that can be rented now, at one price: a machine on demand and the same one interruptible are two offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    pub id: OfferId,
    /// While it runs, with the disk that would be rented. For an interruptible offer, at the lowest bid that wins now.
    pub usd_per_hour: UsdPerHour,
    /// Whoever bids more may take its GPUs away.
    pub interruptible: bool,
    /// `None` where the market has no machines to choose between.
    pub hardware: Option<Hardware>,
}

impl Offer {
    /// An offer of a market that does not tell machines apart.
    pub fn plain(id: OfferId, usd_per_hour: UsdPerHour) -> Self {
        Self {
            id,
            usd_per_hour,
            interruptible: false,
            hardware: None,
        }
    }
}

/// What an offer says of its machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    pub machine: MachineKey,
    /// As the market spells it: `RTX 4090`.
    pub gpu_name: String,
    pub gpu_count: u32,
    pub gpu_ram_mb_each: f64,
    /// The market's own benchmark of the whole offer; 0 where unknown.
    pub dlperf: f64,
    /// Share of the time it was up lately, 0 to 1.
    pub reliability: f64,
    /// As the market spells it: `Sweden, SE`.
    pub location: String,
    pub verified: bool,
    pub down_mbit_per_s: f64,
    pub down_usd_per_gb: Usd,
    pub up_usd_per_gb: Usd,
    /// Of the price: what the disk costs, running or stopped.
    pub storage_usd_per_hour: UsdPerHour,
    /// How long it may be rented; a rental cannot outlive it.
    #[serde(with = "super::time::seconds")]
    pub available_for: Duration,
}

/// What is remembered of a machine goes by this: offers come and go with other ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineKey {
    pub host: HostId,
    pub machine: MachineId,
}

/// A rented machine as its market lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub label: RentalLabel,
    pub state: InstanceState,
    /// Where its engine listens, once known.
    pub address: Option<SocketAddr>,
    /// While it runs, storage included.
    pub usd_per_hour: UsdPerHour,
    /// Of that, what it costs while stopped too.
    pub storage_usd_per_hour: UsdPerHour,
    pub interruptible: bool,
    /// For its GPUs: the lowest bid that wins now.
    pub least_bid: Option<UsdPerHour>,
    pub machine: Option<MachineKey>,
    pub gpu_name: Option<String>,
    /// The market's words on what it is doing: progress of a pull, an error. Empty where it says nothing.
    pub message: String,
    /// When the rental ends whatever we do.
    pub ends_at: Option<Timestamp>,
}

impl Instance {
    /// An instance of a market that says no more of it.
    pub fn plain(
        id: InstanceId,
        label: RentalLabel,
        state: InstanceState,
        address: Option<SocketAddr>,
        usd_per_hour: UsdPerHour,
    ) -> Self {
        Self {
            id,
            label,
            state,
            address,
            usd_per_hour,
            storage_usd_per_hour: UsdPerHour::ZERO,
            interruptible: false,
            least_bid: None,
            machine: None,
            gpu_name: None,
            message: String::new(),
            ends_at: None,
        }
    }
}

/// The states of Vast that matter to us; other markets use the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Being provisioned or pulling its image. The GPU is not billed.
    Loading,
    Running,
    /// Asked to run, and waiting for its GPUs: somebody else has them. An outbid instance is so too.
    Scheduling,
    Stopped,
    /// Its host is not heard of. May return.
    Offline,
    /// Ended by itself; never turns into running.
    Exited,
}

impl InstanceState {
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceState::Loading => "loading",
            InstanceState::Running => "running",
            InstanceState::Scheduling => "scheduling",
            InstanceState::Stopped => "stopped",
            InstanceState::Offline => "offline",
            InstanceState::Exited => "exited",
        }
    }
}

/// What an account of a market has and owes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What can still be spent.
    pub credit: Usd,
}

/// What the market has charged for one instance since it was rented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    pub instance: InstanceId,
    pub gpu: Usd,
    pub storage: Usd,
    pub traffic: Usd,
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
