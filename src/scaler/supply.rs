//! What markets offer, asked for beside the ticks: a search that is slow or hangs holds up no worker and no other market.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Scaler;
use super::money::bounded;
use crate::domain::{EndpointName, GroupName, Offer, Timestamp, WorkerGroup};
use crate::fleet::EndpointFleet;
use crate::market::Market;
use crate::telemetry::now;

/// The last answer for each group.
#[derive(Default)]
pub(super) struct Supply(Mutex<BTreeMap<(EndpointName, GroupName), Search>>);

#[derive(Default)]
struct Search {
    offers: Vec<Offer>,
    answered_at: Option<Timestamp>,
    under_way: bool,
}

impl Supply {
    /// What was offered last, and whether it is time to ask again.
    fn last(
        &self,
        key: &(EndpointName, GroupName),
        fresh_for: Duration,
        at: Timestamp,
    ) -> (Vec<Offer>, bool) {
        let mut searches = self.0.lock();
        let search = searches.entry(key.clone()).or_default();
        let is_old = search
            .answered_at
            .is_none_or(|answered_at| at.since(answered_at) >= fresh_for);
        let ask = is_old && !search.under_way;
        search.under_way |= ask;
        (search.offers.clone(), ask)
    }

    /// What was offered last, however long ago.
    pub(super) fn known(&self, endpoint: &EndpointName, group: &GroupName) -> Vec<Offer> {
        let searches = self.0.lock();
        let search = searches.get(&(endpoint.clone(), group.clone()));
        search
            .map(|search| search.offers.clone())
            .unwrap_or_default()
    }

    /// True if it is the first answer.
    pub(super) fn answered(
        &self,
        endpoint: &EndpointName,
        group: &GroupName,
        offers: Vec<Offer>,
        at: Timestamp,
    ) -> bool {
        let mut searches = self.0.lock();
        let key = (endpoint.clone(), group.clone());
        let search = searches.entry(key).or_default();
        search.offers = offers;
        search.under_way = false;
        search.answered_at.replace(at).is_none()
    }
}

impl Scaler {
    /// What is on offer for a group, as far as is known now.
    pub(super) async fn offers_for(
        &self,
        endpoint: &EndpointFleet,
        group: &WorkerGroup,
    ) -> Vec<Offer> {
        let Some(market) = self.markets.get(endpoint.settings().market) else {
            return Vec::new();
        };
        // Our own market answers at once.
        let Some(interval) = market.listing_interval() else {
            return bounded(market.offers(group)).await.unwrap_or_default();
        };
        let key = (endpoint.name.clone(), group.name.clone());
        let (offers, ask) = self.supply.last(&key, interval * 2, now());
        if ask {
            self.search(key.0, group.clone(), Arc::clone(market));
        }
        offers
    }

    fn search(&self, endpoint: EndpointName, group: WorkerGroup, market: Arc<dyn Market>) {
        let (supply, fleet) = (Arc::clone(&self.supply), Arc::clone(&self.fleet));
        tokio::spawn(async move {
            let found = bounded(market.offers(&group)).await;
            let offers = found.unwrap_or_else(|error| {
                tracing::debug!(%endpoint, group = %group.name, %error, "offers are not known");
                Vec::new()
            });
            if supply.answered(&endpoint, &group.name, offers, now()) {
                fleet.wake_scaler();
            }
        });
    }
}
