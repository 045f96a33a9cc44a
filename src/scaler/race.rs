//! Spares: machines rented beside others whose start is doubtful, and what becomes of them.

use std::sync::Arc;

use super::Scaler;
use super::experience::{Offers, Wanted};
use crate::domain::{OfferChoice, Release, Timestamp, WorkerEvent, WorkerId, WorkerPhase};
use crate::fleet::{EndpointFleet, Worker};
use crate::policy::offers::race::{Race, is_doubtful, settle};

const LOST: &str = "another machine was ready first";

impl Scaler {
    /// One spare at a time for an endpoint, within its `max_workers` and what may be spent.
    pub(super) fn rent_spare(
        &self,
        endpoint: &Arc<EndpointFleet>,
        rented: &WorkerId,
        choice: &OfferChoice,
        offers: &Offers,
        at: Timestamp,
    ) {
        let settings = endpoint.settings();
        let doubtful = |best| is_doubtful(best, &settings.offers);
        let workers = endpoint.workers();
        let live = workers
            .iter()
            .filter(|worker| !worker.phase().0.is_ending());
        if !choice.best().is_some_and(doubtful)
            || live.count() >= settings.scaling.max_workers as usize
            || workers
                .iter()
                .any(|worker| worker.origin.spare_of().is_some())
        {
            return;
        }
        let group = settings.group(&choice.group).into_iter();
        let wanted = group.map(|group| Wanted {
            group,
            as_good_as: None,
        });
        let room = self.room(endpoint);
        let spares = self
            .experience
            .choose_all(endpoint, wanted, offers, room, None, at);
        let Some(spare) = spares.first() else { return };
        let of_group = offers.get(&choice.group);
        let offer = spare
            .chosen
            .as_ref()
            .and_then(|id| of_group?.iter().find(|offer| offer.id == *id));
        if let Some(offer) = offer {
            let reason = format!("beside {rented}, whose start is doubtful");
            tracing::info!(endpoint = %endpoint.name, %reason, "spare");
            if let Some(worker) = self.rent(endpoint, spare, offer, &reason, at) {
                worker.origin.set_spare_of(Some(rented.clone()));
            }
        }
    }

    /// Ends races that are decided.
    pub(super) fn settle_races(&self, endpoint: &Arc<EndpointFleet>) {
        for spare in endpoint.workers().iter() {
            let Some(rival) = spare.origin.spare_of() else {
                continue;
            };
            let rival = endpoint.worker(&rival);
            let phase = |worker: &Arc<Worker>| -> WorkerPhase { worker.phase().0 };
            let race = settle(phase(spare), rival.as_ref().map(phase));
            if race == Race::On {
                continue;
            }
            spare.origin.set_spare_of(None);
            let loser = match race {
                Race::SpareWon => rival.as_ref(),
                Race::SpareLost => Some(spare),
                Race::On | Race::StandsIn => None,
            };
            if let Some(loser) = loser {
                loser.set_last_reason(LOST);
                let order = WorkerEvent::DrainOrdered(Release::Destroy);
                self.advance(endpoint, loser, order);
            }
        }
    }
}
