//! One endpoint's workers, waiting room and demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::arrival::StartTimes;
use super::assign::{NoClaim, Wish};
use super::claim::Claim;
use super::demand::Demand;
use super::presence::Present;
use super::second_tries::SecondTries;
use super::share;
use super::waiting::{Held, Room};
use super::worker::{Worker, WorkerSpec};
use crate::domain::{
    ClientKey, Contention, Endpoint, EndpointName, FleetSnapshot, GroupName, NoWorker,
    PredictedCost, PredictionView, Prefix, RequestShape, ScalingPlan, Timestamp, Tokens,
    UsdPerHour, WaitReason, WaitingView, WorkerEvent, WorkerId, WorkerPhase,
};
use crate::policy::admission::{Refusal, may_wait};
use crate::policy::cost::CostModel;
use crate::policy::queueing::Claimant;
use crate::policy::routing::affinity::Beliefs;

/// Waiting requests looked at for one that a free worker may take (those ahead may have tried it).
const DISPATCH_LOOKAHEAD: usize = 16;

/// A request at the door.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub client: ClientKey,
    pub cost: PredictedCost,
    pub body_bytes: usize,
    pub tried: Vec<WorkerId>,
    /// Among its client's requests; the lower goes first.
    pub priority: i32,
    /// A stream that goes on elsewhere after its worker was lost: before everybody, and never refused.
    pub resumed: bool,
    pub prefix: Prefix,
    /// Its first token will be seen, and with it that its prompt is read.
    pub streamed: bool,
}

impl Ticket {
    fn claimant(&self) -> Claimant {
        Claimant {
            client: self.client.clone(),
            cost: self.cost.total,
            priority: self.priority,
            resumed: self.resumed,
        }
    }

    fn wish(&self) -> Wish<'_> {
        Wish {
            cost: &self.cost,
            tried: &self.tried,
            prefix: &self.prefix,
            streamed: self.streamed,
            client: &self.client,
            resumed: self.resumed,
        }
    }
}

pub enum Admission {
    Assigned(Claim),
    Held(Held),
    /// Every ready worker was tried for this request already.
    AllTried,
    /// The endpoint was removed.
    Closed,
    Refused {
        refusal: Refusal,
        retry_after: Duration,
    },
}

pub struct EndpointFleet {
    pub name: EndpointName,
    pub(super) settings: ArcSwap<Endpoint>,
    removed: AtomicBool,
    /// The gateway ends: nobody gets a worker or a place any more.
    closed: AtomicBool,
    workers: DashMap<WorkerId, Arc<Worker>>,
    /// The same workers ordered by id; what choices are made from.
    pub(super) table: ArcSwap<Vec<Arc<Worker>>>,
    pub(super) beliefs: Mutex<Beliefs>,
    pub(super) reviewed_ms: AtomicU64,
    pub(super) room: Mutex<Room>,
    pub(super) present: Present,
    pub(super) demand: Demand,
    cost_model: Mutex<CostModel>,
    events: Mutex<Vec<(WorkerId, WorkerEvent)>>,
    failures: DashMap<GroupName, u64>,
    last_plan: ArcSwapOption<ScalingPlan>,
    /// What is held by another gateway that is ending: capacity is needed for it too.
    pub(super) waiting_elsewhere: Mutex<WaitingView>,
    pub(super) start_times: Mutex<StartTimes>,
    /// What those who wait wait for.
    pub(super) reason: watch::Sender<WaitReason>,
    pub second_tries: SecondTries,
    wake: Arc<Notify>,
}

impl EndpointFleet {
    pub(super) fn new(settings: Endpoint, wake: &Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            name: settings.name.clone(),
            settings: ArcSwap::from_pointee(settings),
            removed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            workers: DashMap::new(),
            table: ArcSwap::default(),
            beliefs: Mutex::default(),
            reviewed_ms: AtomicU64::new(0),
            room: Mutex::default(),
            present: Present::default(),
            demand: Demand::default(),
            cost_model: Mutex::default(),
            events: Mutex::default(),
            failures: DashMap::new(),
            last_plan: ArcSwapOption::empty(),
            waiting_elsewhere: Mutex::default(),
            start_times: Mutex::default(),
            reason: watch::Sender::new(WaitReason::NoneReady),
            second_tries: SecondTries::default(),
            wake: Arc::clone(wake),
        })
    }

    /// When workers were last looked at, to a second the present; `None` before the first time.
    pub(super) fn reviewed_at(&self) -> Option<Timestamp> {
        let ms = self.reviewed_ms.load(Relaxed);
        (ms > 0).then(|| Timestamp::from_millis(ms))
    }

    pub fn settings(&self) -> Arc<Endpoint> {
        self.settings.load_full()
    }

    pub(super) fn replace_settings(&self, settings: Endpoint) {
        let settings = Arc::new(settings);
        self.settings.store(Arc::clone(&settings));
        for worker in self.table.load().iter() {
            if let Some(group) = settings.group(&worker.spec.group) {
                worker.take_limits_of(group, &settings.routing);
            }
        }
        self.removed.store(false, Relaxed);
    }

    /// Takes no more requests; those that wait are told so.
    pub(super) fn mark_removed(&self) {
        let waiting = {
            let mut room = self.room.lock();
            self.removed.store(true, Relaxed);
            room.close()
        };
        drop(waiting);
    }

    /// Nobody is served or held any more, and who is served now is told so; the workers are left as they are.
    pub(super) fn close(&self) {
        let waiting = {
            let mut room = self.room.lock();
            self.closed.store(true, Relaxed);
            room.close()
        };
        drop(waiting);
        for worker in self.workers().iter() {
            worker.end_requests();
        }
    }

    /// Left the configuration: takes no requests, its workers are being released.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    // --- for the request path ---

    pub fn predict(&self, shape: &RequestShape) -> PredictedCost {
        let kappa = self.settings.load().routing.kappa;
        self.cost_model.lock().predict(shape, kappa)
    }

    /// A request arrived, whatever becomes of it.
    pub fn arrived(&self, cost: &PredictedCost, now: Timestamp) {
        self.demand.arrived(cost.total, now);
    }

    /// A request waited so long for a worker, or in vain.
    pub fn waited(&self, ticket: &Ticket, time: Duration) {
        if time > self.settings.load().scaling.slo.wait {
            self.demand.late(ticket.cost.total);
        }
    }

    /// A request is done; `actual` is what it really cost.
    pub fn settled(&self, predicted: &PredictedCost, actual: &PredictedCost) {
        self.demand.corrected(predicted.total, actual.total);
    }

    /// What is believed of requests, for operators.
    pub fn predictions(&self, clients_max: usize) -> PredictionView {
        self.cost_model.lock().view(clients_max)
    }

    pub fn learn(&self, shape: &RequestShape, prompt_tokens: Option<f64>, output_tokens: f64) {
        self.cost_model
            .lock()
            .learn(shape, prompt_tokens, output_tokens);
    }

    /// A worker now, a place in the room, or a refusal. Those who wait already go first, and before them
    /// streams that are being continued.
    pub fn admit(self: &Arc<Self>, ticket: &Ticket, now: Timestamp) -> Admission {
        let settings = self.settings.load();
        if self.closed.load(Relaxed) {
            return Admission::Closed;
        }
        if self.tried_all_ready(&ticket.tried) {
            return Admission::AllTried;
        }
        let first = ticket.resumed || self.room.lock().is_empty();
        if first {
            match self.claim(ticket.wish()) {
                Ok(claim) => return Admission::Assigned(claim),
                Err(NoClaim(NoWorker::AllTried)) => return Admission::AllTried,
                Err(NoClaim(NoWorker::NoneReady | NoWorker::AllBusy)) => {}
            }
        }
        let entered = {
            let mut room = self.room.lock();
            if self.is_removed() || self.closed.load(Relaxed) {
                return Admission::Closed;
            }
            let own = room.own(&ticket.client);
            let may = may_wait(room.total(), own, ticket.body_bytes, &settings.waiting);
            match may {
                Err(refusal) if !ticket.resumed => Err(refusal),
                _ => Ok(room.enter(ticket, &ticket.claimant(), now)),
            }
        };
        match entered {
            Ok((place, receiver)) => {
                let held = Held::new(Arc::clone(self), place, receiver);
                // A worker may have become free between the look and the entry.
                self.dispatch();
                self.wake.notify_one();
                Admission::Held(held)
            }
            Err(refusal) => Admission::Refused {
                refusal,
                retry_after: self.retry_after(now),
            },
        }
    }

    /// A worker besides those in `ticket.tried`, now or not at all, and only if nobody waits.
    pub fn claim_beside(self: &Arc<Self>, ticket: &Ticket) -> Option<Claim> {
        let nobody_waits = self.room.lock().is_empty();
        nobody_waits
            .then(|| self.claim(ticket.wish()).ok())
            .flatten()
    }

    pub fn waiting(&self) -> WaitingView {
        self.room.lock().view()
    }

    /// A worker broke a connection: no more requests until a probe clears it.
    pub fn doubt(&self, worker: &Worker) {
        if worker.doubt() {
            self.report(worker.id(), WorkerEvent::ProbeFailed);
        }
    }

    pub(super) fn place_freed(self: &Arc<Self>, worker: &Worker) {
        self.dispatch();
        if !worker.takes_requests() && worker.in_flight() == 0 {
            self.wake.notify_one();
        }
    }

    /// A worker has read a prompt and may be sent the next.
    pub(super) fn prompt_read(self: &Arc<Self>) {
        if self.present.contention() == Contention::Several && !self.room.lock().is_empty() {
            self.dispatch();
        }
    }

    /// Gives free workers to waiting requests, in their order.
    pub fn dispatch(self: &Arc<Self>) {
        self.look_why_they_wait();
        while let Some((sender, claim)) = self.next_assignment() {
            if let Err(claim) = sender.send(claim) {
                claim.drop_quietly();
            }
        }
    }

    fn next_assignment(self: &Arc<Self>) -> Option<(tokio::sync::oneshot::Sender<Claim>, Claim)> {
        let mut room = self.room.lock();
        let (place, claim) =
            room.in_order()
                .take(DISPATCH_LOOKAHEAD)
                .find_map(|(place, waiter)| {
                    let claim = self.claim(waiter.wish()).ok()?;
                    Some((place, claim))
                })?;
        match room.serve(&place) {
            Some(sender) => Some((sender, claim)),
            None => {
                claim.drop_quietly();
                None
            }
        }
    }

    // --- for the scaler and the prober ---

    pub fn workers(&self) -> Arc<Vec<Arc<Worker>>> {
        self.table.load_full()
    }

    pub fn worker(&self, id: &WorkerId) -> Option<Arc<Worker>> {
        self.workers.get(id).map(|entry| Arc::clone(entry.value()))
    }

    pub fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    pub fn add_worker(
        &self,
        spec: WorkerSpec,
        phase: WorkerPhase,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Arc<Worker> {
        let routing = &self.settings.load().routing;
        let worker = Arc::new(Worker::new(spec, phase, price, routing, now));
        self.workers
            .insert(worker.id().clone(), Arc::clone(&worker));
        self.rebuild_table();
        worker
    }

    pub fn forget_worker(&self, id: &WorkerId) {
        self.workers.remove(id);
        self.rebuild_table();
    }

    fn rebuild_table(&self) {
        self.table.rcu(|_| {
            let mut table: Vec<_> = self
                .workers
                .iter()
                .map(|entry| Arc::clone(entry.value()))
                .collect();
            table.sort_by(|a, b| a.id().cmp(b.id()));
            table
        });
    }

    /// Something happened to a worker; the scaler takes it at its next look.
    pub fn report(&self, worker: &WorkerId, event: WorkerEvent) {
        self.events.lock().push((worker.clone(), event));
        self.wake.notify_one();
    }

    pub fn take_events(&self) -> Vec<(WorkerId, WorkerEvent)> {
        std::mem::take(&mut *self.events.lock())
    }

    /// Workers of the group that failed since the gateway started.
    pub fn failures_of(&self, group: &GroupName) -> u64 {
        self.failures.get(group).map_or(0, |count| *count)
    }

    pub fn count_failure(&self, group: &GroupName) {
        *self.failures.entry(group.clone()).or_default() += 1;
    }

    /// The plan of the scaler's last tick.
    pub fn last_plan(&self) -> Option<Arc<ScalingPlan>> {
        self.last_plan.load_full()
    }

    pub fn set_last_plan(&self, plan: ScalingPlan) {
        self.last_plan.store(Some(Arc::new(plan)));
    }

    pub fn snapshot(&self, now: Timestamp) -> FleetSnapshot {
        let workers: Vec<_> = self
            .table
            .load()
            .iter()
            .map(|worker| worker.view())
            .collect();
        let waiting = share::together(self.waiting(), *self.waiting_elsewhere.lock());
        if waiting.requests > 0 || workers.iter().any(|worker| worker.in_flight > 0) {
            self.demand.active(now);
        }
        FleetSnapshot {
            endpoint: self.name.clone(),
            taken_at: now,
            workers,
            waiting,
            demand: self.demand.view(),
        }
    }

    /// Outstanding work of all workers; zero when nothing is in flight.
    pub fn outstanding(&self) -> Tokens {
        self.table
            .load()
            .iter()
            .map(|worker| worker.load_view().outstanding())
            .sum()
    }
}
