//! `tidegate run`

use std::process::ExitCode;

use super::Source;
use crate::{app, telemetry};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Take over from the gateway that runs on the same state directory, without losing a request: its listening
    /// sockets, its workers, then its ledger. A plain start if there is none.
    #[arg(long)]
    upgrade: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let source = &arguments.source;
    let (config, origin) = match source.load_with_origin() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = telemetry::init_logging(&config.server.log) {
        eprintln!("log: {error}");
        return ExitCode::FAILURE;
    }
    match app::run(config, origin, arguments.upgrade) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
