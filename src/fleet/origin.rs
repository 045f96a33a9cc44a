//! Where a worker comes from: the offer it was rented by, what its market says of it, what it showed before it served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::{
    Alternative, BenchmarkResult, InstanceState, Timestamp, UsdPerHour, WorkerEvent, WorkerId,
};
use crate::policy::offers::bid::Raise;

#[derive(Default)]
pub struct Origin {
    rented_as: Mutex<Option<Arc<Alternative>>>,
    benchmark: Mutex<Option<BenchmarkResult>>,
    /// The last state seen, and the first listing in a row that saw it.
    seen: Mutex<Option<(InstanceState, Timestamp)>>,
    /// An error its market reported in the last listing.
    complaint: Mutex<Option<String>>,
    /// The worker it was rented beside, while it is open which of the two stays.
    spare_of: Mutex<Option<WorkerId>>,
    /// Its rental ends by itself before long.
    ends_soon: AtomicBool,
    /// When its machine last asked whether its gateway lives, and how often it did.
    heard: Mutex<Option<(Timestamp, u64)>>,
    /// The last time more was bid for it.
    raised: Mutex<Option<Raise>>,
    /// It starts, and not from an order that was seen: how long it takes says nothing of starts.
    start_unseen: AtomicBool,
    /// From the order to start until it was healthy.
    boot_took: Mutex<Duration>,
    /// What its storage costs while it is stopped.
    stopped_price: Mutex<UsdPerHour>,
}

impl Origin {
    /// The offer as it was judged; `None` where nothing was chosen.
    pub fn rented_as(&self) -> Option<Arc<Alternative>> {
        self.rented_as.lock().clone()
    }

    pub fn set_rented_as(&self, offer: Alternative) {
        *self.rented_as.lock() = Some(Arc::new(offer));
    }

    pub fn stopped_price(&self) -> UsdPerHour {
        *self.stopped_price.lock()
    }

    pub fn set_stopped_price(&self, price: UsdPerHour) {
        *self.stopped_price.lock() = price;
    }

    pub fn benchmark(&self) -> Option<BenchmarkResult> {
        *self.benchmark.lock()
    }

    pub fn set_benchmark(&self, result: BenchmarkResult) {
        *self.benchmark.lock() = Some(result);
    }

    /// A listing begun at `at` saw this state; since when they all did.
    pub fn see(&self, state: InstanceState, at: Timestamp) -> Timestamp {
        let mut seen = self.seen.lock();
        match *seen {
            Some((before, since)) if before == state => since,
            _ => {
                *seen = Some((state, at));
                at
            }
        }
    }

    pub fn seen(&self) -> Option<(InstanceState, Timestamp)> {
        *self.seen.lock()
    }

    /// Whether the last listing brought the same complaint.
    pub fn says_again(&self, complaint: Option<&str>) -> bool {
        let mut before = self.complaint.lock();
        let again = complaint.is_some() && before.as_deref() == complaint;
        *before = complaint.map(str::to_owned);
        again
    }

    pub fn spare_of(&self) -> Option<WorkerId> {
        self.spare_of.lock().clone()
    }

    pub fn set_spare_of(&self, rival: Option<WorkerId>) {
        *self.spare_of.lock() = rival;
    }

    pub fn ends_soon(&self) -> bool {
        self.ends_soon.load(Relaxed)
    }

    /// What was so before.
    pub fn set_ends_soon(&self, soon: bool) -> bool {
        self.ends_soon.swap(soon, Relaxed)
    }

    pub fn hear(&self, at: Timestamp) {
        let mut heard = self.heard.lock();
        let times = heard.map_or(0, |(_, times)| times);
        *heard = Some((at, times + 1));
    }

    /// When its machine last asked for us, and how often it did.
    pub fn heard(&self) -> Option<(Timestamp, u64)> {
        *self.heard.lock()
    }

    pub fn raised(&self) -> Option<Raise> {
        *self.raised.lock()
    }

    pub fn set_raised(&self, raise: Raise) {
        *self.raised.lock() = Some(raise);
    }

    /// By another gateway; what is known of later ones stays.
    pub fn recall_raised(&self, raise: Raise) {
        let mut raised = self.raised.lock();
        if raised.is_none_or(|known| known.at < raise.at) {
            *raised = Some(raise);
        }
    }

    pub fn start_unseen(&self) -> bool {
        self.start_unseen.load(Relaxed)
    }

    /// It starts by this. One that got its GPUs back does with its image and model at hand, and was never stopped.
    pub fn starts_by(&self, event: WorkerEvent) {
        let ordered = event == WorkerEvent::RestartOrdered;
        self.start_unseen.store(!ordered, Relaxed);
    }

    /// An earlier gateway may have ordered its start at any time.
    pub fn found_starting(&self) {
        self.start_unseen.store(true, Relaxed);
    }

    pub fn boot_took(&self) -> Duration {
        *self.boot_took.lock()
    }

    pub fn set_boot_took(&self, took: Duration) {
        *self.boot_took.lock() = took;
    }

    /// An order was given: what was seen before says nothing of how long anything lasts.
    pub fn forget_seen(&self) {
        *self.seen.lock() = None;
    }
}
