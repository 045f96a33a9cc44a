//! `tidegate status`

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::asked::{Asked, open_alone, typed, value};
use super::exit::{self, Trouble};
use super::show::{self, Grid};
use crate::config::Config;
use crate::domain::{
    EndpointName, Instance, LoadForecast, MarketKind, MoneyView, SpendingRule, Timestamp,
    TokensPerSecond, Usd, UsdPerHour, WaitingView, WorkerId, WorkerPhase, WorkerView,
};
use crate::scaler::{Looked, NOT_LISTED};

const MESSAGE_WIDTH: usize = 60;
/// Cursor home, screen empty.
const CLEAR: &str = "\x1b[H\x1b[2J";

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
    money: MoneyView,
    endpoints: Vec<Endpoint>,
    /// Without a gateway: machines of ours that the ledger does not know.
    #[serde(default)]
    strays: Vec<Instance>,
    #[serde(default)]
    silent: Vec<(MarketKind, String)>,
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
    #[serde(default)]
    forecast: Option<LoadForecast>,
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
    /// When its machine last asked for the gateway.
    #[serde(default)]
    heard_at: Option<Timestamp>,
    /// Without a gateway nobody knows its phase: what its market says instead.
    #[serde(default)]
    seen: Option<String>,
}

pub(super) async fn status(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let Some(every) = arguments.watch else {
        let (text, code) = look(&arguments.asked).await?;
        show::print(&text);
        return Ok(code);
    };
    let every = Duration::try_from_secs_f64(every.clamp(0.2, 3_600.0)).unwrap_or_default();
    loop {
        // A gateway that is away for a moment may come back.
        let text = match look(&arguments.asked).await {
            Ok((text, _)) => text,
            Err(error) => format!("{error}\n"),
        };
        let clear = if arguments.asked.json { "" } else { CLEAR };
        if show::try_print(&format!("{clear}{text}")).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(every).await;
    }
}

async fn look(asked: &Asked) -> Result<(String, ExitCode), Trouble> {
    let answer = asked.answer("/fleet", alone).await?;
    let json = asked.json.then(|| format!("{answer:#}\n"));
    let fleet: Fleet = typed(answer)?;
    let code = if fleet.silent.is_empty() {
        0
    } else {
        exit::UNREACHABLE
    };
    Ok((
        json.unwrap_or_else(|| text_of(&fleet)),
        ExitCode::from(code),
    ))
}

/// The same without a gateway, with what nobody looks after added.
async fn alone(config: &Config) -> Result<Value, Trouble> {
    let alone = open_alone(config)?;
    let looked = alone.look().await?;
    let mut fleet = alone.fleet();
    tell_seen(&mut fleet, &looked);
    fleet["strays"] = value(&looked.strays)?;
    fleet["silent"] = value(&looked.silent)?;
    Ok(fleet)
}

fn tell_seen(fleet: &mut Value, looked: &Looked) {
    let endpoints = fleet.get_mut("endpoints").and_then(Value::as_array_mut);
    for endpoint in endpoints.into_iter().flatten() {
        let workers = endpoint.get_mut("workers").and_then(Value::as_array_mut);
        for worker in workers.into_iter().flatten() {
            let id = worker.get("id").and_then(Value::as_str).unwrap_or_default();
            let seen = looked.seen.get(&WorkerId::new(id)).copied();
            worker["seen"] = seen.unwrap_or("not known").into();
        }
    }
}

fn text_of(fleet: &Fleet) -> String {
    let mut text = String::new();
    for endpoint in &fleet.endpoints {
        text.push_str(&head(endpoint, fleet.taken_at));
        text.push_str(&workers(endpoint, fleet.taken_at));
        text.push('\n');
    }
    for stray in &fleet.strays {
        let price = show::price(stray.usd_per_hour);
        let state = stray.state.as_str();
        text.push_str(&format!(
            "not in the ledger: {} ({}, {state}, {price}/h)\n",
            stray.label, stray.id
        ));
    }
    for (market, why) in &fleet.silent {
        text.push_str(&format!(
            "the market {} does not answer: {why}\n",
            market.as_str()
        ));
    }
    text.push_str(&money(&fleet.money));
    text
}

fn money(money: &MoneyView) -> String {
    let mut text = String::new();
    if money.stopped {
        text.push_str("spending is stopped: nothing is rented, everything rented goes (stop-spending --resume ends that)\n");
    }
    let total = &money.total;
    text.push_str(&format!(
        "{}/h committed; spent {} today, {} this month\n",
        show::price(total.committed),
        show::dollars(total.today),
        show::dollars(total.this_month),
    ));
    for limit in &money.limits {
        let (usd, reached) = (
            |usd| show::dollars(Usd(usd)),
            match &limit.because {
                Some(because) => format!(", reached: {because}"),
                None if limit.reached => ", reached".to_owned(),
                None => String::new(),
            },
        );
        let what = match limit.rule {
            SpendingRule::Credit => {
                format!("credit {}, at least {}", usd(limit.used), usd(limit.limit))
            }
            rule => format!(
                "{} {} of {}",
                rule.as_str(),
                usd(limit.used),
                usd(limit.limit)
            ),
        };
        text.push_str(&format!(
            "limit of {}: {what}{reached}\n",
            limit.scope.as_str()
        ));
    }
    for market in &money.markets {
        let name = market.market.as_str();
        if let Some(credit) = market.credit {
            text.push_str(&format!("{} left at {name}\n", show::dollars(credit)));
        }
        for why in &market.renting_paused {
            text.push_str(&format!("nothing is rented at {name} now: {why}\n"));
        }
    }
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
    let plan = endpoint.plan.as_ref();
    let forecast = plan
        .and_then(|plan| plan.forecast)
        .map_or(String::new(), |forecast| format!("  {forecast}\n"));
    format!(
        "{} ({}{removed}): {} tokens/s ready{demand}; {}; {}/h\n{forecast}",
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
        ">HEARD",
        "SAYS",
    ]);
    for worker in &endpoint.workers {
        let view = &worker.view;
        grid.row([
            view.id.to_string(),
            phase(worker),
            match worker.seen {
                Some(_) => "-".to_owned(),
                None => show::span(at.since(view.phase_since)),
            },
            show::speed(view.speed),
            view.in_flight.to_string(),
            work(view),
            show::price(view.usd_per_hour),
            worker
                .heard_at
                .map_or("-".to_owned(), |heard_at| show::span(at.since(heard_at))),
            show::short(says(worker), MESSAGE_WIDTH),
        ]);
    }
    grid.indented(2)
}

/// Ejected workers are ready and get nothing.
fn phase(worker: &Worker) -> String {
    if let Some(seen) = &worker.seen {
        return seen.clone();
    }
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
        .filter(|worker| !matches!(worker.view.phase, WorkerPhase::Stopped | WorkerPhase::Gone))
        .filter(|worker| worker.seen.as_deref() != Some(NOT_LISTED));
    paid.map(|worker| worker.view.usd_per_hour).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(workers: Value) -> Fleet {
        let money = json!({"stopped": false, "releasing": [], "endpoints": [],
            "total": {"committed": 0.25, "today": 1.5, "this_month": 20.0, "usd_per_million_tokens": null},
            "limits": [{"scope": "installation", "rule": "day", "used": 1.5, "limit": 5.0, "reached": false}],
            "markets": [{"market": "vast", "renting_paused": ["a listing was cut short"], "listed_at": null,
                         "credit": 12.0}]});
        serde_json::from_value(json!({"taken_at": 70_000, "money": money, "endpoints": [{
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
        let text = text_of(&fleet(json!([worker(
            "small-a-0",
            "ready",
            json!({"heard_at": 50_000})
        )])));
        let line = text.lines().find(|line| line.contains("small-a-0"));
        let cells: Vec<&str> = line.expect("its line").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "small-a-0",
                "ready",
                "1m00s",
                "400",
                "3",
                "2.0s",
                "$0.2500",
                "20s"
            ]
        );
        assert!(
            text.contains("400 tokens/s ready, load 120, 133 wanted"),
            "{text}"
        );
        assert!(
            text.contains("2 wait, the oldest since 10s, 12s more expected"),
            "{text}"
        );
    }

    #[test]
    fn money_is_shown_with_its_limits_and_with_what_keeps_from_renting() {
        let text = text_of(&fleet(json!([])));
        for part in [
            "$0.2500/h committed; spent $1.50 today, $20.00 this month",
            "limit of (all): day $1.50 of $5.00",
            "$12.00 left at vast",
            "nothing is rented at vast now: a listing was cut short",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
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
    fn without_a_gateway_a_worker_is_shown_as_its_market_has_it() {
        let mut looked = Looked::default();
        looked.seen.insert(WorkerId::new("w1"), "running");
        looked.seen.insert(WorkerId::new("w2"), NOT_LISTED);
        let workers = ["w1", "w2", "w3"].map(|id| worker(id, "starting", json!({})));
        let mut found = json!({"endpoints": [{"workers": workers}]});
        tell_seen(&mut found, &looked);
        let text = text_of(&fleet(found["endpoints"][0]["workers"].take()));
        let cells = |id: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(id));
            let line = line.expect("its line").split_whitespace();
            line.take(4).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(cells("w1"), "w1 running - 400");
        assert_eq!(cells("w2"), "w2 not listed -");
        assert_eq!(cells("w3"), "w3 not known -");
        assert!(text.contains("; $0.5000/h\n"), "{text}");
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
        assert!(text.contains("; $0.2500/h\n"), "{text}");
    }
}
