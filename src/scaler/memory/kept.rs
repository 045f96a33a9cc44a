//! A scaler's memory as it is kept: without knowing what is in it. Time stands still for it while nobody watches: a short
//! gap is neither silence nor a burst. After a longer one the load is watched anew, with what was learned of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{DemandView, Timestamp};
use crate::policy::scaling::{MEMORY_SHAPE, ScalingMemory};

/// Older ones say nothing of today.
const AGE_MAX: Duration = Duration::from_secs(86_400);
/// Older ones say nothing of the load of now.
const LOAD_AGE_MAX: Duration = Duration::from_secs(300);
/// Of JSON; more is not kept.
const BYTES_MAX: usize = 256 << 10;
/// Whole numbers from here on are moments, in milliseconds since 1970; nothing else that is remembered grows so large.
const MOMENT_MIN: u64 = 1_000_000_000_000;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    shape: u32,
    at: Timestamp,
    /// As counted at `at`.
    demand: DemandView,
    memory: Value,
}

impl Kept {
    pub(super) fn of(
        memory: &ScalingMemory,
        demand: DemandView,
        at: Timestamp,
    ) -> Result<Self, String> {
        let memory = serde_json::to_value(memory).map_err(|error| error.to_string())?;
        let bytes = memory.to_string().len();
        if bytes > BYTES_MAX {
            return Err(format!("it is {bytes} bytes, more than {BYTES_MAX}"));
        }
        Ok(Self {
            shape: MEMORY_SHAPE,
            at,
            demand,
            memory,
        })
    }

    /// The memory with what was counted by then, all moments moved to now; of the load only what still holds. `None`: it is too old, or not of this version.
    pub(super) fn resume(mut self, now: Timestamp) -> Option<(ScalingMemory, DemandView)> {
        let gap = now.since(self.at);
        if self.shape != MEMORY_SHAPE || gap >= AGE_MAX || now < self.at {
            return None;
        }
        move_moments(&mut self.memory, gap.as_millis() as u64);
        let mut memory: ScalingMemory = serde_json::from_value(self.memory.clone()).ok()?;
        let again = serde_json::to_value(&memory).ok()?;
        if !has_same_fields(&self.memory, &again) {
            return None;
        }
        // Nobody could ask meanwhile: after long, that is no reason to have a worker, nor to release those there are.
        let is_of_now = gap <= LOAD_AGE_MAX;
        let last_active = self.demand.last_active.filter(|_| is_of_now);
        if !is_of_now {
            memory.after_a_gap();
        }
        let demand = DemandView {
            last_active: last_active.map(|last| last + gap),
            ..self.demand
        };
        Some((memory, demand))
    }
}

fn move_moments(value: &mut Value, by_ms: u64) {
    match value {
        Value::Number(number) => {
            if let Some(moment) = number.as_u64().filter(|number| *number >= MOMENT_MIN) {
                *value = moment.saturating_add(by_ms).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_moments(item, by_ms)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| move_moments(field, by_ms)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// What was kept by a version that remembers something else is none of ours.
fn has_same_fields(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| has_same_fields(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| has_same_fields(a, b))
        }
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
