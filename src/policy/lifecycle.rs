//! The life of one worker: what each event means in each phase, and what must be done about it.
//!
//! A total function: an event that means nothing in a phase changes nothing. Events that answer an older question (a
//! probe or a listing begun before the last order) must not be sent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    FailureReason, InstanceState, Release, TimeLimits, Timestamp, WorkerEvent, WorkerPhase,
};

/// Failed probes in a row, over `unresponsive` at least, until a worker is given up.
const FAILED_PROBES_MAX: u32 = 3;
/// A call that a later listing shows not to have worked is made again after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The same where no listing says anything. Calls that did work must not crowd out those still to be made.
const RETRY_UNSEEN_AFTER: Duration = Duration::from_secs(60);
/// How long a worker that was just ordered to start may still be listed as stopped; a market that takes longer has
/// probably given the machine to somebody else. At most a quarter of the boot deadline.
const STILL_STOPPED_MAX: Duration = Duration::from_secs(45);

/// What the scaler has to do after a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Start,
    Stop,
    Destroy,
    /// Take what can be taken of its requests to other workers.
    MoveRequests,
    /// Nothing exists any more: end the ledger's line and drop the worker from the table.
    Forget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub phase: WorkerPhase,
    /// What to pass as `since` next time: when the phase began or its effect was last asked for.
    pub since: Timestamp,
    pub effects: Vec<Effect>,
}

/// What `event` does to a worker that is in `phase` since `since`.
pub fn advance(
    phase: WorkerPhase,
    since: Timestamp,
    event: WorkerEvent,
    times: &TimeLimits,
    now: Timestamp,
) -> Transition {
    let stay = Transition {
        phase,
        since,
        effects: Vec::new(),
    };
    let changed = match phase {
        _ if matches!(event, WorkerEvent::EndsSoon | WorkerEvent::GivenUp) => leave(phase, now),
        WorkerPhase::Starting => starting(event, times, now.since(since), now),
        WorkerPhase::Benchmarking => benchmarking(event, times, now.since(since), now),
        WorkerPhase::Ready => ready(event, times, now),
        WorkerPhase::Unhealthy { failed_probes } => {
            unhealthy(event, failed_probes, times, now.since(since), now)
        }
        WorkerPhase::Draining { then, since } => draining(event, then, since, times, now),
        WorkerPhase::Stopping => stopping(event, times, now.since(since), now),
        WorkerPhase::Stopped => stopped(event, times, now),
        WorkerPhase::Failed { reason } => failed(event, reason, now.since(since), now),
        WorkerPhase::Destroying => destroying(event, now.since(since), now),
        WorkerPhase::Gone => None,
    };
    let Some(mut next) = changed else {
        return stay;
    };
    if next.effects.is_empty() && next.phase.as_str() == phase.as_str() {
        next.since = since;
    }
    next
}

/// Whether a rental that ends whatever we do is to be left now: so long before its end that another machine can boot and
/// its streams can end or move.
pub fn ends_soon(ends_at: Timestamp, times: &TimeLimits, now: Timestamp) -> bool {
    now + times.boot + times.drain >= ends_at
}

/// What a market says of a machine that will never start, whatever is waited for.
pub fn cannot_start(message: &str) -> bool {
    const SIGNS: [&str; 8] = [
        "error response from daemon",
        "failed to create",
        "failed to start",
        "manifest unknown",
        "pull access denied",
        "no such image",
        "no space left",
        "oci runtime",
    ];
    let message = message.to_lowercase();
    message.starts_with("error") || SIGNS.iter().any(|sign| message.contains(sign))
}

fn starting(
    event: WorkerEvent,
    times: &TimeLimits,
    waited: Duration,
    now: Timestamp,
) -> Option<Transition> {
    match event {
        WorkerEvent::ProbeSucceeded => to(WorkerPhase::Ready, now),
        WorkerEvent::BenchmarkDue => to(WorkerPhase::Benchmarking, now),
        WorkerEvent::InstanceLasts {
            state: InstanceState::Scheduling,
            since,
        } if now.since(since) >= times.scheduling => fail(FailureReason::NoGpu, now),
        WorkerEvent::Tick | WorkerEvent::ProbeFailed if waited >= times.boot => {
            fail(FailureReason::BootDeadline, now)
        }
        WorkerEvent::InstanceSeen(InstanceState::Stopped)
            if waited >= STILL_STOPPED_MAX.min(times.boot / 4) =>
        {
            to(WorkerPhase::Stopped, now)
        }
        WorkerEvent::RentRefused => with(
            WorkerPhase::Failed {
                reason: FailureReason::RentRefused,
            },
            Effect::Forget,
            now,
        ),
        WorkerEvent::DrainOrdered(then) => release(then, now),
        _ => lost(event, times, now),
    }
}

fn benchmarking(
    event: WorkerEvent,
    times: &TimeLimits,
    waited: Duration,
    now: Timestamp,
) -> Option<Transition> {
    match event {
        WorkerEvent::BenchmarkPassed => to(WorkerPhase::Ready, now),
        WorkerEvent::BenchmarkFailed(reason) => fail(reason, now),
        WorkerEvent::Tick if waited >= times.benchmark => fail(FailureReason::BenchmarkFailed, now),
        WorkerEvent::DrainOrdered(then) => release(then, now),
        WorkerEvent::InstanceSeen(InstanceState::Stopped) => to(WorkerPhase::Stopped, now),
        WorkerEvent::InstanceSeen(InstanceState::Scheduling) => fail(FailureReason::Outbid, now),
        WorkerEvent::BidRaised => to(WorkerPhase::Starting, now),
        _ => lost(event, times, now),
    }
}

fn ready(event: WorkerEvent, times: &TimeLimits, now: Timestamp) -> Option<Transition> {
    match event {
        WorkerEvent::ProbeFailed => to(WorkerPhase::Unhealthy { failed_probes: 1 }, now),
        WorkerEvent::DrainOrdered(then) => to(WorkerPhase::Draining { then, since: now }, now),
        // It answers, whatever its market says: a listing may be wrong. What is true shows in the next probe.
        WorkerEvent::InstanceSeen(InstanceState::Stopped | InstanceState::Scheduling)
        | WorkerEvent::InstanceMissing
        | WorkerEvent::InstanceLasts {
            state: InstanceState::Offline,
            ..
        } => None,
        _ => lost(event, times, now),
    }
}

fn unhealthy(
    event: WorkerEvent,
    failed_probes: u32,
    times: &TimeLimits,
    waited: Duration,
    now: Timestamp,
) -> Option<Transition> {
    match event {
        WorkerEvent::ProbeSucceeded => to(WorkerPhase::Ready, now),
        WorkerEvent::ProbeFailed => {
            let failed_probes = failed_probes.saturating_add(1);
            if failed_probes < FAILED_PROBES_MAX || waited < times.unresponsive {
                to(WorkerPhase::Unhealthy { failed_probes }, now)
            } else {
                fail(FailureReason::Unresponsive, now)
            }
        }
        // Its streams may still flow.
        WorkerEvent::DrainOrdered(then) => to(WorkerPhase::Draining { then, since: now }, now),
        WorkerEvent::InstanceSeen(InstanceState::Stopped) => to(WorkerPhase::Stopped, now),
        WorkerEvent::InstanceSeen(InstanceState::Scheduling) => fail(FailureReason::Outbid, now),
        WorkerEvent::BidRaised => to(WorkerPhase::Starting, now),
        _ => lost(event, times, now),
    }
}

fn draining(
    event: WorkerEvent,
    then: Release,
    since: Timestamp,
    times: &TimeLimits,
    now: Timestamp,
) -> Option<Transition> {
    match event {
        WorkerEvent::Emptied => release(then, now),
        WorkerEvent::Tick if now.since(since) >= times.drain_limit.max(times.drain) => {
            release(then, now)
        }
        WorkerEvent::Tick if now.since(since) >= times.drain => with(
            WorkerPhase::Draining { then, since },
            Effect::MoveRequests,
            now,
        ),
        // It may be dead: nobody waits there for what another worker can do. What cannot move breaks when it falls silent.
        WorkerEvent::ProbeFailed => with(
            WorkerPhase::Draining { then, since },
            Effect::MoveRequests,
            now,
        ),
        WorkerEvent::DrainCancelled => to(WorkerPhase::Ready, now),
        WorkerEvent::DrainOrdered(then) => to(WorkerPhase::Draining { then, since }, now),
        WorkerEvent::InstanceSeen(InstanceState::Stopped) => match then {
            Release::Stop => to(WorkerPhase::Stopped, now),
            Release::Destroy => release(then, now),
        },
        WorkerEvent::InstanceSeen(InstanceState::Scheduling) => fail(FailureReason::Outbid, now),
        _ => lost(event, times, now),
    }
}

fn stopping(
    event: WorkerEvent,
    times: &TimeLimits,
    waited: Duration,
    now: Timestamp,
) -> Option<Transition> {
    match event {
        WorkerEvent::InstanceSeen(InstanceState::Stopped) => to(WorkerPhase::Stopped, now),
        WorkerEvent::DrainOrdered(Release::Destroy) => release(Release::Destroy, now),
        WorkerEvent::InstanceSeen(InstanceState::Running | InstanceState::Loading)
            if waited >= RETRY_AFTER =>
        {
            release(Release::Stop, now)
        }
        WorkerEvent::Tick if waited >= RETRY_UNSEEN_AFTER => release(Release::Stop, now),
        _ => lost(event, times, now),
    }
}

fn stopped(event: WorkerEvent, times: &TimeLimits, now: Timestamp) -> Option<Transition> {
    match event {
        WorkerEvent::RestartOrdered => with(WorkerPhase::Starting, Effect::Start, now),
        WorkerEvent::DrainOrdered(Release::Destroy) => release(Release::Destroy, now),
        // Started by someone else: it costs and serves nobody.
        WorkerEvent::InstanceSeen(InstanceState::Running | InstanceState::Scheduling) => {
            release(Release::Stop, now)
        }
        _ => lost(event, times, now),
    }
}

/// What still starts may serve for the time that is left.
fn leave(phase: WorkerPhase, now: Timestamp) -> Option<Transition> {
    let then = Release::Destroy;
    match phase {
        WorkerPhase::Ready | WorkerPhase::Unhealthy { .. } => {
            to(WorkerPhase::Draining { then, since: now }, now)
        }
        WorkerPhase::Draining { since, .. } => to(WorkerPhase::Draining { then, since }, now),
        WorkerPhase::Stopping | WorkerPhase::Stopped => release(then, now),
        _ => None,
    }
}

fn failed(
    event: WorkerEvent,
    reason: FailureReason,
    waited: Duration,
    now: Timestamp,
) -> Option<Transition> {
    let phase = WorkerPhase::Failed { reason };
    let refused = reason == FailureReason::RentRefused;
    match event {
        WorkerEvent::InstanceMissing | WorkerEvent::RentRefused => gone(now),
        // It was refused and yet it is there.
        WorkerEvent::InstanceSeen(_) if refused => release(Release::Destroy, now),
        WorkerEvent::Tick if refused && waited >= RETRY_AFTER => with(phase, Effect::Forget, now),
        _ if !refused && is_to_be_repeated(event, waited) => with(phase, Effect::Destroy, now),
        _ => None,
    }
}

fn destroying(event: WorkerEvent, waited: Duration, now: Timestamp) -> Option<Transition> {
    match event {
        WorkerEvent::InstanceMissing | WorkerEvent::RentRefused => gone(now),
        _ if is_to_be_repeated(event, waited) => release(Release::Destroy, now),
        _ => None,
    }
}

/// Whether the order to destroy is given again: it is still listed, or nobody says anything.
fn is_to_be_repeated(event: WorkerEvent, waited: Duration) -> bool {
    match event {
        WorkerEvent::InstanceSeen(_) => waited >= RETRY_AFTER,
        WorkerEvent::Tick => waited >= RETRY_UNSEEN_AFTER,
        _ => false,
    }
}

/// Ends that come from outside mean the same in every phase in which a worker is still wanted.
fn lost(event: WorkerEvent, times: &TimeLimits, now: Timestamp) -> Option<Transition> {
    match event {
        WorkerEvent::InstanceUnfit(reason) => fail(reason, now),
        WorkerEvent::InstanceLasts {
            state: InstanceState::Offline,
            since,
        } if now.since(since) >= times.offline => fail(FailureReason::HostOffline, now),
        WorkerEvent::InstanceSeen(InstanceState::Exited) => fail(FailureReason::Exited, now),
        // The line is ended when a second listing agrees; until then a destroy does no harm.
        WorkerEvent::InstanceMissing => fail(FailureReason::Vanished, now),
        _ => None,
    }
}

fn fail(reason: FailureReason, now: Timestamp) -> Option<Transition> {
    with(WorkerPhase::Failed { reason }, Effect::Destroy, now)
}

fn release(then: Release, now: Timestamp) -> Option<Transition> {
    match then {
        Release::Stop => with(WorkerPhase::Stopping, Effect::Stop, now),
        Release::Destroy => with(WorkerPhase::Destroying, Effect::Destroy, now),
    }
}

fn gone(now: Timestamp) -> Option<Transition> {
    with(WorkerPhase::Gone, Effect::Forget, now)
}

fn to(phase: WorkerPhase, now: Timestamp) -> Option<Transition> {
    Some(Transition {
        phase,
        since: now,
        effects: Vec::new(),
    })
}

fn with(phase: WorkerPhase, effect: Effect, now: Timestamp) -> Option<Transition> {
    Some(Transition {
        phase,
        since: now,
        effects: vec![effect],
    })
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
