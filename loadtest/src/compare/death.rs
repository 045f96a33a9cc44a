//! What the clients see when a worker dies: with streams on it, and with nothing on it just before they ask.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::machine::Pinning;
use super::peers::{Recipe, Running};
use super::result::Death;
use crate::harness::{FakeWorker, http_client, wait_until};
use crate::replay::Api;
use crate::replay::client::{Target, send_body};
use crate::replay::outcome::Outcome;
use crate::trace::TraceRequest;

const STREAMS: usize = 8;
/// Two seconds of each stream.
const TOKENS: u32 = 100;
const REQUESTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(recipe: &'static Recipe, pinning: Pinning) -> Result<Death> {
    let (struck, outcomes) = kill_with_streams(recipe, pinning).await?;
    let after = kill_between(recipe, pinning).await?;
    let is_whole = |outcome: &&Outcome| {
        outcome.failure.is_none() && outcome.output_tokens == u64::from(TOKENS)
    };
    Ok(Death {
        peer: recipe.name,
        streams: STREAMS,
        struck,
        whole: outcomes.iter().filter(is_whole).count(),
        broken: endings(outcomes.iter().filter(|o| !is_whole(o))),
        asked: REQUESTS,
        answered: after.iter().filter(|o| o.failure.is_none()).count(),
        refused: endings(after.iter().filter(|o| o.failure.is_some())),
        slowest_ms: after
            .iter()
            .map(|outcome| outcome.total.as_secs_f64() * 1e3)
            .fold(0.0, f64::max),
    })
}

fn endings<'o>(outcomes: impl Iterator<Item = &'o Outcome>) -> BTreeMap<String, usize> {
    let mut endings = BTreeMap::new();
    for outcome in outcomes {
        let ending = match &outcome.failure {
            Some(failure) => failure.kind.clone(),
            None => format!("ended as if whole after {} tokens", outcome.output_tokens),
        };
        *endings.entry(ending).or_default() += 1;
    }
    endings
}

/// How many streams were on it, and how all ended.
async fn kill_with_streams(
    recipe: &'static Recipe,
    pinning: Pinning,
) -> Result<(u64, Vec<Outcome>)> {
    let stage = Stage::start(recipe, pinning).await?;
    let [mut first, second] = stage.workers;
    let mut open = JoinSet::new();
    for seed in 0..STREAMS {
        let (target, body) = (target(&stage.running, Api::Chat)?, body(Api::Chat, seed));
        open.spawn(async move { send_body(&target, body, Instant::now()).await });
    }
    // Both workers have some, whoever was chosen first.
    let on_first = Cell::new(0);
    let all_begun = wait_until(PATIENCE, || async {
        on_first.set(running_on(&first).await);
        on_first.get() + running_on(&second).await >= STREAMS as u64
    });
    ensure!(all_begun.await, "not all streams began");
    // In the middle of the answers.
    tokio::time::sleep(Duration::from_millis(600)).await;
    first.child.kill()?;
    let mut outcomes = Vec::new();
    while let Some(ended) = open.join_next().await {
        outcomes.push(ended?);
    }
    Ok((on_first.get(), outcomes))
}

/// Requests one after the other as soon as the worker is dead.
async fn kill_between(recipe: &'static Recipe, pinning: Pinning) -> Result<Vec<Outcome>> {
    let stage = Stage::start(recipe, pinning).await?;
    let [mut first, _second] = stage.workers;
    let target = target(&stage.running, Api::Chat)?;
    // The proxy has connections to both that it may want to use again.
    for seed in 0..REQUESTS {
        send_body(&target, short_body(seed), Instant::now()).await;
    }
    first.child.kill()?;
    let mut outcomes = Vec::new();
    for seed in 0..REQUESTS {
        let body = short_body(REQUESTS + seed);
        outcomes.push(send_body(&target, body, Instant::now()).await);
    }
    Ok(outcomes)
}

struct Stage {
    running: Running,
    workers: [FakeWorker; 2],
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start(recipe: &'static Recipe, pinning: Pinning) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let flags = ["--a-ms", "20", "--model", "bench"];
        let workers = [
            FakeWorker::start(&flags, folder.path()).await?,
            FakeWorker::start(&flags, folder.path()).await?,
        ];
        let ports = workers.each_ref().map(|worker| worker.port);
        let running = Running::start(recipe, recipe.policies[0], &ports, pinning).await?;
        Ok(Self {
            running,
            workers,
            _folder: folder,
        })
    }
}

fn target(running: &Running, api: Api) -> Result<Target> {
    Ok(Target {
        client: http_client()?,
        url: running.url(api.path()),
        api,
        model: Some("bench".to_owned()),
        api_key: None,
        timeout: Duration::from_secs(60),
    })
}

fn body(api: Api, seed: usize) -> String {
    request(api, seed, TOKENS)
}

/// Two tokens: answered before the next is asked.
fn short_body(seed: usize) -> String {
    request(Api::Chat, seed, 2)
}

fn request(api: Api, seed: usize, tokens: u32) -> String {
    let request = TraceRequest {
        arrival_s: 0.0,
        input_tokens: 50,
        output_tokens: tokens,
    };
    api.body(request, seed as u64, Some("bench")).to_string()
}

/// Sequences in the engine's batch; none if it does not answer.
async fn running_on(worker: &FakeWorker) -> u64 {
    let asked = async {
        let metrics = http_client()?
            .get(format!("{}/metrics", worker.url))
            .send()
            .await?;
        let text = metrics.text().await?;
        let line = text
            .lines()
            .find(|line| !line.starts_with('#') && line.contains("fake_requests_running"));
        let value = line.and_then(|line| line.rsplit(' ').next());
        let value: f64 = value.context("no metric of running requests")?.parse()?;
        anyhow::Ok(value as u64)
    };
    asked.await.unwrap_or(0)
}
