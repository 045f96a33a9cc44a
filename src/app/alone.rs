//! The control path without a gateway: for commands, when none runs. It holds the ledger as a gateway would, and rents
//! nothing.

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
use crate::domain::{Endpoint, InstallationId, Instance, MarketKind};
use crate::fleet::Fleet;
use crate::ledger::{Ledger, LedgerError};
use crate::market::{Inventory, Market};
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
        vast::refuse_without_key(server, endpoints)?;
        Self::with(server, endpoints)
    }

    /// The same where endpoints cannot be read: their machines are ended as unknown ones.
    pub fn without_endpoints(server: &ServerConfig) -> Result<Self, NotAlone> {
        Self::with(server, &[])
    }

    fn with(server: &ServerConfig, endpoints: &[Endpoint]) -> Result<Self, NotAlone> {
        provide_tls();
        let ledger = Arc::new(Ledger::open(&server.state_dir, now())?);
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let markets = BuiltMarkets::new(server, endpoints, &ledger.installation(), &metrics)?;
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

    /// Machines of ours that a market lists, whoever knows them.
    pub async fn machines(&self) -> Result<Vec<Instance>, String> {
        let mut all = Vec::new();
        for (kind, market) in self.scaler.markets().all() {
            if kind != MarketKind::Fixed {
                all.extend(listed(kind, &**market, &self.ledger.installation()).await?);
            }
        }
        Ok(all)
    }
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
        installation: InstallationId,
    ) -> anyhow::Result<Self> {
        provide_tls();
        vast::refuse_without_key(server, endpoints)?;
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let markets = BuiltMarkets::new(server, endpoints, &installation, &metrics)?;
        Ok(Self {
            markets,
            installation,
        })
    }

    /// Without a key it is not.
    pub fn asks_vast(&self) -> bool {
        self.markets.vast.is_some()
    }

    /// Tells every machine of ours to end, and returns those that were there.
    pub async fn end_all(&self) -> Result<Vec<Instance>, String> {
        let mut found = Vec::new();
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
            inventory.complete().map_err(|error| told(kind, &error))?;
        }
        Ok(found)
    }
}

async fn listed(
    kind: MarketKind,
    market: &dyn Market,
    installation: &InstallationId,
) -> Result<Vec<Instance>, String> {
    let inventory = asked(kind, market, installation).await?;
    inventory.complete().map_err(|error| told(kind, &error))
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
