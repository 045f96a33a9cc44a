//! Figures of the runs and their document.

use std::fmt;

use tidegate::simulate::serving::{Arrival, Served};

use super::RoutingCommand;

const FIRST_TOKEN_AIM_S: f64 = 2.0;
const PER_TOKEN_AIM_S: f64 = 0.1;
/// An answer so short is slow as soon as it meets one other request's prompt.
const SHORT_TOKENS: u32 = 8;

/// One run. Times in seconds, shares in 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    mean: f64,
    p50: f64,
    p99: f64,
    per_token_mean: f64,
    per_token_p99: f64,
    goodput: f64,
    late_first: f64,
    slow_tokens: f64,
    /// The part of those whose answers are short.
    slow_short: f64,
}

impl Figures {
    /// `served` has the order of `arrivals`.
    pub(super) fn of(served: &[Served], arrivals: &[Arrival]) -> Self {
        let mut first: Vec<f64> = served.iter().map(|served| served.first_token_s).collect();
        let mut each: Vec<f64> = served.iter().map(|served| served.per_token_s).collect();
        first.sort_by(f64::total_cmp);
        each.sort_by(f64::total_cmp);
        let pairs = served.iter().zip(arrivals);
        let short = pairs
            .filter(|(s, a)| s.per_token_s > PER_TOKEN_AIM_S && a.output_tokens <= SHORT_TOKENS)
            .count();
        let share = |good: fn(&Served) -> bool| {
            served.iter().filter(|served| good(served)).count() as f64 / served.len() as f64
        };
        Self {
            mean: mean(&first),
            p50: quantile(&first, 0.5),
            p99: quantile(&first, 0.99),
            per_token_mean: mean(&each),
            per_token_p99: quantile(&each, 0.99),
            goodput: share(|s| {
                s.first_token_s <= FIRST_TOKEN_AIM_S && s.per_token_s <= PER_TOKEN_AIM_S
            }),
            late_first: share(|s| s.first_token_s > FIRST_TOKEN_AIM_S),
            slow_tokens: share(|s| s.per_token_s > PER_TOKEN_AIM_S),
            slow_short: short as f64 / served.len() as f64,
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0.0)
}

pub(super) struct Row {
    trace: &'static str,
    router: &'static str,
    runs: Vec<Figures>,
}

impl Row {
    pub(super) fn new(trace: &'static str, router: &'static str, runs: Vec<Figures>) -> Self {
        Self {
            trace,
            router,
            runs,
        }
    }

    fn mean(&self, pick: fn(&Figures) -> f64) -> f64 {
        mean(&self.runs.iter().map(pick).collect::<Vec<_>>())
    }

    fn range(&self, pick: fn(&Figures) -> f64) -> (f64, f64) {
        let values = self.runs.iter().map(pick);
        values.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.range(|figures| figures.goodput);
        write!(
            f,
            "| {} | {} | {:.3} / {:.3} / {:.2} | {:.1} / {:.0} | **{:.2}** ({:.2}-{:.2}) | {:.2} | {:.2} | {:.2} |",
            self.trace,
            self.router,
            self.mean(|figures| figures.mean),
            self.mean(|figures| figures.p50),
            self.mean(|figures| figures.p99),
            1e3 * self.mean(|figures| figures.per_token_mean),
            1e3 * self.mean(|figures| figures.per_token_p99),
            100.0 * self.mean(|figures| figures.goodput),
            100.0 * least,
            100.0 * most,
            100.0 * self.mean(|figures| figures.late_first),
            100.0 * self.mean(|figures| figures.slow_tokens),
            100.0 * self.mean(|figures| figures.slow_short),
        )
    }
}

pub(super) struct Report {
    setting: String,
    /// What the command needs besides.
    whole_traces: &'static str,
    pub(super) rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(command: &RoutingCommand) -> Self {
        let reserve = match command.reserve {
            None => "Engines keep room for a request's whole answer when they admit it.".to_owned(),
            Some(tokens) => format!(
                "Engines keep room for {tokens} output tokens when they admit a request, and preempt when the KV cache runs over."
            ),
        };
        let part = match (&command.traces, command.tuning) {
            (None, _) => "the cuts in `loadtest/scenarios`",
            (Some(_), true) => "the first sixth of each trace, which settings were tuned on",
            (Some(_), false) => {
                "the last five sixths of each trace; settings were tuned on the first"
            }
        };
        // `DIR` holds azure2023_conv.csv and servegen_mlarge_1d.csv.
        let whole_traces = match command.traces {
            Some(_) => " TRACES=DIR",
            None => "",
        };
        Self {
            whole_traces,
            setting: format!(
                "{} requests a run, seeds 1 to {}, load {:.0} % of what the fleet can do with requests of mean size. \
                 Arrivals: {part}. {reserve}",
                command.requests,
                command.seeds,
                100.0 * command.load,
            ),
            rows: Vec::new(),
        }
    }

    pub(super) fn document(&self) -> String {
        let mut text = format!(
            "# Choosing workers on a mixed fleet\n\n\
             `tidegate {}`; 1 H100, 2 A100 and 6 RTX 4090 that serve an 8B model, modelled iteration by iteration \
             (`src/simulate/serving/`). The production router, its predictions and its measuring of speed run in virtual \
             time; a seed replays exactly. {}\n\n\
             ```\nmake routing{}\n```\n\n\
             Goodput: first token within 2 s and at most 100 ms a token. *Knows lengths* is our router told the true \
             length of every answer; it is no bound, since it still serves the least work first and not the aims. A seed chooses the piece \
             of the trace. A prompt's chunk of 2,048 tokens takes 0.34 s on an RTX 4090 and 0.21 s on an A100, so that a short answer \
             that meets one other prompt misses 100 ms a token on those machines.\n\n\
             | trace | router | first token mean / p50 / p99, s | a token mean / p99, ms | goodput, % (least-most) | first token late, % | tokens slow, % | ... in answers of at most {SHORT_TOKENS} tokens, % |\n\
             |---|---|---|---|---|---|---|---|\n",
            env!("CARGO_PKG_VERSION"),
            self.setting,
            self.whole_traces,
        );
        for row in &self.rows {
            text += &format!("{row}\n");
        }
        text
    }
}
