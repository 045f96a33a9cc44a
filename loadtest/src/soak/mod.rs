//! `loadtest soak`: what must hold under faults and in bulk, with the real programs. Each part is a program of its own that
//! ends with figures and with complaints where something that must not happen did; short versions are end-to-end tests.

pub mod ask;
mod certificate;
pub mod change;
pub mod leavers;
pub mod noisy;
pub mod real;
pub mod renting;
mod report;
pub mod seam;
mod stage;
pub mod streams;
pub mod told;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use report::Section;
use report::write_all;

/// Hold the gateway to its promises, in bulk and under faults.
#[derive(Debug, Args)]
pub struct SoakCommand {
    /// The part to run [default: all of them, whole]
    #[command(subcommand)]
    part: Option<Part>,
    /// The document that is written when all parts run
    #[arg(long, default_value = "docs/results/soak.md")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Part {
    Seam(seam::SeamOptions),
    Real(real::RealOptions),
    Leavers(leavers::LeaversOptions),
    Streams(streams::StreamsOptions),
    Change(change::ChangeOptions),
    Noisy(noisy::NoisyOptions),
    Leaks(renting::leaks::LeaksOptions),
    Story(renting::story::StoryOptions),
}

impl Part {
    /// Every part as `make soak` runs it.
    fn all() -> Vec<Self> {
        vec![
            Part::Seam(Default::default()),
            Part::Real(Default::default()),
            Part::Leavers(Default::default()),
            Part::Streams(Default::default()),
            Part::Change(Default::default()),
            Part::Noisy(Default::default()),
            Part::Story(Default::default()),
            Part::Leaks(Default::default()),
        ]
    }

    async fn run(self) -> Result<Section> {
        match self {
            Part::Seam(options) => Ok(seam::run(&options).await?.section()),
            Part::Real(options) => Ok(real::run(&options).await?.section()),
            Part::Leavers(options) => Ok(leavers::run(&options).await?.section()),
            Part::Streams(options) => Ok(streams::run(&options).await?.section()),
            Part::Change(options) => Ok(change::run(&options).await?.section()),
            Part::Noisy(options) => Ok(noisy::run(&options).await?.section()),
            Part::Story(options) => Ok(renting::story::run(&options).await?.section()),
            Part::Leaks(options) => Ok(renting::leaks::run(&options).await?.section()),
        }
    }
}

impl SoakCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        let all = self.part.is_none();
        let mut sections = Vec::new();
        for part in self.part.map_or_else(Part::all, |part| vec![part]) {
            let section = part.run().await?;
            println!("{section}");
            sections.push(section);
        }
        if all {
            write_all(&self.out, &sections)?;
            println!("written to {}", self.out.display());
        }
        let held = sections.iter().all(|section| section.complaints.is_empty());
        Ok(if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
