//! Whole stories: the real gateway with stand-in workers under a real trace, told as a document with figures.

mod scaling;
mod story;
mod tracking;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Play a story against the real programs and write down what was seen.
#[derive(Debug, Args)]
pub struct ScenarioCommand {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    Scaling(scaling::ScalingCommand),
    Tracking(tracking::TrackingCommand),
}

impl ScenarioCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        match self.scenario {
            Scenario::Scaling(command) => command.execute().await,
            Scenario::Tracking(command) => command.execute().await,
        }
    }
}
