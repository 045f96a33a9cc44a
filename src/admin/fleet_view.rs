//! `/fleet` and the fleet gauges, both from the snapshot that decisions are made from.

use serde::Serialize;

use crate::domain::{
    Alternative, BenchmarkResult, CapacityView, DemandView, FleetSnapshot, GapLaw, InstanceState,
    KvRoom, LoadForecast, MarketKind, MoneyView, PredictionView, ScalingSettings, Timestamp,
    TokensPerSecond, WaitReason, WaitingView, WorkerPhase, WorkerView,
};
use crate::fleet::{EndpointFleet, Fleet};
use crate::policy::ejection::{GivenUp, Standing};
use crate::telemetry::FleetGauges;

/// Clients and routes of them whose predictions are shown: those seen last.
const CLIENTS_SHOWN: usize = 20;

#[derive(Serialize)]
pub(super) struct FleetView {
    taken_at: Timestamp,
    money: MoneyView,
    endpoints: Vec<EndpointView>,
}

#[derive(Serialize)]
struct EndpointView {
    endpoint: String,
    model_names: Vec<String>,
    market: MarketKind,
    removed: bool,
    scaling: ScalingSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanView>,
    waiting: WaitingRow,
    demand: DemandView,
    prediction: PredictionView,
    workers: Vec<WorkerRow>,
}

#[derive(Serialize)]
struct WaitingRow {
    #[serde(flatten)]
    view: WaitingView,
    reason: Option<WaitReason>,
    /// Seconds until one that came now would be served, by the workers that serve and start.
    expected_s: Option<f64>,
}

#[derive(Serialize)]
struct PlanView {
    predicted_load: TokensPerSecond,
    wanted: TokensPerSecond,
    prepared_wanted: TokensPerSecond,
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<LoadForecast>,
}

#[derive(Serialize)]
struct WorkerRow {
    #[serde(flatten)]
    view: WorkerView,
    engine: crate::domain::EngineKind,
    takes_requests: bool,
    /// Share of its speed it is trusted with: slow start, probation; 0 while ejected.
    weight: f64,
    standing: Standing,
    /// To be replaced by another, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    given_up: Option<GivenUp>,
    gap: GapLaw,
    capacity: CapacityView,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv: Option<KvRoom>,
    address: Option<String>,
    served_model: Option<String>,
    prompt_tokens_total: u64,
    output_tokens_total: u64,
    requests_total: u64,
    /// Why the scaler last did something with it.
    last_reason: String,
    /// What its market says of its machine: progress of a pull, an error.
    market_message: String,
    /// The offer it was rented by, as it was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    rented_as: Option<Alternative>,
    /// What it showed before it served.
    #[serde(skip_serializing_if = "Option::is_none")]
    benchmark: Option<BenchmarkResult>,
    /// What its market calls its state, and since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<(InstanceState, Timestamp)>,
    /// When its machine last asked at `public_url` whether we live.
    #[serde(skip_serializing_if = "Option::is_none")]
    heard_at: Option<Timestamp>,
    alive_calls_total: u64,
}

pub(super) fn of(fleet: &Fleet, now: Timestamp) -> FleetView {
    FleetView {
        taken_at: now,
        money: (*fleet.money()).clone(),
        endpoints: fleet
            .endpoints()
            .values()
            .map(|endpoint| endpoint_view(endpoint, now))
            .collect(),
    }
}

fn endpoint_view(endpoint: &EndpointFleet, now: Timestamp) -> EndpointView {
    let snapshot = endpoint.snapshot(now);
    let settings = endpoint.settings();
    EndpointView {
        endpoint: endpoint.name.to_string(),
        model_names: settings.model_names.clone(),
        market: settings.market,
        removed: endpoint.is_removed(),
        scaling: settings.scaling.clone(),
        plan: endpoint.last_plan().map(|plan| PlanView {
            predicted_load: plan.predicted_load,
            wanted: plan.wanted,
            prepared_wanted: plan.prepared_wanted,
            forecast: plan.forecast,
        }),
        waiting: waiting_row(endpoint, snapshot.waiting, now),
        demand: snapshot.demand,
        prediction: endpoint.predictions(CLIENTS_SHOWN),
        workers: rows(endpoint, snapshot),
    }
}

fn waiting_row(endpoint: &EndpointFleet, view: WaitingView, now: Timestamp) -> WaitingRow {
    WaitingRow {
        reason: (view.requests > 0).then(|| endpoint.wait_reason()),
        expected_s: endpoint
            .expected_wait(view.cost, now)
            .map(|wait| wait.as_secs_f64()),
        view,
    }
}

fn rows(endpoint: &EndpointFleet, snapshot: FleetSnapshot) -> Vec<WorkerRow> {
    snapshot
        .workers
        .into_iter()
        .filter_map(|view| {
            let worker = endpoint.worker(&view.id)?;
            let contact = worker.contact();
            let totals = worker.meter.totals();
            Some(WorkerRow {
                engine: worker.spec.engine,
                takes_requests: worker.takes_requests(),
                weight: worker.weight(),
                standing: worker.standing(),
                given_up: worker.given_up(),
                gap: worker.gap(),
                capacity: worker.capacity(),
                kv: worker.kv(),
                address: contact.as_ref().map(|contact| contact.address.to_string()),
                served_model: contact.and_then(|contact| contact.served_model.clone()),
                prompt_tokens_total: totals.prompt_tokens,
                output_tokens_total: totals.output_tokens,
                requests_total: totals.requests,
                last_reason: worker.last_reason(),
                rented_as: worker.origin.rented_as().map(|offer| (*offer).clone()),
                benchmark: worker.origin.benchmark(),
                instance: worker.origin.seen(),
                heard_at: worker.origin.heard().map(|(at, _)| at),
                alive_calls_total: worker.origin.heard().map_or(0, |(_, times)| times),
                market_message: worker.market_message(),
                view,
            })
        })
        .collect()
}

pub(super) fn set_gauges(fleet: &Fleet, gauges: &FleetGauges, now: Timestamp) {
    gauges.clear();
    let under_way = fleet.requests_under_way() as f64;
    gauges
        .requests_under_way
        .with_label_values(&[] as &[&str])
        .set(under_way);
    set_money_gauges(&fleet.money(), gauges);
    for endpoint in fleet.endpoints().values() {
        let snapshot = endpoint.snapshot(now);
        let name = endpoint.name.as_str();
        let set = |gauge: &prometheus::GaugeVec, value: f64| {
            gauge.with_label_values(&[name]).set(value);
        };
        let workers = &snapshot.workers;
        for phase in WorkerPhase::NAMES {
            let count = workers.iter().filter(|w| w.phase.as_str() == phase).count();
            gauges
                .workers
                .with_label_values(&[name, phase])
                .set(count as f64);
        }
        for reason in WaitReason::ALL {
            let here = reason == endpoint.wait_reason();
            let count = if here { snapshot.waiting.requests } else { 0 };
            gauges
                .waiting_requests
                .with_label_values(&[name, reason.as_str()])
                .set(count as f64);
        }
        set(&gauges.waiting_bytes, snapshot.waiting.bytes as f64);
        set(
            &gauges.in_flight_requests,
            workers.iter().map(|w| f64::from(w.in_flight)).sum(),
        );
        set(
            &gauges.outstanding_tokens,
            workers.iter().map(|w| w.outstanding.0).sum(),
        );
        let ready = workers.iter().filter(|w| w.phase.is_ready());
        set(
            &gauges.ready_tokens_per_second,
            ready.map(|w| w.speed.0).sum(),
        );
        let paid = workers.iter().filter(|w| w.phase != WorkerPhase::Stopped);
        set(&gauges.usd_per_hour, paid.map(|w| w.usd_per_hour.0).sum());
        for worker in workers {
            gauges
                .worker_tokens_per_second
                .with_label_values(&[name, worker.id.as_str()])
                .set(worker.speed.0);
        }
        if let Some(plan) = endpoint.last_plan() {
            set(
                &gauges.predicted_load_tokens_per_second,
                plan.predicted_load.0,
            );
            set(&gauges.wanted_tokens_per_second, plan.wanted.0);
            set(
                &gauges.prepared_wanted_tokens_per_second,
                plan.prepared_wanted.0,
            );
            if let Some(forecast) = plan.forecast {
                set(&gauges.surprise_tokens_per_second, forecast.surprise.0);
                set(&gauges.covered_surprises, forecast.covered);
                set(&gauges.late_work_share, forecast.late_share);
            }
        }
    }
}

fn set_money_gauges(money: &MoneyView, gauges: &FleetGauges) {
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    gauges
        .spending_stopped
        .with_label_values(&[] as &[&str])
        .set(flag(money.stopped));
    for (endpoint, money) in &money.endpoints {
        let name = [endpoint.as_str()];
        gauges
            .committed_usd_per_hour
            .with_label_values(&name)
            .set(money.committed.0);
        if let Some(usd) = money.usd_per_million_tokens {
            gauges
                .usd_per_million_tokens
                .with_label_values(&name)
                .set(usd);
        }
    }
    for limit in &money.limits {
        let labels = [limit.scope.as_str(), limit.rule.as_str()];
        let set = |gauge: &prometheus::GaugeVec, value: f64| {
            gauge.with_label_values(&labels).set(value);
        };
        set(&gauges.spending_limit, limit.limit);
        set(&gauges.spending_used, limit.used);
        set(&gauges.spending_limit_reached, flag(limit.reached));
    }
    for market in &money.markets {
        let name = [market.market.as_str()];
        gauges
            .renting_paused
            .with_label_values(&name)
            .set(flag(!market.renting_paused.is_empty()));
        if let Some(credit) = market.credit {
            gauges.credit_usd.with_label_values(&name).set(credit.0);
        }
    }
}
