//! A whole story on the fake Vast: nothing rented, a first answer, load that comes and goes, an hour's outage, and a bill
//! that agrees with the ledger; then a gateway that never comes back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::stage::{self, ENDPOINT, ORPHAN_AFTER, Rules, SPEED};
use super::{books, stage::own};
use crate::harness::{FakeVast, Gateway, http_client, wait_until};
use crate::replay::{self, Phase, ReplayOptions, ReplayReport};
use crate::soak::Section;
use crate::trace::{Trace, TraceCut};

const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
/// One token stands for so many, so that small processors keep up.
const TOKEN_SCALE: f64 = 0.1;
/// The ledger and the account may differ by so much.
const BILL_SHARE: f64 = 0.005;
/// "A minute" after `orphan_after`, at the market's speed, and what a process takes to be ended.
const MINUTE: Duration = Duration::from_secs(3);

/// One endpoint's whole story on a market, from nothing to the bill
#[derive(Args, Clone, Debug)]
pub struct StoryOptions {
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// csv file with the columns arrival_s,input_tokens,output_tokens
    #[arg(long, default_value = "loadtest/scenarios/azure2023_conv_cut.csv")]
    pub trace: PathBuf,
    /// Seconds of the trace's normal, threefold and third load each
    #[arg(long, default_value_t = 20.0)]
    pub phase_seconds: f64,
}

impl Default for StoryOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            trace: PathBuf::from("loadtest/scenarios/azure2023_conv_cut.csv"),
            phase_seconds: 20.0,
        }
    }
}

#[derive(Default)]
pub struct Findings {
    options: StoryOptions,
    first_answer: Duration,
    sent: u64,
    failed: u64,
    rented: usize,
    outage_answers: (u64, u64),
    owed: f64,
    ledger: f64,
    reckoned: f64,
    orphans_ended: Option<Duration>,
    pub complaints: Vec<String>,
}

pub async fn run(options: &StoryOptions) -> Result<Findings> {
    let mut findings = Findings {
        options: options.clone(),
        ..Findings::default()
    };
    let market = stage::market(&Rules {
        seed: options.seed,
        // A few minutes shall owe dollars.
        price_scale: SPEED,
        ..Rules::default()
    })
    .await?;
    let config = stage::configuration(&market, "spending: {charges_interval: 1}\n")?;
    config.write_endpoint(ENDPOINT, &stage::seed_endpoint()?)?;
    let gateway = stage::start(config).await?;
    findings.first_answer = first_answer(&gateway).await?;
    let report = play(&gateway, options, [1.0, 3.0, 0.3]).await?;
    (findings.sent, findings.failed) = counts(&report);
    if findings.failed > 0 {
        findings.complaints.push(format!("{report}"));
    }
    outage(&market, &gateway, options, &mut findings).await?;
    settle_the_bill(&market, &gateway, &mut findings).await?;
    drop(gateway);
    orphans(&market, &mut findings).await?;
    let machines = market.instances().await?;
    findings.rented = machines.len();
    Ok(findings)
}

/// From a cold start to the first answer.
async fn first_answer(gateway: &Gateway) -> Result<Duration> {
    let began = Instant::now();
    let request = http_client()?
        .post(format!("{}/generate", gateway.base_url))
        .json(&json!({"inputs": "The sea is", "parameters": {"max_new_tokens": 8}}))
        .timeout(ANSWERED_WITHIN);
    let answer = request.send().await.context("no first answer")?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    ensure!(
        status.is_success() && body["generated_text"].is_string(),
        "{status} {body}\n{}",
        gateway.child.log_tail()
    );
    Ok(began.elapsed())
}

async fn play<const N: usize>(
    gateway: &Gateway,
    options: &StoryOptions,
    factors: [f64; N],
) -> Result<ReplayReport> {
    let trace = Trace::read(&options.trace)?.cut(&TraceCut {
        scale_tokens: TOKEN_SCALE,
        ..TraceCut::default()
    });
    let phases =
        factors.map(|factor| Phase::new(format!("{factor}x"), factor, options.phase_seconds));
    replay::run(ReplayOptions {
        phases: phases.into(),
        request_timeout: Duration::from_secs(60),
        finish_within: Duration::from_secs(65),
        ..ReplayOptions::new(trace, &gateway.base_url)
    })
    .await
}

/// An hour of the market's time without a market, under load.
async fn outage(
    market: &FakeVast,
    gateway: &Gateway,
    options: &StoryOptions,
    findings: &mut Findings,
) -> Result<()> {
    let hour = Duration::from_secs_f64(3_600.0 / SPEED);
    let before = own(market).await?.len();
    market.outage(hour).await?;
    let report = play(
        gateway,
        &StoryOptions {
            phase_seconds: hour.as_secs_f64(),
            ..options.clone()
        },
        [0.5],
    )
    .await?;
    findings.outage_answers = counts(&report);
    if findings.outage_answers.1 > 0 {
        findings.complaints.push(format!("in the outage: {report}"));
    }
    let after = own(market).await?.len();
    if after < before.min(1) {
        findings.complaints.push(format!(
            "{before} machines before the outage, {after} after it"
        ));
    }
    Ok(())
}

/// Nobody asks any more: everything is released, and what it cost is known.
async fn settle_the_bill(
    market: &FakeVast,
    gateway: &Gateway,
    findings: &mut Findings,
) -> Result<()> {
    let empty = wait_until(EMPTY_WITHIN, || async {
        own(market).await.is_ok_and(|own| own.is_empty())
    });
    if !empty.await {
        findings
            .complaints
            .push(format!("machines are left\n{}", gateway.child.log_tail()));
    }
    let state_dir = gateway.config.state_dir();
    let agrees = |owed: f64, ledger: f64| (owed - ledger).abs() <= BILL_SHARE * owed;
    // The last charges are asked for a little after a rental's end.
    let _ = wait_until(Duration::from_secs(10), || async {
        let owed = owed(market).await.unwrap_or(f64::NAN);
        books::spent(&state_dir).is_ok_and(|(ledger, _)| agrees(owed, ledger))
    })
    .await;
    findings.owed = owed(market).await?;
    (findings.ledger, findings.reckoned) = books::spent(&state_dir)?;
    if !agrees(findings.owed, findings.ledger) {
        findings.complaints.push(format!(
            "the account owes ${:.4}, the ledger says ${:.4}",
            findings.owed, findings.ledger
        ));
    }
    Ok(())
}

async fn owed(market: &FakeVast) -> Result<f64> {
    let account = market.account().await?;
    let owed = account.pointer("/accounts/0/owed").and_then(Value::as_f64);
    owed.context("no account")
}

/// A gateway is killed for good while machines run: they end themselves.
async fn orphans(market: &FakeVast, findings: &mut Findings) -> Result<()> {
    let config = stage::configuration(market, "")?;
    let endpoint = format!(
        "{}min_load: 1500\n",
        stage::seed_endpoint()?.replace("min_load: 0\n", "")
    );
    config.write_endpoint(ENDPOINT, &endpoint)?;
    let mut gateway = stage::start(config).await?;
    let up = wait_until(ANSWERED_WITHIN, || async {
        gateway.fleet().await.is_ok_and(|fleet| fleet.ready() > 0)
    });
    ensure!(
        up.await,
        "no machine comes up\n{}",
        gateway.child.log_tail()
    );
    gateway.child.kill()?;
    let began = Instant::now();
    let gone = wait_until(ORPHAN_AFTER + MINUTE, || async {
        own(market).await.is_ok_and(|own| own.is_empty())
    });
    if gone.await {
        findings.orphans_ended = Some(began.elapsed());
    } else {
        let left: Vec<String> = own(market).await?.iter().map(ToString::to_string).collect();
        findings
            .complaints
            .push(format!("without a gateway are left: {left:?}"));
    }
    Ok(())
}

/// Sent and failed.
fn counts(report: &ReplayReport) -> (u64, u64) {
    (report.figures.sent, report.figures.failed)
}

impl Findings {
    pub fn section(&self) -> Section {
        let off = 100.0 * (self.ledger - self.owed) / self.owed.max(f64::MIN_POSITIVE);
        let reckoned_off = 100.0 * (self.reckoned - self.owed) / self.owed.max(f64::MIN_POSITIVE);
        let orphans = self.orphans_ended.map_or("not all".to_owned(), |after| {
            format!(
                "{:.1} s (`orphan_after` {} s)",
                after.as_secs_f64(),
                ORPHAN_AFTER.as_secs()
            )
        });
        let text = format!(
            "The endpoint of `conf/examples/vast-70b` with all durations divided by {SPEED}, on the fake Vast with seed {}: prices move, \
             nothing else goes wrong.\n\n| | |\n|---|---|\n| from nothing rented to the first answer | {:.1} s |\n\
             | requests of the replayed trace at 1x, 3x, 0.3x / failed | {} / **{}** |\n\
             | requests during an hour without the market's interface / failed | {} / **{}** |\n\
             | machines rented | {} |\n| the account owes, the ledger says | ${:.4}, ${:.4} (**{off:+.3} %**) |\n\
             | reckoned without the bill | {reckoned_off:+.2} % |\n| gateway killed for good: the account is empty after | {orphans} |\n",
            self.options.seed,
            self.first_answer.as_secs_f64(),
            self.sent,
            self.failed,
            self.outage_answers.0,
            self.outage_answers.1,
            self.rented,
            self.owed,
            self.ledger,
        );
        Section {
            title: "Renting, from nothing to the bill".to_owned(),
            command: format!("loadtest soak story --seed {}", self.options.seed),
            text,
            complaints: self.complaints.clone(),
        }
    }
}
