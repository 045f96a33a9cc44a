//! Every metric, with its unit in its name.

use super::logging::LOG_LINES;

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
    TextEncoder,
};

use crate::domain::PredictedCost;

/// Metrics that change as things happen.
pub struct Metrics {
    registry: Registry,
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub ttft_seconds: HistogramVec,
    pub inter_token_seconds: HistogramVec,
    pub waiting_seconds: HistogramVec,
    pub waiting_refused: IntCounterVec,
    pub prompt_tokens: IntCounterVec,
    pub output_prediction_ratio: HistogramVec,
    pub prompt_prediction_ratio: HistogramVec,
    pub output_tokens: IntCounterVec,
    pub attempts_failed: IntCounterVec,
    pub ejections: IntCounterVec,
    pub given_up: IntCounterVec,
    pub connections: GaugeVec,
    pub clients_refused: IntCounterVec,
    pub key_requests: IntCounterVec,
    pub key_tokens: IntCounterVec,
    pub key_refusals: IntCounterVec,
    pub retries: IntCounterVec,
    pub hedges: IntCounterVec,
    pub streams_broken: IntCounterVec,
    pub scaling_actions: IntCounterVec,
    pub worker_failures: IntCounterVec,
    pub bids: IntCounterVec,
    pub market_calls: IntCounterVec,
    pub vast_calls: IntCounterVec,
    pub vast_searches_used_up: GaugeVec,
    pub alive_calls: IntCounterVec,
    pub probes: IntCounterVec,
    pub reloads: IntCounterVec,
    pub access_log_lines: IntCounterVec,
    pub scaler_tick_seconds: HistogramVec,
    pub spend_usd: CounterVec,
    pub fleet: FleetGauges,
}

/// Gauges that are set from a snapshot when somebody looks.
pub struct FleetGauges {
    pub workers: GaugeVec,
    pub waiting_requests: GaugeVec,
    pub waiting_bytes: GaugeVec,
    pub in_flight_requests: GaugeVec,
    pub requests_under_way: GaugeVec,
    pub outstanding_tokens: GaugeVec,
    pub ready_tokens_per_second: GaugeVec,
    pub usd_per_hour: GaugeVec,
    pub worker_tokens_per_second: GaugeVec,
    pub predicted_load_tokens_per_second: GaugeVec,
    pub wanted_tokens_per_second: GaugeVec,
    pub prepared_wanted_tokens_per_second: GaugeVec,
    pub surprise_tokens_per_second: GaugeVec,
    pub covered_surprises: GaugeVec,
    pub late_work_share: GaugeVec,
    pub committed_usd_per_hour: GaugeVec,
    pub usd_per_million_tokens: GaugeVec,
    pub credit_usd: GaugeVec,
    pub renting_paused: GaugeVec,
    pub spending_limit: GaugeVec,
    pub spending_used: GaugeVec,
    pub spending_limit_reached: GaugeVec,
    pub spending_stopped: GaugeVec,
}

const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
const GAP_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0,
];

const RATIOS: &[f64] = &[
    0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0,
];

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let build = gauge(
            &r,
            "tidegate_build_info",
            "Always 1; the version is a label.",
            &["version"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        r.register(Box::new(LOG_LINES.clone()))?;
        let ep = "endpoint";
        Ok(Self {
            requests: counter(
                &r,
                "tidegate_requests_total",
                "Requests by interface called and how they ended.",
                &[ep, "api", "outcome"],
            )?,
            request_seconds: histogram(
                &r,
                "tidegate_request_duration_seconds",
                "From the request read to its last byte sent.",
                &[ep, "api"],
                SECONDS,
            )?,
            ttft_seconds: histogram(
                &r,
                "tidegate_time_to_first_token_seconds",
                "From the request read to its first token, waiting included; streams only.",
                &[ep],
                SECONDS,
            )?,
            inter_token_seconds: histogram(
                &r,
                "tidegate_inter_token_seconds",
                "Between the events of one stream, each divided by its tokens.",
                &[ep],
                GAP_SECONDS,
            )?,
            waiting_seconds: histogram(
                &r,
                "tidegate_waiting_seconds",
                "Time in the waiting room of requests that had to wait, by how it ended: served, or what was missing to the end.",
                &[ep, "outcome"],
                SECONDS,
            )?,
            waiting_refused: counter(
                &r,
                "tidegate_waiting_refused_total",
                "Requests that were not let into the waiting room, by the rule that said so.",
                &[ep, "rule"],
            )?,
            output_prediction_ratio: histogram(
                &r,
                "tidegate_output_prediction_ratio",
                "Output tokens of whole answers as a multiple of what was predicted.",
                &[ep],
                RATIOS,
            )?,
            prompt_prediction_ratio: histogram(
                &r,
                "tidegate_prompt_prediction_ratio",
                "Prompt tokens as the engine counted them as a multiple of what was predicted.",
                &[ep],
                RATIOS,
            )?,
            prompt_tokens: counter(
                &r,
                "tidegate_prompt_tokens_total",
                "Prompt tokens as engines report them.",
                &[ep],
            )?,
            output_tokens: counter(
                &r,
                "tidegate_output_tokens_total",
                "Tokens produced for clients.",
                &[ep],
            )?,
            ejections: counter(
                &r,
                "tidegate_ejections_total",
                "Times a worker that answers its probes was given no requests for a while.",
                &[ep, "fault"],
            )?,
            given_up: counter(
                &r,
                "tidegate_workers_given_up_total",
                "Workers to be replaced: ejected twice within an hour, or slow for good.",
                &[ep, "fault"],
            )?,
            attempts_failed: counter(
                &r,
                "tidegate_attempts_failed_total",
                "Attempts at a worker that failed before the client saw a byte.",
                &[ep, "cause"],
            )?,
            connections: gauge(
                &r,
                "tidegate_connections",
                "Open connections of clients.",
                &[],
            )?,
            clients_refused: counter(
                &r,
                "tidegate_clients_refused_total",
                "Connections and requests turned away before they were understood, by the rule.",
                &["rule"],
            )?,
            key_requests: counter(
                &r,
                "tidegate_key_requests_total",
                "Requests that came with an API key, by its name.",
                &["key"],
            )?,
            key_tokens: counter(
                &r,
                "tidegate_key_tokens_total",
                "Prompt and output tokens used by each API key.",
                &["key"],
            )?,
            key_refusals: counter(
                &r,
                "tidegate_key_refusals_total",
                "Requests refused for their API key, by its name and the rule; without a name where no key is known.",
                &["key", "rule"],
            )?,
            retries: counter(
                &r,
                "tidegate_retries_total",
                "Attempts after a failed one, by whether they were made or the retry budget forbade them.",
                &[ep, "outcome"],
            )?,
            hedges: counter(
                &r,
                "tidegate_hedges_total",
                "Second workers asked because a first token was late, by who was first.",
                &[ep, "outcome"],
            )?,
            streams_broken: counter(
                &r,
                "tidegate_streams_broken_total",
                "Streams whose worker was lost after the first token: gone on with (resumed, ended), or why not.",
                &[ep, "outcome"],
            )?,
            scaling_actions: counter(
                &r,
                "tidegate_scaling_actions_total",
                "Actions of the scaler.",
                &[ep, "action", "rule"],
            )?,
            worker_failures: counter(
                &r,
                "tidegate_worker_failures_total",
                "Workers given up.",
                &[ep, "reason"],
            )?,
            bids: counter(
                &r,
                "tidegate_bids_total",
                "Bids of running machines that somebody outbid or was about to: raised, refused by a spending limit, or moved_on.",
                &[ep, "outcome"],
            )?,
            market_calls: counter(
                &r,
                "tidegate_market_calls_total",
                "Calls of a market.",
                &["market", "call", "outcome"],
            )?,
            vast_calls: counter(
                &r,
                "tidegate_vast_calls_total",
                "Calls of Vast's interface over HTTP, refused and repeated ones included.",
                &["call", "outcome"],
            )?,
            vast_searches_used_up: gauge(
                &r,
                "tidegate_vast_searches_used_up",
                "Accounts of Vast whose searches of the day are used up: nothing new is rented with them until they are allowed again.",
                &[],
            )?,
            alive_calls: counter(
                &r,
                "tidegate_alive_calls_total",
                "Calls of rented machines that ask whether their gateway lives.",
                &["installation"],
            )?,
            probes: counter(
                &r,
                "tidegate_probes_total",
                "Health probes of workers.",
                &[ep, "outcome"],
            )?,
            reloads: counter(
                &r,
                "tidegate_reloads_total",
                "Configuration reloads.",
                &["outcome"],
            )?,
            access_log_lines: counter(
                &r,
                "tidegate_access_log_lines_total",
                "Lines of the access log: written, dropped because too many waited, or failed to be written.",
                &["outcome"],
            )?,
            scaler_tick_seconds: histogram(
                &r,
                "tidegate_scaler_tick_seconds",
                "One round of observe, plan, act.",
                &[],
                GAP_SECONDS,
            )?,
            spend_usd: spend(&r)?,
            fleet: FleetGauges::new(&r)?,
            registry: r,
        })
    }

    /// An answer is whole: how far off the prediction was.
    pub fn prediction(
        &self,
        endpoint: &str,
        predicted: &PredictedCost,
        output_tokens: u32,
        prompt_tokens: Option<u32>,
    ) {
        let ratio = |of: &HistogramVec, actual: u32, predicted: f64| {
            of.with_label_values(&[endpoint])
                .observe(f64::from(actual) / predicted.max(1.0));
        };
        let predicted_output = predicted.output_tokens;
        ratio(
            &self.output_prediction_ratio,
            output_tokens,
            predicted_output,
        );
        if let Some(tokens) = prompt_tokens {
            ratio(
                &self.prompt_prediction_ratio,
                tokens,
                predicted.prompt_tokens,
            );
        }
    }

    /// The text exposition format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

impl FleetGauges {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let ep = "endpoint";
        Ok(Self {
            workers: gauge(r, "tidegate_workers", "Workers by phase.", &[ep, "phase"])?,
            waiting_requests: gauge(
                r,
                "tidegate_waiting_requests",
                "Requests held because no worker can take them, by what they wait for.",
                &[ep, "reason"],
            )?,
            waiting_bytes: gauge(
                r,
                "tidegate_waiting_bytes",
                "Bodies of held requests.",
                &[ep],
            )?,
            in_flight_requests: gauge(
                r,
                "tidegate_in_flight_requests",
                "Requests at workers.",
                &[ep],
            )?,
            requests_under_way: gauge(
                r,
                "tidegate_requests_under_way",
                "Requests that are being read, waiting or being answered; what a graceful stop waits for.",
                &[],
            )?,
            outstanding_tokens: gauge(
                r,
                "tidegate_outstanding_tokens",
                "Predicted work at workers that is not done, output-equivalent tokens.",
                &[ep],
            )?,
            ready_tokens_per_second: gauge(
                r,
                "tidegate_ready_tokens_per_second",
                "Capacity of ready workers, output-equivalent tokens a second.",
                &[ep],
            )?,
            usd_per_hour: gauge(
                r,
                "tidegate_usd_per_hour",
                "Price of all workers that are not stopped.",
                &[ep],
            )?,
            worker_tokens_per_second: gauge(
                r,
                "tidegate_worker_tokens_per_second",
                "Capacity of one worker as measured, output-equivalent tokens a second.",
                &[ep, "worker"],
            )?,
            predicted_load_tokens_per_second: gauge(
                r,
                "tidegate_predicted_load_tokens_per_second",
                "Load the scaler expects.",
                &[ep],
            )?,
            wanted_tokens_per_second: gauge(
                r,
                "tidegate_wanted_tokens_per_second",
                "Running capacity the scaler wants.",
                &[ep],
            )?,
            prepared_wanted_tokens_per_second: gauge(
                r,
                "tidegate_prepared_wanted_tokens_per_second",
                "Running, starting and stopped capacity the scaler wants.",
                &[ep],
            )?,
            surprise_tokens_per_second: gauge(
                r,
                "tidegate_surprise_tokens_per_second",
                "By how much the load may exceed what is expected of the next minute, at the covered share.",
                &[ep],
            )?,
            covered_surprises: gauge(
                r,
                "tidegate_covered_surprises",
                "Share of the load's surprises that running capacity is to cover, as steered by the late work.",
                &[ep],
            )?,
            late_work_share: gauge(
                r,
                "tidegate_late_work_share",
                "Share of the work of about the last day that waited longer than slo.wait.",
                &[ep],
            )?,
            committed_usd_per_hour: gauge(
                r,
                "tidegate_committed_usd_per_hour",
                "Price of all workers in any state, those being rented or ended included; what spending limits count.",
                &[ep],
            )?,
            usd_per_million_tokens: gauge(
                r,
                "tidegate_usd_per_million_tokens",
                "Spent in the last hour for a million output-equivalent tokens.",
                &[ep],
            )?,
            credit_usd: gauge(
                r,
                "tidegate_credit_usd",
                "What is left in a market's account.",
                &["market"],
            )?,
            renting_paused: gauge(
                r,
                "tidegate_renting_paused",
                "1 while nothing is rented at a market, because its listings and the ledger do not agree.",
                &["market"],
            )?,
            spending_limit: gauge(
                r,
                "tidegate_spending_limit_usd",
                "Each spending limit, in dollars or for `hour` dollars an hour; of `credit` the least that must be left.",
                &["scope", "limit"],
            )?,
            spending_used: gauge(
                r,
                "tidegate_spending_used_usd",
                "What is spent of a limit and set aside for what is committed; of `credit` what is left.",
                &["scope", "limit"],
            )?,
            spending_limit_reached: gauge(
                r,
                "tidegate_spending_limit_reached",
                "1 while a limit lets nothing more be rented.",
                &["scope", "limit"],
            )?,
            spending_stopped: gauge(
                r,
                "tidegate_spending_stopped",
                "1 while the operator's mark stops all spending.",
                &[],
            )?,
        })
    }

    /// Series of workers and endpoints that are gone disappear.
    pub fn clear(&self) {
        for gauge in [
            &self.workers,
            &self.waiting_requests,
            &self.waiting_bytes,
            &self.in_flight_requests,
            &self.requests_under_way,
            &self.outstanding_tokens,
            &self.ready_tokens_per_second,
            &self.usd_per_hour,
            &self.worker_tokens_per_second,
            &self.predicted_load_tokens_per_second,
            &self.wanted_tokens_per_second,
            &self.prepared_wanted_tokens_per_second,
            &self.surprise_tokens_per_second,
            &self.covered_surprises,
            &self.late_work_share,
            &self.committed_usd_per_hour,
            &self.usd_per_million_tokens,
            &self.credit_usd,
            &self.renting_paused,
            &self.spending_limit,
            &self.spending_used,
            &self.spending_limit_reached,
            &self.spending_stopped,
        ] {
            gauge.reset();
        }
    }
}

fn spend(r: &Registry) -> Result<CounterVec, prometheus::Error> {
    let counter = CounterVec::new(
        Opts::new(
            "tidegate_spend_usd_total",
            "What rented machines came to since the start, corrected by bills as far as a counter can be, by what it was good for: serving, idle, cold_start, storage.",
        ),
        &["endpoint", "use"],
    )?;
    r.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counter(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let histogram = HistogramVec::new(opts, labels)?;
    r.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    fn names(text: &str) -> BTreeSet<&str> {
        text.match_indices("tidegate_")
            .map(|(at, _)| &text[at..])
            .map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|name| !name.ends_with('_'))
            .collect()
    }

    #[test]
    fn the_operators_manual_lists_every_metric_and_no_other() {
        let here = include_str!("metrics.rs").split("#[cfg(test)]").next();
        let mut here = names(here.unwrap_or_default());
        here.extend(names(include_str!("logging.rs")));
        let manual = names(include_str!("../../docs/OPERATIONS.md"));
        let missing: Vec<_> = here.difference(&manual).collect();
        let unknown: Vec<_> = manual.difference(&here).collect();
        assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
        assert!(unknown.is_empty(), "no such metric: {unknown:?}");
    }
}
