//! `tidegate simulate`: what a traffic would have cost.

mod output;
mod scenario;
mod timed;

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use self::scenario::Prepared;
use self::timed::Timed;
use super::Source;
use super::exit::Trouble;
use crate::simulate::planner::Production;
use crate::simulate::report::{Bounds, Column, Measured};
use crate::simulate::traces::{self, Wanted};
use crate::simulate::world::{Point, run};

/// Plays a traffic on pretended machines with the scaling, the choice of machines and the routing of this program, and
/// says what that would have cost. Nothing is rented and no gateway is asked. What is modelled: docs/SIMULATOR.md.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// What arrives: the gateway's access log, a CSV with arrival_s,input_tokens,output_tokens, or one with
    /// window_start_s and a column of requests a second.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// The endpoint whose settings count, and whose lines of an access log; needed where there are several.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Of a CSV of rates with several.
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    #[command(flatten)]
    traffic: Traffic,
    #[command(flatten)]
    machines: Machines,
    /// Of all chance: the first of the seeds.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Worlds with luck of their own; figures are means with 95% confidence intervals.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// Work flows like water: a hundred times as fast, without routing, drains and lost streams.
    #[arg(long)]
    fluid: bool,
    /// Seconds at the beginning that only teach and are not counted.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    count_from: u64,
    /// Where report.txt, report.json and picture.svg (of the first seed) are written.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Changes to the traffic.
#[derive(clap::Args)]
struct Traffic {
    /// Times as many requests (copies a few seconds apart; below 1 a share of them).
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", value_parser = positive)]
    scale: f64,
    /// Times as fast: the same requests in less time.
    #[arg(long, default_value_t = 1.0, value_name = "TIMES", value_parser = positive)]
    speedup: f64,
    /// Of a CSV of rates: work of a request, in output tokens with prompts over kappa.
    #[arg(long, default_value_t = 400.0, value_name = "TOKENS", value_parser = positive)]
    request_tokens: f64,
    /// Of a CSV of rates: variance of the work of a second over that of Poisson arrivals.
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    burstiness: f64,
}

/// The market, as far as no file says it.
#[derive(clap::Args)]
struct Machines {
    /// Kinds of machines as YAML or JSON: docs/SIMULATOR.md. Without it each worker group is a kind, at its stated
    /// speed and price.
    #[arg(long, value_name = "FILE")]
    market: Option<PathBuf>,
    /// Price of a machine of groups that state none.
    #[arg(long, value_name = "DOLLARS", value_parser = positive)]
    usd_per_hour: Option<f64>,
    /// Mean time from rental to ready.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = positive)]
    cold_start: f64,
    /// Its standard deviation over its mean.
    #[arg(long, default_value_t = 0.35, value_name = "TIMES")]
    cold_start_cv: f64,
    /// Share of a cold start that is billed.
    #[arg(long, default_value_t = 0.6, value_name = "SHARE", value_parser = share)]
    billed: f64,
    /// Share of the rentals that never come up.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    never_up: f64,
    /// Mean time until a stopped machine is ready again.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = positive)]
    restart: f64,
    /// Share of the restarts that find the GPU taken.
    #[arg(long, default_value_t = 0.15, value_name = "SHARE", value_parser = share)]
    restart_fails: f64,
    /// Of the price, what a stopped machine costs.
    #[arg(long, default_value_t = 0.06, value_name = "SHARE", value_parser = share)]
    storage: f64,
    /// Mean hours between failures of a machine; 0: none fails.
    #[arg(long, default_value_t = 0.0, value_name = "HOURS")]
    mtbf: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err("expected more than 0".into())
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("expected a share from 0 to 1".into())
    }
}

pub(super) fn simulate(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let config = arguments.source.load()?;
    let wanted = Wanted {
        column: arguments.column.clone(),
        endpoint: arguments.endpoint.clone(),
    };
    let path = &arguments.trace;
    eprintln!("reading {}", path.display());
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let trace = traces::read(BufReader::new(file), &wanted)
        .map_err(|error| Trouble::No(format!("{}: {error}", path.display())))?;
    let prepared = Prepared::new(arguments, &config, trace)?;
    let (column, series) = play(arguments, &prepared)?;
    let report = output::Report::new(&prepared, column, &series);
    if let Some(dir) = &arguments.out {
        report.write(dir, &prepared, &series)?;
    }
    if arguments.json {
        super::show::print_json(&report.json());
    } else {
        super::show::print(&report.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// All seeds, one after another; the first one's series.
fn play(arguments: &Arguments, prepared: &Prepared) -> Result<(Column, Vec<Point>), Trouble> {
    let mut series = Vec::new();
    let mut runs = Vec::new();
    for n in 0..arguments.seeds {
        let seed = arguments.seed.wrapping_add(n);
        let scenario = prepared.scenario(seed);
        prepared.check_length(&scenario)?;
        let mut planner = Timed::new(
            Production::new(&scenario.scaling),
            scenario.load.length_s(),
            format!("seed {seed} ({} of {})", n + 1, arguments.seeds),
        );
        let result = run(&scenario, &mut planner);
        planner.done();
        if n == 0 {
            series = result.series;
        }
        runs.push(Measured {
            seed,
            totals: result.totals,
            bounds: Bounds::of(&scenario, scenario.scaling.slo.late_share),
            plans_cpu_s: Some(planner.cpu_s),
        });
    }
    let policy = "tidegate".to_owned();
    Ok((Column { policy, runs }, series))
}

/// Whether somebody watches who can be told of progress.
fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}
