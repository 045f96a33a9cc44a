//! The markets of a configuration.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::{fixed_workers, vast};
use crate::config::ServerConfig;
use crate::domain::{Endpoint, InstallationId, Secret};
use crate::market::{FixedMarket, LocalMarket, LocalMarketSettings, Market, VastMarket};
use crate::scaler::Markets;
use crate::telemetry::Metrics;

pub(super) struct BuiltMarkets {
    pub(super) local: Arc<LocalMarket>,
    pub(super) fixed: Arc<FixedMarket>,
    /// `None` without a key.
    pub(super) vast: Option<Arc<VastMarket>>,
}

impl BuiltMarkets {
    pub(super) fn new(
        settings: &ServerConfig,
        endpoints: &[Endpoint],
        installation: &InstallationId,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        Self::with_keys(settings, endpoints, &[], installation, metrics)
    }

    /// With keys that endpoints name which cannot be read otherwise.
    pub(super) fn with_keys(
        settings: &ServerConfig,
        endpoints: &[Endpoint],
        more_keys: &[Secret],
        installation: &InstallationId,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let local = LocalMarket::new(LocalMarketSettings {
            dir: settings.state_dir.join("local"),
            slots: settings.local_market.slots,
            installation: installation.clone(),
        })
        .context("local market")?;
        let fixed = FixedMarket::new(installation.clone(), fixed_workers(endpoints));
        Ok(Self {
            local,
            fixed: Arc::new(fixed),
            vast: vast::market(settings, endpoints, more_keys, installation, metrics)?,
        })
    }

    pub(super) fn all(&self) -> Markets {
        Markets {
            local: self.local.clone(),
            fixed: self.fixed.clone(),
            vast: self.vast.clone().map(|vast| vast as Arc<dyn Market>),
        }
    }
}
