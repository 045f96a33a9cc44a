//! One worker's live state.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::eviction::{Eviction, Evictor, by_phase};
use super::load::LoadView;
use super::meter::{Meter, Unfinished};
use super::origin::Origin;
use super::ramp::Ramp;
use super::scanned::Scanned;
use crate::domain::{
    Alternative, BenchmarkResult, BenchmarkSettings, CapacityView, EngineKind, GapLaw, GroupName,
    InstanceId, IterationLaw, KvRoom, RoutingSettings, Secret, Source, SpeedPrior, Timestamp,
    TokensPerSecond, UsdPerHour, WorkerGroup, WorkerId, WorkerPhase, WorkerView,
};
use crate::policy::capacity::{CapacityEstimate, PRIOR_SD_UNSEEN, Second, Terms};
use crate::policy::ejection::{GivenUp, Health, Standing};
use crate::policy::routing::weight::slow_start;

/// What a worker is made from. Its limit and prior are those of its beginning: see `Worker::take_limits_of`.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub id: WorkerId,
    pub group: GroupName,
    pub engine: EngineKind,
    pub max_concurrency: Option<u32>,
    pub kv_tokens: Option<u32>,
    pub speed_prior: SpeedPrior,
    /// By the gateway; given workers are there before it.
    pub is_started: bool,
}

impl WorkerSpec {
    pub fn new(id: WorkerId, group: &WorkerGroup) -> Self {
        Self {
            id,
            group: group.name.clone(),
            engine: group.engine,
            max_concurrency: group.max_concurrency,
            kv_tokens: group.kv_tokens,
            speed_prior: group.speed_prior,
            is_started: !matches!(group.source, Source::Fixed { .. }),
        }
    }
}

/// Where a worker listens. `incarnation` differs after each restart, so that no pooled connection
/// reaches another process that got the same port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub address: SocketAddr,
    pub incarnation: u64,
    /// The model name its engine goes by, once asked.
    pub served_model: Option<String>,
    /// What its engine wants to see as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
}

pub struct Worker {
    pub spec: WorkerSpec,
    pub meter: Meter,
    prior: Mutex<SpeedPrior>,
    /// It was stopped before it last started.
    restarted: AtomicBool,
    pub(super) scan: Scanned,
    phase: Mutex<(WorkerPhase, Timestamp)>,
    contact: ArcSwapOption<Contact>,
    instance: Mutex<Option<InstanceId>>,
    estimate: Mutex<CapacityEstimate>,
    /// When it last became ready after a start.
    started: Mutex<Timestamp>,
    pub(super) health: Mutex<Health>,
    /// Requests that succeeded since.
    finished: AtomicU32,
    last_reason: Mutex<String>,
    market_message: Mutex<String>,
    evictor: Evictor,
    pub origin: Origin,
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

impl Worker {
    pub(super) fn new(
        spec: WorkerSpec,
        phase: WorkerPhase,
        price: UsdPerHour,
        routing: &RoutingSettings,
        now: Timestamp,
    ) -> Self {
        let prior = spec.speed_prior;
        let terms = Terms::new(prior, spec.max_concurrency, spec.kv_tokens, routing);
        let estimate = CapacityEstimate::new(prior, PRIOR_SD_UNSEEN, terms);
        let ramp = Ramp::new(spec.is_started, spec.speed_prior.concurrency);
        let scan = Scanned::new(&estimate, spec.max_concurrency, spec.kv_tokens, price, ramp);
        scan.set_takes_requests(phase.is_ready());
        Self {
            meter: Meter::default(),
            prior: Mutex::new(spec.speed_prior),
            restarted: AtomicBool::new(false),
            scan,
            phase: Mutex::new((phase, now)),
            contact: ArcSwapOption::empty(),
            instance: Mutex::new(None),
            estimate: Mutex::new(estimate),
            started: Mutex::new(now),
            health: Mutex::default(),
            finished: AtomicU32::new(0),
            last_reason: Mutex::new(String::new()),
            market_message: Mutex::new(String::new()),
            evictor: Evictor::default(),
            origin: Origin::default(),
            spec,
        }
    }

    pub fn id(&self) -> &WorkerId {
        &self.spec.id
    }

    pub fn phase(&self) -> (WorkerPhase, Timestamp) {
        *self.phase.lock()
    }

    pub fn set_phase(&self, phase: WorkerPhase, since: Timestamp) {
        let (before, _) = std::mem::replace(&mut *self.phase.lock(), (phase, since));
        if phase == WorkerPhase::Starting && before != WorkerPhase::Starting {
            self.restarted
                .store(before == WorkerPhase::Stopped, Relaxed);
            self.scan.ramp.begin_again();
        }
        let warm = matches!(
            before,
            WorkerPhase::Ready | WorkerPhase::Unhealthy { .. } | WorkerPhase::Draining { .. }
        );
        if phase.is_ready() && !warm {
            self.starts_anew(since);
        }
        self.scan.set_takes_requests(phase.is_ready());
        if let Some(eviction) = by_phase(phase) {
            self.evictor.say(eviction);
        }
    }

    /// Its streams are to go on elsewhere, as far as they can.
    pub fn move_requests(&self) {
        self.evictor.say(Eviction::Movable);
    }

    /// Nobody is waited for any longer.
    pub(super) fn end_requests(&self) {
        self.evictor.say(Eviction::All);
    }

    /// Requests of this kind have to leave the worker.
    pub fn is_evicting(&self, kind: Eviction) -> bool {
        self.evictor.says(kind)
    }

    /// Returns when requests of this kind have to leave the worker.
    pub async fn evicted(&self, kind: Eviction) {
        self.evictor.said(kind).await;
    }

    fn starts_anew(&self, now: Timestamp) {
        *self.started.lock() = now;
        self.finished.store(0, Relaxed);
        self.health.lock().start_anew();
    }

    /// It was stopped before it last started: less is left to do than for a new one.
    pub fn was_restarted(&self) -> bool {
        self.restarted.load(Relaxed)
    }

    pub fn takes_requests(&self) -> bool {
        self.scan.takes_requests()
    }

    /// Share of its speed that choices trust it with; 0 while ejected.
    pub fn weight(&self) -> f64 {
        self.scan.weight()
    }

    /// Trusted, ejected and why, or on probation.
    pub fn standing(&self) -> Standing {
        self.health.lock().standing()
    }

    /// Why it is to be replaced by another.
    pub fn given_up(&self) -> Option<GivenUp> {
        self.health.lock().given_up()
    }

    /// Sets the weight for this moment.
    pub(super) fn reweigh(&self, slow_start_window: Duration, now: Timestamp) {
        let ready_for = now.since(*self.started.lock());
        let finished = self.finished.load(Relaxed);
        let trust = self.health.lock().weight();
        let share = slow_start(ready_for, finished, slow_start_window);
        self.scan.set_weight(trust * share);
    }

    pub(super) fn request_succeeded(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    /// No requests until the next probe succeeded.
    pub(super) fn doubt(&self) -> bool {
        self.scan.set_takes_requests(false)
    }

    pub fn contact(&self) -> Option<Arc<Contact>> {
        self.contact.load_full()
    }

    /// A new address is a new incarnation; a new key is not.
    pub fn set_address(&self, address: Option<SocketAddr>, group: Option<&WorkerGroup>) {
        let key = |address| group.and_then(|group| group.key_for(address)).cloned();
        let now = self.contact();
        let contact = address.map(|address| match &now {
            Some(now) if now.address == address => Contact {
                api_key: key(address),
                ..(**now).clone()
            },
            _ => Contact {
                address,
                incarnation: INCARNATIONS.fetch_add(1, Relaxed),
                served_model: None,
                api_key: key(address),
            },
        });
        let incarnation = contact.as_ref().map_or(0, |contact| contact.incarnation);
        self.scan.set_incarnation(incarnation);
        if contact.as_ref() != now.as_deref() {
            self.contact.store(contact.map(Arc::new));
        }
    }

    pub fn set_served_model(&self, of: &Contact, model: String) {
        self.contact.rcu(|current| match current {
            Some(now) if now.incarnation == of.incarnation => Some(Arc::new(Contact {
                served_model: Some(model.clone()),
                ..(**now).clone()
            })),
            other => other.clone(),
        });
    }

    pub fn instance(&self) -> Option<InstanceId> {
        self.instance.lock().clone()
    }

    pub fn set_instance(&self, id: InstanceId) {
        *self.instance.lock() = Some(id);
    }

    pub fn set_price(&self, price: UsdPerHour) {
        self.scan.set_price(price);
    }

    pub fn price(&self) -> UsdPerHour {
        self.scan.price()
    }

    pub fn last_reason(&self) -> String {
        self.last_reason.lock().clone()
    }

    pub fn set_last_reason(&self, reason: impl Into<String>) {
        *self.last_reason.lock() = reason.into();
    }

    /// What its market last said of its machine; may be empty.
    pub fn market_message(&self) -> String {
        self.market_message.lock().clone()
    }

    pub fn set_market_message(&self, message: &str) {
        let mut kept = self.market_message.lock();
        if *kept != message {
            message.clone_into(&mut kept);
        }
    }

    pub fn speed(&self) -> TokensPerSecond {
        self.scan.speed()
    }

    pub fn gap(&self) -> GapLaw {
        self.scan.gap()
    }

    /// Where the KV cache's size is known.
    pub fn kv(&self) -> Option<KvRoom> {
        self.scan.kv()
    }

    pub fn max_concurrency(&self) -> Option<u32> {
        self.scan.max_concurrency()
    }

    /// A reload changed the group: its limits count from now on; what was measured is kept unless the
    /// prior itself is another.
    pub(super) fn take_limits_of(&self, group: &WorkerGroup, routing: &RoutingSettings) {
        self.scan.set_kv_capacity(group.kv_tokens);
        self.scan.set_max_concurrency(group.max_concurrency);
        let stated = group.speed_prior;
        let terms = Terms::new(stated, group.max_concurrency, group.kv_tokens, routing);
        let before = std::mem::replace(&mut *self.prior.lock(), stated);
        let mut estimate = self.estimate.lock();
        if before == stated {
            estimate.state_on(terms);
        } else {
            *estimate = CapacityEstimate::new(stated, PRIOR_SD_UNSEEN, terms);
        }
        self.scan.set_estimate(&estimate);
    }

    /// What is believed of this machine before its streams tell, where that is more than its group's prior; `sd` as a
    /// share of it.
    pub fn expect_speed(&self, speed: SpeedPrior, sd: f64) {
        let mut estimate = self.estimate.lock();
        *estimate = CapacityEstimate::new(speed, sd, estimate.terms());
        self.scan.set_estimate(&estimate);
    }

    /// What it showed before it serves is what is believed of it until its streams tell better.
    pub fn take_benchmark(&self, result: &BenchmarkResult, asked: Option<&BenchmarkSettings>) {
        let mut estimate = self.estimate.lock();
        estimate.take_benchmark(result, asked);
        self.scan.set_estimate(&estimate);
    }

    /// Found again after a restart.
    pub fn recall_rented(&self, offer: Alternative) {
        if self.origin.rented_as().is_none() {
            let expected = SpeedPrior {
                tokens_per_second: offer.tokens_per_second,
                ..self.spec.speed_prior
            };
            self.expect_speed(expected, offer.speed_sd);
            self.origin.set_rented_as(offer);
        }
    }

    /// The same for what it once showed.
    pub fn recall_benchmark(&self, result: BenchmarkResult, asked: Option<&BenchmarkSettings>) {
        if self.origin.benchmark().is_none() {
            self.take_benchmark(&result, asked);
            self.origin.set_benchmark(result);
        }
    }

    /// The usual time between two tokens of one stream, at the present concurrency.
    pub fn token_gap(&self) -> Duration {
        let streams = f64::from(self.load_view().in_flight().max(1));
        Duration::try_from_secs_f64(self.gap().at(streams)).unwrap_or_default()
    }

    /// Folds what passed since the last call into the estimate.
    pub(super) fn update_estimate(&self, seconds: f64, now: Timestamp) -> Second {
        let load = Unfinished {
            outstanding: self.load_view().outstanding(),
            prefilling: self.scan.prefilling(),
            in_flight: self.load_view().in_flight(),
            kv_reserved_tokens: self.scan.kv_used(),
        };
        let second = self.meter.take_second(seconds, load, now);
        let mut estimate = self.estimate.lock();
        estimate.observe(&second);
        self.scan.set_estimate(&estimate);
        second
    }

    /// The work changed, not the worker.
    pub(super) fn learn_anew(&self) {
        self.estimate.lock().widen();
    }

    /// The law of its iterations.
    pub fn law(&self) -> IterationLaw {
        self.estimate.lock().law()
    }

    pub fn capacity(&self) -> CapacityView {
        self.estimate.lock().view()
    }

    /// What demand may be covered with: nothing of a worker that is to be replaced.
    pub fn dependable(&self) -> TokensPerSecond {
        if self.given_up().is_some() {
            return TokensPerSecond::ZERO;
        }
        self.estimate.lock().dependable()
    }

    pub(super) fn set_speed(&self, speed: TokensPerSecond) {
        self.scan.set_speed(speed);
    }

    /// What its streams have told so far.
    pub(super) fn estimate(&self) -> CapacityEstimate {
        self.estimate.lock().clone()
    }

    pub(super) fn set_estimate(&self, learned: CapacityEstimate) {
        self.scan.set_estimate(&learned);
        *self.estimate.lock() = learned;
    }

    /// True if the number changed.
    pub(super) fn set_elsewhere(&self, in_flight: u32) -> bool {
        self.scan.set_elsewhere(in_flight) != in_flight
    }

    /// Requests in flight, those of a gateway that is ending included.
    pub fn in_flight(&self) -> u32 {
        self.load_view().in_flight() + self.scan.elsewhere()
    }

    pub fn load_view(&self) -> LoadView {
        self.scan.load.view()
    }

    pub fn view(&self) -> WorkerView {
        let (phase, phase_since) = self.phase();
        let load = self.scan.load.view();
        WorkerView {
            id: self.spec.id.clone(),
            group: self.spec.group.clone(),
            phase,
            phase_since,
            speed: self.speed(),
            dependable: Some(self.dependable()),
            outstanding: load.outstanding(),
            in_flight: self.in_flight(),
            usd_per_hour: self.price(),
            stopped_usd_per_hour: self.origin.stopped_price(),
            spare: self.origin.spare_of().is_some(),
            ends_soon: self.origin.ends_soon(),
            ejected_until: match self.standing() {
                Standing::Ejected { until, .. } => Some(until),
                Standing::Trusted | Standing::Probation { .. } => None,
            },
        }
    }
}
