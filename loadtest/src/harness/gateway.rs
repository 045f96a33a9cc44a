//! A running gateway and a running stand-in worker.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    ConfigDir, FleetSample, Program, fake_worker_binary, free_port, http_client, read_fleet,
    tidegate_binary,
};

/// Until a program that was just started has to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// `tidegate run` on a configuration of its own.
#[derive(Debug)]
pub struct Gateway {
    /// Without a trailing slash.
    pub base_url: String,
    pub admin_url: String,
    // Before the configuration: the program ends before its directory goes.
    pub child: Program,
    pub config: ConfigDir,
    client: reqwest::Client,
}

impl Gateway {
    /// The build's gateway, once it accepts requests.
    pub async fn start(config: ConfigDir) -> Result<Self> {
        Self::start_with(Command::new(tidegate_binary()?), config).await
    }

    /// `command` is the program with what comes before its arguments: environment, a wrapper.
    pub async fn start_with(mut command: Command, config: ConfigDir) -> Result<Self> {
        command.args([
            OsStr::new("run"),
            OsStr::new("--config"),
            config.path().as_os_str(),
        ]);
        let child = Program::start("tidegate", command, &config.path().join("tidegate.log"))?;
        let mut gateway = Self {
            base_url: config.base_url(),
            admin_url: config.admin_url(),
            child,
            config,
            client: http_client()?,
        };
        gateway.wait_ready().await?;
        Ok(gateway)
    }

    /// Starts the program again on the same directory, ports and state. The one before must have ended.
    pub async fn restart_with(mut self, command: Command) -> Result<Self> {
        let status = self.child.exit_status();
        status.context("the gateway still runs")?;
        let Self { child, config, .. } = self;
        drop(child);
        Self::start_with(command, config).await
    }

    /// Starts the program again to take over, and returns the old one once the new one leads.
    pub async fn upgrade(&mut self) -> Result<Program> {
        let mut command = Command::new(tidegate_binary()?);
        command.args([
            OsStr::new("run"),
            OsStr::new("--upgrade"),
            OsStr::new("--config"),
            self.config.path().as_os_str(),
        ]);
        let child = Program::start(
            "tidegate",
            command,
            &self.config.path().join("tidegate.log"),
        )?;
        let old = std::mem::replace(&mut self.child, child);
        let (pid, state_dir) = (self.child.pid(), self.config.state_dir());
        let leads = || std::future::ready(leading(&state_dir) == Some(pid));
        if let Err(error) = self.child.wait_ready(READY_WITHIN, leads).await {
            self.child = old;
            return Err(error);
        }
        Ok(old)
    }

    /// A fleet that cannot be read is an error, not an empty fleet.
    pub async fn fleet(&self) -> Result<FleetSample> {
        read_fleet(&self.client, &self.admin_url).await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let urls = [&self.base_url, &self.admin_url].map(|url| format!("{url}/readyz"));
        let client = &self.client;
        self.child
            .wait_ready(READY_WITHIN, || async {
                for url in &urls {
                    if answers_ok(client, url).await {
                        return true;
                    }
                }
                false
            })
            .await
    }
}

/// The stand-in worker as a program of its own.
#[derive(Debug)]
pub struct FakeWorker {
    pub url: String,
    pub port: u16,
    pub child: Program,
}

impl FakeWorker {
    /// `folder` receives its log.
    pub async fn start<S: AsRef<OsStr>>(flags: &[S], folder: &Path) -> Result<Self> {
        Self::start_at(free_port()?, flags, folder).await
    }

    /// The same on a port that a worker had before.
    pub async fn start_at<S: AsRef<OsStr>>(port: u16, flags: &[S], folder: &Path) -> Result<Self> {
        let mut command = Command::new(fake_worker_binary()?);
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(flags);
        let log = folder.join(format!("fake-worker-{port}.log"));
        let mut worker = Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            child: Program::start("fake-worker", command, &log)?,
        };
        let (client, health) = (http_client()?, format!("{}/health", worker.url));
        worker
            .child
            .wait_ready(READY_WITHIN, || answers_ok(&client, &health))
            .await?;
        Ok(worker)
    }
}

/// The process that leads on this state directory, by what it wrote there.
pub fn leading(state_dir: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(state_dir.join("tidegate.pid")).ok()?;
    pid.trim().parse().ok()
}

pub(super) async fn answers_ok(client: &reqwest::Client, url: &str) -> bool {
    let asked = client.get(url).timeout(Duration::from_secs(2)).send().await;
    asked.is_ok_and(|response| response.status().is_success())
}
