//! Figures of the runs and their document.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use tidegate::simulate::serving::{Arrival, Served};

use super::RoutingCommand;
use super::live::Comparison;
use crate::harness::write_document;

pub(crate) const FIRST_TOKEN_AIM_S: f64 = 2.0;
pub(crate) const PER_TOKEN_AIM_S: f64 = 0.1;
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

pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
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
                command.requests(),
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

    /// What was measured in real time stays.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let (_, live) = parts(path);
        write_document(path, &(self.document() + &live))
    }
}

/// Begins the part of the document that another command writes.
const LIVE_TITLE: &str = "## In real time";

/// What a document has before the part in real time, and that part.
fn parts(path: &Path) -> (String, String) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let at = text.find(LIVE_TITLE).unwrap_or(text.len());
    let (before, live) = text.split_at(at);
    let live = if live.is_empty() {
        String::new()
    } else {
        format!("\n{live}")
    };
    (format!("{}\n", before.trim_end()), live)
}

/// The gateway beside the simulator.
pub(super) struct LiveReport {
    slower: f64,
    load: f64,
    whole_traces: &'static str,
    rows: Vec<Comparison>,
}

impl LiveReport {
    pub(super) fn new(slower: f64, load: f64, whole_traces: bool) -> Self {
        Self {
            slower,
            load,
            whole_traces: if whole_traces { " TRACES=DIR" } else { "" },
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Comparison) {
        for failed in row.failed.iter().take(5) {
            eprintln!("{}: {failed}", row.trace);
        }
        self.rows.push(row);
    }

    pub(super) fn failed(&self) -> bool {
        self.rows.iter().any(|row| !row.failed.is_empty())
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let (simulated, _) = parts(path);
        write_document(path, &format!("{simulated}\n{}", self.section()))
    }

    pub(super) fn section(&self) -> String {
        let mut text = format!(
            "{LIVE_TITLE}\n\n`tidegate {}`; the real gateway before nine stand-in workers (`fake-worker`) with the same laws, load {:.0} %. \
             All takes {} times as long as on the machines: iterations, arrivals, settings; figures are divided by it again. The \
             simulator plays the very same requests with the same settings, once at the machines' own speed and once slowed down alike, \
             since half a second of a small queue and the second between two measurements are no settings. Lengths are told to the engines alone. \
             Off are hedging, ejection and slow start, which the simulator has no model of.\n\n\
             ```\nmake routing-live{}\n```\n\n\
             | trace | requests | run | first token mean / p50 / p99, s | a token mean / p99, ms | goodput, % | first token late, % | tokens slow, % |\n\
             |---|---|---|---|---|---|---|---|\n",
            env!("CARGO_PKG_VERSION"),
            100.0 * self.load,
            self.slower,
            self.whole_traces,
        );
        for row in &self.rows {
            let slow = format!("simulator, {} times slower", self.slower);
            for (run, figures) in [
                ("simulator", &row.simulated),
                (&slow, &row.simulated_slow),
                ("**gateway**", &row.live),
            ] {
                text += &live_line(row, run, figures);
            }
        }
        for row in &self.rows {
            let lag = row.send_lag.map_or_else(String::new, |lag| {
                format!("{:.0} / {:.0} / {:.0}", lag.p50_ms, lag.p99_ms, lag.max_ms)
            });
            text += &format!(
                "\n{}: {} failed; this machine's {} processors were busy to {:.0} %, with other work too; the client's send lag was {lag} ms \
                 (p50 / p99 / max, in real time).\n",
                row.trace,
                row.failed.len(),
                std::thread::available_parallelism().map_or(1, usize::from),
                100.0 * row.busy,
            );
        }
        text
    }
}

fn live_line(row: &Comparison, run: &str, figures: &Figures) -> String {
    format!(
        "| {} | {} | {run} | {:.3} / {:.3} / {:.2} | {:.1} / {:.0} | **{:.2}** | {:.2} | {:.2} |\n",
        row.trace,
        row.requests,
        figures.mean,
        figures.p50,
        figures.p99,
        1e3 * figures.per_token_mean,
        1e3 * figures.per_token_p99,
        100.0 * figures.goodput,
        100.0 * figures.late_first,
        100.0 * figures.slow_tokens,
    )
}
