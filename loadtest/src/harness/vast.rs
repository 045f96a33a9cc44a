//! The fake Vast as a program of its own, and readings of what is true on its side.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Program, binary, fake_worker_binary, free_port, http_client};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The fake Vast: `FAKE_VAST_BIN`, else the build's.
pub fn fake_vast_binary() -> Result<std::path::PathBuf> {
    binary("fake-vast", "FAKE_VAST_BIN")
}

/// A running fake Vast; with it all its instances end.
#[derive(Debug)]
pub struct FakeVast {
    /// Without a trailing slash.
    pub url: String,
    // Before its folder: the program ends before that goes.
    pub child: Program,
    folder: TempDir,
    client: reqwest::Client,
}

impl FakeVast {
    /// Flags as of `fake-vast --help`, without `--listen` and `--dir`.
    pub async fn start(flags: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("fake-vast-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let port = free_port()?;
        let mut command = Command::new(fake_vast_binary()?);
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--dir")
            .arg(folder.path().join("containers"))
            .arg("--worker")
            .arg(fake_worker_binary()?)
            .args(flags);
        let child = Program::start("fake-vast", command, &folder.path().join("fake-vast.log"))?;
        let mut fake = Self {
            url: format!("http://127.0.0.1:{port}"),
            child,
            folder,
            client: http_client()?,
        };
        let (client, health) = (fake.client.clone(), format!("{}/fake/health", fake.url));
        fake.child
            .wait_ready(READY_WITHIN, || {
                super::gateway::answers_ok(&client, &health)
            })
            .await?;
        Ok(fake)
    }

    /// Its log and its containers' homes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Dollars owed by each account, by instance and kind: `accounts[0].owed`, `.instances.<id>.gpu`.
    pub async fn account(&self) -> Result<Value> {
        self.get("account").await
    }

    /// Every instance that ever existed.
    pub async fn instances(&self) -> Result<Vec<Value>> {
        let answer = self.get("instances").await?;
        let rows = answer["instances"].as_array().cloned();
        rows.context("no list of instances")
    }

    /// Those that exist now.
    pub async fn existing(&self) -> Result<Vec<Value>> {
        let mut rows = self.instances().await?;
        rows.retain(|row| row["exists"] == true);
        Ok(rows)
    }

    /// Every call that could change something, oldest first.
    pub async fn audit(&self) -> Result<Vec<Value>> {
        let answer = self.get("audit").await?;
        answer["calls"].as_array().cloned().context("no calls")
    }

    /// The last searches, oldest first, each with its `body` and the ids of the `offers` found.
    pub async fn searches(&self) -> Result<Vec<Value>> {
        let answer = self.get("searches").await?;
        let searches = answer["searches"].as_array().cloned();
        searches.context("no searches")
    }

    /// Shares by name, such as `{"lost_answer": 1.0}`; `{"clear": true}` ends all.
    pub async fn set_faults(&self, shares: &Value) -> Result<Value> {
        self.post("faults", shares).await
    }

    /// Nothing of its interface works for so long.
    pub async fn outage(&self, length: Duration) -> Result<Value> {
        let body = json!({ "seconds": length.as_secs_f64() });
        self.post("outage", &body).await
    }

    /// `offline`, `outbid`, `exit` or `vanish`, at once.
    pub async fn strike(&self, instance: u64, fault: &str) -> Result<Value> {
        let body = json!({ "instance": instance, "fault": fault });
        self.post("strike", &body).await
    }

    async fn get(&self, what: &str) -> Result<Value> {
        let request = self.client.get(format!("{}/fake/{what}", self.url));
        read(request).await
    }

    async fn post(&self, what: &str, body: &Value) -> Result<Value> {
        let request = self.client.post(format!("{}/fake/{what}", self.url));
        read(request.json(body)).await
    }
}

async fn read(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request.timeout(Duration::from_secs(10)).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    anyhow::ensure!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}
