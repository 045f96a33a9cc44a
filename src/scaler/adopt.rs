//! Finding again what an earlier gateway rented: adopt what is ours and wanted, destroy what is ours
//! and not, leave the rest alone.

use std::sync::Arc;

use super::Scaler;
use crate::domain::{
    Instance, InstanceState, MarketKind, Rental, Timestamp, WorkerGroup, WorkerPhase,
};
use crate::fleet::{EndpointFleet, WorkerSpec};
use crate::ledger::LedgerError;
use crate::market::Market;
use crate::telemetry::now;

impl Scaler {
    /// Every rental the ledger holds open becomes a worker again; the markets will say what is true of it.
    /// Until this has succeeded nothing may be listed: what no worker stands for would be ended.
    pub(super) async fn recover(&self, at: Timestamp) -> Result<(), LedgerError> {
        let rentals = self.ledger.open_rentals()?;
        // An unreachable market is no reason to wait: its next listing tells the same later.
        let listed = self.markets.local.instances().await.unwrap_or_default();
        self.recover_books(&rentals, at)?;
        for rental in rentals {
            let endpoint = self.fleet.endpoint(rental.endpoint.as_str());
            match endpoint.filter(|endpoint| self.is_rented(endpoint)) {
                Some(endpoint) => self.recover_rental(&endpoint, &rental, &listed, at),
                // If a machine of it still exists, the listing shows it and it is destroyed.
                None => tracing::warn!(
                    worker = %rental.worker, endpoint = %rental.endpoint,
                    "open rental of an endpoint that is not configured, or rents nothing now"
                ),
            }
        }
        self.recall_lessons()
    }

    fn recover_books(&self, rentals: &[Rental], at: Timestamp) -> Result<(), LedgerError> {
        let known = rentals.iter().filter_map(|rental| {
            let endpoint = self.fleet.endpoint(rental.endpoint.as_str())?;
            let market = endpoint.settings().market;
            let (worker, endpoint) = (rental.worker.clone(), rental.endpoint.clone());
            Some((worker, endpoint, market, rental.intended_at))
        });
        self.books.recover(&known.collect::<Vec<_>>(), at)
    }

    /// After a market was told to end everything: closes the ledger's lines of what it no longer lists.
    pub async fn close_ended_rentals(&self, kind: MarketKind) {
        let Some(market) = self.markets.get(kind) else {
            return;
        };
        let instances = match market.instances().await {
            Ok(instances) => instances,
            Err(error) => {
                tracing::warn!(%error, "the ledger's lines stay open until the next start");
                return;
            }
        };
        for endpoint in self.fleet.endpoints().values() {
            if endpoint.settings().market != kind {
                continue;
            }
            for worker in endpoint.workers().iter() {
                let listed = instances.iter().any(|i| i.label.worker == *worker.id());
                if !listed {
                    worker.set_last_reason("ended with the gateway");
                    self.forget(endpoint, worker, now());
                }
            }
        }
    }

    fn recover_rental(
        &self,
        endpoint: &Arc<EndpointFleet>,
        rental: &Rental,
        listed: &[Instance],
        at: Timestamp,
    ) {
        if endpoint.worker(&rental.worker).is_some() {
            // Known already: the ledger was only lent to another gateway.
            return;
        }
        let settings = endpoint.settings();
        let group = settings
            .group(&rental.group)
            .or_else(|| settings.groups.first());
        let Some(group) = group else { return };
        let mut spec = WorkerSpec::new(rental.worker.clone(), group);
        spec.group = rental.group.clone();
        let stopped = listed.iter().any(|instance| {
            instance.label.worker == rental.worker && instance.state == InstanceState::Stopped
        });
        let phase = if stopped {
            WorkerPhase::Stopped
        } else {
            WorkerPhase::Starting
        };
        let worker = endpoint.add_worker(spec, phase, rental.usd_per_hour, at);
        worker.set_last_reason("found again after a restart");
        if let Some(instance) = &rental.instance {
            worker.set_instance(instance.clone());
        }
    }

    /// An instance with our label that no worker stands for.
    pub(super) fn adopt_or_destroy(
        &self,
        kind: MarketKind,
        market: &Arc<dyn Market>,
        instance: Instance,
        listed_at: Timestamp,
    ) {
        if instance.label.installation != self.ledger.installation() {
            return;
        }
        let endpoint = self
            .fleet
            .endpoint(instance.label.endpoint.as_str())
            .filter(|endpoint| !endpoint.is_removed() && endpoint.settings().market == kind);
        match endpoint {
            Some(endpoint) if kind == MarketKind::Fixed => {
                self.take_in(&endpoint, &instance, listed_at);
            }
            // An upgrade may have taken an endpoint away whose last streams still run under the old process.
            _ if self.fleet.has_predecessor() => {}
            // Rented machines are known from the ledger. One that is not in it has no group, no
            // price and no history: it is ended rather than guessed about.
            _ => self.destroy_unknown(kind, market, instance),
        }
    }

    fn take_in(&self, endpoint: &Arc<EndpointFleet>, instance: &Instance, listed_at: Timestamp) {
        let settings = endpoint.settings();
        let gives = |group: &&WorkerGroup| instance.address.is_some_and(|at| group.gives(at));
        let Some(group) = settings.groups.iter().find(gives) else {
            return;
        };
        let phase = match instance.state {
            InstanceState::Stopped => WorkerPhase::Stopped,
            _ => WorkerPhase::Starting,
        };
        let spec = WorkerSpec::new(instance.label.worker.clone(), group);
        let worker = endpoint.add_worker(spec, phase, group.usd_per_hour, listed_at);
        self.see(endpoint, &worker, instance, listed_at, listed_at);
    }

    fn destroy_unknown(&self, kind: MarketKind, market: &Arc<dyn Market>, instance: Instance) {
        let worker = instance.label.worker.clone();
        if kind == MarketKind::Fixed || !self.calls.begin(&worker) {
            return;
        }
        tracing::warn!(instance = %instance.id, label = %instance.label, "destroying a machine of ours that nobody needs");
        let (market, calls) = (Arc::clone(market), Arc::clone(&self.calls));
        let metrics = Arc::clone(&self.metrics);
        let ledger = Arc::clone(&self.ledger);
        tokio::spawn(async move {
            let result = market.destroy(&instance.id).await;
            let outcome = if result.is_ok() { "ok" } else { "failed" };
            metrics
                .market_calls
                .with_label_values(&["any", "destroy_unknown", outcome])
                .inc();
            match result {
                Ok(()) => {
                    let ended = ledger.ended(&worker, "unknown or unwanted", now());
                    if let Err(error) = ended {
                        tracing::error!(%error, "ledger not written");
                    }
                }
                Err(error) => tracing::warn!(%error, instance = %instance.id, "not destroyed yet"),
            }
            // Last: nothing is written for a call that is no longer under way.
            calls.forget(&worker);
        });
    }
}
