//! The control path without a gateway: for commands, when none runs. It holds the ledger as a gateway would, and rents
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use serde_json::Value;

use super::control_path::AskScaler;
use super::markets::BuiltMarkets;
use super::{provide_tls, vast};
use crate::admin::{self, ControlPath};
use crate::config::{Config, ServerConfig};
use crate::domain::{AccountId, Endpoint, InstallationId, Instance, MarketKind, Secret, WorkerId};
use crate::fleet::Fleet;
use crate::ledger::{Ledger, LedgerError, OpenRental};
use crate::market::{Inventory, Market};
use crate::policy::reconcile::Patience;
use crate::scaler::{Looked, Scaler};
use crate::telemetry::{DecisionLog, Metrics, now};

/// A market that does not answer is given up after this.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// All pages of all accounts.
const LISTING_TIMEOUT: Duration = Duration::from_secs(300);

pub struct Alone {
    pub ledger: Arc<Ledger>,
    fleet: Arc<Fleet>,
    scaler: Arc<Scaler>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAlone {
    /// `Locked`: a gateway runs.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Alone {
    /// Takes the ledger's lock for as long as it lives.
    pub fn open(config: &Config) -> Result<Self, NotAlone> {
        let Config {
            server, endpoints, ..
        } = config;
        let alone = Self::to_end(server, endpoints, &[])?;
        vast::refuse_without_key(server, endpoints)?;
        Ok(alone)
    }

    /// For ending what can be ended: machines of endpoints that cannot be read as unknown ones, with the keys that are
    /// known of them; those of a market without a key stay in the ledger.
    pub fn to_end(
        server: &ServerConfig,
        endpoints: &[Endpoint],
        more_keys: &[Secret],
    ) -> Result<Self, NotAlone> {
        provide_tls();
        let ledger = Arc::new(Ledger::open(&server.state_dir, now())?);
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let ours = ledger.installation();
        let markets = BuiltMarkets::with_keys(server, endpoints, more_keys, &ours, &metrics)?;
        let path = server.state_dir.join("decisions.jsonl");
        let decisions = DecisionLog::open(&path).with_context(|| path.display().to_string())?;
        let fleet = Fleet::new(endpoints);
        let scaler = Scaler::new(
            Arc::clone(&fleet),
            markets.all(),
            Arc::clone(&ledger),
            metrics,
            Arc::new(decisions),
            Arc::new(ArcSwap::from_pointee(server.spending.clone())),
            server.scaler_interval,
        );
        Ok(Self {
            ledger,
            fleet,
            scaler: Arc::new(scaler),
        })
    }

    /// What the ledger and the markets say now; nothing is ordered.
    pub async fn look(&self) -> Result<Looked, LedgerError> {
        self.scaler.look().await
    }

    /// What the admin port would answer.
    pub fn control_path(&self) -> impl ControlPath {
        AskScaler(Arc::clone(&self.scaler))
    }

    /// As `/fleet`.
    pub fn fleet(&self) -> Value {
        admin::fleet_json(&self.fleet, now())
    }

    /// Scales until dropped, as a gateway does that nobody calls.
    pub async fn scale(&self) {
        self.scaler.run().await;
    }

    /// What is left: machines of ours that a market lists, whoever knows them, and rentals that the ledger holds open.
    pub async fn left(&self) -> Result<Left, String> {
        let mut left = Left::default();
        let mut asked = BTreeMap::new();
        for (kind, market) in self.scaler.markets().all() {
            if kind != MarketKind::Fixed {
                let inventory = asked_all(kind, &**market, &self.ledger.installation()).await?;
                left.machines.extend(inventory.instances.clone());
                asked.insert(kind, inventory);
            }
        }
        let open = self.ledger.open_rentals();
        for rental in open.map_err(|error| error.to_string())? {
            let worker = rental.worker;
            if left.machines.iter().any(|one| one.label.worker == worker) {
                continue;
            }
            let speaks = |kind| match asked.get(&kind) {
                Some(inventory) => self.scaler.speaks_of(inventory, &worker),
                None => false,
            };
            // One that was forgotten in between is looked at again.
            match self.scaler.whereabouts(&worker).is_none_or(speaks) {
                true => left.open.push(worker),
                false => left.out_of_reach.push(worker),
            }
        }
        Ok(left)
    }

    /// Without a key it is not.
    pub fn asks_vast(&self) -> bool {
        self.scaler.markets().vast.is_some()
    }
}

/// What stopping spending has not ended yet.
#[derive(Debug, Default)]
pub struct Left {
    pub machines: Vec<Instance>,
    /// No market lists them; whether they are gone shows in a while.
    pub open: Vec<WorkerId>,
    /// Nobody here can ask the account that pays them.
    pub out_of_reach: Vec<WorkerId>,
}

/// The account without its ledger, which another process holds and does not use: only for ending what is there.
pub struct Account {
    markets: BuiltMarkets,
    installation: InstallationId,
}

impl Account {
    pub fn new(
        server: &ServerConfig,
        endpoints: &[Endpoint],
        more_keys: &[Secret],
        installation: InstallationId,
    ) -> anyhow::Result<Self> {
        provide_tls();
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let markets =
            BuiltMarkets::with_keys(server, endpoints, more_keys, &installation, &metrics)?;
        Ok(Self {
            markets,
            installation,
        })
    }

    /// Without a key it is not.
    pub fn asks_vast(&self) -> bool {
        self.markets.vast.is_some()
    }

    /// How long listings must show nothing until what `open` rentals paid for is believed gone.
    pub fn patience(&self, open: &[OpenRental]) -> Duration {
        let interval = self.markets.vast.as_ref();
        let patience = Patience::of(interval.and_then(|market| market.listing_interval()));
        match open {
            [] => Duration::ZERO,
            open if open.iter().any(|rental| rental.instance.is_none()) => patience.fresh,
            _ => patience.gone,
        }
    }

    /// Of the rentals that are open beside it, those of a market or an account that did not answer here.
    fn out_of_reach(&self, open: &[OpenRental], answered: &BTreeSet<AccountId>) -> Vec<WorkerId> {
        let beyond = |rental: &&OpenRental| match &rental.account {
            Some(account) => !answered.contains(account),
            None => rental.is_paid() && !self.asks_vast(),
        };
        let beyond = open.iter().filter(beyond);
        beyond.map(|rental| rental.worker.clone()).collect()
    }

    /// Tells every machine of ours to end, and returns those that were there.
    pub async fn end_all(&self, open: &[OpenRental]) -> Result<Left, String> {
        let mut found = Vec::new();
        let mut answered = BTreeSet::new();
        for (kind, market) in self.markets.all().all() {
            if kind == MarketKind::Fixed {
                continue;
            }
            let inventory = asked(kind, &**market, &self.installation).await?;
            // One account that does not answer spares no other's machines.
            for instance in inventory.instances.clone() {
                let ended = tokio::time::timeout(CALL_TIMEOUT, market.destroy(&instance.id)).await;
                // It is listed again next time if that did not help.
                if let Ok(Err(error)) = ended {
                    tracing::warn!(instance = %instance.id, %error, "not ended yet");
                }
                found.push(instance);
            }
            answered.extend(inventory.answered.iter().cloned());
            inventory.complete().map_err(|error| told(kind, &error))?;
        }
        let mut out_of_reach = self.out_of_reach(open, &answered);
        out_of_reach.retain(|worker| !found.iter().any(|one| one.label.worker == *worker));
        Ok(Left {
            machines: found,
            open: Vec::new(),
            out_of_reach,
        })
    }
}

/// All accounts, or why one cannot be listed.
async fn asked_all(
    kind: MarketKind,
    market: &dyn Market,
    installation: &InstallationId,
) -> Result<Inventory, String> {
    let inventory = asked(kind, market, installation).await?;
    match inventory.silent.values().next() {
        Some(why) => Err(told(kind, why)),
        None => Ok(inventory),
    }
}

async fn asked(
    kind: MarketKind,
    market: &dyn Market,
    installation: &InstallationId,
) -> Result<Inventory, String> {
    let mut inventory = tokio::time::timeout(LISTING_TIMEOUT, market.inventory())
        .await
        .map_err(|_| told(kind, &"timed out"))?
        .map_err(|error| told(kind, &error))?;
    let ours = |instance: &Instance| instance.label.installation == *installation;
    inventory.instances.retain(ours);
    Ok(inventory)
}

fn told(kind: MarketKind, why: &impl std::fmt::Display) -> String {
    format!("the market {} cannot be listed: {why}", kind.as_str())
}
