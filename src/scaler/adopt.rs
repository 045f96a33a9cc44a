//! Finding again what an earlier gateway rented: adopt what is ours and wanted, destroy what is ours
//! and not, leave the rest alone.

use std::sync::Arc;

use super::Scaler;
use super::act::{count, midway};
use super::books::Books;
use super::money::bounded;
use crate::domain::{
    Instance, InstanceId, InstanceState, MarketKind, Rental, Timestamp, WorkerGroup, WorkerId,
    WorkerPhase,
};
use crate::fleet::{EndpointFleet, WorkerSpec};
use crate::ledger::LedgerError;
use crate::market::Market;
use crate::policy::reconcile::{Expected, Known};
use crate::telemetry::now;

impl Scaler {
    /// Every rental the ledger holds open becomes a worker again; the markets will say what is true of it.
    /// Until this has succeeded nothing may be listed: what no worker stands for would be ended.
    pub(super) async fn recover(&self, at: Timestamp) -> Result<(), LedgerError> {
        let rentals = self.ledger.open_rentals()?;
        let markets = self.ledger.markets()?;
        // An unreachable market is no reason to wait: its next listing tells the same later.
        let listed = self.markets.local.instances().await.unwrap_or_default();
        let rentals: Vec<(Rental, MarketKind)> = rentals
            .into_iter()
            .map(|rental| {
                let seen_at = markets.get(&rental.worker).copied();
                if let Some(market) = seen_at {
                    self.agreement.expect(market, rental.worker.clone());
                }
                let market = self.market_of(&rental, seen_at);
                (rental, market)
            })
            .collect();
        self.books.recover(&rentals, at)?;
        self.recall_accounts(&rentals)?;
        self.orphans.lock().clear();
        for (rental, market) in &rentals {
            let endpoint = self.fleet.endpoint(rental.endpoint.as_str());
            match endpoint.filter(|endpoint| endpoint.settings().market == *market) {
                Some(endpoint) => self.recover_rental(&endpoint, rental, &listed, at),
                None => self.leave_orphaned(rental, *market),
            }
        }
        self.recall_lessons()?;
        self.recall_raises()?;
        self.recall_memories()
    }

    /// Where it was rented: what was seen of it tells, else what its endpoint says now.
    fn market_of(&self, rental: &Rental, seen_at: Option<MarketKind>) -> MarketKind {
        let endpoint = self.fleet.endpoint(rental.endpoint.as_str());
        let configured = endpoint
            .map(|endpoint| endpoint.settings().market)
            .filter(|market| *market != MarketKind::Fixed);
        let paid = self.markets.get(MarketKind::Vast).map(|_| MarketKind::Vast);
        // Vast's names are numbers: without a key it is not asked, and nothing there is believed gone.
        let number = |id: &InstanceId| id.as_str().bytes().all(|b| b.is_ascii_digit());
        let named = rental.instance.as_ref().filter(|id| number(id));
        let named = named.map(|_| MarketKind::Vast);
        let known = seen_at.or(configured).or(paid).or(named);
        known.unwrap_or(MarketKind::Local)
    }

    /// At which market an open rental is believed to be.
    pub fn whereabouts(&self, worker: &WorkerId) -> Option<MarketKind> {
        let endpoints = self.fleet.endpoints();
        let holds = |endpoint: &&Arc<EndpointFleet>| endpoint.worker(worker).is_some();
        let market = endpoints.values().find(holds);
        let orphaned = || self.orphans.lock().get(worker).map(|(market, _)| *market);
        market
            .map(|endpoint| endpoint.settings().market)
            .or_else(orphaned)
    }

    /// Its endpoint is gone, or rents elsewhere now. If its machine exists, a listing shows it and it is destroyed.
    fn leave_orphaned(&self, rental: &Rental, market: MarketKind) {
        tracing::warn!(
            worker = %rental.worker, endpoint = %rental.endpoint,
            "open rental of an endpoint that is not configured, or rents elsewhere now"
        );
        let orphan = Known {
            worker: rental.worker.clone(),
            endpoint: rental.endpoint.clone(),
            group: rental.group.clone(),
            expected: Expected::Ending,
            instance: rental.instance.clone(),
            is_news: true,
        };
        let mut orphans = self.orphans.lock();
        orphans.insert(rental.worker.clone(), (market, orphan));
    }

    pub(super) fn orphans_at(&self, kind: MarketKind) -> Vec<Known> {
        let orphans = self.orphans.lock();
        let here = orphans.values().filter(|(market, _)| *market == kind);
        here.map(|(_, orphan)| orphan.clone()).collect()
    }

    pub(super) fn is_orphan(&self, worker: &WorkerId) -> bool {
        self.orphans.lock().contains_key(worker)
    }

    /// Nothing is left of it; false if it is none.
    pub(super) fn end_orphan(&self, worker: &WorkerId) -> bool {
        let was = self.orphans.lock().remove(worker).is_some();
        if was {
            self.books.close(worker, now());
            self.accounts.forget(worker);
            if let Err(error) = self.ledger.ended(worker, "unknown or unwanted", now()) {
                tracing::error!(%error, %worker, "ledger not written at the end of a rental");
            }
        }
        was
    }

    /// After a market was told to end everything: closes the ledger's lines of what it no longer lists.
    pub async fn close_ended_rentals(&self, kind: MarketKind) {
        let Some(market) = self.markets.get(kind) else {
            return;
        };
        let inventory = match market.inventory().await {
            Ok(inventory) => inventory,
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
                let mut listed = inventory.instances.iter();
                let listed = listed.any(|i| i.label.worker == *worker.id());
                if !listed && self.speaks_of(&inventory, worker.id()) {
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
        let was = self.books.last_seen(&rental.worker);
        let stopped = was.is_some_and(|was| was.state == Some(InstanceState::Stopped))
            || listed.iter().any(|instance| {
                instance.label.worker == rental.worker && instance.state == InstanceState::Stopped
            });
        let phase = if stopped {
            WorkerPhase::Stopped
        } else {
            WorkerPhase::Starting
        };
        let worker = endpoint.add_worker(spec, phase, rental.usd_per_hour, at);
        worker.set_last_reason("found again after a restart");
        if phase == WorkerPhase::Starting {
            worker.origin.found_starting();
        }
        if let Some(instance) = &rental.instance {
            worker.set_instance(instance.clone());
        }
    }

    /// A given worker that is listed for the first time; false if nobody wants it.
    pub(super) fn take_in(&self, instance: &Instance, at: Timestamp) -> bool {
        let endpoint = self
            .fleet
            .endpoint(instance.label.endpoint.as_str())
            .filter(|endpoint| !endpoint.is_removed());
        let Some(endpoint) = endpoint else {
            return false;
        };
        let settings = endpoint.settings();
        let gives = |group: &&WorkerGroup| instance.address.is_some_and(|at| group.gives(at));
        let Some(group) = settings.groups.iter().find(gives) else {
            return false;
        };
        let phase = match instance.state {
            InstanceState::Stopped => WorkerPhase::Stopped,
            _ => WorkerPhase::Starting,
        };
        let spec = WorkerSpec::new(instance.label.worker.clone(), group);
        endpoint.add_worker(spec, phase, group.usd_per_hour, at);
        true
    }

    /// Ends a machine of ours that nobody needs: unknown to the ledger, of an endpoint that is gone, ended in the ledger,
    /// or (`twice`) the second one of a rental. One that the ledger does not know is in it from now on.
    pub(super) fn destroy_unneeded(
        &self,
        kind: MarketKind,
        market: &Arc<dyn Market>,
        instance: &Instance,
        twice: bool,
        shown_at: Timestamp,
    ) {
        let worker = &instance.label.worker;
        // The rental's own machine has calls of its own.
        let call = if twice {
            WorkerId::new(format!("{worker}#{}", instance.id))
        } else {
            worker.clone()
        };
        if kind == MarketKind::Fixed || !self.calls.begin(&call) {
            return;
        }
        tracing::warn!(
            instance = %instance.id, label = %instance.label, twice,
            "destroying a machine of ours that nobody needs"
        );
        if !twice {
            self.enter(kind, instance, shown_at);
        }
        let ended = UnneededEnd {
            orphan: self.is_orphan(worker),
            twice,
        };
        let (market, calls) = (Arc::clone(market), Arc::clone(&self.calls));
        let (metrics, books) = (Arc::clone(&self.metrics), Arc::clone(&self.books));
        let (worker, instance) = (worker.clone(), instance.id.clone());
        tokio::spawn(async move {
            let begun = now();
            let result = bounded(market.destroy(&instance)).await;
            count(&metrics, kind, "destroy_unknown", result.is_ok());
            match result {
                Ok(()) => ended.book(&books, &worker, midway(begun, now())),
                Err(error) => tracing::warn!(%error, %instance, "not destroyed yet"),
            }
            // Last: nothing is written for a call that is no longer under way.
            calls.forget(&call);
        });
    }

    /// Into the ledger and the books, for it costs.
    fn enter(&self, kind: MarketKind, instance: &Instance, at: Timestamp) {
        let worker = &instance.label.worker;
        if self.books.last_seen(worker).is_none() {
            let found = self
                .ledger
                .found(&instance.label, &instance.id, instance.usd_per_hour, at);
            if let Err(error) = found {
                tracing::error!(%error, %worker, "ledger not written for a machine that was found");
            }
            self.books.open(worker, &instance.label.endpoint, kind, at);
        }
        self.books.seen(worker, instance, instance.usd_per_hour, at);
    }
}

/// What is left to note once an unneeded machine was destroyed.
struct UnneededEnd {
    /// Its line stays open until listings agree that it is gone.
    orphan: bool,
    twice: bool,
}

impl UnneededEnd {
    fn book(&self, books: &Books, worker: &WorkerId, at: Timestamp) {
        if self.twice {
            return;
        }
        books.turned(worker, None, at);
        if !self.orphan {
            books.close(worker, now());
        }
    }
}
