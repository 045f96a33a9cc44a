//! Configurations, programs and certificates change under load, and nobody notices.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinSet;

use super::ask::{Route, ask};
use super::certificate::Secured;
use super::report::{Section, Times};
use crate::harness::{
    ConfigDir, Gateway, Program, fake_worker_binary, http_client, http_client_without_pool,
    wait_until,
};

/// Longest any answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Longest for the gateway to follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(60);
const TOKEN: &str = "admin-secret-of-the-soak";
const WORKERS: usize = 2;

/// Reloads, upgrades and new certificates under load
#[derive(Args, Clone, Debug)]
pub struct ChangeOptions {
    /// Upgrades in place, a reload and a new certificate before each
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// Clients that ask without a pause; half of them keep their connections, half of them use TLS
    #[arg(long, default_value_t = 12)]
    pub at_once: usize,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 60)]
    pub tokens: u32,
    /// Milliseconds between two changes
    #[arg(long, default_value_t = 1_500)]
    pub pause_ms: u64,
}

impl Default for ChangeOptions {
    fn default() -> Self {
        Self {
            rounds: 20,
            at_once: 12,
            tokens: 60,
            pause_ms: 1_500,
        }
    }
}

#[derive(Default)]
pub struct Findings {
    options: ChangeOptions,
    pub answers: usize,
    pub flaws: Vec<String>,
    times: Times,
    upgrades: Times,
    reloads: usize,
    certificates: usize,
    lock: LockWatch,
    complaints: Vec<String>,
}

pub async fn run(options: &ChangeOptions) -> Result<Findings> {
    let secured = Secured::new()?;
    let mut gateway = start(&secured).await?;
    let over = Arc::new(AtomicBool::new(false));
    let lock = tokio::spawn(watch_lock(
        gateway.config.state_dir().join("ledger.lock"),
        Arc::clone(&over),
    ));
    let mut clients = JoinSet::new();
    for nth in 0..options.at_once {
        let (client, base_url) = match nth % 4 {
            0 => (http_client()?, gateway.base_url.clone()),
            1 => (http_client_without_pool()?, gateway.base_url.clone()),
            kind => (secured.trusting_client(kind == 2)?, secured.base_url()),
        };
        let asking = Asking {
            client,
            base_url,
            tokens: options.tokens,
            over: Arc::clone(&over),
        };
        clients.spawn(asking.all(nth));
    }
    let mut findings = Findings {
        options: options.clone(),
        ..Findings::default()
    };
    let changed = change(&mut gateway, &secured, options, &mut findings).await;
    over.store(true, Relaxed);
    while let Some(answers) = clients.join_next().await {
        for (took, flaws) in answers.context("a client of the test panicked")? {
            findings.answers += 1;
            findings.times.add(took);
            findings.flaws.extend(flaws);
        }
    }
    findings.lock = lock.await.context("the watch of the lock panicked")?;
    changed?;
    Ok(findings)
}

async fn start(secured: &Secured) -> Result<Gateway> {
    let config = ConfigDir::new(&server(secured))?;
    config.write_endpoint("model", &endpoint(0)?)?;
    let gateway = Gateway::start(config).await?;
    let ready = wait_until(FOLLOWS_WITHIN, || async {
        gateway
            .fleet()
            .await
            .is_ok_and(|fleet| fleet.ready() == WORKERS)
    });
    ensure!(ready.await, "no workers\n{}", gateway.child.log_tail());
    Ok(gateway)
}

fn server(secured: &Secured) -> String {
    let tls = secured.setting();
    format!("scaler_interval: 0.1\ngrace_period: 60\nadmin_token: {TOKEN}\n{tls}\n")
}

/// Each round's differs in what a reload can change.
fn endpoint(round: usize) -> Result<String> {
    let program = fake_worker_binary()?;
    Ok(format!(
        "endpoint_name: model\nmarket: local\nmin_load: 700\nmax_workers: {WORKERS}\ninactivity_timeout: -1\n\
         max_waiting_requests: {}\nworker_groups:\n  - name: cpu\n    engine: fake\n    \
         command: '{} --listen 127.0.0.1:{{port}} --a-ms 10'\n    tokens_per_second: 400\n    concurrency: 8\n    \
         max_concurrency: {}\n",
        1_000 + round,
        program.display(),
        16 + round % 3,
    ))
}

/// One client, one request after another.
struct Asking {
    client: Client,
    base_url: String,
    tokens: u32,
    over: Arc<AtomicBool>,
}

impl Asking {
    async fn all(self, nth: usize) -> Vec<(Duration, Vec<String>)> {
        let mut answers = Vec::new();
        let mut turn = nth;
        while !self.over.load(Relaxed) {
            let route = Route::ALL[turn % Route::ALL.len()];
            let tokens = 1 + (turn as u32 * 7) % self.tokens;
            turn += 1;
            let body = route.body("a river", tokens);
            let began = Instant::now();
            let told = ask(&self.client, &self.base_url, route, &body, ANSWER_WITHIN).await;
            answers.push((began.elapsed(), told.flaws(route)));
        }
        answers
    }
}

async fn change(
    gateway: &mut Gateway,
    secured: &Secured,
    options: &ChangeOptions,
    findings: &mut Findings,
) -> Result<()> {
    let pause = Duration::from_millis(options.pause_ms);
    let before = workers(gateway).await?;
    let mut old: Vec<Program> = Vec::new();
    for round in 1..=options.rounds {
        reload(gateway, round).await?;
        findings.reloads += 1;
        secured.renew()?;
        if !wait_until(FOLLOWS_WITHIN, || secured.is_served()).await {
            let complaint = format!("round {round}: the new certificate is not served");
            findings.complaints.push(complaint);
        }
        findings.certificates += 1;
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        old.push(gateway.upgrade().await?);
        findings.upgrades.add(began.elapsed());
        let now = workers(gateway).await?;
        if now != before {
            let complaint = format!("round {round}: the workers were {before:?} and are {now:?}");
            findings.complaints.push(complaint);
        }
        tokio::time::sleep(pause).await;
    }
    for mut program in old {
        let status = program.wait_for_exit(FOLLOWS_WITHIN).await?;
        if !status.success() {
            findings
                .complaints
                .push(format!("an old process ended with {status}"));
        }
    }
    Ok(())
}

/// By call, and every other time by the file's change alone.
async fn reload(gateway: &Gateway, round: usize) -> Result<()> {
    gateway.config.write_endpoint("model", &endpoint(round)?)?;
    let client = http_client()?;
    if round.is_multiple_of(2) {
        return Ok(());
    }
    client
        .post(format!("{}/reload", gateway.admin_url))
        .bearer_auth(TOKEN)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

/// Ids and addresses.
async fn workers(gateway: &Gateway) -> Result<BTreeSet<(String, String)>> {
    let client = http_client_without_pool()?;
    let answer = client.get(format!("{}/fleet", gateway.admin_url)).send();
    let fleet: Value = answer.await?.error_for_status()?.json().await?;
    let rows = fleet["endpoints"][0]["workers"].as_array().cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(rows
        .unwrap_or_default()
        .iter()
        .map(|row| (text(&row["id"]), text(&row["address"])))
        .collect())
}

/// Who held the ledger's lock, looked at all the time.
#[derive(Clone, Copy, Debug, Default)]
struct LockWatch {
    looks: usize,
    holders_max: usize,
    longest_without: Duration,
}

async fn watch_lock(path: PathBuf, over: Arc<AtomicBool>) -> LockWatch {
    let mut watch = LockWatch::default();
    let mut held_at = Instant::now();
    while !over.load(Relaxed) {
        // A table that cannot be read says nothing.
        if let Some(holders) = holders(&path) {
            watch.looks += 1;
            watch.holders_max = watch.holders_max.max(holders);
            if holders > 0 {
                held_at = Instant::now();
            }
            watch.longest_without = watch.longest_without.max(held_at.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    watch
}

/// Locks on the file in the kernel's table; those that wait for one are marked with an arrow.
fn holders(path: &Path) -> Option<usize> {
    let inode = format!(":{}", std::fs::metadata(path).ok()?.ino());
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    let of_file = |line: &&str| {
        let mut words = line.split_whitespace();
        !line.contains("->") && words.any(|word| word.ends_with(&inode))
    };
    Some(table.lines().filter(of_file).count())
}

impl Findings {
    pub fn section(&self) -> Section {
        let options = &self.options;
        let lock = &self.lock;
        let text = format!(
            "{} upgrades in place, {} reloads and {} new certificates while {} clients asked without a pause, half of them \
             on connections they keep, half of them with TLS.\n\n| | |\n|---|---|\n| answers | {} |\n| **failed** | **{}** |\n\
             | time of an answer, p50 / p99 / max ms | {} |\n| from the start of a new process until it leads, ms | {} |\n\
             | most holders of the ledger's lock at any of {} looks | {} |\n| longest time without a holder, ms | {} |\n",
            self.upgrades.count(),
            self.reloads,
            self.certificates,
            options.at_once,
            self.answers,
            self.flaws.len(),
            self.times,
            self.upgrades,
            lock.looks,
            lock.holders_max,
            lock.longest_without.as_millis(),
        );
        let mut complaints = self.complaints.clone();
        if !self.flaws.is_empty() {
            let shown: Vec<&String> = self.flaws.iter().take(5).collect();
            complaints.push(format!("{} answers failed: {shown:?}", self.flaws.len()));
        }
        if lock.holders_max != 1 {
            complaints.push(format!("{} held the ledger at once", lock.holders_max));
        }
        Section {
            title: "Change under load".to_owned(),
            command: format!(
                "loadtest soak change --rounds {} --at-once {} --tokens {} --pause-ms {}",
                options.rounds, options.at_once, options.tokens, options.pause_ms
            ),
            text,
            complaints,
        }
    }
}
