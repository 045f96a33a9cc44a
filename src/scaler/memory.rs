//! What the scaler remembers of an endpoint between ticks, and the inputs it makes for the plan. The ledger keeps it for
//! the next start.

mod kept;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Scaler;
use crate::domain::{DemandView, EndpointName, GroupName, Timestamp, TokensPerSecond};
use crate::fleet::EndpointFleet;
use crate::ledger::LedgerError;
use crate::policy::scaling::{GroupSupply, ScalingInputs, ScalingMemory};
use crate::telemetry::now;
use kept::Kept;

/// Under which the ledger remembers.
const SCALING: &str = "scaling";
const KEPT_EVERY: Duration = Duration::from_secs(120);

#[derive(Default)]
pub(super) struct EndpointMemory {
    pub(super) scaling: ScalingMemory,
    /// Counted before this process began: the memory goes on from there.
    before: DemandView,
    /// Last seen mean speed of each group's workers.
    speeds: BTreeMap<GroupName, TokensPerSecond>,
}

impl EndpointMemory {
    pub(super) fn inputs(
        &mut self,
        endpoint: &EndpointFleet,
        mut groups: Vec<GroupSupply>,
        at: Timestamp,
    ) -> ScalingInputs {
        self.learn_speeds(endpoint);
        for supply in &mut groups {
            if let Some(speed) = self.speeds.get(&supply.group)
                && !supply.told_apart
            {
                supply.speed = *speed;
            }
        }
        let mut snapshot = endpoint.snapshot(at);
        snapshot.demand = added(&self.before, &snapshot.demand);
        ScalingInputs {
            snapshot,
            groups,
            removed: endpoint.is_removed(),
        }
    }

    /// A new worker is expected to be like the ready ones of its group.
    fn learn_speeds(&mut self, endpoint: &EndpointFleet) {
        let mut sums: BTreeMap<GroupName, (f64, f64)> = BTreeMap::new();
        for worker in endpoint.workers().iter() {
            if worker.phase().0.is_ready() {
                let sum = sums.entry(worker.spec.group.clone()).or_default();
                sum.0 += worker.speed().0;
                sum.1 += 1.0;
            }
        }
        for (group, (speed, workers)) in sums {
            self.speeds.insert(group, TokensPerSecond(speed / workers));
        }
    }
}

/// What was counted before and since.
fn added(before: &DemandView, since: &DemandView) -> DemandView {
    DemandView {
        arrived_total: before.arrived_total + since.arrived_total,
        corrected_total: before.corrected_total + since.corrected_total,
        late_total: before.late_total + since.late_total,
        last_active: since.last_active.max(before.last_active),
    }
}

impl Scaler {
    pub(super) fn keep_memories_if_due(&self, at: Timestamp) {
        let mut kept_at = self.memories_kept_at.lock();
        if at.since(*kept_at) >= KEPT_EVERY {
            *kept_at = at;
            drop(kept_at);
            self.keep_memories(at);
        }
    }

    /// Into the ledger, for the next start.
    pub fn keep_memories(&self, at: Timestamp) {
        for endpoint in self.fleet.endpoints().values() {
            if !self.is_rented(endpoint) || endpoint.is_removed() {
                continue;
            }
            let memories = self.memory.lock();
            let Some(memory) = memories.get(&endpoint.name) else {
                continue;
            };
            let demand = added(&memory.before, &endpoint.snapshot(at).demand);
            let kept = Kept::of(&memory.scaling, demand, at);
            drop(memories);
            match kept {
                Ok(kept) => self.remember(SCALING, endpoint.name.as_str(), &kept, at),
                Err(why) => {
                    tracing::warn!(endpoint = %endpoint.name, why, "what the scaler remembers is not kept");
                }
            }
        }
    }

    /// What an earlier gateway knew, unless it is too old or was another version's: then it is learned anew.
    pub(super) fn recall_memories(&self) -> Result<(), LedgerError> {
        for (name, value) in self.ledger.recall(SCALING)? {
            let Some(endpoint) = self.fleet.endpoint(&name) else {
                continue;
            };
            let (name, at) = (EndpointName::new(name), now());
            let mut memories = self.memory.lock();
            if memories.contains_key(&name) {
                continue;
            }
            let kept = serde_json::from_value(value).ok();
            let Some((scaling, demand)) = kept.and_then(|kept: Kept| kept.resume(at)) else {
                tracing::info!(endpoint = %name, "what an earlier gateway knew of the load is of no use");
                continue;
            };
            let here = endpoint.snapshot(at).demand;
            let memory = EndpointMemory {
                scaling,
                before: DemandView {
                    arrived_total: demand.arrived_total - here.arrived_total,
                    corrected_total: demand.corrected_total - here.corrected_total,
                    late_total: demand.late_total - here.late_total,
                    last_active: demand.last_active,
                },
                ..EndpointMemory::default()
            };
            memories.insert(name, memory);
        }
        Ok(())
    }
}
