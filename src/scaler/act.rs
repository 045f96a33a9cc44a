//! Carrying out what was decided: the ledger first, then the market, then the fleet.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Scaler;
use crate::domain::{
    GroupName, InstanceId, MarketKind, PlannedAction, Release, Rental, RentalLabel, RentalState,
    ScalingAction, Timestamp, WorkerEvent, WorkerGroup, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker, WorkerSpec};
use crate::market::{Market, MarketError};
use crate::telemetry::now;

/// A market call that takes longer counts as one whose outcome is unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

impl Scaler {
    pub(super) fn carry_out(
        &self,
        endpoint: &Arc<EndpointFleet>,
        planned: PlannedAction,
        at: Timestamp,
    ) {
        let reason = planned.reason.to_string();
        let (name, rule) = labels(&planned);
        tracing::info!(endpoint = %endpoint.name, action = ?planned.action, %reason, "scaling");
        self.metrics
            .scaling_actions
            .with_label_values(&[endpoint.name.as_str(), name, &rule])
            .inc();
        let event = |id: &WorkerId, event: WorkerEvent| {
            if let Some(worker) = endpoint.worker(id) {
                worker.set_last_reason(&reason);
                self.advance(endpoint, &worker, event);
            }
        };
        match &planned.action {
            ScalingAction::Rent { group } => self.rent(endpoint, group, &reason, at),
            ScalingAction::Restart { worker } => event(worker, WorkerEvent::RestartOrdered),
            ScalingAction::Drain { worker, then } => {
                event(worker, WorkerEvent::DrainOrdered(*then))
            }
            ScalingAction::CancelDrain { worker } => event(worker, WorkerEvent::DrainCancelled),
            ScalingAction::Destroy { worker } => {
                event(worker, WorkerEvent::DrainOrdered(Release::Destroy));
            }
        }
    }

    fn rent(&self, endpoint: &Arc<EndpointFleet>, group: &GroupName, reason: &str, at: Timestamp) {
        let settings = endpoint.settings();
        let (Some(group), Some(market)) =
            (settings.group(group), self.markets.get(settings.market))
        else {
            return;
        };
        let id = new_worker_id(&group.name, at);
        let rental = Rental {
            worker: id.clone(),
            endpoint: endpoint.name.clone(),
            group: group.name.clone(),
            state: RentalState::Intended,
            instance: None,
            usd_per_hour: group.usd_per_hour,
            intended_at: at,
            ended_at: None,
            reason: reason.to_owned(),
        };
        // Nothing is rented that the ledger does not know.
        if let Err(error) = self.ledger.intend(&rental) {
            tracing::error!(%error, "ledger not written: nothing is rented");
            return;
        }
        let worker = endpoint.add_worker(
            WorkerSpec::new(id.clone(), group),
            WorkerPhase::Starting,
            group.usd_per_hour,
            at,
        );
        worker.set_last_reason(reason);
        let label = RentalLabel {
            installation: self.ledger.installation(),
            endpoint: endpoint.name.clone(),
            worker: id,
        };
        let (market, group) = (Arc::clone(market), group.clone());
        let ledger = Arc::clone(&self.ledger);
        self.spawn_call(endpoint, &worker, settings.market, "rent", {
            let worker = Arc::clone(&worker);
            async move {
                let (instance, price) = rent_cheapest(&market, &group, &label).await?;
                worker.set_instance(instance.clone());
                worker.set_price(price);
                if let Err(error) = ledger.rented(worker.id(), &instance, price, now()) {
                    // The label on the machine carries the rental's id: the next listing knows it.
                    tracing::error!(%error, worker = %worker.id(), "ledger not written after rental");
                }
                Ok(())
            }
        });
    }

    pub(super) fn start(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>) {
        worker.set_address(None, None);
        self.on_instance(endpoint, worker, "start", |market, id| async move {
            market.start(&id).await
        });
    }

    pub(super) fn stop(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>) {
        self.on_instance(endpoint, worker, "stop", |market, id| async move {
            market.stop(&id).await
        });
    }

    pub(super) fn destroy(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>) {
        self.on_instance(endpoint, worker, "destroy", |market, id| async move {
            market.destroy(&id).await
        });
    }

    /// Without an instance there is nothing to call yet; a listing will show it or not.
    fn on_instance<F, R>(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        call: &'static str,
        make: F,
    ) where
        F: FnOnce(Arc<dyn Market>, InstanceId) -> R,
        R: Future<Output = Result<(), MarketError>> + Send + 'static,
    {
        let kind = endpoint.settings().market;
        if let (Some(market), Some(id)) = (self.markets.get(kind), worker.instance()) {
            let future = make(Arc::clone(market), id);
            self.spawn_call(endpoint, worker, kind, call, future);
        }
    }

    fn spawn_call(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        kind: MarketKind,
        call: &'static str,
        future: impl Future<Output = Result<(), MarketError>> + Send + 'static,
    ) {
        if !self.calls.begin(worker.id()) {
            return;
        }
        let (endpoint, worker) = (Arc::clone(endpoint), Arc::clone(worker));
        let (calls, metrics) = (Arc::clone(&self.calls), Arc::clone(&self.metrics));
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move {
            let result = tokio::time::timeout(CALL_TIMEOUT, future)
                .await
                .unwrap_or_else(|_| Err(MarketError::Unavailable("timed out".into())));
            calls.settled(worker.id(), now(), call == "destroy");
            let outcome = if result.is_ok() { "ok" } else { "failed" };
            metrics
                .market_calls
                .with_label_values(&[market_name(kind), call, outcome])
                .inc();
            if let Err(error) = result {
                tracing::warn!(worker = %worker.id(), call, %error, "market call failed");
                if call == "rent" && nothing_happened(&error) {
                    endpoint.report(worker.id(), WorkerEvent::RentRefused);
                }
            }
            fleet.wake_scaler();
        });
    }

    pub(super) fn forget(&self, endpoint: &Arc<EndpointFleet>, worker: &Worker, at: Timestamp) {
        let id = worker.id();
        if self.is_rented(endpoint)
            && let Err(error) = self.ledger.ended(id, &worker.last_reason(), at)
        {
            tracing::error!(%error, worker = %id, "ledger not written at the end of a rental");
        }
        endpoint.forget_worker(id);
        self.calls.forget(id);
    }

    pub(super) fn count_call(&self, kind: MarketKind, call: &str, outcome: &str) {
        self.metrics
            .market_calls
            .with_label_values(&[market_name(kind), call, outcome])
            .inc();
    }
}

async fn rent_cheapest(
    market: &Arc<dyn Market>,
    group: &WorkerGroup,
    label: &RentalLabel,
) -> Result<(InstanceId, crate::domain::UsdPerHour), MarketError> {
    let mut offers = market.offers(group).await?;
    offers.sort_by(|a, b| a.usd_per_hour.0.total_cmp(&b.usd_per_hour.0));
    let offer = offers
        .first()
        .ok_or_else(|| MarketError::Full("no offer fits".into()))?;
    let instance = market.rent(offer, None, group, label).await?;
    Ok((instance, offer.usd_per_hour))
}

fn nothing_happened(error: &MarketError) -> bool {
    match error {
        MarketError::OfferGone
        | MarketError::Full(_)
        | MarketError::Refused(_)
        | MarketError::NotFound => true,
        MarketError::Unavailable(_) => false,
    }
}

fn market_name(kind: MarketKind) -> &'static str {
    match kind {
        MarketKind::Local => "local",
        MarketKind::Fixed => "fixed",
        MarketKind::Vast => "vast",
    }
}

/// The metric labels of an action: what, and by which rule.
fn labels(planned: &PlannedAction) -> (&'static str, String) {
    let name = match planned.action {
        ScalingAction::Rent { .. } => "rent",
        ScalingAction::Restart { .. } => "restart",
        ScalingAction::Drain { .. } => "drain",
        ScalingAction::CancelDrain { .. } => "cancel_drain",
        ScalingAction::Destroy { .. } => "destroy",
    };
    let rule = serde_json::to_value(&planned.reason)
        .ok()
        .and_then(|value| value.get("rule")?.as_str().map(str::to_owned))
        .unwrap_or_default();
    (name, rule)
}

/// Unique for an installation: the ledger's lock lets one scaler run at a time, and time moves on.
fn new_worker_id(group: &GroupName, at: Timestamp) -> WorkerId {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Relaxed);
    WorkerId::new(format!("{group}-{}-{n}", base36(at.as_millis())))
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = (number % 36) as u32;
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}
