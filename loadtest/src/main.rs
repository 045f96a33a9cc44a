//! The command line of the measuring side.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::capacity::CapacityCommand;
use loadtest::compare::CompareCommand;
use loadtest::compare::routing::RoutingCompareCommand;
use loadtest::growth::GrowthCommand;
use loadtest::replay::command::ReplayCommand;
use loadtest::routing::RoutingCommand;
use loadtest::scaling::ScalingCommand;
use loadtest::scenario::ScenarioCommand;
use loadtest::soak::SoakCommand;
use rustix::process::{Resource, getrlimit, setrlimit};

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
    CompareRouting(RoutingCompareCommand),
    Soak(SoakCommand),
    Growth(GrowthCommand),
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
        Command::CompareRouting(command) => command.execute().await,
        Command::Soak(command) => command.execute().await,
        Command::Growth(command) => command.execute().await,
        Command::Capacity(command) => command.execute().await,
        Command::Routing(command) => command.execute().await,
        Command::Scaling(command) => command.execute(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        ExitCode::from(2)
    })
}

/// Thousands of open streams need more than the usual soft limit. Children inherit it.
fn raise_open_files_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Not being allowed to is no error: small loads need no more.
    let _ = setrlimit(Resource::Nofile, limit);
}
