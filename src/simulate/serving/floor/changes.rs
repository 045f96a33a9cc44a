//! What happens to workers from outside, and what the gateway believes of them.

use super::super::gateway::Book;
use super::super::station::{Station, after};
use super::super::{Machine, Outcome, Slowdown};
use super::{Event, Floor};
use crate::domain::{BenchmarkResult, BenchmarkSettings, Timestamp, Tokens, TokensPerSecond};

impl Floor<'_> {
    /// A worker comes up; its slot. `ramps`: it gets few requests at first, and none before [`Self::set_taking`].
    pub fn add(&mut self, machine: Machine, ramps: bool) -> usize {
        let mut station = Station::new(machine, &self.rules.settings);
        station.answered = ramps.then_some(0);
        // It serves nobody before it is told to.
        station.taking = !ramps;
        match self.vacant.pop() {
            Some(slot) => {
                station.epoch = self.stations[slot].epoch + 1;
                self.stations[slot] = station;
                slot
            }
            None => {
                self.stations.push(station);
                self.stations.len() - 1
            }
        }
    }

    /// It is gone for good: its slot is given to another.
    pub fn retire(&mut self, slot: usize) {
        self.set_taking(slot, false);
        self.evacuate(slot);
        self.vacant.push(slot);
    }

    /// Back after a stop, empty; what was learned of it is kept.
    pub fn back(&mut self, slot: usize) {
        let station = &mut self.stations[slot];
        station.answered = station.answered.map(|_| 0);
        station.frozen = false;
    }

    /// It showed before it serves what its law lets it do.
    pub fn benchmark(&mut self, slot: usize, settings: &BenchmarkSettings) {
        let station = &mut self.stations[slot];
        let law = station.machine.law;
        let context = f64::from(settings.prompt_tokens) + f64::from(settings.output_tokens) / 2.0;
        let streams = settings
            .concurrency
            .unwrap_or(station.machine.speed_prior.concurrency);
        let streams = streams.clamp(1, law.batch_max.max(1));
        let gap = |streams: f64| {
            law.base_s + streams * (law.per_sequence_s + law.per_kv_token_s * context)
        };
        let read_s = f64::from(settings.prompt_tokens) / law.prefill_tokens_per_s;
        let result = BenchmarkResult {
            at: Timestamp::from_millis(self.now_ns / 1_000_000),
            tokens_per_second: TokensPerSecond(f64::from(streams) / gap(f64::from(streams))),
            concurrency: streams,
            tokens_per_second_alone: Some(TokensPerSecond(1.0 / gap(1.0))),
            first_token_s: Some(gap(1.0) + read_s),
            output_tokens: u64::from(streams * settings.output_tokens),
            failed_requests: 0,
            took_s: settings.length.as_secs_f64(),
        };
        station.book.take_benchmark(&result, settings);
    }

    pub fn set_taking(&mut self, slot: usize, taking: bool) {
        let station = &mut self.stations[slot];
        let more = taking && !station.taking;
        station.taking = taking;
        if more {
            self.dispatch();
        }
    }

    /// It hangs: nothing it began ends.
    pub fn freeze(&mut self, slot: usize) {
        self.settle(slot, false);
        let station = &mut self.stations[slot];
        station.frozen = true;
        station.busy = false;
        station.leap.clear();
        station.epoch += 1;
    }

    /// From now on it takes so many times as long for everything as its law says.
    pub fn slow(&mut self, slot: usize, times: f64) {
        self.interrupt(slot);
        self.stations[slot].worker.slow(times);
    }

    pub(in super::super) fn slow_at(&mut self, slowdown: Slowdown) {
        self.slowdowns.push(slowdown);
        let event = Event::Slowdown(self.slowdowns.len() - 1);
        self.schedule(after(0, slowdown.at_s), event);
    }

    /// What it has goes elsewhere: answers that have begun go on there, others are asked again.
    pub fn evacuate(&mut self, slot: usize) {
        self.settle(slot, false);
        let station = &mut self.stations[slot];
        station.leap.clear();
        station.epoch += 1;
        station.busy = false;
        for (key, made) in station.worker.clear() {
            let Some(live) = self.table.get_mut(key) else {
                continue;
            };
            if let Some(stream) = live.stream.take() {
                self.stations[slot].book.left(&stream);
            }
            live.prompt_tokens += made;
            live.output_tokens = live.output_tokens.saturating_sub(made).max(1);
            live.sent_ns = self.now_ns;
            let begun = live.first_ns.is_some();
            let patience = self.rules.patience;
            let too_often = patience.is_some_and(|patience| {
                if begun {
                    live.resumes >= patience.resumes_max
                } else {
                    live.attempts >= patience.attempts_max
                }
            });
            if too_often {
                self.end(key, Some(slot), Outcome::Failed);
                continue;
            }
            if begun {
                live.resumes += 1;
                self.tally.resumed += 1;
            } else {
                self.tally.retried += 1;
            }
            self.hold(key, begun);
        }
        self.dispatch();
    }

    pub fn in_flight(&self, slot: usize) -> u32 {
        self.stations[slot].book.in_flight()
    }

    /// Speed, what of it is surely there, and predicted work it has to do, as the gateway believes.
    pub fn believed(&self, slot: usize) -> (TokensPerSecond, TokensPerSecond, Tokens) {
        let book = &self.stations[slot].book;
        (book.speed(), book.dependable(), book.outstanding())
    }

    /// Work done since this was last asked, tokens.
    pub fn take_done(&mut self, slot: usize) -> f64 {
        std::mem::take(&mut self.stations[slot].done)
    }

    /// Requests that wait, their predicted work, and since when the oldest does.
    pub fn waiting(&self) -> (usize, f64, Option<f64>) {
        let (mut cost, mut oldest) = (0.0, None);
        for (_, key) in self.waiting.in_order() {
            if let Some(live) = self.table.get(*key) {
                cost += live.believed.total.0;
                let at_s = self.arrivals[live.id].at_s;
                oldest = Some(oldest.map_or(at_s, |oldest: f64| oldest.min(at_s)));
            }
        }
        (self.waiting_count, cost, oldest)
    }

    /// Requests that wait or are being answered.
    pub fn present(&self) -> usize {
        self.next_arrival - (self.arrivals.len() - self.left)
    }

    pub(in super::super) fn books_are_empty(&self) -> bool {
        let books = self.stations.iter().map(|station| &station.book);
        books.into_iter().all(Book::is_empty)
    }
}
