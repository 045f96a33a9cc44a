//! `loadtest bench`: CPU time of the gateway's process per request and per streamed event, beside nginx in the same run.
//! The proxy has one CPU, everything else the other; rounds alternate, and only ratios within a round are compared.

mod backend;
mod cpu;
mod load;
mod proxies;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use self::backend::Backend;
use self::load::{Case, Load};
use self::proxies::{Pinning, Proxy};
use self::table::{Measurement, Table};
use crate::harness::version_of;

/// What is missing on this machine, as an exit code.
const EXIT_MISSING: u8 = 3;

/// CPU per request and per event beside nginx.
#[derive(Debug, Args)]
pub struct BenchCommand {
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// At least 3 for a result worth writing down
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds of each case, proxy and round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value = "docs/results/bench.md")]
    out: PathBuf,
}

impl BenchCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        ensure!(
            (0.1..=600.0).contains(&self.seconds),
            "--seconds must be 0.1 to 600"
        );
        let Some(nginx) = proxies::find_nginx() else {
            eprintln!(
                "loadtest: nginx is not installed; on Debian: apt-get install -y nginx-light"
            );
            return Ok(ExitCode::from(EXIT_MISSING));
        };
        if cfg!(debug_assertions) {
            eprintln!(
                "loadtest: a debug build of the load generator; run `make bench` for figures"
            );
        }
        let table = self.measure(&nginx).await?;
        print!("{table}");
        table.write(&self.out)?;
        println!("written to {}", self.out.display());
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, nginx: &Path) -> Result<Table> {
        let pinning = Pinning::of_this_machine();
        pinning.pin_this_process()?;
        let backend = Backend::start().await?;
        let tidegate = Proxy::tidegate(&self.tidegate, &backend, &pinning).await?;
        let nginx_proxy = Proxy::nginx(nginx, &backend, &pinning).await?;
        let mut table = Table {
            versions: vec![version_of(&self.tidegate)?, proxies::nginx_version(nginx)?],
            pinned: pinning.is_possible(),
            rounds: self.rounds,
            seconds: self.seconds,
            measurements: Vec::new(),
        };
        let window = Duration::from_secs_f64(self.seconds);
        for round in 0..self.rounds {
            for case in Case::ALL {
                // Whoever goes first changes with the round: drift of the machine hits both.
                let mut pair = [&tidegate, &nginx_proxy];
                if round % 2 == 1 {
                    pair.reverse();
                }
                for proxy in pair {
                    let measurement = measure_one(proxy, case, round, &backend, window).await?;
                    eprintln!("{measurement}");
                    table.measurements.push(measurement);
                }
            }
        }
        Ok(table)
    }
}

async fn measure_one(
    proxy: &Proxy,
    case: Case,
    round: usize,
    backend: &Backend,
    window: Duration,
) -> Result<Measurement> {
    let load = Load::start(case, &proxy.url)?;
    load.warm_up().await?;
    let (units_before, cpu_before) = (load.units(), proxy.cpu_time()?);
    tokio::time::sleep(window).await;
    let (units, cpu) = (load.units() - units_before, proxy.cpu_time()? - cpu_before);
    load.stop().await?;
    // The next measurement starts with nothing open; also shows that the proxy lets go of left streams.
    backend.wait_idle().await?;
    ensure!(units > 0, "{}: {} moved nothing", proxy.name, case.title());
    Ok(Measurement {
        proxy: proxy.name,
        case,
        round,
        micros: cpu.as_secs_f64() * 1e6 / units as f64,
        units_per_s: units as f64 / window.as_secs_f64(),
    })
}
