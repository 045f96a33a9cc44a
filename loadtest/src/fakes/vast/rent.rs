//! Renting: from an offer and a body to an instance with a fate.

use super::chance::stream;
use super::clock::At;
use super::faults::{Boot, Fate};
use super::instance::{Deal, Instance, Rental};
use super::market::{Holder, Machine};
use super::world::{Refusal, World};

/// A second buyer is accepted so many seconds of the market after the first.
const BOTH_ACCEPTED_S: f64 = 6.0;

/// How long an unseen buyer keeps what he got first, in seconds of the market.
const UNSEEN_KEEPS_S: f64 = 7_200.0;

/// Dollars an hour that may be bid.
pub const BIDS: std::ops::RangeInclusive<f64> = 0.001..=128.0;

/// Who has the GPUs that are to be rented.
enum Claim {
    Free,
    /// Another of our customers, a moment before.
    JustTaken,
    /// Somebody for longer: the instance may wait.
    Waiting,
}

impl World {
    /// Rents an offer; the new instance's id.
    pub fn create(
        &mut self,
        now: At,
        account: usize,
        ask: u64,
        rental: Rental,
    ) -> Result<u64, Refusal> {
        let market_s = self.market_s(now);
        let machine = self.market.by_ask(ask).ok_or(Refusal::NoSuchAsk)?;
        let hardware = self.market.machines[machine].clone();
        let claim = claim(&hardware, market_s, rental.cancel_unavail)?;
        check(&hardware, &rental)?;
        if self.credit(account, now) <= 0.0 {
            return Err(Refusal::NoCredit);
        }
        self.creations += 1;
        self.last_instance += 1;
        let (id, call) = (self.last_instance, self.creations);
        let fate = self.fate(call, &claim, hardware.down_mbit_s);
        match (&claim, &fate.boot) {
            // Nobody sees the other buyer.
            (Claim::Free, Boot::Waits | Boot::Vanishes) => {
                self.market.take_away(machine, market_s, UNSEEN_KEEPS_S);
            }
            (Claim::Free, _) => self.market.claim(machine, id, market_s),
            (Claim::JustTaken | Claim::Waiting, _) => {}
        }
        let mut rng = stream(self.settings.seed, "key", id);
        let deal = Deal {
            id,
            call,
            account,
            key: (0..40).map(|_| rng.alphanumeric()).collect(),
            machine,
            ends: now.plus(self.clock.real(hardware.until_s - market_s)),
            due: now.plus(self.clock.real(fate.queue_s)),
            hardware,
            fate,
            rental,
            bill_scale: self.settings.bill_scale,
        };
        self.instances.insert(id, Instance::new(now, deal));
        Ok(id)
    }

    fn fate(&self, call: u64, claim: &Claim, mbit_s: f64) -> Fate {
        let mut fate = Fate::draw(self.settings.seed, call, &self.faults, mbit_s);
        match claim {
            Claim::Free => {}
            Claim::Waiting => fate.boot = Boot::Waits,
            Claim::JustTaken => {
                let waits = call.is_multiple_of(2);
                fate.boot = if waits { Boot::Waits } else { Boot::Vanishes };
                fate.restarts = false;
            }
        }
        fate
    }
}

fn claim(hardware: &Machine, market_s: f64, cancel_unavail: bool) -> Result<Claim, Refusal> {
    match hardware.holder {
        Holder::Nobody => Ok(Claim::Free),
        Holder::Ours(_) if market_s - hardware.taken_at_s < BOTH_ACCEPTED_S => Ok(Claim::JustTaken),
        Holder::Others(_) | Holder::Bidder(_) if !cancel_unavail => Ok(Claim::Waiting),
        _ => Err(Refusal::NoSuchAsk),
    }
}

fn check(hardware: &Machine, rental: &Rental) -> Result<(), Refusal> {
    if rental.disk_gb > hardware.disk_gb {
        return Err(Refusal::Invalid("not enough disk".into()));
    }
    let invalid = |what: &str| Err(Refusal::InvalidPrice(what.into()));
    match rental.price {
        Some(bid) if !BIDS.contains(&bid) => invalid("price out of range"),
        Some(bid) if bid < hardware.min_bid => invalid("bid below the lowest that wins"),
        _ => Ok(()),
    }
}
