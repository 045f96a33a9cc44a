//! The command line of `fake-worker`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use super::law::SpeedLaw;
use super::{Settings, Worker};

/// A worker that behaves like an inference engine on a GPU.
#[derive(Debug, Parser)]
#[command(name = "fake-worker", version)]
pub struct Args {
    /// Address and port; port 0 takes any free one.
    #[arg(long)]
    listen: String,
    /// The machine whose constants apply.
    #[arg(long, value_enum, default_value = "tiny")]
    speed_profile: Profile,
    /// Milliseconds of every iteration.
    #[arg(long)]
    a_ms: Option<f64>,
    /// Milliseconds per iteration for each running request.
    #[arg(long)]
    c_ms: Option<f64>,
    /// Milliseconds per iteration for each 1000 tokens in the KV cache.
    #[arg(long)]
    k_ms: Option<f64>,
    /// Prompt tokens per second.
    #[arg(long)]
    prefill: Option<f64>,
    /// Tokens the KV cache holds.
    #[arg(long)]
    kv_tokens: Option<u64>,
    /// Most requests running at once.
    #[arg(long)]
    max_batch: Option<usize>,
    /// Seconds of 503 before the worker is healthy.
    #[arg(long, default_value_t = 0.0)]
    load_time: f64,
    /// All durations are divided by this.
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Most tokens of prompt and answer together [default: 131072 or what the KV cache holds].
    #[arg(long)]
    context_tokens: Option<u32>,
    #[arg(long, default_value = "fake")]
    model: String,
    /// Tokens that decide the next one; workers that continue each other's texts need the same.
    #[arg(long, default_value_t = 4)]
    window: usize,
    /// One token in so many ends the text by itself [default: never].
    #[arg(long)]
    eos_every: Option<u32>,
    /// A line on stderr for each request.
    #[arg(long)]
    log: bool,
    /// Folder of used-up names, for faults that strike once (`hang=3#name`) over all workers that share it.
    #[arg(long)]
    once_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profile {
    Rtx4090,
    A100,
    H100,
    Tiny,
}

impl Profile {
    fn law(self) -> SpeedLaw {
        match self {
            Profile::Rtx4090 => SpeedLaw::RTX4090,
            Profile::A100 => SpeedLaw::A100,
            Profile::H100 => SpeedLaw::H100,
            Profile::Tiny => SpeedLaw::TINY,
        }
    }
}

impl Args {
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let profile = self.speed_profile.law();
        let law = SpeedLaw {
            a_ms: self.a_ms.unwrap_or(profile.a_ms),
            c_ms: self.c_ms.unwrap_or(profile.c_ms),
            k_ms: self.k_ms.unwrap_or(profile.k_ms),
            prefill_tps: self.prefill.unwrap_or(profile.prefill_tps),
            kv_tokens: self.kv_tokens.unwrap_or(profile.kv_tokens),
            max_batch: self.max_batch.unwrap_or(profile.max_batch),
        };
        Ok(Settings {
            law,
            load_time: Duration::try_from_secs_f64(self.load_time).context("--load-time")?,
            time_scale: self.time_scale,
            context_tokens: self.context_tokens,
            model: self.model.clone(),
            window: self.window,
            eos_every: self.eos_every,
            log: self.log,
            once_dir: self.once_dir.clone(),
        })
    }

    /// Starts the worker that the arguments describe.
    pub async fn start(&self) -> anyhow::Result<Worker> {
        let worker = super::start(self.listen.as_str(), self.settings()?).await;
        worker.with_context(|| format!("fake-worker at {}", self.listen))
    }
}
