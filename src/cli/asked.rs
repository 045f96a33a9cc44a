//! Who answers a question: the running gateway, or with none running the ledger and the markets themselves.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Source;
use super::ask::{self, Gateway, NoAnswer};
use super::exit::Trouble;
use crate::app::{Alone, NotAlone};
use crate::config::Config;
use crate::ledger::{Ledger, LedgerError};
use crate::telemetry::now;

/// The gateway that is asked, and how its answer is printed.
#[derive(clap::Args)]
pub(super) struct Asked {
    #[command(flatten)]
    pub(super) source: Source,
    /// The running gateway's admin port. Without it: admin_listen of the configuration, and with no gateway running there
    /// the ledger and the markets are asked directly.
    #[arg(long, env = "TIDEGATE_ADMIN", value_name = "URL")]
    pub(super) admin: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub(super) json: bool,
}

impl Asked {
    /// What the gateway says to `path`, or `alone` where none runs.
    pub(super) async fn answer(
        &self,
        path: &str,
        alone: impl AsyncFnOnce(&Config) -> Result<Value, Trouble>,
    ) -> Result<Value, Trouble> {
        if let Some(url) = &self.admin {
            return Ok(Gateway::at(url)?.json(path).await?);
        }
        let config = self.source.load()?;
        let url = ask::url_of(config.server.admin_listen);
        match Gateway::at(&url)?.json(path).await {
            Ok(answer) => Ok(answer),
            Err(why @ NoAnswer::NotRunning(_)) => {
                let answer = alone(&config)
                    .await
                    .map_err(|error| locked_by(error, &why))?;
                eprintln!("{why}; this is what the ledger and the markets say");
                Ok(answer)
            }
            Err(why) => Err(why.into()),
        }
    }
}

/// The ledger is held, and yet nobody listens.
fn locked_by(error: Trouble, why: &NoAnswer) -> Trouble {
    match error {
        Trouble::Ledger(locked @ LedgerError::Locked(_)) => Trouble::Unreachable(format!(
            "{why}, and yet {locked}: it starts, ends, or listens elsewhere (--admin URL)"
        )),
        other => other,
    }
}

pub(super) fn open_ledger(config: &Config) -> Result<Ledger, Trouble> {
    Ok(Ledger::open(&config.server.state_dir, now())?)
}

pub(super) fn open_alone(config: &Config) -> Result<Alone, Trouble> {
    Alone::open(config).map_err(Trouble::from)
}

impl From<NotAlone> for Trouble {
    fn from(why: NotAlone) -> Self {
        match why {
            NotAlone::Ledger(error) => Trouble::Ledger(error),
            NotAlone::Other(error) => Trouble::Other(error),
        }
    }
}

pub(super) fn value(of: &impl Serialize) -> Result<Value, Trouble> {
    serde_json::to_value(of).map_err(|error| anyhow::Error::from(error).into())
}

/// An answer that a table is made from.
pub(super) fn typed<T: DeserializeOwned>(answer: Value) -> Result<T, Trouble> {
    serde_json::from_value(answer).map_err(|error| {
        Trouble::Unreachable(format!(
            "what answered is no gateway of this version: {error}"
        ))
    })
}

pub(super) fn decisions_path(config: &Config) -> PathBuf {
    config.server.state_dir.join("decisions.jsonl")
}
