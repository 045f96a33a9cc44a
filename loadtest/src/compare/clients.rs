//! The clients: they keep their connections, and ask again as soon as they are answered, or at random moments of a set rate.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::{JoinSet, yield_now};

use super::case::Case;
use super::delays::Delays;
use super::stamp::{Reader, Stamp};
use super::wire::{Kind, Wire};
use crate::harness::wait_until;

/// What has come back so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answers: AtomicU64,
    tokens: AtomicU64,
    /// Recorded while there is a place for it.
    delays: Mutex<Option<Delays>>,
}

impl Tally {
    pub fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    pub fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    pub fn record_delays(&self) {
        *self.delays() = Some(Delays::default());
    }

    pub fn take_delays(&self) -> Delays {
        self.delays().take().unwrap_or_default()
    }

    fn delays(&self) -> std::sync::MutexGuard<'_, Option<Delays>> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client asks, of whom, and where it counts.
#[derive(Clone)]
struct Client {
    case: Case,
    port: u16,
    request: Arc<[u8]>,
    tally: Arc<Tally>,
}

impl Client {
    /// One request and its whole answer; afterwards the connection can be used again, or is gone.
    async fn ask(&self, kept: Option<Wire>) -> Result<Option<Wire>> {
        let mut wire = match kept {
            Some(wire) => wire,
            None => Wire::connect(self.port).await.context("cannot connect")?,
        };
        let sent_at = Stamp::now();
        wire.write(&self.request).await?;
        let head = wire.head(Kind::Response).await?;
        let head = head.context("the connection ended before an answer")?;
        ensure!(head.status == 200, "answered with status {}", head.status);
        let (mut reader, mut heard) = (Reader::default(), Heard::new(sent_at));
        let streamed = self.case.is_streamed();
        wire.body(head.framing, |piece| {
            let now = Stamp::now();
            let mut delays = self.tally.delays();
            heard.piece(now, delays.as_mut());
            if streamed {
                reader.push(piece, |made_at| heard.token(made_at, now, delays.as_mut()));
                self.tally.tokens.fetch_add(heard.take_new(), Relaxed);
            }
        })
        .await?;
        if streamed {
            let wanted = self.case.tokens();
            ensure!(
                reader.is_done() && heard.tokens == wanted,
                "a stream ended after {} of {wanted} tokens",
                heard.tokens
            );
        }
        self.tally.answers.fetch_add(1, Relaxed);
        Ok((!head.closes).then_some(wire))
    }

    /// Ends with an error only.
    async fn work(self, after: Duration) -> Result<()> {
        tokio::time::sleep(after).await;
        let mut wire = None;
        loop {
            wire = self.ask(wire).await?;
        }
    }
}

/// What one client has heard of one answer.
struct Heard {
    sent_at: Stamp,
    last_at: Option<Stamp>,
    began: bool,
    tokens: u32,
    new: u64,
}

impl Heard {
    fn new(sent_at: Stamp) -> Self {
        Self {
            sent_at,
            last_at: None,
            began: false,
            tokens: 0,
            new: 0,
        }
    }

    fn piece(&mut self, now: Stamp, delays: Option<&mut Delays>) {
        if !std::mem::replace(&mut self.began, true)
            && let Some(delays) = delays
        {
            delays.first_byte.record(self.sent_at.until(now));
        }
    }

    fn token(&mut self, made_at: Stamp, now: Stamp, delays: Option<&mut Delays>) {
        self.tokens += 1;
        self.new += 1;
        let last = self.last_at.replace(now);
        if let Some(delays) = delays {
            delays.way.record(made_at.until(now));
            if let Some(last) = last {
                delays.gap.record(last.until(now));
            }
        }
    }

    fn take_new(&mut self) -> u64 {
        std::mem::take(&mut self.new)
    }
}

/// Clients at work; dropped or stopped, they leave.
pub(super) struct Load {
    case: Case,
    pub tally: Arc<Tally>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    /// As many clients as the case has, spread over the ports, each asking again as soon as it is answered.
    pub fn start(case: Case, ports: &[u16]) -> Self {
        Self::start_over(case, ports, spread(&case))
    }

    /// The same, the clients beginning one after the other in this time.
    pub fn start_over(case: Case, ports: &[u16], time: Duration) -> Self {
        let tally = Arc::new(Tally::default());
        let request: Arc<[u8]> = case.request().into();
        let mut clients = JoinSet::new();
        for (n, &port) in (0..case.clients).zip(ports.iter().cycle()) {
            let client = Client {
                case,
                port,
                request: Arc::clone(&request),
                tally: Arc::clone(&tally),
            };
            clients.spawn(client.work(time.mul_f64(n as f64 / case.clients as f64)));
        }
        Self {
            case,
            tally,
            clients,
        }
    }

    pub fn clients(&self) -> usize {
        self.case.clients
    }

    /// Until every client has heard something, several times over where it goes fast.
    pub async fn warm_up(&self, limit: Duration) -> Result<()> {
        let heard = || match self.case.is_streamed() {
            true => self.tally.tokens(),
            false => self.tally.answers(),
        };
        tokio::time::sleep(spread(&self.case)).await;
        let enough = 10 * self.case.clients as u64;
        let warm =
            || std::future::ready(heard() >= enough || self.clients.len() < self.case.clients);
        let warmed = wait_until(limit, warm).await;
        ensure!(warmed, "only {} came through in {limit:?}", heard());
        Ok(())
    }

    /// Fails if a client ended by itself: they work until they are stopped.
    pub async fn stop(mut self) -> Result<()> {
        let ended = self.clients.try_join_next();
        self.clients.shutdown().await;
        match ended {
            None => Ok(()),
            Some(ended) => ended?,
        }
    }
}

/// Paced streams begin one after the other: else all would be asked for in one moment, again and again.
fn spread(case: &Case) -> Duration {
    const LONGEST: Duration = Duration::from_millis(1_000);
    case.length().min(LONGEST)
}

/// Requests at random moments of a mean rate, whatever became of those before, and what they were delayed by.
pub(super) async fn ask_at_rate(
    case: Case,
    ports: &[u16],
    rate: f64,
    warm_up: Duration,
    window: Duration,
    seed: u64,
) -> Result<(Delays, Arc<Tally>)> {
    let tally = Arc::new(Tally::default());
    let request: Arc<[u8]> = case.request().into();
    let idle: Arc<Mutex<Vec<Wire>>> = Arc::default();
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut open = JoinSet::new();
    let mut ports = ports.iter().cycle();
    let begin = Stamp::now();
    let mut due = Duration::ZERO;
    let mut recording = false;
    while due < warm_up + window {
        // Spinning: the clock of timers is a hundred times as coarse as what is measured.
        while begin.until(Stamp::now()) < due {
            yield_now().await;
        }
        if due >= warm_up && !recording {
            recording = true;
            tally.record_delays();
        }
        while let Some(ended) = open.try_join_next() {
            let ended: Result<()> = ended?;
            ended?;
        }
        ensure!(open.len() < OPEN_MAX, "{OPEN_MAX} requests are unanswered");
        let client = Client {
            case,
            port: *ports.next().context("nobody to ask")?,
            request: Arc::clone(&request),
            tally: Arc::clone(&tally),
        };
        let idle = Arc::clone(&idle);
        open.spawn(async move {
            let kept = lock(&idle).pop();
            let wire = client.ask(kept).await?;
            lock(&idle).extend(wire);
            Ok(())
        });
        // Exponential gaps: arrivals of many clients who know nothing of each other.
        due += Duration::from_secs_f64(-(1.0 - chance.f64()).ln() / rate);
    }
    let delays = tally.take_delays();
    let rest = async {
        while let Some(ended) = open.join_next().await {
            ended??;
        }
        Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(10), rest).await {
        Ok(ended) => ended.map(|()| (delays, tally)),
        Err(_) => bail!("requests were not answered in 10 s"),
    }
}

/// A proxy this far behind is not at half load.
const OPEN_MAX: usize = 2_000;

fn lock(idle: &Mutex<Vec<Wire>>) -> std::sync::MutexGuard<'_, Vec<Wire>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::case::{ALL, SMALL};
    use super::super::workers::Workers;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn every_case_runs_against_the_workers_themselves_and_leaves_nothing_open() {
        let workers = Workers::start(2).await.unwrap();
        for case in ALL {
            let load = Load::start(case, &workers.ports);
            load.warm_up(LIMIT).await.unwrap();
            load.stop().await.unwrap();
            workers.wait_idle(LIMIT).await.unwrap();
        }
    }

    #[tokio::test]
    async fn requests_at_a_rate_are_all_answered_and_timed() {
        let workers = Workers::start(1).await.unwrap();
        let window = Duration::from_millis(200);
        let (delays, tally) = ask_at_rate(SMALL, &workers.ports, 200.0, window, window, 1)
            .await
            .unwrap();
        assert!(tally.answers() >= delays.first_byte.count());
        assert!(delays.first_byte.count() > 0);
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_fails_the_measurement() {
        let port = crate::harness::free_port().unwrap();
        let mut load = Load::start(SMALL, &[port]);
        let ended = load.clients.join_next().await.unwrap().unwrap();
        assert!(ended.is_err());
        assert!(load.stop().await.is_err());
    }
}
