//! `tidegate ledger`

use std::process::ExitCode;

use clap::ValueEnum;

use super::asked::{Asked, open_ledger, typed, value};
use super::exit::Trouble;
use super::show::{self, Grid};
use crate::domain::{Day, Rental, RentalState, Usd};
use crate::ledger::{SpendBy, SpendReport, SpendRow};
use crate::telemetry::now;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
    /// What sums are made by.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// The first day (2026-11-25, UTC), or how many days back (7d; 0d is today).
    #[arg(long, value_name = "DAY", value_parser = day)]
    since: Option<Day>,
    /// List the latest rentals instead of sums.
    #[arg(long, conflicts_with_all = ["by", "since"])]
    rentals: bool,
    /// How many rentals.
    #[arg(
        long,
        default_value_t = 100,
        requires = "rentals",
        value_name = "NUMBER"
    )]
    limit: u32,
    /// Print comma-separated values instead of tables, in full precision.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Day,
    Endpoint,
    /// Host and machine, as the market names them.
    Host,
    /// Each rental.
    Worker,
}

impl By {
    fn spend(self) -> (SpendBy, &'static str) {
        match self {
            By::Day => (SpendBy::Day, "day"),
            By::Endpoint => (SpendBy::Endpoint, "endpoint"),
            By::Host => (SpendBy::Host, "host"),
            By::Worker => (SpendBy::Worker, "worker"),
        }
    }
}

pub(super) async fn ledger(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    if arguments.rentals {
        return rentals(arguments).await;
    }
    let (by, name) = arguments.by.spend();
    let since = arguments.since;
    let after = since.map_or(String::new(), |day| format!("&since={day}"));
    let answer = arguments
        .asked
        .answer(&format!("/spend?by={name}{after}"), async |config| {
            value(&open_ledger(config)?.spend_report(by, since)?)
        })
        .await?;
    if arguments.asked.json {
        show::print_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let report: SpendReport = typed(answer)?;
    show::print(&match arguments.csv {
        true => spend_csv(name, &report),
        false => spend_text(name, &report),
    });
    Ok(ExitCode::SUCCESS)
}

async fn rentals(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let limit = arguments.limit;
    let answer = arguments
        .asked
        .answer(&format!("/rentals?limit={limit}"), async |config| {
            value(&open_ledger(config)?.recent(limit)?)
        })
        .await?;
    if arguments.asked.json {
        show::print_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let rentals: Vec<Rental> = typed(answer)?;
    show::print(&match arguments.csv {
        true => rentals_csv(&rentals),
        false => rentals_text(&rentals),
    });
    Ok(ExitCode::SUCCESS)
}

/// A date, or a number of days back from today.
fn day(text: &str) -> Result<Day, String> {
    let Some(back) = text.strip_suffix('d').and_then(|days| days.parse().ok()) else {
        return text
            .parse()
            .map_err(|error| format!("{error}, and not as 7d"));
    };
    let first = Day::of(now()).0.checked_sub(back);
    first.map(Day).ok_or_else(|| "too long ago".to_owned())
}

fn spend_text(name: &str, report: &SpendReport) -> String {
    if report.rows.is_empty() {
        return "nothing was spent\n".into();
    }
    let title = name.to_uppercase();
    let mut grid = Grid::new(&[
        &title,
        ">RENTALS",
        ">TOTAL",
        ">GPU",
        ">STORAGE",
        ">TRAFFIC",
        ">SERVING",
        ">IDLE",
        ">COLD START",
        ">CORRECTED",
    ]);
    for row in report.rows.iter().chain([&report.total]) {
        let usd = |usd: f64| show::dollars(Usd(usd));
        grid.row([
            row.key.clone(),
            row.rentals.to_string(),
            usd(row.total),
            usd(row.gpu),
            usd(row.storage),
            usd(row.traffic),
            usd(row.serving),
            usd(row.idle),
            usd(row.cold_start),
            usd(row.corrections),
        ]);
    }
    grid.indented(0)
}

fn spend_csv(name: &str, report: &SpendReport) -> String {
    let mut text = format!(
        "{name},rentals,total_usd,gpu_usd,storage_usd,traffic_usd,serving_usd,idle_usd,cold_start_usd,corrections_usd\n"
    );
    for row in &report.rows {
        text.push_str(&spend_line(row));
    }
    text
}

fn spend_line(row: &SpendRow) -> String {
    let sums = [
        row.total,
        row.gpu,
        row.storage,
        row.traffic,
        row.serving,
        row.idle,
        row.cold_start,
        row.corrections,
    ];
    let sums: Vec<String> = sums.iter().map(f64::to_string).collect();
    format!("{},{},{}\n", quoted(&row.key), row.rentals, sums.join(","))
}

fn rentals_text(rentals: &[Rental]) -> String {
    if rentals.is_empty() {
        return "nothing was ever rented\n".into();
    }
    let mut grid = Grid::new(&[
        "WORKER", "ENDPOINT", "GROUP", "STATE", "INSTANCE", ">$/H", "RENTED", "ENDED", "BECAUSE",
    ]);
    for rental in rentals {
        grid.row([
            rental.worker.to_string(),
            rental.endpoint.to_string(),
            rental.group.to_string(),
            state(rental.state).to_owned(),
            rental
                .instance
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            show::price(rental.usd_per_hour),
            show::moment(rental.intended_at),
            rental.ended_at.map_or_else(String::new, show::moment),
            show::short(&rental.reason, 60),
        ]);
    }
    grid.indented(0)
}

fn rentals_csv(rentals: &[Rental]) -> String {
    let mut text =
        "worker,endpoint,group,state,instance,usd_per_hour,intended_at_ms,ended_at_ms,reason\n"
            .to_owned();
    for rental in rentals {
        let instance = rental
            .instance
            .as_ref()
            .map_or("", |instance| instance.as_str());
        let ended = rental
            .ended_at
            .map_or_else(String::new, |at| at.as_millis().to_string());
        let cells = [
            rental.worker.as_str(),
            rental.endpoint.as_str(),
            rental.group.as_str(),
            state(rental.state),
            instance,
            &rental.usd_per_hour.0.to_string(),
            &rental.intended_at.as_millis().to_string(),
            &ended,
            &rental.reason,
        ];
        text.push_str(&cells.map(quoted).join(","));
        text.push('\n');
    }
    text
}

pub(super) fn state(state: RentalState) -> &'static str {
    match state {
        RentalState::Intended => "intended",
        RentalState::Rented => "rented",
        RentalState::Ended => "ended",
    }
}

/// A cell as RFC 4180 has it.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EndpointName, GroupName, Timestamp, UsdPerHour, WorkerId};

    fn row(key: &str, total: f64) -> SpendRow {
        SpendRow {
            key: key.into(),
            rentals: 1,
            total,
            gpu: total,
            serving: total,
            ..SpendRow::default()
        }
    }

    fn report(rows: Vec<SpendRow>) -> SpendReport {
        let total = row("total", rows.iter().map(|row| row.total).sum());
        SpendReport {
            by: SpendBy::Day,
            since: None,
            rows,
            total,
        }
    }

    #[test]
    fn spending_is_shown_a_row_each_and_summed_up() {
        let text = spend_text(
            "day",
            &report(vec![row("2026-11-24", 1.5), row("2026-11-25", 0.25)]),
        );
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][..3], ["DAY", "RENTALS", "TOTAL"]);
        assert_eq!(lines[2][..3], ["2026-11-25", "1", "$0.2500"]);
        assert_eq!(lines[3][..3], ["total", "1", "$1.75"]);
        assert_eq!(
            spend_text("day", &report(Vec::new())),
            "nothing was spent\n"
        );
    }

    #[test]
    fn values_for_other_programs_keep_their_precision_and_have_no_sum() {
        let text = spend_csv("host", &report(vec![row("7/12", 0.123_456_789)]));
        assert_eq!(
            text.lines().nth(1),
            Some("7/12,1,0.123456789,0.123456789,0,0,0.123456789,0,0,0")
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_reason_with_a_comma_is_one_cell() {
        let rental = Rental {
            worker: WorkerId::new("w1"),
            endpoint: EndpointName::new("chat"),
            group: GroupName::new("small"),
            state: RentalState::Ended,
            instance: None,
            usd_per_hour: UsdPerHour(0.4),
            intended_at: Timestamp::from_millis(5),
            ended_at: Some(Timestamp::from_millis(9)),
            reason: "said \"no\", twice".into(),
        };
        let text = rentals_csv(&[rental]);
        assert!(
            text.ends_with("w1,chat,small,ended,,0.4,5,9,\"said \"\"no\"\", twice\"\n"),
            "{text}"
        );
    }

    #[test]
    fn a_first_day_is_a_date_or_so_many_days_back() {
        assert_eq!(day("1970-01-02"), Ok(Day(1)));
        let (today, before) = (day("0d").expect("today"), day("7d").expect("a day"));
        assert_eq!(today.0 - before.0, 7);
        for wrong in ["yesterday", "2026-02-30", "-d", "999999999d"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
