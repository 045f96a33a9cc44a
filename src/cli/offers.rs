//! `tidegate offers`

use std::process::ExitCode;

use super::asked::{Asked, open_alone, typed, value};
use super::exit::Trouble;
use super::show::{self, Grid};
use crate::admin::ControlPath;
use crate::domain::{EndpointName, GroupOffers, Hardware};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only those for this endpoint.
    endpoint: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn offers(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let endpoint = arguments.endpoint.as_deref();
    let path = match endpoint {
        Some(name) => format!("/offers?endpoint={name}"),
        None => "/offers".to_owned(),
    };
    let answer = arguments
        .asked
        .answer(&path, async |config| {
            let known = |name: &str| config.endpoints.iter().any(|e| e.name.as_str() == name);
            if let Some(name) = endpoint.filter(|name| !known(name)) {
                return Err(Trouble::No(format!("there is no endpoint {name}")));
            }
            let alone = open_alone(config)?;
            alone.look().await?;
            let wanted = endpoint.map(EndpointName::new);
            value(&alone.control_path().offers(wanted.as_ref()).await)
        })
        .await?;
    let json = arguments.asked.json.then(|| answer.clone());
    let groups: Vec<GroupOffers> = typed(answer)?;
    match json {
        Some(answer) => show::print_json(&answer),
        None => show::print(&text_of(&groups)),
    }
    let silent = groups.iter().filter_map(|group| group.problem.as_ref());
    match silent.last() {
        Some(problem) => Err(Trouble::Unreachable(problem.clone())),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn text_of(groups: &[GroupOffers]) -> String {
    if groups.is_empty() {
        return "nothing is rented here: all workers are given\n".into();
    }
    let texts = groups.iter().map(|group| {
        let head = format!("{}, group {}", group.endpoint, group.group);
        format!("{head}: {}", table(group, usize::MAX))
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// How many there are, and the first `shown` of them, or why there is none.
pub(super) fn table(group: &GroupOffers, shown: usize) -> String {
    if let Some(problem) = &group.problem {
        return format!("{problem}\n");
    }
    if group.offers.is_empty() {
        return "no offer fits\n".into();
    }
    let mut grid = Grid::new(&[
        "OFFER",
        "GPUS",
        ">$/H",
        "KIND",
        ">RELIABLE",
        ">DLPERF",
        "LOCATION",
        "HOST/MACHINE",
    ]);
    for offer in group.offers.iter().take(shown) {
        let of =
            |tell: fn(&Hardware) -> String| offer.hardware.as_ref().map(tell).unwrap_or_default();
        grid.row([
            offer.id.to_string(),
            of(|hardware| format!("{}x {}", hardware.gpu_count, hardware.gpu_name)),
            show::price(offer.usd_per_hour),
            kind(offer.interruptible).to_owned(),
            of(|hardware| format!("{:.1}%", hardware.reliability * 100.0)),
            of(|hardware| format!("{:.1}", hardware.dlperf)),
            of(|hardware| hardware.location.clone()),
            of(|hardware| format!("{}/{}", hardware.machine.host, hardware.machine.machine)),
        ]);
    }
    let count = group.offers.len();
    let what = if count == 1 { "offer" } else { "offers" };
    format!("{count} {what}\n{}", grid.indented(4))
}

pub(super) fn kind(interruptible: bool) -> &'static str {
    if interruptible {
        "interruptible"
    } else {
        "on demand"
    }
}
