//! `tidegate status`

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Asked;
use super::ask::{Gateway, NoAnswer};
use super::exit::Trouble;
use super::show::{self, Grid};
use crate::domain::{
    EndpointName, MarketKind, Timestamp, TokensPerSecond, UsdPerHour, WaitingView, WorkerPhase,
    WorkerView,
};

const MESSAGE_WIDTH: usize = 60;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
    /// Show it anew, every two seconds or as often as said, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<f64>,
}

/// What `/fleet` says, as far as it is shown.
#[derive(Deserialize)]
struct Fleet {
    taken_at: Timestamp,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    endpoint: EndpointName,
    market: MarketKind,
    removed: bool,
    plan: Option<Plan>,
    waiting: Waiting,
    workers: Vec<Worker>,
}

#[derive(Deserialize)]
struct Plan {
    predicted_load: TokensPerSecond,
    wanted: TokensPerSecond,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(flatten)]
    view: WaitingView,
    expected_s: Option<f64>,
}

#[derive(Deserialize)]
struct Worker {
    #[serde(flatten)]
    view: WorkerView,
    #[serde(default)]
    standing: Value,
    #[serde(default)]
    market_message: String,
    #[serde(default)]
    last_reason: String,
}

pub(super) async fn status(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let gateway = arguments.asked.gateway()?;
    let Some(every) = arguments.watch else {
        show::print(&look(&gateway, arguments.asked.json).await?);
        return Ok(ExitCode::SUCCESS);
    };
    let every = Duration::try_from_secs_f64(every.clamp(0.2, 3_600.0)).unwrap_or_default();
    loop {
        // A gateway that is away for a moment may come back.
        let text = match look(&gateway, arguments.asked.json).await {
            Ok(text) => text,
            Err(error) => format!("{error}\n"),
        };
        let clear = if arguments.asked.json {
            ""
        } else {
            "\x1b[H\x1b[2J"
        };
        show::print(&format!("{clear}{text}"));
        tokio::time::sleep(every).await;
    }
}

async fn look(gateway: &Gateway, json: bool) -> Result<String, NoAnswer> {
    if json {
        let fleet: Value = gateway.json("/fleet").await?;
        return Ok(format!("{fleet:#}\n"));
    }
    let fleet: Fleet = gateway.json("/fleet").await?;
    Ok(text_of(&fleet))
}

fn text_of(fleet: &Fleet) -> String {
    let mut text = String::new();
    for endpoint in &fleet.endpoints {
        text.push_str(&head(endpoint, fleet.taken_at));
        text.push_str(&workers(endpoint, fleet.taken_at));
        text.push('\n');
    }
    let paid: UsdPerHour = fleet.endpoints.iter().map(usd_per_hour).sum();
    text.push_str(&format!("{}/h in all\n", show::price(paid)));
    text
}

fn head(endpoint: &Endpoint, at: Timestamp) -> String {
    let ready = endpoint.workers.iter().filter(|w| w.view.phase.is_ready());
    let running: TokensPerSecond = ready.map(|worker| worker.view.speed).sum();
    let removed = if endpoint.removed { ", leaving" } else { "" };
    let demand = match &endpoint.plan {
        Some(plan) => format!(
            ", load {}, {} wanted",
            show::speed(plan.predicted_load),
            show::speed(plan.wanted)
        ),
        None => String::new(),
    };
    format!(
        "{} ({}{removed}): {} tokens/s ready{demand}; {}; {}/h\n",
        endpoint.endpoint,
        endpoint.market.as_str(),
        show::speed(running),
        waiting(&endpoint.waiting, at),
        show::price(usd_per_hour(endpoint)),
    )
}

fn waiting(waiting: &Waiting, at: Timestamp) -> String {
    if waiting.view.requests == 0 {
        return "nobody waits".into();
    }
    let since = waiting.view.oldest_since;
    let oldest = since.map_or(String::new(), |since| {
        format!(", the oldest since {}", show::span(at.since(since)))
    });
    let expected = waiting.expected_s.map_or(String::new(), |s| {
        format!(", {} more expected", show::seconds(s))
    });
    format!("{} wait{oldest}{expected}", waiting.view.requests)
}

fn workers(endpoint: &Endpoint, at: Timestamp) -> String {
    if endpoint.workers.is_empty() {
        return "  no workers\n".into();
    }
    let mut grid = Grid::new(&[
        "WORKER",
        "PHASE",
        ">SINCE",
        ">TOKENS/S",
        ">REQUESTS",
        ">WORK",
        ">$/H",
        "SAYS",
    ]);
    for worker in &endpoint.workers {
        let view = &worker.view;
        grid.row([
            view.id.to_string(),
            phase(worker),
            show::span(at.since(view.phase_since)),
            show::speed(view.speed),
            view.in_flight.to_string(),
            work(view),
            show::price(view.usd_per_hour),
            show::short(says(worker), MESSAGE_WIDTH),
        ]);
    }
    grid.indented(2)
}

/// Ejected workers are ready and get nothing.
fn phase(worker: &Worker) -> String {
    let standing = worker.standing.get("state").and_then(Value::as_str);
    match standing {
        Some(state @ ("ejected" | "probation")) => {
            format!("{}, {state}", worker.view.phase.as_str())
        }
        _ => worker.view.phase.as_str().to_owned(),
    }
}

/// How long it would take to do what it was given.
fn work(view: &WorkerView) -> String {
    if view.outstanding.0 <= 0.0 || view.speed.0 <= 0.0 {
        return "-".into();
    }
    show::seconds(view.outstanding.0 / view.speed.0)
}

/// What the market says of a machine that is not in use yet; else why the scaler did what it last did.
fn says(worker: &Worker) -> &str {
    match worker.view.phase {
        WorkerPhase::Ready => "",
        _ if worker.market_message.is_empty() => &worker.last_reason,
        _ => &worker.market_message,
    }
}

fn usd_per_hour(endpoint: &Endpoint) -> UsdPerHour {
    let paid = endpoint
        .workers
        .iter()
        .filter(|worker| !matches!(worker.view.phase, WorkerPhase::Stopped | WorkerPhase::Gone));
    paid.map(|worker| worker.view.usd_per_hour).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(workers: Value) -> Fleet {
        serde_json::from_value(json!({"taken_at": 70_000, "endpoints": [{
            "endpoint": "chat", "market": "vast", "removed": false,
            "plan": {"predicted_load": 120.0, "wanted": 133.3},
            "waiting": {"requests": 2, "bytes": 10, "cost": 60.0, "oldest_since": 60_000,
                        "reason": "none_ready", "expected_s": 12.0},
            "workers": workers,
        }]}))
        .expect("a fleet")
    }

    fn worker(id: &str, phase: &str, more: Value) -> Value {
        let mut worker = json!({"id": id, "group": "small", "phase": {"name": phase}, "phase_since": 10_000,
            "speed": 400.0, "outstanding": 800.0, "in_flight": 3, "usd_per_hour": 0.25});
        let (all, more) = (worker.as_object_mut(), more.as_object());
        all.expect("a map").extend(more.expect("a map").clone());
        worker
    }

    #[test]
    fn a_ready_worker_is_shown_with_its_speed_load_price_and_age() {
        let text = text_of(&fleet(json!([worker("small-a-0", "ready", json!({}))])));
        let line = text.lines().find(|line| line.contains("small-a-0"));
        let cells: Vec<&str> = line.expect("its line").split_whitespace().collect();
        assert_eq!(
            cells,
            ["small-a-0", "ready", "1m00s", "400", "3", "2.0s", "$0.2500"]
        );
        assert!(
            text.contains("400 tokens/s ready, load 120, 133 wanted"),
            "{text}"
        );
        assert!(
            text.contains("2 wait, the oldest since 10s, 12s more expected"),
            "{text}"
        );
        assert!(text.ends_with("$0.2500/h in all\n"), "{text}");
    }

    #[test]
    fn a_loading_worker_shows_what_its_market_says_of_it() {
        let loading = worker(
            "w",
            "starting",
            json!({"market_message": "pulling image 40%", "last_reason": "why"}),
        );
        let text = text_of(&fleet(json!([loading])));
        assert!(
            text.contains("pulling image 40%") && !text.contains("why"),
            "{text}"
        );
    }

    #[test]
    fn a_stopped_worker_costs_nothing_an_hour_and_an_ejected_one_is_told_apart() {
        let ejected = worker(
            "w1",
            "ready",
            json!({"standing": {"state": "ejected", "until": 1}}),
        );
        let text = text_of(&fleet(json!([worker("w2", "stopped", json!({})), ejected])));
        assert!(text.contains("ready, ejected"), "{text}");
        assert!(text.ends_with("$0.2500/h in all\n"), "{text}");
    }
}
