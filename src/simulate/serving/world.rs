//! One heap of events: requests arrive, iterations end, seconds pass.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::domain::{Api, Candidate, ClientKey, Contention, RequestShape, Timestamp};
use crate::policy::cost::{CostModel, cost};
use crate::policy::queueing::{Claimant, WaitingOrder};
use crate::simulate::chance::SplitMix;

use super::gateway::{Book, Stream};
use super::judge::{Judge, Watched};
use super::worker::{Emission, Job, ModelledWorker};
use super::{Arrival, Asked, Router, Scenario, Served};

/// Waiting requests looked at for one that some worker may take, as in the fleet.
const LOOKAHEAD: usize = 16;
/// Bytes of text a token, on average and at most away from it.
const BYTES_PER_TOKEN: f64 = 4.0;
const BYTES_SPREAD: f64 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Iteration(usize),
    Arrival(usize),
    Slowdown(usize),
    Second,
}

/// Plays all arrivals to their end. The same scenario, arrivals and router give the same result.
pub fn run(scenario: &Scenario, arrivals: &[Arrival], router: &mut dyn Router) -> Vec<Served> {
    play(scenario, arrivals, router, None)
}

/// The same, showing after each second what the gateway believes of its workers.
pub fn run_watched(
    scenario: &Scenario,
    arrivals: &[Arrival],
    router: &mut dyn Router,
    watch: &mut dyn FnMut(&Watched),
) -> Vec<Served> {
    play(scenario, arrivals, router, Some(watch))
}

fn play<'a>(
    scenario: &'a Scenario,
    arrivals: &'a [Arrival],
    router: &'a mut dyn Router,
    watch: Option<&'a mut dyn FnMut(&Watched)>,
) -> Vec<Served> {
    let mut world = World::new(scenario, arrivals, router);
    world.watch = watch;
    while world.left > 0 {
        let Some(Reverse((at_ns, _, event))) = world.events.pop() else {
            break;
        };
        world.now_ns = at_ns;
        world.happen(event);
    }
    debug_assert!(world.books.iter().all(Book::is_empty));
    world.served.into_iter().flatten().collect()
}

struct World<'a> {
    scenario: &'a Scenario,
    arrivals: &'a [Arrival],
    router: &'a mut dyn Router,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    numbers: u64,
    now_ns: u64,
    workers: Vec<ModelledWorker>,
    busy: Vec<bool>,
    books: Vec<Book>,
    streams: Vec<Option<Stream>>,
    first_s: Vec<f64>,
    sent_s: Vec<f64>,
    shapes: Vec<RequestShape>,
    waiting: WaitingOrder<usize>,
    /// Requests that wait or are with a worker, by client.
    present: BTreeMap<ClientKey, u32>,
    model: CostModel,
    chance: SplitMix,
    served: Vec<Option<Served>>,
    left: usize,
    judge: Judge,
    watch: Option<&'a mut dyn FnMut(&Watched)>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, arrivals: &'a [Arrival], router: &'a mut dyn Router) -> Self {
        let machines = &scenario.machines;
        let mut world = Self {
            scenario,
            arrivals,
            router,
            events: BinaryHeap::new(),
            numbers: 0,
            now_ns: 0,
            workers: machines
                .iter()
                .map(|m| ModelledWorker::new(m.law))
                .collect(),
            busy: vec![false; machines.len()],
            books: machines
                .iter()
                .map(|m| Book::new(m, &scenario.settings))
                .collect(),
            streams: vec![None; arrivals.len()],
            first_s: vec![0.0; arrivals.len()],
            sent_s: vec![0.0; arrivals.len()],
            shapes: Vec::with_capacity(arrivals.len()),
            waiting: WaitingOrder::default(),
            present: BTreeMap::new(),
            model: CostModel::default(),
            chance: SplitMix(scenario.seed),
            served: vec![None; arrivals.len()],
            left: arrivals.len(),
            judge: Judge::of(machines.len()),
            watch: None,
        };
        for (id, arrival) in arrivals.iter().enumerate() {
            let shape = world.shape(arrival);
            world.shapes.push(shape);
            world.schedule(arrival.at_s, Event::Arrival(id));
        }
        for (n, slowdown) in scenario.slowdowns.iter().enumerate() {
            world.schedule(slowdown.at_s, Event::Slowdown(n));
        }
        world.schedule(1.0, Event::Second);
        world
    }

    /// What the gateway sees of the request. Most clients give no limit, so neither do these.
    fn shape(&mut self, arrival: &Arrival) -> RequestShape {
        let spread = 1.0 + BYTES_SPREAD * (2.0 * self.chance.unit() - 1.0);
        let bytes = f64::from(arrival.prompt_tokens) * BYTES_PER_TOKEN * spread;
        let client = match self.scenario.clients {
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

    fn schedule(&mut self, at_s: f64, event: Event) {
        self.numbers += 1;
        let at_ns = (at_s * 1e9) as u64;
        self.events.push(Reverse((at_ns, self.numbers, event)));
    }

    fn now_s(&self) -> f64 {
        self.now_ns as f64 / 1e9
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(id) => {
                let client = self.shapes[id].client.clone();
                *self.present.entry(client).or_default() += 1;
                if !self.waiting.is_empty() || !self.try_send(id) {
                    let claimant = self.claimant(id);
                    self.waiting.push(&claimant, id);
                }
            }
            Event::Iteration(slot) => {
                let mut emissions = Vec::new();
                self.workers[slot].end(&mut emissions);
                self.busy[slot] = false;
                let ended = emissions.iter().any(|emission| emission.last);
                let first = |emission: &Emission| self.first_s[emission.id] == 0.0;
                let read = emissions.iter().any(first);
                for emission in emissions {
                    self.token(emission);
                }
                let several = self.contention() == Contention::Several;
                if ended || read && several {
                    self.dispatch();
                }
                self.iterate(slot);
            }
            Event::Slowdown(n) => {
                let slowdown = self.scenario.slowdowns[n];
                self.workers[slowdown.machine].slowness = slowdown.times;
            }
            Event::Second => {
                self.measure();
                self.dispatch();
                self.schedule(self.now_s() + 1.0, Event::Second);
            }
        }
    }

    fn measure(&mut self) {
        let now_s = self.now_s();
        let books = self.books.iter_mut();
        let samples: Vec<_> = books.map(|book| book.measure(now_s)).collect();
        let Some(watch) = &mut self.watch else {
            return;
        };
        let laws: Vec<_> = self.books.iter().map(Book::law).collect();
        let capacities: Vec<_> = self.books.iter().map(Book::capacity).collect();
        let speeds: Vec<_> = capacities.iter().map(|view| view.mean).collect();
        let now = Timestamp::from_millis((now_s * 1e3) as u64);
        let settings = &self.scenario.settings.ejection;
        let found = self.judge.look(&samples, &laws, &speeds, settings, now);
        for place in &found.other_work {
            self.books[*place].learn_anew();
        }
        watch(&Watched {
            at_s: now_s,
            capacities,
            ejected: found.ejected,
            other_work: found.other_work,
        });
    }

    fn contention(&self) -> Contention {
        if self.present.len() > 1 {
            Contention::Several
        } else {
            Contention::Alone
        }
    }

    fn asked(&self, id: usize) -> Asked {
        let kappa = self.scenario.settings.kappa;
        let arrival = &self.arrivals[id];
        Asked {
            predicted: self.model.predict(&self.shapes[id], kappa),
            actual: cost(
                f64::from(arrival.prompt_tokens),
                f64::from(arrival.output_tokens),
                kappa,
            ),
        }
    }

    fn claimant(&self, id: usize) -> Claimant {
        Claimant {
            client: self.shapes[id].client.clone(),
            cost: self.router.cost(&self.asked(id)).total,
            priority: 0,
            resumed: false,
        }
    }

    fn try_send(&mut self, id: usize) -> bool {
        let cost = self.router.cost(&self.asked(id));
        let books = self.books.iter().enumerate();
        let candidates: Vec<Candidate> = books.map(|(slot, book)| book.candidate(slot)).collect();
        let Some(slot) = self.router.choose(&cost, &candidates, self.contention()) else {
            return false;
        };
        let now_s = self.now_s();
        self.streams[id] = Some(self.books[slot].sent(slot, &cost, now_s));
        self.sent_s[id] = self.now_s();
        let arrival = &self.arrivals[id];
        self.workers[slot].submit(Job {
            id,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: arrival.output_tokens,
            reserve_tokens: self.scenario.reserve_tokens,
        });
        self.iterate(slot);
        true
    }

    fn iterate(&mut self, slot: usize) {
        if self.busy[slot] {
            return;
        }
        if let Some(duration_s) = self.workers[slot].begin() {
            self.busy[slot] = true;
            self.schedule(self.now_s() + duration_s, Event::Iteration(slot));
        }
    }

    fn dispatch(&mut self) {
        loop {
            let places: Vec<_> = self
                .waiting
                .in_order()
                .take(LOOKAHEAD)
                .map(|(place, id)| (place, *id))
                .collect();
            let Some((place, _)) = places.into_iter().find(|(_, id)| self.try_send(*id)) else {
                return;
            };
            self.waiting.serve(&place);
        }
    }

    fn left_client(&mut self, id: usize) {
        let client = &self.shapes[id].client;
        if let Some(requests) = self.present.get_mut(client) {
            *requests -= 1;
            if *requests == 0 {
                self.present.remove(client);
            }
        }
    }

    fn token(&mut self, emission: Emission) {
        let (id, now_s) = (emission.id, self.now_s());
        let Some(mut stream) = self.streams[id].take() else {
            return;
        };
        let slot = stream.slot;
        if self.first_s[id] == 0.0 {
            self.first_s[id] = now_s;
        }
        self.books[slot].token(&mut stream, now_s);
        if !emission.last {
            self.streams[id] = Some(stream);
            return;
        }
        self.books[slot].ended(&stream);
        self.left_client(id);
        let arrival = &self.arrivals[id];
        self.model.learn(
            &self.shapes[id],
            Some(f64::from(arrival.prompt_tokens)),
            f64::from(arrival.output_tokens),
        );
        let gaps = f64::from(arrival.output_tokens.max(2) - 1);
        self.served[id] = Some(Served {
            machine: slot,
            first_token_s: self.first_s[id] - arrival.at_s,
            per_token_s: (now_s - self.first_s[id]) / gaps,
            held_s: self.sent_s[id] - arrival.at_s,
        });
        self.left -= 1;
    }
}
