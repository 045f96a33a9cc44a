//! Taking a new configuration without a restart; a wrong one changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::{fixed_workers, proxy_settings, refuse_unbuilt_markets};
use crate::admin::{AdminToken, ReloadResult};
use crate::config;
use crate::domain::Endpoint;
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
    pub(super) admin_token: Arc<ArcSwapOption<AdminToken>>,
    /// A signal and a call may ask at the same time.
    pub(super) one_at_a_time: Mutex<()>,
}

impl Reloader {
    /// Endpoints, API keys and body limits change at once; listeners, threads and `state_dir` at the next start.
    pub(super) fn reload(&self) -> ReloadResult {
        let _turn = self.one_at_a_time.lock();
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
        self.refuse_changed_markets(&config.endpoints)?;
        let token = config.server.admin_token.as_ref();
        let token = token.map(|token| Arc::new(AdminToken::new(token.expose())));
        self.admin_token.store(token);
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

    /// Workers of the old market would be neither listed nor released by the new one.
    fn refuse_changed_markets(&self, endpoints: &[Endpoint]) -> Result<(), String> {
        for endpoint in endpoints {
            let live = self.fleet.endpoint(endpoint.name.as_str());
            let changed = live.is_some_and(|live| {
                live.has_workers() && live.settings().market != endpoint.market
            });
            if changed {
                return Err(format!(
                    "endpoint {}: its market cannot change while it has workers; remove it, reload, and add it again",
                    endpoint.name
                ));
            }
        }
        Ok(())
    }
}
