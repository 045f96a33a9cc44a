//! From a configuration, a traffic and flags to a scenario, with all that was assumed on the way.

use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use super::super::exit::Trouble;
use super::{Arguments, Machines, Traffic};
use crate::config::{self, Config};
use crate::domain::{Endpoint, MarketKind, UsdPerHour, WorkerGroup};
use crate::simulate::chance::SplitMix;
use crate::simulate::load::{Arrival, Load, Rates};
use crate::simulate::market::{Failures, MachineKind, Starts};
use crate::simulate::serving::Patience;
use crate::simulate::traces::{Log, REQUESTS_MAX, SECONDS_MAX, Trace};
use crate::simulate::world::{Chooser, RequestRules, Scenario, Serving};

/// A day of a busy endpoint; longer traces are played as water.
const REQUESTS_PLAYED: usize = 5_000_000;
/// Copies of a request that is to arrive several times come within so long of it.
const COPIES_WITHIN_S: f64 = 30.0;
const TICK: Duration = Duration::from_secs(5);
/// Beyond the last arrival, so that what waits then is served or refused: as long as a request may wait, within these.
const TAIL_S: (f64, f64) = (600.0, 3_600.0);

/// `--market`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MarketFile {
    machines: Vec<MachineKind>,
}

/// All that is the same for every seed.
pub(super) struct Prepared {
    endpoint: Endpoint,
    kinds: Vec<MachineKind>,
    groups: Vec<WorkerGroup>,
    source: LoadSource,
    traffic: (f64, f64),
    count_from: Duration,
    by_requests: bool,
    tail_s: usize,
    /// What was taken for granted, and what is missing.
    pub assumed: Vec<String>,
}

enum LoadSource {
    Requests(Vec<Arrival>),
    /// With the work of a request.
    Rates(Rates, f64),
}

impl LoadSource {
    /// Changed as asked, it is still a traffic that fits into memory.
    fn check_size(&self, traffic: &Traffic) -> Result<(), Trouble> {
        let (requests, seconds) = match self {
            Self::Requests(requests) => {
                let last_s = requests.last().map_or(0.0, |last| last.at_s);
                (requests.len() as f64 * traffic.scale, last_s)
            }
            Self::Rates(rates, _) => (0.0, (rates.window_s * rates.rates.len() as u64) as f64),
        };
        let seconds = seconds / traffic.speedup;
        if requests > REQUESTS_MAX as f64 || seconds > SECONDS_MAX as f64 {
            return Err(Trouble::No(format!(
                "--scale and --speedup make {requests:.0} requests in {:.0} days of it: at most {REQUESTS_MAX} in {} days",
                seconds / 86_400.0,
                SECONDS_MAX / 86_400
            )));
        }
        Ok(())
    }
}

impl Prepared {
    pub fn new(arguments: &Arguments, config: &Config, trace: Trace) -> Result<Self, Trouble> {
        let endpoint = endpoint(config, arguments.endpoint.as_deref())?.clone();
        let mut assumed = Vec::new();
        let groups = endpoint.groups.clone();
        let kinds = match &arguments.machines.market {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let file: MarketFile = config::parse_as(&text)
                    .map_err(|error| Trouble::No(format!("{}:{error}", path.display())))?;
                check_kinds(&file.machines, &groups)?;
                file.machines
            }
            None => stated_kinds(&endpoint, &arguments.machines, &mut assumed)?,
        };
        let traffic = &arguments.traffic;
        let source = source(trace, traffic, &mut assumed);
        source.check_size(traffic)?;
        let by_requests = match &source {
            LoadSource::Requests(requests) if !arguments.fluid => {
                let few = requests.len() as f64 * traffic.scale <= REQUESTS_PLAYED as f64;
                if !few {
                    assumed.push(format!(
                        "more than {REQUESTS_PLAYED} requests: work flows like water"
                    ));
                }
                few
            }
            _ => false,
        };
        if by_requests {
            assumed.push("workers batch as vLLM does on an RTX 4090 with an 8B model, at the speed stated for their kind".into());
            assumed.push(
                "clients are taken for one; no prompt shares its beginning with another".into(),
            );
        } else {
            assumed.push("work flows like water: first in, first out, no drains beyond 10 s, no streams lost".into());
        }
        assumed.push("enough workers for the first ten minutes are there when it begins; their starts are on the bill and not counted".into());
        let tail_s = endpoint
            .waiting
            .wait_max
            .as_secs_f64()
            .clamp(TAIL_S.0, TAIL_S.1) as usize;
        assumed.push(format!(
            "it goes on for {tail_s} s after the last arrival, so that what waits then is served or refused; that is paid too"
        ));
        Ok(Self {
            endpoint,
            kinds,
            groups,
            source,
            traffic: (traffic.scale, traffic.speedup),
            count_from: Duration::from_secs(arguments.count_from),
            by_requests,
            tail_s,
            assumed,
        })
    }

    /// Something has to be left to count.
    pub fn check_length(&self, scenario: &Scenario) -> Result<(), Trouble> {
        let traffic_s = scenario.load.length_s().saturating_sub(self.tail_s);
        let from_s = self.count_from.as_secs() as usize;
        if from_s < traffic_s || traffic_s == 0 {
            return Ok(());
        }
        Err(Trouble::No(format!(
            "--count-from is {from_s} s, and the traffic ends after {traffic_s} s"
        )))
    }

    /// Seconds beyond the last arrival.
    pub fn tail_s(&self) -> usize {
        self.tail_s
    }

    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut load = self.load(seed);
        load.work.extend(std::iter::repeat_n(0.0, self.tail_s));
        let endpoint = &self.endpoint;
        let first = load.work.iter().take(600).sum::<f64>() / load.length_s().clamp(1, 600) as f64;
        let speed = self.groups.first().map_or(1.0, |group| {
            let kinds = self.kinds.iter().filter(|kind| kind.group == group.name);
            kinds.map(|kind| kind.speed.0).fold(0.0, f64::max).max(1e-9)
        });
        let begin_with = (1.2 * first / speed).ceil() as u32;
        let mut rules = RequestRules {
            routing: endpoint.routing.clone(),
            patience: Patience {
                waiting_max: endpoint.waiting.requests_max,
                wait_max: endpoint.waiting.wait_max,
                wait_max_busy: endpoint.waiting.wait_max_busy,
                attempts_max: endpoint.retry.attempts_max,
                resumes_max: endpoint.resume.times_max,
            },
            ..RequestRules::default()
        };
        if let Some(kv_tokens) = self.groups.iter().find_map(|group| group.kv_tokens) {
            rules.law.kv_tokens = kv_tokens;
        }
        Scenario {
            load,
            groups: self.groups.clone(),
            kinds: self.kinds.clone(),
            scaling: endpoint.scaling.clone(),
            times: endpoint.times.clone(),
            offers: endpoint.offers.clone(),
            chooser: Chooser::Learned,
            begin_with: begin_with.min(endpoint.scaling.max_workers),
            tick: TICK,
            sample: Duration::from_secs(60),
            count_from: self.count_from,
            drain: Duration::from_secs(10),
            serving: if self.by_requests {
                Serving::Requests(Box::new(rules))
            } else {
                Serving::Water
            },
            seed,
        }
    }

    fn load(&self, seed: u64) -> Load {
        let (scale, speedup) = self.traffic;
        let kappa = self.endpoint.routing.kappa;
        match &self.source {
            LoadSource::Requests(requests) => {
                Load::of_requests(changed(requests, scale, speedup, seed), kappa)
            }
            LoadSource::Rates(rates, dispersion) => {
                let known: Vec<f64> = rates.rates.iter().flatten().copied().collect();
                let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
                let faster = Rates {
                    window_s: ((rates.window_s as f64 / speedup) as u64).max(1),
                    rates: rates.rates.clone(),
                };
                Load::of_rates(&faster, mean * scale * speedup, *dispersion, seed)
            }
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

fn endpoint<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Endpoint, Trouble> {
    let names = || {
        let names = config
            .endpoints
            .iter()
            .map(|endpoint| endpoint.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    match (name, &config.endpoints[..]) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Trouble::No(format!(
            "there are several endpoints ({}): name one with --endpoint",
            names()
        ))),
        (Some(name), all) => {
            let found = all.iter().find(|endpoint| endpoint.name.as_str() == name);
            found.ok_or_else(|| {
                Trouble::No(format!(
                    "there is no endpoint {name}; there are {}",
                    names()
                ))
            })
        }
    }
}

fn check_kinds(kinds: &[MachineKind], groups: &[WorkerGroup]) -> Result<(), Trouble> {
    if kinds.is_empty() {
        return Err(Trouble::No("the market has no machines".into()));
    }
    for kind in kinds {
        if !groups.iter().any(|group| group.name == kind.group) {
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            return Err(Trouble::No(format!(
                "the market has machines for the group {}, and the endpoint's groups are {}",
                kind.group,
                names.join(", ")
            )));
        }
        let sane = |figure: f64| figure.is_finite() && figure > 0.0;
        if !sane(kind.speed.0) || !sane(kind.usd_per_hour.0) {
            return Err(Trouble::No(format!(
                "a machine for the group {} has no speed or no price above 0",
                kind.group
            )));
        }
    }
    Ok(())
}

/// Each group is a kind, at its stated speed and price.
fn stated_kinds(
    endpoint: &Endpoint,
    flags: &Machines,
    assumed: &mut Vec<String>,
) -> Result<Vec<MachineKind>, Trouble> {
    if endpoint.market == MarketKind::Fixed {
        return Err(Trouble::No(format!(
            "endpoint {}: its workers are given, nothing is rented; name a market with --market",
            endpoint.name
        )));
    }
    let mut kinds = Vec::new();
    for group in &endpoint.groups {
        let price = match (group.usd_per_hour.0 > 0.0, flags.usd_per_hour) {
            (true, _) => group.usd_per_hour,
            (false, Some(price)) => UsdPerHour(price),
            (false, None) => {
                return Err(Trouble::No(format!(
                    "group {} states no usd_per_hour: give --usd-per-hour or --market",
                    group.name
                )));
            }
        };
        let speed = group.speed_prior.tokens_per_second.0;
        assumed.push(format!(
            "group {}: machines without end, {speed:.0} tokens/s each at ${:.3}/h, as stated",
            group.name, price.0
        ));
        kinds.push(MachineKind {
            storage_usd_per_hour: UsdPerHour(price.0 * flags.storage),
            starts: Starts {
                cold_s: flags.cold_start,
                cold_cv: flags.cold_start_cv.clamp(0.0, 5.0),
                billed_share: flags.billed,
                never_share: flags.never_up,
                restart_s: flags.restart,
                restart_fails: flags.restart_fails,
                ..Starts::default()
            },
            failures: Failures {
                mtbf_h: flags.mtbf.max(0.0),
                ..Failures::usual()
            },
            ..MachineKind::plain(group.name.as_str(), speed, price.0)
        });
    }
    assumed.push(format!(
        "a cold start takes {:.0} s (cv {:.2}), {:.0}% of it billed, {:.0}% never come up; a restart {:.0} s, {:.0}% fail; \
         storage is {:.0}% of the price{}",
        flags.cold_start,
        flags.cold_start_cv,
        100.0 * flags.billed,
        100.0 * flags.never_up,
        flags.restart,
        100.0 * flags.restart_fails,
        100.0 * flags.storage,
        if flags.mtbf > 0.0 {
            format!("; a machine fails every {:.0} h", flags.mtbf)
        } else {
            "; no machine that serves fails".into()
        },
    ));
    Ok(kinds)
}

fn source(trace: Trace, traffic: &Traffic, assumed: &mut Vec<String>) -> LoadSource {
    match trace {
        Trace::Requests(requests) => LoadSource::Requests(requests),
        Trace::Rates(rates) => {
            assumed.push(format!(
                "a request is {:.0} tokens of work; seconds differ {:.1} times as much as Poisson arrivals do",
                traffic.request_tokens, traffic.burstiness
            ));
            let gaps = rates.rates.iter().filter(|rate| rate.is_none()).count();
            if gaps > 0 {
                assumed.push(format!("{gaps} windows without a rate are left out"));
            }
            let work = |rate: Option<f64>| rate.map(|rate| rate * traffic.request_tokens);
            let rates = Rates {
                rates: rates.rates.iter().copied().map(work).collect(),
                ..rates
            };
            let dispersion = traffic.request_tokens * traffic.burstiness.max(0.0);
            LoadSource::Rates(rates, dispersion)
        }
        Trace::Log(log) => {
            assumed.extend(said_of(&log));
            LoadSource::Requests(log.requests)
        }
    }
}

/// What a log does not say.
fn said_of(log: &Log) -> Vec<String> {
    let mut said = vec![format!(
        "{} of the log's {} lines are requests that a fleet has to serve",
        log.requests.len(),
        log.lines
    )];
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    };
    say(log.bad, "lines could not be read and are left out");
    say(log.elsewhere, "lines are of other endpoints or of none");
    say(
        log.refused,
        "were refused for the client's mistake or limit, and are left out",
    );
    say(
        log.uncounted,
        "have no token counts (routes that pass through) and are left out: their work is missing",
    );
    say(
        log.predicted,
        "were not answered in full: their length is the one predicted",
    );
    said
}

/// More or fewer requests, and faster.
fn changed(requests: &[Arrival], scale: f64, speedup: f64, seed: u64) -> Vec<Arrival> {
    if scale == 1.0 && speedup == 1.0 {
        return requests.to_vec();
    }
    let mut chance = SplitMix::about(seed, "copies", 0);
    let mut changed = Vec::new();
    for request in requests {
        let copies = scale.floor() as u64 + u64::from(chance.happens(scale.fract()));
        for copy in 0..copies {
            let later_s = match copy {
                0 => 0.0,
                _ => COPIES_WITHIN_S * chance.unit(),
            };
            changed.push(Arrival {
                at_s: request.at_s / speedup + later_s,
                ..*request
            });
        }
    }
    changed.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    changed
}
