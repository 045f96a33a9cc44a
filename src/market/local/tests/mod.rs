//! The local market with real processes.

mod found;
mod life;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::domain::{EndpointName, EngineKind, GroupName, SpeedPrior, TokensPerSecond, WorkerId};

/// Longer than anything here should take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A state directory with an installation of its own, so that tests do not see each other's processes.
struct Site {
    dir: TempDir,
    installation: InstallationId,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let name = dir
            .path()
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        Self {
            installation: InstallationId::new(format!("test{}{name}", std::process::id())),
            dir,
        }
    }

    fn open(&self) -> Arc<LocalMarket> {
        self.open_with_slots(8)
    }

    fn open_with_slots(&self, slots: u32) -> Arc<LocalMarket> {
        LocalMarket::new(LocalMarketSettings {
            dir: self.dir.path().join("local"),
            slots,
            installation: self.installation.clone(),
        })
        .expect("open")
    }

    fn label(&self, worker: &str) -> RentalLabel {
        RentalLabel {
            installation: self.installation.clone(),
            endpoint: EndpointName::new("chat"),
            worker: WorkerId::new(worker),
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Site {
    /// A failed test must not leave processes behind.
    fn drop(&mut self) {
        for process in processes::all().unwrap_or_default() {
            let ours = process
                .label
                .is_some_and(|label| label.installation == self.installation);
            if let (true, Some(pid)) = (ours, Pid::from_raw(process.mark.pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn shell(script: &str) -> WorkerGroup {
    shell_with(script, &[], Duration::ZERO)
}

fn shell_with(script: &str, env: &[(&str, &str)], boot_time: Duration) -> WorkerGroup {
    group(LocalLaunch {
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: env
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect::<BTreeMap<_, _>>(),
        boot_time,
        restart_time: Duration::ZERO,
    })
}

fn group(launch: LocalLaunch) -> WorkerGroup {
    WorkerGroup {
        name: GroupName::new("small"),
        engine: EngineKind::Fake,
        source: Source::Local(launch),
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(100.0),
            concurrency: 1,
        },
        max_concurrency: None,
        kv_tokens: None,
        image_gb: 0.0,
        model_gb: 0.0,
        usd_per_hour: UsdPerHour(0.25),
        interruptible: false,
        api_key: None,
    }
}

async fn rent(market: &LocalMarket, group: &WorkerGroup, label: &RentalLabel) -> InstanceId {
    let offer = market.offers(group).await.expect("offers").remove(0);
    let order = Order::settled(&offer, None, group, label);
    market.rent(&order).await.expect("rent")
}

async fn find(market: &LocalMarket, id: &InstanceId) -> Option<Instance> {
    let listed = market.instances().await.expect("listing");
    listed.into_iter().find(|instance| instance.id == *id)
}

async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_state(market: &LocalMarket, id: &InstanceId, state: InstanceState) -> Instance {
    wait_until(state.as_str(), || async {
        find(market, id)
            .await
            .is_some_and(|instance| instance.state == state)
    })
    .await;
    find(market, id).await.expect("listed")
}

fn pid_of(market: &LocalMarket, id: &InstanceId) -> u32 {
    let books = market.lock();
    books.entries[id].record.process.expect("process").pid
}

/// Also true of a zombie: it is gone only when it was reaped.
fn exists(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid as i32).expect("pid")).is_ok()
}

async fn wait_for_text(path: &str) -> String {
    wait_until(path, || async {
        Path::new(path).exists() && !read(path).is_empty()
    })
    .await;
    read(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A process of nobody, or of a rental whose directory is lost.
fn sleeper(label: Option<&RentalLabel>) -> std::process::Child {
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null());
    if let Some(label) = label {
        command.env(processes::LABEL_VARIABLE, label.to_string());
    }
    command.spawn().expect("spawn")
}
