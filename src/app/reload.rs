//! Taking a new configuration without a restart; a wrong one changes nothing.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::certificate::CertificateFiles;
use super::{Origin, changes, fixed_workers, proxy_settings, vast};
use crate::admin::{AdminToken, ReloadResult, Reloaded};
use crate::config::{self, Files, ServerConfig};
use crate::domain::{Endpoint, SpendingSettings};
use crate::fleet::Fleet;
use crate::market::{FixedMarket, VastMarket};
use crate::proxy::ProxySettings;
use crate::telemetry::Metrics;

pub(super) struct Reloader {
    /// Where from; the embedded default has no such place.
    pub(super) origin: Option<Mutex<Origin>>,
    /// The settings the gateway was started with: those it cannot change stay as they are here.
    pub(super) started_with: ServerConfig,
    /// As they were when they were last read.
    pub(super) certificate: Mutex<CertificateFiles>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) fixed: Arc<FixedMarket>,
    /// `None` when the gateway was started without a key.
    pub(super) vast: Option<Arc<VastMarket>>,
    pub(super) proxy_settings: Arc<ArcSwap<ProxySettings>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admin_token: Arc<ArcSwapOption<AdminToken>>,
    pub(super) spending: Arc<ArcSwap<SpendingSettings>>,
    /// A signal and a call may ask at the same time.
    pub(super) one_at_a_time: Mutex<()>,
}

impl Reloader {
    /// Reads the configuration and takes it, however it differs.
    pub(super) fn reload(&self) -> ReloadResult {
        let files = self.origin.as_ref().map(|origin| {
            let dir = origin.lock().dir.clone();
            config::read_files(&dir)
        });
        self.take(files)
    }

    /// All of it or nothing. Settings that only a start can change are named in the answer.
    pub(super) fn take(&self, files: Option<Files>) -> ReloadResult {
        let _turn = self.one_at_a_time.lock();
        let result = match (files, &self.origin) {
            (Some(files), Some(origin)) => {
                origin.lock().files = files.clone();
                self.try_take(&files)
            }
            _ => Err("the embedded configuration cannot be reloaded".to_owned()),
        };
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.metrics.reloads.with_label_values(&[outcome]).inc();
        match &result {
            Ok(reloaded) => tracing::info!("configuration {reloaded}"),
            Err(mistakes) => {
                tracing::error!("configuration not reloaded, the old one stays:\n{mistakes}")
            }
        }
        result
    }

    fn try_take(&self, files: &Files) -> ReloadResult {
        let config = config::load_files(files, &|name| std::env::var(name).ok())
            .map_err(|mistakes| mistakes.to_string())?;
        vast::refuse_without_key(&config.server, &config.endpoints)
            .map_err(|error| error.to_string())?;
        vast::refuse_without_market(self.vast.as_deref(), &config.endpoints)
            .map_err(|error| error.to_string())?;
        self.refuse_changed_markets(&config.endpoints)?;
        let before = self.proxy_settings.load_full();
        let installation = before.installation.clone();
        let proxy_settings =
            proxy_settings(&config.server, &config.access, &before.keys, installation)
                .map_err(|error| format!("{error:#}"))?;
        *self.certificate.lock() = CertificateFiles::of(&config.server);
        let for_new_workers = changes::for_new_workers(&self.fleet, &config.endpoints);
        let token = config.server.admin_token.as_ref();
        let token = token.map(|token| Arc::new(AdminToken::new(token.expose())));
        self.admin_token.store(token);
        self.proxy_settings.store(Arc::new(proxy_settings));
        self.spending
            .store(Arc::new(config.server.spending.clone()));
        self.fixed.replace(fixed_workers(&config.endpoints));
        if let Some(vast) = &self.vast {
            vast.replace(vast::settings(&config.server, &config.endpoints));
        }
        self.fleet.replace_settings(&config.endpoints);
        let names = config.endpoints.iter();
        Ok(Reloaded {
            endpoints: names.map(|endpoint| endpoint.name.to_string()).collect(),
            at_next_start: changes::at_next_start(&self.started_with, &config.server),
            for_new_workers,
        })
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
