//! Giving workers to requests: policy chooses among all, the claim makes sure that the choice still holds.

use std::sync::Arc;

use super::claim::Claim;
use super::endpoint::EndpointFleet;
use super::worker::Worker;
use crate::domain::{ClientKey, Contention, NoWorker, PredictedCost, Prefix, WorkerId};
use crate::policy::admission::{Places, may_take_place};
use crate::policy::choose_worker;
use crate::policy::routing::affinity::Held;
use crate::policy::routing::hold::Hold;

/// A claim may lose the race for a worker this often before the request waits instead.
const CLAIM_ATTEMPTS: usize = 64;

/// What the choice of a worker depends on.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) cost: &'a PredictedCost,
    pub(super) tried: &'a [WorkerId],
    pub(super) prefix: &'a Prefix,
    pub(super) streamed: bool,
    pub(super) client: &'a ClientKey,
    /// A stream whose client has a part of it.
    pub(super) resumed: bool,
}

#[derive(Debug)]
pub struct NoClaim(pub NoWorker);

impl EndpointFleet {
    pub(super) fn claim(self: &Arc<Self>, wish: Wish<'_>) -> Result<Claim, NoClaim> {
        let settings = self.settings.load();
        let table = self.table.load();
        let held = self.who_holds(wish.prefix);
        let hold = if wish.streamed {
            Hold::new(wish.cost)
        } else {
            Hold::unseen(wish.cost)
        };
        let contention = self.present.contention();
        if contention == Contention::Several && !self.may_take_place(&wish) {
            return Err(NoClaim(NoWorker::AllBusy));
        }
        for _ in 0..CLAIM_ATTEMPTS {
            let candidates = table.iter().enumerate().map(|(slot, worker)| {
                let tried = !wish.tried.is_empty() && wish.tried.contains(worker.id());
                worker
                    .scan
                    .candidate(slot, tried, |incarnation| held.share_of(incarnation))
            });
            let choice = choose_worker(wish.cost, candidates, &settings.routing, contention)
                .map_err(NoClaim)?;
            let worker = &table[choice.slot];
            if !worker.scan.load.claim(&choice, hold.work()) {
                continue;
            }
            // The scaler stops the flow first and looks for requests in flight second; this looks in
            // the other order, so one of the two sees the other.
            let claim = Claim::new(Arc::clone(self), Arc::clone(worker), hold, wish.client);
            if worker.takes_requests() {
                self.remember(worker, wish.prefix);
                return Ok(claim);
            }
            claim.drop_quietly();
        }
        Err(NoClaim(NoWorker::AllBusy))
    }

    /// One of the last free places may be meant for another client.
    fn may_take_place(&self, wish: &Wish<'_>) -> bool {
        let spare = self.settings.load().routing.spare_places;
        if wish.resumed || spare <= 0.0 {
            return true;
        }
        let mut places = Places::default();
        for worker in self.table.load().iter() {
            // A worker that queues has always a place.
            let Some(of_worker) = worker.scan.places() else {
                return true;
            };
            places.free += of_worker.free;
            places.all += of_worker.all;
        }
        let (own, clients) = self.present.own(wish.client);
        places.free == 0 || may_take_place(places, own, clients, spare)
    }

    /// There are ready workers, and each was tried. Nothing to wait for that is here already.
    pub(super) fn tried_all_ready(&self, tried: &[WorkerId]) -> bool {
        if tried.is_empty() {
            return false;
        }
        let table = self.table.load();
        let mut ready = table
            .iter()
            .filter(|worker| worker.takes_requests() && worker.weight() > 0.0)
            .peekable();
        ready.peek().is_some() && ready.all(|worker| tried.contains(worker.id()))
    }

    fn who_holds(&self, prefix: &Prefix) -> Held {
        if prefix.blocks().is_empty() {
            return Held::default();
        }
        self.beliefs.lock().who_holds(prefix)
    }

    fn remember(&self, worker: &Worker, prefix: &Prefix) {
        let incarnation = worker.scan.incarnation();
        if incarnation == 0 || prefix.blocks().is_empty() {
            return;
        }
        let settings = self.settings.load();
        let now = self.demand.last_active();
        self.beliefs
            .lock()
            .learn(incarnation, prefix, &settings.routing.affinity, now);
    }
}
