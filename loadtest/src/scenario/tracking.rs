//! `loadtest scenario tracking`: the real gateway and the simulator on the very same requests; their fleets are to be
//! of one size. A test of the simulator: what the policy decides is the same code in both.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tidegate::domain::{TimeLimits, TokensPerSecond};
use tidegate::simulate::chance::SplitMix;
use tidegate::simulate::load::{Arrival, Load};
use tidegate::simulate::market::MachineKind;
use tidegate::simulate::planner::Production;
use tidegate::simulate::serving::MachineLaw;
use tidegate::simulate::world::{
    Point, RequestRules, Scenario, Serving, group_of, run, usual_scaling, usual_times,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::scaling::given_or_built;
use crate::compare::processes::Busy;
use crate::harness::{ConfigDir, Gateway, version_of, write_document};
use crate::replay::{self, Phase, ReplayOptions};
use crate::trace::{Trace, TraceRequest};

/// The machines' time is the real one times this.
const COMPRESSION: f64 = 20.0;
/// Wanted load in workers, and for how many minutes of the machines' time. Each step is met from the one before by more
/// than a restart can give, so that cold starts, pool and releases all show.
const STORY: [(f64, f64); 8] = [
    (2.0, 20.0),
    (4.0, 20.0),
    (3.0, 20.0),
    (6.0, 25.0),
    (2.5, 30.0),
    (5.0, 20.0),
    (1.0, 30.0),
    (3.5, 15.0),
];
const PROMPT_TOKENS: u32 = 100;
const OUTPUT_TOKENS: (u32, u32) = (40, 120);
/// Of a worker with all its places taken, in real time.
const TOKENS_PER_SECOND: f64 = 400.0;
const BATCH_MAX: u32 = 16;
/// Real seconds of an iteration: 16 sequences at once take 40 ms.
const BASE_S: f64 = 0.020;
const PER_SEQUENCE_S: f64 = 0.001_25;
const PREFILL_TOKENS_PER_S: f64 = 4_000.0;
const KV_TOKENS: u32 = 1_000_000;
const USD_PER_HOUR: f64 = 0.40;
const WORKERS_MAX: u32 = 16;
/// Of the machines' time.
const COLD_S: f64 = 300.0;
const RESTART_S: f64 = 60.0;
/// Of the time the two fleets have to be within one worker.
const AIM: f64 = 0.95;

/// The fleet of the real gateway beside that of the simulator, all durations divided by 20.
#[derive(Debug, Args)]
pub struct TrackingCommand {
    #[arg(long, default_value = "docs/results/tracking.md")]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the first so many steps of the story
    #[arg(long, default_value_t = STORY.len())]
    steps: usize,
    /// Default: the build's
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Default: the build's
    #[arg(long)]
    fake_worker: Option<PathBuf>,
}

impl TrackingCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        let tidegate = given_or_built(self.tidegate.as_deref(), "tidegate", "TIDEGATE_BIN")?;
        let worker = given_or_built(
            self.fake_worker.as_deref(),
            "fake-worker",
            "FAKE_WORKER_BIN",
        )?;
        let steps = &STORY[..self.steps.clamp(1, STORY.len())];
        let arrivals = arrivals(steps, self.seed);
        let simulated = simulated(&arrivals, self.seed);

        let config = ConfigDir::new(&format!(
            "scaler_interval: {}\nlocal_market: {{slots: {WORKERS_MAX}}}\n",
            real(5.0)
        ))?;
        config.write_endpoint("tracked", &endpoint_yaml(&worker)?)?;
        let gateway = Gateway::start_with(Command::new(&tidegate), config).await?;
        let busy = Busy::now();
        let (report, samples) = play(&gateway, &arrivals).await?;
        let tracked = Tracked {
            version: version_of(&tidegate)?,
            seed: self.seed,
            steps,
            requests: arrivals.len(),
            failed: report.figures.failed,
            send_lag_ms: report.figures.send_lag.map(|lag| lag.p99_ms),
            busy: busy.since(),
            pairs: pairs(&samples, &simulated),
        };
        let document = tracked.document();
        print!("{document}");
        write_document(&self.out, &document)?;
        println!("written to {}", self.out.display());
        let kept = tracked.within(1) >= AIM;
        Ok(if kept {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Real seconds of the machines' seconds.
fn real(seconds: f64) -> f64 {
    seconds / COMPRESSION
}

/// In the machines' time: requests at random moments, of random lengths.
fn arrivals(steps: &[(f64, f64)], seed: u64) -> Vec<Arrival> {
    let mut chance = SplitMix::about(seed, "tracking", 0);
    let mean_output = f64::from(OUTPUT_TOKENS.0 + OUTPUT_TOKENS.1) / 2.0;
    let law = law();
    let of_a_worker = law.requests_per_s(f64::from(PROMPT_TOKENS), mean_output);
    let mut arrivals = Vec::new();
    let mut begin = 0.0;
    for &(workers, minutes) in steps {
        let end = begin + 60.0 * minutes;
        let mut at_s = begin + chance.exponential(1.0 / (workers * of_a_worker));
        while at_s < end {
            let (least, most) = OUTPUT_TOKENS;
            let span = f64::from(most - least + 1);
            arrivals.push(Arrival {
                at_s,
                prompt_tokens: PROMPT_TOKENS,
                output_tokens: least + (chance.unit() * span) as u32,
            });
            at_s += chance.exponential(1.0 / (workers * of_a_worker));
        }
        begin = end;
    }
    arrivals
}

/// In the machines' time.
fn law() -> MachineLaw {
    MachineLaw {
        base_s: BASE_S * COMPRESSION,
        per_sequence_s: PER_SEQUENCE_S * COMPRESSION,
        per_kv_token_s: 0.0,
        prefill_tokens_per_s: PREFILL_TOKENS_PER_S / COMPRESSION,
        kv_tokens: KV_TOKENS,
        batch_max: BATCH_MAX,
    }
}

fn times() -> TimeLimits {
    let second = Duration::from_secs(1);
    TimeLimits {
        scheduling: 120 * second,
        ..usual_times()
    }
}

fn simulated(arrivals: &[Arrival], seed: u64) -> Vec<Point> {
    let rules = RequestRules {
        law: law(),
        ..RequestRules::default()
    };
    let load = Load::of_requests(arrivals.to_vec(), rules.routing.kappa);
    let speed = TOKENS_PER_SECOND / COMPRESSION;
    let mut scenario = Scenario::of_aims(load, 1.0, seed);
    let mut kind = MachineKind::plain("stand-in", speed, USD_PER_HOUR);
    kind.storage_usd_per_hour.0 = 0.0;
    kind.starts.cold_s = COLD_S;
    kind.starts.cold_cv = 0.0;
    kind.starts.restart_s = RESTART_S;
    kind.starts.restart_cv = 0.0;
    kind.starts.restart_fails = 0.0;
    let mut group = group_of(&kind);
    group.speed_prior.tokens_per_second = TokensPerSecond(speed);
    group.speed_prior.concurrency = BATCH_MAX;
    group.max_concurrency = Some(BATCH_MAX);
    scenario.groups = vec![group];
    scenario.kinds = vec![kind];
    scenario.begin_with = 0;
    scenario.times = times();
    scenario.scaling = usual_scaling();
    scenario.scaling.max_workers = WORKERS_MAX;
    scenario.sample = Duration::from_secs(20);
    scenario.serving = Serving::Requests(Box::new(rules));
    let mut planner = Production::new(&scenario.scaling);
    run(&scenario, &mut planner).series
}

/// All the machines' durations, divided; JSON is YAML.
fn endpoint_yaml(worker: &std::path::Path) -> Result<String> {
    let worker = std::path::absolute(worker)?;
    let worker = worker
        .to_str()
        .context("the stand-in worker's path is no text")?;
    let law = [
        ("--a-ms", BASE_S * 1e3),
        ("--c-ms", PER_SEQUENCE_S * 1e3),
        ("--k-ms", 0.0),
        ("--prefill", PREFILL_TOKENS_PER_S),
        ("--max-batch", f64::from(BATCH_MAX)),
        ("--kv-tokens", f64::from(KV_TOKENS)),
    ];
    let mut command = vec![
        worker.to_owned(),
        "--listen".to_owned(),
        "127.0.0.1:{port}".to_owned(),
    ];
    for (flag, figure) in law {
        command.extend([flag.to_owned(), figure.to_string()]);
    }
    let (times, scaling) = (times(), usual_scaling());
    let s = |duration: Duration| real(duration.as_secs_f64());
    let endpoint = serde_json::json!({
        "endpoint_name": "tracked",
        "max_workers": WORKERS_MAX,
        "target_util": "auto",
        "cold_mult": "auto",
        "slo": {"wait": s(scaling.slo.wait), "late_share": scaling.slo.late_share},
        "inactivity_timeout": scaling.inactivity_timeout.map(s),
        "scale_down_delay": s(scaling.scale_down_delay),
        "drain_backlog_within": s(scaling.drain_backlog_within),
        "max_queue_time": real(30.0),
        "slow_start": real(30.0),
        "max_wait_time": real(300.0).max(60.0),
        "hedge_share": 0,
        "probe_interval": real(2.0),
        "timeouts": {
            "boot": s(times.boot),
            "scheduling": s(times.scheduling),
            "unresponsive": s(times.unresponsive).max(5.0),
            "drain": s(times.drain),
            "drain_limit": s(times.drain_limit),
        },
        "worker_groups": [{
            "name": "stand-in",
            "engine": "fake",
            "command": command,
            "boot_time": real(COLD_S),
            "restart_time": real(RESTART_S),
            "tokens_per_second": TOKENS_PER_SECOND,
            "concurrency": BATCH_MAX,
            "max_concurrency": BATCH_MAX,
            "usd_per_hour": USD_PER_HOUR,
        }],
    });
    Ok(endpoint.to_string())
}

/// Size of the real fleet at moments of the machines' time.
type Samples = Vec<(f64, Sizes)>;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sizes {
    /// Ready or starting.
    running: u32,
    ready: u32,
    stopped: u32,
}

async fn play(gateway: &Gateway, arrivals: &[Arrival]) -> Result<(replay::ReplayReport, Samples)> {
    let requests = arrivals.iter().map(|arrival| TraceRequest {
        arrival_s: real(arrival.at_s),
        input_tokens: arrival.prompt_tokens,
        output_tokens: arrival.output_tokens,
    });
    let trace = Trace {
        requests: requests.collect(),
    };
    let options = ReplayOptions {
        phases: vec![Phase::whole(&trace, 1.0)],
        late_after: Duration::from_secs_f64(real(10.0)),
        request_timeout: Duration::from_secs(120),
        finish_within: Duration::from_secs(125),
        ..ReplayOptions::new(trace, &gateway.base_url)
    };
    let mut sending = std::pin::pin!(replay::run(options));
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut ticks = interval(Duration::from_secs_f64(real(20.0)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            report = &mut sending => return Ok((report?, samples)),
            _ = ticks.tick() => {
                let at_s = start.elapsed().as_secs_f64() * COMPRESSION;
                let fleet = gateway.fleet().await?;
                let count = |phase: &str| fleet.count(phase) as u32;
                let ready = fleet.ready() as u32;
                samples.push((at_s, Sizes {
                    ready,
                    running: ready + count("starting") + count("benchmarking"),
                    stopped: count("stopped"),
                }));
            }
        }
    }
}

/// Each sample of the real fleet with the simulated one of that moment.
fn pairs(samples: &Samples, simulated: &[Point]) -> Vec<(f64, Sizes, Sizes)> {
    let last_s = simulated.last().map_or(0.0, |point| point.at_s);
    let of = |at_s: f64| {
        let next = simulated.partition_point(|point| point.at_s <= at_s);
        simulated.get(next.checked_sub(1)?).map(|point| Sizes {
            running: point.ready + point.starting,
            ready: point.ready,
            stopped: point.stopped,
        })
    };
    let within = samples.iter().filter(|(at_s, _)| *at_s <= last_s);
    within
        .filter_map(|&(at_s, seen)| Some((at_s, seen, of(at_s)?)))
        .collect()
}

struct Tracked<'a> {
    version: String,
    steps: &'a [(f64, f64)],
    seed: u64,
    requests: usize,
    failed: u64,
    send_lag_ms: Option<f64>,
    busy: f64,
    /// Moment, real fleet, simulated fleet.
    pairs: Vec<(f64, Sizes, Sizes)>,
}

impl Tracked<'_> {
    /// Share of the time in which the two are at most so many workers apart.
    fn within(&self, workers: u32) -> f64 {
        let near = |(_, seen, simulated): &&(f64, Sizes, Sizes)| {
            seen.running.abs_diff(simulated.running) <= workers
        };
        self.pairs.iter().filter(near).count() as f64 / self.pairs.len().max(1) as f64
    }

    fn mean(&self, of: fn(&(f64, Sizes, Sizes)) -> u32) -> f64 {
        let sum: u32 = self.pairs.iter().map(of).sum();
        f64::from(sum) / self.pairs.len().max(1) as f64
    }

    fn document(&self) -> String {
        let mut text = format!(
            "# The simulator beside the real gateway\n\n`{}`, stand-in workers as local processes, {} requests, seed {}. All durations of the real run are those of the simulated one divided by {COMPRESSION:.0} (cold start {COLD_S:.0} s, restart {RESTART_S:.0} s, both steady here; plans every 5 s). Both have the same policy and the same requests; the size compared is of workers ready and starting, every 20 s. The story, in workers of load: {}.\n\n```\ncargo run --release -p loadtest -- scenario tracking --seed {} --steps {}\n```\n\n",
            self.version,
            self.requests,
            self.seed,
            self.steps
                .iter()
                .map(|(workers, minutes)| format!("{workers} for {minutes} min"))
                .collect::<Vec<_>>()
                .join(", "),
            self.seed,
            self.steps.len(),
        );
        let _ = writeln!(
            text,
            "| | |\n|---|---|\n| the same size | {:.1}% of the time |\n| within one worker | **{:.1}%** (aim 95) |\n| within two | {:.1}% |\n| mean size, real / simulated | {:.2} / {:.2} |\n| mean ready, real / simulated | {:.2} / {:.2} |\n| mean stopped, real / simulated | {:.2} / {:.2} |\n| requests failed | {} |\n| send lag p99 | {} |\n| this machine's processors busy | {:.0}% |\n",
            100.0 * self.within(0),
            100.0 * self.within(1),
            100.0 * self.within(2),
            self.mean(|(_, seen, _)| seen.running),
            self.mean(|(_, _, simulated)| simulated.running),
            self.mean(|(_, seen, _)| seen.ready),
            self.mean(|(_, _, simulated)| simulated.ready),
            self.mean(|(_, seen, _)| seen.stopped),
            self.mean(|(_, _, simulated)| simulated.stopped),
            self.failed,
            self.send_lag_ms
                .map_or("unknown".to_owned(), |lag| format!("{lag:.0} ms")),
            100.0 * self.busy,
        );
        text.push_str("| minute | real: running / ready / stopped | simulated |\n|---|---|---|\n");
        for (at_s, seen, simulated) in self.pairs.iter().step_by(15) {
            let _ = writeln!(
                text,
                "| {:.0} | {} / {} / {} | {} / {} / {} |",
                at_s / 60.0,
                seen.running,
                seen.ready,
                seen.stopped,
                simulated.running,
                simulated.ready,
                simulated.stopped,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulated_fleet_follows_the_story() {
        let steps = &STORY[..4];
        let series = simulated(&arrivals(steps, 1), 1);
        let mut from = 0.0;
        for &(workers, minutes) in steps {
            let to = from + 60.0 * minutes;
            let end = series.iter().rfind(|point| point.at_s < to);
            let ready = end.map_or(0, |point| point.ready);
            let wanted = workers..=2.0 * workers + 2.0;
            assert!(wanted.contains(&f64::from(ready)), "{workers}: {ready}");
            from = to;
        }
    }

    #[test]
    fn each_sample_is_held_against_the_moment_before() {
        let point = |at_s, ready| Point {
            at_s,
            ready,
            ..Point::default()
        };
        let sizes = |running| Sizes {
            running,
            ready: running,
            stopped: 0,
        };
        let simulated = [point(0.0, 1), point(20.0, 2), point(40.0, 3)];
        let samples = vec![(19.0, sizes(1)), (25.0, sizes(4)), (90.0, sizes(9))];
        let pairs = pairs(&samples, &simulated);
        assert_eq!(
            pairs,
            [(19.0, sizes(1), sizes(1)), (25.0, sizes(4), sizes(2))]
        );
    }
}
