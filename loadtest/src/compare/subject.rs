//! What is measured: a peer at work, or the workers without anything before them.

use std::time::Duration;

use anyhow::Result;

use super::machine::Pinning;
use super::peers::{Kind, Recipe, Running, Setup};
use super::result::Missing;

/// The name of what no proxy can be below.
pub(super) const FLOOR: &str = "none";

pub(super) struct Subject {
    pub name: &'static str,
    /// Where clients connect.
    pub ports: Vec<u16>,
    /// Paced loads have so many times fewer clients.
    pub slower: usize,
    running: Option<Running>,
}

impl Subject {
    pub fn floor(workers: &[u16]) -> Self {
        Self {
            name: FLOOR,
            ports: workers.to_vec(),
            slower: 1,
            running: None,
        }
    }

    pub async fn start(recipe: &'static Recipe, workers: &[u16], pinning: Pinning) -> Result<Self> {
        let running = Running::start(recipe, recipe.policies[0], workers, pinning).await?;
        Ok(Self {
            name: recipe.name,
            ports: vec![running.port],
            slower: recipe.slower,
            running: Some(running),
        })
    }

    /// The floor has none.
    pub fn cpu_time(&self) -> Result<Duration> {
        let running = self.running.as_ref();
        running.map_or(Ok(Duration::ZERO), Running::cpu_time)
    }

    pub fn resident_kb(&self) -> Result<u64> {
        let running = self.running.as_ref();
        running.map_or(Ok(0), Running::resident_kb)
    }

    pub fn setup(&self) -> Option<&Setup> {
        self.running.as_ref().map(|running| &running.setup)
    }
}

/// All that can be had, the floor first; without the gateway there is nothing to compare.
pub(super) async fn start_all(
    recipes: &[&'static Recipe],
    workers: &[u16],
    pinning: Pinning,
) -> Result<(Vec<Subject>, Vec<Missing>)> {
    let (mut subjects, mut missing) = (vec![Subject::floor(workers)], Vec::new());
    for recipe in recipes {
        match Subject::start(recipe, workers, pinning).await {
            Ok(subject) => subjects.push(subject),
            Err(error) if recipe.kind == Kind::Ours => return Err(error),
            Err(error) => {
                let told = Missing::new(recipe.name, &format!("{error:#}"));
                eprintln!("{}: {}", told.name, told.reason);
                missing.push(told);
            }
        }
    }
    Ok((subjects, missing))
}
