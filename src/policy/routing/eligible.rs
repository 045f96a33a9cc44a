//! Which workers may take a request at all.

use crate::domain::{Candidate, Contention, NoWorker, PredictedCost, RoutingSettings};

/// A KV cache believed fuller than this takes no more.
const KV_FULL: f64 = 0.98;

pub(super) fn may_take(
    candidate: &Candidate,
    cost: &PredictedCost,
    settings: &RoutingSettings,
    contention: Contention,
) -> bool {
    is_available(candidate)
        && !candidate.tried
        && candidate
            .max_concurrency
            .is_none_or(|max| candidate.in_flight < max)
        && (is_idle(candidate)
            || within_queue_time(candidate, settings)
                && has_kv_room(candidate, cost)
                && (contention == Contention::Alone || reads_soon(candidate, settings)))
}

/// Idle workers may take anything, however slow or small: otherwise nobody would ever measure them.
fn is_idle(candidate: &Candidate) -> bool {
    candidate.in_flight == 0 && candidate.outstanding.0 <= 0.0
}

fn within_queue_time(candidate: &Candidate, settings: &RoutingSettings) -> bool {
    candidate.outstanding.0 <= candidate.speed.0.max(0.0) * settings.max_queue_time.as_secs_f64()
}

/// What was sent is read in the engine's order, whoever sent it; what waits here is fair. So little is sent ahead.
fn reads_soon(candidate: &Candidate, settings: &RoutingSettings) -> bool {
    let most_s = settings.max_prompts_ahead.as_secs_f64();
    most_s <= 0.0 || candidate.prefilling.0 <= candidate.speed.0.max(0.0) * most_s
}

fn has_kv_room(candidate: &Candidate, cost: &PredictedCost) -> bool {
    candidate
        .kv
        .is_none_or(|kv| kv.used + super::hold::kv_of(cost) <= kv.capacity * KV_FULL)
}

/// Ready and not ejected.
fn is_available(candidate: &Candidate) -> bool {
    candidate.ready && candidate.weight > 0.0
}

pub(super) fn why_none(candidates: impl Iterator<Item = Candidate>) -> NoWorker {
    let mut reason = NoWorker::NoneReady;
    for candidate in candidates.filter(|candidate| candidate.ready) {
        if is_available(&candidate) && !candidate.tried {
            return NoWorker::AllBusy;
        }
        if is_available(&candidate) {
            reason = NoWorker::AllTried;
        } else if reason == NoWorker::NoneReady {
            reason = NoWorker::AllBusy;
        }
    }
    reason
}
