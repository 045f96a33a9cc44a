//! What would be done now, for those who ask: the same inputs and the same decision as a tick's, carried out by nobody.

use std::sync::Arc;

use super::experience::Look;
use super::observe::LISTING_TIMEOUT;
use super::{Markets, Scaler};
use crate::domain::{
    EndpointName, FleetSnapshot, GroupOffers, Instance, MarketKind, PlanPreview, ScalingPlan,
    TokensPerSecond, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::ledger::LedgerError;
use crate::market::MarketError;
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
}

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
                    for instance in instances {
                        match self.find_worker(&instance) {
                            Some((_, worker)) => note(&worker, &instance),
                            None if kind == MarketKind::Fixed => {}
                            None => looked.strays.push(instance),
                        }
                    }
                }
            }
        }
        self.account_for(now());
        Ok(looked)
    }

    pub fn markets(&self) -> &Markets {
        &self.markets
    }

    /// The next plan of each endpoint that rents.
    pub async fn preview(&self) -> Vec<PlanPreview> {
        let mut plans = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            if self.is_rented(endpoint) || endpoint.is_removed() {
                plans.push(self.preview_of(endpoint).await);
            }
        }
        plans
    }

    async fn preview_of(&self, endpoint: &Arc<EndpointFleet>) -> PlanPreview {
        let offers = self.offers_of(endpoint).await;
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
            waiting_requests: snapshot.waiting.requests,
            usd_per_hour: self.guard.committed(endpoint),
            refused: self.unaffordable(endpoint, &plan, &choices, &offers, record.at),
            actions: plan.actions,
            choices,
            offers,
        }
    }

    /// What could be rented now; `None`: for every endpoint that rents.
    pub async fn offers(&self, wanted: Option<&EndpointName>) -> Vec<GroupOffers> {
        let mut all = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            let asked = wanted.is_none_or(|name| *name == endpoint.name);
            if asked && self.is_rented(endpoint) {
                all.extend(self.offers_of(endpoint).await);
            }
        }
        all
    }

    async fn offers_of(&self, endpoint: &EndpointFleet) -> Vec<GroupOffers> {
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
            offers.sort_by(|a, b| a.usd_per_hour.0.total_cmp(&b.usd_per_hour.0));
            let look = Look {
                endpoint,
                offers: &offers,
                room: self.room(endpoint),
                draw: None,
                at: now(),
            };
            all.push(GroupOffers {
                endpoint: endpoint.name.clone(),
                group: group.name.clone(),
                choice: self.experience.next(&look, group),
                offers,
                problem,
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
