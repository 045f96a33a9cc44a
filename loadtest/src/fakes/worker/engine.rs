//! The one task that turns the batch's iterations into real time, and the ticket by which a request follows its tokens.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::{Batch, Figures, Sequence};
use super::law::SpeedLaw;

/// Below this a timer is too coarse: iterations are run several at once instead.
const SHORTEST_SLEEP: Duration = Duration::from_millis(2);

/// An engine that cannot keep up with its own law lets others run after so many iterations.
const ITERATIONS_IN_A_ROW: u32 = 64;

#[derive(Debug)]
enum Command {
    Submit(Sequence),
    Leave(u64),
    Slow(f64),
}

/// The engine as requests see it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::UnboundedSender<Command>,
    figures: Arc<Mutex<Figures>>,
    present: Present,
}

/// Whose requests wait or run, by request.
#[derive(Clone, Debug, Default)]
struct Present(Arc<Mutex<HashMap<u64, String>>>);

impl Present {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request asks of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub id: u64,
    pub prompt_tokens: u32,
    pub length: u32,
    pub reserve: u32,
    pub stall_after: Option<u32>,
    pub slowness: f64,
}

impl Engine {
    /// Starts the engine's task; durations are divided by `time_scale`.
    pub fn start(law: SpeedLaw, time_scale: f64) -> (Self, tokio::task::JoinHandle<()>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let figures = Arc::new(Mutex::new(Figures::default()));
        let engine = Self {
            commands,
            figures: figures.clone(),
            present: Present::default(),
        };
        let run = run(
            Batch::new(law),
            inbox,
            time_scale,
            figures,
            engine.present.clone(),
        );
        (engine, tokio::spawn(run))
    }

    /// `user` is whose request it is, for [`Engine::serves`].
    pub fn submit(&self, job: Job, user: &str) -> Ticket {
        self.present.lock().insert(job.id, user.to_owned());
        let (mut sequence, emitted) =
            Sequence::new(job.id, job.prompt_tokens, job.length, job.reserve);
        sequence.stall_after = job.stall_after;
        sequence.slowness = job.slowness;
        // An engine that ended dropped the sequence with its outlet, which the ticket notices.
        let _ = self.commands.send(Command::Submit(sequence));
        Ticket {
            id: job.id,
            length: job.length,
            emitted,
            commands: self.commands.clone(),
            present: self.present.clone(),
        }
    }

    /// Whether a request of this user waits or runs.
    pub fn serves(&self, user: &str) -> bool {
        self.present.lock().values().any(|who| who == user)
    }

    /// From now on every iteration takes `factor` times as long.
    pub fn slow_down(&self, factor: f64) {
        let _ = self.commands.send(Command::Slow(factor));
    }

    pub fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine ended before the request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineEnded;

/// A request's place in the engine; dropping it gives the place back.
#[derive(Debug)]
pub struct Ticket {
    id: u64,
    length: u32,
    emitted: watch::Receiver<u32>,
    commands: mpsc::UnboundedSender<Command>,
    present: Present,
}

impl Ticket {
    /// Waits until more than `seen` tokens were emitted; returns how many.
    pub async fn more_than(&mut self, seen: u32) -> Result<u32, EngineEnded> {
        let count = self.emitted.wait_for(|count| *count > seen).await;
        count.map(|count| *count).map_err(|_| EngineEnded)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if *self.emitted.borrow() < self.length {
            let _ = self.commands.send(Command::Leave(self.id));
        } else {
            self.present.lock().remove(&self.id);
        }
    }
}

async fn run(
    mut batch: Batch,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    time_scale: f64,
    figures: Arc<Mutex<Figures>>,
    present: Present,
) {
    let show = |batch: &Batch| {
        batch.publish();
        *figures.lock().unwrap_or_else(PoisonError::into_inner) = batch.figures();
    };
    let mut due = Instant::now();
    let mut in_a_row = 0;
    let mut news = Vec::new();
    loop {
        take_in(&mut batch, &mut inbox, &mut news, &present);
        batch.admit();
        if !batch.has_work() {
            show(&batch);
            let Some(command) = inbox.recv().await else {
                return;
            };
            news.push(command);
            due = Instant::now();
            continue;
        }
        due += scaled(batch.begin_iteration(), time_scale);
        let now = Instant::now();
        if due > now {
            show(&batch);
            in_a_row = 0;
            tokio::time::sleep_until(due.max(now + SHORTEST_SLEEP)).await;
        } else if in_a_row >= ITERATIONS_IN_A_ROW {
            show(&batch);
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        in_a_row += 1;
        batch.end_iteration();
    }
}

/// Everything that came since the last iteration, those who left all at once.
fn take_in(
    batch: &mut Batch,
    inbox: &mut mpsc::UnboundedReceiver<Command>,
    news: &mut Vec<Command>,
    present: &Present,
) {
    while let Ok(command) = inbox.try_recv() {
        news.push(command);
    }
    let mut left = HashSet::new();
    for command in news.drain(..) {
        match command {
            Command::Submit(sequence) => batch.submit(sequence),
            Command::Leave(id) => {
                left.insert(id);
            }
            Command::Slow(factor) => batch.slowness = factor,
        }
    }
    if !left.is_empty() {
        batch.remove(&left);
        present.lock().retain(|id, _| !left.contains(id));
    }
}

/// A model time in real time; absurd figures become a very long time instead of a panic.
pub fn scaled(seconds: f64, time_scale: f64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(86_400);
    Duration::try_from_secs_f64(seconds / time_scale)
        .map_or(LONGEST, |duration| duration.min(LONGEST))
}
