//! The bounded room for requests that no worker can take yet.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::claim::Claim;
use super::endpoint::EndpointFleet;
use crate::domain::{ClientKey, PredictedCost, Timestamp, Tokens, WaitingView, WorkerId};
use crate::policy::queueing::{Place, WaitingOrder};

pub(super) struct Waiter {
    pub(super) cost: PredictedCost,
    pub(super) tried: Vec<WorkerId>,
    body_bytes: usize,
    since: Timestamp,
    sender: oneshot::Sender<Claim>,
}

#[derive(Default)]
pub(super) struct Room {
    order: WaitingOrder<Waiter>,
    bytes: usize,
    cost: Tokens,
}

impl Room {
    pub(super) fn view(&self) -> WaitingView {
        WaitingView {
            requests: self.order.len(),
            bytes: self.bytes,
            cost: Tokens(self.cost.0.max(0.0)),
            oldest_since: self.order.iter().map(|(_, waiter)| waiter.since).min(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn enter(
        &mut self,
        client: &ClientKey,
        cost: PredictedCost,
        body_bytes: usize,
        tried: Vec<WorkerId>,
        now: Timestamp,
    ) -> (Place, oneshot::Receiver<Claim>) {
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            cost,
            tried,
            body_bytes,
            since: now,
            sender,
        };
        self.bytes += body_bytes;
        self.cost += cost.total;
        (self.order.push(client, cost.total, waiter), receiver)
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = (Place, &Waiter)> {
        self.order.iter()
    }

    pub(super) fn serve(&mut self, place: Place) -> Option<oneshot::Sender<Claim>> {
        let waiter = self.order.serve(place)?;
        self.left(&waiter);
        Some(waiter.sender)
    }

    /// Everybody has to go; dropping what is returned tells them.
    pub(super) fn close(&mut self) -> Vec<Waiter> {
        let places: Vec<Place> = self.order.iter().map(|(place, _)| place).collect();
        let waiters: Vec<Waiter> = places
            .into_iter()
            .filter_map(|place| self.order.leave(place))
            .collect();
        for waiter in &waiters {
            self.left(waiter);
        }
        waiters
    }

    fn leave(&mut self, place: Place) {
        if let Some(waiter) = self.order.leave(place) {
            self.left(&waiter);
        }
    }

    fn left(&mut self, waiter: &Waiter) {
        self.bytes -= waiter.body_bytes;
        self.cost = if self.order.is_empty() {
            Tokens::ZERO
        } else {
            self.cost - waiter.cost.total
        };
    }
}

/// A request's place in the room; dropping it gives the place up.
pub struct Held {
    endpoint: Arc<EndpointFleet>,
    place: Place,
    receiver: oneshot::Receiver<Claim>,
}

impl Held {
    pub(super) fn new(
        endpoint: Arc<EndpointFleet>,
        place: Place,
        receiver: oneshot::Receiver<Claim>,
    ) -> Self {
        Self {
            endpoint,
            place,
            receiver,
        }
    }

    /// Waits for a worker. Cancel-safe. `None` when the room is closed for good.
    pub async fn assigned(&mut self) -> Option<Claim> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.endpoint.room.lock().leave(self.place);
        // A claim that was sent and not received is dropped with the receiver, after the lock.
    }
}
