//! `loadtest replay`: the command line of a replay.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{Api, Phase, ReplayOptions, run};
use crate::trace::{Trace, TraceCut};

/// Play a request trace against a server, open loop.
#[derive(Debug, Args)]
pub struct ReplayCommand {
    /// csv file with the columns arrival_s,input_tokens,output_tokens
    #[arg(long)]
    trace: PathBuf,
    /// Base URL, as http://127.0.0.1:8080
    #[arg(long)]
    target: String,
    /// Arrival times are divided by this
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    #[arg(long, value_enum, default_value_t = Api::GenerateStream)]
    api: Api,
    /// Endpoint put before the path: /NAME/generate_stream
    #[arg(long)]
    endpoint: Option<String>,
    /// The body's `model`
    #[arg(long)]
    model: Option<String>,
    /// Seconds of the trace to leave out at its start
    #[arg(long, default_value_t = 0.0)]
    skip: f64,
    /// Seconds of the trace to play (the trace's seconds, so that the speed does not change what is sent)
    #[arg(long)]
    duration: Option<f64>,
    /// Speeds and real seconds in turn, as 1x60,3x60,0.3x60,0x30; multiplies --speed
    #[arg(long, value_delimiter = ',')]
    phases: Vec<String>,
    /// Most prompt tokens of a request
    #[arg(long)]
    max_input: Option<u32>,
    /// Most output tokens of a request
    #[arg(long)]
    max_output: Option<u32>,
    /// Multiplies prompt and output tokens
    #[arg(long, default_value_t = 1.0)]
    scale_tokens: f64,
    /// A first token after this many seconds is late
    #[arg(long, default_value_t = 10.0)]
    late_after: f64,
    /// Seconds from sending a request to the end of its answer
    #[arg(long, default_value_t = 300.0)]
    request_timeout: f64,
    /// Seconds after the last phase until open requests are given up; default: the request timeout and 10 s
    #[arg(long)]
    finish_within: Option<f64>,
    /// Requests open at once; one beyond counts as failed
    #[arg(long, default_value_t = 20_000)]
    max_open: usize,
    /// Environment variable that holds the API key
    #[arg(long)]
    api_key_env: Option<String>,
    /// Write the report as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Exit with 1 if a request failed
    #[arg(long)]
    fail_on_error: bool,
}

impl ReplayCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        let options = self.options()?;
        let report = run(options).await?;
        print!("{report}");
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let failed = self.fail_on_error && report.figures.failed > 0;
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn options(&self) -> Result<ReplayOptions> {
        ensure!(
            self.speed.is_finite() && self.speed > 0.0,
            "--speed must be above 0"
        );
        let trace = Trace::read(&self.trace)?.cut(&TraceCut {
            skip_s: self.skip,
            duration_s: self.duration,
            scale_tokens: self.scale_tokens,
            input_tokens_max: self.max_input,
            output_tokens_max: self.max_output,
        });
        let request_timeout = seconds("--request-timeout", self.request_timeout)?;
        let finish_within = self.finish_within.unwrap_or(self.request_timeout + 10.0);
        Ok(ReplayOptions {
            phases: self.phases(&trace)?,
            target: self.target.clone(),
            api: self.api,
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            api_key: self.api_key()?,
            late_after: seconds("--late-after", self.late_after)?,
            request_timeout,
            finish_within: seconds("--finish-within", finish_within)?,
            open_max: self.max_open,
            trace,
        })
    }

    fn phases(&self, trace: &Trace) -> Result<Vec<Phase>> {
        if self.phases.is_empty() {
            return Ok(vec![Phase::whole(trace, self.speed)]);
        }
        self.phases
            .iter()
            .map(|text| {
                Phase::parse(text, self.speed)
                    .with_context(|| format!("--phases: {text:?} is not like 3x60"))
            })
            .collect()
    }

    fn api_key(&self) -> Result<Option<String>> {
        let Some(name) = &self.api_key_env else {
            return Ok(None);
        };
        match std::env::var(name) {
            Ok(key) => Ok(Some(key)),
            Err(_) => bail!("the environment variable {name} is not set"),
        }
    }
}

fn seconds(option: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .with_context(|| format!("{option}: {value} is no number of seconds"))
}
