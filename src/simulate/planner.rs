//! Who decides about capacity in a simulated world: the production policy, or another in its place.

use crate::domain::{ScalingPlan, ScalingSettings, Timestamp};
use crate::policy::scaling::{ScalingInputs, ScalingMemory, plan_scaling};

pub trait Planner {
    /// Orders take effect at once in the fleet of the next call.
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan;
}

/// The one in production.
#[derive(Clone, Debug)]
pub struct Production {
    pub settings: ScalingSettings,
    pub memory: ScalingMemory,
}

impl Production {
    pub fn new(settings: &ScalingSettings) -> Self {
        Self {
            settings: settings.clone(),
            memory: ScalingMemory::default(),
        }
    }
}

impl Planner for Production {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        let (plan, memory) = plan_scaling(inputs, &self.memory, &self.settings, now);
        self.memory = memory;
        plan
    }
}
