//! The command line, one file a command.

mod ask;
mod asked;
mod check;
mod completions;
mod exit;
mod ledger;
mod logs;
mod offers;
mod plan;
mod run;
mod show;
mod simulate;
mod status;
mod stop_spending;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::Trouble;
use crate::app::Origin;
use crate::config::{self, Config, Mistakes};

#[derive(Parser)]
#[command(name = "tidegate", version, about, max_term_width = 100, after_help = exit::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway and its scaler until a signal ends them.
    Run(run::Arguments),
    /// Read a configuration and list every mistake in it; exit 1 if there is one.
    Check(check::Arguments),
    /// Show what would be rented and released now, and why; nothing is.
    Plan(plan::Arguments),
    /// Show workers, demand and what it costs.
    Status(status::Arguments),
    /// Show what was spent by day, endpoint or host, and what was rented.
    Ledger(ledger::Arguments),
    /// Show what could be rented now, the best first, and why.
    Offers(offers::Arguments),
    /// Print the last lines that a worker wrote.
    Logs(logs::Arguments),
    /// Explain why a worker was rented, what became of it and what it cost; or what was decided.
    Why(why::Arguments),
    /// Rent nothing more, end everything rented, and say what is left.
    StopSpending(stop_spending::Arguments),
    /// Say what a traffic would have cost under a configuration, and how long it would have waited.
    Simulate(simulate::Arguments),
    /// Print a script that completes commands in a shell.
    Completions(completions::Arguments),
}

#[derive(clap::Args)]
struct Source {
    /// Directory with tidegate.yaml and endpoints/*.yaml. Without it: ./conf, else the embedded default.
    #[arg(long, short, env = "TIDEGATE_CONFIG", value_name = "DIR")]
    config: Option<PathBuf>,
}

pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Plan(arguments) => in_runtime(plan::plan(&arguments)),
        Command::Status(arguments) => in_runtime(status::status(&arguments)),
        Command::Ledger(arguments) => in_runtime(ledger::ledger(&arguments)),
        Command::Offers(arguments) => in_runtime(offers::offers(&arguments)),
        Command::Logs(arguments) => in_runtime(logs::logs(&arguments)),
        Command::Why(arguments) => in_runtime(why::why(&arguments)),
        Command::StopSpending(arguments) => in_runtime(stop_spending::stop_spending(&arguments)),
        Command::Simulate(arguments) => exit::end(simulate::simulate(&arguments)),
        Command::Completions(arguments) => {
            completions::completions(&arguments);
            ExitCode::SUCCESS
        }
    }
}

fn in_runtime(command: impl Future<Output = Result<ExitCode, Trouble>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    exit::end(match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(anyhow::Error::from(error).into()),
    })
}

impl Source {
    fn directory(&self) -> Option<PathBuf> {
        let here = PathBuf::from("conf");
        self.config
            .clone()
            .or_else(|| here.join("endpoints").is_dir().then_some(here))
    }

    fn load(&self) -> Result<Config, Mistakes> {
        self.load_with_origin().map(|(config, _)| config)
    }

    /// The configuration, and where to look for its changes; the embedded default has no such place.
    fn load_with_origin(&self) -> Result<(Config, Option<Origin>), Mistakes> {
        let env = |name: &str| std::env::var(name).ok();
        match self.directory() {
            Some(dir) => {
                let files = config::read_files(&dir);
                let config = config::load_files(&files, &env)?;
                Ok((config, Some(Origin { dir, files })))
            }
            None => config::load_embedded(&env).map(|config| (config, None)),
        }
    }
}
