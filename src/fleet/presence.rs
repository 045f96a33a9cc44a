//! Whose requests an endpoint has now: with one client nobody has to be kept from another's flood.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::endpoint::EndpointFleet;
use crate::domain::{ClientKey, Contention};

/// Requests that wait or are with a worker, by client.
#[derive(Debug, Default)]
pub(super) struct Present {
    of: Mutex<HashMap<ClientKey, u32>>,
    clients: AtomicUsize,
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
        *of.entry(client.clone()).or_default() += 1;
        self.clients.store(of.len(), Relaxed);
    }

    fn go(&self, client: &ClientKey) {
        let mut of = self.of.lock();
        if let Some(requests) = of.get_mut(client) {
            *requests -= 1;
            if *requests == 0 {
                of.remove(client);
            }
        }
        self.clients.store(of.len(), Relaxed);
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
        self.endpoint.present.go(&self.client);
    }
}
