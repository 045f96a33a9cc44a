//! The document of a comparison.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use tidegate::domain::CapacityView;

use super::beliefs::Belief;
use super::machines::{KAPPA, OUTPUT_MEAN, PROMPT_MEAN};
use super::stage::Measurement;
use super::{GROUP_SHARE, KNOWN_AFTER_S};
use crate::harness::write_document;

pub(super) struct Report {
    slower: f64,
    seed: u64,
    pub(super) found: Vec<Found>,
    pub(super) slowed: Vec<Slowed>,
}

/// One worker under a steady load, in the machine's own time.
pub(super) struct Found {
    measurement: Measurement,
    truth: f64,
    mean: f64,
    sd: f64,
    view: CapacityView,
}

impl Found {
    pub(super) fn new(
        measurement: &Measurement,
        truth: f64,
        view: &CapacityView,
        slower: f64,
    ) -> Self {
        let mut view = *view;
        for part in [
            &mut view.law.base_s,
            &mut view.law.per_stream_s,
            &mut view.law.per_kv_kilotoken_s,
            &mut view.law.per_prompt_token_s,
        ] {
            *part /= slower;
        }
        Self {
            measurement: *measurement,
            truth,
            mean: view.mean.0 * slower,
            sd: view.sd.0 * slower,
            view,
        }
    }

    fn row(&self) -> String {
        let (law, found) = (&self.measurement.machine.law, &self.view.law);
        let off = (self.mean / self.truth - 1.0) * 100.0;
        format!(
            "| {} | {:.0} | {} / {:.1} | {} / {:.2} | {} / {:.2} | {} / {:.0} | {:.1} | {:.0} | {:.0} | {:+.1} | {:.1} | {} |",
            self.measurement.machine.name,
            self.measurement.share * 100.0,
            law.a_ms,
            found.base_s * 1e3,
            law.c_ms,
            found.per_stream_s * 1e3,
            law.k_ms,
            found.per_kv_kilotoken_s * 1e3,
            law.prefill_tps,
            1.0 / found.per_prompt_token_s,
            self.view.at_streams,
            self.truth,
            self.mean,
            off,
            self.sd / self.mean * 100.0,
            if self.view.saturated { "yes" } else { "no" },
        )
    }
}

/// A group of which one or all slow at once.
pub(super) struct Slowed {
    who: &'static str,
    times: f64,
    /// Capacity of one worker before, and as it is now.
    before: f64,
    now: f64,
    halfway_after_s: Option<f64>,
    near_after_s: Option<f64>,
    fault: Option<(f64, String)>,
    others: Vec<String>,
    last: f64,
    last_sd: f64,
}

impl Slowed {
    pub(super) fn new(who: &'static str, times: f64, before: f64) -> Self {
        Self {
            who,
            times,
            before,
            now: before / times,
            halfway_after_s: None,
            near_after_s: None,
            fault: None,
            others: Vec::new(),
            last: 0.0,
            last_sd: 0.0,
        }
    }

    pub(super) fn see(&mut self, one: &Belief, all: &[Belief], after_s: f64, slower: f64) {
        self.last = one.capacity.mean.0 * slower;
        self.last_sd = one.capacity.sd.0 * slower;
        if self.last < (self.before + self.now) / 2.0 {
            self.halfway_after_s.get_or_insert(after_s);
        }
        if self.last < self.now * 1.1 {
            self.near_after_s.get_or_insert(after_s);
        }
        if let (None, Some(fault)) = (&self.fault, one.fault()) {
            self.fault = Some((after_s, fault.to_owned()));
        }
        let others = all.iter().filter(|belief| belief.address != one.address);
        let faults: Vec<String> = others
            .filter_map(|belief| Some(belief.fault()?.to_owned()))
            .collect();
        if faults.len() > self.others.len() {
            self.others = faults;
        }
    }

    fn row(&self) -> String {
        let seconds = |time: Option<f64>| time.map_or("not".to_owned(), |s| format!("{s:.0}"));
        let fault = match &self.fault {
            Some((after_s, fault)) => format!("{after_s:.0} ({fault})"),
            None => "none".to_owned(),
        };
        format!(
            "| {} | {:.2} | {} | {} | {fault} | {} | {:.0} | {:.0} | {:.1} |",
            self.who,
            self.times,
            seconds(self.halfway_after_s),
            seconds(self.near_after_s),
            if self.others.is_empty() {
                "none".to_owned()
            } else {
                self.others.join(", ")
            },
            self.now,
            self.last,
            self.last_sd / self.last * 100.0,
        )
    }
}

impl Report {
    pub(super) fn new(slower: f64, seed: u64) -> Self {
        Self {
            slower,
            seed,
            found: Vec::new(),
            slowed: Vec::new(),
        }
    }

    pub(super) fn document(&self) -> String {
        let mut text = format!(
            "# Capacity, estimated and true\n\n\
             `tidegate {}`; the real gateway before stand-in workers (`fake-worker`) of known laws: an iteration takes \
             `a + c b + k KV + P/prefill`. Requests come by chance (seed {}), exponential sizes around {PROMPT_MEAN:.0} \
             prompt and {OUTPUT_MEAN:.0} output tokens. Everything takes {} times as long as on the machines; figures are \
             in the machines' own time. What the configuration states of each machine is wrong by a factor of 0.6 or \
             1.5.\n\n```\nloadtest capacity --slower {} --seed {}\n```\n\n\
             True capacity is what a modelled worker of the same law serves while it has far more to do than it can \
             (`simulate::serving::saturated`), in output-equivalent tokens a second, {KAPPA:.0} prompt tokens counting as \
             one. Estimates were read after {KNOWN_AFTER_S:.0} s of traffic, each worker alone; parameters are true / \
             estimated, sd is the estimate's own, in percent of it. Streams and what they hold in the KV cache come \
             together, so `c` and `k` are told apart only as far as requests differ; capacity needs their sum.\n\n\
             | machine | load, % | a, ms | c, ms | k, ms/1000 tokens | prefill, tokens/s | at streams | true capacity | \
             estimated | error, % | sd, % | certified full |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            env!("CARGO_PKG_VERSION"),
            self.seed,
            self.slower,
            self.slower,
            self.seed,
        );
        for found in &self.found {
            let _ = writeln!(text, "{}", found.row());
        }
        let _ = write!(
            text,
            "\n## A slowdown\n\nFour workers like the first at {:.0} % load; one, or all at once, take so many times as \
             long from {KNOWN_AFTER_S:.0} s on. Seconds, in real time, until the estimate has gone half of the way, is \
             within 10 % of the truth, and until the worker is ejected for it.\n\n\
             | who | slower, times | half noticed, s | within 10 %, s | ejected, s (fault) | others ejected | true capacity | \
             estimated at the end | sd, % |\n|---|---|---|---|---|---|---|---|---|\n",
            GROUP_SHARE * 100.0,
        );
        for slowed in &self.slowed {
            let _ = writeln!(text, "{}", slowed.row());
        }
        text
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write_document(path, &self.document())
    }
}
