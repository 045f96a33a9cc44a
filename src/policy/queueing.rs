//! The order in which held requests are served: start-time fair queueing between clients, so that a
//! client's flood delays the client and not the others; within one client by priority, then by arrival.
//! Streams that are being continued go before everybody: their clients were served already.
//!
//! Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996), with the tag on the client's queue and not
//! on its requests: a client is charged for what it is served, whatever its priorities. Virtual time is
//! counted in thousandths of an output-equivalent token.

use std::cmp::{self, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_map, btree_set};
use std::iter::Peekable;

use crate::domain::{ClientKey, Tokens};

/// Clients with nothing waiting whose past is remembered; beyond it those are forgotten that are nearest
/// to their share anyway.
const PAST_KEPT: usize = 1_024;

/// Work by which a client that asked for less than its share may be ahead of the others, in thousandths of a
/// token: some ten requests that happen to come at once are served at once. A flood spends it in a moment.
const CREDIT: u64 = 2_000_000;

/// What decides a request's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimant {
    pub client: ClientKey,
    pub cost: Tokens,
    /// Among the client's own requests the lower goes first, as in vLLM.
    pub priority: i32,
    /// A stream whose worker was lost.
    pub resumed: bool,
}

/// Where an entry stands, until it is served or leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    client: ClientKey,
    resumed: bool,
    rank: Rank,
}

impl Place {
    pub fn client(&self) -> &ClientKey {
        &self.client
    }

    /// Counts up with each that enters.
    pub fn arrival(&self) -> u64 {
        self.rank.arrival
    }
}

/// The order within one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Rank {
    priority: i32,
    arrival: u64,
}

/// A client's turn: who has been served the least for its share, then who has waited longest for a turn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    start: u64,
    number: u64,
    client: ClientKey,
}

#[derive(Debug)]
pub struct WaitingOrder<T> {
    resumed: BTreeMap<Rank, Entry<T>>,
    queues: HashMap<ClientKey, Queue<T>>,
    /// The turns of all clients in `queues`.
    turns: BTreeSet<Turn>,
    /// Where clients that have nothing waiting would start, if ahead of virtual time.
    past: HashMap<ClientKey, u64>,
    virtual_time: u64,
    arrivals: u64,
    turns_given: u64,
}

/// One client's requests; never empty while it is in the order.
#[derive(Debug)]
struct Queue<T> {
    turn: Turn,
    entries: BTreeMap<Rank, Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    client: ClientKey,
    work: u64,
    what: T,
}

impl<T> Entry<T> {
    fn place(&self, resumed: bool, rank: Rank) -> Place {
        Place {
            client: self.client.clone(),
            resumed,
            rank,
        }
    }
}

impl<T> Default for WaitingOrder<T> {
    fn default() -> Self {
        Self {
            resumed: BTreeMap::new(),
            queues: HashMap::new(),
            turns: BTreeSet::new(),
            past: HashMap::new(),
            virtual_time: 0,
            arrivals: 0,
            turns_given: 0,
        }
    }
}

impl<T> WaitingOrder<T> {
    pub fn is_empty(&self) -> bool {
        self.resumed.is_empty() && self.queues.is_empty()
    }

    pub fn push(&mut self, claimant: &Claimant, what: T) -> Place {
        self.arrivals += 1;
        let place = Place {
            client: claimant.client.clone(),
            resumed: claimant.resumed,
            rank: Rank {
                // Between clients priorities say nothing.
                priority: if claimant.resumed {
                    0
                } else {
                    claimant.priority
                },
                arrival: self.arrivals,
            },
        };
        let work = ((claimant.cost.0.max(0.0) * 1_000.0) as u64).max(1);
        let entry = Entry {
            client: claimant.client.clone(),
            work,
            what,
        };
        if place.resumed {
            self.resumed.insert(place.rank, entry);
        } else {
            self.queue_of(&place.client).insert(place.rank, entry);
        }
        place
    }

    fn least_start(&self) -> u64 {
        self.virtual_time.saturating_sub(CREDIT)
    }

    fn queue_of(&mut self, client: &ClientKey) -> &mut BTreeMap<Rank, Entry<T>> {
        let least = self.least_start();
        let queue = self.queues.entry(client.clone()).or_insert_with(|| {
            self.turns_given += 1;
            let past = self.past.remove(client).unwrap_or(0);
            let turn = Turn {
                start: past.max(least),
                number: self.turns_given,
                client: client.clone(),
            };
            self.turns.insert(turn.clone());
            Queue {
                turn,
                entries: BTreeMap::new(),
            }
        });
        &mut queue.entries
    }

    /// Entries in the order they would be served if nobody else came.
    pub fn in_order(&self) -> InOrder<'_, T> {
        InOrder {
            order: self,
            resumed: self.resumed.iter(),
            first: self.turns.iter().peekable(),
            again: BinaryHeap::new(),
            rounds: 0,
        }
    }

    /// Takes an entry to be served: its client is charged for it and virtual time moves on.
    pub fn serve(&mut self, place: &Place) -> Option<T> {
        let entry = self.take(place)?;
        if !place.resumed {
            self.charge(place, entry.work);
        }
        self.forget_the_past();
        Some(entry.what)
    }

    /// Takes an entry that left unserved; nobody is charged.
    pub fn leave(&mut self, place: &Place) -> Option<T> {
        let entry = self.take(place)?;
        if !place.resumed {
            self.close_if_empty(&place.client);
        }
        self.forget_the_past();
        Some(entry.what)
    }

    fn take(&mut self, place: &Place) -> Option<Entry<T>> {
        if place.resumed {
            return self.resumed.remove(&place.rank);
        }
        self.queues
            .get_mut(&place.client)?
            .entries
            .remove(&place.rank)
    }

    fn charge(&mut self, place: &Place, work: u64) {
        let Some(queue) = self.queues.get_mut(&place.client) else {
            return;
        };
        self.turns.remove(&queue.turn);
        self.virtual_time = self.virtual_time.max(queue.turn.start);
        self.turns_given += 1;
        queue.turn.start = queue.turn.start.saturating_add(work);
        queue.turn.number = self.turns_given;
        self.turns.insert(queue.turn.clone());
        self.close_if_empty(&place.client);
    }

    fn close_if_empty(&mut self, client: &ClientKey) {
        let empty = |queue: &Queue<T>| queue.entries.is_empty();
        if self.queues.get(client).is_some_and(empty)
            && let Some(queue) = self.queues.remove(client)
        {
            self.turns.remove(&queue.turn);
            if queue.turn.start > self.least_start() {
                self.past.insert(client.clone(), queue.turn.start);
            }
        }
    }

    fn forget_the_past(&mut self) {
        if self.is_empty() {
            self.past.clear();
            self.virtual_time = 0;
        } else if self.past.len() > PAST_KEPT {
            let least = self.least_start();
            self.past.retain(|_, start| *start > least);
            let mut starts: Vec<u64> = self.past.values().copied().collect();
            if starts.len() > PAST_KEPT / 2 {
                let beyond = starts.len() - PAST_KEPT / 2;
                let (_, least_kept, _) = starts.select_nth_unstable(beyond - 1);
                let least_kept = *least_kept;
                self.past.retain(|_, start| *start > least_kept);
            }
        }
    }
}

/// A walk through the order: each client's first entry at its turn, the next when it would be charged for
/// the first.
pub struct InOrder<'a, T> {
    order: &'a WaitingOrder<T>,
    resumed: btree_map::Iter<'a, Rank, Entry<T>>,
    first: Peekable<btree_set::Iter<'a, Turn>>,
    again: BinaryHeap<Reverse<Later<'a, T>>>,
    rounds: u64,
}

/// A client's next turn, after those before it.
struct Later<'a, T> {
    start: u64,
    round: u64,
    entries: btree_map::Iter<'a, Rank, Entry<T>>,
}

impl<T> Later<'_, T> {
    fn key(&self) -> (u64, u64) {
        (self.start, self.round)
    }
}

impl<T> PartialEq for Later<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Later<'_, T> {}

impl<T> PartialOrd for Later<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Later<'_, T> {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a, T> InOrder<'a, T> {
    fn next_turn(&mut self) -> Option<Later<'a, T>> {
        let again = self.again.peek().map(|Reverse(later)| later.start);
        let from_first = match (self.first.peek(), again) {
            (Some(turn), Some(start)) => turn.start <= start,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if !from_first {
            return self.again.pop().map(|Reverse(later)| later);
        }
        let turn = self.first.next()?;
        let queue = self.order.queues.get(&turn.client)?;
        Some(Later {
            start: turn.start,
            round: 0,
            entries: queue.entries.iter(),
        })
    }
}

impl<'a, T> Iterator for InOrder<'a, T> {
    type Item = (Place, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((rank, entry)) = self.resumed.next() {
            return Some((entry.place(true, *rank), &entry.what));
        }
        loop {
            let mut turn = self.next_turn()?;
            let Some((rank, entry)) = turn.entries.next() else {
                continue;
            };
            self.rounds += 1;
            turn.start = turn.start.saturating_add(entry.work);
            turn.round = self.rounds;
            self.again.push(Reverse(turn));
            return Some((entry.place(false, *rank), &entry.what));
        }
    }
}

#[cfg(test)]
#[path = "queueing_tests.rs"]
mod tests;
