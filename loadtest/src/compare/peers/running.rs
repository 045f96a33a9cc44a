//! A peer at work.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;

use super::super::machine::Pinning;
use super::super::processes::{cpu_time, resident_kb};
use super::{Kind, Recipe, Site};
use crate::harness::{Program, free_port, http_client};

/// Answers at `port`; ends with its handle, and its folder with it.
pub(crate) struct Running {
    pub port: u16,
    pub setup: Setup,
    program: Program,
    _folder: TempDir,
}

/// How it was started, for whoever wants to do the same.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    pub name: &'static str,
    pub kind: Kind,
    pub version: String,
    pub licence: &'static str,
    pub policy: &'static str,
    /// `RUN` stands for the folder of this run.
    pub command: String,
    pub files: Vec<(String, String)>,
}

impl Running {
    /// Waits until a request for text is answered through a worker.
    pub async fn start(
        recipe: &'static Recipe,
        policy: &'static str,
        workers: &[u16],
        pinning: Pinning,
    ) -> Result<Self> {
        let program = (recipe.program)()?;
        let folder = tempfile::Builder::new()
            .prefix("tidegate-peer-")
            .tempdir()?;
        let site = Site {
            folder: folder.path(),
            port: free_port()?,
            side_port: free_port()?,
            workers,
            policy,
        };
        let launch = (recipe.launch)(&site);
        let mut command = pinning.command(&program);
        command
            .args(&launch.arguments)
            .envs(launch.environment.clone());
        for (name, text) in &launch.files {
            let path = folder.path().join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        let anonymous = |text: &str| text.replace(&folder.path().display().to_string(), "RUN");
        let environment = launch.environment.iter().map(|(n, v)| format!("{n}={v} "));
        let setup = Setup {
            name: recipe.name,
            kind: recipe.kind,
            version: (recipe.version)(&program),
            licence: recipe.licence,
            policy,
            command: anonymous(&format!(
                "{}{} {}",
                environment.collect::<String>(),
                program.file_name().unwrap_or_default().display(),
                launch.arguments.join(" ")
            )),
            files: launch
                .files
                .iter()
                .map(|(name, text)| ((*name).to_owned(), anonymous(text)))
                .collect(),
        };
        let mut running = Self {
            port: site.port,
            setup,
            program: Program::start(recipe.name, command, &folder.path().join("log"))?,
            _folder: folder,
        };
        running.wait_ready(recipe.start_within).await?;
        Ok(running)
    }

    async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let (client, url) = (http_client()?, self.url("/v1/chat/completions"));
        let body = r#"{"model":"bench","messages":[{"role":"user","content":"[order 0 0]"}],"max_tokens":1}"#;
        self.program
            .wait_ready(limit, || async {
                let request = client.post(&url).header("content-type", "application/json");
                let asked = request.body(body).timeout(Duration::from_secs(5)).send();
                asked
                    .await
                    .is_ok_and(|response| response.status().is_success())
            })
            .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Of its whole tree.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.program.pid())
    }

    /// Of its whole tree.
    pub fn resident_kb(&self) -> Result<u64> {
        resident_kb(self.program.pid())
    }
}
