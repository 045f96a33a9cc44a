//! `tidegate check`

use std::process::ExitCode;

use super::Source;

pub(super) fn check(source: &Source) -> ExitCode {
    match source.load() {
        Ok(config) => {
            let names: Vec<_> = config
                .endpoints
                .iter()
                .map(|endpoint| endpoint.name.to_string())
                .collect();
            println!("ok: {}", names.join(", "));
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            eprintln!("{mistakes}");
            ExitCode::FAILURE
        }
    }
}
