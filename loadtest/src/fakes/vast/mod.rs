//! A market that behaves like Vast.ai: the interface that its command line and our client speak, a moving market of
//! offers, instances that are real processes of this machine, a bill, and faults on a seed.
//!
//! What is said about the interface comes from Vast's documentation and from what vastai 1.9.1 sends and reads. Durations
//! of the market are divided by `speed`; money is owed for this machine's seconds, times `bill_scale`.

mod accounts;
mod api;
mod args;
mod bill;
mod chance;
mod classes;
mod clock;
mod faults;
mod instance;
mod launch;
mod life;
mod limits;
mod logs;
mod market;
mod offers;
mod processes;
mod query;
mod record;
mod rent;
mod row;
mod stand_ins;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use args::Args;
pub use faults::Faults;

use crate::fakes::worker::connection::{BreakableListener, Breaker};
use processes::{Ended, Processes};
use world::World;

/// How often things happen that nobody asks for.
const TICK: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Where containers live; what an earlier fake left there is ended first.
    pub folder: PathBuf,
    /// The program that stands in for an inference engine.
    pub worker: PathBuf,
    pub seed: u64,
    /// All durations of the market are divided by this.
    pub speed: f64,
    /// The workers' own durations, speed of tokens included, are divided by this.
    pub worker_time_scale: f64,
    /// All prices shown and owed are multiplied by this.
    pub price_scale: f64,
    /// What is owed is multiplied by this, what is shown is not.
    pub bill_scale: f64,
    /// GB of traffic that a pull is charged for.
    pub pull_gb: f64,
    /// Keys of the accounts.
    pub keys: Vec<String>,
    /// Dollars each account has paid in.
    pub credit: f64,
    pub rate_limits: bool,
    /// Searches that each key has a day; none are counted without.
    pub searches_a_day: Option<u32>,
    /// How long such a day is, in seconds of the market.
    pub search_day_s: f64,
    /// The list of the interface's version 0 is answered.
    pub old_list: bool,
    /// Prices and offers stand still.
    pub calm: bool,
    pub faults: Faults,
}

impl Settings {
    /// A fake in this folder, as fast as the real thing and without faults.
    pub fn new(folder: PathBuf, worker: PathBuf) -> Self {
        Self {
            folder,
            worker,
            seed: 1,
            speed: 1.0,
            worker_time_scale: 1.0,
            price_scale: 1.0,
            bill_scale: 1.0,
            pull_gb: 0.0,
            keys: vec!["testkey".into()],
            credit: 100.0,
            rate_limits: true,
            searches_a_day: None,
            search_day_s: 86_400.0,
            old_list: true,
            calm: false,
            faults: Faults::default(),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = [
            self.speed,
            self.worker_time_scale,
            self.price_scale,
            self.bill_scale,
            self.search_day_s,
        ];
        for scale in positive {
            anyhow::ensure!(
                scale.is_finite() && scale > 0.0,
                "a scale must be above 0, not {scale}"
            );
        }
        anyhow::ensure!(!self.keys.is_empty(), "no account");
        Ok(())
    }
}

/// What calls share.
struct Shared {
    world: Mutex<World>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running fake; it and all its containers end when it is dropped.
pub struct Vast {
    address: SocketAddr,
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Binds the address (port 0: any) and serves.
pub async fn start(address: impl ToSocketAddrs, settings: Settings) -> anyhow::Result<Vast> {
    settings.check()?;
    let listener = TcpListener::bind(address).await.context("cannot listen")?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let (ended, ends) = mpsc::unbounded_channel();
    let processes = Processes::prepare(&settings.folder, &settings.worker, ended)
        .with_context(|| format!("cannot use {}", settings.folder.display()))?;
    let shared = Arc::new(Shared {
        world: Mutex::new(World::new(settings, processes)),
    });
    let stopped = Arc::new(AtomicBool::new(false));
    let listener = BreakableListener {
        listener,
        stopped: stopped.clone(),
    };
    let service = api::router(shared.clone()).into_make_service_with_connect_info::<Breaker>();
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            eprintln!("fake-vast: cannot serve: {error}");
        }
    });
    let moving = tokio::spawn(move_on(shared.clone(), ends));
    Ok(Vast {
        address,
        shared,
        stopped,
        tasks: vec![serving, moving],
    })
}

/// Time goes on, and containers end by themselves.
async fn move_on(shared: Arc<Shared>, mut ends: mpsc::UnboundedReceiver<Ended>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            _ = ticks.tick() => None,
            ended = ends.recv() => ended,
        };
        let mut world = shared.lock();
        let now = world.clock.now();
        if let Some(ended) = ended {
            world.container_ended(now, ended);
        }
        world.advance(now);
    }
}

impl Vast {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Vast {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        for task in &self.tasks {
            task.abort();
        }
        self.shared.lock().processes.kill_all();
    }
}
