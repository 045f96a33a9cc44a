//! Less capacity: what the recent past did not need is drained, then kept stopped or destroyed.

use std::time::Duration;

use crate::domain::{Reason, Release, ScalingSettings, Timestamp, WorkerPhase};

use super::supply::{Slot, Stock, is_prepared, tps};
use super::{Need, PeakWindow, ScalingMemory, keep};

/// The endpoint is no more: every worker goes, those that serve after a drain.
pub(super) fn release_all(stock: &mut Stock) {
    for index in 0..stock.slots.len() {
        match stock.slots[index].phase {
            WorkerPhase::Ready
            | WorkerPhase::Unhealthy { .. }
            | WorkerPhase::Draining {
                then: Release::Stop,
                ..
            } => {
                stock.drain(index, Release::Destroy, Reason::EndpointRemoved);
            }
            WorkerPhase::Starting
            | WorkerPhase::Benchmarking
            | WorkerPhase::Stopping
            | WorkerPhase::Stopped => {
                stock.destroy(index, Reason::EndpointRemoved);
            }
            WorkerPhase::Draining {
                then: Release::Destroy,
                ..
            }
            | WorkerPhase::Failed { .. }
            | WorkerPhase::Destroying
            | WorkerPhase::Gone => {}
        }
    }
}

/// Obeys a `max_workers` that was lowered: stopped workers go first, then those that serve least. A starting one
/// stays until it is ready, as it is about to be worth what it cost.
pub(super) fn respect_max(stock: &mut Stock, max_workers: u32) {
    let mut excess = stock.excess();
    if excess == 0 {
        return;
    }
    let mut order = stock.worst_first(|slot| dispensable_rank(slot.phase).is_some());
    order.sort_by_key(|&index| dispensable_rank(stock.slots[index].phase));
    for index in order {
        if excess == 0 {
            return;
        }
        excess -= 1;
        let reason = Reason::AboveMaxWorkers { max_workers };
        if stock.slots[index].phase == WorkerPhase::Stopped {
            stock.destroy(index, reason);
        } else {
            stock.drain(index, Release::Destroy, reason);
        }
    }
}

fn dispensable_rank(phase: WorkerPhase) -> Option<u8> {
    match phase {
        WorkerPhase::Stopped => Some(0),
        WorkerPhase::Draining {
            then: Release::Stop,
            ..
        } => Some(1),
        WorkerPhase::Unhealthy { .. } => Some(2),
        WorkerPhase::Ready => Some(3),
        _ => None,
    }
}

/// What of the past a release is measured by.
pub(super) struct Past<'a> {
    pub need: &'a Need,
    pub memory: &'a ScalingMemory,
    pub settings: &'a ScalingSettings,
    pub now: Timestamp,
}

impl Past<'_> {
    fn break_even(&self, slot: &Slot) -> keep::BreakEven {
        let least = self.settings.scale_down_delay;
        let mut times = slot
            .view
            .map_or(keep::NEVER, |view| keep::break_even(view, &slot.starts));
        // A number says what is to run or to be prepared, whatever it costs.
        times.stop = match self.settings.target_util {
            Some(_) => least,
            None => times.stop.max(least),
        };
        times.destroy = match self.settings.cold_mult {
            Some(_) => least,
            None => times.destroy.max(least),
        };
        times
    }

    /// The most that was wanted in the last `window`; `None` while that is not known.
    fn held(&self, peaks: &PeakWindow, window: Duration) -> Option<f64> {
        (self.need.watched_for >= window).then(|| peaks.within(window, self.now))
    }
}

/// Nobody asked for anything for long enough: everything that is ready goes.
pub(super) fn release_idle(stock: &mut Stock, past: &Past, idle_s: f64) {
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let then = stop_or_destroy(stock, index, past);
        stock.drain(index, then, Reason::Idle { idle_s });
    }
}

/// Releases what the held peak does not need. Only ready workers count as what is left: a starting one is a promise.
pub(super) fn release_surplus(stock: &mut Stock, past: &Past) {
    let mut ready_count = stock.count(WorkerPhase::is_ready);
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let slot = &stock.slots[index];
        let left = stock.ready() - slot.speed;
        let held = past.held(&past.memory.wanted, past.break_even(slot).stop);
        let Some(held) = held.filter(|held| ready_count > 1 && left >= *held) else {
            continue;
        };
        let then = stop_or_destroy(stock, index, past);
        let reason = Reason::SurplusCapacity {
            left: tps(left),
            wanted: tps(held),
        };
        stock.drain(index, then, reason);
        ready_count -= 1;
    }
}

fn stop_or_destroy(stock: &Stock, index: usize, past: &Past) -> Release {
    match may_destroy(stock, index, past) {
        Some(_) => Release::Destroy,
        None => Release::Stop,
    }
}

/// What is to be prepared, if that is there without this one.
fn may_destroy(stock: &Stock, index: usize, past: &Past) -> Option<f64> {
    let slot = &stock.slots[index];
    let window = past.break_even(slot).destroy;
    let held = past.held(&past.memory.prepared, window)?;
    // A smoothed load fades for minutes; its last hundredth of a worker keeps no machine once nobody asks.
    let negligible = if past.need.idle_s.is_some() {
        0.01 * slot.speed
    } else {
        0.0
    };
    let left = stock.prepared() - stock.prepared_speed(slot);
    let enough = stock.count(is_prepared) > past.settings.cold_workers as usize;
    (left >= held - negligible && enough).then_some(held)
}

/// Ends stopped workers beyond what is to be prepared, those stopped longest first.
pub(super) fn destroy_surplus_stopped(stock: &mut Stock, past: &Past) {
    let mut stopped = stock.worst_first(|slot| slot.phase == WorkerPhase::Stopped);
    stopped.sort_by(|&a, &b| {
        let (a, b) = (&stock.slots[a], &stock.slots[b]);
        let by_price = b.usd_per_speed.total_cmp(&a.usd_per_speed);
        by_price.then_with(|| a.stopped_since().cmp(&b.stopped_since()))
    });
    for index in stopped {
        let Some(held) = may_destroy(stock, index, past) else {
            continue;
        };
        let left = stock.prepared() - stock.prepared_speed(&stock.slots[index]);
        let reason = Reason::SurplusPrepared {
            left: tps(left),
            wanted: tps(held),
        };
        stock.destroy(index, reason);
    }
}
