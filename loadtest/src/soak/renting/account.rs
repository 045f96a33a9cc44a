//! Machines as they truly are, and what they cost an hour watched over a run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::stage;
use crate::harness::FakeVast;

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Deserialize)]
pub struct Machine {
    pub id: u64,
    pub label: Option<String>,
    pub state: String,
    pub gpu_usd_per_hour_now: f64,
    pub storage_usd_per_hour_now: f64,
}

impl Machine {
    pub fn read(row: Value) -> Result<Self> {
        serde_json::from_value(row).context("no row of the market")
    }

    /// Of the installation under test: the others' labels are made up by the test.
    pub fn is_ours(&self) -> bool {
        let label = self.label.as_deref().unwrap_or_default();
        label.starts_with("tidegate/") && !label.starts_with("tidegate/foreign")
    }

    pub fn usd_per_hour_now(&self) -> f64 {
        self.gpu_usd_per_hour_now + self.storage_usd_per_hour_now
    }
}

impl Machine {
    /// The rental that it is.
    pub fn worker(&self) -> &str {
        let label = self.label.as_deref().unwrap_or_default();
        label.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.label.as_deref().unwrap_or("no label");
        write!(f, "{} {label} ({})", self.id, self.state)
    }
}

/// What was seen over a run.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pub most_usd_per_hour: f64,
    /// What made it so.
    pub machines: Vec<Machine>,
}

pub struct Watching {
    over: Arc<AtomicBool>,
    watch: JoinHandle<Watch>,
}

/// Looks at what is owed each hour until it is ended.
pub fn watch(market: &Arc<FakeVast>) -> Watching {
    let over = Arc::new(AtomicBool::new(false));
    let (market, until) = (Arc::clone(market), Arc::clone(&over));
    let watch = tokio::spawn(async move {
        let mut watch = Watch::default();
        while !until.load(Relaxed) {
            // A look that fails is made up for by the next one.
            if let Ok(own) = stage::own(&market).await {
                let usd_per_hour = own.iter().map(Machine::usd_per_hour_now).sum();
                if usd_per_hour > watch.most_usd_per_hour {
                    watch = Watch {
                        most_usd_per_hour: usd_per_hour,
                        machines: own,
                    };
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        watch
    });
    Watching { over, watch }
}

impl Watching {
    pub async fn end(self) -> Result<Watch> {
        self.over.store(true, Relaxed);
        self.watch.await.context("the watch panicked")
    }
}
