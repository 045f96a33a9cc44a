//! Money in every tick: what workers are used for, the operator's mark, limits that are enforced, what markets say of
//! their account and their bill, and what is shown of all that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Scaler;
use super::experience::Offers;
use super::guard::Wish;
use crate::domain::{
    AgreementView, EndpointMoney, EndpointName, GroupOffers, MarketKind, MoneyView, OfferChoice,
    PlannedAction, Release, ScalingAction, ScalingPlan, SpendUse, Timestamp, Tokens, Usd,
    UsdPerHour, WorkerEvent, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::market::{Market, MarketError};
use crate::policy::scaling::{DecisionRecord, ScalingInputs, is_wanting};
use crate::policy::spending::{Credit, Spent};
use crate::telemetry::now;

/// No question about money holds anything up; one that takes longer is asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Dollars per million tokens are those of so long.
const WINDOW: Duration = Duration::from_secs(3_600);
const WINDOW_STEP: Duration = Duration::from_secs(10);
/// After a rental's end bills are asked for so many times as often as usual, for one interval.
const LAST_BILL_HASTE: u32 = 15;
/// A bill that says nothing new for so many intervals after a rental's end is its last.
const SETTLED_AFTER: u32 = 2;
const GIVEN_UP_AFTER: u32 = 100;

/// When what was last asked or written.
#[derive(Default)]
pub(super) struct Errands {
    credit: BTreeMap<MarketKind, Timestamp>,
    charges: BTreeMap<MarketKind, Timestamp>,
    costs: BTreeMap<EndpointName, CostWindow>,
    priced_at: Timestamp,
}

/// Running totals of dollars and tokens, the oldest first.
#[derive(Default)]
struct CostWindow(std::collections::VecDeque<(Timestamp, Usd, Tokens)>);

impl Scaler {
    /// Before the plans: nothing that has to go is planned with.
    pub(super) fn mind_money(&self, at: Timestamp) {
        for endpoint in self.fleet.endpoints().values() {
            for worker in endpoint.workers().iter() {
                self.books.sample(worker.id(), use_of(worker), at);
            }
        }
        if self.guard.look_for_mark() {
            if self.guard.is_stopped() {
                tracing::warn!(
                    "spending is stopped: nothing is rented, and everything rented goes"
                );
            } else {
                tracing::warn!("spending goes on: the mark is gone");
            }
        }
        self.enforce(at);
        self.books.write_if_due(at);
    }

    fn enforce(&self, at: Timestamp) {
        let told = self.guard.enforce(at);
        for endpoint in self.fleet.endpoints().values() {
            if !self.is_rented(endpoint) {
                continue;
            }
            for worker in endpoint.workers().iter() {
                let now_told = told.iter().find(|one| one.worker == *worker.id());
                if let Some(told) = now_told {
                    tracing::warn!(
                        endpoint = %endpoint.name, worker = %worker.id(), reason = %told.because,
                        at_once = told.at_once, "released for money's sake"
                    );
                    worker.set_last_reason(format!("spending: {}", told.because));
                    let order = WorkerEvent::DrainOrdered(Release::Destroy);
                    self.advance(endpoint, worker, order);
                }
                let at_once = now_told.is_some_and(|told| told.at_once);
                if self.is_drained_enough(endpoint, worker, at_once, at) {
                    self.advance(endpoint, worker, WorkerEvent::Emptied);
                }
            }
        }
    }

    /// A machine that goes for money's sake drains no longer than `drain`: its streams were to be moved by then.
    fn is_drained_enough(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        at_once: bool,
        at: Timestamp,
    ) -> bool {
        let WorkerPhase::Draining {
            then: Release::Destroy,
            since,
        } = worker.phase().0
        else {
            return false;
        };
        let forced = self.guard.forced(worker.id()).is_some();
        at_once || (forced && at.since(since) >= endpoint.settings().times.drain)
    }

    /// A plan must not call back what the guard has told to go.
    pub(super) fn hide_forced(&self, inputs: &mut ScalingInputs) {
        for view in &mut inputs.snapshot.workers {
            if self.guard.forced(&view.id).is_some() {
                view.phase = WorkerPhase::Destroying;
            }
        }
    }

    /// After the plans: what limits say, questions to markets, and the view of it all.
    pub(super) fn account_for(&self, at: Timestamp) {
        let changes = self.guard.look(at);
        for view in &changes.reached {
            tracing::warn!(
                scope = view.scope.as_str(),
                limit = view.rule.as_str(),
                used = view.used,
                of = view.limit,
                because = view.because.as_deref(),
                "spending limit reached: nothing more is rented"
            );
        }
        for (scope, rule) in &changes.over {
            let (scope, limit) = (scope.as_str(), rule.as_str());
            tracing::info!(scope, limit, "below the spending limit again");
        }
        self.ask_markets(at);
        self.keep_memories_if_due(at);
        let view = self.money_view(changes.views, at);
        self.fleet.set_money(view);
    }

    fn money_view(&self, limits: Vec<crate::domain::LimitView>, at: Timestamp) -> MoneyView {
        let spent = self.books.spent(at);
        let mut errands = self.errands.lock();
        let price_now = at.since(errands.priced_at) >= WINDOW_STEP;
        if price_now {
            errands.priced_at = at;
        }
        let mut total = EndpointMoney::default();
        let mut endpoints = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            if !self.is_rented(endpoint) {
                continue;
            }
            let spent = spent.get(&endpoint.name).copied().unwrap_or_default();
            let window = errands.costs.entry(endpoint.name.clone()).or_default();
            if price_now {
                let arrived = endpoint.snapshot(at).demand.arrived_total;
                window.push(at, spent.this_month, arrived);
            }
            let money = EndpointMoney {
                committed: self.guard.committed(endpoint),
                today: spent.today,
                this_month: spent.this_month,
                usd_per_million_tokens: window.usd_per_million(),
            };
            total.committed += money.committed;
            endpoints.push((endpoint.name.clone(), money));
        }
        let all = spent.values().fold(Spent::default(), |sum, one| Spent {
            today: sum.today + one.today,
            this_month: sum.this_month + one.this_month,
        });
        (total.today, total.this_month) = (all.today, all.this_month);
        MoneyView {
            stopped: self.guard.is_stopped(),
            total,
            endpoints,
            limits,
            markets: self.market_views(at),
            releasing: self.guard.all_forced(),
            orphans: self.orphans.lock().keys().cloned().collect(),
        }
    }

    fn market_views(&self, at: Timestamp) -> Vec<AgreementView> {
        let markets = self.markets.all();
        let rented = markets
            .iter()
            .filter(|(kind, _)| *kind != MarketKind::Fixed);
        rented
            .map(|(kind, _)| (*kind, self.agreement.of_market(*kind)))
            .map(|(kind, (renting_paused, listed_at))| AgreementView {
                market: kind,
                renting_paused,
                listed_at,
                credit: match self.guard.credit(kind, at) {
                    Credit::Left(left) => Some(left),
                    Credit::Free | Credit::Unknown => None,
                },
            })
            .collect()
    }

    fn ask_markets(&self, at: Timestamp) {
        let settings = self.guard.settings();
        for (kind, market) in self.markets.all() {
            if kind == MarketKind::Fixed {
                continue;
            }
            let mut errands = self.errands.lock();
            let is_due = |last: Option<&Timestamp>, interval: Duration| {
                last.is_none_or(|last| at.since(*last) >= interval)
            };
            if is_due(errands.credit.get(&kind), settings.credit_interval) {
                errands.credit.insert(kind, at);
                self.ask_credit(kind, Arc::clone(market));
            }
            let hurry = self.ledger.awaits_last_bill(
                kind,
                Timestamp::from_millis(
                    at.as_millis()
                        .saturating_sub(settings.charges_interval.as_millis() as u64),
                ),
            );
            let interval = match hurry {
                Ok(true) => settings.charges_interval / LAST_BILL_HASTE,
                _ => settings.charges_interval,
            };
            if is_due(errands.charges.get(&kind), interval) {
                errands.charges.insert(kind, at);
                self.ask_charges(kind, Arc::clone(market), settings.charges_interval, at);
            }
        }
    }

    fn ask_credit(&self, kind: MarketKind, market: Arc<dyn Market>) {
        let guard = Arc::clone(&self.guard);
        let metrics = Arc::clone(&self.metrics);
        tokio::spawn(async move {
            let account = bounded(market.account()).await;
            super::act::count(&metrics, kind, "account", account.is_ok());
            match account {
                Ok(Some(account)) => guard.set_credit(kind, Credit::Left(account.credit), now()),
                Ok(None) => guard.set_credit(kind, Credit::Free, now()),
                Err(error) => {
                    if guard.credit_unread(kind, &error.to_string()) {
                        let market = kind.as_str();
                        tracing::warn!(market, %error, "the account's credit is not known");
                    }
                }
            }
        });
    }

    fn ask_charges(
        &self,
        kind: MarketKind,
        market: Arc<dyn Market>,
        interval: Duration,
        at: Timestamp,
    ) {
        let since = match self.ledger.unsettled_since(kind) {
            Ok(Some(since)) => since,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                return;
            }
        };
        let (ledger, books) = (Arc::clone(&self.ledger), Arc::clone(&self.books));
        let metrics = Arc::clone(&self.metrics);
        tokio::spawn(async move {
            let bill = bounded(market.charges(since)).await;
            super::act::count(&metrics, kind, "charges", bill.is_ok());
            let bill = match bill {
                Ok(bill) => bill,
                Err(error) => {
                    tracing::warn!(market = ?kind, %error, "what was charged is not known");
                    return;
                }
            };
            // What accrued is in the ledger before it is compared.
            books.write_all(now());
            let before = |n: u32| {
                let ms = (interval * n).as_millis() as u64;
                Timestamp::from_millis(at.as_millis().saturating_sub(ms))
            };
            match ledger.correct(
                kind,
                &bill,
                now(),
                before(SETTLED_AFTER),
                before(GIVEN_UP_AFTER),
            ) {
                Ok(corrections) => books.corrected(&corrections),
                Err(error) => tracing::error!(%error, "the bill is not in the ledger yet"),
            }
        });
    }

    /// May a stopped worker be started? Its price is committed with the answer.
    pub(super) fn may_restart(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        at: Timestamp,
    ) -> bool {
        match self.guard.commit(endpoint, worker, worker.price(), at) {
            Ok(()) => true,
            Err(refusal) => {
                tracing::debug!(worker = %worker.id(), %refusal, "not restarted");
                false
            }
        }
    }

    /// What is wanted and only money keeps from being had: its limit stays reached as long as that is so.
    pub(super) fn note_unaffordable(
        &self,
        endpoint: &EndpointFleet,
        record: &DecisionRecord,
        offers: &Offers,
        at: Timestamp,
    ) {
        let helps = |planned: &PlannedAction| {
            matches!(
                planned.action,
                ScalingAction::Rent { .. }
                    | ScalingAction::Restart { .. }
                    | ScalingAction::CancelDrain { .. }
            )
        };
        let settings = endpoint.settings();
        // What is ordered now is denied, if at all, where it is carried out.
        if record.plan.actions.iter().any(helps)
            || !is_wanting(&record.inputs, &record.plan, &settings.scaling)
        {
            return;
        }
        for worker in endpoint.workers().iter() {
            if worker.phase().0 == WorkerPhase::Stopped {
                let wish = Wish::Restart(worker.id().clone());
                self.guard.deny(endpoint, &wish, worker.price(), at);
            }
        }
        let existing = record.inputs.snapshot.workers.iter();
        let live = existing.filter(|worker| !worker.phase.is_ending()).count();
        if live < settings.scaling.max_workers as usize {
            let choices = settings.groups.iter().filter_map(|group| {
                let offers = offers.get(&group.name)?;
                Some(self.next_choice(endpoint, group, offers))
            });
            let choices: Vec<OfferChoice> = choices.collect();
            if let Some(price) = too_dear(choices.iter()) {
                self.guard.deny(endpoint, &Wish::CheapestOffer, price, at);
            }
        }
    }

    /// The limit in words that keeps from something of a plan, or from renting anything at all.
    pub(super) fn unaffordable(
        &self,
        endpoint: &EndpointFleet,
        plan: &ScalingPlan,
        choices: &[OfferChoice],
        offers: &[GroupOffers],
        at: Timestamp,
    ) -> Option<String> {
        if let Err(refusal) = self.guard.headroom(endpoint, None, at) {
            return Some(refusal.to_string());
        }
        let restarts = plan.actions.iter().filter_map(|planned| {
            let ScalingAction::Restart { worker } = &planned.action else {
                return None;
            };
            let price = endpoint.worker(worker)?.price();
            Some((Wish::Restart(worker.clone()), price))
        });
        let price_margin = self.guard.settings().price_margin;
        let mut ordered = UsdPerHour::ZERO;
        let rents = choices.iter().filter_map(|choice| {
            if let Some(best) = choice.best() {
                ordered += best.at_most(price_margin);
            }
            let price = choice.too_dear?;
            Some((Wish::CheapestOffer, price + ordered))
        });
        let any = too_dear(offers.iter().map(|group| &group.choice));
        let any = any.map(|price| (Wish::CheapestOffer, price));
        restarts.chain(rents).chain(any).find_map(|(wish, price)| {
            let (_, words) = self.guard.denial(endpoint, &wish, price, at)?;
            Some(words)
        })
    }

    /// The operator's mark leaves nothing to plan.
    pub(super) fn is_spending_stopped(&self) -> bool {
        self.guard.is_stopped()
    }
}

/// A question to a market that nobody waits for without end.
pub(super) async fn bounded<T>(
    question: impl Future<Output = Result<T, MarketError>>,
) -> Result<T, MarketError> {
    tokio::time::timeout(ASK_TIMEOUT, question)
        .await
        .unwrap_or_else(|_| Err(MarketError::Unavailable("timed out".into())))
}

/// Where no choice holds an offer to rent and money alone keeps from one: the least that would have to be paid.
fn too_dear<'a>(choices: impl Iterator<Item = &'a OfferChoice> + Clone) -> Option<UsdPerHour> {
    if choices.clone().any(|choice| choice.chosen.is_some()) {
        return None;
    }
    let dear = choices.filter_map(|choice| choice.too_dear);
    dear.min_by(|a, b| a.0.total_cmp(&b.0))
}

fn use_of(worker: &Worker) -> SpendUse {
    match worker.phase().0 {
        _ if worker.in_flight() > 0 => SpendUse::Serving,
        WorkerPhase::Ready
        | WorkerPhase::Unhealthy { .. }
        | WorkerPhase::Draining { .. }
        | WorkerPhase::Stopping
        | WorkerPhase::Destroying => SpendUse::Idle,
        _ => SpendUse::ColdStart,
    }
}

impl CostWindow {
    fn push(&mut self, at: Timestamp, spent: Usd, arrived: Tokens) {
        // A month that began counts from nothing.
        if self
            .0
            .back()
            .is_some_and(|(_, before, _)| spent.0 < before.0)
        {
            self.0.clear();
        }
        self.0.push_back((at, spent, arrived));
        while self.0.len() > 2 && at.since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
    }

    fn usd_per_million(&self) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let tokens = (last.2 - first.2).0;
        (tokens >= 1.0).then(|| (last.1 - first.1).0 / tokens * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_millis(s * 1_000)
    }

    #[test]
    fn dollars_per_million_tokens_are_those_of_the_last_hour() {
        let mut window = CostWindow::default();
        assert_eq!(window.usd_per_million(), None);
        for n in 0..=720u64 {
            // A dollar an hour and 100 tokens a second, twice the tokens in the second hour.
            let tokens = 100.0 * 10.0 * (n.min(360) as f64 + 2.0 * n.saturating_sub(360) as f64);
            window.push(at(n * 10), Usd(n as f64 / 360.0), Tokens(tokens));
        }
        let usd = window.usd_per_million().expect("tokens");
        assert!((usd - 1e6 / 720_000.0).abs() < 1e-6, "{usd}");
    }

    #[test]
    fn a_new_month_begins_a_new_window() {
        let mut window = CostWindow::default();
        window.push(at(0), Usd(5.0), Tokens(0.0));
        window.push(at(10), Usd(6.0), Tokens(1e6));
        window.push(at(20), Usd(0.1), Tokens(2e6));
        assert_eq!(window.usd_per_million(), None);
        window.push(at(30), Usd(1.1), Tokens(3e6));
        assert_eq!(window.usd_per_million(), Some(1.0));
    }
}
