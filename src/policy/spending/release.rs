//! What has to go: everything after the operator's mark, what is beyond a limit that is enforced, and under any limit of
//! the hour the order that came out dearer than it was let pass for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Bound, Budget, Commitment, Credit, Position, ROUNDING, Refusal, bounds, credit_refusal, enforce,
};
use crate::domain::{Enforce, SpendingRule, SpendingScope, Timestamp, WorkerId};

/// The part of `reserve` that is left when a machine that was told to go is ended whatever it does.
const LAST_PART: f64 = 0.05;

/// A machine that has to go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forced {
    pub worker: WorkerId,
    /// The limit is about to be passed: no drain.
    pub at_once: bool,
    pub because: Refusal,
}

/// What has to go now, the worst value first: after the mark everything; where a limit is enforced, as much as is
/// beyond it. Machines that are going already are named again only once they must not go on draining.
pub fn forced(position: &Position, budget: &Budget, now: Timestamp) -> Vec<Forced> {
    let mut out: Vec<Forced> = Vec::new();
    let order = worst_value_first(&position.commitments);
    if position.stopped {
        let staying = order.iter().filter(|commitment| !commitment.going);
        out.extend(staying.map(|commitment| force(commitment, false, Refusal::stopped())));
        return out;
    }
    let mut leaving: BTreeSet<&WorkerId> = BTreeSet::new();
    for commitment in &position.commitments {
        if commitment.going {
            leaving.insert(&commitment.worker);
        }
    }
    let endpoints = budget
        .endpoints
        .keys()
        .map(|name| SpendingScope::Endpoint(name.clone()));
    // Endpoints first: what their own limits release counts for the installation's too.
    for scope in endpoints.chain([SpendingScope::Installation]) {
        let bounds = bounds(position, budget, &scope, now);
        for bound in bounds
            .iter()
            .filter(|bound| bound.rule == SpendingRule::Hour)
        {
            take_back(bound, &order, &mut leaving, &mut out);
        }
        if enforce(budget, &scope) != Enforce::Hard {
            continue;
        }
        for bound in bounds {
            release_beyond(&bound, &order, &mut leaving, &mut out);
        }
    }
    if budget.installation.enforce == Enforce::Hard {
        for commitment in &order {
            let known = !matches!(
                position.credits.get(&commitment.market),
                None | Some(Credit::Unknown)
            );
            let refusal = credit_refusal(position, budget, commitment.market);
            if let Some(refusal) = refusal.filter(|_| known)
                && leaving.insert(&commitment.worker)
            {
                out.push(force(commitment, false, refusal));
            }
        }
    }
    out
}

/// An order that its market priced higher than it was let pass for is taken back while it only starts, where that passes
/// the limit: the dearest mistake first.
fn take_back<'a>(
    bound: &Bound,
    order: &[&'a Commitment],
    leaving: &mut BTreeSet<&'a WorkerId>,
    out: &mut Vec<Forced>,
) {
    let excess = |commitment: &Commitment| commitment.usd_per_hour.0 - commitment.ordered.0;
    let mut dearer: Vec<&Commitment> = order.to_vec();
    dearer.retain(|one| bound.covers(one) && one.starting && excess(one) > ROUNDING);
    dearer.sort_by(|a, b| excess(b).total_cmp(&excess(a)));
    let mut rate = bound.rate;
    for commitment in order.iter().filter(|one| bound.covers(one)) {
        if leaving.contains(&commitment.worker) {
            rate -= commitment.usd_per_hour.0;
        }
    }
    for commitment in dearer {
        if rate <= bound.limit + ROUNDING {
            return;
        }
        if leaving.insert(&commitment.worker) {
            rate -= commitment.usd_per_hour.0;
            out.push(force(commitment, false, bound.refusal(0.0)));
        }
    }
}

/// Fewest tokens a second for a dollar an hour; then by id. What costs nothing is the best value there is.
fn worst_value_first(commitments: &[Commitment]) -> Vec<&Commitment> {
    let value = |commitment: &Commitment| {
        let price = commitment.usd_per_hour.0;
        if price > 0.0 {
            commitment.speed.0.max(0.0) / price
        } else {
            f64::MAX
        }
    };
    let mut order: Vec<&Commitment> = commitments.iter().collect();
    order.sort_by(|a, b| {
        value(a)
            .total_cmp(&value(b))
            .then_with(|| a.worker.cmp(&b.worker))
    });
    order
}

/// Lets go of what `bound` does not allow to stay. What is going counts no more, and what still drains is ended when the
/// limit itself is near.
fn release_beyond<'a>(
    bound: &Bound,
    order: &[&'a Commitment],
    leaving: &mut BTreeSet<&'a WorkerId>,
    out: &mut Vec<Forced>,
) {
    let last_hours = bound.hours * LAST_PART;
    let timed = bound.rule != SpendingRule::Hour;
    let at_once = timed && bound.spent + bound.rate * last_hours > bound.limit;
    let covered = || order.iter().filter(|commitment| bound.covers(commitment));
    if at_once {
        for commitment in covered().filter(|commitment| commitment.usd_per_hour.0 > 0.0) {
            leaving.insert(&commitment.worker);
            out.retain(|forced| forced.worker != commitment.worker);
            out.push(force(commitment, true, bound.refusal(0.0)));
        }
        return;
    }
    let mut staying: f64 = covered()
        .filter(|commitment| !leaving.contains(&commitment.worker))
        .fold(0.0, |sum, commitment| sum + commitment.usd_per_hour.0);
    for commitment in covered() {
        if bound.spent + staying * bound.hours <= bound.limit + ROUNDING {
            return;
        }
        if commitment.usd_per_hour.0 > 0.0 && leaving.insert(&commitment.worker) {
            staying -= commitment.usd_per_hour.0;
            out.push(force(commitment, false, bound.refusal(0.0)));
        }
    }
}

fn force(commitment: &Commitment, at_once: bool, because: Refusal) -> Forced {
    Forced {
        worker: commitment.worker.clone(),
        at_once,
        because,
    }
}
