//! llama.cpp's servers with a small model, each behind a relay, and what can be done to them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::relay::Relay;
use crate::harness::{Program, free_port};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Installs server and model where they are missing.
pub async fn set_up() -> Result<()> {
    let setup = folder().join("setup");
    let done = tokio::task::spawn_blocking(move || Command::new(setup).output()).await??;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{said}");
    Ok(())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/engines/llamacpp")
}

pub struct Engine {
    port: u16,
    program: Program,
    pub relay: Relay,
    log: PathBuf,
    /// SIGSTOP was sent: the process table may not show it yet.
    frozen: bool,
}

impl Engine {
    pub async fn start(client: &Client, logs: &TempDir) -> Result<Self> {
        let port = free_port()?;
        let log = logs.path().join(format!("llamacpp-{port}.log"));
        let mut engine = Self {
            port,
            program: serve(port, &log)?,
            relay: Relay::start(port).await?,
            log,
            frozen: false,
        };
        engine.wait_ready(client).await?;
        Ok(engine)
    }

    /// Without the relay.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) -> Result<()> {
        self.program.kill().map(drop)
    }

    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = true;
        self.program.signal(Signal::STOP)
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    fn thaw(&self) -> Result<()> {
        self.program.signal(Signal::CONT)
    }

    /// Back at work, whatever was done to it.
    pub async fn restore(&mut self, client: &Client) -> Result<()> {
        if self.program.exit_status().is_some() {
            self.program = serve(self.port, &self.log)?;
        } else if self.frozen {
            self.thaw()?;
        }
        self.frozen = false;
        self.wait_ready(client).await
    }

    async fn wait_ready(&mut self, client: &Client) -> Result<()> {
        let health = format!("{}/health", self.url());
        let healthy = || async {
            let asked = client
                .get(&health)
                .timeout(Duration::from_secs(5))
                .send()
                .await;
            asked.is_ok_and(|answer| answer.status().is_success())
        };
        self.program.wait_ready(READY_WITHIN, healthy).await
    }

    /// The engine's own count of requests it works on.
    pub async fn processing(&self, client: &Client) -> Result<f64> {
        let text = client
            .get(format!("{}/metrics", self.url()))
            .send()
            .await?
            .text()
            .await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("llamacpp:requests_processing "));
        let count = line.context("no such metric")?;
        count.trim().parse().context("no number")
    }

    pub async fn post(&self, client: &Client, path: &str, body: &Value) -> Result<Value> {
        let answer = client
            .post(format!("{}{path}", self.url()))
            .json(body)
            .send()
            .await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// The text's tokens as a prompt has them.
    pub async fn tokenize(&self, client: &Client, text: &str) -> Result<Vec<u64>> {
        let body = json!({"content": text, "add_special": true, "parse_special": true});
        let answer = self.post(client, "/tokenize", &body).await?;
        numbers(&answer["tokens"])
    }

    /// The tokens that follow a prompt when nobody disturbs.
    pub async fn tokens_after(
        &self,
        client: &Client,
        prompt: &str,
        count: u32,
    ) -> Result<Vec<u64>> {
        let body = json!({
            "prompt": prompt, "n_predict": count, "temperature": 0, "return_tokens": true,
        });
        numbers(&self.post(client, "/completion", &body).await?["tokens"])
    }
}

fn numbers(list: &Value) -> Result<Vec<u64>> {
    let list = list.as_array().context("no list of tokens")?;
    list.iter()
        .map(|token| token.as_u64().context("no token"))
        .collect()
}

fn serve(port: u16, log: &Path) -> Result<Program> {
    let mut command = Command::new(folder().join("serve"));
    command.args(["--port", &port.to_string()]);
    Program::start("llamacpp", command, log)
}
