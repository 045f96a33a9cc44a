//! `loadtest scenario scaling`: normal load, three times as much, a third, silence; the fleet has to follow.
//! Half a minute stands for one minute of the trace, and one token for four.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::story::{Sample, Setting, Story};
use crate::harness::{ConfigDir, Gateway, binary, version_of};
use crate::replay::{self, Phase, ReplayOptions};
use crate::trace::{Trace, TraceCut};

/// Real time is the trace's, compressed by this.
const COMPRESSION: f64 = 2.0;
const TOKEN_SCALE: f64 = 0.25;
/// 10 s of the trace's time.
const LATE_AFTER: Duration = Duration::from_millis((10_000.0 / COMPRESSION) as u64);
/// From the last answer to an empty fleet.
const EMPTY_WITHIN: Duration = Duration::from_secs(45);

/// The stand-in's speed law: 16 requests at once make an iteration of 20 ms, so 800 tokens a second;
/// a prompt token costs a fifth of an output token.
const WORKER_FLAGS: [&str; 10] = [
    "--a-ms",
    "10",
    "--c-ms",
    "0.625",
    "--k-ms",
    "0",
    "--prefill",
    "4000",
    "--max-batch",
    "16",
];

const SERVER: &str = "scaler_interval: 0.25\nlocal_market: {slots: 16}\n";

/// Azure's conversation trace at 1x, 3x, 0.3x and silence against the real gateway with stand-in workers.
#[derive(Debug, Args)]
pub struct ScalingCommand {
    /// The document to write
    #[arg(long, default_value = "docs/results/scaling-first.md")]
    out: PathBuf,
    /// Default: the build's
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Default: the build's
    #[arg(long)]
    fake_worker: Option<PathBuf>,
    /// csv file with the columns arrival_s,input_tokens,output_tokens
    #[arg(long, default_value = "loadtest/scenarios/azure2023_conv_cut.csv")]
    trace: PathBuf,
    /// Real seconds of each of the three phases with load
    #[arg(long, default_value_t = 60.0)]
    phase_seconds: f64,
}

impl ScalingCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        let tidegate = given_or_built(self.tidegate.as_deref(), "tidegate", "TIDEGATE_BIN")?;
        let worker = given_or_built(
            self.fake_worker.as_deref(),
            "fake-worker",
            "FAKE_WORKER_BIN",
        )?;
        let trace = Trace::read(&self.trace)?.cut(&TraceCut {
            scale_tokens: TOKEN_SCALE,
            ..TraceCut::default()
        });
        let config = ConfigDir::new(SERVER)?;
        let endpoint = endpoint_yaml(&worker)?;
        config.write_endpoint("fake", &endpoint)?;
        let gateway = Gateway::start_with(Command::new(&tidegate), config).await?;

        let phases = phases(self.phase_seconds);
        let (report, samples) = play(&gateway, trace, phases).await?;
        let story = Story {
            setting: Setting {
                version: version_of(&tidegate)?,
                cpus: std::thread::available_parallelism().map_or(1, usize::from),
                endpoint: hide_path(&endpoint, &worker),
                compression: COMPRESSION,
                token_scale: TOKEN_SCALE,
                phase_s: self.phase_seconds,
            },
            report,
            samples,
        };
        story.write(&self.out)?;
        print!("{}", story.report);
        let complaints = story.complaints();
        for complaint in &complaints {
            eprintln!("loadtest: {complaint}");
        }
        if complaints.is_empty() {
            println!("written to {}", self.out.display());
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("the gateway's last lines:\n{}", gateway.child.log_tail());
        Ok(ExitCode::FAILURE)
    }
}

/// Sends the phases and watches the fleet meanwhile and until it is empty, or had its time to be.
async fn play(
    gateway: &Gateway,
    trace: Trace,
    phases: Vec<Phase>,
) -> Result<(replay::ReplayReport, Vec<Sample>)> {
    let options = ReplayOptions {
        phases,
        late_after: LATE_AFTER,
        request_timeout: Duration::from_secs(60),
        finish_within: Duration::from_secs(65),
        ..ReplayOptions::new(trace, &gateway.base_url)
    };
    let (answered, all_answered) = oneshot::channel();
    let sending = async {
        let report = replay::run(options).await;
        // The watcher lives as long as this future.
        let _ = answered.send(());
        report
    };
    let (report, samples) = tokio::join!(sending, watch(gateway, all_answered));
    Ok((report?, samples))
}

/// Samples the fleet every second. A sample that cannot be read is left out; the story complains of gaps.
async fn watch(gateway: &Gateway, mut all_answered: oneshot::Receiver<()>) -> Vec<Sample> {
    let start = Instant::now();
    let mut answered_at = None;
    let mut samples = Vec::new();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let at_s = start.elapsed().as_secs_f64();
        let fleet = gateway.fleet().await.ok();
        let empty = fleet.as_ref().is_some_and(|fleet| fleet.running() == 0);
        samples.extend(fleet.map(|fleet| Sample { at_s, fleet }));
        // An error means that the sender is gone: the replay ended with a mistake.
        if answered_at.is_none()
            && all_answered.try_recv() != Err(oneshot::error::TryRecvError::Empty)
        {
            answered_at = Some(Instant::now());
        }
        if answered_at.is_some_and(|at| empty || at.elapsed() > EMPTY_WITHIN) {
            return samples;
        }
    }
}

fn phases(duration_s: f64) -> Vec<Phase> {
    let phase = |name, factor: f64| Phase::new(name, factor * COMPRESSION, duration_s);
    vec![phase("1x", 1.0), phase("3x", 3.0), phase("0.3x", 0.3)]
}

fn endpoint_yaml(worker: &Path) -> Result<String> {
    let worker = std::path::absolute(worker)?;
    let mut command = vec![
        worker
            .to_str()
            .context("the fake worker's path is no text")?,
        "--listen",
        "127.0.0.1:{port}",
    ];
    command.extend(WORKER_FLAGS);
    // JSON is YAML, with quoting that is right for any path.
    let command = serde_json::to_string(&command)?;
    Ok(format!(
        "endpoint_name: fake
max_workers: 10
target_util: 0.8
inactivity_timeout: 5
scale_down_delay: 5
drain_backlog_within: 5
worker_groups:
  - name: stand-in
    engine: fake
    command: {command}
    boot_time: 2
    tokens_per_second: 800
    concurrency: 16
"
    ))
}

/// A document names no path of the machine it was made on.
fn hide_path(endpoint: &str, worker: &Path) -> String {
    match std::path::absolute(worker) {
        Ok(path) => endpoint.replace(&*path.to_string_lossy(), "fake-worker"),
        Err(_) => endpoint.to_owned(),
    }
}

pub(super) fn given_or_built(given: Option<&Path>, name: &str, variable: &str) -> Result<PathBuf> {
    given.map_or_else(|| binary(name, variable), |path| Ok(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::schedule::schedule;

    /// What the scenario promises of itself: about 2, 6 and 1 workers' worth of load.
    #[test]
    fn the_phases_need_two_six_and_one_worker() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/azure2023_conv_cut.csv");
        let trace = Trace::read(&file).unwrap().cut(&TraceCut {
            scale_tokens: TOKEN_SCALE,
            ..TraceCut::default()
        });
        let phases = phases(60.0);
        let mut work = [0.0; 3];
        for arrival in schedule(&trace, &phases).unwrap() {
            let request = arrival.request;
            work[arrival.phase] +=
                f64::from(request.output_tokens) + f64::from(request.input_tokens) / 5.0;
        }
        let needed = work.map(|tokens| (tokens / 60.0 / 800.0 / 0.8_f64).ceil());
        assert_eq!(needed, [2.0, 6.0, 1.0]);
    }

    #[test]
    fn the_document_shows_no_path_of_the_machine() {
        let worker = Path::new("/some/place/fake-worker");
        let yaml = endpoint_yaml(worker).unwrap();
        assert!(yaml.contains(r#"["/some/place/fake-worker","--listen""#));
        assert!(!hide_path(&yaml, worker).contains("/some/place"));
    }
}
