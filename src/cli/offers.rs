//! `tidegate offers`

use std::process::ExitCode;

use super::asked::{Asked, open_alone, typed, value};
use super::exit::Trouble;
use super::show::{self, Grid};
use crate::admin::ControlPath;
use crate::domain::{
    Alternative, ChoiceRule, EndpointName, ExcludingFilter, Exclusion, GroupOffers,
};

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
        Some(name) => format!("/offers?explain=1&endpoint={name}"),
        None => "/offers?explain=1".to_owned(),
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
            value(&alone.control_path().offers(wanted.as_ref(), true).await)
        })
        .await?;
    let json = arguments.asked.json.then(|| answer.clone());
    let groups: Vec<GroupOffers> = typed(answer)?;
    match json {
        Some(answer) => show::print_json(&answer),
        None => show::print(&text_of(&groups)),
    }
    let mut silent = groups.iter().filter_map(|group| group.problem.as_ref());
    match silent.next_back() {
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

/// How many there are, and of those that were judged the first `shown`; or why there is none.
pub(super) fn table(group: &GroupOffers, shown: usize) -> String {
    if let Some(problem) = &group.problem {
        return format!("{problem}\n");
    }
    if group.offers.is_empty() {
        let why = group.excluded.as_ref().map(exclusion);
        return format!("no offer fits\n{}", why.unwrap_or_default());
    }
    let count = group.offers.len();
    let what = if count == 1 { "offer" } else { "offers" };
    let judged = &group.choice.alternatives;
    let listed = judged.len().min(shown);
    let more = match count - listed.min(count) {
        0 => String::new(),
        more => format!("    and {more} more, which would come later\n"),
    };
    format!("{count} {what}\n{}{more}", alternatives(&judged[..listed]))
}

/// Which filters keep everything out.
fn exclusion(exclusion: &Exclusion) -> String {
    let mut text = String::new();
    for ExcludingFilter { filter, offers } in &exclusion.by {
        text.push_str(&format!("    without {filter}: {offers} found\n"));
    }
    if exclusion.by.is_empty() && !exclusion.in_vain.is_empty() {
        let all = exclusion.in_vain.join(", ");
        text.push_str(&format!(
            "    several filters together keep everything out: leaving out one of {all} is not enough\n"
        ));
    }
    if !exclusion.untried.is_empty() {
        let untried = exclusion.untried.join(", ");
        text.push_str(&format!("    not tried: {untried}\n"));
    }
    text
}

/// Offers as they were judged, the best first.
pub(super) fn alternatives(judged: &[Alternative]) -> String {
    let mut grid = Grid::new(&[
        "OFFER",
        "GPUS",
        ">$/H",
        "KIND",
        ">TOKENS/S",
        ">$/M TOKENS",
        ">CHANCE",
        "LOCATION",
        "HOST/MACHINE",
        "WHY",
    ]);
    for offer in judged {
        let gpus = match offer.gpu_count {
            0 => String::new(),
            count => format!("{count}x {}", offer.gpu_name),
        };
        let machine = offer.machine.as_ref();
        grid.row([
            offer.offer.to_string(),
            gpus,
            show::price(offer.usd_per_hour),
            kind(offer.interruptible).to_owned(),
            show::speed(offer.tokens_per_second),
            format!("{:.3}", offer.usd_per_million_tokens),
            format!("{:.0}%", offer.chance * 100.0),
            offer.location.clone(),
            machine.map_or_else(String::new, |key| format!("{}/{}", key.host, key.machine)),
            offer
                .why_not
                .map_or_else(|| "the one to rent".to_owned(), |why| why.to_string()),
        ]);
    }
    grid.indented(4)
}

/// What decided, in words.
pub(super) fn rule(rule: ChoiceRule) -> &'static str {
    match rule {
        ChoiceRule::NoDifference => "the market does not tell machines apart",
        ChoiceRule::CheapestPerToken => "least expected dollars a token",
        ChoiceRule::Explored => "drawn, to learn what such machines do",
        ChoiceRule::LeastObjection => "all had something against them; the least dear of them",
        ChoiceRule::NoneFits => "no offer may be rented",
    }
}

pub(super) fn kind(interruptible: bool) -> &'static str {
    if interruptible {
        "interruptible"
    } else {
        "on demand"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_everything_out_is_told_with_what_would_be_found() {
        let found = Exclusion {
            by: vec![ExcludingFilter {
                filter: "gpu_ram>=80000".into(),
                offers: 12,
            }],
            in_vain: vec!["num_gpus=1".into()],
            untried: Vec::new(),
        };
        assert_eq!(exclusion(&found), "    without gpu_ram>=80000: 12 found\n");
        let none = Exclusion {
            by: Vec::new(),
            ..found
        };
        let text = exclusion(&none);
        assert!(
            text.contains("leaving out one of num_gpus=1 is not enough"),
            "{text}"
        );
    }
}
