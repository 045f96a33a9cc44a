//! What a listing of a market means for what we believe to have there.
//!
//! A listing can be wrong: empty, cut short, late, or of another mind than the one before. So nothing is believed gone
//! because one listing does not hold it; when much is missing at once the listing is doubted for longer; and while the
//! two sides disagree nothing is rented, for the missing machines may be there and cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{EndpointName, GroupName, InstanceId, Timestamp, WorkerId};

/// Listings without it until a machine is gone, whatever the time between them.
const LISTINGS_UNTIL_GONE: u32 = 2;
/// The same where most of the fleet is missing.
const LISTINGS_UNTIL_BELIEVED: u32 = 5;
/// A larger share missing at once makes a listing doubtful.
const DOUBTFUL_SHARE: f64 = 0.5;

/// What should be at a market.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    pub worker: WorkerId,
    pub endpoint: EndpointName,
    pub group: GroupName,
    pub expected: Expected,
    /// The market's name for it, once told.
    pub instance: Option<InstanceId>,
    /// The listing was begun after the last call about it had its answer.
    pub is_news: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The market was asked to rent it out and its answer was lost: it may be there.
    Uncertain,
    There,
    /// Told to end: it may still be there.
    Ending,
}

/// A machine of ours as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub worker: WorkerId,
    pub instance: InstanceId,
}

/// How patient to be; scaled with how often a market may be listed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    /// Between the first listing without a machine and the one that settles it.
    #[serde(with = "crate::domain::seconds")]
    pub gone: Duration,
    /// The same for one that was never listed: markets show new machines late.
    #[serde(with = "crate::domain::seconds")]
    pub fresh: Duration,
    /// The same where most of the fleet is missing; `None`: a listing cannot be partial.
    #[serde(with = "crate::domain::optional_seconds")]
    pub doubt: Option<Duration>,
}

impl Patience {
    /// For a market that may be listed so often; without a limit it is our own and knows all it has.
    pub fn of(listing_interval: Option<Duration>) -> Self {
        match listing_interval {
            None => Self {
                gone: Duration::ZERO,
                fresh: Duration::ZERO,
                doubt: None,
            },
            Some(interval) => Self {
                gone: interval * 5,
                fresh: interval * 15,
                doubt: Some(interval * 30),
            },
        }
    }
}

/// Of one market, between its listings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReconcileMemory {
    absent: BTreeMap<WorkerId, Absence>,
    /// Listed at least once.
    seen: BTreeSet<WorkerId>,
    doubt: Option<Absence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Absence {
    since: Timestamp,
    listings: u32,
}

impl ReconcileMemory {
    /// It is known from before this process: were it missing, that would not be because it is new.
    pub fn expect(&mut self, worker: WorkerId) {
        self.seen.insert(worker);
    }
}

/// Where the two sides differ. While there is one, nothing is rented at this market.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Disagreement {
    NotListedYet,
    ListingFailed,
    /// Too much is missing at once to be believed yet.
    Doubtful {
        missing: usize,
        of: usize,
    },
    Missing {
        worker: WorkerId,
    },
    /// It has our label and no worker stands for it.
    Stray {
        worker: WorkerId,
    },
    /// Two machines for one rental.
    Twice {
        worker: WorkerId,
    },
    /// It was rented with a key that is not among those configured.
    OtherAccount {
        worker: WorkerId,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disagreement::NotListedYet => write!(f, "the market has not been listed yet"),
            Disagreement::ListingFailed => write!(f, "the market cannot be listed"),
            Disagreement::Doubtful { missing, of } => {
                write!(
                    f,
                    "{missing} of {of} machines are missing at once: the listing is doubted"
                )
            }
            Disagreement::Missing { worker } => write!(f, "{worker} is not listed"),
            Disagreement::Stray { worker } => {
                write!(f, "{worker} is listed, and nobody needs it")
            }
            Disagreement::Twice { worker } => write!(f, "{worker} is listed twice"),
            Disagreement::OtherAccount { worker } => write!(
                f,
                "{worker} was rented with a key that is not configured: whether it is there cannot be known"
            ),
        }
    }
}

/// What follows from a listing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// Listings agree that these are not there.
    pub gone: Vec<WorkerId>,
    /// Ours and not needed: to be ended.
    pub surplus: Vec<Listed>,
    pub disagreements: Vec<Disagreement>,
    /// Groups in which a rental's answer was lost and is not known yet.
    pub uncertain: BTreeSet<(EndpointName, GroupName)>,
    /// Most of the fleet is missing; nothing is read from this listing but what it holds.
    pub doubted: bool,
}

/// Compares a complete listing, begun at `at`, with what is known.
pub fn reconcile(
    known: &[Known],
    listed: &[Listed],
    memory: &ReconcileMemory,
    patience: &Patience,
    at: Timestamp,
) -> (Reconciliation, ReconcileMemory) {
    let mut memory = memory.clone();
    let mut result = Reconciliation::default();
    let present: BTreeSet<&WorkerId> = listed.iter().map(|one| &one.worker).collect();

    result.doubted = doubt(known, &present, &mut memory, patience, &mut result, at);
    for one in known {
        if present.contains(&one.worker) {
            memory.absent.remove(&one.worker);
            memory.seen.insert(one.worker.clone());
        } else if one.is_news {
            miss(one, &mut memory, patience, &mut result, at);
        }
        // Until a listing shows it or enough do not.
        let unsettled = one.expected == Expected::Uncertain && !present.contains(&one.worker);
        if unsettled && !result.gone.contains(&one.worker) {
            let group = (one.endpoint.clone(), one.group.clone());
            result.uncertain.insert(group);
        }
    }
    find_surplus(known, listed, &mut result);
    let workers: BTreeSet<&WorkerId> = known.iter().map(|one| &one.worker).collect();
    memory.absent.retain(|worker, _| workers.contains(worker));
    memory.seen.retain(|worker| workers.contains(worker));
    (result, memory)
}

/// Whether too much is missing at once. That most of a fleet really went is believed after a while.
fn doubt(
    known: &[Known],
    present: &BTreeSet<&WorkerId>,
    memory: &mut ReconcileMemory,
    patience: &Patience,
    result: &mut Reconciliation,
    at: Timestamp,
) -> bool {
    let Some(patience) = patience.doubt else {
        return false;
    };
    let expected = known.iter().filter(|one| {
        one.expected == Expected::There && one.is_news && memory.seen.contains(&one.worker)
    });
    let (mut of, mut missing) = (0, 0);
    for one in expected {
        of += 1;
        missing += usize::from(!present.contains(&one.worker));
    }
    let most = missing >= 2 && missing as f64 > DOUBTFUL_SHARE * of as f64;
    let all = missing >= 1 && present.is_empty();
    if !(most || all) {
        memory.doubt = None;
        return false;
    }
    let doubt = memory.doubt.get_or_insert(Absence {
        since: at,
        listings: 0,
    });
    doubt.listings += 1;
    let believed = doubt.listings >= LISTINGS_UNTIL_BELIEVED && at.since(doubt.since) >= patience;
    if !believed {
        let disagreement = Disagreement::Doubtful { missing, of };
        result.disagreements.push(disagreement);
    }
    !believed
}

fn miss(
    one: &Known,
    memory: &mut ReconcileMemory,
    patience: &Patience,
    result: &mut Reconciliation,
    at: Timestamp,
) {
    let absence = memory.absent.entry(one.worker.clone()).or_insert(Absence {
        since: at,
        listings: 0,
    });
    absence.listings += 1;
    let absence = *absence;
    // One that was told to end before its order was answered may still show, as late as any.
    let may_show = one.expected != Expected::Ending || one.instance.is_none();
    let fresh = may_show && !memory.seen.contains(&one.worker);
    let wait = if fresh { patience.fresh } else { patience.gone };
    let settled = absence.listings >= LISTINGS_UNTIL_GONE && at.since(absence.since) >= wait;
    // What was told to end is rightly missing in the most doubtful listing, but only others tell that it is so.
    if settled && !result.doubted {
        result.gone.push(one.worker.clone());
    } else if one.expected == Expected::There && !fresh && !result.doubted {
        let worker = one.worker.clone();
        result.disagreements.push(Disagreement::Missing { worker });
    }
}

fn find_surplus(known: &[Known], listed: &[Listed], result: &mut Reconciliation) {
    let mut first: BTreeMap<&WorkerId, &Listed> = BTreeMap::new();
    for one in listed {
        let Some(worker) = known.iter().find(|known| known.worker == one.worker) else {
            result.surplus.push(one.clone());
            let worker = one.worker.clone();
            result.disagreements.push(Disagreement::Stray { worker });
            continue;
        };
        let Some(other) = first.get_mut(&one.worker) else {
            first.insert(&one.worker, one);
            continue;
        };
        // The market's own answer tells which is meant; without one the older does, and ids grow.
        let keeps_new = worker.instance.as_ref() == Some(&one.instance);
        let dropped = if keeps_new {
            std::mem::replace(other, one)
        } else {
            one
        };
        if dropped.instance != other.instance {
            result.surplus.push(dropped.clone());
            let worker = one.worker.clone();
            result.disagreements.push(Disagreement::Twice { worker });
        }
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
