//! Taking a new configuration without a restart; a wrong one changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{fixed_workers, proxy_settings, refuse_unbuilt_markets};
use crate::admin::ReloadResult;
use crate::config;
use crate::fleet::Fleet;
use crate::market::FixedMarket;
use crate::proxy::ProxySettings;
use crate::telemetry::Metrics;

pub(super) struct Reloader {
    pub(super) source: Option<PathBuf>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) fixed: Arc<FixedMarket>,
    pub(super) proxy_settings: Arc<ArcSwap<ProxySettings>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Reloader {
    /// Endpoints, API keys and body limits change at once; listeners, threads and `state_dir` at the next start.
    pub(super) fn reload(&self) -> ReloadResult {
        let result = self.try_reload();
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.metrics.reloads.with_label_values(&[outcome]).inc();
        match &result {
            Ok(endpoints) => {
                tracing::info!(endpoints = endpoints.join(", "), "configuration reloaded")
            }
            Err(mistakes) => {
                tracing::error!("configuration not reloaded, the old one stays:\n{mistakes}")
            }
        }
        result
    }

    fn try_reload(&self) -> ReloadResult {
        let Some(dir) = &self.source else {
            return Err("the embedded configuration cannot be reloaded".to_owned());
        };
        let config = config::load(dir, &|name| std::env::var(name).ok())
            .map_err(|mistakes| mistakes.to_string())?;
        refuse_unbuilt_markets(&config.endpoints).map_err(|error| error.to_string())?;
        self.proxy_settings
            .store(Arc::new(proxy_settings(&config.server)));
        self.fixed.replace(fixed_workers(&config.endpoints));
        self.fleet.replace_settings(&config.endpoints);
        Ok(config
            .endpoints
            .iter()
            .map(|endpoint| endpoint.name.to_string())
            .collect())
    }
}
