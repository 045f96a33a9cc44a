//! Which workers get no requests although they answer their probes: they fail what they are sent, stand still or have
//! become slow.
//!
//! Pace is judged twice: against the worker's own past and against its group's middle. Each comparison adds up, second
//! by second, how much slower than half-way to the limit the worker is (a CUSUM, Page 1954): a little for long or
//! much for short raises the alarm, a bad moment does not.

mod pace;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    EjectionSettings, GroupName, IterationLaw, RequestOutcome, Timestamp, TokensPerSecond,
};
use crate::policy::retry::AttemptFailure;
use pace::Pace;
pub use pace::{PaceSample, middle};

/// Requests whose outcomes are remembered.
const REMEMBERED: u32 = 10;
/// What a worker on probation gets of what its speed would bring it.
const PROBATION_WEIGHT: f64 = 0.1;
/// Ejections are forgotten after so many times the longest one without another.
const FORGET_AFTER_TIMES: f64 = 6.0;

/// A worker ejected twice within this time is given up.
const TWICE_WITHIN: Duration = Duration::from_secs(3_600);
/// So is one that has been slow for so long and cannot be ejected, others being too few.
const SLOW_FOR_GOOD: Duration = Duration::from_secs(600);

/// Workers of a group from which on it is told whether they slow together.
const GROUP_MIN: usize = 3;

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
    fn is_pace(self) -> bool {
        matches!(self, Fault::SlowerThanBefore | Fault::SlowerThanPeers)
    }

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

/// Why a worker is to be replaced by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum GivenUp {
    EjectedTwice { fault: Fault },
    SlowForGood { fault: Fault },
}

impl GivenUp {
    pub fn fault(self) -> Fault {
        match self {
            GivenUp::EjectedTwice { fault } | GivenUp::SlowForGood { fault } => fault,
        }
    }
}

impl std::fmt::Display for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fault = self.fault().as_str();
        match self {
            GivenUp::EjectedTwice { .. } => write!(f, "ejected twice within an hour: {fault}"),
            GivenUp::SlowForGood { .. } => write!(f, "slow for good: {fault}"),
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
    /// The first of a row of reviews that found it slow and did not eject it.
    slow_since: Option<Timestamp>,
    given_up: Option<GivenUp>,
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

    /// It is to be replaced.
    pub fn given_up(&self) -> Option<GivenUp> {
        self.given_up
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
        learned: IterationLaw,
        peers: Option<IterationLaw>,
        settings: &EjectionSettings,
    ) {
        self.hung = false;
        self.pace.watch(sample, learned, peers, settings);
    }

    /// It had nothing to do for so long that its pace is no measure for others.
    pub fn is_resting(&self) -> bool {
        self.pace.is_resting()
    }

    /// Seconds without tokens.
    pub fn rest(&mut self, seconds: f64) {
        self.pace.rest(seconds);
    }

    /// A restarted worker begins without a past.
    pub fn start_anew(&mut self) {
        *self = Self::default();
    }

    fn let_back(&mut self, settings: &EjectionSettings, now: Timestamp) {
        if let Standing::Ejected { until, .. } = self.standing
            && (now >= until || settings.consecutive_errors == 0)
        {
            self.standing = Standing::Probation {
                successes_left: settings.probation_requests,
            };
        }
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
        if self.ejections > 0 && now.since(self.last_ejected) <= TWICE_WITHIN {
            self.given_up.get_or_insert(GivenUp::EjectedTwice { fault });
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

    fn stays_slow(&mut self, fault: Fault, now: Timestamp) {
        let since = *self.slow_since.get_or_insert(now);
        if now.since(since) >= SLOW_FOR_GOOD {
            self.given_up.get_or_insert(GivenUp::SlowForGood { fault });
        }
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
    pub group: &'a GroupName,
    pub capacity: TokensPerSecond,
}

/// What a review found, by the workers' places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Review {
    pub ejected: Vec<(usize, Fault)>,
    /// They slowed together: it is what is asked of them that changed.
    pub other_work: Vec<usize>,
    /// Given up by now; told each time.
    pub given_up: Vec<(usize, GivenUp)>,
}

/// Ejects whom there is reason to, within the share that may be, and lets back whose time is over.
pub fn review(members: &mut [Member<'_>], settings: &EjectionSettings, now: Timestamp) -> Review {
    let off = settings.consecutive_errors == 0;
    for member in members.iter_mut() {
        member.health.let_back(settings, now);
    }
    if off {
        return Review::default();
    }
    let other_work = forgive_the_slow(members, settings);
    let mut faults: Vec<(Fault, usize)> = (0..members.len())
        .filter(|place| !is_ejected(&members[*place]))
        .filter_map(|place| Some((members[place].health.fault(settings)?, place)))
        .collect();
    let mut ejected = Vec::new();
    // When more than half complain at once it is what is asked of them.
    if faults.len() * 2 > members.len() {
        for (_, place) in faults {
            members[place].health.forgive();
        }
    } else {
        faults.sort_unstable_by_key(|(fault, place)| (*fault as u8, *place));
        ejected = eject(members, &faults, settings, now);
    }
    let given_up = members.iter().enumerate();
    Review {
        ejected,
        other_work,
        given_up: given_up
            .filter_map(|(place, member)| Some((place, member.health.given_up?)))
            .collect(),
    }
}

fn eject(
    members: &mut [Member<'_>],
    faults: &[(Fault, usize)],
    settings: &EjectionSettings,
    now: Timestamp,
) -> Vec<(usize, Fault)> {
    let capacity = |members: &[Member], only_ejected: bool| -> f64 {
        let counted = members.iter().filter(|m| !only_ejected || is_ejected(m));
        counted.map(|member| member.capacity.0.max(0.0)).sum()
    };
    for (place, member) in members.iter_mut().enumerate() {
        if !faults
            .iter()
            .any(|(fault, at)| *at == place && fault.is_pace())
        {
            member.health.slow_since = None;
        }
    }
    let most = capacity(members, false) * settings.share_max * (1.0 + 1e-9);
    let mut ejected = Vec::new();
    for (fault, place) in faults {
        let (fault, place) = (*fault, *place);
        if capacity(members, true) + members[place].capacity.0.max(0.0) <= most {
            members[place].health.eject(fault, settings, now);
            ejected.push((place, fault));
        } else if fault.is_pace() {
            members[place].health.stays_slow(fault, now);
        }
    }
    ejected
}

fn is_ejected(member: &Member) -> bool {
    matches!(member.health.standing, Standing::Ejected { .. })
}

/// One that is slower than before and no slower than its equals has other work. Where one has become too slow and more than half of its group is on the way there, it is the work, not the workers:
/// they are forgiven, and their past is forgotten. A group too small to tell is judged with all others. Returns whose.
fn forgive_the_slow(members: &mut [Member<'_>], settings: &EjectionSettings) -> Vec<usize> {
    let mut forgiven = Vec::new();
    for (place, member) in members.iter_mut().enumerate() {
        if member.health.pace.has_other_work(settings) {
            member.health.pace.forget_past();
            forgiven.push(place);
        }
    }
    for place in 0..members.len() {
        let is_slow = members[place].health.pace.fault(settings).is_some();
        if !is_slow || is_ejected(&members[place]) {
            continue;
        }
        let alike = |other: &usize| members[*other].group == members[place].group;
        let mut group: Vec<usize> = (0..members.len()).filter(alike).collect();
        if group.len() < GROUP_MIN {
            group = (0..members.len()).collect();
        }
        let is_suspect = |place: &&usize| members[**place].health.pace.is_suspect(settings);
        let suspects: Vec<usize> = group.iter().filter(is_suspect).copied().collect();
        if suspects.len() * 2 > group.len() {
            for place in &suspects {
                members[*place].health.pace.forget_past();
            }
            forgiven.extend(suspects);
        }
    }
    forgiven
}
