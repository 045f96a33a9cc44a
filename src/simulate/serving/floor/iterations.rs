//! Iterations of the workers on the floor: begun, leapt over where nothing changes, accounted for, interrupted.

use super::super::gateway::Book;
use super::super::station::after;
use super::{Event, Floor};

impl Floor<'_> {
    /// Begins an iteration, and plans those after it where nothing will change.
    pub(super) fn iterate(&mut self, slot: usize) {
        let now_ns = self.now_ns;
        let station = &mut self.stations[slot];
        if station.busy || station.frozen {
            return;
        }
        let Some(duration_s) = station.worker.begin() else {
            return;
        };
        station.busy = true;
        for key in station.worker.admitted() {
            if let Some(live) = self.table.get_mut(key) {
                live.begun_ns.get_or_insert(now_ns);
            }
        }
        let measured = |key: usize| {
            let live = self.table.get(key);
            let stream = live.and_then(|live| live.stream.as_ref());
            stream.is_some_and(Book::is_measured)
        };
        if self.rules.leaps && station.worker.active_ids().all(measured) {
            station.leap.plan(&station.worker, now_ns, duration_s);
        }
        let end_ns = station.leap.end_ns().unwrap_or(after(now_ns, duration_s));
        let event = Event::Iteration(slot, station.epoch);
        self.schedule(end_ns, event);
    }

    /// Something changes at the worker: of a leap only the iteration that goes on is left.
    pub(super) fn interrupt(&mut self, slot: usize) {
        self.settle(slot, false);
        let station = &mut self.stations[slot];
        if !station.leap.is_on() {
            return;
        }
        station.leap.cut();
        station.epoch += 1;
        if let Some(end_ns) = station.leap.end_ns() {
            let event = Event::Iteration(slot, station.epoch);
            self.schedule(end_ns, event);
        }
    }

    pub(super) fn settle_all(&mut self) {
        for slot in 0..self.stations.len() {
            self.settle(slot, false);
        }
    }

    /// Accounts for the iterations of a leap that are over; `at`: one that ends right now too.
    pub(super) fn settle(&mut self, slot: usize, at: bool) {
        let station = &mut self.stations[slot];
        if !station.leap.is_on() || station.frozen {
            return;
        }
        let (last_ns, ends_ns) = station.leap.settle(self.now_ns, at);
        let Some(&end_ns) = ends_ns.last() else {
            return;
        };
        let iterations = ends_ns.len() as u32;
        let mut streams = 0;
        station.worker.leap(iterations);
        for key in station.worker.active_ids() {
            streams += 1;
            let live = self.table.get_mut(key);
            if let Some(stream) = live.and_then(|live| live.stream.as_mut()) {
                station.book.tokens(stream, iterations, end_ns);
            }
        }
        station.book.iterations(streams, last_ns, ends_ns);
        station.done += f64::from(streams) * f64::from(iterations);
    }
}
