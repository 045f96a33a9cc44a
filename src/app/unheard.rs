//! Rented machines that cannot reach `public_url` take their gateway for gone and end themselves: it is said before.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::{InstanceState, Source, Timestamp, WorkerId};
use crate::fleet::{EndpointFleet, Fleet, Worker};
use crate::market::VastMarket;
use crate::telemetry::now;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Until dropped.
pub(super) async fn tell(fleet: &Fleet, market: Option<&VastMarket>) {
    let Some(market) = market else {
        return std::future::pending().await;
    };
    let mut told = BTreeSet::new();
    loop {
        if let Some(orphan_after) = market.orphan_after() {
            tell_once(fleet, orphan_after, &mut told);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell_once(fleet: &Fleet, orphan_after: Duration, told: &mut BTreeSet<WorkerId>) {
    let (unnamed_at, at) = (fleet.heard_unnamed_at(), now());
    let mut there = BTreeSet::new();
    for endpoint in fleet.endpoints().values() {
        for worker in endpoint.workers().iter() {
            there.insert(worker.id().clone());
            let Some((InstanceState::Running, since)) = worker.origin.seen() else {
                continue;
            };
            let named_at = worker.origin.heard().map(|(at, _)| at);
            let heard_at = named_at.max(unnamed_at);
            let lost = asks(endpoint, worker) && is_unheard(since, heard_at, orphan_after, at);
            if lost && told.insert(worker.id().clone()) {
                tracing::warn!(
                    endpoint = %endpoint.name, worker = %worker.id(), orphan_after_s = orphan_after.as_secs(),
                    "this machine runs and does not ask at public_url: if it cannot reach that, it ends itself after \
                     orphan_after"
                );
            }
        }
    }
    told.retain(|worker| there.contains(worker));
}

/// Its start script does.
fn asks(endpoint: &EndpointFleet, worker: &Worker) -> bool {
    let settings = endpoint.settings();
    let group = settings.group(&worker.spec.group);
    group.is_some_and(|group| match &group.source {
        Source::Vast(launch) => launch.launch.takes_preamble().is_ok(),
        Source::Local(_) | Source::Fixed { .. } => false,
    })
}

/// `heard_at`: when it asked last, or one that does not say which it is.
fn is_unheard(
    runs_since: Timestamp,
    heard_at: Option<Timestamp>,
    orphan_after: Duration,
    at: Timestamp,
) -> bool {
    at.since(runs_since.max(heard_at.unwrap_or(runs_since))) >= orphan_after / 2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::config::{self, SourceFile};
    use crate::domain::WorkerPhase;
    use crate::fleet::WorkerSpec;

    fn fleet(launch_args: &str) -> (Arc<Fleet>, Arc<Worker>) {
        let file = |name: &str, text: String| SourceFile {
            name: name.to_owned(),
            text,
        };
        let group = json!({"name": "g", "engine": "tgi", "search_params": "num_gpus=1", "launch_args": launch_args});
        let endpoint = json!({"endpoint_name": "chat", "market": "vast", "worker_groups": [group]});
        let endpoints = [file("e.yaml", endpoint.to_string())];
        let server = file("tidegate.yaml", String::new());
        let key = |name: &str| (name == "VAST_API_KEY").then(|| "k".to_owned());
        let config = config::parse(&server, &endpoints, &key).expect("configuration");
        let fleet = Fleet::new(&config.endpoints);
        let endpoint = fleet.endpoint("chat").expect("endpoint");
        let group = &config.endpoints[0].groups[0];
        let spec = WorkerSpec::new(WorkerId::new("g-1"), group);
        let price = group.usd_per_hour;
        let worker = endpoint.add_worker(spec, WorkerPhase::Starting, price, now());
        (fleet, worker)
    }

    const ASKS: &str = "--image i --ssh --env '-p 80:80' --onstart-cmd serve";
    const CANNOT: &str = "--image i --env '-p 80:80' --args serve";

    #[test]
    fn a_machine_that_runs_and_is_not_heard_is_named_once() {
        for (launch_args, named) in [(ASKS, 1), (CANNOT, 0)] {
            let (fleet, worker) = fleet(launch_args);
            let mut told = BTreeSet::new();
            let orphan_after = Duration::from_secs(20);
            tell_once(&fleet, orphan_after, &mut told);
            assert!(told.is_empty(), "it does not run yet");
            let a_minute_ago = Timestamp::from_millis(now().as_millis() - 60_000);
            worker.origin.see(InstanceState::Running, a_minute_ago);
            fleet.hear_alive(None, now());
            tell_once(&fleet, orphan_after, &mut told);
            assert!(told.is_empty(), "somebody asked");
            fleet.hear_alive(None, a_minute_ago);
            fleet.hear_alive(Some("g-1"), now());
            tell_once(&fleet, orphan_after, &mut told);
            assert!(told.is_empty(), "it asked");
            fleet.hear_alive(Some("g-1"), a_minute_ago);
            fleet.hear_alive(Some("g-2"), now());
            tell_once(&fleet, orphan_after, &mut told);
            assert_eq!(told.len(), named, "{launch_args}");
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_machine_is_unheard_when_nobody_asks_for_half_the_time_it_waits() {
        let orphan_after = Duration::from_secs(600);
        for (runs_since, heard_at, now, unheard) in [
            (1_000, None, 1_299, false),
            (1_000, None, 1_300, true),
            (1_000, Some(400), 1_299, false),
            (1_000, Some(400), 1_300, true),
            (1_000, Some(1_290), 1_580, false),
            (1_000, Some(1_290), 1_600, true),
        ] {
            let heard_at = heard_at.map(at);
            let said = is_unheard(at(runs_since), heard_at, orphan_after, at(now));
            assert_eq!(said, unheard, "{runs_since} {heard_at:?} {now}");
        }
    }
}
