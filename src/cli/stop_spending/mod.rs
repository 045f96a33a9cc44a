//! `tidegate stop-spending`: the mark first, so that nothing is rented whoever runs; then the running gateway is
//! followed, or without one, or with one that does not answer, the machines are ended from here.

mod follow;
mod until_empty;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use self::follow::follow;
use self::until_empty::{Bounds, Seen, until_empty};
use super::exit::{self, Trouble};
use super::{Source, show};
use crate::app::{Account, Alone, Left, NotAlone};
use crate::config::{self, AccountKeys, Config, ServerConfig};
use crate::domain::{Endpoint, Instance, MarketKind};
use crate::ledger::{self, LedgerError};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The running gateway's admin port. Without it: admin_listen of the configuration.
    #[arg(long, env = "TIDEGATE_ADMIN", value_name = "URL")]
    admin: Option<String>,
    /// The state directory, where the configuration cannot be read or says another one.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Allow spending again.
    #[arg(long)]
    resume: bool,
    /// Wait until nothing is left, at most so many seconds. Without it a running gateway only has to have begun; with none
    /// running, it takes what it takes.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1800")]
    wait: Option<u64>,
    /// Print JSON at the end.
    #[arg(long)]
    json: bool,
}

/// As much of the configuration as could be read.
struct Known {
    server: ServerConfig,
    /// `None`: with mistakes.
    config: Option<Config>,
    /// What endpoint files name, where they have mistakes.
    keys: AccountKeys,
}

impl Known {
    fn endpoints(&self) -> &[Endpoint] {
        self.config.as_ref().map_or(&[], |config| &config.endpoints)
    }

    /// Accounts that hold machines perhaps and were not asked.
    fn unasked(&self, asks_vast: bool) -> Vec<String> {
        let rents = |endpoint: &Endpoint| endpoint.market == MarketKind::Vast;
        let needed = match &self.config {
            Some(config) => config.endpoints.iter().any(rents),
            None => self.keys.vast,
        };
        let no_key = "Vast was not asked: no key of it is known here".to_owned();
        let no_key = (!asks_vast && needed).then_some(no_key);
        let missing = self.keys.missing.iter();
        let missing = missing
            .map(|what| format!("the account of {what} was not asked: it is not known here"));
        no_key.into_iter().chain(missing).collect()
    }
}

pub(super) async fn stop_spending(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let known = known(arguments)?;
    let mark = known.server.state_dir.join(ledger::STOP_MARK);
    if arguments.resume {
        return resume(&mark, arguments.json);
    }
    write_mark(&mark)?;
    eprintln!("{} is written: nothing is rented any more", mark.display());
    let left = end_everything(arguments, &known).await?;
    if arguments.json {
        show::print_json(&json!({"mark": mark, "left": left}));
    } else {
        show::print(&text_of(&left));
    }
    Ok(ExitCode::from(if left.is_empty() {
        0
    } else {
        exit::NEGATIVE
    }))
}

/// Mistakes in endpoints, or even in the server's file, must not keep anybody from ending what costs.
fn known(arguments: &Arguments) -> Result<Known, Trouble> {
    let env = |name: &str| std::env::var(name).ok();
    let config = arguments.source.load();
    let mut keys = AccountKeys::default();
    let mut server = match (&config, arguments.source.directory()) {
        (Ok(config), _) => config.server.clone(),
        (Err(mistakes), Some(dir)) => {
            eprintln!("{mistakes}\ngoing on with what can be read");
            let files = config::read_files(&dir);
            let read = config::load_server(&files, &env);
            keys = config::account_keys(&files, &env);
            match (read, &arguments.state_dir) {
                (Ok(server), _) => server,
                (Err(_), Some(_)) => config::default_server(&env)?,
                (Err(mistakes), None) => {
                    let hint =
                        "--state-dir says where the ledger is, if these cannot be mended now";
                    return Err(Trouble::No(format!("{mistakes}\n{hint}")));
                }
            }
        }
        (Err(mistakes), None) => return Err(Trouble::No(mistakes.to_string())),
    };
    if let Some(dir) = &arguments.state_dir {
        server.state_dir = dir.clone();
    }
    let mut config = config.ok();
    if let Some(config) = &mut config {
        config.server = server.clone();
    }
    Ok(Known {
        server,
        config,
        keys,
    })
}

fn resume(mark: &Path, json: bool) -> Result<ExitCode, Trouble> {
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot(mark, &error)),
        removed => {
            let was = if removed.is_ok() {
                "spending goes on"
            } else {
                "spending was not stopped"
            };
            if json {
                show::print_json(&json!({"resumed": removed.is_ok()}));
            } else {
                show::print(&format!("{was}\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn write_mark(mark: &Path) -> Result<(), Trouble> {
    let dir = mark.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(dir).and_then(|()| {
        let file = fs::File::create(mark)?;
        file.sync_all()
    });
    written.map_err(|error| cannot(mark, &error))
}

fn cannot(mark: &Path, error: &io::Error) -> Trouble {
    Trouble::No(format!("{}: {error}", mark.display()))
}

/// Whoever holds the ledger ends it all; a holder that does not answer is worked around.
async fn end_everything(arguments: &Arguments, known: &Known) -> Result<Vec<String>, Trouble> {
    let patience = Duration::from_secs(arguments.wait.unwrap_or(1_800));
    // The lock first: where a gateway runs, its keys end it all and none is needed here.
    let opened = Alone::to_end(&known.server, known.endpoints(), &known.keys.found);
    let why = match opened {
        Ok(alone) => {
            let mut left = end_alone(&alone, patience).await?;
            left.extend(known.unasked(alone.asks_vast()));
            return Ok(left);
        }
        Err(NotAlone::Other(error)) => return Err(error.into()),
        Err(NotAlone::Ledger(why)) => why,
    };
    if matches!(why, LedgerError::Locked(_)) {
        match follow(arguments, &known.server).await {
            Ok(left) => return Ok(left),
            Err(silent) => eprintln!("{silent}"),
        }
    }
    eprintln!("{why}; ending the machines of the account from here");
    end_from_outside(known, patience).await
}

/// The scaler's own way, with the ledger kept: it sees the mark, and ends what it knows and what it does not.
async fn end_alone(alone: &Alone, patience: Duration) -> Result<Vec<String>, Trouble> {
    // The scaler closes a rental's line only after it was patient.
    let bounds = Bounds {
        patience,
        settled_after: Duration::ZERO,
    };
    tokio::select! {
        () = alone.scale() => Err(Trouble::No("the scaler ended by itself".into())),
        left = until_empty(bounds, async || alone.left().await.map(seen)) => left,
    }
}

async fn end_from_outside(known: &Known, patience: Duration) -> Result<Vec<String>, Trouble> {
    let dir = &known.server.state_dir;
    let installation = ledger::installation_of(dir)?;
    let open = ledger::open_rentals_of(dir)?;
    let account = Account::new(
        &known.server,
        known.endpoints(),
        &known.keys.found,
        installation,
    )?;
    let bounds = Bounds {
        patience,
        settled_after: account.patience(&open),
    };
    let look = async || account.end_all(&open).await.map(seen);
    let mut left = until_empty(bounds, look).await?;
    left.extend(known.unasked(account.asks_vast()));
    eprintln!("the ledger was not written: the next gateway does that from the market's bill");
    Ok(left)
}

fn seen(left: Left) -> Seen {
    let machines = left.machines.iter().map(name);
    let open = left.open.iter();
    let open = open.map(|worker| format!("{worker} (open in the ledger)"));
    let beyond = left.out_of_reach.iter();
    let beyond = beyond.map(|worker| {
        format!("{worker} (open in the ledger; the account that pays it cannot be asked here)")
    });
    Seen {
        going: machines.chain(open).collect(),
        out_of_reach: beyond.collect(),
    }
}

fn name(instance: &Instance) -> String {
    format!(
        "{} ({}, {})",
        instance.label.worker,
        instance.id,
        instance.state.as_str()
    )
}

fn text_of(left: &[String]) -> String {
    if left.is_empty() {
        return "nothing is left; `tidegate stop-spending --resume` allows spending again\n".into();
    }
    let lines: Vec<String> = left
        .iter()
        .map(|machine| format!("  {machine}\n"))
        .collect();
    format!("{} left:\n{}", left.len(), lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_was_not_asked_is_left_and_never_nothing() {
        let env = |_: &str| None;
        let mut known = Known {
            server: config::default_server(&env).expect("defaults"),
            config: None,
            keys: AccountKeys {
                found: Vec::new(),
                missing: vec!["$OTHER_KEY".into()],
                vast: true,
            },
        };
        let left = known.unasked(true);
        assert!(left[0].contains("the account of $OTHER_KEY was not asked"));
        assert_eq!(known.unasked(false).len(), 2);
        known.keys.missing.clear();
        assert!(known.unasked(true).is_empty());
        // A mistake in an endpoint of another market is no reason to ask for Vast's key.
        known.keys.vast = false;
        assert!(known.unasked(false).is_empty());
    }

    #[test]
    fn a_mark_can_be_set_twice_and_taken_away_twice() {
        let dir = tempfile::tempdir().expect("directory");
        let mark = dir.path().join("state").join("stop-spending");
        for _ in 0..2 {
            write_mark(&mark).expect("written");
        }
        assert!(mark.is_file());
        for _ in 0..2 {
            resume(&mark, true).expect("away");
        }
        assert!(!mark.exists());
    }
}
