//! What was learned of machines and offers, kept in the ledger: reputations of hosts, speeds, offers tried.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::{
    ChoiceRule, EndpointName, FleetSnapshot, GroupName, MachineKey, Offer, OfferChoice, OfferId,
    Release, ScalingPlan, Timestamp, TokensPerSecond, UsdPerHour, WorkerGroup, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::policy::benchmark::Expectation;
use crate::policy::offers::{Beliefs, Holding, Situation, SpeedBeliefs, choose, gpu, rank};
use crate::policy::reputation::{HostEvent, Reputation};
use crate::policy::scaling::{GroupSupply, still_replaces};

/// An offer that was rented or refused is left alone for so long; the market may show it on.
const TRIED_FOR: Duration = Duration::from_secs(600);
/// With less of the capacity wanted than this nothing is tried out.
const TRY_ABOVE: f64 = 0.7;

/// The offers of one tick, by group.
pub(super) type Offers = BTreeMap<GroupName, Vec<Offer>>;

/// What one more machine may cost, and by what share a price may move until it is paid.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub usd_per_hour: UsdPerHour,
    pub price_margin: f64,
}

/// A rental that was planned.
pub(super) struct Wanted<'a> {
    pub group: &'a WorkerGroup,
    /// It only pays with a machine like this.
    pub as_good_as: Option<&'a GroupSupply>,
}

impl Wanted<'_> {
    fn unless_worse(&self, choice: OfferChoice) -> OfferChoice {
        let worse = |planned: &GroupSupply| {
            let best = choice.best();
            best.is_some_and(|best| !still_replaces(planned, best))
        };
        match self.as_good_as.is_some_and(worse) {
            true => OfferChoice {
                rule: ChoiceRule::NoneFits,
                chosen: None,
                ..choice
            },
            false => choice,
        }
    }
}

/// What is on offer at one moment, and what may be spent on one machine.
pub(super) struct Look<'a> {
    pub endpoint: &'a EndpointFleet,
    pub offers: &'a [Offer],
    pub room: Room,
    pub draw: Option<u64>,
    pub at: Timestamp,
}

#[derive(Default)]
pub(super) struct Experience(Mutex<Learned>);

#[derive(Default)]
struct Learned {
    hosts: BTreeMap<MachineKey, Reputation>,
    speeds: BTreeMap<(EndpointName, GroupName), SpeedBeliefs>,
    tried: Vec<(OfferId, Timestamp)>,
}

impl Experience {
    /// What would be rented next of a group.
    pub(super) fn next(&self, look: &Look, group: &WorkerGroup) -> OfferChoice {
        let holdings = holdings(look.endpoint);
        self.0.lock().choose(look, group, &holdings, &[], rank)
    }

    /// One choice for each of `rents`, in order; each knows those before it.
    pub(super) fn choose_all<'a>(
        &self,
        endpoint: &EndpointFleet,
        rents: impl Iterator<Item = Wanted<'a>>,
        offers: &Offers,
        mut room: Room,
        draw: Option<u64>,
        at: Timestamp,
    ) -> Vec<OfferChoice> {
        let mut holdings = holdings(endpoint);
        let mut learned = self.0.lock();
        let mut taken: Vec<OfferId> = Vec::new();
        let mut choices = Vec::new();
        for (n, wanted) in rents.enumerate() {
            let group = wanted.group;
            // A saving that was reckoned with one machine is not tried with another.
            let draw = draw.filter(|_| wanted.as_good_as.is_none());
            let look = Look {
                endpoint,
                offers: offers.get(&group.name).map_or(&[], Vec::as_slice),
                room,
                draw: draw.map(|draw| draw.wrapping_add(n as u64)),
                at,
            };
            let choice = learned.choose(&look, group, &holdings, &taken, choose);
            let choice = wanted.unless_worse(choice);
            if let Some(best) = choice.best() {
                room.usd_per_hour = room.usd_per_hour - best.at_most(room.price_margin);
                holdings.push(Holding::of(best));
                if best.machine.is_some() {
                    taken.push(best.offer.clone());
                }
            }
            choices.push(choice);
        }
        choices
    }

    /// What is expected of a worker that is believed to do `believed` at the concurrency in question.
    pub(super) fn expected(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        believed: TokensPerSecond,
        at: Timestamp,
    ) -> Expectation {
        let Some(rented) = worker.origin.rented_as() else {
            return Expectation {
                tokens_per_second: believed,
                proven: true,
            };
        };
        let learned = self.0.lock();
        let key = (endpoint.name.clone(), worker.spec.group.clone());
        let speeds = learned.speeds.get(&key);
        // More may be known now than when it was rented.
        let now_over_then = speeds.map_or(1.0, |speeds| {
            speeds.expected(&rented, at).0 / rented.tokens_per_second.0
        });
        Expectation {
            tokens_per_second: TokensPerSecond(believed.0 * now_over_then),
            proven: speeds.is_some_and(SpeedBeliefs::knows_any),
        }
    }

    /// Returns what is to be kept; `None` for a worker of no known machine.
    pub(super) fn learn_speed(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        at: Timestamp,
    ) -> Option<SpeedBeliefs> {
        let rented = worker.origin.rented_as()?;
        rented.machine.as_ref()?;
        let key = (endpoint.name.clone(), worker.spec.group.clone());
        let mut learned = self.0.lock();
        let speeds = learned.speeds.entry(key).or_default();
        speeds.observe(&rented, worker.speed(), at);
        Some(speeds.clone())
    }

    pub(super) fn learn_of_host(
        &self,
        machine: &MachineKey,
        events: &[HostEvent],
        at: Timestamp,
    ) -> Reputation {
        let mut learned = self.0.lock();
        let host = learned.hosts.entry(machine.clone()).or_default();
        for event in events {
            host.observe(*event, at);
        }
        let host = host.clone();
        learned.hosts.retain(|_, host| !host.is_forgotten(at));
        host
    }

    pub(super) fn recall_host(&self, machine: MachineKey, host: Reputation) {
        self.0.lock().hosts.entry(machine).or_insert(host);
    }

    pub(super) fn recall_speeds(
        &self,
        endpoint: EndpointName,
        group: GroupName,
        speeds: SpeedBeliefs,
    ) {
        let mut learned = self.0.lock();
        learned.speeds.entry((endpoint, group)).or_insert(speeds);
    }

    /// The offer is about to be rented: whatever comes of it, it is not tried again soon.
    pub(super) fn tried(&self, offer: &OfferId, at: Timestamp) {
        self.0.lock().tried.push((offer.clone(), at));
    }
}

impl Learned {
    /// `taken`: chosen a moment ago, and not to be chosen again.
    fn choose(
        &mut self,
        look: &Look,
        group: &WorkerGroup,
        holdings: &[Holding],
        taken: &[OfferId],
        by: fn(&Situation, Beliefs, Option<u64>, Timestamp) -> OfferChoice,
    ) -> OfferChoice {
        let settings = look.endpoint.settings();
        self.tried
            .retain(|(_, tried)| look.at.since(*tried) < TRIED_FOR);
        let key = (look.endpoint.name.clone(), group.name.clone());
        let speeds = self.speeds.entry(key).or_default();
        // What the stated speed is for must not move with the market.
        if speeds.reference.is_none() {
            speeds.reference = gpu::middle_strength(look.offers);
        }
        let tried = self.tried.iter().map(|(offer, _)| offer);
        let tried: Vec<OfferId> = tried.chain(taken).cloned().collect();
        let scaling = &settings.scaling;
        let situation = Situation {
            group,
            settings: &settings.offers,
            offers: look.offers,
            holdings,
            floor: TokensPerSecond(
                scaling.min_load.0 / scaling.target_util.unwrap_or(1.0).clamp(0.01, 1.0),
            ),
            tried: &tried,
            usd_per_hour_max: look.room.usd_per_hour,
            price_margin: look.room.price_margin,
            boot: settings.times.boot,
            least_life: 2 * settings.times.boot + settings.times.drain,
        };
        let beliefs = Beliefs {
            speeds,
            hosts: &self.hosts,
        };
        by(&situation, beliefs, look.draw, look.at)
    }
}

/// A number to draw from, unless capacity is too short for trying things out.
pub(super) fn draw(snapshot: &FleetSnapshot, plan: &ScalingPlan, at: Timestamp) -> Option<u64> {
    let there = snapshot
        .workers
        .iter()
        .filter(|worker| worker.phase.is_ready() || worker.phase.is_starting());
    let have: f64 = there.map(|worker| worker.speed.0).sum();
    (have > 0.0 && have >= TRY_ABOVE * plan.wanted.0).then_some(at.as_millis())
}

/// The machines an endpoint has and keeps.
fn holdings(endpoint: &EndpointFleet) -> Vec<Holding> {
    let leaves = |phase: WorkerPhase| {
        phase.is_ending()
            || matches!(
                phase,
                WorkerPhase::Draining {
                    then: Release::Destroy,
                    ..
                }
            )
    };
    let workers = endpoint.workers();
    let kept = workers.iter().filter(|worker| !leaves(worker.phase().0));
    kept.map(|worker| {
        let speed = worker.speed().0;
        match worker.origin.rented_as() {
            Some(offer) => Holding {
                speed,
                ..Holding::of(&offer)
            },
            None => Holding {
                speed,
                ..Holding::default()
            },
        }
    })
    .collect()
}
