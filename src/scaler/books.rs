//! What each rental costs as it goes: from what listings say and calls did to the ledger's lines and the metric.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::{
    Day, EndpointName, Instance, InstanceState, MachineKey, MarketKind, Rental, SpendKind,
    SpendUse, Timestamp, Usd, UsdPerHour, WorkerId,
};
use crate::ledger::{
    Accrued, Booking, Correction, Ledger, LedgerError, Observation, Sighting, accrue,
};
use crate::policy::spending::Spent;
use crate::telemetry::Metrics;

/// What did not change is written this often; after a crash it is worked out again from where the ledger stands.
const WRITE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Books {
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    lines: BTreeMap<WorkerId, Line>,
    /// Not in the ledger yet.
    pending: BTreeMap<(WorkerId, Day, SpendKind, SpendUse), Usd>,
    /// By endpoint and day since the month began, what is pending included.
    spent: BTreeMap<(EndpointName, Day), f64>,
    /// What bills took back and the metric, which only grows, still shows.
    overcounted: BTreeMap<(EndpointName, SpendUse), f64>,
    written_at: Timestamp,
    must_write: bool,
}

/// One rental.
struct Line {
    endpoint: EndpointName,
    market: MarketKind,
    machine: Option<MachineKey>,
    gpu_name: Option<String>,
    seen: Observation,
    /// The first of the listings in a row that did not hold it.
    missing_since: Option<Timestamp>,
    /// Seconds of each use since it was last seen.
    uses: BTreeMap<SpendUse, f64>,
    last_use: SpendUse,
    sampled_at: Timestamp,
    changed: bool,
    dirty: bool,
}

impl Books {
    pub(super) fn new(ledger: Arc<Ledger>, metrics: Arc<Metrics>) -> Self {
        Self {
            ledger,
            metrics,
            entries: Mutex::default(),
        }
    }

    /// After a start: what was spent before, and where each open rental stood when it was last looked at.
    pub(super) fn recover(
        &self,
        rentals: &[(Rental, MarketKind)],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let spent = self.ledger.spent_since(Day::of(now).month_start())?;
        let observed: BTreeMap<_, _> = self.ledger.observations()?.into_iter().collect();
        let mut entries = self.entries.lock();
        *entries = Entries::default();
        for (endpoint, day, usd) in spent {
            entries.spent.insert((endpoint, day), usd.0);
        }
        for (rental, market) in rentals {
            let seen = observed.get(&rental.worker).copied();
            let line = Line::new(&rental.endpoint, *market, seen, rental.intended_at);
            entries.lines.insert(rental.worker.clone(), line);
        }
        Ok(())
    }

    /// A rental is intended; nothing is there yet.
    pub(super) fn open(
        &self,
        worker: &WorkerId,
        endpoint: &EndpointName,
        market: MarketKind,
        at: Timestamp,
    ) {
        let mut line = Line::new(endpoint, market, None, at);
        // Where it is rented is known after a crash too.
        line.dirty = true;
        self.entries.lock().lines.insert(worker.clone(), line);
    }

    /// The market said at `at` that it rented the machine out.
    pub(super) fn rented(
        &self,
        worker: &WorkerId,
        usd_per_hour: UsdPerHour,
        storage_usd_per_hour: UsdPerHour,
        at: Timestamp,
    ) {
        self.entries.lock().observe(worker, &self.metrics, |seen| {
            let at = at.max(seen.at);
            let from = Observation {
                at,
                state: Some(InstanceState::Loading),
                usd_per_hour,
                storage_usd_per_hour,
            };
            (seen.still_at(at), from)
        });
    }

    /// A call that succeeded at `at` brought the machine into this state.
    pub(super) fn turned(&self, worker: &WorkerId, state: Option<InstanceState>, at: Timestamp) {
        self.entries.lock().observe(worker, &self.metrics, |seen| {
            let until = seen.still_at(at.max(seen.at));
            (until, until.turned(state))
        });
    }

    /// A listing made at `at` holds it.
    pub(super) fn seen(
        &self,
        worker: &WorkerId,
        instance: &Instance,
        usd_per_hour: UsdPerHour,
        at: Timestamp,
    ) {
        let mut entries = self.entries.lock();
        if let Some(line) = entries.lines.get_mut(worker) {
            line.missing_since = None;
            line.machine = instance.machine.clone().or(line.machine.take());
            line.gpu_name = instance.gpu_name.clone().or(line.gpu_name.take());
        }
        entries.observe(worker, &self.metrics, |seen| {
            let now = Observation {
                at: at.max(seen.at),
                state: Some(instance.state),
                usd_per_hour,
                storage_usd_per_hour: instance.storage_usd_per_hour,
            };
            (now, now)
        });
    }

    /// A listing made at `at` does not hold it; whether it is gone, later ones tell.
    pub(super) fn missed(&self, worker: &WorkerId, at: Timestamp) {
        if let Some(line) = self.entries.lock().lines.get_mut(worker) {
            line.missing_since.get_or_insert(at);
        }
    }

    /// Nothing is left of it. The ledger has all of it before this returns, unless it says otherwise.
    pub(super) fn close(&self, worker: &WorkerId, now: Timestamp) {
        let mut entries = self.entries.lock();
        let gone_at = entries
            .lines
            .get(worker)
            .map(|line| line.missing_since.unwrap_or(line.seen.at));
        if let Some(gone_at) = gone_at {
            entries.observe(worker, &self.metrics, |seen| {
                let gone = seen.still_at(gone_at.max(seen.at)).turned(None);
                (gone, gone)
            });
            self.write(&mut entries, now);
            entries.lines.remove(worker);
        }
    }

    /// What the worker is good for now; called often, so that the time between two looks is shared out rightly.
    pub(super) fn sample(&self, worker: &WorkerId, good_for: SpendUse, now: Timestamp) {
        if let Some(line) = self.entries.lock().lines.get_mut(worker) {
            let elapsed = now.seconds_since(line.sampled_at);
            *line.uses.entry(good_for).or_default() += elapsed;
            line.last_use = good_for;
            line.sampled_at = now;
        }
    }

    /// A bill said otherwise; the ledger has it already.
    pub(super) fn corrected(&self, corrections: &[Correction]) {
        let mut entries = self.entries.lock();
        for one in corrections {
            entries.count(&one.endpoint, one.day, one.good_for, one.usd, &self.metrics);
        }
    }

    /// Writes what is due; nothing is lost by a crash, as the ledger says up to when it counts.
    pub(super) fn write_if_due(&self, now: Timestamp) {
        let mut entries = self.entries.lock();
        if entries.must_write || now.since(entries.written_at) >= WRITE_EVERY {
            self.write(&mut entries, now);
        }
    }

    pub(super) fn write_all(&self, now: Timestamp) {
        self.write(&mut self.entries.lock(), now);
    }

    fn write(&self, entries: &mut Entries, now: Timestamp) {
        let (bookings, sightings) = entries.to_write();
        entries.written_at = now;
        if bookings.is_empty() && sightings.is_empty() {
            return;
        }
        match self.ledger.book(&bookings, &sightings) {
            Ok(()) => entries.written(),
            // Kept, and tried again.
            Err(error) => tracing::error!(%error, "spending is not in the ledger yet"),
        }
    }

    /// By endpoint, with what has come together since each machine was last looked at.
    pub(super) fn spent(&self, now: Timestamp) -> BTreeMap<EndpointName, Spent> {
        let entries = self.entries.lock();
        let today = Day::of(now);
        let month = today.month_start();
        let mut out: BTreeMap<EndpointName, Spent> = BTreeMap::new();
        for ((endpoint, day), usd) in &entries.spent {
            if *day < month {
                continue;
            }
            let spent = out.entry(endpoint.clone()).or_default();
            spent.this_month += Usd(*usd);
            if *day == today {
                spent.today += Usd(*usd);
            }
        }
        for line in entries.lines.values() {
            let still = line.seen.still_at(now.max(line.seen.at));
            for part in accrue(&line.seen, &still) {
                let spent = out.entry(line.endpoint.clone()).or_default();
                if part.day >= month {
                    spent.this_month += part.gpu + part.storage;
                }
                if part.day == today {
                    spent.today += part.gpu + part.storage;
                }
            }
        }
        out
    }

    /// When each machine was last looked at, in which state and at which price.
    pub(super) fn last_seen(&self, worker: &WorkerId) -> Option<Observation> {
        let entries = self.entries.lock();
        entries.lines.get(worker).map(|line| line.seen)
    }
}

impl Entries {
    /// Entries what came together until the first of the two observations and goes on from the second.
    fn observe(
        &mut self,
        worker: &WorkerId,
        metrics: &Metrics,
        next: impl FnOnce(Observation) -> (Observation, Observation),
    ) {
        let Some(line) = self.lines.get_mut(worker) else {
            return;
        };
        let before = line.seen;
        let (until, from) = next(before);
        let parts = accrue(&before, &until);
        let shares = line.take_shares(until.at);
        line.seen = from;
        line.dirty = true;
        if before.state != from.state {
            line.changed = true;
            self.must_write = true;
        }
        let endpoint = line.endpoint.clone();
        for part in parts {
            self.book(worker, &endpoint, part, &shares, metrics);
        }
    }

    fn book(
        &mut self,
        worker: &WorkerId,
        endpoint: &EndpointName,
        part: Accrued,
        shares: &[(SpendUse, f64)],
        metrics: &Metrics,
    ) {
        let storage = (SpendKind::Storage, SpendUse::Storage, part.storage);
        let gpu = shares
            .iter()
            .map(|(good_for, share)| (SpendKind::Gpu, *good_for, Usd(part.gpu.0 * share)));
        for (kind, good_for, usd) in gpu.chain([storage]) {
            if usd.0 == 0.0 {
                continue;
            }
            let key = (worker.clone(), part.day, kind, good_for);
            *self.pending.entry(key).or_default() += usd;
            self.count(endpoint, part.day, good_for, usd, metrics);
        }
    }

    fn count(
        &mut self,
        endpoint: &EndpointName,
        day: Day,
        good_for: SpendUse,
        usd: Usd,
        metrics: &Metrics,
    ) {
        *self.spent.entry((endpoint.clone(), day)).or_default() += usd.0;
        let over = self
            .overcounted
            .entry((endpoint.clone(), good_for))
            .or_default();
        let more = usd.0 - *over;
        *over = (-more).max(0.0);
        if more > 0.0 {
            metrics
                .spend_usd
                .with_label_values(&[endpoint.as_str(), good_for.as_str()])
                .inc_by(more);
        }
    }

    fn to_write(&self) -> (Vec<Booking>, Vec<Sighting>) {
        let bookings = self
            .pending
            .iter()
            .map(|((worker, day, kind, good_for), usd)| Booking {
                worker: worker.clone(),
                day: *day,
                kind: *kind,
                good_for: *good_for,
                usd: *usd,
            });
        let dirty = self.lines.iter().filter(|(_, line)| line.dirty);
        let sightings = dirty.map(|(worker, line)| Sighting {
            worker: worker.clone(),
            market: line.market,
            machine: line.machine.clone(),
            gpu_name: line.gpu_name.clone(),
            observed: line.seen,
            changed: line.changed,
        });
        (bookings.collect(), sightings.collect())
    }

    fn written(&mut self) {
        self.pending.clear();
        self.must_write = false;
        for line in self.lines.values_mut() {
            line.dirty = false;
            line.changed = false;
        }
    }
}

impl Line {
    fn new(
        endpoint: &EndpointName,
        market: MarketKind,
        seen: Option<Observation>,
        intended_at: Timestamp,
    ) -> Self {
        let nothing = Observation {
            at: intended_at,
            state: None,
            usd_per_hour: UsdPerHour::ZERO,
            storage_usd_per_hour: UsdPerHour::ZERO,
        };
        let seen = seen.unwrap_or(nothing);
        Self {
            endpoint: endpoint.clone(),
            market,
            machine: None,
            gpu_name: None,
            seen,
            missing_since: None,
            uses: BTreeMap::new(),
            last_use: SpendUse::ColdStart,
            sampled_at: seen.at,
            changed: false,
            dirty: false,
        }
    }

    /// How the time until `at` was used; without samples, as it was last.
    fn take_shares(&mut self, at: Timestamp) -> Vec<(SpendUse, f64)> {
        let uses = std::mem::take(&mut self.uses);
        self.sampled_at = self.sampled_at.max(at);
        let whole: f64 = uses.values().sum();
        if whole <= 0.0 {
            return vec![(self.last_use, 1.0)];
        }
        uses.into_iter()
            .map(|(good_for, seconds)| (good_for, seconds / whole))
            .collect()
    }
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
