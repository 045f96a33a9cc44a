//! The control path: observe the markets, plan, act. It never touches a request.

mod accounts;
mod act;
mod adopt;
mod bids;
mod books;
mod calls;
mod experience;
mod guard;
mod handover;
mod lessons;
mod listing;
mod memory;
mod money;
mod observe;
mod preview;
mod race;
mod supply;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::domain::{
    EndpointName, MarketKind, OfferChoice, Reason, ScalingAction, ScalingPlan, SpendingSettings,
    Timestamp, WorkerId,
};
use crate::fleet::{EndpointFleet, Fleet};
use crate::ledger::Ledger;
use crate::market::Market;
use crate::policy::plan_scaling;
use crate::policy::reconcile::Known;
use crate::policy::scaling::{DecisionRecord, GroupSupply, ScalingInputs};
use crate::telemetry::{DecisionLog, Metrics, now};
use accounts::RentalAccounts;
use books::Books;
use calls::Calls;
use experience::{Experience, Offers, Wanted};
use guard::Guard;
use listing::{Agreement, Listing};
use memory::EndpointMemory;
use money::Errands;
pub use preview::{Looked, NOT_LISTED};
use supply::Supply;

/// Events may ask for ticks at most this often.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

const LEDGER_RETRY: Duration = Duration::from_secs(2);
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// The markets there are, by kind.
#[derive(Clone)]
pub struct Markets {
    pub local: Arc<dyn Market>,
    pub fixed: Arc<dyn Market>,
    /// `None` without a key.
    pub vast: Option<Arc<dyn Market>>,
}

impl Markets {
    /// `None` for a market that cannot be used.
    pub fn get(&self, kind: MarketKind) -> Option<&Arc<dyn Market>> {
        match kind {
            MarketKind::Local => Some(&self.local),
            MarketKind::Fixed => Some(&self.fixed),
            MarketKind::Vast => self.vast.as_ref(),
        }
    }

    pub fn all(&self) -> Vec<(MarketKind, &Arc<dyn Market>)> {
        let always = [
            (MarketKind::Local, &self.local),
            (MarketKind::Fixed, &self.fixed),
        ];
        let vast = self.vast.iter().map(|vast| (MarketKind::Vast, vast));
        always.into_iter().chain(vast).collect()
    }
}

pub struct Scaler {
    fleet: Arc<Fleet>,
    markets: Markets,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    decisions: Arc<DecisionLog>,
    interval: Duration,
    calls: Arc<Calls>,
    accounts: RentalAccounts,
    books: Arc<Books>,
    guard: Arc<Guard>,
    errands: Mutex<Errands>,
    /// Answered, and not looked at yet.
    listings: Arc<Mutex<Vec<Listing>>>,
    agreement: Arc<Agreement>,
    supply: Arc<Supply>,
    /// Open rentals that no worker stands for, and where.
    orphans: Mutex<BTreeMap<WorkerId, (MarketKind, Known)>>,
    memory: Mutex<BTreeMap<EndpointName, EndpointMemory>>,
    memories_kept_at: Mutex<Timestamp>,
    experience: Experience,
    measured_at: Mutex<Timestamp>,
    recovered: watch::Sender<bool>,
}

impl Scaler {
    pub fn new(
        fleet: Arc<Fleet>,
        markets: Markets,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        decisions: Arc<DecisionLog>,
        spending: Arc<ArcSwap<SpendingSettings>>,
        interval: Duration,
    ) -> Self {
        let books = Arc::new(Books::new(Arc::clone(&ledger), Arc::clone(&metrics)));
        let guard = Arc::new(Guard::new(
            Arc::clone(&fleet),
            Arc::clone(&books),
            spending,
            ledger.stop_mark(),
        ));
        Self {
            books,
            guard,
            errands: Mutex::default(),
            listings: Arc::default(),
            agreement: Arc::default(),
            supply: Arc::default(),
            orphans: Mutex::default(),
            fleet,
            markets,
            ledger,
            metrics,
            decisions,
            interval,
            calls: Arc::default(),
            accounts: RentalAccounts::default(),
            memory: Mutex::default(),
            memories_kept_at: Mutex::default(),
            experience: Experience::default(),
            measured_at: Mutex::default(),
            recovered: watch::Sender::new(false),
        }
    }

    /// Ticks until dropped: at each interval, and at once when the fleet or a market has news.
    pub async fn run(&self) {
        while let Err(error) = self.recover(now()).await {
            tracing::error!(%error, "the ledger cannot be read: nothing is rented or ended until it can");
            tokio::time::sleep(LEDGER_RETRY).await;
        }
        self.forget_listings();
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A listing is dear (a look at every process, a call to a provider): news from within
            // the gateway is planned for without one.
            let list_markets = tokio::select! {
                _ = interval.tick() => true,
                () = self.markets.local.changed() => true,
                () = self.markets.fixed.changed() => true,
                () = self.fleet.woken() => false,
            };
            let timer = self
                .metrics
                .scaler_tick_seconds
                .with_label_values::<&str>(&[])
                .start_timer();
            self.tick(list_markets).await;
            timer.observe_duration();
            if self.has_looked() {
                self.recovered.send_replace(true);
            }
            tokio::time::sleep(LEAST_PAUSE).await;
        }
    }

    async fn tick(&self, list_markets: bool) {
        if list_markets {
            self.list_markets(now()).await;
        }
        self.take_listings();
        self.mind_money(now());
        let measure = self.time_to_measure(now());
        for endpoint in self.fleet.endpoints().values() {
            if measure {
                self.review(endpoint);
            }
            self.advance_workers(endpoint);
            self.settle_races(endpoint);
            if endpoint.settings().market != MarketKind::Fixed || endpoint.is_removed() {
                self.plan_endpoint(endpoint).await;
            }
            endpoint.dispatch();
        }
        self.account_for(now());
        self.fleet.forget_removed();
    }

    fn review(&self, endpoint: &Arc<EndpointFleet>) {
        let found = endpoint.review(now());
        if !found.other_work.is_empty() {
            tracing::info!(
                endpoint = %endpoint.name, workers = found.other_work.len(),
                "the workers of a group slowed together: their speeds are learned anew"
            );
        }
        for (worker, why) in found.given_up {
            self.give_up(endpoint, &worker, why);
        }
        for (worker, fault) in found.ejected {
            let fault = fault.as_str();
            tracing::warn!(endpoint = %endpoint.name, %worker, fault, "worker ejected for a while");
            self.metrics
                .ejections
                .with_label_values(&[endpoint.name.as_str(), fault])
                .inc();
        }
    }

    /// Token gaps are folded into speeds once a second, given workers' too.
    fn time_to_measure(&self, at: Timestamp) -> bool {
        let mut measured_at = self.measured_at.lock();
        let due = at.since(*measured_at) >= MEASURE_INTERVAL;
        if due {
            *measured_at = at;
        }
        due
    }

    async fn plan_endpoint(&self, endpoint: &Arc<EndpointFleet>) {
        if self.is_spending_stopped() {
            endpoint.set_last_plan(ScalingPlan::default());
            return;
        }
        let (groups, offers) = self.group_supply(endpoint).await;
        let at = now();
        let record = self.decide(endpoint, groups, &offers, at);
        self.memory
            .lock()
            .entry(endpoint.name.clone())
            .or_default()
            .scaling = record.memory_after.clone();
        if !record.plan.actions.is_empty() {
            self.decisions.record(&record);
        }
        endpoint.set_last_plan(record.plan.clone());
        self.note_unaffordable(endpoint, &record, &offers, at);
        let mut choices = record.choices.iter();
        for planned in record.plan.actions {
            match &planned.action {
                ScalingAction::Rent { group } => {
                    if let Some(choice) = choices.next().filter(|choice| choice.group == *group) {
                        self.carry_out_rent(endpoint, &planned, choice, &offers, at);
                    }
                }
                _ => self.carry_out(endpoint, &planned, at),
            }
        }
    }

    /// What should be done now, with all it is made from; nothing is remembered of it yet.
    fn decide(
        &self,
        endpoint: &EndpointFleet,
        groups: Vec<GroupSupply>,
        offers: &Offers,
        at: Timestamp,
    ) -> DecisionRecord {
        let settings = endpoint.settings().scaling.clone();
        let mut memories = self.memory.lock();
        let memory = memories.entry(endpoint.name.clone()).or_default();
        let mut inputs = memory.inputs(endpoint, groups, at);
        self.hide_forced(&mut inputs);
        let (plan, memory_after) = plan_scaling(&inputs, &memory.scaling, &settings, at);
        DecisionRecord {
            at,
            choices: self.choose_offers(endpoint, &inputs, &plan, offers, at),
            inputs,
            memory: memory.scaling.clone(),
            settings,
            plan,
            memory_after,
        }
    }

    /// One offer for each rental that is planned, in their order.
    fn choose_offers(
        &self,
        endpoint: &EndpointFleet,
        inputs: &ScalingInputs,
        plan: &ScalingPlan,
        offers: &Offers,
        at: Timestamp,
    ) -> Vec<OfferChoice> {
        let settings = endpoint.settings();
        let rents = plan
            .actions
            .iter()
            .filter_map(|planned| match &planned.action {
                ScalingAction::Rent { group } => Some((settings.group(group)?, &planned.reason)),
                _ => None,
            });
        let wanted = rents.map(|(group, reason)| {
            let replaces = matches!(reason, Reason::Replaces { .. });
            let supply = inputs
                .groups
                .iter()
                .find(|supply| supply.group == group.name);
            Wanted {
                group,
                as_good_as: supply.filter(|_| replaces),
            }
        });
        let draw = experience::draw(&inputs.snapshot, plan, at);
        let room = self.room(endpoint);
        self.experience
            .choose_all(endpoint, wanted, offers, room, draw, at)
    }
}
