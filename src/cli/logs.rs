//! `tidegate logs`

use std::process::ExitCode;

use super::ask::{Gateway, NoAnswer};
use super::asked::{Asked, open_alone};
use super::exit::Trouble;
use super::show;
use crate::admin::{self, ControlPath, NoLogs};
use crate::config::Config;
use crate::domain::WorkerId;

#[derive(clap::Args)]
pub(super) struct Arguments {
    worker: String,
    /// How many, counted from the end.
    #[arg(long, short = 'n', default_value_t = 100, value_name = "NUMBER")]
    lines: u32,
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn logs(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let (worker, lines) = (&arguments.worker, arguments.lines);
    let text = text_of(arguments).await?;
    if arguments.asked.json {
        let lines: Vec<&str> = text.lines().collect();
        show::print_json(&serde_json::json!({"worker": worker, "lines": lines}));
    } else {
        show::print(&text);
    }
    if text.is_empty() {
        eprintln!("{worker} wrote nothing yet (of at most {lines} lines)");
    }
    Ok(ExitCode::SUCCESS)
}

async fn text_of(arguments: &Arguments) -> Result<String, Trouble> {
    let path = format!("/logs/{}?lines={}", arguments.worker, arguments.lines);
    if let Some(url) = &arguments.asked.admin {
        return Ok(Gateway::at(url)?.text(&path).await?);
    }
    let read = arguments.asked.read()?;
    match Gateway::at(&read.url)?.text(&path).await {
        Ok(text) => Ok(text),
        Err(NoAnswer::NotRunning(_)) => alone(&read.config?, arguments).await,
        Err(why) => Err(why.into()),
    }
}

async fn alone(config: &Config, arguments: &Arguments) -> Result<String, Trouble> {
    let alone = open_alone(config)?;
    alone.look().await?;
    let worker = WorkerId::new(&arguments.worker);
    let asked = alone.control_path().logs(&worker, arguments.lines).await;
    asked.map_err(|why| match why {
        NoLogs::Unknown => Trouble::No(admin::no_logs(&alone.ledger, &worker)),
        NoLogs::Failed(why) => Trouble::Unreachable(why),
    })
}
