//! What the scaler remembers of an endpoint between ticks, and the inputs it makes for the plan.

use std::collections::BTreeMap;

use crate::domain::{GroupName, Timestamp, TokensPerSecond};
use crate::fleet::EndpointFleet;
use crate::policy::scaling::{GroupSupply, ScalingInputs, ScalingMemory};

#[derive(Default)]
pub(super) struct EndpointMemory {
    pub(super) scaling: ScalingMemory,
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
        ScalingInputs {
            snapshot: endpoint.snapshot(at),
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
