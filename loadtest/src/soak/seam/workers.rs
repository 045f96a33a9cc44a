//! Stand-in workers as processes, brought back when a fault ended or froze one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::harness::FakeWorker;

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a frozen process stays so: longer than the gateway waits for it.
const FROZEN_MS: std::ops::Range<u64> = 500..4_000;

pub struct Workers {
    urls: Vec<String>,
    /// Logs and used-up faults.
    folder: Arc<TempDir>,
    restarts: Arc<AtomicUsize>,
    keepers: Vec<JoinHandle<()>>,
}

impl Workers {
    pub async fn start(count: usize, seed: u64) -> Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        std::fs::create_dir(once_dir(folder.path()))?;
        let restarts = Arc::new(AtomicUsize::new(0));
        let (mut urls, mut keepers) = (Vec::new(), Vec::new());
        for nth in 0..count {
            let worker = FakeWorker::start(&flags(folder.path()), folder.path()).await?;
            urls.push(worker.url.clone());
            let keeper = Keeper {
                worker,
                folder: Arc::clone(&folder),
                restarts: Arc::clone(&restarts),
                dice: fastrand::Rng::with_seed(seed ^ nth as u64),
            };
            keepers.push(tokio::spawn(keeper.keep()));
        }
        Ok(Self {
            urls,
            folder,
            restarts,
            keepers,
        })
    }

    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.urls.iter().map(String::as_str)
    }

    /// Which of a case's faults were used up, in order.
    pub fn struck(&self, case: &str) -> usize {
        let folder = once_dir(self.folder.path());
        (0..)
            .take_while(|nth| folder.join(format!("{case}-{nth}")).exists())
            .count()
    }

    /// Processes that ended or froze and were brought back.
    pub fn restarts(&self) -> usize {
        self.restarts.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.keepers.iter().for_each(JoinHandle::abort);
    }
}

fn once_dir(folder: &Path) -> std::path::PathBuf {
    folder.join("once")
}

fn flags(folder: &Path) -> Vec<String> {
    let once_dir = once_dir(folder).display().to_string();
    vec!["--once-dir".to_owned(), once_dir]
}

struct Keeper {
    worker: FakeWorker,
    folder: Arc<TempDir>,
    restarts: Arc<AtomicUsize>,
    dice: fastrand::Rng,
}

impl Keeper {
    async fn keep(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.worker.child.is_frozen() {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(self.dice.u64(FROZEN_MS))).await;
                // Half of them come to, the others never do.
                let signal = if self.dice.bool() {
                    Signal::CONT
                } else {
                    Signal::KILL
                };
                // It may be gone already.
                let _ = self.worker.child.signal(signal);
            }
            if self.worker.child.exit_status().is_some() {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                self.bring_back().await;
            }
        }
    }

    /// On the same port; where that fails, another try follows.
    async fn bring_back(&mut self) {
        let flags = flags(self.folder.path());
        match FakeWorker::start_at(self.worker.port, &flags, self.folder.path()).await {
            Ok(worker) => self.worker = worker,
            Err(error) => eprintln!("loadtest: a worker does not come back: {error:#}"),
        }
    }
}
