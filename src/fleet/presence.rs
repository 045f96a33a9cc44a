//! Whose requests an endpoint has now: with one client nobody has to be kept from another's flood.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::endpoint::EndpointFleet;
use crate::domain::{ClientKey, Contention};

#[derive(Debug, Default)]
pub(super) struct Present {
    of: Mutex<HashMap<ClientKey, Requests>>,
    clients: AtomicUsize,
}

/// One client's.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    /// That wait or are with a worker.
    all: u32,
    /// That are with a worker.
    served: u32,
}

impl Present {
    pub(super) fn contention(&self) -> Contention {
        if self.clients.load(Relaxed) > 1 {
            Contention::Several
        } else {
            Contention::Alone
        }
    }

    fn come(&self, client: &ClientKey) {
        let mut of = self.of.lock();
        of.entry(client.clone()).or_default().all += 1;
        self.clients.store(of.len(), Relaxed);
    }

    /// Whether this left one client alone.
    fn go(&self, client: &ClientKey) -> bool {
        let mut of = self.of.lock();
        let before = of.len();
        if let Some(requests) = of.get_mut(client) {
            requests.all -= 1;
            if requests.all == 0 {
                of.remove(client);
            }
        }
        self.clients.store(of.len(), Relaxed);
        before > 1 && of.len() == 1
    }

    /// A request of the client goes to a worker; false if it is of nobody who is present.
    pub(super) fn served(&self, client: &ClientKey) -> bool {
        let mut of = self.of.lock();
        let requests = of.get_mut(client);
        requests.map(|requests| requests.served += 1).is_some()
    }

    pub(super) fn done(&self, client: &ClientKey) {
        if let Some(requests) = self.of.lock().get_mut(client) {
            requests.served = requests.served.saturating_sub(1);
        }
    }

    /// What the client has at workers, and how many clients there are.
    pub(super) fn own(&self, client: &ClientKey) -> (u32, usize) {
        let of = self.of.lock();
        let own = of.get(client).map_or(0, |requests| requests.served);
        (own, of.len())
    }
}

/// One request of a client, from its arrival to its end.
pub struct Presence {
    endpoint: Arc<EndpointFleet>,
    client: ClientKey,
}

impl EndpointFleet {
    pub fn present(self: &Arc<Self>, client: &ClientKey) -> Presence {
        self.present.come(client);
        Presence {
            endpoint: Arc::clone(self),
            client: client.clone(),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // What is held back for others is held back no longer.
        if self.endpoint.present.go(&self.client) {
            self.endpoint.dispatch();
        }
    }
}
