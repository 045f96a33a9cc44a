//! Which workers get no requests although they answer their probes: they fail what they are sent, stand still or have
//! become slow.
//!
//! Pace is judged twice: against the worker's own past and against its group's middle. Each comparison adds up, second
//! by second, how much slower than half-way to the limit the worker is (a CUSUM, Page 1954): a little for long or
//! much for short raises the alarm, a bad moment does not.

mod pace;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::domain::{EjectionSettings, GapLaw, RequestOutcome, Timestamp, TokensPerSecond};
use crate::policy::retry::AttemptFailure;
use pace::Pace;
pub use pace::{PaceSample, middle};

/// Requests whose outcomes are remembered.
const REMEMBERED: u32 = 10;
/// What a worker on probation gets of what its speed would bring it.
const PROBATION_WEIGHT: f64 = 0.1;
/// Ejections are forgotten after so many times the longest one without another.
const FORGET_AFTER_TIMES: f64 = 6.0;

/// Why a worker is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Errors,
    /// Nothing came on any stream while some were open.
    Silence,
    SlowerThanBefore,
    SlowerThanPeers,
}

impl Fault {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Errors => "errors",
            Fault::Silence => "silence",
            Fault::SlowerThanBefore => "slower_than_before",
            Fault::SlowerThanPeers => "slower_than_peers",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Standing {
    #[default]
    Trusted,
    Ejected {
        fault: Fault,
        until: Timestamp,
    },
    /// Back from an ejection, at little weight until so many more requests succeeded.
    Probation {
        successes_left: u32,
    },
}

/// What is remembered of one worker to judge it by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    standing: Standing,
    /// One bit a request, the latest lowest; set where it failed.
    outcomes: u32,
    failed_in_a_row: u32,
    hung: bool,
    pace: Pace,
    ejections: u32,
    last_ejected: Timestamp,
}

/// What a failed attempt says of the worker; `None`: nothing.
pub fn blame(failure: AttemptFailure) -> Option<RequestOutcome> {
    match failure {
        AttemptFailure::Broken | AttemptFailure::TimedOut => Some(RequestOutcome::Failed),
        AttemptFailure::Status(status @ 500..) if status != 501 => Some(RequestOutcome::Failed),
        _ => None,
    }
}

impl Health {
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Share of its speed the worker is trusted with.
    pub fn weight(&self) -> f64 {
        match self.standing {
            Standing::Trusted => 1.0,
            Standing::Ejected { .. } => 0.0,
            Standing::Probation { .. } => PROBATION_WEIGHT,
        }
    }

    pub fn note(&mut self, outcome: RequestOutcome) {
        let failed = outcome != RequestOutcome::Succeeded;
        self.outcomes = (self.outcomes << 1 | u32::from(failed)) & ((1 << REMEMBERED) - 1);
        self.failed_in_a_row = if failed { self.failed_in_a_row + 1 } else { 0 };
        // Whether all its streams stand still, the next second tells.
        self.hung = outcome == RequestOutcome::Hung;
        if let (false, Standing::Probation { successes_left }) = (failed, &mut self.standing) {
            *successes_left = successes_left.saturating_sub(1);
            if *successes_left == 0 {
                self.standing = Standing::Trusted;
            }
        }
    }

    /// A second with tokens. `peers` is the middle of the group's laws, `learned` the worker's own by now.
    pub fn watch(
        &mut self,
        sample: PaceSample,
        learned: GapLaw,
        peers: Option<GapLaw>,
        settings: &EjectionSettings,
    ) {
        self.hung = false;
        self.pace.watch(sample, learned, peers, settings);
    }

    /// A restarted worker begins without a past.
    pub fn start_anew(&mut self) {
        *self = Self::default();
    }

    fn fault(&self, settings: &EjectionSettings) -> Option<Fault> {
        let on_probation = matches!(self.standing, Standing::Probation { .. });
        let in_a_row = if on_probation {
            1
        } else {
            settings.consecutive_errors
        };
        let of_ten = self.outcomes.count_ones();
        if self.failed_in_a_row > 0
            && (self.failed_in_a_row >= in_a_row || of_ten >= settings.errors_of_ten)
        {
            let silent = self.hung && self.failed_in_a_row > 0;
            return Some(if silent {
                Fault::Silence
            } else {
                Fault::Errors
            });
        }
        self.hung
            .then_some(Fault::Silence)
            .or_else(|| self.pace.fault(settings))
    }

    fn eject(&mut self, fault: Fault, settings: &EjectionSettings, now: Timestamp) {
        let memory = settings.max_time.mul_f64(FORGET_AFTER_TIMES);
        if now.since(self.last_ejected) > memory {
            self.ejections = 0;
        }
        let doubled = settings
            .base_time
            .saturating_mul(1 << self.ejections.min(16));
        self.ejections += 1;
        self.last_ejected = now;
        self.standing = Standing::Ejected {
            fault,
            until: now + doubled.min(settings.max_time),
        };
        self.forgive();
    }

    fn forgive(&mut self) {
        self.outcomes = 0;
        self.failed_in_a_row = 0;
        self.hung = false;
        self.pace.forgive();
    }
}

/// One ready worker at a review.
pub struct Member<'a> {
    pub health: &'a mut Health,
    pub capacity: TokensPerSecond,
}

/// Ejects whom there is reason to, within the share that may be, and lets back whose time is over. Returns the place
/// and the fault of each that was ejected now.
pub fn review(
    members: &mut [Member<'_>],
    settings: &EjectionSettings,
    now: Timestamp,
) -> Vec<(usize, Fault)> {
    for member in members.iter_mut() {
        if let Standing::Ejected { until, .. } = member.health.standing
            && (now >= until || settings.consecutive_errors == 0)
        {
            member.health.standing = Standing::Probation {
                successes_left: settings.probation_requests,
            };
        }
    }
    if settings.consecutive_errors == 0 {
        return Vec::new();
    }
    let is_ejected = |member: &Member| matches!(member.health.standing, Standing::Ejected { .. });
    let mut faults: Vec<(Fault, usize)> = (0..members.len())
        .filter(|place| !is_ejected(&members[*place]))
        .filter_map(|place| Some((members[place].health.fault(settings)?, place)))
        .collect();
    // When more than half complain at once it is what is asked of them that changed.
    if faults.len() * 2 > members.len() {
        for (_, place) in faults {
            members[place].health.forgive();
        }
        return Vec::new();
    }
    faults.sort_unstable_by_key(|(fault, place)| (*fault as u8, *place));
    let capacity = |members: &[Member], only_ejected: bool| -> f64 {
        let counted = members.iter().filter(|m| !only_ejected || is_ejected(m));
        counted.map(|member| member.capacity.0.max(0.0)).sum()
    };
    let most = capacity(members, false) * settings.share_max * (1.0 + 1e-9);
    let mut ejected = Vec::new();
    for (fault, place) in faults {
        if capacity(members, true) + members[place].capacity.0.max(0.0) <= most {
            members[place].health.eject(fault, settings, now);
            ejected.push((place, fault));
        }
    }
    ejected
}
