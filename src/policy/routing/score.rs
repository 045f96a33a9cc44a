//! What a choice would cost in time and money.

use super::hold::kv_of;
use crate::domain::{Candidate, LatencyAim, PredictedCost};

/// A worker believed to do less than this is scored as if it did this much, so that scores stay finite.
const SPEED_FLOOR: f64 = 1e-3;
/// A KV cache that would be fuller than this is worth avoiding ...
const KV_KNEE: f64 = 0.90;
/// ... at so many seconds for being full: a preempted request is computed again from its start.
const KV_PENALTY_S: f64 = 5.0;
/// Prices a token within a tenth of each other count as equal.
const PRICE_STEP: f64 = 0.1;

/// Seconds of work a worker holds.
pub(super) fn queue_s(candidate: &Candidate) -> f64 {
    candidate.outstanding.0.max(0.0) / usable_speed(candidate)
}

/// Seconds until the worker has done what it holds and the request: least work left, normalised by speed.
pub(super) fn done_s(candidate: &Candidate, cost: &PredictedCost) -> f64 {
    let work = candidate.outstanding.0.max(0.0) + cost.total.0.max(0.0);
    work / usable_speed(candidate) + kv_penalty_s(candidate, cost)
}

/// What the worker saves by the part of the prompt it holds.
pub(super) fn saved_s(candidate: &Candidate, cost: &PredictedCost) -> f64 {
    candidate.prefix_held.clamp(0.0, 1.0) * prompt_work(cost) / usable_speed(candidate)
}

/// Seconds until the request's last token, prompts first and then one token an iteration. Prefers fast workers while
/// nobody has much to do.
pub(super) fn finish_s(candidate: &Candidate, cost: &PredictedCost) -> f64 {
    let prompts = candidate.prefilling.0.max(0.0) + prompt_work(cost);
    let weight = candidate.weight.clamp(0.0, 1.0).max(SPEED_FLOOR);
    let decode_s = cost.output_tokens.max(1.0) * next_gap_s(candidate) / weight;
    prompts / usable_speed(candidate) + decode_s + kv_penalty_s(candidate, cost)
}

pub(super) fn meets(candidate: &Candidate, cost: &PredictedCost, aim: &LatencyAim) -> bool {
    let prompts = candidate.prefilling.0.max(0.0) + prompt_work(cost);
    let mut wait_s = prompts / usable_speed(candidate);
    if candidate.in_flight >= candidate.full_concurrency {
        wait_s += queue_s(candidate) / f64::from(candidate.full_concurrency.max(1));
    }
    wait_s <= aim.wait.as_secs_f64()
        && next_gap_s(candidate) <= aim.gap.as_secs_f64()
        && kv_penalty_s(candidate, cost) <= 0.0
        && candidate.weight >= 1.0
}

/// The price of a token in steps of a tenth; smaller is cheaper.
pub(super) fn price_step(candidate: &Candidate) -> i32 {
    let price = candidate.usd_per_hour.0.max(0.0) / candidate.speed.0.max(SPEED_FLOOR);
    // Free ones come first.
    (price.max(f64::MIN_POSITIVE).ln() / PRICE_STEP).round() as i32
}

fn usable_speed(candidate: &Candidate) -> f64 {
    (candidate.speed.0 * candidate.weight.min(1.0)).max(SPEED_FLOOR)
}

fn next_gap_s(candidate: &Candidate) -> f64 {
    candidate.gap.at(f64::from(candidate.in_flight) + 1.0)
}

/// Output-equivalent.
fn prompt_work(cost: &PredictedCost) -> f64 {
    (cost.total.0 - cost.output_tokens).max(0.0)
}

fn kv_penalty_s(candidate: &Candidate, cost: &PredictedCost) -> f64 {
    candidate.kv.map_or(0.0, |kv| {
        let fullness = (kv.used + kv_of(cost)) / kv.capacity.max(1.0);
        KV_PENALTY_S * (fullness - KV_KNEE).max(0.0) / (1.0 - KV_KNEE)
    })
}
