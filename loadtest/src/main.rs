//! The command line of the measuring side.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::capacity::CapacityCommand;
use loadtest::choice::ChoiceCommand;
use loadtest::compare::CompareCommand;
use loadtest::replay::command::ReplayCommand;
use loadtest::routing::RoutingCommand;
use loadtest::scaling::ScalingCommand;
use loadtest::scenario::ScenarioCommand;
use loadtest::soak::SoakCommand;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A proxy has two for each of 9,000 streams, a measuring side that is client and worker too.
const OPEN_FILES: u64 = 65_536;

/// Load, scenarios and benchmarks for Tidegate.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(ReplayCommand),
    Scenario(ScenarioCommand),
    Compare(CompareCommand),
    Soak(SoakCommand),
    BenchChoice(ChoiceCommand),
    Capacity(CapacityCommand),
    Routing(RoutingCommand),
    Scaling(ScalingCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    raise_open_files_limit();
    let result = match Arguments::parse().command {
        Command::Replay(command) => command.execute().await,
        Command::Scenario(command) => command.execute().await,
        Command::Compare(command) => command.execute(),
        Command::Soak(command) => command.execute().await,
        Command::BenchChoice(command) => command.execute(),
        Command::Capacity(command) => command.execute().await,
        Command::Routing(command) => command.execute().await,
        Command::Scaling(command) => command.execute(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        ExitCode::from(2)
    })
}

/// Thousands of open streams need more than the usual limits. Children inherit them.
fn raise_open_files_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    // Only root may go beyond the maximum, and may not need to.
    if limit.maximum.is_some_and(|maximum| maximum < OPEN_FILES)
        && setrlimit(Resource::Nofile, more).is_ok()
    {
        return;
    }
    limit.current = limit.maximum;
    // Not being allowed to is no error: small loads need no more.
    let _ = setrlimit(Resource::Nofile, limit);
}
