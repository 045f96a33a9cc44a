//! The machines and who has them: prices walk, offers come and go, other people rent. One tick of it depends on the seed
//! and on what our own customers hold, on nothing else.

use fastrand::Rng;

use super::chance::{between, happens, normal, pick, stream, waiting};
use super::classes::{CLASSES, Class};

/// Seconds of the market between two ticks.
pub const TICK_S: f64 = 30.0;

/// Mean time that somebody else keeps a machine, and that a machine is away.
const OTHERS_KEEP_S: f64 = 3_600.0;
const AWAY_S: f64 = 1_200.0;
/// How long who bid more keeps what he got, unless somebody bids more again.
const BIDDERS_KEEP_S: f64 = 1_800.0;

const LOCATIONS: [&str; 8] = [
    "Sweden, SE",
    "Norway, NO",
    "California, US",
    "Texas, US",
    "Quebec, CA",
    "Germany, DE",
    "Bulgaria, BG",
    "Taiwan, TW",
];

/// Who has a machine's GPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holder {
    Nobody,
    /// Until so many seconds of the market.
    Others(f64),
    /// The same, by a bid: a higher one takes them back.
    Bidder(f64),
    /// The instance's id.
    Ours(u64),
    /// Off the market until then.
    Away(f64),
}

/// A machine, whole: it is offered as one.
#[derive(Clone, Debug)]
pub struct Machine {
    pub id: u64,
    pub host: u64,
    /// Index into `CLASSES`.
    pub class: usize,
    pub gpus: u32,
    pub location: &'static str,
    pub reliability: f64,
    pub verified: bool,
    pub down_mbit_s: f64,
    pub up_mbit_s: f64,
    pub down_usd_per_gb: f64,
    pub up_usd_per_gb: f64,
    pub disk_gb: f64,
    pub disk_mb_s: f64,
    /// Dollars for one GB and month.
    pub storage_cost: f64,
    pub cpu_cores: u32,
    pub cpu_ghz: f64,
    pub ram_mb: u64,
    pub ports: u32,
    pub driver: (u32, u32, u32),
    pub cuda: f64,
    /// Seconds of the market since its start at which it leaves for good.
    pub until_s: f64,
    /// Score of one GPU, which differs a little between machines.
    pub dlperf_each: f64,
    /// The present offer's id; another after each rental.
    pub ask: u64,
    /// Dollars an hour for the GPUs, on demand.
    pub price: f64,
    /// The lowest bid that wins now.
    pub min_bid: f64,
    pub holder: Holder,
    /// When our customer took it, in seconds of the market; a second buyer soon after is accepted too.
    pub taken_at_s: f64,
    middle_price: f64,
    drift: f64,
    bid_drift: f64,
}

impl Machine {
    pub fn class(&self) -> &'static Class {
        &CLASSES[self.class]
    }

    pub fn is_listed(&self) -> bool {
        self.holder == Holder::Nobody
    }

    /// Dollars an hour for a disk of this size.
    pub fn storage_usd_per_hour(&self, gb: f64) -> f64 {
        self.storage_cost * gb / (24.0 * 30.0)
    }

    pub fn dlperf(&self) -> f64 {
        self.dlperf_each * f64::from(self.gpus)
    }
}

#[derive(Debug)]
pub struct Market {
    seed: u64,
    pub machines: Vec<Machine>,
    /// Ticks done.
    ticks: u64,
    next_ask: u64,
    /// Nothing changes but by our customers.
    calm: bool,
}

impl Market {
    pub fn new(seed: u64, price_scale: f64, calm: bool) -> Self {
        let mut next_ask = 7_000_000 + seed % 1_000 * 1_000;
        let mut machines = Vec::new();
        for (class, of_class) in CLASSES.iter().enumerate() {
            for _ in 0..of_class.machines {
                let number = machines.len() as u64;
                next_ask += 1;
                let mut rng = stream(seed, "machine", number);
                machines.push(machine(&mut rng, number, class, next_ask, price_scale));
            }
        }
        Self {
            seed,
            machines,
            ticks: 0,
            next_ask,
            calm,
        }
    }

    /// Does the ticks due by now.
    pub fn advance(&mut self, market_s: f64) {
        let due = (market_s / TICK_S) as u64;
        while self.ticks < due {
            self.ticks += 1;
            if !self.calm {
                self.tick(self.ticks as f64 * TICK_S);
            }
        }
    }

    fn tick(&mut self, now_s: f64) {
        for (index, machine) in self.machines.iter_mut().enumerate() {
            // A stream for each machine and tick: what our customers do to one does not change another's future.
            let number = self.ticks << 16 | index as u64;
            let mut rng = stream(self.seed, "tick", number);
            machine.drift = 0.985 * machine.drift + 0.012 * normal(&mut rng);
            machine.bid_drift = 0.97 * machine.bid_drift + 0.03 * normal(&mut rng);
            machine.price = rounded(machine.middle_price * machine.drift.exp());
            machine.min_bid =
                rounded((machine.price * 0.6 * machine.bid_drift.exp()).min(machine.price));
            let before = machine.holder;
            machine.holder = next_holder(&mut rng, machine, now_s);
            if machine.holder == Holder::Nobody && before != Holder::Nobody {
                self.next_ask += 1;
                machine.ask = self.next_ask;
            }
        }
    }

    pub fn by_ask(&self, ask: u64) -> Option<usize> {
        self.machines.iter().position(|machine| machine.ask == ask)
    }

    /// Our customer has its GPUs now.
    pub fn claim(&mut self, machine: usize, instance: u64, now_s: f64) {
        let machine = &mut self.machines[machine];
        machine.holder = Holder::Ours(instance);
        machine.taken_at_s = now_s;
    }

    /// Our customer's GPUs are free again, under another offer; unless somebody else has them.
    pub fn release(&mut self, machine: usize, instance: u64) {
        let machine = &mut self.machines[machine];
        if machine.holder == Holder::Ours(instance) {
            machine.holder = Holder::Nobody;
            self.next_ask += 1;
            machine.ask = self.next_ask;
        }
    }

    /// Somebody bids more than `bid` and has the machine for a while.
    pub fn outbid(&mut self, machine: usize, bid: f64, now_s: f64) {
        let machine = &mut self.machines[machine];
        machine.holder = Holder::Bidder(now_s + BIDDERS_KEEP_S);
        machine.min_bid = machine.min_bid.max(rounded(bid * 1.02));
    }

    /// Somebody else takes the machine, whoever has it.
    pub fn take_away(&mut self, machine: usize, now_s: f64, for_s: f64) {
        self.machines[machine].holder = Holder::Others(now_s + for_s);
    }
}

fn next_holder(rng: &mut Rng, machine: &Machine, now_s: f64) -> Holder {
    match machine.holder {
        Holder::Ours(id) => Holder::Ours(id),
        Holder::Others(until) | Holder::Bidder(until) | Holder::Away(until) if until > now_s => {
            machine.holder
        }
        _ if now_s > machine.until_s => Holder::Away(f64::INFINITY),
        Holder::Others(_) | Holder::Bidder(_) | Holder::Away(_) => Holder::Nobody,
        Holder::Nobody if happens(rng, 0.012) => {
            Holder::Others(now_s + waiting(rng, OTHERS_KEEP_S))
        }
        Holder::Nobody if happens(rng, 0.004) => Holder::Away(now_s + waiting(rng, AWAY_S)),
        Holder::Nobody => Holder::Nobody,
    }
}

fn machine(rng: &mut Rng, number: u64, class: usize, ask: u64, price_scale: f64) -> Machine {
    let kind = &CLASSES[class];
    let gpus = [1, 1, 1, 2, 4, 4, 8][rng.usize(..7)];
    let [low, middle, high] = kind.usd_per_hour;
    // Half the machines below the middle price, half above.
    let each = if happens(rng, 0.5) {
        between(rng, low, middle)
    } else {
        between(rng, middle, high)
    };
    let middle_price = rounded(each * f64::from(gpus) * price_scale);
    let location = pick(rng, &LOCATIONS).unwrap_or(&LOCATIONS[0]);
    let drivers = [
        (535, 86, 5),
        (535, 183, 1),
        (550, 54, 15),
        (550, 127, 5),
        (570, 86, 15),
    ];
    let driver = drivers[rng.usize(..drivers.len())];
    let down = between(rng, 300.0, if kind.datacenter { 8_000.0 } else { 1_500.0 });
    Machine {
        id: 10_001 + number * 7,
        // Some hosts have several machines.
        host: 50_000 + rng.u64(..(14 + number / 3)),
        class,
        gpus,
        location,
        reliability: if kind.datacenter {
            between(rng, 0.985, 0.9995)
        } else {
            between(rng, 0.90, 0.999)
        },
        verified: happens(rng, 0.9),
        down_mbit_s: down,
        up_mbit_s: down * between(rng, 0.3, 1.0),
        down_usd_per_gb: between(rng, 0.0, 0.01) * price_scale,
        up_usd_per_gb: between(rng, 0.0, 0.02) * price_scale,
        disk_gb: between(rng, 200.0, 1_600.0).round(),
        disk_mb_s: between(rng, 800.0, 6_000.0),
        storage_cost: between(rng, 0.08, 0.25) * price_scale,
        cpu_cores: 8 * gpus.max(2),
        cpu_ghz: between(rng, 2.4, 4.5),
        ram_mb: 64_000 * u64::from(gpus),
        ports: [4, 24, 99, 250][rng.usize(..4)],
        driver,
        cuda: match driver.0 {
            535 => 12.2,
            550 => 12.4,
            _ => 12.8,
        },
        until_s: between(rng, 20.0, 300.0) * 86_400.0,
        dlperf_each: kind.dlperf * between(rng, 0.92, 1.06),
        ask,
        price: middle_price,
        min_bid: rounded(middle_price * between(rng, 0.5, 0.7)),
        holder: Holder::Nobody,
        taken_at_s: f64::NEG_INFINITY,
        middle_price,
        drift: 0.0,
        bid_drift: 0.0,
    }
}

/// To a hundredth of a cent.
fn rounded(usd: f64) -> f64 {
    (usd * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(market: &Market) -> Vec<(u64, f64, f64, bool)> {
        let machines = market.machines.iter();
        machines
            .map(|m| (m.ask, m.price, m.min_bid, m.is_listed()))
            .collect()
    }

    #[test]
    fn a_seed_repeats_the_market_however_often_it_is_looked_at() {
        let (mut often, mut once) = (Market::new(3, 1.0, false), Market::new(3, 1.0, false));
        for second in 0..7_200 {
            often.advance(f64::from(second));
        }
        once.advance(7_199.0);
        assert_eq!(prices(&often), prices(&once));
        assert_ne!(prices(&once), prices(&Market::new(4, 1.0, false)));
    }

    #[test]
    fn prices_walk_and_offers_come_and_go_but_a_calm_market_stands_still() {
        let (mut moving, mut calm) = (Market::new(5, 1.0, false), Market::new(5, 1.0, true));
        let before = prices(&moving);
        moving.advance(6.0 * 3_600.0);
        calm.advance(6.0 * 3_600.0);
        assert_eq!(prices(&calm), before);
        let listed = moving.machines.iter().filter(|m| m.is_listed()).count();
        assert!((10..40).contains(&listed), "{listed} offers");
        for machine in &moving.machines {
            assert!(machine.min_bid <= machine.price && machine.min_bid > 0.2 * machine.price);
            let ratio = machine.price / machine.middle_price;
            assert!((0.5..2.0).contains(&ratio), "{ratio}");
        }
        assert_ne!(prices(&moving), before);
    }

    #[test]
    fn what_a_customer_holds_is_never_given_to_others_by_a_tick() {
        let mut market = Market::new(6, 1.0, false);
        market.claim(2, 77, 0.0);
        market.advance(50_000.0);
        assert_eq!(market.machines[2].holder, Holder::Ours(77));
        let ask = market.machines[2].ask;
        market.release(2, 77);
        assert!(market.machines[2].is_listed() && market.machines[2].ask != ask);
    }
}
