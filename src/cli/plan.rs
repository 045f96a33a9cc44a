//! `tidegate plan`

use std::process::ExitCode;

use super::asked::{Asked, open_alone, typed, value};
use super::exit::{self, Trouble};
use super::{offers, show};
use crate::admin::ControlPath;
use crate::domain::{GroupOffers, OfferChoice, PlanPreview, PlannedAction, Release, ScalingAction};

/// Offers shown of each group.
const OFFERS_SHOWN: usize = 5;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn plan(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let answer = arguments
        .asked
        .answer("/plan?explain=1", async |config| {
            let alone = open_alone(config)?;
            alone.look().await?;
            value(&alone.control_path().preview(true).await)
        })
        .await?;
    let plans: Vec<PlanPreview> = typed(answer)?;
    if arguments.asked.json {
        show::print_json(&plans);
    } else {
        show::print(&text_of(&plans));
    }
    let problems = plans.iter().flat_map(|plan| &plan.offers);
    let silent = problems.filter_map(|group| group.problem.as_ref()).count();
    let limited = plans.iter().any(|plan| plan.refused.is_some());
    Ok(ExitCode::from(match (limited, silent) {
        (true, _) => exit::LIMITED,
        (false, 0) => 0,
        (false, _) => exit::UNREACHABLE,
    }))
}

fn text_of(plans: &[PlanPreview]) -> String {
    if plans.is_empty() {
        return "no endpoint rents: all workers are given\n".into();
    }
    let texts: Vec<String> = plans.iter().map(endpoint_text).collect();
    texts.join("\n")
}

fn endpoint_text(plan: &PlanPreview) -> String {
    let mut text = format!(
        "{} ({})\n  {} tokens/s run, {} start, {} are stopped; {} wanted for a load of {}; {}; {}/h\n",
        plan.endpoint,
        plan.market.as_str(),
        show::speed(plan.running),
        show::speed(plan.starting),
        show::speed(plan.stopped),
        show::speed(plan.wanted),
        show::speed(plan.predicted_load),
        show::requests_wait(plan.waiting_requests),
        show::price(plan.usd_per_hour),
    );
    if let Some(forecast) = &plan.forecast {
        text.push_str(&format!("  {forecast}\n"));
    }
    if plan.actions.is_empty() {
        text.push_str("  nothing to do\n");
        text.push_str(&first_request(plan));
    }
    let mut choices = plan.choices.iter();
    for planned in &plan.actions {
        text.push_str(&format!("  {}: {}\n", order(planned), planned.reason));
        if let ScalingAction::Rent { .. } = planned.action
            && let Some(choice) = choices.next()
        {
            text.push_str(&format!("    {}\n", taken(choice)));
        }
    }
    if let Some(refused) = &plan.refused {
        text.push_str(&format!("  nothing can be rented: {refused}\n"));
    }
    for group in &plan.offers {
        text.push_str(&offers_text(group));
    }
    text
}

/// What the first request would do where nothing runs.
fn first_request(plan: &PlanPreview) -> String {
    let idle = plan.running.0 + plan.starting.0 <= 0.0 && plan.waiting_requests == 0;
    if !idle || plan.refused.is_some() {
        return String::new();
    }
    if plan.stopped.0 > 0.0 {
        return "  a first request would have a stopped worker started\n".into();
    }
    let cost = |choice: &OfferChoice| {
        let best = choice.best();
        best.map_or(f64::INFINITY, |best| best.usd_per_million_tokens)
    };
    let rentable = plan.offers.iter().map(|group| &group.choice);
    let rentable = rentable.filter(|choice| choice.best().is_some());
    match rentable.min_by(|a, b| cost(a).total_cmp(&cost(b))) {
        Some(choice) => format!(
            "  a first request would have one of {} rented\n    {}\n",
            choice.group,
            taken(choice)
        ),
        None => "  a first request would find nothing to rent\n".into(),
    }
}

pub(super) fn order(planned: &PlannedAction) -> String {
    match &planned.action {
        ScalingAction::Rent { group } => format!("rent one of {group}"),
        ScalingAction::Restart { worker } => format!("start {worker} again"),
        ScalingAction::Drain { worker, then } => {
            let then = match then {
                Release::Stop => "stop",
                Release::Destroy => "destroy",
            };
            format!("drain {worker}, then {then} it")
        }
        ScalingAction::CancelDrain { worker } => format!("keep {worker} after all"),
        ScalingAction::Destroy { worker } => format!("destroy {worker}"),
    }
}

/// The offer that would be taken.
pub(super) fn taken(choice: &OfferChoice) -> String {
    let rule = offers::rule(choice.rule);
    match choice.best() {
        Some(best) => format!(
            "by offer {} at {}/h, {} tokens/s expected, ${:.3} a million tokens: {rule}",
            best.offer,
            show::price(best.usd_per_hour),
            show::speed(best.tokens_per_second),
            best.usd_per_million_tokens,
        ),
        None => format!("of {} offers none: {rule}", choice.offers),
    }
}

fn offers_text(group: &GroupOffers) -> String {
    let table = offers::table(group, OFFERS_SHOWN);
    format!("  {}: {table}", group.group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Alternative, ChoiceRule, EndpointName, GroupName, MarketKind, Offer, OfferId, Reason,
        Timestamp, TokensPerSecond, UsdPerHour, WhyNot,
    };

    fn preview(actions: Vec<PlannedAction>, offers: usize) -> PlanPreview {
        let offers: Vec<Offer> = (0..offers)
            .map(|n| Offer::plain(OfferId::new(format!("o{n}")), UsdPerHour(0.2 + n as f64)))
            .collect();
        let judged = offers.iter().map(|offer| Alternative {
            why_not: Some(WhyNot::Dearer { times: 2.0 }),
            ..Alternative::plain(offer, TokensPerSecond(50.0))
        });
        let mut choice = OfferChoice {
            group: GroupName::new("small"),
            rule: ChoiceRule::CheapestPerToken,
            chosen: offers.first().map(|offer| offer.id.clone()),
            draw: None,
            offers: offers.len(),
            alternatives: judged.collect(),
            too_dear: None,
        };
        if let Some(first) = choice.alternatives.first_mut() {
            first.why_not = None;
        }
        PlanPreview {
            endpoint: EndpointName::new("chat"),
            market: MarketKind::Vast,
            at: Timestamp::from_millis(1),
            running: TokensPerSecond(100.0),
            starting: TokensPerSecond::ZERO,
            stopped: TokensPerSecond::ZERO,
            predicted_load: TokensPerSecond(150.0),
            wanted: TokensPerSecond(170.0),
            prepared_wanted: TokensPerSecond(170.0),
            forecast: None,
            waiting_requests: 2,
            usd_per_hour: UsdPerHour(0.3),
            choices: vec![choice.clone()],
            actions,
            refused: None,
            offers: vec![GroupOffers {
                endpoint: EndpointName::new("chat"),
                group: GroupName::new("small"),
                offers,
                choice,
                problem: None,
                excluded: None,
            }],
        }
    }

    #[test]
    fn a_plan_says_what_it_would_rent_why_and_at_what_price() {
        let rent = PlannedAction {
            action: ScalingAction::Rent {
                group: GroupName::new("small"),
            },
            reason: Reason::CapacityBelowWanted {
                have: TokensPerSecond(100.0),
                wanted: TokensPerSecond(170.0),
            },
        };
        let text = text_of(&[preview(vec![rent], 1)]);
        for part in [
            "chat (vast)",
            "rent one of small: 100 of 170",
            "by offer o0 at $0.2000/h, 50 tokens/s expected, $1.111 a million tokens: least expected dollars a token",
            "the one to rent",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn a_plan_without_orders_and_offers_says_so() {
        let text = text_of(&[preview(Vec::new(), 0)]);
        assert!(
            text.contains("nothing to do") && text.contains("no offer fits"),
            "{text}"
        );
        assert!(text_of(&[]).contains("no endpoint rents"));
    }

    #[test]
    fn a_plan_with_nothing_to_do_says_what_a_first_request_would_rent() {
        let idle = |offers| PlanPreview {
            running: TokensPerSecond::ZERO,
            waiting_requests: 0,
            ..preview(Vec::new(), offers)
        };
        let text = text_of(&[idle(2)]);
        assert!(
            text.contains("a first request would have one of small rented"),
            "{text}"
        );
        assert!(
            text.contains("by offer o0 at $0.2000/h, 50 tokens/s expected"),
            "{text}"
        );
        let text = text_of(&[idle(0)]);
        assert!(text.contains("would find nothing to rent"), "{text}");
        let text = text_of(&[preview(Vec::new(), 2)]);
        assert!(!text.contains("first request"), "{text}");
    }

    #[test]
    fn an_offer_that_is_not_taken_says_why() {
        let text = text_of(&[preview(Vec::new(), 2)]);
        assert!(text.contains("2.00 times as dear a token"), "{text}");
    }

    #[test]
    fn more_offers_than_fit_are_counted() {
        let text = text_of(&[preview(Vec::new(), OFFERS_SHOWN + 3)]);
        assert!(text.contains("and 3 more"), "{text}");
    }
}
