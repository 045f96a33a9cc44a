//! `tidegate why`

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value;

use super::asked::{Asked, decisions_path, open_ledger, typed, value};
use super::exit::Trouble;
use super::{ledger, offers, plan, show};
use crate::admin;
use crate::domain::{OfferChoice, Usd, UsdPerHour};
use crate::ledger::RentalStory;
use crate::policy::offers::bid::{BidRecord, BidStep};
use crate::policy::scaling::DecisionRecord;
use crate::telemetry::find_decisions;

/// Offers shown of each choice of a decision.
const OFFERS_SHOWN: usize = 5;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A worker, running or long gone; an endpoint, for its last decision; or a decision by its time, in milliseconds since
    /// 1970, as `why WORKER` and /decisions name it.
    #[arg(value_name = "WORKER|ENDPOINT|DECISION")]
    subject: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Deserialize)]
struct Explanation {
    worker: Option<RentalStory>,
    decisions: Vec<Decision>,
    #[serde(default)]
    limits: Vec<String>,
}

/// A line of the decision log.
#[derive(Deserialize)]
#[serde(untagged)]
enum Decision {
    Scaling(Box<DecisionRecord>),
    Bid(Box<BidRecord>),
}

pub(super) async fn why(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    let subject = &arguments.subject;
    let answer = arguments
        .asked
        .answer(&format!("/why/{subject}"), async |config| {
            let ledger = open_ledger(config)?;
            let path = decisions_path(config);
            let found = admin::explain(&ledger, subject, |at| find_decisions(&path, at))?;
            let found = found
                .ok_or_else(|| Trouble::No(format!("{subject} is no rental and no decision")))?;
            value(&found)
        })
        .await?;
    if arguments.asked.json {
        show::print_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    show::print(&text_of(subject, &typed(answer)?));
    Ok(ExitCode::SUCCESS)
}

fn text_of(subject: &str, explanation: &Explanation) -> String {
    let mut text = String::new();
    if let Some(story) = &explanation.worker {
        text.push_str(&story_text(story));
    }
    for decision in &explanation.decisions {
        text.push_str(&match decision {
            Decision::Scaling(decision) => decision_text(decision, explanation.worker.is_none()),
            Decision::Bid(record) => bid_text(record),
        });
    }
    for limit in &explanation.limits {
        text.push_str(&format!("nothing more is rented: {limit}\n"));
    }
    if text.is_empty() {
        return format!("nothing was decided for {subject} since the gateway started\n");
    }
    text
}

fn story_text(story: &RentalStory) -> String {
    let rental = &story.rental;
    let mut text = format!(
        "{}: {}, endpoint {}, group {}, {}/h\n",
        rental.worker,
        ledger::state(rental.state),
        rental.endpoint,
        rental.group,
        show::price(rental.usd_per_hour),
    );
    if let Some(spent) = &story.spent {
        let usd = |usd| show::dollars(Usd(usd));
        text.push_str(&format!(
            "  cost {}: serving {}, idle {}, cold start {}, storage {}, traffic {}\n",
            usd(spent.total),
            usd(spent.serving),
            usd(spent.idle),
            usd(spent.cold_start),
            usd(spent.storage),
            usd(spent.traffic),
        ));
    }
    if let Some(choice) = &story.choice {
        text.push_str(&choice_text(choice));
    }
    text.push_str("  history\n");
    for event in &story.history {
        let reason = match event.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        text.push_str(&format!(
            "    {}  {}{reason}\n",
            show::moment(event.at),
            event.state
        ));
    }
    text
}

fn choice_text(choice: &Value) -> String {
    match OfferChoice::deserialize(choice) {
        Ok(choice) => format!(
            "  rented {}\n{}",
            plan::taken(&choice),
            offers::alternatives(&choice.alternatives)
        ),
        // Kept by another version.
        Err(_) => format!("  chosen from offers: {choice}\n"),
    }
}

fn bid_text(record: &BidRecord) -> String {
    let (bid, known) = (&record.bid, |price: Option<UsdPerHour>| {
        price.map_or("unknown".to_owned(), show::price)
    });
    let step = match record.step {
        BidStep::Keep => "kept".to_owned(),
        BidStep::MoveOn => "given up".to_owned(),
        BidStep::Raise { to, why } => format!("raised to {}: {}", show::price(to), why.as_str()),
    };
    format!(
        "bid of {} for {} at {}: {step}; {} bid, {} the least that wins, {} on demand\n",
        record.endpoint,
        record.worker,
        show::moment(record.at),
        show::price(bid.bid),
        known(bid.least),
        known(bid.on_demand),
    )
}

/// `offers`: with those that were judged; a worker's story has its own.
fn decision_text(decision: &DecisionRecord, offers: bool) -> String {
    let snapshot = &decision.inputs.snapshot;
    let ready = snapshot
        .workers
        .iter()
        .filter(|worker| worker.phase.is_ready())
        .count();
    let mut text = format!(
        "decision {} of {} for {}\n  {} tokens/s wanted for a load of {}; {} of {} workers ready, {} requests waited\n",
        decision.at.as_millis(),
        show::moment(decision.at),
        snapshot.endpoint,
        show::speed(decision.plan.wanted),
        show::speed(decision.plan.predicted_load),
        ready,
        snapshot.workers.len(),
        snapshot.waiting.requests,
    );
    for planned in &decision.plan.actions {
        text.push_str(&format!("  {}: {}\n", plan::order(planned), planned.reason));
    }
    for choice in &decision.choices {
        text.push_str(&format!("  {}: {}\n", choice.group, plan::taken(choice)));
        if offers {
            let shown = choice.alternatives.len().min(OFFERS_SHOWN);
            text.push_str(&offers::alternatives(&choice.alternatives[..shown]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{
        Alternative, ChoiceRule, GroupName, Offer, OfferId, TokensPerSecond, UsdPerHour, WhyNot,
    };

    fn story() -> RentalStory {
        serde_json::from_value(json!({
            "rental": {"worker": "small-a-0", "endpoint": "chat", "group": "small", "state": "ended", "instance": "1",
                       "usd_per_hour": 0.4, "intended_at": 5, "ended_at": 9_000, "reason": "idle"},
            "history": [{"at": 5, "worker": "small-a-0", "state": "intended", "reason": "2 requests wait"},
                        {"at": 9_000, "worker": "small-a-0", "state": "ended", "reason": "idle"}],
            "spent": {"key": "small-a-0", "rentals": 1, "total": 0.5, "gpu": 0.5, "storage": 0.0, "traffic": 0.0,
                      "serving": 0.3, "idle": 0.1, "cold_start": 0.1, "corrections": 0.0},
            "choice": null,
        }))
        .expect("a story")
    }

    #[test]
    fn a_workers_story_is_told_from_its_reason_to_its_end_with_what_it_cost() {
        let explanation = Explanation {
            worker: Some(story()),
            decisions: Vec::new(),
            limits: Vec::new(),
        };
        let text = text_of("small-a-0", &explanation);
        for part in [
            "small-a-0: ended, endpoint chat",
            "cost $0.5000: serving $0.3000",
            "1970-01-01 00:00:00  intended: 2 requests wait",
            "1970-01-01 00:00:09  ended: idle",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn why_a_worker_was_rented_is_told_with_the_best_of_the_others_and_what_spoke_against_them() {
        let offer = |id: &str, price| Offer::plain(OfferId::new(id), UsdPerHour(price));
        let judged = |offer: &Offer, why_not| Alternative {
            why_not,
            ..Alternative::plain(offer, TokensPerSecond(100.0))
        };
        let choice = OfferChoice {
            group: GroupName::new("small"),
            rule: ChoiceRule::CheapestPerToken,
            chosen: Some(OfferId::new("o1")),
            draw: None,
            offers: 2,
            too_dear: None,
            alternatives: vec![
                judged(&offer("o1", 0.36), None),
                judged(&offer("o2", 0.72), Some(WhyNot::Dearer { times: 2.0 })),
            ],
        };
        let explanation = Explanation {
            worker: Some(RentalStory {
                choice: Some(serde_json::to_value(&choice).expect("JSON")),
                ..story()
            }),
            decisions: Vec::new(),
            limits: Vec::new(),
        };
        let text = text_of("small-a-0", &explanation);
        let line = |id: &str| {
            let mut lines = text.lines().map(str::trim_start);
            lines.rfind(|line| line.starts_with(id))
        };
        assert!(
            line("o1")
                .is_some_and(|line| line.contains("1.000") && line.contains("the one to rent")),
            "{text}"
        );
        assert!(
            line("o2")
                .is_some_and(|line| line.contains("2.000") && line.contains("2.00 times as dear")),
            "{text}"
        );
    }

    #[test]
    fn an_endpoint_for_which_nothing_was_decided_says_so() {
        let explanation = Explanation {
            worker: None,
            decisions: Vec::new(),
            limits: Vec::new(),
        };
        assert!(text_of("chat", &explanation).contains("nothing was decided for chat"));
    }

    #[test]
    fn an_endpoint_that_a_limit_keeps_from_renting_says_which() {
        let explanation = Explanation {
            worker: None,
            decisions: Vec::new(),
            limits: vec!["the cheapest fitting offer does not fit".into()],
        };
        let text = text_of("chat", &explanation);
        assert_eq!(
            text,
            "nothing more is rented: the cheapest fitting offer does not fit\n"
        );
    }
}
