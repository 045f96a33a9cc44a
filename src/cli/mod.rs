//! The command line, one file a command.

mod check;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::Origin;
use crate::config::{self, Config, Mistakes};

#[derive(Parser)]
#[command(name = "tidegate", version, about, max_term_width = 100)]
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
    }
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
