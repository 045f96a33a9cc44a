//! How long the choice of a worker takes, alone and with the claim that follows it, in fleets of several sizes.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidegate::config::SourceFile;
use tidegate::domain::Contention;
use tidegate::domain::{
    Candidate, ClientKey, Endpoint, GapLaw, KvRoom, PredictedCost, Prefix, RoutingSettings,
    Timestamp, Tokens, TokensPerSecond, UsdPerHour, WorkerId, WorkerPhase,
};
use tidegate::fleet::{Admission, Claim, EndpointFleet, Fleet, Ticket, WorkerSpec};
use tidegate::policy::choose_worker;
use tidegate::policy::cost::cost;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Each figure is the least of so many rounds: the machine's other work only adds.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(60);

/// Time of one choice among 10 to 10,000 workers.
#[derive(Debug, clap::Args)]
pub struct ChoiceCommand {
    /// Write the table to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Fail if a choice among 1,000 workers takes longer, in microseconds.
    #[arg(long, default_value_t = 20.0)]
    limit_us: f64,
}

struct Row {
    workers: usize,
    choice_us: f64,
    claim_us: f64,
}

impl ChoiceCommand {
    pub fn execute(self) -> Result<ExitCode> {
        let rows: Vec<Row> = SIZES
            .into_iter()
            .map(measure)
            .collect::<Result<Vec<Row>>>()?;
        let text = document(&rows);
        println!("{text}");
        if let Some(path) = &self.out {
            crate::harness::write_document(path, &text)?;
        }
        let slow = rows
            .iter()
            .any(|row| row.workers == 1_000 && row.choice_us > self.limit_us);
        Ok(ExitCode::from(u8::from(slow)))
    }
}

fn measure(workers: usize) -> Result<Row> {
    let settings = RoutingSettings::default();
    let asked = cost(1_000.0, 200.0, settings.kappa);
    let candidates: Vec<Candidate> = (0..workers).map(busy).collect();
    let choice_us = least_us(|| {
        let choice = choose_worker(
            black_box(&asked),
            candidates.iter().copied(),
            &settings,
            Contention::Several,
        );
        black_box(choice).is_ok()
    });

    let fleet = Fleet::new(&[endpoint()?]);
    let endpoint = fleet.endpoint("bench").context("configured above")?;
    // Dropped last: it keeps every worker as busy as in use.
    let _load = busy_fleet(&endpoint, workers, &asked)?;
    let ticket = ticket(asked);
    let now = Timestamp::from_millis(2_000);
    let claim_us = least_us(|| match endpoint.admit(black_box(&ticket), now) {
        Admission::Assigned(claim) => {
            drop(black_box(claim));
            true
        }
        _ => false,
    });
    Ok(Row {
        workers,
        choice_us,
        claim_us,
    })
}

/// Best mean time of a call, in microseconds.
fn least_us(mut call: impl FnMut() -> bool) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut calls = 0_u32;
        while began.elapsed() < ROUND {
            for _ in 0..16 {
                assert!(call(), "nobody was chosen");
            }
            calls += 16;
        }
        least = least.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(calls));
    }
    least
}

fn busy(slot: usize) -> Candidate {
    // Spread, so that the least is found neither at once nor always later.
    let spread = (slot * 7_919 % 1_009) as f64;
    Candidate {
        slot,
        ready: true,
        tried: false,
        in_flight: 20,
        max_concurrency: Some(256),
        full_concurrency: 64,
        speed: TokensPerSecond(700.0 + spread),
        weight: 1.0,
        outstanding: Tokens(1_500.0 + 3.0 * spread),
        prefilling: Tokens(200.0),
        gap: GapLaw {
            base_s: 0.017,
            per_stream_s: 0.0002,
        },
        kv: Some(KvRoom {
            used: 10_000.0,
            capacity: 31_000.0,
        }),
        usd_per_hour: UsdPerHour(0.4),
        prefix_held: 0.0,
    }
}

fn busy_fleet(
    endpoint: &Arc<EndpointFleet>,
    workers: usize,
    cost: &PredictedCost,
) -> Result<Vec<Claim>> {
    let now = Timestamp::from_millis(1_000);
    let group = endpoint.settings().groups[0].clone();
    for n in 0..workers {
        let id = WorkerId::new(format!("worker-{n:05}"));
        let spec = WorkerSpec::new(id, &group);
        endpoint.add_worker(spec, WorkerPhase::Ready, UsdPerHour(0.4), now);
    }
    let ticket = ticket(*cost);
    (0..3 * workers)
        .map(|_| match endpoint.admit(&ticket, now) {
            Admission::Assigned(claim) => Ok(claim),
            _ => anyhow::bail!("no worker for the load"),
        })
        .collect()
}

fn ticket(cost: PredictedCost) -> Ticket {
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

fn document(rows: &[Row]) -> String {
    let mut text = format!(
        "# Choosing a worker\n\n\
         `tidegate {}`, release build. *Choice*: `policy::choose_worker` over a full table. *Choice and claim*: \
         `EndpointFleet::admit` of a request and the end of its claim, as the proxy does it, every worker having three \
         requests. The least of {ROUNDS} rounds.\n\n\
         ```\nmake bench-choice\n```\n\n\
         | workers | choice, us | choice and claim, us |\n|---|---|---|\n",
        env!("CARGO_PKG_VERSION"),
    );
    for row in rows {
        text += &format!(
            "| {} | {:.2} | {:.2} |\n",
            row.workers, row.choice_us, row.claim_us
        );
    }
    text
}

/// An endpoint as the configuration has it, every other setting being the default.
fn endpoint() -> Result<Endpoint> {
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
