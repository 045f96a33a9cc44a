//! What would be done now, for those who ask: the same inputs and the same decision as a tick's, carried out by nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::experience::Look;
use super::observe::LISTING_TIMEOUT;
use super::{Markets, Scaler};
use crate::domain::{
    EndpointName, FleetSnapshot, GroupOffers, Instance, MarketKind, Offer, OfferChoice, OfferId,
    PlanPreview, ScalingPlan, TokensPerSecond, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::ledger::LedgerError;
use crate::market::MarketError;
use crate::policy::spending::Credit;
use crate::telemetry::now;

/// Log lines asked for at most.
const LOG_LINES_MAX: u32 = 10_000;

/// What was found where no gateway runs.
#[derive(Debug, Default)]
pub struct Looked {
    /// Machines of ours that the ledger does not know.
    pub strays: Vec<Instance>,
    /// Markets that could not be asked, and why.
    pub silent: Vec<(MarketKind, String)>,
    /// What a market that answered says of each worker there.
    pub seen: BTreeMap<WorkerId, &'static str>,
}

/// How many groups may still be explained: each takes as many searches as it has filters.
struct Explained(usize);

impl Explained {
    const GROUPS_MAX: usize = 2;

    fn new(wanted: bool) -> Self {
        Self(if wanted { Self::GROUPS_MAX } else { 0 })
    }

    fn another(&mut self) -> bool {
        let may = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        may
    }
}

/// Of a worker that its market, which answered, does not list.
pub const NOT_LISTED: &str = "not listed";

impl Scaler {
    /// The workers that the ledger holds, with what the markets say of them; nothing is ordered.
    pub async fn look(&self) -> Result<Looked, LedgerError> {
        self.recover(now()).await?;
        self.guard.look_for_mark();
        let mut looked = Looked::default();
        for (kind, market) in self.markets.all() {
            match bounded(market.instances()).await {
                Err(error) => looked.silent.push((kind, error.to_string())),
                Ok(instances) => {
                    self.agreement.looked(kind, now());
                    let here = self.workers_at(kind);
                    looked.seen.extend(here.map(|worker| (worker, NOT_LISTED)));
                    for instance in instances {
                        match self.find_worker(&instance) {
                            Some((_, worker)) => {
                                note(&worker, &instance);
                                let state = instance.state.as_str();
                                looked.seen.insert(worker.id().clone(), state);
                            }
                            None if kind == MarketKind::Fixed => {}
                            None => looked.strays.push(instance),
                        }
                    }
                }
            }
        }
        self.look_at_credit().await;
        self.account_for(now());
        Ok(looked)
    }

    fn workers_at(&self, kind: MarketKind) -> impl Iterator<Item = WorkerId> {
        let endpoints = self.fleet.endpoints();
        let mut here = Vec::new();
        for endpoint in endpoints.values() {
            if endpoint.settings().market == kind {
                let workers = endpoint.workers();
                here.extend(workers.iter().map(|worker| worker.id().clone()));
            }
        }
        here.into_iter()
    }

    /// What is left, as a gateway would have asked by now.
    async fn look_at_credit(&self) {
        for (kind, market) in self.markets.all() {
            let credit = match bounded(market.account()).await {
                Ok(Some(account)) => Credit::Left(account.credit),
                Ok(None) => Credit::Free,
                Err(_) => continue,
            };
            self.guard.set_credit(kind, credit, now());
        }
    }

    pub fn markets(&self) -> &Markets {
        &self.markets
    }

    /// The next plan of each endpoint that rents. `explain`: also what keeps everything out where nothing is offered.
    pub async fn preview(&self, explain: bool) -> Vec<PlanPreview> {
        let mut plans = Vec::new();
        let mut explained = Explained::new(explain);
        for endpoint in self.fleet.endpoints().values() {
            if self.is_rented(endpoint) || endpoint.is_removed() {
                plans.push(self.preview_of(endpoint, &mut explained).await);
            }
        }
        plans
    }

    async fn preview_of(
        &self,
        endpoint: &Arc<EndpointFleet>,
        explained: &mut Explained,
    ) -> PlanPreview {
        let offers = self.offers_of(endpoint, explained).await;
        for group in &offers {
            let (name, offers) = (&group.group, group.offers.clone());
            self.supply.answered(&endpoint.name, name, offers, now());
        }
        let (groups, found) = self.group_supply(endpoint).await;
        let record = self.decide(endpoint, groups, &found, now());
        let snapshot = &record.inputs.snapshot;
        let (plan, choices) = match self.is_spending_stopped() {
            true => (ScalingPlan::default(), Vec::new()),
            false => (record.plan, record.choices),
        };
        PlanPreview {
            endpoint: endpoint.name.clone(),
            market: endpoint.settings().market,
            at: record.at,
            running: speed_in(snapshot, |phase| phase.is_ready()),
            starting: speed_in(snapshot, |phase| phase.is_starting()),
            stopped: speed_in(snapshot, |phase| phase == WorkerPhase::Stopped),
            predicted_load: plan.predicted_load,
            wanted: plan.wanted,
            prepared_wanted: plan.prepared_wanted,
            forecast: plan.forecast,
            waiting_requests: snapshot.waiting.requests,
            usd_per_hour: self.guard.committed(endpoint),
            refused: self.unaffordable(endpoint, &plan, &choices, &offers, record.at),
            actions: plan.actions,
            choices,
            offers,
        }
    }

    /// What could be rented now; `None`: for every endpoint that rents.
    pub async fn offers(&self, wanted: Option<&EndpointName>, explain: bool) -> Vec<GroupOffers> {
        let mut all = Vec::new();
        let mut explained = Explained::new(explain);
        for endpoint in self.fleet.endpoints().values() {
            let asked = wanted.is_none_or(|name| *name == endpoint.name);
            if asked && self.is_rented(endpoint) {
                all.extend(self.offers_of(endpoint, &mut explained).await);
            }
        }
        all
    }

    async fn offers_of(
        &self,
        endpoint: &EndpointFleet,
        explained: &mut Explained,
    ) -> Vec<GroupOffers> {
        let settings = endpoint.settings();
        let mut all = Vec::with_capacity(settings.groups.len());
        for group in &settings.groups {
            let found = match self.markets.get(settings.market) {
                Some(market) => bounded(market.offers(group)).await,
                None => Err(MarketError::Refused("the market is not built in".into())),
            };
            let (mut offers, problem) = match found {
                Ok(offers) => (offers, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            let market = self.markets.get(settings.market);
            let excluded = match market {
                Some(market) if offers.is_empty() && problem.is_none() && explained.another() => {
                    // That it cannot be explained is no trouble of the answer.
                    bounded(market.exclusion(group)).await.unwrap_or_default()
                }
                _ => None,
            };
            let look = Look {
                endpoint,
                offers: &offers,
                room: self.room(endpoint),
                draw: None,
                at: now(),
            };
            let choice = self.experience.next(&look, group);
            order_as(&choice, &mut offers);
            all.push(GroupOffers {
                endpoint: endpoint.name.clone(),
                group: group.name.clone(),
                choice,
                offers,
                problem,
                excluded,
            });
        }
        all
    }

    /// The last lines that a worker wrote.
    pub async fn logs(&self, worker: &WorkerId, lines: u32) -> Result<String, MarketError> {
        let endpoints = self.fleet.endpoints();
        let found = endpoints
            .values()
            .find_map(|endpoint| Some((endpoint.settings().market, endpoint.worker(worker)?)));
        let (kind, worker) = found.ok_or(MarketError::NotFound)?;
        let instance = worker.instance().ok_or(MarketError::NotFound)?;
        let market = self.markets.get(kind).ok_or(MarketError::NotFound)?;
        bounded(market.logs(&instance, lines.min(LOG_LINES_MAX))).await
    }
}

/// The best first, as they were judged.
fn order_as(choice: &OfferChoice, offers: &mut [Offer]) {
    let places: BTreeMap<&OfferId, usize> = choice
        .alternatives
        .iter()
        .enumerate()
        .map(|(place, judged)| (&judged.offer, place))
        .collect();
    offers.sort_by(|a, b| {
        let place = |offer: &Offer| places.get(&offer.id).copied().unwrap_or(usize::MAX);
        let by_price = a.usd_per_hour.0.total_cmp(&b.usd_per_hour.0);
        place(a).cmp(&place(b)).then(by_price)
    });
}

/// With nobody probing, what a market says is all that is known of a machine.
fn note(worker: &Worker, instance: &Instance) {
    worker.set_instance(instance.id.clone());
    worker.set_price(instance.usd_per_hour);
    let state = instance.state.as_str();
    worker.set_market_message(format!("{state} {}", instance.message).trim_end());
}

async fn bounded<T>(
    question: impl Future<Output = Result<T, MarketError>>,
) -> Result<T, MarketError> {
    tokio::time::timeout(LISTING_TIMEOUT, question)
        .await
        .unwrap_or_else(|_| Err(MarketError::Unavailable("timed out".into())))
}

fn speed_in(snapshot: &FleetSnapshot, within: impl Fn(WorkerPhase) -> bool) -> TokensPerSecond {
    let workers = snapshot.workers.iter();
    workers
        .filter(|worker| within(worker.phase))
        .map(|worker| worker.speed)
        .sum()
}
