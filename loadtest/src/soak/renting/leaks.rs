//! Nothing leaks: every fault of the market at once, and a gateway that is killed at random moments.
//!
//! A seed settles the market, its faults and when what is done to the gateway; processes run in real time, so two runs of
//! one seed meet at other instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::account::{Machine, Watch, watch};
use super::books;
use super::stage::{self, ENDPOINT, Rules};
use crate::harness::{FakeVast, Gateway, wait_until};
use crate::soak::Section;

/// After the faults end, for the gateway to put everything in order.
const SETTLES_WITHIN: Duration = Duration::from_secs(45);
const ENDS_WITHIN: Duration = Duration::from_secs(45);
/// Dollars an hour; a 4090 is about 0.4.
const LIMIT_USD_PER_HOUR: f64 = 1.6;

/// A market with every fault and a gateway that is killed, on many seeds
#[derive(Args, Clone, Debug)]
pub struct LeaksOptions {
    #[arg(long, default_value_t = 300)]
    pub runs: u64,
    /// Of the first run; each further one takes the next
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, default_value_t = 3)]
    pub at_once: usize,
    /// Seconds of faults and kills in each run
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// Share of instances and calls that each fault strikes
    #[arg(long, default_value_t = 0.06)]
    pub faults: f64,
}

impl Default for LeaksOptions {
    fn default() -> Self {
        Self {
            runs: 300,
            seed: 1,
            at_once: 3,
            seconds: 8.0,
            faults: 0.06,
        }
    }
}

/// What one seed showed.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub seed: u64,
    pub rented: usize,
    pub kills: usize,
    pub most_usd_per_hour: f64,
    /// What must not be.
    pub complaints: Vec<String>,
}

#[derive(Default)]
pub struct Findings {
    options: LeaksOptions,
    pub runs: Vec<Run>,
}

pub async fn run(options: &LeaksOptions) -> Result<Findings> {
    let places = Arc::new(Semaphore::new(options.at_once.max(1)));
    let mut runs = JoinSet::new();
    for seed in options.seed..options.seed + options.runs {
        let (places, options) = (Arc::clone(&places), options.clone());
        runs.spawn(async move {
            let _place = places.acquire_owned().await?;
            println!("seed {seed}");
            let run = one(seed, &options).await;
            run.with_context(|| format!("seed {seed}"))
        });
    }
    let mut findings = Findings {
        options: options.clone(),
        ..Findings::default()
    };
    while let Some(run) = runs.join_next().await {
        let run = run.context("a run panicked")??;
        for complaint in &run.complaints {
            println!("seed {}: {complaint}", run.seed);
        }
        findings.runs.push(run);
    }
    findings.runs.sort_by_key(|run| run.seed);
    Ok(findings)
}

async fn one(seed: u64, options: &LeaksOptions) -> Result<Run> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let rules = Rules {
        seed,
        ..Rules::default()
    };
    let market = Arc::new(stage::market(&rules).await?);
    let foreign = stage::rent_foreign(&market, 3).await?;
    market
        .set_faults(&everything(options.faults, &market).await?)
        .await?;
    let limit = format!("spending: {{max_usd_per_hour: {LIMIT_USD_PER_HOUR}}}\n");
    let config = stage::configuration(&market, &limit)?;
    config.write_endpoint(ENDPOINT, &stage::endpoint(2_000.0))?;
    let watching = watch(&market);
    let mut run = Run {
        seed,
        ..Run::default()
    };
    let gateway = stage::start(config).await?;
    let gateway = disturb(&market, gateway, &mut dice, options, &mut run).await?;
    market.set_faults(&json!({"clear": true})).await?;
    settle(&market, &gateway, &mut run).await?;
    let watch = watching.end().await?;
    run.most_usd_per_hour = watch.most_usd_per_hour;
    judge(&market, &foreign, &mut run).await?;
    if watch.most_usd_per_hour > LIMIT_USD_PER_HOUR {
        run.complaints.push(passed(&watch, &gateway)?);
    }
    Ok(run)
}

/// Every fault by its name, at one share.
async fn everything(share: f64, market: &FakeVast) -> Result<Value> {
    let known = market.set_faults(&json!({})).await?;
    let names = known.as_object().context("no faults")?.keys();
    Ok(names.map(|name| (name.clone(), json!(share))).collect())
}

/// Kills, changes, accidents and outages for as long as the options say.
async fn disturb(
    market: &FakeVast,
    mut gateway: Gateway,
    dice: &mut fastrand::Rng,
    options: &LeaksOptions,
    run: &mut Run,
) -> Result<Gateway> {
    let ends = Instant::now() + Duration::from_secs_f64(options.seconds);
    while Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(dice.u64(50..1_500))).await;
        match dice.u8(0..10) {
            0..6 => {
                gateway.child.kill()?;
                run.kills += 1;
                tokio::time::sleep(Duration::from_millis(dice.u64(0..800))).await;
                gateway = gateway.restart_with(stage::gateway_command()?).await?;
            }
            6..8 => {
                let load = [0.0, 500.0, 2_000.0, 4_000.0][dice.usize(0..4)];
                let endpoint = stage::endpoint(load);
                gateway.config.write_endpoint(ENDPOINT, &endpoint)?;
            }
            8 => {
                let length = Duration::from_millis(dice.u64(100..1_500));
                market.outage(length).await?;
            }
            _ => strike(market, dice).await?,
        }
    }
    Ok(gateway)
}

/// One of our machines meets with an accident; nothing happens where none runs.
async fn strike(market: &FakeVast, dice: &mut fastrand::Rng) -> Result<()> {
    let own = stage::own(market).await?;
    let fault = ["offline", "outbid", "exit", "vanish"][dice.usize(0..4)];
    if let Some(machine) = own.get(dice.usize(0..own.len().max(1))) {
        // Refused where it does not run.
        let _ = market.strike(machine.id, fault).await;
    }
    Ok(())
}

/// The faults are over: what exists is what the ledger holds; then everything is ended.
async fn settle(market: &FakeVast, gateway: &Gateway, run: &mut Run) -> Result<()> {
    let agree = wait_until(SETTLES_WITHIN, || async {
        let (Ok(existing), Ok(held)) = (stage::own(market).await, stage::held(gateway)) else {
            return false;
        };
        let existing: BTreeSet<String> = existing.iter().map(|own| own.id.to_string()).collect();
        existing == held
    });
    if !agree.await {
        let (existing, held) = (left(market).await?, stage::held(gateway)?);
        run.complain(
            format!("the account has {existing:?}, the ledger {held:?}"),
            gateway,
        );
    }
    stage::stop_spending(gateway).await?;
    let ended = wait_until(ENDS_WITHIN, || async {
        stage::own(market).await.is_ok_and(|own| own.is_empty())
            && stage::held(gateway).is_ok_and(|held| held.is_empty())
    });
    if !ended.await {
        let (existing, held) = (left(market).await?, stage::held(gateway)?);
        run.complain(
            format!("stop-spending left {existing:?} and in the ledger {held:?}"),
            gateway,
        );
    }
    Ok(())
}

async fn left(market: &FakeVast) -> Result<Vec<String>> {
    let own = stage::own(market).await?;
    Ok(own.iter().map(Machine::to_string).collect())
}

/// What the market's own books say.
async fn judge(market: &FakeVast, foreign: &[u64], run: &mut Run) -> Result<()> {
    let rows = market.instances().await?;
    let machines: Vec<Machine> = rows.into_iter().map(Machine::read).collect::<Result<_>>()?;
    let mut by_label: BTreeMap<String, usize> = BTreeMap::new();
    for machine in machines.iter().filter(|machine| machine.is_ours()) {
        let label = machine.label.clone().unwrap_or_default();
        *by_label.entry(label).or_default() += 1;
        run.rented += 1;
    }
    for (label, times) in by_label.into_iter().filter(|(_, times)| *times > 1) {
        run.complaints
            .push(format!("{label} was rented {times} times"));
    }
    let calls = market.audit().await?;
    for id in foreign {
        let path = format!("/{id}/");
        let touched = calls.iter().find(|call| {
            let called = call["path"].as_str().unwrap_or_default();
            call["method"] != "GET" && called.contains("/instances/") && called.contains(&path)
        });
        if let Some(call) = touched {
            run.complaints
                .push(format!("foreign instance {id} was touched: {call}"));
        }
    }
    Ok(())
}

/// Which machines passed the limit, and for what each was ordered.
fn passed(watch: &Watch, gateway: &Gateway) -> Result<String> {
    let ordered = books::ordered(&gateway.config.state_dir())?;
    let lines = watch.machines.iter().map(|machine| {
        let (owes, ordered) = (machine.usd_per_hour_now(), ordered.get(machine.worker()));
        format!("\n  {machine} owes {owes:.4} and was ordered for {ordered:?}")
    });
    let (most, lines) = (watch.most_usd_per_hour, lines.collect::<String>());
    Ok(format!(
        "the limit of {LIMIT_USD_PER_HOUR} $/h was passed: {most:.4}{lines}"
    ))
}

impl Run {
    fn complain(&mut self, what: String, gateway: &Gateway) {
        self.complaints
            .push(format!("{what}\n{}", gateway.child.log_tail()));
    }
}

impl Findings {
    pub fn rented(&self) -> usize {
        self.runs.iter().map(|run| run.rented).sum()
    }

    pub fn complaints(&self) -> Vec<String> {
        let of = |run: &Run| {
            let seed = run.seed;
            run.complaints
                .iter()
                .map(move |complaint| format!("seed {seed}: {complaint}"))
                .collect::<Vec<_>>()
        };
        self.runs.iter().flat_map(of).collect()
    }

    pub fn section(&self) -> Section {
        let options = &self.options;
        let sum = |of: fn(&Run) -> usize| self.runs.iter().map(of).sum::<usize>();
        let most = self
            .runs
            .iter()
            .map(|run| run.most_usd_per_hour)
            .fold(0.0, f64::max);
        let text = format!(
            "{} runs of {} s, seeds {} to {}: each fault of the market strikes {} of what it can strike, the gateway is killed with \
             SIGKILL at random moments and started again, `min_load` changes, the market is gone for up to 1.5 s.\n\n| | |\n|---|---|\n\
             | machines rented | {} |\n| kills | {} |\n| **machines that the ledger did not hold, or held without there being one** | **{}** |\n\
             | most dollars an hour at any moment (limit {LIMIT_USD_PER_HOUR}) | {most:.3} |\n",
            self.runs.len(),
            options.seconds,
            options.seed,
            options.seed + options.runs - 1,
            options.faults,
            sum(|run| run.rented),
            sum(|run| run.kills),
            self.complaints().len(),
        );
        Section {
            title: "Nothing leaks".to_owned(),
            command: format!(
                "loadtest soak leaks --runs {} --seed {}",
                options.runs, options.seed
            ),
            text,
            complaints: self.complaints(),
        }
    }
}
