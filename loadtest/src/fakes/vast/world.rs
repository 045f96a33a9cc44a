//! All of it together: the market, the instances and the containers, moved on by time and by calls.

use std::collections::BTreeMap;

use super::accounts::{Account, Caller};
use super::bill::{Charges, Meter};
use super::clock::{At, Clock};
use super::faults::{Boot, Fate, Faults};
use super::instance::{Instance, Phase, Rental};
use super::launch;
use super::limits::Limits;
use super::market::{Holder, Market};
use super::processes::{Ended, Processes};
use super::record::Record;
use super::{Settings, chance};

/// A second buyer is accepted so many seconds of the market after the first.
const BOTH_ACCEPTED_S: f64 = 6.0;

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
    pub record: Record,
    pub processes: Processes,
    /// Until then nothing of the interface works.
    pub outage_until: At,
    next_instance: u64,
    /// Creations that took effect.
    creations: u64,
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
        let next_instance = 20_000_000 + settings.seed % 10_000 * 1_000;
        Self {
            clock: Clock::start(settings.speed),
            faults: settings.faults,
            accounts,
            market: Market::new(settings.seed, settings.price_scale, settings.calm),
            instances: BTreeMap::new(),
            limits: Limits::default(),
            record: Record::default(),
            processes,
            outage_until: At::default(),
            next_instance,
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

    pub fn create(
        &mut self,
        now: At,
        account: usize,
        ask: u64,
        rental: Rental,
    ) -> Result<u64, Refusal> {
        let market_s = self.market_s(now);
        let machine = self.market.by_ask(ask).ok_or(Refusal::NoSuchAsk)?;
        let found = self.market.machines[machine].clone();
        let second = match found.holder {
            Holder::Nobody => false,
            Holder::Ours(_) if market_s - found.taken_at_s < BOTH_ACCEPTED_S => true,
            // Without `cancel_unavail` it is made and waits for GPUs.
            Holder::Others(_) if !rental.cancel_unavail => true,
            _ => return Err(Refusal::NoSuchAsk),
        };
        if rental.disk_gb > found.disk_gb {
            return Err(Refusal::Invalid("not enough disk".into()));
        }
        if rental
            .price
            .is_some_and(|price| !(0.001..=128.0).contains(&price))
        {
            return Err(Refusal::InvalidPrice("price out of range".into()));
        }
        if rental.price.is_some_and(|price| price < found.min_bid) {
            return Err(Refusal::InvalidPrice(
                "bid below the lowest that wins".into(),
            ));
        }
        if self.credit(account, now) <= 0.0 {
            return Err(Refusal::NoCredit);
        }
        self.creations += 1;
        self.next_instance += 1;
        let (id, call, seed) = (self.next_instance, self.creations, self.settings.seed);
        let mut fate = Fate::draw(seed, call, &self.faults, found.down_mbit_s);
        if second {
            fate.boot = if call % 2 == 0 {
                Boot::Waits
            } else {
                Boot::Vanishes
            };
        }
        let instance = self.instance(now, id, call, account, machine, rental, fate);
        if second || matches!(instance.fate.boot, Boot::Waits | Boot::Vanishes) {
            // The other buyer has the GPUs; where he is not one of ours, nobody sees him.
            if !second {
                self.market.take_away(machine, market_s, 7_200.0);
            }
        } else {
            self.market.claim(machine, id, market_s);
        }
        self.instances.insert(id, instance);
        Ok(id)
    }

    #[allow(clippy::too_many_arguments)]
    fn instance(
        &self,
        now: At,
        id: u64,
        call: u64,
        account: usize,
        machine: usize,
        rental: Rental,
        fate: Fate,
    ) -> Instance {
        let hardware = self.market.machines[machine].clone();
        let mut rng = chance::stream(self.settings.seed, "key", id);
        let key: String = (0..40).map(|_| rng.alphanumeric()).collect();
        let ends = self.clock.real(hardware.until_s - self.market_s(now));
        let mut instance = Instance {
            id,
            call,
            account,
            key,
            machine,
            ask: hardware.ask,
            gpu_usd_per_hour: rental.price.unwrap_or(hardware.price),
            storage_usd_per_hour: hardware.storage_usd_per_hour(rental.disk_gb),
            rental,
            hardware,
            fate,
            phase: Phase::Creating,
            phase_since: now,
            due: None,
            wanted_running: true,
            status_msg: String::new(),
            created: now,
            ends: now.plus(ends),
            ended: None,
            expired: false,
            meter: Meter::start(now, Default::default()),
            bill_scale: self.settings.bill_scale,
            ports: BTreeMap::new(),
            starts: 0,
            running_since: None,
            first_running: None,
        };
        let queue = self.clock.real(instance.fate.queue_s);
        instance.enter(now, Phase::Creating, Some(now.plus(queue)));
        instance
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
        if !(0.001..=128.0).contains(&price) {
            return Err(Refusal::InvalidPrice("price out of range".into()));
        }
        let instance = self.instances.get_mut(&id).ok_or(Refusal::NoSuchInstance)?;
        if !instance.is_bid() {
            return Err(Refusal::Invalid("not an interruptible instance".into()));
        }
        instance.bid(now, price);
        Ok(())
    }

    /// Everything that is due by now.
    pub fn advance(&mut self, now: At) {
        let market_s = self.market_s(now);
        self.market.advance(market_s);
        let ids: Vec<u64> = self.instances.keys().copied().collect();
        for id in ids {
            if self.instances[&id].exists() {
                self.advance_instance(now, id, market_s);
            }
        }
        for account in 0..self.accounts.len() {
            if self.credit(account, now) <= 0.0 {
                self.stop_all_of(now, account);
            }
        }
    }

    fn stop_all_of(&mut self, now: At, account: usize) {
        let running = self.instances.values().filter(|instance| {
            instance.account == account && instance.exists() && instance.phase != Phase::Stopped
        });
        let ids: Vec<u64> = running.map(|instance| instance.id).collect();
        for id in ids {
            // It exists: nothing else can be wrong.
            let _ = self.stop(now, id);
        }
    }

    fn advance_instance(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if now >= instance.ends && !instance.expired {
            instance.expired = true;
            let _ = self.stop(now, id);
            return;
        }
        if instance.is_bid() && instance.holds_gpus() {
            let bid = instance.rental.price.unwrap_or_default();
            if bid < self.market.machines[instance.machine].min_bid {
                self.outbid(now, id, market_s);
                return;
            }
        }
        if instance.due.is_none_or(|due| due > now) {
            return;
        }
        instance.due = None;
        match instance.phase {
            Phase::Creating => self.make_container(now, id),
            Phase::Loading => self.run(now, id),
            Phase::Running => self.strike(now, id, market_s),
            Phase::Scheduling => self.schedule(now, id, market_s),
            Phase::Offline => self.come_back(now, id),
            Phase::Exited | Phase::Stopped | Phase::Gone => {}
        }
    }

    /// From the queue to the pull of its image, as far as its fate lets it.
    fn make_container(&mut self, now: At, id: u64) {
        let clock = self.clock;
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let pull = now.plus(clock.real(instance.fate.pull_s));
        match instance.fate.boot.clone() {
            Boot::NeverBoots => {}
            Boot::Vanishes => {
                instance.end(now, "lost its offer to another buyer");
                self.processes.kill(id);
            }
            Boot::Waits => instance.enter(now, Phase::Scheduling, None),
            Boot::StuckLoading => {
                instance.status_msg = "Pulling image: 61%".into();
                instance.enter(now, Phase::Loading, None);
            }
            Boot::Error(message) => {
                instance.status_msg = message.into();
                instance.enter(now, Phase::Loading, None);
            }
            Boot::Fine => {
                instance.status_msg = format!("Pulling {}", instance.rental.image);
                let traffic = self.settings.pull_gb * instance.hardware.down_usd_per_gb;
                let traffic = traffic * instance.bill_scale;
                instance.meter.charge_traffic(now, traffic);
                instance.enter(now, Phase::Loading, Some(pull));
            }
        }
    }

    /// Starts its container.
    fn run(&mut self, now: At, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let started = launch::of(instance, &self.settings, &self.clock)
            .and_then(|launch| Ok(self.processes.start(launch)?));
        if let Err(error) = started {
            instance.status_msg = format!("Error response from daemon: {error:#}");
            return;
        }
        instance.starts += 1;
        instance.status_msg = format!("success, running {}", instance.rental.image);
        let fate = &instance.fate;
        let first = [
            fate.offline_after_s,
            fate.outbid_after_s.filter(|_| instance.is_bid()),
        ];
        let first = first.into_iter().flatten().reduce(f64::min);
        let due = first.map(|after_s| now.plus(self.clock.real(after_s)));
        instance.enter(now, Phase::Running, due);
    }

    /// What its fate holds for it while it runs.
    fn strike(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let fate = &mut instance.fate;
        let offline = fate.offline_after_s.unwrap_or(f64::INFINITY);
        if fate.outbid_after_s.is_some_and(|outbid| outbid <= offline) {
            fate.outbid_after_s = None;
            self.outbid(now, id, market_s);
        } else {
            self.go_offline(now, id);
        }
    }

    /// Its host is lost, with all that runs on it.
    pub fn go_offline(&mut self, now: At, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        instance.fate.offline_after_s = None;
        let back = instance.fate.back_after_s;
        let back = back.map(|after_s| now.plus(self.clock.real(after_s)));
        instance.enter(now, Phase::Offline, back);
        self.processes.kill(id);
    }

    fn come_back(&mut self, now: At, id: u64) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.enter(now, Phase::Loading, Some(now));
        }
    }

    /// Somebody bids more: its GPUs go, it waits for them.
    pub fn outbid(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        self.market.take_away(instance.machine, market_s, 1_800.0);
        instance.ports.clear();
        instance.status_msg = "outbid: waiting for its GPUs".into();
        let due = now.plus(self.clock.real(5.0));
        instance.enter(now, Phase::Scheduling, Some(due));
        self.processes.kill(id);
    }

    /// Gives it its GPUs, if nobody has them and its fate lets it; else it is looked at again soon.
    fn schedule(&mut self, now: At, id: u64, market_s: f64) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let machine = &self.market.machines[instance.machine];
        let free = machine.holder == Holder::Nobody;
        let pays = instance
            .rental
            .price
            .is_none_or(|bid| bid >= machine.min_bid);
        if free && pays && instance.fate.restarts {
            self.market.claim(instance.machine, id, market_s);
            let after_s = instance.fate.restart_s;
            let due = now.plus(self.clock.real(after_s));
            instance.status_msg.clear();
            instance.enter(now, Phase::Loading, Some(due));
        } else {
            instance.due = Some(now.plus(self.clock.real(5.0)));
        }
    }

    /// A container ended without anybody's order.
    pub fn container_ended(&mut self, now: At, ended: Ended) {
        if self.processes.is_current(ended) {
            self.exit(now, ended.instance);
        }
    }

    pub fn exit(&mut self, now: At, id: u64) {
        self.processes.kill(id);
        if let Some(instance) = self.instances.get_mut(&id)
            && instance.phase == Phase::Running
        {
            instance.ports.clear();
            instance.enter(now, Phase::Exited, None);
        }
    }
}
