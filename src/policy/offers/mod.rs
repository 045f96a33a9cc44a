//! Which offer to rent: the one whose tokens are expected to cost least over a horizon, not the cheapest by the hour.
//!
//! Pure: beliefs, time and chance are arguments. The choice says what each offer was worth and why it was not taken.

pub mod bid;
mod chance;
mod cost;
pub mod gpu;
pub mod race;
mod speeds;
mod spread;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{
    Alternative, ChoiceRule, Hardware, Interruptible, MachineKey, Offer, OfferChoice, OfferId,
    OfferSettings, Timestamp, TokensPerSecond, UsdPerHour, WhyNot, WorkerGroup,
};
use crate::policy::reputation::Reputation;
use chance::Draws;
use cost::Terms;

pub use speeds::SpeedBeliefs;

/// Alternatives kept in a choice.
const SHOWN: usize = 12;
/// One start in so many may try a class that was never measured.
const TRY_ONE_IN: u64 = 4;
/// Costs a token this near are as good as one.
const EVEN: f64 = 1.0 + 1e-9;

/// What a choice is made for.
pub struct Situation<'a> {
    pub group: &'a WorkerGroup,
    pub settings: &'a OfferSettings,
    pub offers: &'a [Offer],
    /// What the endpoint has already, machines that are on their way out left out.
    pub holdings: &'a [Holding],
    /// Capacity that must not depend on bids.
    pub floor: TokensPerSecond,
    /// Offers that were rented or refused a moment ago.
    pub tried: &'a [OfferId],
    /// What one more machine may cost.
    pub usd_per_hour_max: UsdPerHour,
    /// Share by which a price may have moved since it was shown.
    pub price_margin: f64,
    /// From rental to healthy; what takes longer is given up.
    pub boot: Duration,
    /// What can be had for less is left again before it is of use.
    pub least_life: Duration,
}

/// A machine the endpoint has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    pub machine: Option<MachineKey>,
    pub gpu_name: String,
    pub location: String,
    pub interruptible: bool,
    pub speed: f64,
}

impl Holding {
    pub fn of(offer: &Alternative) -> Self {
        Self {
            machine: offer.machine.clone(),
            gpu_name: offer.gpu_name.clone(),
            location: offer.location.clone(),
            interruptible: offer.interruptible,
            speed: offer.tokens_per_second.0,
        }
    }
}

/// What is believed of machines.
#[derive(Clone, Copy)]
pub struct Beliefs<'a> {
    pub speeds: &'a SpeedBeliefs,
    pub hosts: &'a BTreeMap<MachineKey, Reputation>,
}

/// Judges every offer and takes the best. With `draw` the choice is a draw from what each might be (Thompson), which
/// tries machines that little is known of; without it, from what each is expected to be.
pub fn choose(
    situation: &Situation,
    beliefs: Beliefs,
    draw: Option<u64>,
    now: Timestamp,
) -> OfferChoice {
    let mut choice = rank(situation, beliefs, draw, now);
    choice.alternatives.truncate(SHOWN);
    choice
}

/// The same with every offer in it.
pub fn rank(
    situation: &Situation,
    beliefs: Beliefs,
    draw: Option<u64>,
    now: Timestamp,
) -> OfferChoice {
    let judged: Vec<Judged> = situation
        .offers
        .iter()
        .map(|offer| judge(situation, beliefs, offer, draw, now))
        .collect();
    let tries_unseen =
        draw.is_none_or(|draw| draw % TRY_ONE_IN == 0) || !beliefs.speeds.knows_any();
    let (rule, chosen) = best(&judged, draw.is_some(), tries_unseen);
    OfferChoice {
        draw,
        ..explain(situation, judged, rule, chosen)
    }
}

/// An offer with what it costs by the draw.
struct Judged {
    alternative: Alternative,
    /// Dollars a token as the choice sees them: drawn, with penalties.
    score: f64,
    /// The same from expectations.
    expected: f64,
    plain: bool,
    seen: bool,
}

fn judge(
    situation: &Situation,
    beliefs: Beliefs,
    offer: &Offer,
    draw: Option<u64>,
    now: Timestamp,
) -> Judged {
    let prior = situation.group.speed_prior.tokens_per_second;
    let Some(hardware) = &offer.hardware else {
        let alternative = Alternative::plain(offer, prior);
        let price = offer.usd_per_hour.0;
        return Judged {
            score: price,
            expected: price,
            plain: true,
            seen: true,
            alternative: Alternative {
                why_not: if price.is_nan() {
                    Some(WhyNot::Unreadable)
                } else {
                    above_limit(situation, alternative.at_most(situation.price_margin))
                },
                ..alternative
            },
        };
    };
    let unknown = Reputation::default();
    let host = beliefs.hosts.get(&hardware.machine).unwrap_or(&unknown);
    let class = gpu::class_of(&hardware.gpu_name, hardware.gpu_count);
    let belief = beliefs.speeds.of(&class, &hardware.machine, now);
    let stated = stated_speed(situation, beliefs.speeds, hardware);
    let speed = stated * belief.mean.exp();
    let (usd_per_hour, bid) = price(situation, offer, host.outbids_of_a_day(now));
    let mut terms = Terms {
        usd_per_hour,
        interruptible: offer.interruptible,
        tokens_per_second: speed,
        chance: host.chance(hardware.reliability, now),
        hazard_per_hour: host.hazard_per_hour(hardware.reliability, offer.interruptible, now),
    };
    let outlook = cost::outlook(&terms, hardware, situation.group, situation.settings);
    let expected = outlook.usd_per_token;
    let chance = terms.chance;
    let drawn = draw.map_or(expected, |seed| {
        let class_draw = Draws::about(seed, &class).normal() * belief.class_sd;
        let mut own = Draws::about(seed, hardware.machine.machine.as_str());
        terms.tokens_per_second = speed * (class_draw + own.normal() * belief.machine_sd).exp();
        let (good, bad) = host.starts(hardware.reliability, now);
        terms.chance = own.beta(good, bad).max(0.01);
        cost::outlook(&terms, hardware, situation.group, situation.settings).usd_per_token
    });
    let dearer = host.penalty(now) * spread::dearness(hardware, speed, situation.holdings);
    let banned = host.banned_until(now);
    let mut alternative = Alternative {
        offer: offer.id.clone(),
        machine: Some(hardware.machine.clone()),
        gpu_name: hardware.gpu_name.clone(),
        gpu_count: hardware.gpu_count,
        location: hardware.location.clone(),
        interruptible: offer.interruptible,
        usd_per_hour,
        bid,
        on_demand: bid
            .and_then(|_| bid::on_demand(offer, situation.offers))
            .map(UsdPerHour),
        tokens_per_second: TokensPerSecond(speed),
        speed_sd: belief.sd,
        stated_tokens_per_second: TokensPerSecond(stated),
        usd_per_million_tokens: expected * 1e6,
        chance,
        start_s: outlook.start_s,
        life_s: outlook.life_s,
        why_not: None,
    };
    alternative.why_not = objection(situation, offer, hardware, &alternative, banned);
    Judged {
        score: drawn * dearer,
        expected: expected * dearer,
        plain: false,
        seen: belief.class_seen,
        alternative,
    }
}

/// By its description: the group's speed is that of the reference machine.
fn stated_speed(situation: &Situation, speeds: &SpeedBeliefs, hardware: &Hardware) -> f64 {
    let reference = speeds
        .reference
        .or_else(|| gpu::middle_strength(situation.offers))
        .unwrap_or(1.0);
    let prior = situation.group.speed_prior.tokens_per_second.0;
    prior * gpu::strength(hardware) / reference * gpu::tilt(hardware, situation.offers)
}

/// What would be paid while it runs, and the bid in it.
fn price(
    situation: &Situation,
    offer: &Offer,
    outbids_of_a_day: usize,
) -> (UsdPerHour, Option<UsdPerHour>) {
    let storage = offer
        .hardware
        .as_ref()
        .map_or(UsdPerHour::ZERO, |hardware| hardware.storage_usd_per_hour);
    let most = situation.group.bid_price();
    match bid::bid(offer, situation.offers, outbids_of_a_day, most) {
        Some(bid) if offer.interruptible => (bid + storage, Some(bid)),
        _ => (offer.usd_per_hour, None),
    }
}

/// The first thing that speaks against an offer, the gravest first.
fn objection(
    situation: &Situation,
    offer: &Offer,
    hardware: &Hardware,
    judged: &Alternative,
    banned: Option<Timestamp>,
) -> Option<WhyNot> {
    let (price, speed) = (judged.usd_per_hour.0, judged.tokens_per_second.0);
    let priced = price.is_finite() && price >= 0.0;
    if !(priced && speed.is_finite() && speed > 0.0) {
        return Some(WhyNot::Unreadable);
    }
    if situation.tried.contains(&offer.id) {
        return Some(WhyNot::Tried);
    }
    if let Some(until) = banned {
        return Some(WhyNot::Banned { until });
    }
    if offer.interruptible {
        let most = situation.group.bid_price();
        match situation.settings.interruptible {
            // Whoever names a bid wants such machines.
            Interruptible::Never if most.is_some() => {}
            Interruptible::Never => return Some(WhyNot::InterruptibleNever),
            Interruptible::Burst if !floor_is_covered(situation) => {
                return Some(WhyNot::InterruptibleFloor);
            }
            _ => {}
        }
        if most.is_some_and(|most| bid::gpu_price(offer) > most) {
            return Some(WhyNot::AboveBidPrice);
        }
        if judged.bid.is_none() {
            return Some(WhyNot::BidTooHigh);
        }
    }
    let available_s = hardware.available_for.as_secs_f64();
    if hardware.available_for < situation.least_life {
        return Some(WhyNot::EndsTooSoon { available_s });
    }
    let late = cost::too_late(hardware, situation.group, situation.boot);
    if let Some(why) = late.filter(|why| why.forbids()) {
        return Some(why);
    }
    // Last of what forbids: whatever is above the limit could be rented if there were more money.
    if let Some(above) = above_limit(situation, judged.at_most(situation.price_margin)) {
        return Some(above);
    }
    if hardware.available_for < 2 * situation.settings.horizon {
        return Some(WhyNot::TooShort { available_s });
    }
    late.or_else(|| spread::host_objection(hardware, speed, situation.holdings))
}

fn above_limit(situation: &Situation, price: UsdPerHour) -> Option<WhyNot> {
    (price.0 > situation.usd_per_hour_max.0).then_some(WhyNot::AboveLimit)
}

/// Machines on demand alone carry what `min_load` asks for.
fn floor_is_covered(situation: &Situation) -> bool {
    let steady = situation.holdings.iter().filter(|held| !held.interruptible);
    let speed: f64 = steady.map(|held| held.speed).sum();
    speed >= situation.floor.0 * (1.0 - 1e-6)
}

fn best(judged: &[Judged], drawn: bool, tries_unseen: bool) -> (ChoiceRule, Option<usize>) {
    let least = |wanted: &dyn Fn(&Judged) -> bool, cost: &dyn Fn(&Judged) -> f64| {
        let candidates = judged.iter().enumerate().filter(|(_, one)| wanted(one));
        candidates
            .min_by(|(_, a), (_, b)| {
                let by_cost = cost(a).total_cmp(&cost(b));
                by_cost.then_with(|| a.alternative.offer.cmp(&b.alternative.offer))
            })
            .map(|(index, _)| index)
    };
    let free = |one: &Judged| one.alternative.why_not.is_none();
    let seen = |one: &Judged| free(one) && one.seen;
    let found = (!tries_unseen)
        .then(|| least(&seen, &|one| one.score))
        .flatten()
        .or_else(|| least(&free, &|one| one.score));
    if let Some(index) = found {
        let rule = if judged[index].plain {
            ChoiceRule::NoDifference
        } else if drawn && least(&free, &|one| one.expected) != Some(index) {
            ChoiceRule::Explored
        } else {
            ChoiceRule::CheapestPerToken
        };
        return (rule, Some(index));
    }
    let allowed = |one: &Judged| one.alternative.why_not.is_some_and(|why| !why.forbids());
    match least(&allowed, &|one| one.score) {
        Some(index) => (ChoiceRule::LeastObjection, Some(index)),
        None => (ChoiceRule::NoneFits, None),
    }
}

/// Says of all others why they were not taken, and puts the best in front.
fn explain(
    situation: &Situation,
    mut judged: Vec<Judged>,
    rule: ChoiceRule,
    chosen: Option<usize>,
) -> OfferChoice {
    let taken = chosen.map(|index| {
        let taken = &mut judged[index];
        taken.alternative.why_not = None;
        (taken.alternative.offer.clone(), taken.expected)
    });
    judged.sort_by(|a, b| {
        let is_taken = |one: &Judged| {
            let offer = &one.alternative.offer;
            taken.as_ref().is_none_or(|(taken, _)| taken != offer)
        };
        is_taken(a)
            .cmp(&is_taken(b))
            .then_with(|| a.expected.total_cmp(&b.expected))
            .then_with(|| a.alternative.offer.cmp(&b.alternative.offer))
    });
    let offers = judged.len();
    let too_dear = match taken {
        Some(_) => None,
        None => least_above_limit(&judged, situation.price_margin),
    };
    let alternatives = judged.into_iter().map(|one| {
        let mut alternative = one.alternative;
        if let Some((offer, cost)) = &taken
            && *offer != alternative.offer
            && alternative.why_not.is_none()
        {
            alternative.why_not = Some(beaten(one.expected / cost));
        }
        alternative
    });
    OfferChoice {
        group: situation.group.name.clone(),
        rule,
        alternatives: alternatives.collect(),
        chosen: taken.map(|(offer, _)| offer),
        draw: None,
        offers,
        too_dear,
    }
}

fn least_above_limit(judged: &[Judged], price_margin: f64) -> Option<UsdPerHour> {
    let above = judged.iter().map(|one| &one.alternative);
    above
        .filter(|one| one.why_not == Some(WhyNot::AboveLimit))
        .map(|one| one.at_most(price_margin))
        .min_by(|a, b| a.0.total_cmp(&b.0))
}

/// `times`: its expected cost over the chosen one's.
fn beaten(times: f64) -> WhyNot {
    if times > EVEN {
        WhyNot::Dearer { times }
    } else if times < 1.0 / EVEN {
        WhyNot::DrewWorse
    } else {
        WhyNot::Even
    }
}
