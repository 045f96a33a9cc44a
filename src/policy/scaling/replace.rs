//! A dear machine gives way to one that does the same for less: rent first, then the dear one is surplus.

use std::time::Duration;

use crate::domain::{Reason, Timestamp, UsdPerHour, WorkerId, WorkerPhase};

use super::grow::Rentable;
use super::supply::{Stock, sane};

/// A need is believed to last as long again as the machine has served it, and no longer than this.
const NEED_LASTS_MOST: Duration = Duration::from_secs(4 * 3600);
/// What is saved must come to so many times what the change costs: the new machine may not come up, or be slower than
/// it is believed to be.
const MARGIN: f64 = 2.0;
/// And to this share of what the machines that go cost, so that prices that move a little move nothing.
const SHARE_LEAST: f64 = 0.1;
/// Both machines are paid for while the streams of the dear one end.
const OVERLAP_H: f64 = 0.05;

struct Change {
    worker: WorkerId,
    saves: UsdPerHour,
    after_costs: f64,
}

/// Rents one machine in place of the dearest, if that pays. Only in quiet: nothing starts, drains or waits, and what
/// serves covers `held`, the most that was wanted lately.
pub(super) fn replace<'a>(
    stock: &mut Stock<'a>,
    rentable: &[Rentable<'a>],
    held: f64,
    now: Timestamp,
) {
    let unsettled = stock.slots.iter().any(|slot| {
        let leaves = matches!(
            slot.phase,
            WorkerPhase::Draining { .. } | WorkerPhase::Stopping
        );
        slot.phase.is_starting() || leaves || slot.view.is_some_and(|view| view.spare)
    });
    if unsettled || !stock.may_rent() || stock.ready() < held {
        return;
    }
    let changes = rentable
        .iter()
        .filter_map(|offer| Some((offer, change(stock, offer, held, now)?)));
    let best = changes.max_by(|(_, a), (_, b)| a.after_costs.total_cmp(&b.after_costs));
    if let Some((offer, change)) = best {
        let reason = Reason::Replaces {
            worker: change.worker,
            saves: change.saves,
        };
        stock.rent(offer.group, offer.speed, reason);
    }
}

/// What renting `offer` would save, if it pays: the dearest machines that then are not needed any more, less itself.
fn change(stock: &Stock, offer: &Rentable, held: f64, now: Timestamp) -> Option<Change> {
    let mut left = stock.ready() + offer.speed;
    let (mut goes_usd, mut lasts_s) = (0.0, f64::MAX);
    let mut first = None;
    for index in stock.worst_first(|slot| slot.phase.is_ready()) {
        let slot = &stock.slots[index];
        let Some(view) = slot
            .view
            .filter(|_| slot.usd_per_speed > offer.usd_per_speed)
        else {
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
    })
}
