//! A worker that behaves like a continuous-batching inference engine on a GPU: its speed follows a law, its text can be
//! continued by any other worker, and it misbehaves when told to. Speaks TGI's and OpenAI's interfaces.

mod answer;
mod args;
mod batch;
pub(super) mod connection;
mod engine;
mod fault;
mod law;
mod openai;
mod others;
mod plan;
mod routes;
mod text;
mod tgi;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use args::Args;
pub use batch::Figures;
pub use law::{IterationLoad, PREFILL_CHUNK, SpeedLaw};
pub use others::sum as body_sum;

use connection::{BreakableListener, Breaker};
use engine::Engine;
use fault::Control;
use routes::Shared;

/// Prompt and answer together, unless the KV cache is smaller.
const CONTEXT_TOKENS_MAX: u32 = 131_072;

#[derive(Clone, Debug)]
pub struct Settings {
    pub law: SpeedLaw,
    /// Until then nothing but 503 is answered.
    pub load_time: Duration,
    /// All durations are divided by this.
    pub time_scale: f64,
    /// Most tokens of prompt and answer together.
    pub context_tokens: Option<u32>,
    pub model: String,
    /// How many tokens decide the next one.
    pub window: usize,
    /// One token in so many ends the text by itself.
    pub eos_every: Option<u32>,
    /// A line on stderr for each request.
    pub log: bool,
    /// Where names of faults that strike once are used up; workers that share it share them.
    pub once_dir: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            law: SpeedLaw::TINY,
            load_time: Duration::ZERO,
            time_scale: 1.0,
            context_tokens: None,
            model: "fake".to_owned(),
            window: 4,
            eos_every: None,
            log: false,
            once_dir: None,
        }
    }
}

/// A running worker; it ends when dropped.
pub struct Worker {
    address: SocketAddr,
    engine: Engine,
    stopped: Arc<AtomicBool>,
    engine_task: JoinHandle<()>,
    server_task: JoinHandle<std::io::Result<()>>,
}

/// Binds the address (port 0: any) and serves.
pub async fn start(address: impl ToSocketAddrs, settings: Settings) -> anyhow::Result<Worker> {
    settings.law.check().map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        settings.time_scale.is_finite() && settings.time_scale > 0.0,
        "time scale must be above 0, not {}",
        settings.time_scale
    );
    let listener = TcpListener::bind(address).await.context("cannot listen")?;
    let address = listener
        .local_addr()
        .context("cannot tell the listening address")?;
    let (engine, engine_task) = Engine::start(settings.law, settings.time_scale);
    let load_time_s = settings.load_time.as_secs_f64();
    let shared = Shared {
        loaded_at: Instant::now() + engine::scaled(load_time_s, settings.time_scale),
        settings,
        engine: engine.clone(),
        control: Control::default(),
        next_id: AtomicU64::new(1),
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let listener = BreakableListener {
        listener,
        stopped: stopped.clone(),
    };
    let service = routes::router(Arc::new(shared)).into_make_service_with_connect_info::<Breaker>();
    let server_task = tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(Worker {
        address,
        engine,
        stopped,
        engine_task,
        server_task,
    })
}

impl Worker {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the engine has done and holds, without the detour over HTTP.
    pub fn figures(&self) -> Figures {
        self.engine.figures()
    }

    /// Whether the engine holds a request whose `user` is this one.
    pub fn serves(&self, user: &str) -> bool {
        self.engine.serves(user)
    }

    /// Ends like a killed process: streams break, the port is free.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.server_task.abort();
        self.engine_task.abort();
    }

    /// Serves until something ends the worker.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        (&mut self.server_task).await?.context("cannot serve")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}
