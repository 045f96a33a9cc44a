//! Which workers may take a request at all.

use crate::domain::{Candidate, NoWorker, RoutingSettings};

pub(super) fn may_take(candidate: &Candidate, settings: &RoutingSettings) -> bool {
    candidate.ready
        && !candidate.tried
        && candidate
            .max_concurrency
            .is_none_or(|max| candidate.in_flight < max)
        && within_queue_time(candidate, settings)
}

/// An idle worker is within it however slow: otherwise nobody would ever measure it.
fn within_queue_time(candidate: &Candidate, settings: &RoutingSettings) -> bool {
    candidate.in_flight == 0 && candidate.outstanding.0 <= 0.0
        || candidate.outstanding.0
            <= candidate.speed.0.max(0.0) * settings.max_queue_time.as_secs_f64()
}

pub(super) fn why_none(candidates: &[Candidate]) -> NoWorker {
    let mut ready = candidates.iter().filter(|c| c.ready).peekable();
    if ready.peek().is_none() {
        NoWorker::NoneReady
    } else if ready.all(|c| c.tried) {
        NoWorker::AllTried
    } else {
        NoWorker::AllBusy
    }
}
