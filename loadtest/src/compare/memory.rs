//! What an open stream costs in memory, silent or with a token a second.

use std::time::Duration;

use anyhow::Result;

use super::case::{Answer, Case, SMALL};
use super::clients::Load;
use super::machine::Pinning;
use super::peers::Recipe;
use super::result::Memory;
use super::subject::Subject;
use super::workers::Workers;
use crate::harness::wait_until;

/// Streams that begin in a second.
const OPENED_PER_SECOND: f64 = 1_000.0;
/// For what a peer does before and after the streams.
const PATIENCE: Duration = Duration::from_secs(45);
/// Buffers are filled and let go of in this time.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    name: &'static str,
    answer: Answer,
}

/// A first token, and then an engine that thinks.
const IDLE: Pace = Pace {
    name: "idle",
    answer: Answer::Stream {
        tokens: 2,
        gap: Duration::from_secs(3_600),
    },
};

/// A token each second.
const ACTIVE: Pace = Pace {
    name: "active",
    answer: Answer::Stream {
        tokens: 3_600,
        gap: Duration::from_secs(1),
    },
};

/// How many streams there are, one count after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub paces: &'static [Pace],
    counts: &'static [usize],
    /// For the streams of one step to be open; what is open then is what is measured.
    patience: Duration,
}

pub(super) const WHOLE: Steps = Steps {
    paces: &[IDLE, ACTIVE],
    counts: &[100, 1_000, 9_000],
    patience: Duration::from_secs(45),
};
pub(super) const QUICK: Steps = Steps {
    paces: &[ACTIVE],
    counts: &[1_000],
    patience: Duration::from_secs(10),
};

impl Pace {
    fn case(self, clients: usize) -> Case {
        Case {
            answer: self.answer,
            clients,
            ..SMALL
        }
    }
}

/// A fresh one, with more and more streams.
pub(super) async fn measure(
    recipe: &'static Recipe,
    pace: Pace,
    steps: Steps,
    workers: &Workers,
    pinning: Pinning,
) -> Result<Vec<Memory>> {
    let subject = Subject::start(recipe, &workers.ports, pinning).await?;
    warm(&subject).await?;
    let base_kb = subject.resident_kb()?;
    let (mut loads, mut found) = (Vec::new(), Vec::new());
    for &streams in steps.counts {
        let more = streams - loads.iter().map(Load::clients).sum::<usize>();
        let opening = Duration::from_secs_f64(more as f64 / OPENED_PER_SECOND);
        loads.push(Load::start_over(pace.case(more), &subject.ports, opening));
        let all_open = || std::future::ready(workers.open_streams() >= streams);
        wait_until(opening + steps.patience, all_open).await;
        tokio::time::sleep(SETTLE).await;
        let (open, full_kb) = (workers.open_streams(), subject.resident_kb()?);
        let memory = Memory {
            peer: recipe.name,
            pace: pace.name,
            streams,
            open,
            base_kb,
            full_kb,
        };
        eprintln!("{memory}");
        found.push(memory);
        if open < streams {
            break;
        }
    }
    let told = close(loads).await;
    if let Some(why) = told {
        eprintln!("{}: a stream ended: {why}", recipe.name);
    }
    drop(subject);
    workers.wait_idle(PATIENCE).await?;
    Ok(found)
}

/// What every program makes once is not to be counted for streams.
async fn warm(subject: &Subject) -> Result<()> {
    let load = Load::start(SMALL.shared_by(subject.slower), &subject.ports);
    load.warm_up(PATIENCE).await?;
    load.stop().await
}

async fn close(loads: Vec<Load>) -> Option<String> {
    let mut told = None;
    for load in loads {
        if let Err(error) = load.stop().await {
            told.get_or_insert(format!("{error:#}"));
        }
    }
    told
}
