//! Workers that stand at given URLs: listed as running, never rented, never ended.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Market, MarketError, Order};
use crate::domain::{
    EndpointName, FixedWorker, InstallationId, Instance, InstanceId, InstanceState, Offer,
    RentalLabel, UsdPerHour, WorkerGroup, WorkerId,
};

/// One waiter of `changed` is woken by each change; a change without a waiter is kept for the next.
pub struct FixedMarket {
    installation: InstallationId,
    instances: Mutex<Vec<Instance>>,
    news: Notify,
}

impl FixedMarket {
    pub fn new(
        installation: InstallationId,
        workers: Vec<(EndpointName, Vec<FixedWorker>)>,
    ) -> Self {
        let instances = Mutex::new(listing(&installation, &workers));
        Self {
            installation,
            instances,
            news: Notify::new(),
        }
    }

    /// Takes the workers of a reloaded configuration in place of all earlier ones.
    pub fn replace(&self, workers: Vec<(EndpointName, Vec<FixedWorker>)>) {
        *self.lock() = listing(&self.installation, &workers);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Market for FixedMarket {
    async fn offers(&self, _group: &WorkerGroup) -> Result<Vec<Offer>, MarketError> {
        Ok(Vec::new())
    }

    async fn rent(&self, _order: &Order<'_>) -> Result<InstanceId, MarketError> {
        Err(MarketError::Refused("fixed workers are not rented".into()))
    }

    async fn instances(&self) -> Result<Vec<Instance>, MarketError> {
        Ok(self.lock().clone())
    }

    async fn start(&self, _id: &InstanceId) -> Result<(), MarketError> {
        Ok(())
    }

    async fn stop(&self, _id: &InstanceId) -> Result<(), MarketError> {
        Ok(())
    }

    async fn destroy(&self, _id: &InstanceId) -> Result<(), MarketError> {
        Ok(())
    }

    async fn changed(&self) {
        self.news.notified().await;
    }
}

/// A URL given twice to one endpoint is one worker.
fn listing(
    installation: &InstallationId,
    endpoints: &[(EndpointName, Vec<FixedWorker>)],
) -> Vec<Instance> {
    let mut names = BTreeSet::new();
    let mut instances = Vec::new();
    for (endpoint, workers) in endpoints {
        for worker in workers {
            let name = name_of(endpoint, &worker.url);
            if names.insert(name.clone()) {
                instances.push(instance(installation, endpoint, &name, worker));
            }
        }
    }
    instances
}

fn instance(
    installation: &InstallationId,
    endpoint: &EndpointName,
    name: &str,
    worker: &FixedWorker,
) -> Instance {
    let label = RentalLabel {
        installation: installation.clone(),
        endpoint: endpoint.clone(),
        worker: WorkerId::new(name),
    };
    let address = Some(worker.address);
    Instance::plain(
        InstanceId::new(name),
        label,
        InstanceState::Running,
        address,
        UsdPerHour::ZERO,
    )
}

/// Holds the endpoint too: one server may stand behind two endpoints and is a worker of each.
fn name_of(endpoint: &EndpointName, url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let place: String = rest
        .trim_end_matches('/')
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' => c,
            _ => '-',
        })
        .collect();
    format!("fixed-{endpoint}-{place}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn worker(port: u16) -> FixedWorker {
        FixedWorker {
            url: format!("http://127.0.0.1:{port}/"),
            address: ([127, 0, 0, 1], port).into(),
            api_key: None,
        }
    }

    fn market(workers: Vec<(&str, Vec<FixedWorker>)>) -> FixedMarket {
        FixedMarket::new(InstallationId::new("i"), named(workers))
    }

    fn named(workers: Vec<(&str, Vec<FixedWorker>)>) -> Vec<(EndpointName, Vec<FixedWorker>)> {
        workers
            .into_iter()
            .map(|(name, workers)| (EndpointName::new(name), workers))
            .collect()
    }

    async fn workers_of(market: &FixedMarket) -> Vec<String> {
        let listed = market.instances().await.expect("listing");
        listed
            .iter()
            .map(|one| one.label.worker.to_string())
            .collect()
    }

    #[tokio::test]
    async fn each_url_is_one_running_worker_of_its_endpoint() {
        let market = market(vec![
            ("chat", vec![worker(9001), worker(9002), worker(9001)]),
            ("code", vec![worker(9001)]),
        ]);
        assert_eq!(
            workers_of(&market).await,
            [
                "fixed-chat-127.0.0.1-9001",
                "fixed-chat-127.0.0.1-9002",
                "fixed-code-127.0.0.1-9001"
            ]
        );
        let first = market.instances().await.expect("listing").remove(0);
        assert_eq!(first.state, InstanceState::Running);
        assert_eq!(first.address, Some(([127, 0, 0, 1], 9001).into()));
        assert_eq!(first.usd_per_hour, UsdPerHour::ZERO);
    }

    #[tokio::test]
    async fn ending_a_fixed_worker_leaves_it_where_it_is() {
        let market = market(vec![("chat", vec![worker(9001)])]);
        let id = market.instances().await.expect("listing").remove(0).id;
        market.stop(&id).await.expect("stop");
        market.destroy(&id).await.expect("destroy");
        assert_eq!(workers_of(&market).await, ["fixed-chat-127.0.0.1-9001"]);
    }

    #[tokio::test]
    async fn a_reload_is_news_and_replaces_the_workers() {
        let market = market(vec![("chat", vec![worker(9001)])]);
        market.replace(named(vec![("chat", vec![worker(9002)])]));
        tokio::time::timeout(Duration::from_secs(5), market.changed())
            .await
            .expect("changed");
        assert_eq!(workers_of(&market).await, ["fixed-chat-127.0.0.1-9002"]);
    }
}
