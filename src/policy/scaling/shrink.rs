//! Less capacity: what the recent past did not need is drained, then kept stopped or destroyed.

use crate::domain::{Reason, Release, WorkerPhase};

use super::Need;
use super::supply::{Stock, is_prepared, tps};

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

/// Nobody asked for anything for long enough: everything that is ready goes.
pub(super) fn release_idle(stock: &mut Stock, need: &Need, cold_workers: u32, idle_s: f64) {
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let then = stop_or_destroy(stock, index, need, cold_workers);
        stock.drain(index, then, Reason::Idle { idle_s });
    }
}

/// Releases what the held peak does not need. Only ready workers count as what is left: a starting one is a promise.
pub(super) fn release_surplus(stock: &mut Stock, need: &Need, cold_workers: u32) {
    let mut ready_count = stock.count(WorkerPhase::is_ready);
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let left = stock.ready() - stock.slots[index].speed;
        if ready_count <= 1 || left < need.hold {
            continue;
        }
        let then = stop_or_destroy(stock, index, need, cold_workers);
        let reason = Reason::SurplusCapacity {
            left: tps(left),
            wanted: tps(need.hold),
        };
        stock.drain(index, then, reason);
        ready_count -= 1;
    }
}

fn stop_or_destroy(stock: &Stock, index: usize, need: &Need, cold_workers: u32) -> Release {
    if may_destroy(stock, index, need, cold_workers) {
        Release::Destroy
    } else {
        Release::Stop
    }
}

fn may_destroy(stock: &Stock, index: usize, need: &Need, cold_workers: u32) -> bool {
    let speed = stock.slots[index].speed;
    // A smoothed load fades for minutes; its last hundredth of a worker keeps no machine once nobody asks.
    let negligible = if need.idle_s.is_some() {
        0.01 * speed
    } else {
        0.0
    };
    let left = stock.prepared() - speed;
    left >= need.prepared_hold - negligible && stock.count(is_prepared) > cold_workers as usize
}

/// Ends stopped workers beyond what is to be prepared.
pub(super) fn destroy_surplus_stopped(stock: &mut Stock, need: &Need, cold_workers: u32) {
    for index in stock.worst_first(|slot| slot.phase == WorkerPhase::Stopped) {
        if !may_destroy(stock, index, need, cold_workers) {
            continue;
        }
        let left = stock.prepared() - stock.slots[index].speed;
        let reason = Reason::SurplusPrepared {
            left: tps(left),
            wanted: tps(need.prepared_hold),
        };
        stock.destroy(index, reason);
    }
}
