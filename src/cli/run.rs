//! `tidegate run`

use std::process::ExitCode;

use super::Source;
use crate::{app, telemetry};

pub(super) fn run(source: &Source) -> ExitCode {
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
    match app::run(config, origin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
