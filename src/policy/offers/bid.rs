//! What to bid for a machine that others may bid away.

use crate::domain::{Offer, UsdPerHour};

/// Above the least bid that wins now, so that the next bidder does not win at once.
const ABOVE_LEAST: f64 = 1.15;
/// At this share of the price on demand a bid is not worth its trouble.
const SHARE_MAX: f64 = 0.85;
/// Raised so much where it was outbid twice within a day.
const RAISE: f64 = 1.1;
const OUTBIDS_UNTIL_RAISE: usize = 2;

/// For the GPUs alone: storage is not bid for. `most`: what the operator bids. `None`: the least bid is above that, or
/// nearly what it costs on demand.
pub(super) fn bid(
    offer: &Offer,
    offers: &[Offer],
    outbids_of_a_day: usize,
    most: Option<f64>,
) -> Option<UsdPerHour> {
    let least = gpu_price(offer);
    let most = most.unwrap_or(f64::INFINITY);
    if least > most {
        return None;
    }
    let raised = if outbids_of_a_day >= OUTBIDS_UNTIL_RAISE {
        RAISE
    } else {
        1.0
    };
    let wanted = (least * ABOVE_LEAST * raised).min(most);
    let Some(limit) = on_demand(offer, offers).map(|price| price * SHARE_MAX) else {
        return Some(UsdPerHour(wanted));
    };
    (least <= limit).then_some(UsdPerHour(wanted.min(limit)))
}

/// What the same machine costs on demand now.
fn on_demand(offer: &Offer, offers: &[Offer]) -> Option<f64> {
    let hardware = offer.hardware.as_ref()?;
    let same = |other: &&Offer| {
        !other.interruptible
            && other.hardware.as_ref().is_some_and(|other| {
                other.machine == hardware.machine && other.gpu_count == hardware.gpu_count
            })
    };
    offers.iter().find(same).map(gpu_price)
}

/// The least bid that wins now.
pub(super) fn gpu_price(offer: &Offer) -> f64 {
    let storage = offer
        .hardware
        .as_ref()
        .map_or(0.0, |hardware| hardware.storage_usd_per_hour.0);
    (offer.usd_per_hour.0 - storage).max(0.0)
}
