//! A market that does what a test tells it: loses answers, hides machines, is down. It keeps what really exists.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::{
    AccountId, EndpointName, Hardware, HostId, InstallationId, Instance, InstanceId, InstanceState,
    MachineId, MachineKey, Offer, OfferId, RentalLabel, Usd, UsdPerHour, WorkerGroup, WorkerId,
};
use crate::market::{Inventory, Market, MarketError, Order};

pub const PRICE: f64 = 1.0;
/// How often it may be listed.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// What listings show of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Show {
    Everything,
    Nothing,
    /// Every second machine.
    Half,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Faults {
    pub show: Show,
    pub down: bool,
    /// So many creates take effect and their answer is lost.
    pub lost_answers: u32,
    /// So many creates have no answer and no effect.
    pub lost_calls: u32,
    /// So many creates are answered with a machine that never comes to be.
    pub silent_deaths: u32,
    /// Nothing is ended.
    pub keeps: bool,
    /// Orders are not sent yet.
    pub orders_wait: bool,
    /// The key is refused: the account is silent.
    pub silent: bool,
    /// Of a hundred calls each, by chance.
    pub chance_pct: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            show: Show::Everything,
            down: false,
            lost_answers: 0,
            lost_calls: 0,
            silent_deaths: 0,
            keeps: false,
            orders_wait: false,
            silent: false,
            chance_pct: 0,
        }
    }
}

#[derive(Default)]
pub struct World {
    /// Whose key is configured, where that matters.
    pub account: Option<&'static str>,
    pub machines: BTreeMap<u64, Instance>,
    /// Every create that was asked for, with when.
    pub creates: Vec<(RentalLabel, Instant)>,
    pub destroyed: Vec<InstanceId>,
    pub starts: u32,
    pub refused_ends: u32,
    /// What was bid for machines that ran already.
    pub bids: Vec<f64>,
    /// Most dollars an hour that ever existed at once.
    pub peak: f64,
    /// On offer; empty: machines that nobody tells apart, as many as are wanted.
    pub offers: Vec<Offer>,
    /// What is charged for what was rented, as a share of what its offer said.
    pub price_factor: Option<f64>,
    pub faults: Faults,
    /// What is done to the machines that are rented next, one each.
    pub births: VecDeque<Birth>,
    /// Which offers were ordered.
    pub ordered: Vec<OfferId>,
    listings: u64,
    next: u64,
    seed: u64,
}

pub type Birth = Box<dyn FnOnce(&mut Instance) + Send>;

pub struct Scripted(Mutex<World>);

impl Scripted {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(World {
            seed,
            ..World::default()
        }))
    }

    fn account_id(&self) -> Option<AccountId> {
        self.with(|world| world.account.map(AccountId::new))
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock())
    }

    pub fn count(&self) -> usize {
        self.0.lock().machines.len()
    }

    pub fn creates(&self) -> usize {
        self.0.lock().creates.len()
    }

    /// Changes the only machine there is, or the first.
    pub fn change(&self, change: impl FnOnce(&mut Instance)) {
        self.with(|world| change(world.machines.values_mut().next().expect("a machine")));
    }

    /// A machine that nobody rented through this market.
    pub fn put(&self, installation: &str, worker: &str) -> InstanceId {
        let label = RentalLabel {
            installation: InstallationId::new(installation),
            endpoint: EndpointName::new("chat"),
            worker: WorkerId::new(worker),
        };
        self.0.lock().make(&label, None)
    }

    /// Whether it answers.
    pub fn runs(&self, id: &InstanceId) -> bool {
        let world = self.0.lock();
        let mut running = world
            .machines
            .values()
            .filter(|machine| machine.state == InstanceState::Running);
        running.any(|machine| machine.id == *id)
    }

    pub fn has(&self, id: &InstanceId) -> bool {
        let world = self.0.lock();
        world.machines.values().any(|machine| machine.id == *id)
    }
}

/// A machine of its own, as good as all others.
pub fn machine(id: &str, usd_per_hour: f64) -> Offer {
    Offer {
        hardware: Some(Hardware {
            machine: MachineKey {
                host: HostId::new(format!("host-{id}")),
                machine: MachineId::new(id),
            },
            gpu_name: "RTX 4090".into(),
            gpu_count: 1,
            gpu_ram_mb_each: 24_564.0,
            dlperf: 100.0,
            reliability: 0.99,
            location: format!("somewhere near {id}"),
            verified: true,
            down_mbit_per_s: 1_000.0,
            down_usd_per_gb: Usd::ZERO,
            up_usd_per_gb: Usd::ZERO,
            storage_usd_per_hour: UsdPerHour::ZERO,
            available_for: Duration::from_secs(30 * 86_400),
        }),
        ..Offer::plain(OfferId::new(id), UsdPerHour(usd_per_hour))
    }
}

/// The same machine for whoever bids most; `least` wins now.
pub fn to_bid_for(offer: &Offer, least: f64) -> Offer {
    Offer {
        id: OfferId::new(format!("{}-bid", offer.id)),
        usd_per_hour: UsdPerHour(least),
        interruptible: true,
        hardware: offer.hardware.clone(),
    }
}

impl World {
    fn make(&mut self, label: &RentalLabel, order: Option<&Order<'_>>) -> InstanceId {
        self.next += 1;
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let id = InstanceId::new(self.next.to_string());
        let offer = order.map(|order| order.offer);
        let bid = order.and_then(|order| order.bid);
        let price = bid.or(offer.map(|offer| offer.usd_per_hour));
        let price = price.map_or(PRICE, |price| price.0) * self.price_factor.unwrap_or(1.0);
        let mut machine = Instance::plain(
            id.clone(),
            label.clone(),
            InstanceState::Running,
            Some(address),
            UsdPerHour(price),
        );
        let hardware = offer.and_then(|offer| offer.hardware.as_ref());
        machine.machine = hardware.map(|hardware| hardware.machine.clone());
        machine.gpu_name = hardware.map(|hardware| hardware.gpu_name.clone());
        machine.interruptible = bid.is_some();
        if let Some(birth) = order.and_then(|_| self.births.pop_front()) {
            birth(&mut machine);
        }
        self.machines.insert(self.next, machine);
        let price: f64 = self.machines.values().map(|one| one.usd_per_hour.0).sum();
        self.peak = self.peak.max(price);
        id
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self) -> bool {
        self.draw() % 100 < self.faults.chance_pct
    }

    fn is_down(&mut self) -> Result<(), MarketError> {
        if self.faults.down || self.happens() {
            return Err(MarketError::Unavailable("on purpose".into()));
        }
        Ok(())
    }

    fn rent(&mut self, order: &Order<'_>) -> Result<InstanceId, MarketError> {
        let label = order.label;
        self.creates.push((label.clone(), Instant::now()));
        self.ordered.push(order.offer.id.clone());
        if take(&mut self.faults.lost_calls) || self.happens() {
            return Err(MarketError::Unavailable("no answer".into()));
        }
        if take(&mut self.faults.silent_deaths) || self.happens() {
            self.next += 1;
            return Ok(InstanceId::new(self.next.to_string()));
        }
        let id = self.make(label, Some(order));
        if take(&mut self.faults.lost_answers) || self.happens() {
            return Err(MarketError::Unavailable("answer lost".into()));
        }
        Ok(id)
    }

    fn list(&mut self) -> Result<Vec<Instance>, MarketError> {
        self.is_down()?;
        self.listings += 1;
        // By chance cut off now and then, and never for long.
        let cut = self.happens() && !self.listings.is_multiple_of(3);
        let show = if cut { Show::Half } else { self.faults.show };
        let all = self.machines.values();
        Ok(match show {
            Show::Everything => all.cloned().collect(),
            Show::Nothing => Vec::new(),
            Show::Half => all.step_by(2).cloned().collect(),
        })
    }

    fn set(&mut self, id: &InstanceId, state: InstanceState) -> Result<(), MarketError> {
        self.is_down()?;
        let mut machines = self.machines.values_mut();
        let machine = machines.find(|machine| machine.id == *id);
        machine.ok_or(MarketError::NotFound)?.state = state;
        Ok(())
    }
}

fn take(left: &mut u32) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

#[async_trait]
impl Market for Scripted {
    async fn offers(&self, _group: &WorkerGroup) -> Result<Vec<Offer>, MarketError> {
        self.with(World::is_down)?;
        let offers = self.with(|world| world.offers.clone());
        if offers.is_empty() {
            let any = Offer::plain(OfferId::new("any"), UsdPerHour(PRICE));
            return Ok(vec![any]);
        }
        Ok(offers)
    }

    async fn rent(&self, order: &Order<'_>) -> Result<InstanceId, MarketError> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        while self.with(|world| world.faults.orders_wait) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (order.last_word)()?;
        self.with(|world| world.rent(order))
    }

    async fn instances(&self) -> Result<Vec<Instance>, MarketError> {
        self.with(World::list)
    }

    async fn inventory(&self) -> Result<Inventory, MarketError> {
        let mut inventory = Inventory::of(self.instances().await?);
        let Some(account) = self.account_id() else {
            return Ok(inventory);
        };
        if self.with(|world| world.faults.silent) {
            let mut silent = Inventory::default();
            silent.silent.insert(account, "refused".into());
            return Ok(silent);
        }
        let held = inventory.instances.iter();
        let held = held.map(|one| (one.id.clone(), account.clone()));
        inventory.held_by = held.collect();
        inventory.answered.insert(account);
        Ok(inventory)
    }

    fn account_for(&self, _group: &WorkerGroup) -> Option<AccountId> {
        self.account_id()
    }

    async fn start(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.with(|world| {
            world.starts += 1;
            world.set(id, InstanceState::Running)
        })
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.with(|world| world.set(id, InstanceState::Stopped))
    }

    async fn destroy(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.with(|world| {
            world.is_down()?;
            if world.faults.keeps {
                world.refused_ends += 1;
                return Err(MarketError::Unavailable("not now".into()));
            }
            world.machines.retain(|_, machine| machine.id != *id);
            world.destroyed.push(id.clone());
            Ok(())
        })
    }

    async fn set_bid(&self, id: &InstanceId, bid: UsdPerHour) -> Result<(), MarketError> {
        self.with(|world| {
            world.is_down()?;
            world.bids.push(bid.0);
            let mut machines = world.machines.values_mut();
            let machine = machines.find(|machine| machine.id == *id);
            let machine = machine.ok_or(MarketError::NotFound)?;
            machine.usd_per_hour = bid;
            // Whoever bids enough has its GPUs again.
            let wins = machine.least_bid.is_none_or(|least| bid >= least);
            if wins && machine.state == InstanceState::Scheduling {
                machine.state = InstanceState::Running;
            }
            Ok(())
        })
    }

    fn listing_interval(&self) -> Option<Duration> {
        Some(INTERVAL)
    }

    async fn changed(&self) {
        std::future::pending().await
    }
}
