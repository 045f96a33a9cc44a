//! A fleet with as many workers as wanted, as the gateway holds it.

use std::sync::Arc;

use anyhow::{Context, Result};
use tidegate::config::SourceFile;
use tidegate::domain::{
    ClientKey, Endpoint, PredictedCost, Prefix, Timestamp, UsdPerHour, WorkerId, WorkerPhase,
};
use tidegate::fleet::{Admission, Claim, EndpointFleet, Fleet, Ticket, WorkerSpec};

/// Idle, ready workers of the endpoint's first group.
pub(super) fn ready(workers: usize) -> Result<Arc<EndpointFleet>> {
    let fleet = Fleet::new(&[endpoint()?]);
    let endpoint = fleet.endpoint("bench").context("configured above")?;
    let now = Timestamp::from_millis(1_000);
    let group = endpoint.settings().groups[0].clone();
    for n in 0..workers {
        let id = WorkerId::new(format!("worker-{n:05}"));
        let spec = WorkerSpec::new(id, &group);
        endpoint.add_worker(spec, WorkerPhase::Ready, UsdPerHour(0.4), now);
    }
    Ok(endpoint)
}

/// Every worker gets as much as in use: three requests. Held as long as the answer lives.
pub(super) fn occupy(
    endpoint: &Arc<EndpointFleet>,
    workers: usize,
    cost: &PredictedCost,
) -> Result<Vec<Claim>> {
    let now = Timestamp::from_millis(1_000);
    let ticket = ticket(*cost);
    (0..3 * workers)
        .map(|_| match endpoint.admit(&ticket, now) {
            Admission::Assigned(claim) => Ok(claim),
            _ => anyhow::bail!("no worker for the load"),
        })
        .collect()
}

/// From the resident size of this process; `None` where it grew by too little to tell.
pub(super) fn bytes_per_worker(workers: usize) -> Option<f64> {
    const LEAST_KB: u64 = 512;
    let before = own_kb()?;
    let fleet = ready(workers).ok()?;
    let grown = own_kb()?.saturating_sub(before);
    drop(fleet);
    (grown >= LEAST_KB).then(|| grown as f64 * 1024.0 / workers as f64)
}

fn own_kb() -> Option<u64> {
    crate::compare::processes::resident_kb(std::process::id()).ok()
}

pub(super) fn ticket(cost: PredictedCost) -> Ticket {
    Ticket {
        client: ClientKey::new("bench"),
        cost,
        body_bytes: 4_000,
        tried: Vec::new(),
        priority: 0,
        resumed: false,
        prefix: Prefix::default(),
        streamed: true,
    }
}

/// An endpoint as the configuration has it, every other setting being the default.
pub(super) fn endpoint() -> Result<Endpoint> {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let endpoint = "endpoint_name: bench\nmarket: {kind: fixed, engine: fake, workers: [{url: \"http://127.0.0.1:1\"}]}\n\
         worker_groups: [{tokens_per_second: 700, concurrency: 32, max_concurrency: 256, kv_tokens: 100000}]\n";
    let config = tidegate::config::parse(
        &file("tidegate.yaml", ""),
        &[file("endpoints/bench.yaml", endpoint)],
        &|_| None,
    )
    .map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
    config.endpoints.into_iter().next().context("one endpoint")
}
