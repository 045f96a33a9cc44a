//! Streams whose workers die, hang, lie or freeze at a random token, and their clients, who must not notice: the stand-in
//! worker's text can be continued by any other, so every disturbed answer must equal the undisturbed one.

mod cases;
mod findings;
mod honest;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::StreamExt;

use self::cases::{Case, Dice};
pub use self::findings::Findings;
use self::workers::Workers;
use super::ask::ask;
use super::stage::{fixed_endpoint, gateway_over};
use crate::fakes::worker::{self, Settings, Worker};
use crate::harness::{Gateway, http_client};

/// From asking to the end of one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Disturbed streams of the stand-in worker, on every route
#[derive(Args, Clone, Debug)]
pub struct SeamOptions {
    #[arg(long, default_value_t = 5_000)]
    pub count: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Requests at once
    #[arg(long, default_value_t = 32)]
    pub at_once: usize,
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
}

impl Default for SeamOptions {
    fn default() -> Self {
        Self {
            count: 5_000,
            seed: 1,
            at_once: 32,
            workers: 4,
        }
    }
}

/// The endpoint under test. What it is generous with (attempts, resumptions) is bounded elsewhere; here every stream breaks.
const ENDPOINT: &str = "retry_attempts: 10
retry_budget: 1
resume_times: 10
timeouts: {silence: 1, first_byte: 3}
";

/// Everything that takes part; ends with this value.
struct Stage {
    gateway: Gateway,
    workers: Workers,
    /// Nobody disturbs it.
    undisturbed: Worker,
    client: reqwest::Client,
}

impl Stage {
    async fn set(options: &SeamOptions) -> Result<Arc<Self>> {
        let workers = Workers::start(options.workers, options.seed).await?;
        let urls: Vec<String> = workers.urls().map(str::to_owned).collect();
        let gateway = gateway_over(&fixed_endpoint(&urls, ENDPOINT), "", urls.len()).await?;
        let undisturbed = worker::start("127.0.0.1:0", Settings::default()).await?;
        Ok(Arc::new(Self {
            gateway,
            workers,
            undisturbed,
            client: http_client()?,
        }))
    }

    /// The case asked of the undisturbed worker, then of the gateway.
    async fn play(&self, mut case: Case) -> Result<findings::Played> {
        let (client, route) = (&self.client, case.route);
        let mut undisturbed = ask(
            client,
            &self.undisturbed.url(),
            route,
            &case.body,
            ANSWER_WITHIN,
        )
        .await;
        if case.wants_stop(&undisturbed) {
            undisturbed = ask(
                client,
                &self.undisturbed.url(),
                route,
                &case.body,
                ANSWER_WITHIN,
            )
            .await;
        }
        let flaws = undisturbed.flaws(route);
        anyhow::ensure!(flaws.is_empty(), "undisturbed: {flaws:?}: {}", case.body);
        let body = case.disturbed();
        let began = Instant::now();
        let told = ask(client, &self.gateway.base_url, route, &body, ANSWER_WITHIN).await;
        Ok(findings::Played {
            struck: self.workers.struck(&case.name),
            took: began.elapsed(),
            case,
            undisturbed,
            told,
        })
    }
}

/// Plays all cases; an error only where the stage itself breaks.
pub async fn run(options: &SeamOptions) -> Result<Findings> {
    let stage = Stage::set(options).await?;
    let mut dice = Dice::new(options.seed);
    let began = Instant::now();
    let mut findings = Findings::new(options);
    let cases: Vec<Case> = (0..options.count).map(|nth| dice.case(nth)).collect();
    let mut played = futures_util::stream::iter(cases)
        .map(|case| {
            let stage = Arc::clone(&stage);
            async move { tokio::spawn(async move { stage.play(case).await }).await }
        })
        .buffer_unordered(options.at_once.max(1));
    while let Some(played) = played.next().await {
        findings.take(played.context("a client of the test panicked")??);
    }
    findings.honest = honest::check(&stage.gateway, &stage.client).await?;
    findings.restarts = stage.workers.restarts();
    findings.counters = read_counters(&stage).await?;
    findings.took = began.elapsed();
    Ok(findings)
}

/// The gateway's own counts of what it had to make good.
async fn read_counters(stage: &Stage) -> Result<Vec<(String, f64)>> {
    let url = format!("{}/metrics", stage.gateway.admin_url);
    let text = stage.client.get(url).send().await?.text().await?;
    let wanted = |line: &&str| {
        [
            "tidegate_resume",
            "tidegate_attempts_failed_total",
            "tidegate_requests_total",
        ]
        .iter()
        .any(|name| line.starts_with(name))
            && !line.contains("_bucket")
    };
    let read = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter(wanted).filter_map(read).collect())
}
