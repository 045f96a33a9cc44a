//! One worker's live state.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::eviction::{Eviction, Evictor, by_phase};
use super::load::{Load, LoadView};
use super::meter::Meter;
use crate::domain::{
    Candidate, EngineKind, GroupName, InstanceId, Secret, SpeedPrior, Timestamp, TokensPerSecond,
    UsdPerHour, WorkerGroup, WorkerId, WorkerPhase, WorkerView,
};
use crate::policy::speed::SpeedEstimate;

/// What a worker is made from. Its limit and prior are those of its beginning: see `Worker::take_limits_of`.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub id: WorkerId,
    pub group: GroupName,
    pub engine: EngineKind,
    pub max_concurrency: Option<u32>,
    pub speed_prior: SpeedPrior,
}

impl WorkerSpec {
    pub fn new(id: WorkerId, group: &WorkerGroup) -> Self {
        Self {
            id,
            group: group.name.clone(),
            engine: group.engine,
            max_concurrency: group.max_concurrency,
            speed_prior: group.speed_prior,
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
    pub(super) load: Load,
    /// What another gateway, which is ending, still has in flight there.
    elsewhere: AtomicU32,
    /// Requests at once; 0: its own queue decides.
    concurrency_max: AtomicU32,
    prior: Mutex<SpeedPrior>,
    takes_requests: AtomicBool,
    /// It was stopped before it last started.
    restarted: AtomicBool,
    phase: Mutex<(WorkerPhase, Timestamp)>,
    contact: ArcSwapOption<Contact>,
    instance: Mutex<Option<InstanceId>>,
    usd_per_hour: AtomicU64,
    estimate: Mutex<SpeedEstimate>,
    speed: AtomicU64,
    last_reason: Mutex<String>,
    evictor: Evictor,
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

impl Worker {
    pub(super) fn new(
        spec: WorkerSpec,
        phase: WorkerPhase,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Self {
        let estimate = SpeedEstimate::new(spec.speed_prior, spec.max_concurrency);
        let speed = estimate.speed();
        Self {
            meter: Meter::default(),
            load: Load::default(),
            elsewhere: AtomicU32::new(0),
            concurrency_max: AtomicU32::new(spec.max_concurrency.unwrap_or(0)),
            prior: Mutex::new(spec.speed_prior),
            takes_requests: AtomicBool::new(phase.is_ready()),
            restarted: AtomicBool::new(false),
            phase: Mutex::new((phase, now)),
            contact: ArcSwapOption::empty(),
            instance: Mutex::new(None),
            usd_per_hour: AtomicU64::new(price.0.to_bits()),
            estimate: Mutex::new(estimate),
            speed: AtomicU64::new(speed.0.to_bits()),
            last_reason: Mutex::new(String::new()),
            evictor: Evictor::default(),
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
        }
        self.takes_requests.store(phase.is_ready(), SeqCst);
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

    /// Returns when requests of this kind have to leave the worker.
    pub async fn evicted(&self, kind: Eviction) {
        self.evictor.said(kind).await;
    }

    /// It was stopped before it last started: less is left to do than for a new one.
    pub fn was_restarted(&self) -> bool {
        self.restarted.load(Relaxed)
    }

    pub fn takes_requests(&self) -> bool {
        self.takes_requests.load(SeqCst)
    }

    /// No requests until the next probe succeeded.
    pub(super) fn doubt(&self) -> bool {
        self.takes_requests.swap(false, SeqCst)
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
        self.usd_per_hour.store(price.0.to_bits(), Relaxed);
    }

    pub fn price(&self) -> UsdPerHour {
        UsdPerHour(f64::from_bits(self.usd_per_hour.load(Relaxed)))
    }

    pub fn last_reason(&self) -> String {
        self.last_reason.lock().clone()
    }

    pub fn set_last_reason(&self, reason: impl Into<String>) {
        *self.last_reason.lock() = reason.into();
    }

    pub fn speed(&self) -> TokensPerSecond {
        TokensPerSecond(f64::from_bits(self.speed.load(Relaxed)))
    }

    pub fn max_concurrency(&self) -> Option<u32> {
        match self.concurrency_max.load(Relaxed) {
            0 => None,
            most => Some(most),
        }
    }

    /// A reload changed the group: its limit counts from now on; what was measured is kept unless the
    /// prior itself is another.
    pub(super) fn take_limits_of(&self, group: &WorkerGroup) {
        let mut prior = self.prior.lock();
        if *prior == group.speed_prior && self.max_concurrency() == group.max_concurrency {
            return;
        }
        let most = group.max_concurrency.unwrap_or(0);
        self.concurrency_max.store(most, Relaxed);
        let mut estimate = self.estimate.lock();
        if std::mem::replace(&mut *prior, group.speed_prior) == group.speed_prior {
            estimate.state_at(group.speed_prior, group.max_concurrency);
        } else {
            *estimate = SpeedEstimate::new(group.speed_prior, group.max_concurrency);
        }
        self.speed.store(estimate.speed().0.to_bits(), Relaxed);
    }

    /// The usual time between two tokens of one stream, at the present concurrency.
    pub fn token_gap(&self) -> Duration {
        let (a, c) = self.estimate.lock().law();
        let streams = f64::from(self.load.view().in_flight().max(1));
        Duration::try_from_secs_f64(a + c * streams).unwrap_or_default()
    }

    /// Folds the token gaps since the last call into the speed.
    pub fn update_speed(&self) {
        if let Some(sample) = self.meter.take_sample() {
            let mut estimate = self.estimate.lock();
            estimate.observe(sample.mean_gap_s, sample.concurrency, sample.tokens);
            self.speed.store(estimate.speed().0.to_bits(), Relaxed);
        }
    }

    pub(super) fn set_speed(&self, speed: TokensPerSecond) {
        self.speed.store(speed.0.to_bits(), Relaxed);
    }

    /// What its streams have told so far.
    pub(super) fn estimate(&self) -> SpeedEstimate {
        self.estimate.lock().clone()
    }

    pub(super) fn set_estimate(&self, learned: SpeedEstimate) {
        self.set_speed(learned.speed());
        *self.estimate.lock() = learned;
    }

    /// True if the number changed.
    pub(super) fn set_elsewhere(&self, in_flight: u32) -> bool {
        self.elsewhere.swap(in_flight, Relaxed) != in_flight
    }

    /// Requests in flight, those of a gateway that is ending included.
    pub fn in_flight(&self) -> u32 {
        self.load.view().in_flight() + self.elsewhere.load(Relaxed)
    }

    pub fn load_view(&self) -> LoadView {
        self.load.view()
    }

    pub(super) fn candidate(&self, slot: usize, tried: bool) -> (Candidate, LoadView) {
        let load = self.load.view();
        let candidate = Candidate {
            slot,
            ready: self.takes_requests(),
            speed: self.speed(),
            outstanding: load.outstanding(),
            in_flight: self.in_flight(),
            max_concurrency: self.max_concurrency(),
            tried,
        };
        (candidate, load)
    }

    pub fn view(&self) -> WorkerView {
        let (phase, phase_since) = self.phase();
        let load = self.load.view();
        WorkerView {
            id: self.spec.id.clone(),
            group: self.spec.group.clone(),
            phase,
            phase_since,
            speed: self.speed(),
            outstanding: load.outstanding(),
            in_flight: self.in_flight(),
            usd_per_hour: self.price(),
        }
    }
}
