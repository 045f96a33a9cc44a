//! More capacity: back from draining, restarted or rented, in that order, as each is quicker and cheaper than the next.

use crate::domain::{
    GroupName, Reason, Release, ScalingPlan, ScalingSettings, Timestamp, WorkerPhase,
};

use super::supply::{Slot, Stock, is_prepared, is_running, is_short, sane, tps, usd_per_speed};
use super::{Need, ScalingInputs, ScalingMemory};

/// A group that can be rented now.
pub(super) struct Rentable<'a> {
    pub group: &'a GroupName,
    pub speed: f64,
    pub usd_per_hour: f64,
    pub usd_per_speed: f64,
    /// Paid for a start before it serves.
    pub cold_usd: f64,
    /// Most of it that may be starting at once; fewer with every wave of failures.
    starting_max: usize,
}

impl Rentable<'_> {
    /// Its last rentals came up.
    pub fn is_proven(&self) -> bool {
        self.starting_max == usize::MAX
    }
}

/// A shortage is cut into so many parts to find the cheapest set of machines that covers it; one of more than so many
/// machines is covered by the best price for capacity.
/// Where nothing serves a restart that fails more often than this is not waited for alone.
const RESTART_TRUSTED: f64 = 0.2;
const PARTS: usize = 64;
const MACHINES_CONSIDERED: f64 = 8.0;

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
            usd_per_hour: sane(supply.usd_per_hour.0),
            cold_usd: sane(supply.starts.cold_usd),
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

/// Brings the running capacity up to what is wanted, as far as possible: first with what serves soonest, though slower
/// starts may be under way, then with what else there is.
pub(super) fn cover<'a>(stock: &mut Stock<'a>, need: &Need, rentable: &[Rentable<'a>]) {
    while let Some(reason) = shortage(stock, need, need.wanted, stock.soon()) {
        if !(cancel_newest_drain(stock, &reason) || restart(stock, false, &reason)) {
            break;
        }
    }
    while let Some(reason) = shortage(stock, need, need.wanted_cold, stock.running()) {
        let missing = need.wanted_cold - stock.running();
        if !(rent(stock, rentable, missing, &reason) || restart(stock, true, &reason)) {
            break;
        }
    }
    if need.waiting > 0 && all_may_fail(stock) {
        let reason = Reason::RequestsWaitAtZero {
            waiting: need.waiting,
        };
        rent(stock, rentable, need.wanted, &reason);
    }
}

/// Nothing serves, all that starts was stopped before, and it is likely enough that none of it comes back.
fn all_may_fail(stock: &Stock) -> bool {
    let running: Vec<&Slot> = stock
        .slots
        .iter()
        .filter(|slot| is_running(slot.phase))
        .collect();
    let fail = running.iter().map(|slot| match slot.restarts {
        true => slot.starts.restart_fails,
        false => 0.0,
    });
    !running.is_empty() && fail.product::<f64>() > RESTART_TRUSTED
}

/// Less is there, running or prepared, than the plan made from it wants.
pub fn is_wanting(inputs: &ScalingInputs, plan: &ScalingPlan, settings: &ScalingSettings) -> bool {
    let memory = ScalingMemory::default();
    let stock = Stock::new(
        inputs,
        &memory,
        settings.max_workers,
        inputs.snapshot.taken_at,
    );
    let none = stock.count(is_running) == 0 && inputs.snapshot.waiting.requests > 0;
    let prepared = stock.count(is_prepared) >= settings.cold_workers as usize
        && !is_short(stock.prepared(), plan.prepared_wanted.0);
    none || is_short(stock.running(), plan.wanted.0) || !prepared
}

fn shortage(stock: &Stock, need: &Need, wanted: f64, have: f64) -> Option<Reason> {
    let none = stock.count(is_running) == 0;
    if none && need.waiting > 0 {
        return Some(Reason::RequestsWaitAtZero {
            waiting: need.waiting,
        });
    }
    let short = is_short(have, wanted) || (none && need.at_least_one);
    short.then_some(Reason::CapacityBelowWanted {
        have: tps(have),
        wanted: tps(wanted),
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

/// Restarts the stopped worker with the best price for capacity, of equals the one that was stopped last: its machine is
/// the least likely to be let to another meanwhile.
fn restart(stock: &mut Stock, even_doubted: bool, reason: &Reason) -> bool {
    let candidates = stock.slots.iter().enumerate();
    let best = candidates
        .filter(|(_, slot)| stock.is_restartable(slot, even_doubted))
        .filter_map(|(index, slot)| Some((index, slot, slot.view?)))
        .min_by(|(_, a, a_view), (_, b, b_view)| {
            a.usd_per_speed
                .total_cmp(&b.usd_per_speed)
                .then_with(|| b_view.phase_since.cmp(&a_view.phase_since))
                .then_with(|| a_view.id.cmp(&b_view.id))
        })
        .map(|(index, ..)| index);
    if let Some(best) = best {
        stock.restart(best, reason.clone());
    }
    best.is_some()
}

/// Rents the next machine towards covering `missing`.
fn rent<'a>(
    stock: &mut Stock<'a>,
    rentable: &[Rentable<'a>],
    missing: f64,
    reason: &Reason,
) -> bool {
    if !stock.may_rent() {
        return false;
    }
    let is_open = |offer: &&Rentable| {
        let slots = stock.slots.iter();
        let starting = slots.filter(|slot| slot.phase.is_starting() && slot.group == offer.group);
        starting.count() < offer.starting_max
    };
    let open: Vec<&Rentable> = rentable.iter().filter(is_open).collect();
    let next = cheapest_cover(&open, missing);
    if let Some(offer) = next {
        stock.rent(offer.group, offer.speed, reason.clone());
    }
    next.is_some()
}

/// The first machine of the set that covers `missing` at the least dollars an hour: for little is missing a small
/// machine may do though a large one has the better price for capacity. Of equals the first in `open`.
fn cheapest_cover<'o, 'a>(open: &[&'o Rentable<'a>], missing: f64) -> Option<&'o Rentable<'a>> {
    let fastest = open.iter().map(|offer| offer.speed).fold(0.0, f64::max);
    let missing = missing.clamp(0.0, MACHINES_CONSIDERED * fastest);
    let covers = |offer: &Rentable| {
        let parts = offer.speed / missing * PARTS as f64 + 1e-6;
        (parts as usize).clamp(1, PARTS)
    };
    if missing <= 0.0 {
        let dear = |offer: &&&Rentable| offer.usd_per_hour;
        return open
            .iter()
            .min_by(|a, b| dear(a).total_cmp(&dear(b)))
            .copied();
    }
    let mut least = [0.0; PARTS + 1];
    let mut first = [0; PARTS + 1];
    for parts in 1..=PARTS {
        least[parts] = f64::MAX;
        for (index, offer) in open.iter().enumerate() {
            let usd = offer.usd_per_hour + least[parts.saturating_sub(covers(offer))];
            if usd < least[parts] * (1.0 - 1e-9) {
                (least[parts], first[parts]) = (usd, index);
            }
        }
    }
    open.get(first[PARTS]).copied()
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
        let missing = need.prepared_wanted - have;
        if !(stop_instead_of_destroy(stock, &reason) || rent(stock, rentable, missing, &reason)) {
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
