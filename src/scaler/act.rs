//! Carrying out what was decided: the ledger first, then the market, then the fleet.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

use super::Scaler;
use super::experience::Offers;
use crate::domain::{
    Alternative, GroupName, InstanceId, InstanceState, MarketKind, Offer, OfferChoice,
    PlannedAction, Reason, Release, Rental, RentalLabel, RentalState, ScalingAction, SpeedPrior,
    Timestamp, UsdPerHour, WorkerEvent, WorkerGroup, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker, WorkerSpec};
use crate::market::{Market, MarketError, Order};
use crate::policy::spending::Refusal;
use crate::telemetry::{Metrics, now};

/// A market call that takes longer counts as one whose outcome is unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

impl Scaler {
    pub(super) fn carry_out(
        &self,
        endpoint: &Arc<EndpointFleet>,
        planned: &PlannedAction,
        at: Timestamp,
    ) {
        let reason = self.say(endpoint, planned);
        let event = |id: &WorkerId, event: WorkerEvent| {
            if let Some(worker) = endpoint.worker(id) {
                worker.set_last_reason(&reason);
                self.advance(endpoint, &worker, event);
            }
        };
        match &planned.action {
            // Carried out by the offer that was chosen for it.
            ScalingAction::Rent { .. } => {}
            ScalingAction::Restart { worker: id } => {
                let worker = endpoint.worker(id);
                if worker.is_some_and(|worker| self.may_restart(endpoint, &worker, at)) {
                    event(id, WorkerEvent::RestartOrdered);
                }
            }
            ScalingAction::Drain { worker, then } => {
                event(worker, WorkerEvent::DrainOrdered(*then))
            }
            ScalingAction::CancelDrain { worker } => event(worker, WorkerEvent::DrainCancelled),
            ScalingAction::Destroy { worker } => {
                event(worker, WorkerEvent::DrainOrdered(Release::Destroy));
            }
        }
    }

    /// Logs and counts an action; returns its reason.
    fn say(&self, endpoint: &EndpointFleet, planned: &PlannedAction) -> String {
        let reason = planned.reason.to_string();
        let (name, rule) = labels(planned);
        tracing::info!(endpoint = %endpoint.name, action = ?planned.action, %reason, "scaling");
        self.metrics
            .scaling_actions
            .with_label_values(&[endpoint.name.as_str(), name, &rule])
            .inc();
        reason
    }

    /// Nothing happens where no offer was found: the next tick looks again.
    pub(super) fn carry_out_rent(
        &self,
        endpoint: &Arc<EndpointFleet>,
        planned: &PlannedAction,
        choice: &OfferChoice,
        offers: &Offers,
        at: Timestamp,
    ) {
        let of_group = offers.get(&choice.group);
        let chosen = choice
            .chosen
            .as_ref()
            .and_then(|id| of_group?.iter().find(|offer| offer.id == *id));
        match chosen {
            Some(offer) => {
                let reason = self.say(endpoint, planned);
                let rented = self.rent(endpoint, choice, offer, &reason, at);
                // Nobody waits for a replacement.
                let hurry = !matches!(planned.reason, Reason::Replaces { .. });
                if let Some(worker) = rented.filter(|_| hurry) {
                    self.rent_spare(endpoint, worker.id(), choice, offers, at);
                }
            }
            None => {
                tracing::debug!(endpoint = %endpoint.name, group = %choice.group, "no offer fits");
            }
        }
    }

    /// The new worker; `None` where nothing was rented.
    pub(super) fn rent(
        &self,
        endpoint: &Arc<EndpointFleet>,
        choice: &OfferChoice,
        offer: &Offer,
        reason: &str,
        at: Timestamp,
    ) -> Option<Arc<Worker>> {
        let settings = endpoint.settings();
        let (Some(group), Some(market), Some(best)) = (
            settings.group(&choice.group),
            self.markets.get(settings.market),
            choice.best(),
        ) else {
            return None;
        };
        // Several may be wanted at once where there is money for one.
        let at_most = best.at_most(self.guard.settings().price_margin);
        if self.guard.refuses(endpoint, at_most, at) {
            return None;
        }
        let id = new_worker_id(&group.name, at);
        let rental = Rental {
            worker: id.clone(),
            endpoint: endpoint.name.clone(),
            group: group.name.clone(),
            state: RentalState::Intended,
            instance: None,
            usd_per_hour: best.usd_per_hour,
            intended_at: at,
            ended_at: None,
            reason: reason.to_owned(),
        };
        // Nothing is rented that the ledger does not know.
        if let Err(error) = self.ledger.intend(&rental) {
            tracing::error!(%error, "ledger not written: nothing is rented");
            return None;
        }
        if let Some(account) = market.account_for(group) {
            self.note_account(&id, &account, at);
        }
        self.books.open(&id, &endpoint.name, settings.market, at);
        let worker = endpoint.add_worker(
            WorkerSpec::new(id.clone(), group),
            WorkerPhase::Starting,
            at_most,
            at,
        );
        worker.set_last_reason(reason);
        self.note_choice(endpoint, &worker, group, choice, best, at);
        let label = RentalLabel {
            installation: self.ledger.installation(),
            endpoint: endpoint.name.clone(),
            worker: id,
        };
        let (market, group) = (Arc::clone(market), group.clone());
        let (offer, bid, price) = (offer.clone(), best.bid, best.usd_per_hour);
        let ledger = Arc::clone(&self.ledger);
        self.spawn_call(endpoint, &worker, settings.market, "rent", {
            let worker = Arc::clone(&worker);
            let (books, guard) = (Arc::clone(&self.books), Arc::clone(&self.guard));
            let (endpoint, agreement) = (Arc::clone(endpoint), Arc::clone(&self.agreement));
            async move {
                let may_go = || {
                    if !agreement.paused(&endpoint, &group.name).is_empty() {
                        return Err(MarketError::Full("the market and the ledger do not agree".into()));
                    }
                    if worker.phase().0 != WorkerPhase::Starting {
                        return Err(MarketError::Refused("it is not wanted any more".into()));
                    }
                    let committed = guard.commit(&endpoint, &worker, at_most, now());
                    committed.map_err(refused)
                };
                // Before it waits for its turn, so that it does not take it for nothing, and when it has come.
                may_go()?;
                let order = Order {
                    offer: &offer,
                    bid,
                    group: &group,
                    label: &label,
                    last_word: &may_go,
                };
                let begun = now();
                let instance = market.rent(&order).await?;
                let storage = offer.hardware.map(|hardware| hardware.storage_usd_per_hour);
                let rented_at = midway(begun, now());
                books.rented(worker.id(), price, storage.unwrap_or_default(), rented_at);
                worker.set_instance(instance.clone());
                if let Err(error) = ledger.rented(worker.id(), &instance, price, now()) {
                    // The label on the machine carries the rental's id: the next listing knows it.
                    tracing::error!(%error, worker = %worker.id(), "ledger not written after rental");
                }
                Ok(())
            }
        });
        Some(worker)
    }

    /// The machine is believed what the choice believed of it, and the choice is kept for who asks why.
    fn note_choice(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        group: &WorkerGroup,
        choice: &OfferChoice,
        best: &Alternative,
        at: Timestamp,
    ) {
        if best.machine.is_none() {
            return;
        }
        let expected = SpeedPrior {
            tokens_per_second: best.tokens_per_second,
            ..group.speed_prior
        };
        worker.expect_speed(expected, best.speed_sd);
        worker.origin.set_rented_as(best.clone());
        self.experience.tried(&best.offer, at);
        tracing::info!(
            endpoint = %endpoint.name, worker = %worker.id(), offer = %best.offer, gpu = %best.gpu_name,
            gpus = best.gpu_count, usd_per_hour = best.usd_per_hour.0,
            usd_per_million_tokens = best.usd_per_million_tokens, rule = choice.rule.as_str(), "offer chosen"
        );
        self.remember("choice", worker.id().as_str(), choice, at);
    }

    /// Into the ledger's memory; losing it costs an explanation or a lesson, no money.
    pub(super) fn remember(&self, kind: &str, key: &str, what: &impl Serialize, at: Timestamp) {
        let kept = serde_json::to_value(what)
            .map_err(|error| error.to_string())
            .and_then(|value| {
                let kept = self.ledger.remember(kind, key, &value, at);
                kept.map_err(|error| error.to_string())
            });
        if let Err(error) = kept {
            tracing::warn!(kind, key, error, "not kept in the ledger");
        }
    }

    pub(super) fn start(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>) {
        worker.set_address(None, None);
        worker.origin.forget_seen();
        self.on_instance(endpoint, worker, "start", |market, id| async move {
            market.start(&id).await
        });
    }

    pub(super) fn stop(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>) {
        self.on_instance(endpoint, worker, "stop", |market, id| async move {
            market.stop(&id).await
        });
    }

    pub(super) fn bid(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>, bid: UsdPerHour) {
        self.on_instance(endpoint, worker, "bid", move |market, id| async move {
            market.set_bid(&id, bid).await
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
        let (fleet, books) = (Arc::clone(&self.fleet), Arc::clone(&self.books));
        tokio::spawn(async move {
            let begun = now();
            let result = tokio::time::timeout(CALL_TIMEOUT, future)
                .await
                .unwrap_or_else(|_| Err(MarketError::Unavailable("timed out".into())));
            if let (Ok(()), Some(state)) = (&result, state_after(call)) {
                books.turned(worker.id(), state, midway(begun, now()));
            }
            calls.settled(worker.id(), now());
            count(&metrics, kind, call, result.is_ok());
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
        self.books.close(id, at);
        if self.is_rented(endpoint)
            && let Err(error) = self.ledger.ended(id, &worker.last_reason(), at)
        {
            tracing::error!(%error, worker = %id, "ledger not written at the end of a rental");
        }
        endpoint.forget_worker(id);
        self.calls.forget(id);
        self.accounts.forget(id);
    }
}

/// Nothing was asked of the market.
fn refused(refusal: Refusal) -> MarketError {
    MarketError::Refused(format!("spending: {refusal}"))
}

/// What a call that succeeded has made of the machine.
fn state_after(call: &str) -> Option<Option<InstanceState>> {
    match call {
        "stop" => Some(Some(InstanceState::Stopped)),
        "start" => Some(Some(InstanceState::Scheduling)),
        "destroy" => Some(None),
        _ => None,
    }
}

/// A call takes effect somewhere between its beginning and its answer.
pub(super) fn midway(begun: Timestamp, done: Timestamp) -> Timestamp {
    begun + done.since(begun) / 2
}

pub(super) fn count(metrics: &Metrics, kind: MarketKind, call: &str, ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    metrics
        .market_calls
        .with_label_values(&[kind.as_str(), call, outcome])
        .inc();
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
