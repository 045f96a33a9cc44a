//! The control service: it leads — scaler, prober and reloads side by side — until a signal ends the process or a new
//! process takes over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handover::{Giving, Paths, Predecessor, Successor};
use super::reload::Reloader;
use super::{unheard, upgrade, watch};
use crate::domain::{EndpointName, MarketKind, UsdPerHour, WorkerPhase};
use crate::fleet::{Fleet, Learned};
use crate::market::LocalMarket;
use crate::policy::spending::usd;
use crate::probe::Prober;
use crate::scaler::Scaler;
use crate::telemetry::{AccessLog, now};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nothing in flight for this long is the end.
const QUIET: Duration = Duration::from_millis(200);
/// The same after a handover, where nobody waits for the end: connections whose clients are slow to ask stay usable.
const QUIET_AFTER_HANDOVER: Duration = Duration::from_secs(2);
/// For error events and refusals, once the grace period is over.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a new process waits for the probes of workers it took over, before it serves.
const PROBED_WITHIN: Duration = Duration::from_secs(3);
/// A listener that cannot be built ends the process within this time.
const LISTENING_WITHIN: Duration = Duration::from_millis(100);
/// Before the old process loses its patience with a new one whose ledger or markets do not answer.
const RECOVERED_WITHIN: Duration = Duration::from_secs(45);
/// For the last lines of the access log.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
const RETAKE_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Control {
    pub(super) access_log: Arc<AccessLog>,
    pub(super) scaler: Arc<Scaler>,
    pub(super) prober: Prober,
    pub(super) reloader: Arc<Reloader>,
    pub(super) reload_on_change: bool,
    pub(super) fleet: Arc<Fleet>,
    pub(super) local: Arc<LocalMarket>,
    /// Local workers end with the gateway unless the configuration keeps them.
    pub(super) keeps_local: bool,
    pub(super) grace_period: Duration,
    /// When machines of Vast's end themselves without a gateway; `None`: never.
    pub(super) orphan_after: Option<Duration>,
    /// `None` where no socket can have such a path.
    pub(super) paths: Option<Paths>,
    /// The process taken over from, until it is told that this one serves.
    pub(super) predecessor: Mutex<Option<Predecessor>>,
    pub(super) learned: Learned,
    /// Ends the server as a signal would.
    pub(super) end: Arc<Notify>,
}

#[async_trait]
impl ServiceWithDependents for Control {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        let giving = self.open_handover(fds);
        // The scaler goes on while requests in flight finish: held ones may still need a worker.
        let successor = tokio::select! {
            successor = self.lead(giving.as_ref(), ready) => Some(successor),
            () = self.reload_on_hangup() => None,
            () = watch::reload_on_change(&self.reloader, self.reload_on_change) => None,
            () = upgrade::on_quit() => None,
            () = self.finish(&mut shutdown, QUIET) => None,
        };
        match successor {
            Some(successor) => {
                self.end.notify_one();
                tokio::select! {
                    () = successor.follow(&self.fleet) => {}
                    () = self.finish(&mut shutdown, QUIET_AFTER_HANDOVER) => {}
                }
            }
            None if self.keeps_local => {
                self.scaler.keep_memories(now());
                self.tell_what_goes_on();
            }
            None => {
                self.scaler.keep_memories(now());
                self.tell_what_goes_on();
                self.local.shutdown_all().await;
                self.scaler.close_ended_rentals(MarketKind::Local).await;
            }
        }
        if let Some(paths) = &self.paths {
            paths.remove_pid();
        }
        self.access_log.flush(FLUSH_WITHIN);
        tracing::info!("stopped");
        std::process::exit(0);
    }

    fn name(&self) -> &str {
        "control"
    }

    fn threads(&self) -> Option<usize> {
        Some(2)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

impl Control {
    /// Returns when a new process serves in our place.
    async fn lead(&self, giving: Option<&Giving>, ready: ServiceReadyNotifier) -> Successor {
        let beside = async {
            let vast = self.reloader.vast.as_deref();
            tokio::join!(
                self.begin(ready),
                self.prober.run(),
                unheard::tell(&self.fleet, vast)
            );
            // The prober returns only where it could not begin, and has said so.
            std::future::pending().await
        };
        tokio::select! {
            successor = self.act_until_succeeded(giving) => successor,
            successor = beside => successor,
        }
    }

    async fn act_until_succeeded(&self, giving: Option<&Giving>) -> Successor {
        loop {
            let asked = async {
                match giving {
                    Some(giving) => giving.asked().await,
                    None => std::future::pending().await,
                }
            };
            let successor = tokio::select! {
                () = self.scaler.run() => continue,
                successor = asked => successor,
            };
            tokio::select! {
                given = self.give(successor) => match given {
                    Ok(successor) => return successor,
                    Err(why) => tracing::warn!(why, "no upgrade: this process goes on"),
                },
                () = self.scaler.tend() => {}
            }
            tokio::select! {
                () = self.take_back() => {}
                () = self.scaler.tend() => {}
            }
        }
    }

    /// The scaler has stopped. An error says why the new process does not lead now.
    async fn give(&self, mut successor: Successor) -> Result<Successor, String> {
        let begun = Instant::now();
        // Before the ledger: whoever has that reads what this leaves on the disk.
        if !self.scaler.is_quiet_within(Successor::CALLS_WITHIN).await {
            let why = successor.refuse("market calls are under way").await;
            return Err(why.to_string());
        }
        self.local.release();
        self.scaler.release();
        match successor.give_control(&self.fleet.learned()).await {
            Ok(()) => {}
            Err(error) => {
                successor.refuse(&error).await;
                return Err(error.to_string());
            }
        }
        self.fleet.leave();
        if let Err(error) = successor.leave().await {
            self.fleet.stay();
            return Err(error.to_string());
        }
        tracing::info!(
            seconds = begun.elapsed().as_secs_f64(),
            "a new process leads; finishing what is in flight"
        );
        Ok(successor)
    }

    async fn take_back(&self) {
        while let Err(error) = self.scaler.retake() {
            tracing::warn!(%error, "the ledger is not ours yet");
            tokio::time::sleep(RETAKE_EVERY).await;
        }
        while let Err(error) = self.local.retake() {
            tracing::warn!(%error, "the local market's directory cannot be read");
            tokio::time::sleep(RETAKE_EVERY).await;
        }
        tracing::info!("leading again");
    }

    /// Lets the listeners start: at once, or after a takeover when the workers are known and probed, for until then
    /// the old process serves.
    async fn begin(&self, ready: ServiceReadyNotifier) {
        let predecessor = self.predecessor.lock().take();
        if predecessor.is_some() {
            let recovered = tokio::time::timeout(RECOVERED_WITHIN, self.scaler.recovered()).await;
            if recovered.is_err() {
                tracing::error!("the workers are not known in time; the old process goes on");
                std::process::exit(1);
            }
            self.fleet.take_learned(&self.learned);
            let _ = tokio::time::timeout(PROBED_WITHIN, self.probed()).await;
        }
        ready.notify_ready();
        if let Some(predecessor) = predecessor {
            tokio::time::sleep(LISTENING_WITHIN).await;
            self.succeed(predecessor).await;
        }
        if let Some(paths) = &self.paths {
            paths.write_pid();
        }
        upgrade::tell_service_manager();
        tracing::info!("leading");
    }

    async fn succeed(&self, predecessor: Predecessor) {
        let attending = match predecessor.confirm(Arc::clone(&self.fleet)).await {
            Ok(attending) => attending,
            Err(error) => {
                tracing::error!(%error, "the old process goes on; this one ends");
                std::process::exit(1);
            }
        };
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move {
            attending.await;
            fleet.set_predecessor(false);
        });
    }

    /// No worker that has an address is still to be asked whether it lives.
    async fn probed(&self) {
        let starting = || {
            self.fleet.endpoints().values().any(|endpoint| {
                endpoint.workers().iter().any(|worker| {
                    worker.contact().is_some() && worker.phase().0 == WorkerPhase::Starting
                })
            })
        };
        while starting() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn open_handover(&self, fds: Option<ListenFds>) -> Option<Giving> {
        let (paths, fds) = (self.paths.as_ref()?, fds?);
        Giving::open(paths, fds)
            .inspect_err(|error| tracing::warn!(%error, "this process cannot be upgraded in place"))
            .ok()
    }

    /// Returns after the signal, once nothing has been in flight for `quiet` or the grace period is over.
    async fn finish(&self, shutdown: &mut ShutdownWatch, quiet: Duration) {
        while !*shutdown.borrow() {
            if shutdown.changed().await.is_err() {
                return;
            }
        }
        if tokio::time::timeout(self.grace_period, self.silence(quiet))
            .await
            .is_err()
        {
            let left = self.fleet.requests_under_way();
            tracing::warn!(left, "the grace period is over: what is left is told so");
            self.fleet.end_requests();
            let _ = tokio::time::timeout(FAREWELL, self.silence(LOOK_EVERY)).await;
        }
    }

    /// Rented machines are left where they are, for the next gateway; they cost meanwhile.
    fn tell_what_goes_on(&self) {
        let endpoints = self.fleet.endpoints();
        let on_vast = |name: &EndpointName| {
            let endpoint = endpoints.get(name);
            endpoint.is_some_and(|endpoint| endpoint.settings().market == MarketKind::Vast)
        };
        let machines = endpoints
            .iter()
            .filter(|(name, _)| on_vast(name))
            .flat_map(|(_, endpoint)| endpoint.workers().to_vec())
            .filter(|worker| worker.instance().is_some() && worker.phase().0 != WorkerPhase::Gone);
        let money = self.fleet.money();
        let committed = money.endpoints.iter().filter(|(name, _)| on_vast(name));
        let usd_per_hour = committed.map(|(_, money)| money.committed).sum();
        if let Some(text) = what_goes_on(machines.count(), usd_per_hour, self.orphan_after) {
            tracing::warn!("{text}");
        }
    }

    /// Returns once nothing has been in flight for `quiet`: a connection may have been accepted whose request is
    /// still to come, and an answer may be written but not yet flushed.
    async fn silence(&self, quiet: Duration) {
        let mut last_seen = Instant::now();
        while last_seen.elapsed() < quiet {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.fleet.requests_under_way() > 0 || self.fleet.has_predecessor() {
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
            self.access_log.reopen();
            // The result is logged and counted there.
            let _ = self.reloader.reload();
        }
    }
}

/// `None` where nothing is rented.
fn what_goes_on(
    machines: usize,
    usd_per_hour: UsdPerHour,
    orphan_after: Option<Duration>,
) -> Option<String> {
    let who = match machines {
        0 => return None,
        1 => "1 rented machine goes on".to_owned(),
        many => format!("{many} rented machines go on"),
    };
    let until = match orphan_after {
        Some(after) => format!(
            "until a gateway returns, or for orphan_after ({} s)",
            after.as_secs()
        ),
        None => {
            "until a gateway returns, however long that takes (no public_url is set)".to_owned()
        }
    };
    let price = usd(usd_per_hour.0);
    Some(format!(
        "{who} at {price}/h {until}; `tidegate stop-spending` ends what is rented"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stops_a_gateway_is_told_what_goes_on_costing_and_for_how_long() {
        let price = UsdPerHour(0.295);
        let told = what_goes_on(1, price, Some(Duration::from_secs(600)));
        assert_eq!(
            told.as_deref(),
            Some(
                "1 rented machine goes on at $0.295/h until a gateway returns, or for orphan_after (600 s); \
                 `tidegate stop-spending` ends what is rented"
            )
        );
        let told = what_goes_on(2, price, None);
        assert!(told.is_some_and(|text| text.contains("no public_url")));
        assert_eq!(what_goes_on(0, price, None), None);
    }
}
