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

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nothing in flight for this long is the end.
const QUIET: Duration = Duration::from_millis(200);
/// For error events and refusals, once the grace period is over.
const FAREWELL: Duration = Duration::from_secs(2);

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
        if tokio::time::timeout(self.grace_period, self.silence(QUIET))
            .await
            .is_err()
        {
            let left = self.fleet.requests_under_way();
            tracing::warn!(left, "the grace period is over: what is left is told so");
            self.fleet.end_requests();
            let _ = tokio::time::timeout(FAREWELL, self.silence(LOOK_EVERY)).await;
        }
    }

    /// Returns once nothing has been in flight for `quiet`: a connection may have been accepted whose request is
    /// still to come, and an answer may be written but not yet flushed.
    async fn silence(&self, quiet: Duration) {
        let mut last_seen = Instant::now();
        while last_seen.elapsed() < quiet {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.fleet.requests_under_way() > 0 {
                last_seen = Instant::now();
            }
        }
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
