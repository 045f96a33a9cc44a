//! CPU time a request and a token: everybody in turn, in rounds, so that drift of the machine hits all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::case::Case;
use super::clients::Load;
use super::result::{Cost, Failure, in_short};
use super::subject::Subject;
use super::workers::Workers;

/// Until a load flows, and until what is left is let go of.
const PATIENCE: Duration = Duration::from_secs(30);

/// What failed, and why. What failed twice is not tried again: others wait for their turn.
#[derive(Default)]
pub(super) struct Failed(BTreeMap<(&'static str, &'static str), (usize, String)>);

impl Failed {
    pub fn is_given_up(&self, subject: &Subject, what: &'static str) -> bool {
        let found = self.0.get(&(subject.name, what));
        found.is_some_and(|(times, _)| *times >= 2)
    }

    pub fn note(&mut self, peer: &'static str, what: &'static str, error: &anyhow::Error) {
        let reason = in_short(&format!("{error:#}"));
        eprintln!("{peer}: {what}: {reason}");
        let (times, told) = self.0.entry((peer, what)).or_default();
        *times += 1;
        *told = reason;
    }

    /// Of each, how often it failed.
    pub fn into_list(self) -> Vec<Failure> {
        let told = |((peer, what), (times, why)): ((&str, &str), (usize, String))| Failure {
            peer: peer.to_owned(),
            what: what.to_owned(),
            times,
            why,
        };
        self.0.into_iter().map(told).collect()
    }
}

/// All cases of one round.
pub(super) async fn round(
    round: usize,
    cases: &[Case],
    subjects: &[Subject],
    workers: &Workers,
    window: Duration,
    failed: &mut Failed,
) -> Vec<Cost> {
    let mut costs = Vec::new();
    for case in cases {
        for subject in in_turn(subjects, round) {
            if failed.is_given_up(subject, case.name) {
                continue;
            }
            match measure(subject, *case, workers, window).await {
                Ok(cost) => {
                    let cost = Cost { round, ..cost };
                    eprintln!("{cost}");
                    costs.push(cost);
                }
                Err(error) => failed.note(subject.name, case.name, &error),
            }
        }
    }
    costs
}

/// Who goes first changes with the round.
pub(super) fn in_turn<T>(all: &[T], round: usize) -> impl Iterator<Item = &T> {
    let begin = round % all.len().max(1);
    all[begin..].iter().chain(&all[..begin])
}

async fn measure(
    subject: &Subject,
    case: Case,
    workers: &Workers,
    window: Duration,
) -> Result<Cost> {
    let case = case.shared_by(subject.slower);
    let load = Load::start(case, &subject.ports);
    load.warm_up(PATIENCE).await?;
    let (answers, tokens) = (load.tally.answers(), load.tally.tokens());
    let (cpu, begin) = (subject.cpu_time()?, std::time::Instant::now());
    tokio::time::sleep(window).await;
    let (answers, tokens) = (load.tally.answers() - answers, load.tally.tokens() - tokens);
    let (cpu, took) = (subject.cpu_time()?.saturating_sub(cpu), begin.elapsed());
    load.stop().await?;
    workers.wait_idle(PATIENCE).await?;
    ensure!(answers + tokens > 0, "nothing came through");
    Ok(Cost {
        round: 0,
        peer: subject.name,
        case: case.name,
        clients: case.clients,
        answers,
        tokens,
        seconds: took.as_secs_f64(),
        cpu_s: cpu.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_each_round_and_another_begins() {
        let orders: Vec<Vec<i32>> = (0..4)
            .map(|round| in_turn(&[1, 2, 3], round).copied().collect())
            .collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    }
}
