//! Who answers a question: the running gateway, or with none running the ledger and the markets themselves.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Source;
use super::ask::{self, Gateway, NoAnswer};
use super::exit::Trouble;
use crate::app::{Alone, NotAlone};
use crate::config::{self, Config, Mistakes};
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
        let read = self.read()?;
        match Gateway::at(&read.url)?.json(path).await {
            Ok(answer) => Ok(answer),
            Err(why @ NoAnswer::NotRunning(_)) => {
                let answer = alone(&read.config?)
                    .await
                    .map_err(|error| locked_by(error, &why))?;
                eprintln!("{why}; this is what the ledger and the markets say");
                Ok(answer)
            }
            Err(why) => Err(why.into()),
        }
    }
}

/// The configuration, as far as it could be read.
pub(super) struct Read {
    /// Where its gateway listens.
    pub(super) url: String,
    pub(super) config: Result<Config, Mistakes>,
}

impl Asked {
    /// Where a gateway may be asked. Mistakes must not keep anybody from asking one that runs on.
    pub(super) fn read(&self) -> Result<Read, Trouble> {
        let dir = self.source.directory();
        let (server, config) = match (self.source.load(), dir) {
            (Ok(config), _) => (Some(config.server.clone()), Ok(config)),
            (Err(mistakes), Some(dir)) => {
                let env = |name: &str| std::env::var(name).ok();
                let files = config::read_files(&dir);
                match config::load_rest(&files, &mistakes, &env) {
                    Some((config, left_out)) => {
                        eprintln!("{mistakes}\ngoing on without {}", left_out.join(", "));
                        (Some(config.server.clone()), Ok(config))
                    }
                    None => (config::readable_server(&files, &env), Err(mistakes)),
                }
            }
            (Err(mistakes), None) => (None, Err(mistakes)),
        };
        let Some(server) = server else {
            return Err(match config {
                Err(mistakes) => Trouble::No(format!(
                    "{mistakes}\n--admin says where a gateway can be asked all the same"
                )),
                Ok(_) => Trouble::No("there is no configuration".into()),
            });
        };
        if let Err(mistakes) = &config {
            eprintln!("{mistakes}\ngoing on with what can be read");
        }
        Ok(Read {
            url: ask::url_of(server.admin_listen),
            config,
        })
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn asked(dir: &std::path::Path) -> Asked {
        Asked {
            source: Source {
                config: Some(dir.to_owned()),
            },
            admin: None,
            json: false,
        }
    }

    #[test]
    fn a_mistake_in_one_endpoints_file_keeps_nobody_from_looking_at_the_others() {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("endpoints")).expect("made");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join("endpoints").join(name), text).expect("written");
        };
        write(
            "good.yaml",
            "endpoint_name: good\nworker_groups: [{name: g, engine: fake, command: 'w {port}', tokens_per_second: 100}]\n",
        );
        write("bad.yaml", "endpoint_name: bad\nmin_lode: 3\n");
        write("worse.yaml", "endpoint_name: [");
        let config = asked(dir.path()).read().expect("an address").config;
        let names: Vec<String> = config
            .expect("what is right")
            .endpoints
            .iter()
            .map(|endpoint| endpoint.name.to_string())
            .collect();
        assert_eq!(names, ["good"]);
        fs::write(dir.path().join("tidegate.yaml"), "threads: many\n").expect("written");
        assert!(
            asked(dir.path())
                .read()
                .expect("an address")
                .config
                .is_err()
        );
    }

    #[test]
    fn mistakes_in_any_file_keep_nobody_from_asking_the_gateway_that_runs() {
        let dir = tempfile::tempdir().expect("directory");
        let server = "admin_listen: 127.0.0.1:4711\nthreads: many\n";
        fs::write(dir.path().join("tidegate.yaml"), server).expect("written");
        fs::create_dir(dir.path().join("endpoints")).expect("made");
        fs::write(dir.path().join("endpoints/chat.yaml"), "model: [").expect("written");
        let read = asked(dir.path()).read().expect("an address");
        assert_eq!(read.url, "http://127.0.0.1:4711");
        assert!(read.config.is_err());
        fs::write(dir.path().join("tidegate.yaml"), "admin_listen: [").expect("written");
        let trouble = asked(dir.path()).read().err().expect("no address");
        assert!(trouble.to_string().contains("--admin"), "{trouble}");
    }
}
