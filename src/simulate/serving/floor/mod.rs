//! The gateway and its workers as requests meet them, in virtual time: one heap of events, where iterations in which
//! nothing changes for anybody are leapt over and accounted for when somebody looks.
//!
//! Workers may come, take no more, hang, slow down and be lost at any time.

mod changes;
mod iterations;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::live::{Live, Table};
use super::station::{Station, after};
use super::worker::{Emission, Job};
use super::{Arrival, Asked, Ended, Outcome, Router, Slowdown};
use crate::domain::{Api, Candidate, ClientKey, Contention, RequestShape, RoutingSettings};
use crate::policy::cost::{CostModel, cost};
use crate::policy::queueing::{Claimant, Place, WaitingOrder};
use crate::simulate::chance::SplitMix;

/// Waiting requests looked at for one that some worker may take, as in the fleet.
const LOOKAHEAD: usize = 16;
/// Bytes of text a token, on average and at most away from it.
const BYTES_PER_TOKEN: f64 = 4.0;
const BYTES_SPREAD: f64 = 0.25;

/// What holds on a floor.
#[derive(Clone, Debug)]
pub struct Rules {
    pub settings: RoutingSettings,
    /// Output tokens the engines keep room for when they admit a request; the maximum: all of them.
    pub reserve_tokens: u32,
    /// Requests belong to one of so many clients by chance.
    pub clients: u32,
    pub seed: u64,
    /// `None`: requests wait as long as they must, in whatever number.
    pub patience: Option<Patience>,
    /// Waiting longer at the gateway counts as late.
    pub late_after: Duration,
    /// Iterations in which nothing changes are leapt over; without, they take longer to play and come out the same.
    pub leaps: bool,
}

/// When the gateway gives up on a request.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub waiting_max: usize,
    /// While no worker is ready, and while all are busy.
    pub wait_max: Duration,
    pub wait_max_busy: Duration,
    pub attempts_max: u32,
    pub resumes_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Iteration(usize, u32),
    Slowdown(usize),
    Second,
}

/// What the gateway counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Work as predicted, corrected when a request ends; the corrections in it; what waited too long.
    pub arrived: f64,
    pub corrected: f64,
    pub late: f64,
    pub retried: u64,
    pub resumed: u64,
}

pub struct Floor<'a> {
    rules: Rules,
    arrivals: &'a [Arrival],
    router: Box<dyn Router + 'a>,
    next_arrival: usize,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    numbers: u64,
    now_ns: u64,
    stations: Vec<Station>,
    /// Slots of workers that are gone for good.
    vacant: Vec<usize>,
    table: Table,
    waiting: WaitingOrder<usize>,
    waiting_count: usize,
    /// Requests that wait or are with a worker, by client.
    present: BTreeMap<ClientKey, u32>,
    model: CostModel,
    chance: SplitMix,
    left: usize,
    pub tally: Tally,
    /// Requests that ended, until somebody takes them.
    pub ended: Vec<Ended>,
    emissions: Vec<Emission>,
    slowdowns: Vec<Slowdown>,
}

impl<'a> Floor<'a> {
    /// `arrivals` in order.
    pub fn new(rules: Rules, arrivals: &'a [Arrival], router: Box<dyn Router + 'a>) -> Self {
        let mut floor = Self {
            chance: SplitMix(rules.seed),
            rules,
            arrivals,
            router,
            next_arrival: 0,
            events: BinaryHeap::new(),
            numbers: 0,
            now_ns: 0,
            stations: Vec::new(),
            vacant: Vec::new(),
            table: Table::default(),
            waiting: WaitingOrder::default(),
            waiting_count: 0,
            present: BTreeMap::new(),
            model: CostModel::default(),
            left: arrivals.len(),
            tally: Tally::default(),
            ended: Vec::new(),
            emissions: Vec::new(),
            slowdowns: Vec::new(),
        };
        floor.schedule(after(0, 1.0), Event::Second);
        floor
    }

    /// Plays on until everybody is done, showing the floor after each second's measuring.
    pub(super) fn finish(&mut self, mut watch: impl FnMut(&mut [Station], f64)) {
        while self.left > 0 {
            match self.step(u64::MAX) {
                Some(true) => {
                    let now_s = self.now_s();
                    watch(&mut self.stations, now_s);
                }
                Some(false) => {}
                None => return,
            }
        }
    }

    /// Plays what happens before the second begins.
    pub fn play_until(&mut self, second: usize) {
        let until_ns = second as u64 * 1_000_000_000;
        while self.step(until_ns).is_some() {}
        self.now_ns = self.now_ns.max(until_ns);
    }

    /// One event before `until_ns`: whether it was that a second passed. `None` if there is none.
    fn step(&mut self, until_ns: u64) -> Option<bool> {
        let arrival_ns = self
            .arrivals
            .get(self.next_arrival)
            .map(|arrival| after(0, arrival.at_s));
        let event = self.events.peek().map(|Reverse(event)| *event);
        let arrival_first = match (arrival_ns, event) {
            (Some(arrival_ns), Some((at_ns, ..))) => arrival_ns <= at_ns,
            (arrival_ns, _) => arrival_ns.is_some(),
        };
        if arrival_first {
            let at_ns = arrival_ns.unwrap_or_default();
            if at_ns >= until_ns {
                return None;
            }
            self.now_ns = at_ns.max(self.now_ns);
            self.next_arrival += 1;
            self.arrive(self.next_arrival - 1);
            return Some(false);
        }
        let (at_ns, _, event) = event.filter(|(at_ns, ..)| *at_ns < until_ns)?;
        self.events.pop();
        self.now_ns = at_ns.max(self.now_ns);
        self.happen(event);
        Some(event == Event::Second)
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at_ns, self.numbers, event)));
    }

    fn now_s(&self) -> f64 {
        self.now_ns as f64 / 1e9
    }

    /// What the gateway sees of the request. Most clients give no limit, so neither do these.
    fn shape(&mut self, arrival: &Arrival) -> RequestShape {
        let spread = 1.0 + BYTES_SPREAD * (2.0 * self.chance.unit() - 1.0);
        let bytes = f64::from(arrival.prompt_tokens) * BYTES_PER_TOKEN * spread;
        let client = match self.rules.clients {
            0 | 1 => 0,
            several => (self.chance.unit() * f64::from(several)) as u32,
        };
        RequestShape {
            api: Api::ChatCompletions,
            client: ClientKey::new(format!("client-{client}")),
            streamed: true,
            prompt_bytes: bytes as usize,
            max_new_tokens: None,
        }
    }

    fn arrive(&mut self, id: usize) {
        let arrival = self.arrivals[id];
        let shape = self.shape(&arrival);
        *self.present.entry(shape.client.clone()).or_default() += 1;
        let believed = self.model.predict(&shape, self.rules.settings.kappa);
        self.tally.arrived += believed.total.0;
        let key = self.table.add(Live {
            id,
            shape,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: arrival.output_tokens,
            believed,
            stream: None,
            place: None,
            first_ns: None,
            sent_ns: self.now_ns,
            begun_ns: None,
            late: false,
            attempts: 0,
            resumes: 0,
        });
        if !self.waiting.is_empty() || !self.try_send(key) {
            let full = |patience: Patience| self.waiting_count >= patience.waiting_max;
            if self.rules.patience.is_some_and(full) {
                self.end(key, None, Outcome::Shed);
            } else {
                self.hold(key, false);
            }
        }
    }

    fn hold(&mut self, key: usize, resumed: bool) {
        let Some(live) = self.table.get(key) else {
            return;
        };
        let claimant = Claimant {
            client: live.shape.client.clone(),
            cost: self.router.cost(&self.asked(live)).total,
            priority: 0,
            resumed,
        };
        let place = self.waiting.push(&claimant, key);
        self.waiting_count += 1;
        if let Some(live) = self.table.get_mut(key) {
            live.place = Some(place);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Iteration(slot, epoch) if self.stations[slot].epoch == epoch => {
                if self.stations[slot].leap.is_on() {
                    self.settle(slot, true);
                    self.stations[slot].leap.clear();
                    self.stations[slot].busy = false;
                } else {
                    self.iteration_ended(slot);
                }
                self.iterate(slot);
            }
            Event::Iteration(..) => {}
            Event::Slowdown(n) => {
                let Slowdown { machine, times, .. } = self.slowdowns[n];
                self.slow(machine, times);
            }
            Event::Second => {
                self.settle_all();
                let now_s = self.now_s();
                for station in &mut self.stations {
                    station.pace = station.book.measure(now_s);
                }
                self.lose_patience();
                self.dispatch();
                self.schedule(after(self.now_ns, 1.0), Event::Second);
            }
        }
    }

    fn iteration_ended(&mut self, slot: usize) {
        let mut emissions = std::mem::take(&mut self.emissions);
        let station = &mut self.stations[slot];
        station.worker.end(&mut emissions);
        station.busy = false;
        let ended = emissions.iter().any(|emission| emission.last);
        let is_first = |emission: &Emission| {
            let live = self.table.get(emission.id);
            live.is_some_and(|live| live.first_ns.is_none())
        };
        let read = emissions.iter().any(is_first);
        for emission in emissions.drain(..) {
            self.token(slot, emission);
        }
        self.emissions = emissions;
        if ended || read && self.contention() == Contention::Several {
            self.dispatch();
        }
    }

    fn contention(&self) -> Contention {
        if self.present.len() > 1 {
            Contention::Several
        } else {
            Contention::Alone
        }
    }

    fn asked(&self, live: &Live) -> Asked {
        let kappa = self.rules.settings.kappa;
        let mut predicted = self.model.predict(&live.shape, kappa);
        if live.resumes > 0 {
            // What was made is read again, and is not made again.
            let arrival = &self.arrivals[live.id];
            let made = f64::from(live.prompt_tokens - arrival.prompt_tokens);
            let left = predicted.outlook.left_after(made as u64);
            let left = left.unwrap_or(predicted.output_tokens - made).max(1.0);
            predicted = cost(predicted.prompt_tokens + made, left, kappa);
        }
        Asked {
            predicted,
            actual: cost(
                f64::from(live.prompt_tokens),
                f64::from(live.output_tokens),
                kappa,
            ),
        }
    }

    fn try_send(&mut self, key: usize) -> bool {
        self.settle_all();
        let Some(live) = self.table.get(key) else {
            return false;
        };
        let cost = self.router.cost(&self.asked(live));
        let stations = self.stations.iter().enumerate();
        let taking = stations.filter(|(_, station)| station.taking);
        let candidates: Vec<Candidate> = taking
            .map(|(slot, station)| station.candidate(slot))
            .collect();
        let Some(slot) = self.router.choose(&cost, &candidates, self.contention()) else {
            return false;
        };
        let now_s = self.now_s();
        let stream = self.stations[slot].book.sent(&cost, now_s);
        let job = self.table.get_mut(key).map(|live| {
            live.stream = Some(stream);
            live.sent_ns = self.now_ns;
            live.attempts += 1;
            Job {
                id: key,
                prompt_tokens: live.prompt_tokens,
                output_tokens: live.output_tokens,
                reserve_tokens: self.rules.reserve_tokens,
            }
        });
        self.note_wait(key);
        self.interrupt(slot);
        if let Some(job) = job {
            self.stations[slot].worker.submit(job);
        }
        self.iterate(slot);
        true
    }

    /// Late is what waited at the gateway for too long, as the fleet counts it.
    fn note_wait(&mut self, key: usize) {
        let (now_ns, limit) = (self.now_ns, self.rules.late_after.as_nanos());
        let arrivals = self.arrivals;
        if let Some(live) = self.table.get_mut(key) {
            let waited = now_ns.saturating_sub(after(0, arrivals[live.id].at_s));
            if live.attempts <= 1 && !live.late && u128::from(waited) > limit {
                live.late = true;
                self.tally.late += live.believed.total.0;
            }
        }
    }

    fn dispatch(&mut self) {
        while !self.waiting.is_empty() {
            let in_order = self.waiting.in_order().take(LOOKAHEAD);
            let places: Vec<(Place, usize)> = in_order.map(|(place, key)| (place, *key)).collect();
            let Some((place, _)) = places.into_iter().find(|(_, key)| self.try_send(*key)) else {
                return;
            };
            self.waiting.serve(&place);
            self.waiting_count -= 1;
        }
    }

    /// Those that waited for as long as they may are refused.
    fn lose_patience(&mut self) {
        let Some(patience) = self.rules.patience else {
            return;
        };
        let any = self.stations.iter().any(|station| station.taking);
        let most = if any {
            patience.wait_max_busy
        } else {
            patience.wait_max
        };
        let overdue: Vec<(Place, usize)> = self
            .waiting
            .in_order()
            .filter(|(_, key)| {
                self.table.get(**key).is_some_and(|live| {
                    let since = after(0, self.arrivals[live.id].at_s).max(live.sent_ns);
                    u128::from(self.now_ns.saturating_sub(since)) > most.as_nanos()
                })
            })
            .map(|(place, key)| (place, *key))
            .collect();
        for (place, key) in overdue {
            self.waiting.leave(&place);
            self.waiting_count -= 1;
            let begun = self
                .table
                .get(key)
                .is_some_and(|live| live.first_ns.is_some());
            let outcome = if begun {
                Outcome::Failed
            } else {
                Outcome::Shed
            };
            self.end(key, None, outcome);
        }
    }

    fn left_client(&mut self, client: &ClientKey) {
        if let Some(requests) = self.present.get_mut(client) {
            *requests -= 1;
            if *requests == 0 {
                self.present.remove(client);
            }
        }
    }

    fn token(&mut self, slot: usize, emission: Emission) {
        let now_ns = self.now_ns;
        let kappa = self.rules.settings.kappa;
        let station = &mut self.stations[slot];
        let Some(live) = self.table.get_mut(emission.id) else {
            return;
        };
        let Some(stream) = live.stream.as_mut() else {
            return;
        };
        live.first_ns.get_or_insert(now_ns);
        station.done += 1.0;
        if stream.is_first() {
            station.done += f64::from(live.prompt_tokens) / kappa;
            if let Some(answered) = &mut station.answered {
                *answered += 1;
            }
        }
        station.book.token(stream, now_ns);
        if emission.last {
            station.book.told(stream, live.prompt_tokens);
            station.book.ended(stream);
            self.end(emission.id, Some(slot), Outcome::Served);
        }
    }

    /// It is over with the request.
    fn end(&mut self, key: usize, slot: Option<usize>, outcome: Outcome) {
        let Some(live) = self.table.remove(key) else {
            return;
        };
        self.left_client(&live.shape.client);
        let arrival = &self.arrivals[live.id];
        let kappa = self.rules.settings.kappa;
        let served = outcome == Outcome::Served;
        if served {
            let (prompt, output) = (arrival.prompt_tokens, arrival.output_tokens);
            self.model
                .learn(&live.shape, Some(f64::from(prompt)), f64::from(output));
            let correction = arrival.work(kappa) - live.believed.total.0;
            self.tally.arrived += correction;
            self.tally.corrected += correction;
        } else if !live.late {
            self.tally.late += live.believed.total.0;
        }
        let at_s = |ns: u64| ns as f64 / 1e9;
        let now_s = self.now_s();
        let first_s = live.first_ns.map_or(now_s, at_s);
        let gaps = f64::from(arrival.output_tokens.max(2) - 1);
        self.left -= 1;
        self.ended.push(Ended {
            id: live.id,
            outcome,
            machine: slot,
            first_token_s: first_s - arrival.at_s,
            per_token_s: (now_s - first_s) / gaps,
            held_s: at_s(live.sent_ns) - arrival.at_s,
            begun_s: live.begun_ns.map_or(now_s, at_s) - arrival.at_s,
        });
    }
}
