//! The command line of `fake-vast`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use super::{Faults, Settings, Vast};
use crate::harness::fake_worker_binary;

/// A market that behaves like Vast.ai, with instances that are processes of this machine.
#[derive(Debug, Parser)]
#[command(name = "fake-vast", version)]
pub struct Args {
    /// Address and port; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Folder for the containers; what an earlier fake left running there is ended first.
    #[arg(long)]
    dir: PathBuf,
    /// What chance makes of it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// All durations of the market are divided by this: boots, limits, the walk of prices.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// The workers' own durations are divided by this, the time of a token included.
    #[arg(long, default_value_t = 1.0)]
    worker_time_scale: f64,
    /// All prices, shown and owed, are multiplied by this. Money is owed for real seconds.
    #[arg(long, default_value_t = 1.0)]
    price_scale: f64,
    /// What is owed is multiplied by this, what is shown is not.
    #[arg(long, default_value_t = 1.0)]
    bill_scale: f64,
    /// GB of traffic that pulling an image is charged for.
    #[arg(long, default_value_t = 0.0)]
    pull_gb: f64,
    /// Key of an account; several make several accounts.
    #[arg(long = "api-key", default_value = "testkey")]
    api_keys: Vec<String>,
    /// Dollars on each account.
    #[arg(long, default_value_t = 100.0)]
    credit: f64,
    #[arg(long)]
    no_rate_limits: bool,
    /// Searches that a key has a day; more are refused until the next one.
    #[arg(long)]
    searches_a_day: Option<u32>,
    /// How long that day is, in seconds of the market.
    #[arg(long, default_value_t = 86_400.0)]
    search_day_s: f64,
    /// The list of instances of version 0 answers 410, as for newer accounts.
    #[arg(long)]
    no_old_list: bool,
    /// Prices and offers stand still.
    #[arg(long)]
    calm: bool,
    /// `name=share` of what goes wrong, `all=share` for everything; later ones win. Names: see `GET /fake/faults`.
    #[arg(long = "fault")]
    faults: Vec<String>,
    /// The stand-in worker [default: FAKE_WORKER_BIN or the one beside this program].
    #[arg(long)]
    worker: Option<PathBuf>,
}

impl Args {
    pub fn settings(&self) -> Result<Settings> {
        let mut faults = Faults::default();
        for fault in &self.faults {
            faults
                .set(fault)
                .map_err(anyhow::Error::msg)
                .context("--fault")?;
        }
        let worker = match &self.worker {
            Some(worker) => worker.clone(),
            None => fake_worker_binary()?,
        };
        Ok(Settings {
            folder: self.dir.clone(),
            worker,
            seed: self.seed,
            speed: self.speed,
            worker_time_scale: self.worker_time_scale,
            price_scale: self.price_scale,
            bill_scale: self.bill_scale,
            pull_gb: self.pull_gb,
            keys: self.api_keys.clone(),
            credit: self.credit,
            rate_limits: !self.no_rate_limits,
            searches_a_day: self.searches_a_day,
            search_day_s: self.search_day_s,
            old_list: !self.no_old_list,
            calm: self.calm,
            faults,
        })
    }

    /// Starts the fake that the arguments describe.
    pub async fn start(&self) -> Result<Vast> {
        let fake = super::start(self.listen.as_str(), self.settings()?).await;
        fake.with_context(|| format!("fake-vast at {}", self.listen))
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }
}
