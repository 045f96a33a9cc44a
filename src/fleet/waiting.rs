//! The bounded room for requests that no worker can take yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::assign::Wish;
use super::claim::Claim;
use super::endpoint::{EndpointFleet, Ticket};
use crate::domain::{
    ClientKey, PredictedCost, Prefix, Timestamp, Tokens, WaitReason, WaitingView, WorkerId,
};
use crate::policy::admission::Occupancy;
use crate::policy::queueing::{Claimant, Place, WaitingOrder};

/// Places are worked out for all who wait at once, and at most this often.
const STANDINGS_KEPT: Duration = Duration::from_secs(1);

pub(super) struct Waiter {
    cost: PredictedCost,
    tried: Vec<WorkerId>,
    prefix: Prefix,
    streamed: bool,
    client: ClientKey,
    resumed: bool,
    body_bytes: usize,
    sender: oneshot::Sender<Claim>,
}

impl Waiter {
    pub(super) fn wish(&self) -> Wish<'_> {
        Wish {
            cost: &self.cost,
            tried: &self.tried,
            prefix: &self.prefix,
            streamed: self.streamed,
            client: &self.client,
            resumed: self.resumed,
        }
    }
}

#[derive(Default)]
pub(super) struct Room {
    order: WaitingOrder<Waiter>,
    total: Occupancy,
    of_client: HashMap<ClientKey, Occupancy>,
    cost: Tokens,
    /// When each entered, by arrival.
    since: BTreeMap<u64, Timestamp>,
    standings: Standings,
}

/// Where all who wait stood when somebody last asked, by arrival: who is ahead, and with how much work.
#[derive(Default)]
struct Standings {
    taken_at: Timestamp,
    of: HashMap<u64, (usize, Tokens)>,
}

impl Room {
    pub(super) fn view(&self) -> WaitingView {
        WaitingView {
            requests: self.total.requests,
            bytes: self.total.bytes,
            cost: Tokens(self.cost.0.max(0.0)),
            oldest_since: self.since.values().next().copied(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn total(&self) -> Occupancy {
        self.total
    }

    pub(super) fn own(&self, client: &ClientKey) -> Occupancy {
        self.of_client.get(client).copied().unwrap_or_default()
    }

    pub(super) fn enter(
        &mut self,
        ticket: &Ticket,
        claimant: &Claimant,
        now: Timestamp,
    ) -> (Place, oneshot::Receiver<Claim>) {
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            cost: ticket.cost,
            tried: ticket.tried.clone(),
            prefix: ticket.prefix.clone(),
            streamed: ticket.streamed,
            client: ticket.client.clone(),
            resumed: ticket.resumed,
            body_bytes: ticket.body_bytes,
            sender,
        };
        let own = self.of_client.entry(claimant.client.clone()).or_default();
        for part in [own, &mut self.total] {
            part.requests += 1;
            part.bytes += ticket.body_bytes;
        }
        self.cost += ticket.cost.total;
        let place = self.order.push(claimant, waiter);
        self.since.insert(place.arrival(), now);
        (place, receiver)
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = (Place, &Waiter)> {
        self.order.in_order()
    }

    pub(super) fn serve(&mut self, place: &Place) -> Option<oneshot::Sender<Claim>> {
        let waiter = self.order.serve(place)?;
        self.left(place, &waiter);
        Some(waiter.sender)
    }

    /// Everybody has to go; dropping what is returned tells them.
    pub(super) fn close(&mut self) -> Vec<Waiter> {
        let places: Vec<Place> = self.order.in_order().map(|(place, _)| place).collect();
        places
            .iter()
            .filter_map(|place| self.leave(place))
            .collect()
    }

    fn leave(&mut self, place: &Place) -> Option<Waiter> {
        let waiter = self.order.leave(place)?;
        self.left(place, &waiter);
        Some(waiter)
    }

    fn left(&mut self, place: &Place, waiter: &Waiter) {
        self.since.remove(&place.arrival());
        if let Some(own) = self.of_client.get_mut(place.client()) {
            for part in [own, &mut self.total] {
                part.requests -= 1;
                part.bytes -= waiter.body_bytes;
            }
        }
        if self.own(place.client()).requests == 0 {
            self.of_client.remove(place.client());
        }
        self.cost = if self.order.is_empty() {
            Tokens::ZERO
        } else {
            self.cost - waiter.cost.total
        };
    }

    /// How many are ahead of an entry, and with how much work; up to a second old.
    fn ahead_of(&mut self, place: &Place, now: Timestamp) -> Option<(usize, Tokens)> {
        let old = now.since(self.standings.taken_at) >= STANDINGS_KEPT;
        if old || !self.standings.of.contains_key(&place.arrival()) {
            let mut work = Tokens::ZERO;
            let ahead = self.order.in_order().enumerate().map(|(ahead, entry)| {
                let (place, waiter) = entry;
                let before = work;
                work += waiter.cost.total;
                (place.arrival(), (ahead, before))
            });
            self.standings = Standings {
                taken_at: now,
                of: ahead.collect(),
            };
        }
        self.standings.of.get(&place.arrival()).copied()
    }
}

/// A request's place in the room; dropping it gives the place up.
pub struct Held {
    endpoint: Arc<EndpointFleet>,
    place: Place,
    receiver: oneshot::Receiver<Claim>,
    reason: watch::Receiver<WaitReason>,
}

/// What those who wait hear.
pub enum News {
    Assigned(Claim),
    /// The room is closed for good.
    Closed,
    /// They wait for something else now.
    ReasonChanged,
}

/// Where a held request stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// 1 is next.
    pub place: usize,
    pub of: usize,
    /// `None` while nothing is known to come.
    pub expected: Option<Duration>,
}

impl Held {
    pub(super) fn new(
        endpoint: Arc<EndpointFleet>,
        place: Place,
        receiver: oneshot::Receiver<Claim>,
    ) -> Self {
        let reason = endpoint.reason.subscribe();
        Self {
            endpoint,
            place,
            receiver,
            reason,
        }
    }

    /// What it waits for now; a change after this is news.
    pub fn reason(&mut self) -> WaitReason {
        *self.reason.borrow_and_update()
    }

    /// Waits for something to happen. Cancel-safe.
    pub async fn news(&mut self) -> News {
        tokio::select! {
            biased;
            claim = &mut self.receiver => claim.map_or(News::Closed, News::Assigned),
            // The endpoint lives as long as `self`, so the sender does.
            _ = self.reason.changed() => News::ReasonChanged,
        }
    }

    /// `None` if a worker was just found.
    pub fn standing(&self, now: Timestamp) -> Option<Standing> {
        let (ahead, of, work) = {
            let mut room = self.endpoint.room.lock();
            let (ahead, work) = room.ahead_of(&self.place, now)?;
            (ahead, room.total().requests, work)
        };
        Some(Standing {
            place: (ahead + 1).min(of),
            of,
            expected: self.endpoint.expected_wait(work, now),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let left = self.endpoint.room.lock().leave(&self.place);
        // A claim that was sent and not received is dropped with the receiver, after the lock.
        drop(left);
    }
}
