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
    fn left(&self) -> Vec<String> {
        let rented = |endpoint: &&FleetEndpoint| endpoint.market != MarketKind::Fixed;
        let workers = self.endpoints.iter().filter(rented);
        workers
            .flat_map(|endpoint| &endpoint.workers)
            .map(|worker| format!("{} ({})", worker.id, worker.phase.as_str()))
            .collect()
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
