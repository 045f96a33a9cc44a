//! What two gateways tell each other while one takes over from the other: the one that ends, what it still has in
//! flight and holds; the one that acts, which workers there are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{EndpointFleet, Fleet, WorkerSpec};
use crate::domain::{
    EndpointName, EngineKind, GroupName, Timestamp, Tokens, TokensPerSecond, UsdPerHour,
    WaitingView, WorkerId, WorkerPhase,
};
use crate::policy::capacity::CapacityEstimate;

/// By endpoint: what a gateway that is ending still has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loads(BTreeMap<EndpointName, Load>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Load {
    waiting: WaitingView,
    /// Workers with something in flight.
    in_flight: BTreeMap<WorkerId, u32>,
}

/// By endpoint: the workers as the gateway that acts knows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerTable(BTreeMap<EndpointName, Vec<Row>>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    id: WorkerId,
    group: GroupName,
    engine: EngineKind,
    address: Option<SocketAddr>,
    served_model: Option<String>,
    phase: WorkerPhase,
    since: Timestamp,
    takes_requests: bool,
    speed: TokensPerSecond,
}

/// What was measured and is worth keeping; losing it costs time, not correctness.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    #[serde(default)]
    speeds: BTreeMap<WorkerId, CapacityEstimate>,
}

impl Fleet {
    pub fn loads(&self) -> Loads {
        let endpoints = self.endpoints();
        let loads = endpoints.iter().map(|(name, endpoint)| {
            let workers = endpoint.workers();
            let busy = workers.iter().filter(|worker| worker.in_flight() > 0);
            let load = Load {
                waiting: together(endpoint.waiting(), *endpoint.waiting_elsewhere.lock()),
                in_flight: busy
                    .map(|worker| (worker.id().clone(), worker.in_flight()))
                    .collect(),
            };
            (name.clone(), load)
        });
        Loads(loads.collect())
    }

    /// The default clears what was told before: the other gateway has ended.
    pub fn take_loads(&self, loads: &Loads) {
        let mut news = false;
        for (name, endpoint) in self.endpoints().iter() {
            let load = loads.0.get(name).cloned().unwrap_or_default();
            let before = std::mem::replace(&mut *endpoint.waiting_elsewhere.lock(), load.waiting);
            news |= before.requests != load.waiting.requests;
            for worker in endpoint.workers().iter() {
                let in_flight = load.in_flight.get(worker.id()).copied().unwrap_or(0);
                news |= worker.set_elsewhere(in_flight);
            }
        }
        if news {
            self.wake_scaler();
        }
    }

    pub fn worker_table(&self) -> WorkerTable {
        let endpoints = self.endpoints();
        let rows = endpoints.iter().map(|(name, endpoint)| {
            let workers = endpoint.workers();
            let rows = workers.iter().map(|worker| {
                let (phase, since) = worker.phase();
                let contact = worker.contact();
                Row {
                    id: worker.id().clone(),
                    group: worker.spec.group.clone(),
                    engine: worker.spec.engine,
                    address: contact.as_ref().map(|contact| contact.address),
                    served_model: contact.and_then(|contact| contact.served_model.clone()),
                    phase,
                    since,
                    takes_requests: worker.takes_requests(),
                    speed: worker.speed(),
                }
            });
            (name.clone(), rows.collect())
        });
        WorkerTable(rows.collect())
    }

    /// Knows the workers that the other gateway knows, so that what is still held here can be served.
    pub fn take_worker_table(&self, table: &WorkerTable, now: Timestamp) {
        for (name, endpoint) in self.endpoints().iter() {
            if let Some(rows) = table.0.get(name) {
                take_rows(endpoint, rows, now);
                endpoint.dispatch();
            }
        }
    }

    pub fn learned(&self) -> Learned {
        let endpoints = self.endpoints();
        let workers = endpoints.values().flat_map(|endpoint| {
            let workers = endpoint.workers();
            let speeds = workers
                .iter()
                .map(|worker| (worker.id().clone(), worker.estimate()));
            speeds.collect::<Vec<_>>()
        });
        Learned {
            speeds: workers.collect(),
        }
    }

    /// For the workers that are known by now.
    pub fn take_learned(&self, learned: &Learned) {
        for endpoint in self.endpoints().values() {
            for worker in endpoint.workers().iter() {
                if let Some(estimate) = learned.speeds.get(worker.id()) {
                    worker.set_estimate(estimate.clone());
                }
            }
        }
    }
}

fn take_rows(endpoint: &Arc<EndpointFleet>, rows: &[Row], now: Timestamp) {
    let settings = endpoint.settings();
    for row in rows {
        let group = settings
            .group(&row.group)
            .or_else(|| settings.groups.first());
        let known = endpoint.worker(&row.id).or_else(|| {
            let mut spec = WorkerSpec::new(row.id.clone(), group?);
            spec.engine = row.engine;
            Some(endpoint.add_worker(spec, row.phase, UsdPerHour::ZERO, now))
        });
        let Some(worker) = known else { continue };
        // A group this process does not know has no key here, and no other group's.
        worker.set_address(row.address, settings.group(&row.group));
        if let (Some(contact), Some(model)) = (worker.contact(), &row.served_model)
            && contact.served_model.as_ref() != Some(model)
        {
            worker.set_served_model(&contact, model.clone());
        }
        worker.set_speed(row.speed);
        worker.set_phase(row.phase, row.since);
        if !row.takes_requests {
            worker.doubt();
        }
    }
    for worker in endpoint.workers().iter() {
        if !rows.iter().any(|row| row.id == *worker.id()) {
            worker.set_phase(WorkerPhase::Gone, now);
            endpoint.forget_worker(worker.id());
        }
    }
}

/// What is held here and elsewhere.
pub(super) fn together(here: WaitingView, elsewhere: WaitingView) -> WaitingView {
    let oldest = [here.oldest_since, elsewhere.oldest_since];
    WaitingView {
        requests: here.requests + elsewhere.requests,
        bytes: here.bytes + elsewhere.bytes,
        cost: Tokens(here.cost.0 + elsewhere.cost.0),
        oldest_since: oldest.into_iter().flatten().min(),
    }
}
