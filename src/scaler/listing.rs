//! Listing each market at its own pace, and comparing what it says with what is known. A market that is slow or down
//! holds up nothing but its own news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Scaler;
use super::act::{count, midway};
use crate::domain::{
    AccountId, EndpointName, GroupName, Instance, MarketKind, Release, Timestamp, UsdPerHour,
    WorkerEvent, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::market::{Inventory, Market, MarketError};
use crate::policy::reconcile::{
    Disagreement, Expected, Known, Listed, Patience, ReconcileMemory, Reconciliation, reconcile,
};
use crate::telemetry::now;

/// No listing that a tick waits for takes longer than this.
const TICK_LISTING_TIMEOUT: Duration = Duration::from_secs(20);
/// Each page of a large account has a limit of its own; this is for all of them.
const LISTING_TIMEOUT: Duration = Duration::from_secs(300);

/// An outage that lasts is said again so often.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// What a market said, and when.
pub(super) struct Listing {
    kind: MarketKind,
    begun_at: Timestamp,
    answered_at: Timestamp,
    result: Result<Inventory, MarketError>,
}

/// A market that cannot be listed.
struct Outage {
    error: String,
    since: Timestamp,
    told_at: Timestamp,
}

/// Of one market.
#[derive(Default)]
struct Outlook {
    memory: ReconcileMemory,
    begun_at: Option<Timestamp>,
    under_way: bool,
    listed_at: Option<Timestamp>,
    /// It was asked at least once, whatever it answered.
    answered: bool,
    outage: Option<Outage>,
    disagreements: Vec<Disagreement>,
    uncertain: BTreeSet<(EndpointName, GroupName)>,
    /// Accounts that did not answer the last listing, and why.
    silent: BTreeMap<AccountId, String>,
    /// Groups that pay from such an account, or have machines there.
    unheard: BTreeSet<(EndpointName, GroupName)>,
}

/// How each market's listings and the ledger stand to each other.
#[derive(Default)]
pub(super) struct Agreement(Mutex<BTreeMap<MarketKind, Outlook>>);

impl Agreement {
    /// Why nothing may be rented for this group now; empty if it may.
    pub(super) fn paused(&self, endpoint: &EndpointFleet, group: &GroupName) -> Vec<String> {
        let outlooks = self.0.lock();
        match outlooks.get(&endpoint.settings().market) {
            Some(outlook) => outlook.pause(Some((&endpoint.name, group))),
            None => vec![Disagreement::NotListedYet.to_string()],
        }
    }

    /// It was listed before this process began.
    pub(super) fn expect(&self, kind: MarketKind, worker: WorkerId) {
        let mut outlooks = self.0.lock();
        outlooks.entry(kind).or_default().memory.expect(worker);
    }

    /// A market answered somebody who only looks.
    pub(super) fn looked(&self, kind: MarketKind, at: Timestamp) {
        let mut outlooks = self.0.lock();
        outlooks.entry(kind).or_default().listed_at = Some(at);
    }

    /// Why nothing may be rented at a whole market, and when it was last listed.
    pub(super) fn of_market(&self, kind: MarketKind) -> (Vec<String>, Option<Timestamp>) {
        match self.0.lock().get(&kind) {
            Some(outlook) => (outlook.pause(None), outlook.listed_at),
            None => (vec![Disagreement::NotListedYet.to_string()], None),
        }
    }
}

impl Outlook {
    /// Said when it begins, when it ends, and now and then while it lasts.
    fn note_outage(&mut self, kind: MarketKind, error: Option<&MarketError>, at: Timestamp) {
        let market = kind.as_str();
        let Some(error) = error.map(ToString::to_string) else {
            if self.outage.take().is_some() {
                tracing::info!(market, "the market can be listed again");
            }
            return;
        };
        match &mut self.outage {
            None => {
                tracing::warn!(
                    market,
                    error,
                    "the market cannot be listed: nothing is rented there, what runs goes on"
                );
                let (since, told_at) = (at, at);
                self.outage = Some(Outage {
                    error,
                    since,
                    told_at,
                });
            }
            Some(outage) => {
                if at.since(outage.told_at) >= REMIND_EVERY {
                    outage.told_at = at;
                    let since_s = at.since(outage.since).as_secs();
                    tracing::warn!(market, error, since_s, "the market still cannot be listed");
                }
                outage.error = error;
            }
        }
    }

    fn pause(&self, group: Option<(&EndpointName, &GroupName)>) -> Vec<String> {
        let mut why: Vec<String> = Vec::new();
        if let Some(Outage { error, .. }) = &self.outage {
            why.push(format!("{}: {error}", Disagreement::ListingFailed));
        } else if self.listed_at.is_none() {
            why.push(Disagreement::NotListedYet.to_string());
        }
        why.extend(self.disagreements.iter().map(ToString::to_string));
        let concerns = |(endpoint, name): &&(EndpointName, GroupName)| {
            group.is_none_or(|(e, g)| e == endpoint && g == name)
        };
        for (endpoint, name) in self.unheard.iter().filter(concerns) {
            why.push(format!("the account of {endpoint}/{name} cannot be listed"));
        }
        for (endpoint, name) in &self.uncertain {
            if concerns(&&(endpoint.clone(), name.clone())) {
                why.push(format!(
                    "whether a rental for {endpoint}/{name} took effect is not known yet"
                ));
            }
        }
        why
    }
}

impl Scaler {
    /// Begins what is due. What costs nothing is listed at once; the rest is waited for by nobody.
    pub(super) async fn list_markets(&self, at: Timestamp) {
        for (kind, market) in self.markets.all() {
            let interval = market.listing_interval();
            if !self.begin_listing(kind, interval, at) {
                continue;
            }
            match interval {
                None => {
                    let listing = list(kind, Arc::clone(market), at, TICK_LISTING_TIMEOUT).await;
                    self.listings.lock().push(listing);
                }
                Some(_) => {
                    let market = Arc::clone(market);
                    let (listings, fleet) = (Arc::clone(&self.listings), Arc::clone(&self.fleet));
                    tokio::spawn(async move {
                        let listing = list(kind, market, at, LISTING_TIMEOUT).await;
                        listings.lock().push(listing);
                        fleet.wake_scaler();
                    });
                }
            }
        }
    }

    fn begin_listing(&self, kind: MarketKind, interval: Option<Duration>, at: Timestamp) -> bool {
        let mut outlooks = self.agreement.0.lock();
        let outlook = outlooks.entry(kind).or_default();
        let is_due = match (interval, outlook.begun_at) {
            (Some(interval), Some(begun_at)) => at.since(begun_at) >= interval,
            _ => true,
        };
        if outlook.under_way || !is_due {
            return false;
        }
        outlook.begun_at = Some(at);
        outlook.under_way = true;
        true
    }

    /// Listings begun before this scaler led say nothing any more.
    pub(super) fn forget_listings(&self) {
        self.listings.lock().clear();
        self.agreement.0.lock().clear();
    }

    /// Every market was asked once.
    pub(super) fn has_looked(&self) -> bool {
        let outlooks = self.agreement.0.lock();
        let mut kinds = self.markets.all().into_iter();
        kinds.all(|(kind, _)| {
            let outlook = outlooks.get(&kind);
            outlook.is_some_and(|outlook| outlook.answered)
        })
    }

    /// Takes in what was answered since the last tick. A failed listing says nothing about anybody.
    pub(super) fn take_listings(&self) {
        let arrived = std::mem::take(&mut *self.listings.lock());
        for listing in arrived {
            let (kind, ok) = (listing.kind, listing.result.is_ok());
            count(&self.metrics, kind, "list", ok);
            {
                let mut outlooks = self.agreement.0.lock();
                let outlook = outlooks.entry(kind).or_default();
                outlook.under_way = false;
                outlook.answered = true;
                outlook.note_outage(kind, listing.result.as_ref().err(), listing.answered_at);
                if ok {
                    outlook.listed_at = Some(listing.begun_at);
                }
            }
            if let (Ok(inventory), Some(market)) = (listing.result, self.markets.get(kind)) {
                // What a listing shows was so somewhere between its beginning and its answer.
                let shown_at = midway(listing.begun_at, listing.answered_at);
                self.note_silent(kind, market, &inventory);
                self.apply_listing(kind, market, &inventory, listing.begun_at, shown_at);
            }
        }
    }

    /// Some accounts of a market may not answer: that concerns their groups only.
    fn note_silent(&self, kind: MarketKind, market: &Arc<dyn Market>, inventory: &Inventory) {
        let unheard = self.groups_of(kind, market, &inventory.silent);
        let mut outlooks = self.agreement.0.lock();
        let outlook = outlooks.entry(kind).or_default();
        if outlook.silent.keys().ne(inventory.silent.keys()) {
            tell_silent(kind, &inventory.silent);
        }
        outlook.silent = inventory.silent.clone();
        outlook.unheard = unheard;
    }

    fn apply_listing(
        &self,
        kind: MarketKind,
        market: &Arc<dyn Market>,
        inventory: &Inventory,
        begun_at: Timestamp,
        shown_at: Timestamp,
    ) {
        self.learn_accounts(inventory, shown_at);
        let mut instances = inventory.instances.clone();
        let ours = self.ledger.installation();
        instances.retain(|instance| instance.label.installation == ours);
        if kind == MarketKind::Fixed {
            instances
                .retain(|instance| self.is_known(instance) || self.take_in(instance, shown_at));
        }
        let mut known = self.known_at(kind, begun_at);
        known.extend(self.orphans_at(kind));
        let elsewhere = self.settle_accounts(&mut known, inventory);
        let listed: Vec<Listed> = instances.iter().map(Listed::of).collect();
        let patience = Patience::of(market.listing_interval());
        let result = {
            let mut outlooks = self.agreement.0.lock();
            let outlook = outlooks.entry(kind).or_default();
            let (mut result, memory) =
                reconcile(&known, &listed, &outlook.memory, &patience, begun_at);
            outlook.memory = memory;
            result.disagreements.extend(elsewhere);
            result
        };
        self.tell_workers(&instances, &result, begun_at, shown_at);
        self.end_surplus(kind, market, &instances, &result, shown_at);
        self.tell_gone(kind, &known, &listed, &result, shown_at);
        self.note_agreement(kind, result);
    }

    /// What should be at a market now.
    fn known_at(&self, kind: MarketKind, begun_at: Timestamp) -> Vec<Known> {
        let mut known = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            if endpoint.settings().market == kind {
                let workers = endpoint.workers();
                known.extend(
                    workers
                        .iter()
                        .map(|worker| self.known(endpoint, worker, begun_at)),
                );
            }
        }
        known
    }

    fn known(&self, endpoint: &EndpointFleet, worker: &Worker, begun_at: Timestamp) -> Known {
        let instance = worker.instance();
        let asking = self.calls.is_under_way(worker.id());
        let expected = if worker.phase().0.is_ending() {
            Expected::Ending
        } else if instance.is_none() && !asking && self.is_rented(endpoint) {
            Expected::Uncertain
        } else {
            Expected::There
        };
        Known {
            worker: worker.id().clone(),
            endpoint: endpoint.name.clone(),
            group: worker.spec.group.clone(),
            expected,
            instance,
            is_news: self.calls.is_news(worker.id(), begun_at),
        }
    }

    fn tell_workers(
        &self,
        instances: &[Instance],
        result: &Reconciliation,
        begun_at: Timestamp,
        shown_at: Timestamp,
    ) {
        let surplus = |instance: &Instance| {
            let id = &instance.id;
            result.surplus.iter().any(|one| one.instance == *id)
        };
        for instance in instances.iter().filter(|instance| !surplus(instance)) {
            if let Some((endpoint, worker)) = self.find_worker(instance) {
                self.see(&endpoint, &worker, instance, begun_at, shown_at);
            }
        }
    }

    /// Machines of ours that nobody needs are ended, unless the listing itself is in doubt.
    fn end_surplus(
        &self,
        kind: MarketKind,
        market: &Arc<dyn Market>,
        instances: &[Instance],
        result: &Reconciliation,
        shown_at: Timestamp,
    ) {
        let mut price = UsdPerHour::ZERO;
        let unneeded = instances.iter().filter(|instance| {
            let listed = Listed::of(instance);
            result.surplus.contains(&listed) || self.is_orphan(&listed.worker)
        });
        for instance in unneeded {
            price += instance.usd_per_hour;
            // An upgrade may have taken an endpoint away whose last streams still run under the old process.
            if !result.doubted && !self.fleet.has_predecessor() {
                let twice = self.find_worker(instance).is_some();
                self.destroy_unneeded(kind, market, instance, twice, shown_at);
            }
        }
        if kind != MarketKind::Fixed {
            self.guard.set_strays(kind, price);
        }
    }

    fn tell_gone(
        &self,
        kind: MarketKind,
        known: &[Known],
        listed: &[Listed],
        result: &Reconciliation,
        shown_at: Timestamp,
    ) {
        for one in known {
            if result.gone.contains(&one.worker) && self.end_orphan(&one.worker) {
                continue;
            }
            let there = listed.iter().any(|listed| listed.worker == one.worker);
            let Some(endpoint) = self.fleet.endpoint(one.endpoint.as_str()) else {
                continue;
            };
            let Some(worker) = endpoint.worker(&one.worker).filter(|_| !there) else {
                continue;
            };
            if one.is_news {
                self.books.missed(&one.worker, shown_at);
            }
            if result.gone.contains(&one.worker) {
                // What never had a name was never rented.
                let event = match one.expected {
                    Expected::Uncertain => WorkerEvent::RentRefused,
                    Expected::There | Expected::Ending => unlisted(kind, worker.phase().0),
                };
                self.advance(&endpoint, &worker, event);
            }
        }
    }

    fn note_agreement(&self, kind: MarketKind, result: Reconciliation) {
        let mut disagreements = result.disagreements;
        if self.fleet.has_predecessor() {
            disagreements.retain(|one| !matches!(one, Disagreement::Stray { .. }));
        }
        let mut outlooks = self.agreement.0.lock();
        let outlook = outlooks.entry(kind).or_default();
        let (before, after) = (!outlook.disagreements.is_empty(), !disagreements.is_empty());
        if after && outlook.disagreements != disagreements {
            let what: Vec<String> = disagreements.iter().map(ToString::to_string).collect();
            tracing::warn!(
                market = kind.as_str(),
                disagreements = what.join("; "),
                "the market and the ledger do not agree: nothing is rented until they do"
            );
        } else if before && !after {
            let market = kind.as_str();
            tracing::info!(market, "the market and the ledger agree again");
        }
        outlook.disagreements = disagreements;
        outlook.uncertain = result.uncertain;
    }

    pub(super) fn find_worker(
        &self,
        instance: &Instance,
    ) -> Option<(Arc<EndpointFleet>, Arc<Worker>)> {
        let endpoint = self.fleet.endpoint(instance.label.endpoint.as_str())?;
        let worker = endpoint.worker(&instance.label.worker)?;
        Some((endpoint, worker))
    }

    fn is_known(&self, instance: &Instance) -> bool {
        self.find_worker(instance).is_some()
    }
}

async fn list(
    kind: MarketKind,
    market: Arc<dyn Market>,
    begun_at: Timestamp,
    within: Duration,
) -> Listing {
    let result = tokio::time::timeout(within, market.inventory())
        .await
        .unwrap_or_else(|_| Err(MarketError::Unavailable("listing timed out".into())));
    Listing {
        kind,
        begun_at,
        answered_at: now(),
        result,
    }
}

fn tell_silent(kind: MarketKind, silent: &BTreeMap<AccountId, String>) {
    let market = kind.as_str();
    if silent.is_empty() {
        tracing::info!(market, "all accounts can be listed again");
    }
    for (account, error) in silent {
        tracing::warn!(market, %account, error, "an account cannot be listed: its groups rent nothing, what runs goes on");
    }
}

impl Listed {
    fn of(instance: &Instance) -> Self {
        Self {
            worker: instance.label.worker.clone(),
            instance: instance.id.clone(),
        }
    }
}

/// A given worker that left the list is well: what it does may end. A rented one that is not listed is no more.
fn unlisted(kind: MarketKind, phase: WorkerPhase) -> WorkerEvent {
    match phase {
        WorkerPhase::Ready | WorkerPhase::Unhealthy { .. } | WorkerPhase::Draining { .. }
            if kind == MarketKind::Fixed =>
        {
            WorkerEvent::DrainOrdered(Release::Destroy)
        }
        _ => WorkerEvent::InstanceMissing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_market_that_cannot_be_listed_says_why_until_it_can() {
        let kind = MarketKind::Vast;
        let mut outlook = Outlook::default();
        let wrong_key = MarketError::Refused("wrong key".into());
        let lost = MarketError::Unavailable("no answer".into());
        let at = |s: u64| Timestamp::from_millis(s * 1_000);
        outlook.note_outage(kind, Some(&wrong_key), at(1));
        let why = outlook.pause(None);
        assert!(why[0].contains("cannot be listed") && why[0].contains("wrong key"));
        // The latest reason is shown, and it is one outage.
        outlook.note_outage(kind, Some(&lost), at(2));
        assert!(outlook.pause(None)[0].contains("no answer"));
        let told = |outlook: &Outlook| {
            let outage = outlook.outage.as_ref();
            outage.map(|outage| (outage.since, outage.told_at))
        };
        assert_eq!(told(&outlook), Some((at(1), at(1))));
        outlook.note_outage(kind, Some(&lost), at(700));
        assert_eq!(told(&outlook), Some((at(1), at(700))));
        outlook.note_outage(kind, None, at(701));
        assert!(told(&outlook).is_none());
    }
}
