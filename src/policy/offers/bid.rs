//! What to bid for a machine that others may bid away, and when to bid more for one that runs.

use serde::{Deserialize, Serialize};

use crate::domain::{Alternative, EndpointName, Offer, Timestamp, UsdPerHour, WorkerId};

/// Above the least bid that wins now, so that the next bidder does not win at once.
const ABOVE_LEAST: f64 = 1.15;
/// At this share of the price on demand a bid is not worth its trouble.
const SHARE_MAX: f64 = 0.85;
/// Raised so much where it was outbid twice within a day, and where it is about to be outbid or was.
const RAISE: f64 = 1.1;
/// The least bid that wins is near when it is within this of ours.
const NEAR: f64 = 1.05;
/// Smaller steps are none.
const STEP_MIN: f64 = 1.005;
/// The least bid that rose by this part of our last step follows us.
const FOLLOWS_SHARE: f64 = 0.5;
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
pub(super) fn on_demand(offer: &Offer, offers: &[Offer]) -> Option<f64> {
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

/// A bid that stands, and what is known of the market around it. All prices are for the GPUs alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingBid {
    pub bid: UsdPerHour,
    /// The lowest that wins now.
    pub least: Option<UsdPerHour>,
    /// Somebody else has its GPUs.
    pub outbid: bool,
    /// What such a machine costs on demand.
    pub on_demand: Option<UsdPerHour>,
    /// The operator bids no more.
    pub most: Option<f64>,
    /// Seconds between two raises at least.
    pub pace_s: f64,
    pub raised: Option<Raise>,
}

/// The last time it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raise {
    pub at: Timestamp,
    pub from: UsdPerHour,
    pub to: UsdPerHour,
    /// The lowest that won before.
    pub least: Option<UsdPerHour>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum BidStep {
    Keep,
    Raise {
        to: UsdPerHour,
        why: RaisedFor,
    },
    /// It was outbid, and what would win it back is more than it is worth.
    MoveOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaisedFor {
    Outbid,
    /// The lowest bid that wins comes near.
    LeastIsNear,
}

impl RaisedFor {
    pub fn as_str(self) -> &'static str {
        match self {
            RaisedFor::Outbid => "outbid",
            RaisedFor::LeastIsNear => "the least bid is near",
        }
    }
}

/// A line of the decision log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BidRecord {
    pub at: Timestamp,
    pub endpoint: EndpointName,
    pub worker: WorkerId,
    pub bid: StandingBid,
    #[serde(flatten)]
    pub step: BidStep,
}

/// What to do about a bid that stands: a tenth more where it is outbid or about to be, as far above the least that wins as a
/// new bid would be, and never so much that the machine is as well had on demand.
pub fn follow(standing: &StandingBid, now: Timestamp) -> BidStep {
    let waits = |raise: Raise| now.seconds_since(raise.at) < standing.pace_s;
    if standing.raised.is_some_and(waits) {
        return BidStep::Keep;
    }
    let (bid, least) = (standing.bid.0, standing.least.map_or(0.0, |least| least.0));
    if !standing.outbid && (least * NEAR <= bid || quotes_ourselves(standing)) {
        return BidStep::Keep;
    }
    let limits = [
        standing.on_demand.map(|price| price.0 * SHARE_MAX),
        standing.most,
    ];
    let Some(limit) = limits.into_iter().flatten().reduce(f64::min) else {
        return BidStep::Keep;
    };
    let to = (bid * RAISE).max(least * ABOVE_LEAST).min(limit);
    if to < least && standing.outbid {
        return BidStep::MoveOn;
    }
    if to < least || to < bid * STEP_MIN {
        return BidStep::Keep;
    }
    let why = match standing.outbid {
        true => RaisedFor::Outbid,
        false => RaisedFor::LeastIsNear,
    };
    let to = UsdPerHour(to);
    BidStep::Raise { to, why }
}

/// The least bid rose with ours the last time, at least by half as much: it is what others would have to pay, and following it has no end.
fn quotes_ourselves(standing: &StandingBid) -> bool {
    let Some(Raise {
        from,
        to,
        least: Some(before),
        ..
    }) = standing.raised
    else {
        return false;
    };
    let now = standing.least.map_or(0.0, |least| least.0);
    let step = to.0 / from.0;
    step >= STEP_MIN && now / before.0 >= 1.0 + FOLLOWS_SHARE * (step - 1.0)
}

/// What a machine like the one rented costs on demand: itself, as it is offered now or was when it was rented, else the
/// cheapest with the same GPUs.
pub fn on_demand_like(rented: &Alternative, offers: &[Offer]) -> Option<UsdPerHour> {
    let steady = || {
        let priced = offers.iter().filter(|offer| !offer.interruptible);
        priced.filter_map(|offer| Some((offer.hardware.as_ref()?, UsdPerHour(gpu_price(offer)))))
    };
    let itself = steady().find(|(hardware, _)| {
        rented.machine.as_ref() == Some(&hardware.machine) && rented.gpu_count == hardware.gpu_count
    });
    let alike = steady().filter(|(hardware, _)| {
        hardware.gpu_name == rented.gpu_name && hardware.gpu_count == rented.gpu_count
    });
    let cheapest = alike.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
    let price = |(_, price)| price;
    itself
        .map(price)
        .or(rented.on_demand)
        .or(cheapest.map(price))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// 0.30 bid where 0.26 wins and 0.50 is what it costs on demand.
    fn standing() -> StandingBid {
        StandingBid {
            bid: UsdPerHour(0.30),
            least: Some(UsdPerHour(0.26)),
            outbid: false,
            on_demand: Some(UsdPerHour(0.50)),
            most: None,
            pace_s: 15.0,
            raised: None,
        }
    }

    fn near(least: f64) -> StandingBid {
        StandingBid {
            least: Some(UsdPerHour(least)),
            ..standing()
        }
    }

    #[track_caller]
    fn raises(standing: &StandingBid, to: f64) {
        match follow(standing, NOW) {
            BidStep::Raise { to: raised, .. } => {
                assert!((raised.0 - to).abs() < 1e-9, "{raised:?}")
            }
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn a_bid_that_wins_by_far_is_kept() {
        assert_eq!(follow(&standing(), NOW), BidStep::Keep);
        let unknown = StandingBid {
            least: None,
            ..standing()
        };
        assert_eq!(follow(&unknown, NOW), BidStep::Keep);
    }

    #[test]
    fn a_bid_goes_up_by_a_tenth_when_the_least_that_wins_comes_near() {
        raises(&near(0.2864), 0.33);
        // A new bid would be 1.15 of it.
        raises(&near(0.35), 0.35 * 1.15);
    }

    #[test]
    fn a_bid_goes_up_no_further_than_its_share_of_the_price_on_demand_or_the_operators_word() {
        raises(&near(0.42), 0.425);
        // What wins is above that: it stays as long as it is left alone.
        assert_eq!(follow(&near(0.43), NOW), BidStep::Keep);
        let told = StandingBid {
            most: Some(0.31),
            ..near(0.29)
        };
        raises(&told, 0.31);
        let unpriced = StandingBid {
            on_demand: None,
            ..near(0.29)
        };
        assert_eq!(follow(&unpriced, NOW), BidStep::Keep);
    }

    #[test]
    fn who_is_outbid_bids_more_or_moves_on() {
        let outbid = |least: f64| StandingBid {
            outbid: true,
            ..near(least)
        };
        raises(&outbid(0.26), 0.33);
        raises(&outbid(0.31), 0.31 * 1.15);
        assert_eq!(follow(&outbid(0.43), NOW), BidStep::MoveOn);
        let at_the_limit = StandingBid {
            bid: UsdPerHour(0.425),
            ..outbid(0.40)
        };
        assert_eq!(follow(&at_the_limit, NOW), BidStep::Keep);
    }

    #[test]
    fn raises_keep_their_pace_and_do_not_chase_themselves() {
        let raised = Raise {
            at: NOW,
            from: UsdPerHour(0.30),
            to: UsdPerHour(0.33),
            least: Some(UsdPerHour(0.29)),
        };
        let after = StandingBid {
            bid: UsdPerHour(0.33),
            raised: Some(raised),
            ..near(0.32)
        };
        assert_eq!(follow(&after, NOW), BidStep::Keep, "just raised");
        let later = NOW + Duration::from_secs(16);
        assert_eq!(follow(&after, later), BidStep::Keep, "it rose with ours");
        let by_less = StandingBid {
            bid: UsdPerHour(0.345),
            raised: Some(Raise {
                to: UsdPerHour(0.345),
                least: Some(UsdPerHour(0.30)),
                ..raised
            }),
            ..near(0.33)
        };
        assert_eq!(
            follow(&by_less, later),
            BidStep::Keep,
            "it rose by less than ours"
        );
        let others = StandingBid {
            raised: Some(Raise {
                least: Some(UsdPerHour(0.31)),
                ..raised
            }),
            ..after
        };
        assert!(matches!(follow(&others, later), BidStep::Raise { .. }));
    }
}
