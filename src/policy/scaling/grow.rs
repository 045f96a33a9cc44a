//! More capacity: back from draining, restarted or rented, in that order, as each is quicker and cheaper than the next.

use std::time::Duration;

use crate::domain::{
    GroupName, Reason, Release, ScalingPlan, ScalingSettings, Timestamp, WorkerPhase,
};

use super::supply::{Stock, is_prepared, is_running, is_short, sane, tps, usd_per_speed};
use super::{Need, ScalingInputs, ScalingMemory};

/// A stopped worker that did not come up when asked is not asked again for so long, if anything else can help.
const RESTART_DOUBTED_FOR: Duration = Duration::from_secs(600);
/// Nor at all for so long.
const RESTART_PAUSE: Duration = Duration::from_secs(60);

/// A group that can be rented now.
pub(super) struct Rentable<'a> {
    group: &'a GroupName,
    speed: f64,
    usd_per_speed: f64,
    /// Most of it that may be starting at once; fewer with every wave of failures.
    starting_max: usize,
}

/// Groups that can be rented, the best price for capacity first.
pub(super) fn rentable<'a>(
    inputs: &'a ScalingInputs,
    memory: &ScalingMemory,
    need: &Need,
    now: Timestamp,
) -> Vec<Rentable<'a>> {
    let mut found = Vec::new();
    for supply in &inputs.groups {
        let speed = sane(supply.speed.0);
        let backoff = memory.group(&supply.group);
        if !supply.rentable || speed <= 0.0 || backoff.blocks(now) {
            continue;
        }
        let starting_max = match backoff.failures {
            0 => usize::MAX,
            failures => {
                let workers = (need.wanted.max(need.prepared_wanted) / speed).ceil() as usize;
                (workers >> failures.min(31)).max(1)
            }
        };
        found.push(Rentable {
            group: &supply.group,
            speed,
            usd_per_speed: usd_per_speed(supply.usd_per_hour.0, speed),
            starting_max,
        });
    }
    found.sort_by(|a, b| {
        let by_price = a.usd_per_speed.total_cmp(&b.usd_per_speed);
        by_price.then_with(|| a.group.cmp(b.group))
    });
    found
}

/// Brings the running capacity up to what is wanted, as far as possible.
pub(super) fn cover<'a>(
    stock: &mut Stock<'a>,
    need: &Need,
    rentable: &[Rentable<'a>],
    memory: &ScalingMemory,
    now: Timestamp,
) {
    let doubted = |at: Timestamp| now.since(at) < RESTART_DOUBTED_FOR;
    let pausing = |at: Timestamp| now.since(at) < RESTART_PAUSE;
    while let Some(reason) = shortage(stock, need) {
        let done = cancel_newest_drain(stock, &reason)
            || restart(stock, memory, doubted, &reason)
            || rent(stock, rentable, &reason)
            || restart(stock, memory, pausing, &reason);
        if !done {
            break;
        }
    }
}

/// Less is there, running or prepared, than the plan made from it wants.
pub fn is_wanting(inputs: &ScalingInputs, plan: &ScalingPlan, settings: &ScalingSettings) -> bool {
    let stock = Stock::new(inputs, settings.max_workers);
    let none = stock.count(is_running) == 0 && inputs.snapshot.waiting.requests > 0;
    let prepared = stock.count(is_prepared) >= settings.cold_workers as usize
        && !is_short(stock.prepared(), plan.prepared_wanted.0);
    none || is_short(stock.running(), plan.wanted.0) || !prepared
}

fn shortage(stock: &Stock, need: &Need) -> Option<Reason> {
    let have = stock.running();
    let none = stock.count(is_running) == 0;
    if none && need.waiting > 0 {
        return Some(Reason::RequestsWaitAtZero {
            waiting: need.waiting,
        });
    }
    let short = is_short(have, need.wanted) || (none && need.at_least_one);
    short.then_some(Reason::CapacityBelowWanted {
        have: tps(have),
        wanted: tps(need.wanted),
    })
}

fn cancel_newest_drain(stock: &mut Stock, reason: &Reason) -> bool {
    let may_keep = stock.may_keep_one_more();
    let draining = stock.slots.iter().enumerate();
    let newest = draining
        .filter_map(|(index, slot)| match slot.phase {
            WorkerPhase::Draining { then, since } if slot.speed > 0.0 => {
                (then == Release::Stop || may_keep).then_some((since, index))
            }
            _ => None,
        })
        .max_by_key(|&(since, index)| (since, std::cmp::Reverse(index)));
    if let Some((_, index)) = newest {
        stock.cancel_drain(index, reason.clone());
    }
    newest.is_some()
}

/// Restarts the stopped worker with the best price for capacity, but none whose last restart is too recent.
fn restart(
    stock: &mut Stock,
    memory: &ScalingMemory,
    too_recent: impl Fn(Timestamp) -> bool,
    reason: &Reason,
) -> bool {
    let candidates = stock.worst_first(|slot| {
        let tried = slot.view.and_then(|view| memory.restarts.get(&view.id));
        slot.phase == WorkerPhase::Stopped
            && slot.speed > 0.0
            && !tried.is_some_and(|&at| too_recent(at))
    });
    if let Some(&best) = candidates.last() {
        stock.restart(best, reason.clone());
    }
    !candidates.is_empty()
}

fn rent<'a>(stock: &mut Stock<'a>, rentable: &[Rentable<'a>], reason: &Reason) -> bool {
    if !stock.may_rent() {
        return false;
    }
    let open = rentable.iter().find(|offer| {
        let starting = stock
            .slots
            .iter()
            .filter(|slot| slot.phase.is_starting() && slot.group == offer.group);
        starting.count() < offer.starting_max
    });
    if let Some(offer) = open {
        stock.rent(offer.group, offer.speed, reason.clone());
    }
    open.is_some()
}

/// Brings what exists up to what is to be prepared. No market rents out a stopped machine with the model on it, so a
/// missing one is rented, boots, and is stopped as surplus once it is ready.
pub(super) fn prepare<'a>(
    stock: &mut Stock<'a>,
    need: &Need,
    cold_workers: u32,
    rentable: &[Rentable<'a>],
) {
    loop {
        let have = stock.prepared();
        let enough = stock.count(is_prepared) >= cold_workers as usize;
        if enough && !is_short(have, need.prepared_wanted) {
            return;
        }
        let reason = Reason::PreparedBelowWanted {
            have: tps(have),
            wanted: tps(need.prepared_wanted),
        };
        if !(stop_instead_of_destroy(stock, &reason) || rent(stock, rentable, &reason)) {
            return;
        }
    }
}

fn stop_instead_of_destroy(stock: &mut Stock, reason: &Reason) -> bool {
    if !stock.may_keep_one_more() {
        return false;
    }
    let leaving = stock.worst_first(|slot| {
        let leaves = WorkerPhase::is_ending(slot.phase) || is_prepared(slot.phase);
        !leaves && slot.speed > 0.0
    });
    if let Some(&best) = leaving.last() {
        stock.drain(best, Release::Stop, reason.clone());
    }
    !leaving.is_empty()
}
