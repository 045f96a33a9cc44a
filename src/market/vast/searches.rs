//! What searches found lately: a plan is made from it without waiting, and Vast allows few searches.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::MarketError;
use crate::domain::{Offer, OfferId};

/// The first time nothing is known, and a plan can wait so long; later ones see what came.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Offers are never older than this, or than three intervals.
const AGE_MAX: Duration = Duration::from_secs(90);
/// Searches nobody asked for any more are forgotten.
const SEARCHES_MAX: usize = 256;

/// Account and body of a search.
pub(super) type Query = (usize, String);

#[derive(Default)]
pub(super) struct Searches(Mutex<HashMap<Query, Search>>);

#[derive(Default)]
struct Search {
    found: Option<(Instant, Vec<Offer>)>,
    failed: Option<(Instant, String)>,
    under_way: bool,
    ended: watch::Sender<u64>,
}

enum Known {
    Offers(Vec<Offer>),
    Failed(String),
    Wait(watch::Receiver<u64>),
}

impl Searches {
    /// What is known, if it is young enough. `search` runs beside, at most once at a time for a query.
    pub(super) async fn offers<F>(
        self: &Arc<Self>,
        query: Query,
        interval: Duration,
        search: impl FnOnce() -> F,
    ) -> Result<Vec<Offer>, MarketError>
    where
        F: Future<Output = Result<Vec<Offer>, String>> + Send + 'static,
    {
        let (mut known, begin) = self.look(&query, Some(interval));
        if begin {
            let (searches, query, search) = (Arc::clone(self), query.clone(), search());
            tokio::spawn(async move {
                let result = search.await;
                searches.ended(&query, result);
            });
        }
        if let Known::Wait(ended) = &mut known {
            let ended = ended.changed();
            if tokio::time::timeout(FIRST_ANSWER_WITHIN, ended)
                .await
                .is_ok()
            {
                known = self.look(&query, None).0;
            }
        }
        match known {
            Known::Offers(offers) => Ok(offers),
            Known::Failed(why) => Err(MarketError::Unavailable(why)),
            Known::Wait(_) => Err(MarketError::Unavailable("the search is under way".into())),
        }
    }

    /// What is known now, and whether a search is to begin, which counts as begun. Without an interval none does.
    fn look(&self, query: &Query, interval: Option<Duration>) -> (Known, bool) {
        let now = Instant::now();
        let mut searches = self.0.lock();
        if searches.len() >= SEARCHES_MAX && !searches.contains_key(query) {
            searches.retain(|_, search| search.under_way);
        }
        let search = searches.entry(query.clone()).or_default();
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let tried = [
            search.found.as_ref().map(|(at, _)| age(at)),
            search.failed.as_ref().map(|(at, _)| age(at)),
        ];
        let youngest = tried.into_iter().flatten().min();
        let due = interval.is_some_and(|interval| youngest.is_none_or(|age| age > interval));
        let begin = due && !search.under_way;
        search.under_way |= begin;
        let old = AGE_MAX.max(3 * interval.unwrap_or_default());
        let known = match (&search.found, &search.failed) {
            (Some((at, offers)), _) if age(at) <= old => Known::Offers(offers.clone()),
            (_, Some((_, why))) if !search.under_way => Known::Failed(why.clone()),
            _ => Known::Wait(search.ended.subscribe()),
        };
        (known, begin)
    }

    fn ended(&self, query: &Query, result: Result<Vec<Offer>, String>) {
        let now = Instant::now();
        let mut searches = self.0.lock();
        let Some(search) = searches.get_mut(query) else {
            return;
        };
        search.under_way = false;
        match result {
            Ok(offers) => {
                search.found = Some((now, offers));
                search.failed = None;
            }
            Err(why) => search.failed = Some((now, why)),
        }
        search.ended.send_modify(|times| *times += 1);
    }

    /// An offer is taken or gone: nobody is to try it again, and others may have gone too.
    pub(super) fn forget(&self, is_it: impl Fn(&OfferId) -> bool) {
        for search in self.0.lock().values_mut() {
            if let Some((_, offers)) = &mut search.found {
                offers.retain(|offer| !is_it(&offer.id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::domain::UsdPerHour;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn query() -> Query {
        (0, "{}".to_owned())
    }

    fn offer(id: &str) -> Offer {
        Offer::plain(OfferId::new(id), UsdPerHour(1.0))
    }

    async fn ids(
        searches: &Arc<Searches>,
        interval: Duration,
        searched: &AtomicU32,
    ) -> Vec<String> {
        let offers = searches.offers(query(), interval, || {
            let id = searched.fetch_add(1, Relaxed).to_string();
            async move { Ok(vec![offer(&id), offer("kept")]) }
        });
        let offers = offers.await.expect("offers");
        offers.iter().map(|offer| offer.id.to_string()).collect()
    }

    #[tokio::test]
    async fn a_second_look_within_the_interval_searches_no_second_time() {
        let (searches, searched) = (Arc::new(Searches::default()), AtomicU32::new(0));
        for _ in 0..3 {
            assert_eq!(ids(&searches, INTERVAL, &searched).await, ["0", "kept"]);
        }
        assert_eq!(searched.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn an_offer_that_is_taken_is_not_shown_again() {
        let (searches, searched) = (Arc::new(Searches::default()), AtomicU32::new(0));
        ids(&searches, INTERVAL, &searched).await;
        searches.forget(|id| id.as_str() == "0");
        assert_eq!(ids(&searches, INTERVAL, &searched).await, ["kept"]);
    }

    #[tokio::test]
    async fn a_failed_search_is_told_and_not_repeated_at_once() {
        let searches = Arc::new(Searches::default());
        let searched = Arc::new(AtomicU32::new(0));
        for _ in 0..3 {
            let count = Arc::clone(&searched);
            let failed = searches.offers(query(), INTERVAL, || async move {
                count.fetch_add(1, Relaxed);
                Err("down".to_owned())
            });
            let error = failed.await.expect_err("down").to_string();
            assert_eq!(error, "market unavailable: down");
        }
        assert_eq!(searched.load(Relaxed), 1);
    }
}
