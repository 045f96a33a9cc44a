//! Stopped workers that were asked to start: which of them are not to be counted on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    FleetSnapshot, PlannedAction, ScalingAction, Timestamp, WorkerId, WorkerPhase, WorkerView,
};

/// A stopped worker that was asked to start a moment ago is not asked again for so long, whatever became of it.
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Restarts {
    /// When a start that took effect was ordered, until the worker is ready or gone.
    began: BTreeMap<WorkerId, Timestamp>,
    /// Ordered, and nothing seen of it: an order may be refused for money's sake, which says nothing of the machine.
    asked: BTreeMap<WorkerId, Timestamp>,
}

impl Restarts {
    pub fn observe(&mut self, snapshot: &FleetSnapshot, now: Timestamp) {
        let find = |id: &WorkerId| snapshot.workers.iter().find(|worker| worker.id == *id);
        for (id, at) in std::mem::take(&mut self.asked) {
            let Some(worker) = find(&id) else { continue };
            if took_effect(worker, at) {
                self.began.insert(id, at);
            } else if now.since(at) < RESTART_PAUSE {
                self.asked.insert(id, at);
            }
        }
        self.began.retain(|id, _| {
            find(id).is_some_and(|worker| {
                worker.phase.is_starting() || worker.phase == WorkerPhase::Stopped
            })
        });
    }

    pub fn note(&mut self, actions: &[PlannedAction], now: Timestamp) {
        for planned in actions {
            if let ScalingAction::Restart { worker } = &planned.action {
                self.asked.insert(worker.clone(), now);
            }
        }
    }

    pub fn began_at(&self, worker: &WorkerId) -> Option<Timestamp> {
        self.began.get(worker).copied()
    }

    /// It was asked to start a moment ago and did not.
    pub fn is_refused(&self, worker: &WorkerId) -> bool {
        self.asked.contains_key(worker)
    }
}

/// It starts, or did between two looks.
fn took_effect(worker: &WorkerView, ordered_at: Timestamp) -> bool {
    worker.phase.is_starting() || worker.phase_since >= ordered_at
}
