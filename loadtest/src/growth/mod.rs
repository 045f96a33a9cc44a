//! `loadtest growth`: what grows with the fleet. Time of a choice, of a claim and of a plan among 10 to 10,000 workers, memory
//! of a worker, and a round of the scaler over many endpoints.

mod choice;
mod fleet;
mod plan;
mod tick;

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::plan::PlanTimes;
use self::tick::Tick;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Each figure is the least of so many rounds: the machine's other work only adds.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(60);

/// Time of a choice, of a plan and of a round of the scaler, memory of a worker
#[derive(Debug, clap::Args)]
pub struct GrowthCommand {
    /// Write the table to this file too
    #[arg(long)]
    out: Option<PathBuf>,
    /// Fail if a choice among 1,000 workers takes longer, in microseconds
    #[arg(long, default_value_t = 20.0)]
    limit_us: f64,
    /// Fail if a plan for 1,000 workers takes longer, in milliseconds
    #[arg(long, default_value_t = 5.0)]
    limit_plan_ms: f64,
    /// Endpoints of the gateway whose rounds are timed
    #[arg(long, default_value_t = 100)]
    endpoints: usize,
}

struct Row {
    workers: usize,
    choice_us: f64,
    claim_us: f64,
    plan: PlanTimes,
    /// Of the fleet's own table, nothing in flight.
    bytes_per_worker: Option<f64>,
}

impl GrowthCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        // Before anything else has grown the heap that a worker would then fit into.
        let memory: Vec<Option<f64>> = SIZES.map(fleet::bytes_per_worker).into();
        let mut rows = Vec::new();
        for (workers, bytes_per_worker) in SIZES.into_iter().zip(memory) {
            let (choice_us, claim_us) = choice::measure(workers)?;
            rows.push(Row {
                workers,
                choice_us,
                claim_us,
                plan: plan::measure(workers)?,
                bytes_per_worker,
            });
        }
        let tick = tick::measure(self.endpoints).await?;
        let text = document(&rows, &tick);
        println!("{text}");
        if let Some(path) = &self.out {
            crate::harness::write_document(path, &text)?;
        }
        let missed = rows.iter().filter(|row| row.workers == 1_000).any(|row| {
            row.choice_us > self.limit_us || row.plan.longest_us() > 1e3 * self.limit_plan_ms
        });
        Ok(ExitCode::from(u8::from(missed)))
    }
}

/// Best mean time of a call, in microseconds.
fn least_us(mut call: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut calls = 0_u32;
        while began.elapsed() < ROUND {
            call();
            calls += 1;
        }
        least = least.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(calls));
    }
    black_box(least)
}

fn document(rows: &[Row], tick: &Tick) -> String {
    let mut text = format!(
        "# What grows with the fleet\n\n\
         `tidegate {}`, release build; the least of {ROUNDS} rounds. *Choice*: `policy::choose_worker` over a full table. \
         *Choice and claim*: `EndpointFleet::admit` of a request and the end of its claim, as the proxy does it, every worker having \
         three requests. *Plan*: `policy::plan_scaling` for an endpoint with so many workers, its load steady, doubled, or gone, \
         after a look at the fleet (`EndpointFleet::snapshot`), whose time is apart. *Memory*: what a worker adds to the resident size of \
         a process that holds the fleet alone.\n\n\
         ```\nmake growth\n```\n\n\
         | workers | choice, us | choice and claim, us | look, us | plan: steady, us | grow, us | shrink, us | memory of a worker, KB |\n\
         |---|---|---|---|---|---|---|---|\n",
        env!("CARGO_PKG_VERSION"),
    );
    for row in rows {
        text += &format!(
            "| {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {} |\n",
            row.workers,
            row.choice_us,
            row.claim_us,
            row.plan.look_us,
            row.plan.steady_us,
            row.plan.grow_us,
            row.plan.shrink_us,
            row.bytes_per_worker
                .map_or("-".to_owned(), |bytes| format!("{:.1}", bytes / 1024.0)),
        );
    }
    text += &format!(
        "\n**A round of the scaler** in a gateway with {} endpoints on this machine's own market, none of which has a worker: mean {:.2} ms, \
         {} of {} rounds within {:.1} ms; the gateway's resident size is {} KB for each endpoint.\n",
        tick.endpoints, tick.mean_ms, tick.within, tick.rounds, tick.limit_ms, tick.kb_per_endpoint,
    );
    text
}
