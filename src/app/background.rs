//! The control service: scaler, prober and reload signal side by side, and the end of the process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::reload::Reloader;
use super::watch;
use crate::domain::MarketKind;
use crate::fleet::Fleet;
use crate::market::LocalMarket;
use crate::probe::Prober;
use crate::scaler::Scaler;

pub(super) struct Control {
    pub(super) scaler: Scaler,
    pub(super) prober: Prober,
    pub(super) reloader: Arc<Reloader>,
    pub(super) reload_on_change: bool,
    pub(super) fleet: Arc<Fleet>,
    /// Local workers end with the gateway unless the configuration keeps them.
    pub(super) ends_local: Option<Arc<LocalMarket>>,
    pub(super) grace_period: Duration,
}

#[async_trait]
impl BackgroundService for Control {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        // The scaler goes on while requests in flight finish: held ones may still need a worker.
        tokio::select! {
            () = self.scaler.run() => {}
            () = self.prober.run() => {}
            () = self.reload_on_hangup() => {}
            () = watch::reload_on_change(&self.reloader, self.reload_on_change) => {}
            () = self.finish(&mut shutdown) => {}
        }
        if let Some(local) = &self.ends_local {
            local.shutdown_all().await;
            self.scaler.close_ended_rentals(MarketKind::Local).await;
        }
        tracing::info!("stopped");
        std::process::exit(0);
    }
}

impl Control {
    /// Returns after the signal, once nothing is in flight or the grace period is over.
    async fn finish(&self, shutdown: &mut ShutdownWatch) {
        while !*shutdown.borrow() {
            if shutdown.changed().await.is_err() {
                return;
            }
        }
        let deadline = Instant::now() + self.grace_period;
        while self.fleet.requests_under_way() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Answers that are written but not yet flushed.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn reload_on_hangup(&self) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!("SIGHUP cannot be watched; POST /reload still works");
            return std::future::pending().await;
        };
        while hangup.recv().await.is_some() {
            // The result is logged and counted there.
            let _ = self.reloader.reload();
        }
    }
}
