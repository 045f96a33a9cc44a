//! The shared state where the request path and the scaler meet: workers and their load, the waiting
//! rooms, demand. No network, no decisions of its own: `policy` decides, this claims and counts.

mod account;
mod arrival;
mod assign;
mod claim;
mod demand;
mod endpoint;
mod eviction;
mod judge;
mod load;
mod meter;
mod origin;
mod presence;
mod ramp;
mod scanned;
mod second_tries;
mod share;
#[cfg(test)]
mod tests;
mod waiting;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::domain::{Endpoint, EndpointName, MoneyView, Timestamp, WorkerId};

pub use account::{Account, Allowance, Quotas};
pub use arrival::LearnedStarts;
pub use assign::NoClaim;
pub use claim::Claim;
pub use endpoint::{Admission, EndpointFleet, Ticket};
pub use eviction::Eviction;
pub use judge::Reviewed;
pub use load::LoadView;
pub use meter::{Meter, MeterTotals};
pub use origin::Origin;
pub use presence::Presence;
pub use second_tries::SecondTries;
pub use share::{Learned, Loads, WorkerTable};
pub use waiting::{Held, News, Standing};
pub use worker::{Contact, Worker, WorkerSpec};

/// All endpoints by name.
pub struct Fleet {
    endpoints: ArcSwap<BTreeMap<EndpointName, Arc<EndpointFleet>>>,
    wake: Arc<Notify>,
    under_way: Arc<AtomicUsize>,
    leaving: AtomicBool,
    has_predecessor: AtomicBool,
    /// When a rented machine that does not say which it is last asked whether we live, in ms; 0: never.
    heard_alive_ms: AtomicU64,
    money: ArcSwap<MoneyView>,
}

/// Counts a request from its first byte to its last.
pub struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Fleet {
    pub fn new(endpoints: &[Endpoint]) -> Arc<Self> {
        let fleet = Self {
            endpoints: ArcSwap::default(),
            wake: Arc::new(Notify::new()),
            under_way: Arc::default(),
            leaving: AtomicBool::new(false),
            has_predecessor: AtomicBool::new(false),
            heard_alive_ms: AtomicU64::new(0),
            money: ArcSwap::default(),
        };
        fleet.replace_settings(endpoints);
        Arc::new(fleet)
    }

    pub fn endpoints(&self) -> Arc<BTreeMap<EndpointName, Arc<EndpointFleet>>> {
        self.endpoints.load_full()
    }

    pub fn endpoint(&self, name: &str) -> Option<Arc<EndpointFleet>> {
        // Endpoints are few; no second index by string.
        self.endpoints
            .load()
            .iter()
            .find(|(key, _)| key.as_str() == name)
            .map(|(_, endpoint)| Arc::clone(endpoint))
    }

    /// Counts a request until the guard is dropped.
    pub fn request_under_way(&self) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(Arc::clone(&self.under_way))
    }

    /// Requests that are being read, waiting, or being answered.
    pub fn requests_under_way(&self) -> usize {
        self.under_way.load(Relaxed)
    }

    /// The gateway is about to end: it still serves, but is not ready, and keeps no connection open.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// The process this one took over from still finishes what it has.
    pub fn has_predecessor(&self) -> bool {
        self.has_predecessor.load(Relaxed)
    }

    pub fn set_predecessor(&self, there: bool) {
        self.has_predecessor.store(there, Relaxed);
    }

    /// A rented machine asked whether its gateway lives; those that were rented before they named themselves do not.
    pub fn hear_alive(&self, worker: Option<&str>, at: Timestamp) {
        let Some(worker) = worker.map(WorkerId::new) else {
            return self.heard_alive_ms.store(at.as_millis(), Relaxed);
        };
        let endpoints = self.endpoints();
        let mut found = endpoints
            .values()
            .filter_map(|endpoint| endpoint.worker(&worker));
        if let Some(worker) = found.next() {
            worker.origin.hear(at);
        }
    }

    /// When a machine last asked without saying which it is.
    pub fn heard_unnamed_at(&self) -> Option<Timestamp> {
        let ms = self.heard_alive_ms.load(Relaxed);
        (ms > 0).then(|| Timestamp::from_millis(ms))
    }

    /// Where the money stood at the last tick.
    pub fn money(&self) -> Arc<MoneyView> {
        self.money.load_full()
    }

    pub fn set_money(&self, view: MoneyView) {
        self.money.store(Arc::new(view));
    }

    /// No request is waited for any longer: those that wait are refused, and no new one may.
    pub fn end_requests(&self) {
        for endpoint in self.endpoints().values() {
            endpoint.close();
        }
    }

    /// The end did not come after all.
    pub fn stay(&self) {
        self.leaving.store(false, Relaxed);
    }

    /// Something happened that the scaler should look at before its next tick.
    pub fn wake_scaler(&self) {
        self.wake.notify_one();
    }

    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes new settings; endpoints that are gone stay as removed ones until their last worker ended.
    pub fn replace_settings(&self, endpoints: &[Endpoint]) {
        let old = self.endpoints.load();
        let mut next = BTreeMap::new();
        for endpoint in endpoints {
            let kept = old.get(&endpoint.name).map(Arc::clone);
            let live = kept.unwrap_or_else(|| EndpointFleet::new(endpoint.clone(), &self.wake));
            live.replace_settings(endpoint.clone());
            next.insert(endpoint.name.clone(), live);
        }
        for (name, endpoint) in old.iter() {
            if !next.contains_key(name) {
                endpoint.mark_removed();
                if endpoint.has_workers() {
                    next.insert(name.clone(), Arc::clone(endpoint));
                }
            }
        }
        self.endpoints.store(Arc::new(next));
        self.wake_scaler();
    }

    /// Forgets removed endpoints without workers.
    pub fn forget_removed(&self) {
        self.endpoints.rcu(|endpoints| {
            let mut next = (**endpoints).clone();
            next.retain(|_, endpoint| !endpoint.is_removed() || endpoint.has_workers());
            next
        });
    }
}
