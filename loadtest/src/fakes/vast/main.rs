//! `fake-vast`: a market that behaves like Vast.ai, as a process.

use std::process::ExitCode;

use clap::Parser;
use loadtest::fakes::vast::Args;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("seed {}", args.seed());
    let fake = args.start().await?;
    println!("listening on {}", fake.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // With it all its containers end.
    drop(fake);
    Ok(())
}
