//! All of it together: the market, the instances and the containers; and what customers may order.

use std::collections::BTreeMap;

use super::Settings;
use super::accounts::{Account, Caller};
use super::bill::Charges;
use super::clock::{At, Clock};
use super::faults::Faults;
use super::instance::{Instance, Phase};
use super::limits::{Limits, Quota};
use super::market::Market;
use super::processes::Processes;
use super::record::Record;
use super::rent::BIDS;

/// Why a call changed nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The offer is gone, or never was.
    NoSuchAsk,
    NoSuchInstance,
    Invalid(String),
    InvalidPrice(String),
    LabelTooLong,
    NoCredit,
    /// This account has to use the newer call.
    Deprecated,
}

pub struct World {
    pub settings: Settings,
    pub clock: Clock,
    pub faults: Faults,
    pub accounts: Vec<Account>,
    pub market: Market,
    /// All that ever were.
    pub instances: BTreeMap<u64, Instance>,
    pub limits: Limits,
    pub quota: Quota,
    pub record: Record,
    pub processes: Processes,
    /// Until then nothing of the interface works.
    pub outage_until: At,
    /// The id given last.
    pub last_instance: u64,
    /// Creations that took effect.
    pub creations: u64,
}

impl World {
    pub fn new(settings: Settings, processes: Processes) -> Self {
        let accounts = settings.keys.iter().enumerate();
        let accounts = accounts
            .map(|(index, key)| Account {
                key: key.clone(),
                user: 4_001 + index as u64,
                paid: settings.credit,
            })
            .collect();
        let last_instance = 20_000_000 + settings.seed % 10_000 * 1_000;
        Self {
            clock: Clock::start(settings.speed),
            faults: settings.faults,
            accounts,
            market: Market::new(settings.seed, settings.price_scale, settings.calm),
            instances: BTreeMap::new(),
            limits: Limits::default(),
            quota: Quota::default(),
            record: Record::default(),
            processes,
            outage_until: At::default(),
            last_instance,
            creations: 0,
            settings,
        }
    }

    /// Seconds of the market since its start.
    pub fn market_s(&self, at: At) -> f64 {
        self.clock.market_s(at.since(At::default()))
    }

    /// Whose key it is; containers' keys die with their instance.
    pub fn caller(&self, key: &str) -> Option<Caller> {
        if let Some(account) = self.accounts.iter().position(|account| account.key == key) {
            return Some(Caller::Account(account));
        }
        let mut own = self.instances.values();
        let instance = own.find(|instance| instance.exists() && instance.key == key)?;
        Some(Caller::Container {
            account: instance.account,
            instance: instance.id,
        })
    }

    /// Dollars that an account owes for all it ever had.
    pub fn owed(&self, account: usize, now: At) -> Charges {
        let mut sum = Charges::default();
        for instance in self.instances.values() {
            if instance.account == account {
                sum.add(&instance.meter.charged(At::default(), now));
            }
        }
        sum
    }

    pub fn credit(&self, account: usize, now: At) -> f64 {
        self.accounts[account].paid - self.owed(account, now).total()
    }

    /// An instance that exists and is the caller's.
    pub fn own(&self, caller: Caller, id: u64) -> Result<&Instance, Refusal> {
        let found = self.instances.get(&id).filter(|instance| {
            instance.exists() && instance.account == caller.account() && caller.may_use(id)
        });
        found.ok_or(Refusal::NoSuchInstance)
    }

    /// Asks a stopped instance to run. One that runs or waits already is left alone.
    pub fn start(&mut self, now: At, id: u64) -> Result<(), Refusal> {
        let market_s = self.market_s(now);
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        if instance.expired {
            return Err(Refusal::Invalid("the rental has ended".into()));
        }
        if instance.phase != Phase::Stopped {
            return Ok(());
        }
        instance.wanted_running = true;
        instance.enter(now, Phase::Scheduling, Some(now));
        self.schedule(now, id, market_s);
        Ok(())
    }

    pub fn stop(&mut self, now: At, id: u64) -> Result<(), Refusal> {
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        instance.wanted_running = false;
        let held = instance.holds_gpus();
        if instance.phase != Phase::Stopped {
            instance.status_msg.clear();
            instance.ports.clear();
            instance.enter(now, Phase::Stopped, None);
        }
        if held {
            self.market.release(self.instances[&id].machine, id);
        }
        self.processes.kill(id);
        Ok(())
    }

    pub fn destroy(&mut self, now: At, id: u64, how: &str) -> Result<(), Refusal> {
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        instance.end(now, how);
        self.market.release(instance.machine, id);
        self.processes.kill(id);
        Ok(())
    }

    /// The container is made anew on the same GPUs.
    pub fn reboot(&mut self, now: At, id: u64) -> Result<(), Refusal> {
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        if matches!(instance.phase, Phase::Running | Phase::Exited) {
            let due = now.plus(self.clock.real(instance.fate.restart_s));
            instance.ports.clear();
            instance.enter(now, Phase::Loading, Some(due));
            self.processes.kill(id);
        }
        Ok(())
    }

    pub fn label(&mut self, id: u64, label: Option<String>) -> Result<(), Refusal> {
        if label.as_ref().is_some_and(|label| label.len() > 1024) {
            return Err(Refusal::LabelTooLong);
        }
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        instance.rental.label = label;
        Ok(())
    }

    pub fn bid(&mut self, now: At, id: u64, price: f64) -> Result<(), Refusal> {
        if !BIDS.contains(&price) {
            return Err(Refusal::InvalidPrice("price out of range".into()));
        }
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        if !instance.is_bid() {
            return Err(Refusal::Invalid("not an interruptible instance".into()));
        }
        instance.bid(now, price);
        Ok(())
    }
}
