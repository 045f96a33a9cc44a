//! What the markets say, turned into events of workers; what workers report, turned into phases.

use std::sync::Arc;
use std::time::Duration;

use super::Scaler;
use super::experience::{Look, Offers, Room};
use crate::domain::{
    Alternative, Instance, MarketKind, Offer, OfferChoice, Timestamp, UsdPerHour, WorkerEvent,
    WorkerGroup, WorkerPhase,
};
use crate::fleet::{EndpointFleet, LearnedStarts, Worker};
use crate::policy::lifecycle::{Effect, advance};
use crate::policy::scaling::{GroupSupply, StartOutlook};
use crate::telemetry::now;

/// Share of a cold start that is billed: the pull of the image is not, the load of the model is.
const COLD_BILLED: f64 = 0.6;

/// No market call holds the scaler longer than this.
pub(super) const LISTING_TIMEOUT: Duration = Duration::from_secs(20);

impl Scaler {
    pub(super) fn see(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        instance: &Instance,
        listed_at: Timestamp,
        shown_at: Timestamp,
    ) {
        if !self.calls.is_news(worker.id(), listed_at) {
            return;
        }
        let phase = worker.phase().0;
        let given_up = phase.is_ending() || matches!(phase, WorkerPhase::Draining { .. });
        if given_up && !self.is_rented(endpoint) && !endpoint.is_removed() {
            // A given worker that is still listed is wanted; health alone decides when it serves again.
            worker.set_phase(WorkerPhase::Starting, now());
        }
        self.name_instance(endpoint, worker, instance);
        worker.set_market_message(&instance.message);
        let price = self.price_of(endpoint, worker, instance);
        worker.set_price(price);
        worker
            .origin
            .set_stopped_price(instance.storage_usd_per_hour);
        self.books.seen(worker.id(), instance, price, shown_at);
        let settings = endpoint.settings();
        worker.set_address(instance.address, settings.group(&worker.spec.group));
        let of_bid = self.mind_bid(endpoint, worker, instance);
        let event = of_bid.unwrap_or(WorkerEvent::InstanceSeen(instance.state));
        self.advance(endpoint, worker, event);
        self.look_closer(endpoint, worker, instance, listed_at);
    }

    /// A rental whose answer was lost gets its name from the listing.
    fn name_instance(&self, endpoint: &EndpointFleet, worker: &Worker, instance: &Instance) {
        let is_new = worker.instance().is_none();
        worker.set_instance(instance.id.clone());
        if !is_new || !self.is_rented(endpoint) {
            return;
        }
        let price = instance.usd_per_hour;
        let known = self.ledger.rented(worker.id(), &instance.id, price, now());
        if let Err(error) = known {
            tracing::error!(%error, worker = %worker.id(), "ledger not written for a machine that was found");
        }
    }

    /// A local or given worker's price is what the setting says now; elsewhere the market says what it charges.
    fn price_of(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        instance: &Instance,
    ) -> UsdPerHour {
        let settings = endpoint.settings();
        match settings.group(&worker.spec.group) {
            Some(group) if settings.market != MarketKind::Vast => group.usd_per_hour,
            _ => instance.usd_per_hour,
        }
    }

    /// Reports since the last tick, then what only time brings.
    pub(super) fn advance_workers(&self, endpoint: &Arc<EndpointFleet>) {
        for (id, event) in endpoint.take_events() {
            if let Some(worker) = endpoint.worker(&id) {
                let event = self.meaning(endpoint, &worker, event);
                self.advance(endpoint, &worker, event);
            }
        }
        for worker in endpoint.workers().iter() {
            let draining = matches!(worker.phase().0, WorkerPhase::Draining { .. });
            if draining && worker.in_flight() == 0 {
                self.advance(endpoint, worker, WorkerEvent::Emptied);
            }
            self.advance(endpoint, worker, WorkerEvent::Tick);
        }
    }

    /// One step of a worker's life, with its consequences.
    pub(super) fn advance(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        event: WorkerEvent,
    ) {
        let at = now();
        let (phase, since) = worker.phase();
        let times = endpoint.settings().times.clone();
        let step = advance(phase, since, event, &times, at);
        // A doubted worker is ready in phase but takes nothing until a probe speaks for it.
        let probed = !matches!(
            event,
            WorkerEvent::Tick
                | WorkerEvent::InstanceSeen(_)
                | WorkerEvent::InstanceLasts { .. }
                | WorkerEvent::InstanceUnfit(_)
                | WorkerEvent::BidRaised
                | WorkerEvent::EndsSoon
                | WorkerEvent::GivenUp
        );
        if step.phase != phase || step.since != since || probed {
            worker.set_phase(step.phase, step.since);
        }
        if step.phase == WorkerPhase::Starting && phase != WorkerPhase::Starting {
            worker.origin.starts_by(event);
        }
        match (phase, step.phase) {
            (WorkerPhase::Starting, WorkerPhase::Ready) => {
                endpoint.came_up(worker, at.since(since));
            }
            (WorkerPhase::Starting, WorkerPhase::Benchmarking) => {
                worker.origin.set_boot_took(at.since(since));
            }
            (WorkerPhase::Benchmarking, WorkerPhase::Ready) => {
                endpoint.came_up(worker, worker.origin.boot_took() + at.since(since));
            }
            (WorkerPhase::Starting, WorkerPhase::Stopped | WorkerPhase::Failed { .. })
                if worker.was_restarted() =>
            {
                endpoint.restart_failed(worker);
            }
            _ => {}
        }
        if step.phase.as_str() != phase.as_str() {
            self.phase_changed(endpoint, worker, phase, step.phase, at);
            self.learn_from(endpoint, worker, (phase, since), step.phase, at);
        }
        for effect in step.effects {
            self.apply(endpoint, worker, effect, at);
        }
    }

    fn phase_changed(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Worker,
        from: WorkerPhase,
        to: WorkerPhase,
        at: Timestamp,
    ) {
        let id = worker.id();
        let given_up = worker.given_up().map(|why| why.to_string());
        let reason = match to {
            WorkerPhase::Failed { reason } => reason.as_str(),
            WorkerPhase::Draining { .. } => given_up.as_deref().unwrap_or_default(),
            _ => "",
        };
        let said = (!reason.is_empty()).then_some(reason);
        tracing::info!(
            endpoint = %endpoint.name, worker = %id, from = from.as_str(), to = to.as_str(), reason = said,
            "worker"
        );
        if let WorkerPhase::Failed { reason } = to {
            worker.set_last_reason(reason.as_str());
            self.metrics
                .worker_failures
                .with_label_values(&[endpoint.name.as_str(), reason.as_str()])
                .inc();
            if !reason.is_expected() {
                endpoint.count_failure(&worker.spec.group);
            }
        }
        if self.is_rented(endpoint)
            && let Err(error) = self.ledger.event(id, to.as_str(), reason, at)
        {
            tracing::error!(%error, worker = %id, "ledger event not written");
        }
    }

    fn apply(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        effect: Effect,
        at: Timestamp,
    ) {
        match effect {
            Effect::Start => self.start(endpoint, worker),
            Effect::Stop => self.stop(endpoint, worker),
            Effect::Destroy => self.destroy(endpoint, worker),
            // With nobody to take them they are better off where they are.
            Effect::MoveRequests => {
                if endpoint
                    .workers()
                    .iter()
                    .any(|other| other.takes_requests())
                {
                    worker.move_requests();
                }
            }
            Effect::Forget => self.forget(endpoint, worker, at),
        }
    }

    pub(super) fn is_rented(&self, endpoint: &EndpointFleet) -> bool {
        endpoint.settings().market != MarketKind::Fixed
    }

    /// What each group could add now.
    pub(super) async fn group_supply(
        &self,
        endpoint: &EndpointFleet,
    ) -> (Vec<GroupSupply>, Offers) {
        let settings = endpoint.settings();
        let mut supplies = Vec::with_capacity(settings.groups.len());
        let mut offers = Offers::new();
        for group in &settings.groups {
            let found = self.offers_for(endpoint, group).await;
            supplies.push(self.supply_of(endpoint, group, &found));
            offers.insert(group.name.clone(), found);
        }
        (supplies, offers)
    }

    /// The dearest machine that may be rented now; below nothing where none may.
    pub(super) fn room(&self, endpoint: &EndpointFleet) -> Room {
        let room = self.guard.headroom(endpoint, None, now());
        Room {
            usd_per_hour: room.unwrap_or(UsdPerHour(f64::NEG_INFINITY)),
            price_margin: self.guard.settings().price_margin,
        }
    }

    /// What would be rented next of a group, by expectations alone.
    pub(super) fn next_choice(
        &self,
        endpoint: &EndpointFleet,
        group: &WorkerGroup,
        offers: &[Offer],
    ) -> OfferChoice {
        let look = Look {
            endpoint,
            offers,
            room: self.room(endpoint),
            draw: None,
            at: now(),
        };
        self.experience.next(&look, group)
    }

    /// What the best offer of the moment would bring.
    fn supply_of(
        &self,
        endpoint: &EndpointFleet,
        group: &WorkerGroup,
        offers: &[Offer],
    ) -> GroupSupply {
        let choice = self.next_choice(endpoint, group, offers);
        let best = choice.best();
        let agreed = self.agreement.paused(endpoint, &group.name).is_empty();
        GroupSupply {
            group: group.name.clone(),
            speed: best.map_or(group.speed_prior.tokens_per_second, |best| {
                best.tokens_per_second
            }),
            usd_per_hour: best.map_or(group.usd_per_hour, |best| best.usd_per_hour),
            rentable: best.is_some() && agreed,
            told_apart: best.is_some_and(|best| best.machine.is_some()),
            failures_total: endpoint.failures_of(&group.name),
            starts: starts(&endpoint.starts_of(group), group, choice.best(), offers),
        }
    }
}

/// What was seen counts more than what an offer states, and that more than what is believed of all.
fn starts(
    learned: &LearnedStarts,
    group: &WorkerGroup,
    best: Option<&Alternative>,
    offers: &[Offer],
) -> StartOutlook {
    let stated = best
        .filter(|best| best.machine.is_some())
        .and_then(|best| Duration::try_from_secs_f64(best.start_s).ok());
    let cold = learned.cold.or(stated).unwrap_or(learned.cold_believed);
    let usd_per_hour = best.map_or(group.usd_per_hour, |best| best.usd_per_hour);
    let offer = best.and_then(|best| offers.iter().find(|offer| offer.id == best.offer));
    let usd_per_gb = offer
        .and_then(|offer| offer.hardware.as_ref())
        .map_or(0.0, |hardware| hardware.down_usd_per_gb.0);
    let downloads = (group.image_gb + group.model_gb) * usd_per_gb;
    StartOutlook {
        cold,
        cold_usd: usd_per_hour.0 * cold.as_secs_f64() / 3600.0 * COLD_BILLED + downloads,
        restart: learned.restart,
        restart_fails: learned.restart_fails,
    }
}
