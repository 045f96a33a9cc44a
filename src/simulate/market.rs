//! A pretended market: kinds of machines, hosts that have them, offers that come and go at prices that move.
//!
//! A kind whose machines are all alike (`hosts: 0`) is offered without end at its price. One with hosts is offered as
//! machines with a description each, of which some are taken by others at any time; every n-th host may be slower than
//! its kind, which no description says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::SplitMix;
use super::serving::MachineLaw;
use crate::domain::{
    GroupName, Hardware, HostId, MachineId, MachineKey, Offer, OfferId, TokensPerSecond, Usd,
    UsdPerHour,
};

/// How often offers come, go and change their price.
pub const MARKET_STEP_S: u64 = 60;

/// Machines of one kind. Sources of the figures: docs/SIMULATOR.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineKind {
    /// Of the endpoint's groups, the one whose search finds it.
    pub group: GroupName,
    /// As the market spells it.
    pub gpu_name: String,
    #[serde(default = "one")]
    pub gpu_count: u32,
    /// What a machine of the kind really does.
    pub speed: TokensPerSecond,
    /// How it runs the model, iteration by iteration. `None`: as the scenario's usual law, at its own speed.
    #[serde(default)]
    pub law: Option<MachineLaw>,
    /// While it runs, storage included; the middle of what hosts ask.
    pub usd_per_hour: UsdPerHour,
    /// Of it, the storage: paid in every state.
    #[serde(default)]
    pub storage_usd_per_hour: UsdPerHour,
    #[serde(default)]
    pub down_usd_per_gb: Usd,
    #[serde(default)]
    pub up_usd_per_gb: Usd,
    #[serde(default)]
    pub starts: Starts,
    #[serde(default)]
    pub failures: Failures,
    /// 0: machines without end, all alike.
    #[serde(default)]
    pub hosts: u32,
    #[serde(default)]
    pub offers: OfferLife,
    /// Hosts of it also offer their machines to whoever bids most.
    #[serde(default)]
    pub spot: Option<Spot>,
    /// Every so-many-th host is slower than its kind.
    #[serde(default)]
    pub slow: Option<SlowHosts>,
}

fn one() -> u32 {
    1
}

/// How long starts take, what they cost and how often they fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Starts {
    /// Mean from rental to ready, seconds (log-normal).
    pub cold_s: f64,
    /// Coefficient of variation of a cold start.
    pub cold_cv: f64,
    /// Share of a cold start, its end, in which the GPU is billed.
    pub billed_share: f64,
    /// Share of the rentals that never come up.
    pub never_share: f64,
    /// Mean from the order to ready of a stopped machine, seconds; billed in full.
    pub restart_s: f64,
    pub restart_cv: f64,
    /// Share of the restarts that find the GPU taken.
    pub restart_fails: f64,
    /// Added to that share for each hour it was stopped, up to `restart_fails_most`.
    pub restart_fails_per_hour: f64,
    pub restart_fails_most: f64,
}

impl Default for Starts {
    /// The setting of the aims.
    fn default() -> Self {
        Self {
            cold_s: 300.0,
            cold_cv: 0.35,
            billed_share: 0.6,
            never_share: 0.0,
            restart_s: 60.0,
            restart_cv: 0.2,
            restart_fails: 0.15,
            restart_fails_per_hour: 0.0,
            restart_fails_most: 0.6,
        }
    }
}

/// How machines that serve fail. `default()`: never.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failures {
    /// Mean hours of running between failures (exponential); 0: none.
    pub mtbf_h: f64,
    /// Share of the failures in which it hangs silently, and in which it breaks off; the rest become slow.
    pub hang_share: f64,
    pub break_share: f64,
    /// What is left of the speed of one that became slow: from, to.
    pub slow_to: (f64, f64),
}

impl Failures {
    pub fn usual() -> Self {
        Self {
            mtbf_h: 200.0,
            hang_share: 0.5,
            break_share: 0.3,
            slow_to: (0.3, 0.7),
        }
    }
}

/// Comings and goings of the offers of a kind with hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfferLife {
    /// Share of the time a machine is on offer.
    pub visible_share: f64,
    /// Mean minutes until others take an offer.
    pub taken_min: f64,
    /// Spread of the logarithm of the price between hosts.
    pub price_sd: f64,
    /// Spread of the logarithm of the kind's price over the day, and how long it takes to change, hours.
    pub price_moves_sd: f64,
    pub price_moves_h: f64,
    /// Spread of the logarithm of the speed within the kind, and of what descriptions say of it.
    pub speed_sd: f64,
    pub score_sd: f64,
    pub reliability: (f64, f64),
    pub down_mbit_per_s: f64,
}

impl Default for OfferLife {
    fn default() -> Self {
        Self {
            visible_share: 0.17,
            taken_min: 20.0,
            price_sd: 0.25,
            price_moves_sd: 0.1,
            price_moves_h: 6.0,
            speed_sd: 0.08,
            score_sd: 0.05,
            reliability: (0.90, 0.999),
            down_mbit_per_s: 1_200.0,
        }
    }
}

/// Machines that others may bid away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spot {
    /// Least winning bid over the price on demand.
    pub price_share: f64,
    /// Hours until somebody bids more: Weibull of this shape and scale. Shape 0.5: the mean is twice the scale.
    pub run_shape: f64,
    pub run_scale_h: f64,
}

impl Default for Spot {
    fn default() -> Self {
        Self {
            price_share: 0.6,
            run_shape: 0.5,
            run_scale_h: 1.5,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowHosts {
    pub every: u32,
    /// Of the kind's speed.
    pub factor: f64,
}

impl MachineKind {
    /// One kind without end, as in the aims: storage is 6% of the price.
    pub fn plain(group: &str, speed: f64, usd_per_hour: f64) -> Self {
        Self {
            group: GroupName::new(group),
            gpu_name: String::new(),
            gpu_count: 1,
            speed: TokensPerSecond(speed),
            law: None,
            usd_per_hour: UsdPerHour(usd_per_hour),
            storage_usd_per_hour: UsdPerHour(0.06 * usd_per_hour),
            down_usd_per_gb: Usd::ZERO,
            up_usd_per_gb: Usd::ZERO,
            starts: Starts::default(),
            failures: Failures::default(),
            hosts: 0,
            offers: OfferLife::default(),
            spot: None,
            slow: None,
        }
    }

    /// Paid for its GPU while it runs.
    pub fn gpu_usd_per_hour(&self) -> f64 {
        (self.usd_per_hour.0 - self.storage_usd_per_hour.0).max(0.0)
    }

    /// Dollars a cold start costs before it serves, `gb` being downloaded.
    pub fn cold_usd(&self, gb: f64) -> f64 {
        let starts = &self.starts;
        let gpu = self.gpu_usd_per_hour() * starts.billed_share + self.storage_usd_per_hour.0;
        gpu * starts.cold_s / 3_600.0 + gb * self.down_usd_per_gb.0
    }

    pub fn restart_usd(&self) -> f64 {
        self.usd_per_hour.0 * self.starts.restart_s / 3_600.0
    }
}

/// What an offer leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Index into the kinds.
    pub kind: usize,
    /// The physical machine; `None` where all are alike.
    pub machine: Option<usize>,
    pub interruptible: bool,
    /// What it really does.
    pub speed: f64,
    pub gpu_usd_per_hour: f64,
    pub storage_usd_per_hour: f64,
}

/// Only the world knows all of this.
#[derive(Clone, Debug)]
struct HostedMachine {
    kind: usize,
    key: MachineKey,
    location: String,
    speed: f64,
    price: f64,
    score: f64,
    reliability: f64,
    down_mbit_per_s: f64,
    /// Listings so far: each has another offer id.
    listings: u64,
    visible: bool,
    changes_at: u64,
    rented: bool,
    chance: SplitMix,
}

/// The state of a market. It goes its way whatever is rented, but for the machines that are ours.
#[derive(Clone, Debug)]
pub struct Market {
    kinds: Vec<MachineKind>,
    machines: Vec<HostedMachine>,
    /// Logarithm of each kind's price over its middle.
    moved: Vec<f64>,
    moves: Vec<SplitMix>,
    at_step: u64,
    /// Changes whenever offers do.
    pub version: u64,
}

impl Market {
    pub fn new(kinds: &[MachineKind], seed: u64) -> Self {
        let mut machines = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            for host in 0..kind.hosts {
                machines.push(hosted(kind, index, host, seed));
            }
        }
        Self {
            moved: vec![0.0; kinds.len()],
            moves: (0..kinds.len() as u64)
                .map(|kind| SplitMix::about(seed, "prices", kind))
                .collect(),
            kinds: kinds.to_vec(),
            machines,
            at_step: 0,
            version: 0,
        }
    }

    pub fn kind(&self, index: usize) -> &MachineKind {
        &self.kinds[index]
    }

    /// Whether anything ever changes.
    fn is_still(&self) -> bool {
        self.machines.is_empty()
    }

    /// To be called each [`MARKET_STEP_S`].
    pub fn step(&mut self) {
        if self.is_still() {
            return;
        }
        self.at_step += 1;
        self.version += 1;
        for (index, kind) in self.kinds.iter().enumerate() {
            let life = &kind.offers;
            let kept = (-(MARKET_STEP_S as f64) / (life.price_moves_h * 3_600.0).max(1.0)).exp();
            let news = life.price_moves_sd * (1.0 - kept * kept).sqrt();
            self.moved[index] = kept * self.moved[index] + news * self.moves[index].normal();
        }
        for machine in &mut self.machines {
            if machine.changes_at > self.at_step {
                continue;
            }
            machine.visible = !machine.visible;
            machine.listings += u64::from(machine.visible);
            let steps = stay(&self.kinds[machine.kind].offers, machine.visible);
            let steps = machine.chance.exponential(steps).ceil().max(1.0);
            machine.changes_at = self.at_step + steps as u64;
        }
    }

    /// What a search for the group finds now.
    pub fn offers(&self, group: &GroupName) -> Vec<Offer> {
        let mut offers = Vec::new();
        for (index, kind) in self.kinds.iter().enumerate() {
            if kind.group == *group && kind.hosts == 0 {
                offers.push(Offer::plain(
                    OfferId::new(format!("kind-{index}")),
                    kind.usd_per_hour,
                ));
            }
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let kind = &self.kinds[machine.kind];
            if kind.group == *group && machine.visible && !machine.rented {
                offers.push(self.offer(index, false));
                if kind.spot.is_some() {
                    offers.push(self.offer(index, true));
                }
            }
        }
        offers
    }

    fn offer(&self, index: usize, interruptible: bool) -> Offer {
        let machine = &self.machines[index];
        let kind = &self.kinds[machine.kind];
        let gpu = self.gpu_price(index, interruptible);
        let way = if interruptible { "bid" } else { "ask" };
        Offer {
            id: OfferId::new(format!("{index}-{way}-{}", machine.listings)),
            usd_per_hour: UsdPerHour(gpu + kind.storage_usd_per_hour.0),
            interruptible,
            hardware: Some(Hardware {
                machine: machine.key.clone(),
                gpu_name: kind.gpu_name.clone(),
                gpu_count: kind.gpu_count,
                gpu_ram_mb_each: 0.0,
                dlperf: machine.score,
                reliability: machine.reliability,
                location: machine.location.clone(),
                verified: true,
                down_mbit_per_s: machine.down_mbit_per_s,
                down_usd_per_gb: kind.down_usd_per_gb,
                up_usd_per_gb: kind.up_usd_per_gb,
                storage_usd_per_hour: kind.storage_usd_per_hour,
                available_for: Duration::from_secs(90 * 86_400),
            }),
        }
    }

    fn gpu_price(&self, index: usize, interruptible: bool) -> f64 {
        let machine = &self.machines[index];
        let kind = &self.kinds[machine.kind];
        let asked = kind.gpu_usd_per_hour() * machine.price * self.moved[machine.kind].exp();
        match &kind.spot {
            Some(spot) if interruptible => asked * spot.price_share,
            _ => asked,
        }
    }

    /// What the offer is really; `None` where it is gone.
    pub fn find(&self, offer: &OfferId) -> Option<Found> {
        if let Some(kind) = offer.as_str().strip_prefix("kind-") {
            let index: usize = kind.parse().ok()?;
            let kind = self.kinds.get(index)?;
            return Some(Found {
                kind: index,
                machine: None,
                interruptible: false,
                speed: kind.speed.0,
                gpu_usd_per_hour: kind.gpu_usd_per_hour(),
                storage_usd_per_hour: kind.storage_usd_per_hour.0,
            });
        }
        let mut parts = offer.as_str().split('-');
        let index: usize = parts.next()?.parse().ok()?;
        let interruptible = parts.next()? == "bid";
        let listing: u64 = parts.next()?.parse().ok()?;
        let machine = self.machines.get(index)?;
        if machine.rented || !machine.visible || machine.listings != listing {
            return None;
        }
        Some(Found {
            kind: machine.kind,
            machine: Some(index),
            interruptible,
            speed: machine.speed,
            gpu_usd_per_hour: self.gpu_price(index, interruptible),
            storage_usd_per_hour: self.kinds[machine.kind].storage_usd_per_hour.0,
        })
    }

    /// A machine of ours is on offer to nobody else.
    pub fn set_rented(&mut self, machine: usize, rented: bool) {
        self.machines[machine].rented = rented;
        self.version += 1;
    }

    /// Real speeds by machine, for a chooser that knows.
    pub fn truth(&self) -> BTreeMap<MachineKey, f64> {
        let machines = self.machines.iter();
        machines
            .map(|machine| (machine.key.clone(), machine.speed))
            .collect()
    }
}

fn hosted(kind: &MachineKind, index: usize, host: u32, seed: u64) -> HostedMachine {
    let life = &kind.offers;
    let thing = (index as u64) << 32 | u64::from(host);
    let mut chance = SplitMix::about(seed, "hosts", thing);
    let own = (life.speed_sd * chance.normal()).exp();
    let is_slow = kind
        .slow
        .is_some_and(|slow| host % slow.every.max(1) == slow.every.max(1) - 1);
    let slow = if is_slow {
        kind.slow.map_or(1.0, |slow| slow.factor)
    } else {
        1.0
    };
    let price = (life.price_sd * chance.normal()).exp();
    let score = 100.0 * own.powf(1.0 / 0.6) * (life.score_sd * chance.normal()).exp();
    let (least, most) = life.reliability;
    let reliability = least + (most - least) * chance.unit();
    let down_mbit_per_s = chance.log_normal(life.down_mbit_per_s, 0.7);
    let visible = chance.happens(life.visible_share);
    let first = chance.exponential(stay(life, visible)).ceil() as u64;
    HostedMachine {
        kind: index,
        key: MachineKey {
            host: HostId::new(format!("host-{index}-{host}")),
            machine: MachineId::new(format!("machine-{index}-{host}")),
        },
        location: format!("place {}", host % 7),
        speed: kind.speed.0 * own * slow,
        price,
        score,
        reliability,
        down_mbit_per_s,
        listings: 0,
        visible,
        changes_at: first,
        rented: false,
        chance,
    }
}

/// Mean steps on offer, or off it.
fn stay(life: &OfferLife, visible: bool) -> f64 {
    let on = life.taken_min * 60.0 / MARKET_STEP_S as f64;
    let share = life.visible_share.clamp(0.001, 0.999);
    if visible {
        on
    } else {
        on * (1.0 - share) / share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> MachineKind {
        MachineKind {
            gpu_name: "RTX 4090".into(),
            hosts: 300,
            spot: Some(Spot::default()),
            slow: Some(SlowHosts {
                every: 5,
                factor: 0.6,
            }),
            ..MachineKind::plain("g", 1_000.0, 0.4)
        }
    }

    #[test]
    fn machines_are_on_offer_about_as_often_as_was_said_and_the_market_replays() {
        let mut market = Market::new(&[hosts()], 3);
        let mut again = market.clone();
        let group = GroupName::new("g");
        let mut seen = 0;
        for _ in 0..2_000 {
            market.step();
            again.step();
            seen += market
                .offers(&group)
                .iter()
                .filter(|o| !o.interruptible)
                .count();
        }
        assert_eq!(market.offers(&group), again.offers(&group));
        let share = seen as f64 / 2_000.0 / 300.0;
        assert!((share - 0.17).abs() < 0.03, "{share}");
    }

    #[test]
    fn an_offer_leads_to_a_machine_until_it_is_rented_or_gone() {
        let mut market = Market::new(&[hosts()], 3);
        let offers = market.offers(&GroupName::new("g"));
        let (ask, bid) = (&offers[0], &offers[1]);
        let found = market.find(&ask.id).expect("on offer");
        assert!(bid.usd_per_hour.0 < ask.usd_per_hour.0);
        assert!(market.find(&bid.id).expect("on offer").interruptible);
        market.set_rented(found.machine.expect("told apart"), true);
        assert_eq!(market.find(&ask.id), None);
        assert_eq!(market.find(&bid.id), None);
    }

    #[test]
    fn slow_hosts_do_not_say_so() {
        let market = Market::new(&[hosts()], 1);
        let mean = |slow: bool, of: fn(&HostedMachine) -> f64| {
            let machines = market.machines.iter().enumerate();
            let of_them = machines.filter(|(host, _)| (host % 5 == 4) == slow);
            let values: Vec<f64> = of_them.map(|(_, machine)| of(machine)).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let speeds = mean(true, |m| m.speed) / mean(false, |m| m.speed);
        let scores = mean(true, |m| m.score) / mean(false, |m| m.score);
        assert!((speeds - 0.6).abs() < 0.03, "{speeds}");
        assert!((scores - 1.0).abs() < 0.08, "{scores}");
    }
}
