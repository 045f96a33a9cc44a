//! Which worker gets a request: least outstanding predicted work over speed, away from full KV caches, towards a
//! prompt's beginning where it is held. One look at every worker; no sampling, no allocation.

pub mod affinity;
mod eligible;
pub mod hold;
mod score;
#[cfg(test)]
mod tests;
pub mod weight;

use crate::domain::{
    Candidate, Choice, Contention, NoWorker, PredictedCost, Preference, RoutingSettings,
};

/// While every worker has less work than this, the one that finishes the request first is better than the one with
/// the least to do.
const SMALL_QUEUE_S: f64 = 0.5;

/// Chooses among `candidates` for a request of predicted work `cost`. Equal scores go to the first candidate, so a
/// table ordered by worker id breaks ties by id. The candidates are looked at twice where the best score alone does
/// not decide.
pub fn choose_worker<C>(
    cost: &PredictedCost,
    candidates: C,
    settings: &RoutingSettings,
    contention: Contention,
) -> Result<Choice, NoWorker>
where
    C: Iterator<Item = Candidate> + Clone,
{
    let eligible = candidates
        .clone()
        .filter(|candidate| eligible::may_take(candidate, cost, settings, contention));
    let Some(survey) = Survey::of(cost, eligible.clone()) else {
        return Err(eligible::why_none(candidates));
    };
    let rule = match settings.prefer {
        Preference::Cost => Rule::Cheapest,
        Preference::Latency if survey.all_small => Rule::FirstToFinish,
        Preference::Latency if survey.any_held => Rule::LeastScore,
        Preference::Latency => return Ok(survey.least),
    };
    Ok(pick(rule, cost, eligible, &survey, settings).unwrap_or(survey.least))
}

/// What one look at all eligible workers tells.
struct Survey {
    /// Without regard to what is held.
    least: Choice,
    all_small: bool,
    any_held: bool,
}

impl Survey {
    fn of(cost: &PredictedCost, eligible: impl Iterator<Item = Candidate>) -> Option<Self> {
        let mut survey: Option<Self> = None;
        for candidate in eligible {
            let choice = choice(&candidate, score::done_s(&candidate, cost));
            let small = score::queue_s(&candidate) < SMALL_QUEUE_S;
            let held = candidate.prefix_held > 0.0;
            match &mut survey {
                None => {
                    survey = Some(Self {
                        least: choice,
                        all_small: small,
                        any_held: held,
                    });
                }
                Some(survey) => {
                    if choice.score_s < survey.least.score_s {
                        survey.least = choice;
                    }
                    survey.all_small &= small;
                    survey.any_held |= held;
                }
            }
        }
        survey
    }
}

#[derive(Clone, Copy)]
enum Rule {
    LeastScore,
    FirstToFinish,
    Cheapest,
}

/// `None` if nobody is eligible any more: loads change between two looks.
fn pick(
    rule: Rule,
    cost: &PredictedCost,
    eligible: impl Iterator<Item = Candidate>,
    survey: &Survey,
    settings: &RoutingSettings,
) -> Option<Choice> {
    let bound_s = survey.least.score_s + settings.affinity.bound.as_secs_f64();
    let mut best: Option<((i32, f64), Choice)> = None;
    for candidate in eligible {
        let done_s = score::done_s(&candidate, cost);
        // What a worker holds never outweighs being busier than the least busy by more than the bound.
        let saved_s = if done_s <= bound_s {
            score::saved_s(&candidate, cost)
        } else {
            0.0
        };
        let score_s = done_s - saved_s;
        let key = match rule {
            Rule::LeastScore => (0, score_s),
            Rule::FirstToFinish => (0, score::finish_s(&candidate, cost) - saved_s),
            Rule::Cheapest if score::meets(&candidate, cost, &settings.latency_aim) => {
                (score::price_step(&candidate), score_s)
            }
            Rule::Cheapest => (i32::MAX, score_s),
        };
        if best.as_ref().is_none_or(|(least, _)| key < *least) {
            best = Some((key, choice(&candidate, score_s)));
        }
    }
    best.map(|(_, choice)| choice)
}

fn choice(candidate: &Candidate, score_s: f64) -> Choice {
    Choice {
        slot: candidate.slot,
        score_s,
        in_flight: candidate.in_flight,
        outstanding: candidate.outstanding,
    }
}
