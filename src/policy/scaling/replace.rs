//! A dear machine gives way to one that does the same for less: rent first, then the dear one is surplus.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{Alternative, Reason, Timestamp, UsdPerHour, WorkerId, WorkerPhase};
use crate::policy::capacity::DOUBT_MAX;

use super::GroupSupply;
use super::grow::Rentable;
use super::supply::{Stock, sane, usd_per_speed};

/// A need is believed to last as long again as the machine has served it, and no longer than this.
const NEED_LASTS_MOST: Duration = Duration::from_secs(4 * 3600);
/// What is saved must come to so many times what the change costs: the new machine may not come up, or be slower than
/// it is believed to be.
const MARGIN: f64 = 2.0;
/// And to this share of what the machines that go cost, so that prices that move a little move nothing.
const SHARE_LEAST: f64 = 0.1;
/// Both machines are paid for while the streams of the dear one end.
const OVERLAP_H: f64 = 0.05;
/// A machine in use counts for as much less than is believed of it; one on offer would soon too.
const TRUSTED: f64 = 1.0 - DOUBT_MAX;
/// Between two replacements; twice as long with each that brought nothing.
const PAUSE: Duration = Duration::from_secs(1800);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// The last one that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    at: Timestamp,
    /// Half of the way to what was expected of it: dollars an hour for a unit of what serves.
    half_way: f64,
    in_vain: u32,
}

impl Replacement {
    /// How many in a row brought nothing; `None` while it is too early for another.
    fn in_vain_by(self, usd_per_speed: f64, now: Timestamp) -> Option<u32> {
        let in_vain = match usd_per_speed <= self.half_way {
            true => 0,
            false => self.in_vain + 1,
        };
        let pause = PAUSE * (1 << in_vain.min(PAUSE_DOUBLINGS_MAX));
        (now.since(self.at) >= pause).then_some(in_vain)
    }
}

/// Whether what was chosen for a replacement is no worse than what it was planned with.
pub fn still_replaces(planned: &GroupSupply, chosen: &Alternative) -> bool {
    let as_fast = chosen.tokens_per_second.0 >= planned.speed.0 * (1.0 - 1e-6);
    let as_cheap = chosen.usd_per_hour.0 <= planned.usd_per_hour.0 * (1.0 + 1e-6);
    as_cheap && (as_fast || !planned.told_apart)
}

struct Change {
    worker: WorkerId,
    saves: UsdPerHour,
    after_costs: f64,
    /// Expected of what then serves.
    usd_per_speed: f64,
}

/// Rents one machine in place of the dearest, if that pays. Only in quiet: nothing starts, drains or waits, and what
/// serves covers `held`, the most that was wanted lately.
pub(super) fn replace<'a>(
    stock: &mut Stock<'a>,
    rentable: &[Rentable<'a>],
    last: Option<Replacement>,
    held: f64,
    now: Timestamp,
) -> Option<Replacement> {
    let unsettled = stock.slots.iter().any(|slot| {
        let leaves = matches!(
            slot.phase,
            WorkerPhase::Draining { .. } | WorkerPhase::Stopping
        );
        let idles = slot.phase.is_ready() && slot.speed <= 0.0;
        slot.phase.is_starting() || leaves || idles
    });
    if unsettled || !stock.may_rent() || stock.ready() < held {
        return None;
    }
    let before = usd_per_speed(serving_usd(stock), stock.ready());
    let in_vain = match last {
        Some(last) => last.in_vain_by(before, now)?,
        None => 0,
    };
    let changes = rentable
        .iter()
        .filter(|offer| offer.is_proven())
        .filter_map(|offer| Some((offer, change(stock, offer, held, now)?)));
    let (offer, change) =
        changes.max_by(|(_, a), (_, b)| a.after_costs.total_cmp(&b.after_costs))?;
    let reason = Reason::Replaces {
        worker: change.worker,
        saves: change.saves,
    };
    stock.rent(offer.group, offer.speed, reason);
    Some(Replacement {
        at: now,
        half_way: (before + change.usd_per_speed) / 2.0,
        in_vain,
    })
}

/// Dollars an hour of what serves.
fn serving_usd(stock: &Stock) -> f64 {
    let serving = stock.slots.iter().filter(|slot| slot.phase.is_ready());
    let prices = serving.filter_map(|slot| slot.view.map(|view| sane(view.usd_per_hour.0)));
    prices.sum()
}

/// What renting `offer` would save, if it pays: the dearest machines that then are not needed any more, less itself.
fn change(stock: &Stock, offer: &Rentable, held: f64, now: Timestamp) -> Option<Change> {
    let trusted = offer.speed * TRUSTED;
    let dearer_than = usd_per_speed(offer.usd_per_hour, trusted) / (1.0 - SHARE_LEAST);
    let mut left = stock.ready() + trusted;
    let (mut goes_usd, mut lasts_s) = (0.0, f64::MAX);
    let mut first = None;
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let slot = &stock.slots[index];
        let Some(view) = slot.view.filter(|_| slot.usd_per_speed > dearer_than) else {
            break;
        };
        if left - slot.speed < held {
            break;
        }
        left -= slot.speed;
        goes_usd += sane(view.usd_per_hour.0);
        lasts_s = now.seconds_since(view.phase_since).min(lasts_s);
        first.get_or_insert(&view.id);
    }
    let saves = goes_usd - offer.usd_per_hour;
    let hours = lasts_s.min(NEED_LASTS_MOST.as_secs_f64()) / 3600.0;
    let costs = offer.cold_usd + OVERLAP_H * goes_usd;
    let pays = saves >= SHARE_LEAST * goes_usd && saves * hours > MARGIN * costs;
    first.filter(|_| pays).map(|worker| Change {
        worker: worker.clone(),
        saves: UsdPerHour(saves),
        after_costs: saves * hours - costs,
        usd_per_speed: usd_per_speed(serving_usd(stock) - saves, left),
    })
}
