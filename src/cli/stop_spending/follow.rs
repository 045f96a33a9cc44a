//! Following the gateway that runs while it ends what it rented.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::Arguments;
use super::until_empty::tell;
use crate::cli::ask::{self, Gateway};
use crate::config::ServerConfig;
use crate::domain::{MarketKind, MoneyView, WorkerPhase};

/// A gateway sees the mark at its next tick, which a market that does not answer may hold up.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// Nobody answers for so long: the gateway is broken.
const BROKEN_AFTER: Duration = Duration::from_secs(10);
/// One question to a gateway that may be broken.
const QUESTION: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `/fleet`, as far as this is about it.
#[derive(Deserialize)]
struct Fleet {
    money: MoneyView,
    endpoints: Vec<FleetEndpoint>,
}

#[derive(Deserialize)]
struct FleetEndpoint {
    market: MarketKind,
    workers: Vec<FleetWorker>,
}

#[derive(Deserialize)]
struct FleetWorker {
    id: String,
    phase: WorkerPhase,
}

impl Fleet {
    /// Workers, rentals without one, and what keeps from knowing that there is nothing else: a machine that the ledger
    /// does not know, a market that cannot be listed.
    fn left(&self) -> Vec<String> {
        let rented = |endpoint: &&FleetEndpoint| endpoint.market != MarketKind::Fixed;
        let workers = self.endpoints.iter().filter(rented);
        let workers = workers
            .flat_map(|endpoint| &endpoint.workers)
            .map(|worker| format!("{} ({})", worker.id, worker.phase.as_str()));
        let orphans = self.money.orphans.iter();
        let orphans = orphans.map(|worker| format!("{worker} (open in the ledger)"));
        let doubts = self.money.markets.iter().flat_map(|market| {
            let name = market.market.as_str();
            let why = market.renting_paused.iter();
            why.map(move |why| format!("{name}: {why}"))
        });
        workers.chain(orphans).chain(doubts).collect()
    }
}

/// What is left when the gateway has ended all, has begun and need not be waited for, or the wait is over. An error is
/// a gateway that does not answer, or uses another state directory.
pub(super) async fn follow(
    arguments: &Arguments,
    server: &ServerConfig,
) -> Result<Vec<String>, String> {
    let url = arguments
        .admin
        .clone()
        .unwrap_or_else(|| ask::url_of(server.admin_listen));
    let gateway = Gateway::at(&url).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(arguments.wait.unwrap_or(0));
    let seen_by = Instant::now() + SEEN_WITHIN;
    let mut heard = Instant::now();
    let mut told = Vec::new();
    loop {
        let asked = timeout(QUESTION, gateway.json::<Fleet>("/fleet")).await;
        let why = match asked {
            Ok(Ok(fleet)) => {
                heard = Instant::now();
                let left = fleet.left();
                let seen = fleet.money.stopped;
                if seen && (left.is_empty() || Instant::now() >= deadline) {
                    return Ok(left);
                }
                if !seen && Instant::now() >= seen_by {
                    let dir = server.state_dir.display();
                    return Err(format!(
                        "the gateway at {url} does not see the mark: is {dir} its state directory?"
                    ));
                }
                tell(&mut told, &left);
                String::new()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!(
                "the gateway at {url} does not answer within {} s",
                QUESTION.as_secs()
            ),
        };
        if heard.elapsed() >= BROKEN_AFTER {
            return Err(why);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn left(orphans: serde_json::Value, paused: serde_json::Value) -> Vec<String> {
        let fleet: Fleet = serde_json::from_value(json!({"endpoints": [], "money": {
            "stopped": true, "releasing": [], "endpoints": [], "limits": [], "orphans": orphans,
            "total": {"committed": 0.0, "today": 0.0, "this_month": 0.0, "usd_per_million_tokens": null},
            "markets": [{"market": "vast", "renting_paused": paused, "listed_at": null, "credit": null}]}}))
        .expect("a fleet");
        fleet.left()
    }

    #[test]
    fn nothing_is_called_empty_while_a_machine_is_unaccounted_for_or_a_market_does_not_say() {
        assert!(left(json!([]), json!([])).is_empty());
        assert_eq!(left(json!(["w1"]), json!([])), ["w1 (open in the ledger)"]);
        let doubt = left(json!([]), json!(["the market cannot be listed"]));
        assert_eq!(doubt, ["vast: the market cannot be listed"]);
    }
}
