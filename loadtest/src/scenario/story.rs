//! What a scenario saw, judged and written as a document.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use crate::harness::FleetSample;
use crate::replay::{PhaseReport, ReplayReport};

#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// After the start of the replay.
    pub at_s: f64,
    pub fleet: FleetSample,
}

/// Under what conditions it was played.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub version: String,
    pub cpus: usize,
    /// The endpoint's configuration.
    pub endpoint: String,
    pub compression: f64,
    pub token_scale: f64,
    pub phase_s: f64,
}

pub(super) struct Story {
    pub setting: Setting,
    pub report: ReplayReport,
    pub samples: Vec<Sample>,
}

/// Running workers within a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Workers {
    min: usize,
    mean: f64,
    max: usize,
}

impl Workers {
    fn over<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<Self> {
        let counts: Vec<usize> = samples.map(|sample| sample.fleet.running()).collect();
        Some(Self {
            min: *counts.iter().min()?,
            mean: counts.iter().sum::<usize>() as f64 / counts.len() as f64,
            max: *counts.iter().max()?,
        })
    }
}

impl Story {
    /// What must not be: empty when all went well.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let figures = &self.report.figures;
        if figures.failed > 0 {
            complaints.push(format!(
                "{} requests failed: {:?}",
                figures.failed, figures.failures
            ));
        }
        match self.samples.last().map(|sample| sample.fleet.running()) {
            Some(0) => {}
            Some(left) => complaints.push(format!("{left} workers are left after the silence")),
            None => complaints.push("the fleet could not be read".to_owned()),
        }
        let longest_gap_s = self
            .samples
            .windows(2)
            .map(|pair| pair[1].at_s - pair[0].at_s)
            .fold(0.0, f64::max);
        if longest_gap_s > 10.0 {
            complaints.push(format!(
                "the fleet could not be read for {longest_gap_s:.0} s"
            ));
        }
        complaints
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        crate::harness::write_document(path, &self.document())
    }

    fn document(&self) -> String {
        let setting = &self.setting;
        let mut text = format!(
            "# The fleet follows the load\n\n\
             `{}` with stand-in workers on {} shared CPUs. The load is a cut of Azure's conversation trace \
             (see `loadtest/scenarios/README.md`), played {} times as fast, one token standing for {}, \
             at 1x, 3x and 0.3x for {} s each, then silence.\n\n\
             ```\ncargo build --release --workspace --bins\n\
             target/release/loadtest scenario scaling --out docs/results/scaling-first.md\n```\n\n",
            setting.version,
            setting.cpus,
            setting.compression,
            1.0 / setting.token_scale,
            setting.phase_s,
        );
        self.write_phases(&mut text);
        self.write_timeline(&mut text);
        let _ = write!(
            text,
            "\n## Configuration\n\n```yaml\n{}```\n",
            setting.endpoint
        );
        text
    }

    fn write_phases(&self, text: &mut String) {
        let _ = write!(
            text,
            "Late: the first token came more than {} s after sending (10 s of the trace's time) or never. \
             Workers are all that exist and cost: starting, ready, draining, ending. \
             *Settled* is the mean of a phase's second half.\n\n\
             | phase | sent | answered | failed | late | first token p50 | p99 | workers min / mean / max | settled |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            self.report.late_after_s
        );
        for phase in &self.report.phases {
            let _ = writeln!(text, "{}", self.phase_row(phase));
        }
        let figures = &self.report.figures;
        let left = self.samples.last().map_or("unknown".to_owned(), |sample| {
            sample.fleet.running().to_string()
        });
        let _ = write!(
            text,
            "\nIn all {} requests sent, {} answered, {} failed, {} output tokens, {:.1} s.\n\
             Workers after silence: {left}\n",
            figures.sent,
            figures.answered,
            figures.failed,
            figures.output_tokens,
            self.report.duration_s,
        );
    }

    fn phase_row(&self, phase: &PhaseReport) -> String {
        let (start_s, half_s) = (phase.start_s, phase.phase.duration_s / 2.0);
        let (middle_s, end_s) = (start_s + half_s, start_s + 2.0 * half_s);
        let workers = Workers::over(self.between(start_s, end_s));
        let settled = Workers::over(self.between(middle_s, end_s));
        let figures = &phase.figures;
        let ms = |pick: fn(&crate::replay::outcome::Quantiles) -> f64| {
            let time = figures.first_token.as_ref().map(pick);
            time.map_or("-".to_owned(), |ms| format!("{ms:.0} ms"))
        };
        format!(
            "| {} | {} | {} | {} | {:.2} % | {} | {} | {} | {} |",
            phase.phase.name,
            figures.sent,
            figures.answered,
            figures.failed,
            100.0 * figures.late_share,
            ms(|time| time.p50_ms),
            ms(|time| time.p99_ms),
            workers.map_or("-".to_owned(), |workers| {
                format!("{} / {:.1} / {}", workers.min, workers.mean, workers.max)
            }),
            settled.map_or("-".to_owned(), |workers| format!("{:.1}", workers.mean)),
        )
    }

    fn between(&self, start_s: f64, end_s: f64) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| (start_s..end_s).contains(&sample.at_s))
    }

    /// Every 5 s, and the end.
    fn write_timeline(&self, text: &mut String) {
        text.push_str(
            "\n## Workers over time\n\n| s | workers | ready | starting | draining | requests waiting |\n\
             |---|---|---|---|---|---|\n",
        );
        let mut next_s = 0.0;
        for (index, sample) in self.samples.iter().enumerate() {
            if sample.at_s < next_s && index + 1 < self.samples.len() {
                continue;
            }
            next_s = (sample.at_s / 5.0).floor() * 5.0 + 5.0;
            let fleet = &sample.fleet;
            let _ = writeln!(
                text,
                "| {:.0} | {} | {} | {} | {} | {} |",
                sample.at_s,
                fleet.running(),
                fleet.ready(),
                fleet.count("starting"),
                fleet.count("draining"),
                fleet.waiting,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Phase;
    use crate::replay::outcome::Tally;
    use crate::replay::report::Figures;

    fn sample(at_s: f64, ready: usize) -> Sample {
        let mut fleet = FleetSample::default();
        fleet.phases.insert("ready".to_owned(), ready);
        Sample { at_s, fleet }
    }

    fn story(samples: Vec<Sample>) -> Story {
        let figures = Figures::from(&Tally::default());
        Story {
            setting: Setting {
                version: "tidegate 0.1.0".to_owned(),
                cpus: 2,
                endpoint: "endpoint_name: fake\n".to_owned(),
                compression: 2.0,
                token_scale: 0.25,
                phase_s: 10.0,
            },
            report: ReplayReport {
                phases: vec![PhaseReport {
                    phase: Phase::new("1x", 2.0, 10.0),
                    start_s: 0.0,
                    figures: figures.clone(),
                }],
                figures,
                late_after_s: 5.0,
                duration_s: 12.0,
            },
            samples,
        }
    }

    #[test]
    fn a_fleet_that_does_not_go_to_zero_is_complained_of() {
        assert!(
            story(vec![sample(0.0, 2), sample(1.0, 0)])
                .complaints()
                .is_empty()
        );
        assert!(story(vec![sample(0.0, 0), sample(1.0, 2)]).complaints()[0].contains("2 workers"));
        assert!(!story(vec![]).complaints().is_empty());
    }

    #[test]
    fn a_failed_request_and_a_blind_stretch_are_complained_of() {
        let mut failing = story(vec![sample(0.0, 0)]);
        failing.report.figures.failed = 1;
        assert!(failing.complaints()[0].contains("1 requests failed"));
        let blind = story(vec![sample(0.0, 2), sample(30.0, 0)]);
        assert!(blind.complaints()[0].contains("30 s"));
    }

    #[test]
    fn the_document_counts_workers_of_each_phase_and_its_settled_half() {
        let counts = [0, 1, 2, 2, 2, 4, 4, 4, 4, 4, 9, 0];
        let samples = (0..).map(f64::from).zip(counts);
        let text = story(samples.map(|(at_s, ready)| sample(at_s, ready)).collect()).document();
        assert!(text.contains("| 0 / 2.7 / 4 | 4.0 |"), "{text}");
        assert!(text.contains("Workers after silence: 0"), "{text}");
        assert!(
            text.contains("| 5 | 4 | 4 |") && text.contains("| 11 | 0 | 0 |"),
            "{text}"
        );
    }
}
