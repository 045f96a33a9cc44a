//! `tidegate check`

use std::process::ExitCode;

use super::Source;
use crate::config;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Print every setting as JSON, defaults included; what came from the environment is not shown.
    #[arg(long)]
    show: bool,
}

pub(super) fn check(arguments: &Arguments) -> ExitCode {
    let source = &arguments.source;
    let said = source.load().and_then(|config| {
        if arguments.show {
            let env = |name: &str| std::env::var(name).ok();
            let summary = config::redacted_summary(source.directory().as_deref(), &env)?;
            return Ok(format!("{summary:#}"));
        }
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        let names = config
            .endpoints
            .iter()
            .map(|endpoint| endpoint.name.as_str());
        Ok(format!("ok: {}", names.collect::<Vec<_>>().join(", ")))
    });
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            eprintln!("{mistakes}");
            ExitCode::FAILURE
        }
    }
}
