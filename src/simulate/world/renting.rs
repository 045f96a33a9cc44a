//! Which offer a rental is, what the next one would bring, and what is learned of machines: as the scaler does it,
//! with the same policy functions.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{
    Alternative, GroupName, MachineKey, Offer, OfferChoice, OfferId, Timestamp, TokensPerSecond,
    UsdPerHour, WorkerGroup,
};
use crate::policy::arrival::StartTime;
use crate::policy::offers::{Beliefs, Holding, Situation, SpeedBeliefs, choose, gpu, rank};
use crate::policy::reputation::{HostEvent, Reputation};
use crate::policy::scaling::{GroupSupply, StartOutlook};
use crate::simulate::chance::SplitMix;
use crate::simulate::market::Market;

use super::{Chooser, Scenario};

/// As the scaler does: an offer that was rented or refused is left alone for so long.
const TRIED_FOR: Duration = Duration::from_secs(600);
/// Restarts that count as seen before any was.
const RESTARTS_BELIEVED: f64 = 10.0;

pub(super) struct Renting<'a> {
    scenario: &'a Scenario,
    hosts: BTreeMap<MachineKey, Reputation>,
    groups: Vec<Group<'a>>,
    tried: Vec<(OfferId, Timestamp)>,
    truth: BTreeMap<MachineKey, f64>,
    /// Whether what the next rentals would be has to be found again.
    stale: bool,
    market_version: u64,
    draws: u64,
}

struct Group<'a> {
    group: &'a WorkerGroup,
    speeds: SpeedBeliefs,
    cold: StartTime,
    restart: StartTime,
    restarts: f64,
    restarts_failed: f64,
    failures: u64,
    next: Option<Alternative>,
}

impl<'a> Renting<'a> {
    pub fn new(scenario: &'a Scenario, market: &Market) -> Self {
        let believed = StartOutlook::default();
        let groups = scenario.groups.iter().map(|group| Group {
            group,
            speeds: SpeedBeliefs::default(),
            cold: StartTime::prior(believed.cold),
            restart: StartTime::prior(believed.restart),
            restarts: RESTARTS_BELIEVED,
            restarts_failed: RESTARTS_BELIEVED * believed.restart_fails,
            failures: 0,
            next: None,
        });
        Self {
            scenario,
            hosts: BTreeMap::new(),
            groups: groups.collect(),
            tried: Vec::new(),
            truth: market.truth(),
            stale: true,
            market_version: 0,
            draws: 0,
        }
    }

    /// Holdings changed or something was learned.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// What each group could add now.
    pub fn supply(
        &mut self,
        market: &Market,
        holdings: impl Fn() -> Vec<Holding>,
        now: Timestamp,
    ) -> Vec<GroupSupply> {
        if self.stale || self.market_version != market.version {
            let held = holdings();
            self.tried.retain(|(_, at)| now.since(*at) < TRIED_FOR);
            for index in 0..self.groups.len() {
                let offers = market.offers(&self.groups[index].group.name);
                let choice = self.choice(index, &offers, &held, None, now);
                self.groups[index].next = choice.best().cloned();
            }
            self.stale = false;
            self.market_version = market.version;
        }
        self.groups
            .iter()
            .map(|group| group.supply(market))
            .collect()
    }

    /// The offer to rent now. `tries`: capacity is ample enough to try what is little known.
    pub fn choose(
        &mut self,
        name: &GroupName,
        market: &Market,
        holdings: Vec<Holding>,
        tries: bool,
        now: Timestamp,
    ) -> Option<Alternative> {
        let index = self.index(name)?;
        let offers = market.offers(name);
        self.draws += 1;
        let draw = SplitMix::about(self.scenario.seed, "choices", self.draws).draw();
        let draw = (tries && self.scenario.chooser == Chooser::Learned).then_some(draw);
        let choice = self.choice(index, &offers, &holdings, draw, now);
        let best = choice.best().cloned();
        if let Some(best) = best.as_ref().filter(|best| best.machine.is_some()) {
            self.tried.push((best.offer.clone(), now));
        }
        self.stale = true;
        best
    }

    fn choice(
        &mut self,
        index: usize,
        offers: &[Offer],
        holdings: &[Holding],
        draw: Option<u64>,
        now: Timestamp,
    ) -> OfferChoice {
        let scaling = &self.scenario.scaling;
        let times = &self.scenario.times;
        let group = &mut self.groups[index];
        // What the stated speed is for must not move with the market.
        if group.speeds.reference.is_none() {
            group.speeds.reference = gpu::middle_strength(offers);
        }
        let tried: Vec<OfferId> = self.tried.iter().map(|(offer, _)| offer.clone()).collect();
        let situation = Situation {
            group: group.group,
            settings: &self.scenario.offers,
            offers,
            holdings,
            floor: TokensPerSecond(
                scaling.min_load.0 / scaling.target_util.unwrap_or(1.0).clamp(0.01, 1.0),
            ),
            tried: &tried,
            usd_per_hour_max: UsdPerHour(f64::INFINITY),
            price_margin: 0.0,
            boot: times.boot,
            least_life: 2 * times.boot + times.drain,
        };
        let knowing = self.scenario.chooser == Chooser::Knowing;
        let beliefs = Beliefs {
            speeds: &group.speeds,
            hosts: &self.hosts,
        };
        let by = if draw.is_some() { choose } else { rank };
        let mut choice = by(&situation, beliefs, draw, now);
        if knowing {
            know(&mut choice, &self.truth);
        } else if self.scenario.chooser == Chooser::CheapestByHour {
            prefer(&mut choice, |one| one.usd_per_hour.0);
        }
        choice
    }

    fn index(&self, name: &GroupName) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.group.name == *name)
    }

    pub fn group(&self, name: &GroupName) -> Option<&'a WorkerGroup> {
        self.index(name).map(|index| self.groups[index].group)
    }

    fn with(&mut self, name: &GroupName, learn: impl FnOnce(&mut Group<'a>)) {
        if let Some(index) = self.index(name) {
            learn(&mut self.groups[index]);
        }
        self.stale = true;
    }

    pub fn count_failure(&mut self, name: &GroupName) {
        self.with(name, |group| group.failures += 1);
    }

    pub fn cold_start_took(&mut self, name: &GroupName, took: Duration) {
        self.with(name, |group| group.cold.observe(took));
    }

    /// `took`: `None` for a restart that failed.
    pub fn restart_ended(&mut self, name: &GroupName, took: Option<Duration>) {
        self.with(name, |group| {
            group.restarts += 1.0;
            match took {
                Some(took) => group.restart.observe(took),
                None => group.restarts_failed += 1.0,
            }
        });
    }

    pub fn learn_of_host(&mut self, machine: &MachineKey, events: &[HostEvent], now: Timestamp) {
        let host = self.hosts.entry(machine.clone()).or_default();
        for event in events {
            host.observe(*event, now);
        }
        self.stale = true;
    }

    pub fn learn_speed(
        &mut self,
        name: &GroupName,
        rented: &Alternative,
        speed: f64,
        now: Timestamp,
    ) {
        self.with(name, |group| {
            group.speeds.observe(rented, TokensPerSecond(speed), now);
        });
    }
}

impl Group<'_> {
    fn supply(&self, market: &Market) -> GroupSupply {
        let group = self.group;
        let best = self.next.as_ref();
        let usd_per_hour = best.map_or(group.usd_per_hour, |best| best.usd_per_hour);
        let kind = best
            .and_then(|best| market.find(&best.offer))
            .map(|found| market.kind(found.kind));
        let cold = self.cold.expected();
        let gb = group.image_gb + group.model_gb;
        let billed_s = kind.map_or(0.0, |kind| cold.as_secs_f64() * kind.starts.billed_share);
        let traffic = kind.map_or(0.0, |kind| gb * kind.down_usd_per_gb.0);
        GroupSupply {
            group: group.name.clone(),
            speed: best.map_or(group.speed_prior.tokens_per_second, |best| {
                best.tokens_per_second
            }),
            usd_per_hour,
            told_apart: best.is_some_and(|best| best.machine.is_some()),
            rentable: best.is_some(),
            failures_total: self.failures,
            starts: StartOutlook {
                cold,
                cold_usd: usd_per_hour.0 * billed_s / 3_600.0 + traffic,
                restart: self.restart.expected(),
                restart_fails: self.restarts_failed / self.restarts,
            },
        }
    }
}

/// Judges by what machines really do.
fn know(choice: &mut OfferChoice, truth: &BTreeMap<MachineKey, f64>) {
    for one in &mut choice.alternatives {
        let real = one.machine.as_ref().and_then(|machine| truth.get(machine));
        if let Some(&real) = real {
            one.usd_per_million_tokens *= one.tokens_per_second.0 / real;
            one.tokens_per_second = TokensPerSecond(real);
        }
    }
    prefer(choice, |one| one.usd_per_million_tokens);
}

/// Takes the least by `cost` of those that nothing speaks against.
fn prefer(choice: &mut OfferChoice, cost: impl Fn(&Alternative) -> f64) {
    let free = choice.alternatives.iter().filter(|one| {
        let beaten = |why| {
            use crate::domain::WhyNot::{Dearer, DrewWorse, Even};
            matches!(why, Dearer { .. } | DrewWorse | Even)
        };
        one.why_not.is_none_or(beaten)
    });
    let best = free.min_by(|a, b| cost(a).total_cmp(&cost(b)));
    if let Some(best) = best {
        choice.chosen = Some(best.offer.clone());
    }
}
