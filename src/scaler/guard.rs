//! The last word on money: nothing is rented or restarted that it has not let pass, and it can only say no.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::books::Books;
use crate::domain::{
    Day, EndpointName, LimitView, MarketKind, Release, SpendingRule, SpendingScope,
    SpendingSettings, Timestamp, Usd, UsdPerHour, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Fleet, Worker};
use crate::policy::spending::{
    Budget, Commitment, Credit, Forced, Position, Refusal, forced, headroom, may_commit, standing,
    usd,
};

pub(super) struct Guard {
    fleet: Arc<Fleet>,
    books: Arc<Books>,
    settings: Arc<ArcSwap<SpendingSettings>>,
    stop_mark: PathBuf,
    state: Mutex<State>,
    one_at_a_time: Mutex<()>,
}

#[derive(Default)]
struct State {
    stopped: bool,
    readings: BTreeMap<MarketKind, Reading>,
    /// Why an account's credit was not told, the last time.
    unread: BTreeMap<MarketKind, String>,
    strays: BTreeMap<MarketKind, UsdPerHour>,
    /// Told to go because of money, and why.
    forced: BTreeMap<WorkerId, Refusal>,
    /// A limit that let machines go lets none come until its day or month is over: each would be let go soon after.
    closed: BTreeMap<(SpendingScope, SpendingRule), Closed>,
    /// Limits that said no since the last tick, and to what.
    refused: BTreeMap<(SpendingScope, SpendingRule), String>,
    reached: BTreeSet<(SpendingScope, SpendingRule)>,
}

/// What money is asked for.
pub(super) enum Wish {
    Machine,
    CheapestOffer,
    Restart(WorkerId),
}

impl Wish {
    fn denied(&self, price: UsdPerHour, refusal: &Refusal) -> String {
        let price = usd(price.0);
        match self {
            Wish::Machine => format!("a machine at {price}/h does not fit: {refusal}"),
            Wish::CheapestOffer => {
                format!("the cheapest fitting offer, {price}/h, does not fit: {refusal}")
            }
            Wish::Restart(worker) => {
                format!("starting {worker} at {price}/h does not fit: {refusal}")
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Reading {
    credit: Credit,
    /// Spent this month at that market when it was read.
    spent: Usd,
}

struct Closed {
    limit: f64,
    until: Timestamp,
}

/// Limits that were reached since the last look, and those that are no longer.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) views: Vec<LimitView>,
    pub(super) reached: Vec<LimitView>,
    pub(super) over: Vec<(SpendingScope, SpendingRule)>,
}

impl Guard {
    pub(super) fn new(
        fleet: Arc<Fleet>,
        books: Arc<Books>,
        settings: Arc<ArcSwap<SpendingSettings>>,
        stop_mark: PathBuf,
    ) -> Self {
        Self {
            fleet,
            books,
            settings,
            stop_mark,
            state: Mutex::default(),
            one_at_a_time: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> Arc<SpendingSettings> {
        self.settings.load_full()
    }

    /// Looks for the operator's mark; true when that changed. One that cannot be looked for is where it was.
    pub(super) fn look_for_mark(&self) -> bool {
        let mut state = self.state.lock();
        let there = self.stop_mark.try_exists().unwrap_or(state.stopped);
        std::mem::replace(&mut state.stopped, there) != there
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    pub(super) fn set_strays(&self, market: MarketKind, price: UsdPerHour) {
        self.state.lock().strays.insert(market, price);
    }

    pub(super) fn set_credit(&self, market: MarketKind, credit: Credit, now: Timestamp) {
        let spent = self.spent_at(market, now);
        let reading = Reading { credit, spent };
        let mut state = self.state.lock();
        state.readings.insert(market, reading);
        state.unread.remove(&market);
    }

    /// True where that is news. What was known counts on, less what came together since.
    pub(super) fn credit_unread(&self, market: MarketKind, error: &str) -> bool {
        let before = self.state.lock().unread.insert(market, error.to_owned());
        before.as_deref() != Some(error)
    }

    /// What is left at a market by the last reading and what came together since.
    pub(super) fn credit(&self, market: MarketKind, now: Timestamp) -> Credit {
        let spent = self.spent_at(market, now);
        match self.state.lock().readings.get(&market).copied() {
            None => Credit::Unknown,
            Some(Reading {
                credit: Credit::Left(left),
                spent: before,
            }) => Credit::Left(left - (spent - before).max(Usd::ZERO)),
            Some(reading) => reading.credit,
        }
    }

    fn spent_at(&self, market: MarketKind, now: Timestamp) -> Usd {
        let spent = self.books.spent(now);
        let endpoints = self.fleet.endpoints();
        let here = spent.iter().filter(|(name, _)| {
            let endpoint = endpoints.get(*name);
            endpoint.is_some_and(|endpoint| endpoint.settings().market == market)
        });
        here.map(|(_, spent)| spent.this_month).sum()
    }

    /// The dearest machine that may be rented for this endpoint now, or the limit that allows none; `without` what is
    /// committed for the worker it is for.
    pub(super) fn headroom(
        &self,
        endpoint: &EndpointFleet,
        without: Option<&WorkerId>,
        now: Timestamp,
    ) -> Result<UsdPerHour, Refusal> {
        let market = endpoint.settings().market;
        let position = self.position(without, now);
        headroom(&position, &self.budget(), &endpoint.name, market, now)
            .and_then(|room| self.still_open(&endpoint.name, now).map(|()| room))
            .inspect_err(|refusal| self.note(refusal, refusal.to_string()))
    }

    /// There is no room for a machine at this price.
    pub(super) fn refuses(
        &self,
        endpoint: &EndpointFleet,
        price: UsdPerHour,
        now: Timestamp,
    ) -> bool {
        self.deny(endpoint, &Wish::Machine, price, now)
    }

    /// There is no money for what is wished: the limit that says so counts as reached until the next tick.
    pub(super) fn deny(
        &self,
        endpoint: &EndpointFleet,
        wish: &Wish,
        price: UsdPerHour,
        now: Timestamp,
    ) -> bool {
        let denial = self.denial(endpoint, wish, price, now);
        if let Some((refusal, words)) = &denial {
            self.note(refusal, words.clone());
        }
        denial.is_some()
    }

    /// Why there is no money for what is wished, if so.
    pub(super) fn denial(
        &self,
        endpoint: &EndpointFleet,
        wish: &Wish,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Option<(Refusal, String)> {
        let without = match wish {
            Wish::Restart(worker) => Some(worker),
            Wish::Machine | Wish::CheapestOffer => None,
        };
        let refusal = self.check(endpoint, without, price, now).err()?;
        let words = wish.denied(price, &refusal);
        Some((refusal, words))
    }

    /// Commits the money for a worker that is about to be rented, or for a stopped one that is about to be started.
    pub(super) fn commit(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        // Two that ask at once must not both be let pass for what is left.
        let _turn = self.one_at_a_time.lock();
        if self.stop_mark.try_exists().unwrap_or(false) {
            return Err(Refusal::stopped());
        }
        self.check(endpoint, Some(worker.id()), price, now)
            .inspect_err(|refusal| {
                let wish = Wish::Restart(worker.id().clone());
                self.note(refusal, wish.denied(price, refusal));
            })?;
        worker.set_price(price);
        Ok(())
    }

    fn check(
        &self,
        endpoint: &EndpointFleet,
        without: Option<&WorkerId>,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let market = endpoint.settings().market;
        let position = self.position(without, now);
        let budget = self.budget();
        may_commit(&position, &budget, &endpoint.name, market, price, now)
            .and_then(|()| self.still_open(&endpoint.name, now))
    }

    fn note(&self, refusal: &Refusal, words: String) {
        let key = (refusal.scope.clone(), refusal.rule);
        self.state.lock().refused.insert(key, words);
    }

    fn still_open(&self, endpoint: &EndpointName, now: Timestamp) -> Result<(), Refusal> {
        let state = self.state.lock();
        let closed = state.closed.iter().find(|((scope, _), closed)| {
            let concerned = match scope {
                SpendingScope::Installation => true,
                SpendingScope::Endpoint(name) => name == endpoint,
            };
            concerned && now < closed.until
        });
        match closed {
            None => Ok(()),
            Some(((scope, rule), closed)) => Err(Refusal {
                scope: scope.clone(),
                rule: *rule,
                used: closed.limit,
                more: 0.0,
                limit: closed.limit,
            }),
        }
    }

    /// What has to go now; each is told once, or again when it must wait no longer.
    pub(super) fn enforce(&self, now: Timestamp) -> Vec<Forced> {
        let position = self.position(None, now);
        let told = forced(&position, &self.budget(), now);
        let mut state = self.state.lock();
        let there: BTreeSet<&WorkerId> = position
            .commitments
            .iter()
            .map(|commitment| &commitment.worker)
            .collect();
        state.forced.retain(|worker, _| there.contains(worker));
        for one in &told {
            state.forced.insert(one.worker.clone(), one.because.clone());
            state.close(&one.because, now);
        }
        told
    }

    /// Why a worker was told to go for money's sake.
    pub(super) fn forced(&self, worker: &WorkerId) -> Option<Refusal> {
        self.state.lock().forced.get(worker).cloned()
    }

    pub(super) fn all_forced(&self) -> Vec<WorkerId> {
        self.state.lock().forced.keys().cloned().collect()
    }

    /// Every limit as it stands, and what changed since the last call.
    pub(super) fn look(&self, now: Timestamp) -> Changes {
        let position = self.position(None, now);
        let mut views = standing(&position, &self.budget(), now);
        let mut state = self.state.lock();
        let mut refused = std::mem::take(&mut state.refused);
        let limits: Vec<_> = views
            .iter()
            .map(|view| (view.scope.clone(), view.rule, view.limit))
            .collect();
        // A limit that was raised, or whose day is over, is open again.
        state.closed.retain(|(scope, rule), closed| {
            now < closed.until && limits.contains(&(scope.clone(), *rule, closed.limit))
        });
        for view in &mut views {
            let key = (view.scope.clone(), view.rule);
            view.because = refused.remove(&key);
            view.reached |= view.because.is_some() || state.closed.contains_key(&key);
        }
        let reached: BTreeSet<_> = views
            .iter()
            .filter(|view| view.reached)
            .map(|view| (view.scope.clone(), view.rule))
            .collect();
        let before = std::mem::replace(&mut state.reached, reached.clone());
        let is_new =
            |view: &&LimitView| view.reached && !before.contains(&(view.scope.clone(), view.rule));
        Changes {
            reached: views.iter().filter(is_new).cloned().collect(),
            over: before.difference(&reached).cloned().collect(),
            views,
        }
    }

    fn budget(&self) -> Budget {
        let endpoints = self.fleet.endpoints();
        let own = |endpoint: &Arc<EndpointFleet>| endpoint.settings().spending;
        Budget {
            installation: (*self.settings()).clone(),
            endpoints: endpoints
                .iter()
                .map(|(name, endpoint)| (name.clone(), own(endpoint)))
                .collect(),
        }
    }

    /// Dollars an hour that an endpoint's machines cost or are about to.
    pub(super) fn committed(&self, endpoint: &EndpointFleet) -> UsdPerHour {
        let market = endpoint.settings().market;
        let workers = endpoint.workers();
        let all = workers.iter();
        all.map(|worker| self.commitment(&endpoint.name, market, worker))
            .map(|commitment| commitment.usd_per_hour)
            .sum()
    }

    /// Everything committed and spent, `without` one worker whose price is being asked about.
    fn position(&self, without: Option<&WorkerId>, now: Timestamp) -> Position {
        let mut commitments = Vec::new();
        let mut credits = BTreeMap::new();
        for endpoint in self.fleet.endpoints().values() {
            let market = endpoint.settings().market;
            if market == MarketKind::Fixed {
                continue;
            }
            credits
                .entry(market)
                .or_insert_with(|| self.credit(market, now));
            for worker in endpoint.workers().iter() {
                if without != Some(worker.id()) {
                    commitments.push(self.commitment(&endpoint.name, market, worker));
                }
            }
        }
        let state = self.state.lock();
        Position {
            commitments,
            strays: state.strays.values().copied().sum(),
            spent: self.books.spent(now),
            credits,
            stopped: state.stopped,
        }
    }

    fn commitment(
        &self,
        endpoint: &EndpointName,
        market: MarketKind,
        worker: &Worker,
    ) -> Commitment {
        let phase = worker.phase().0;
        let seen = self.books.last_seen(worker.id());
        let usd_per_hour = match (phase, seen) {
            (WorkerPhase::Gone, _) => UsdPerHour::ZERO,
            (WorkerPhase::Stopped, Some(seen)) => seen.rate(),
            (_, Some(seen)) => worker.price().max(seen.rate()),
            (_, None) => worker.price(),
        };
        let then_gone = matches!(
            phase,
            WorkerPhase::Draining {
                then: Release::Destroy,
                ..
            }
        );
        Commitment {
            worker: worker.id().clone(),
            endpoint: endpoint.clone(),
            market,
            usd_per_hour,
            speed: worker.speed(),
            ordered: self.ordered(worker),
            starting: phase.is_starting(),
            going: then_gone || phase.is_ending(),
        }
    }
}

impl Guard {
    /// The most a worker's order was let pass for; what was not chosen among prices has none.
    fn ordered(&self, worker: &Worker) -> UsdPerHour {
        let margin = self.settings().price_margin;
        let rented = worker.origin.rented_as();
        rented.map_or(UsdPerHour(f64::INFINITY), |offer| offer.at_most(margin))
    }
}

impl State {
    fn close(&mut self, because: &Refusal, now: Timestamp) {
        let today = Day::of(now);
        let until = match because.rule {
            SpendingRule::Day => today.next().start(),
            SpendingRule::Month => Day(today.month_start().0 + 31).month_start().start(),
            // These hold as long as their reason does, by themselves.
            SpendingRule::Hour | SpendingRule::Credit | SpendingRule::Stopped => return,
        };
        let limit = because.limit;
        let key = (because.scope.clone(), because.rule);
        self.closed.insert(key, Closed { limit, until });
    }
}
