//! What may be spent: the last word before anything is rented or restarted, which can only say no; and what has to
//! go where a limit is enforced.
//!
//! Committed money counts: whatever is being rented, starts, runs, drains, ends or lies stopped. Of a day's or a month's
//! limit, `reserve` of everything committed is set aside, at most to the end of that day or month: a machine costs
//! until it is gone, and a new one before it is of use.

mod release;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Day, EndpointName, EndpointSpending, Enforce, LimitView, MarketKind, SpendingLimits,
    SpendingRule, SpendingScope, SpendingSettings, Timestamp, TokensPerSecond, Usd, UsdPerHour,
    WorkerId,
};

pub use release::{Forced, forced};

/// A machine that costs, or is about to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commitment {
    pub worker: WorkerId,
    pub endpoint: EndpointName,
    pub market: MarketKind,
    /// Running, or what it will be once it runs; of a stopped one, its storage.
    pub usd_per_hour: UsdPerHour,
    pub speed: TokensPerSecond,
    /// The most it was let pass for when it was ordered.
    pub ordered: UsdPerHour,
    /// Ordered, and of no use yet.
    pub starting: bool,
    /// Told to go for good already.
    pub going: bool,
}

/// Spent in the current day and month, what is not billed yet included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub today: Usd,
    pub this_month: Usd,
}

/// What is left in a market's account.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// Nothing is paid there.
    Free,
    /// It did not say yet.
    Unknown,
    Left(Usd),
}

/// Everything a limit is compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub commitments: Vec<Commitment>,
    /// Of machines of ours that no worker stands for.
    pub strays: UsdPerHour,
    pub spent: BTreeMap<EndpointName, Spent>,
    pub credits: BTreeMap<MarketKind, Credit>,
    /// The operator's mark is there.
    pub stopped: bool,
}

/// All that may be spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    pub installation: SpendingSettings,
    pub endpoints: BTreeMap<EndpointName, EndpointSpending>,
}

/// Which limit says no.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{}", self.words())]
pub struct Refusal {
    pub scope: SpendingScope,
    pub rule: SpendingRule,
    /// Spent and set aside; of `credit`, what is left.
    pub used: f64,
    /// What was asked for would add.
    #[serde(default)]
    pub more: f64,
    pub limit: f64,
}

impl Refusal {
    /// The operator's mark.
    pub fn stopped() -> Self {
        Self {
            scope: SpendingScope::Installation,
            rule: SpendingRule::Stopped,
            used: 0.0,
            more: 0.0,
            limit: 0.0,
        }
    }

    fn words(&self) -> String {
        let (used, limit) = (usd(self.used), usd(self.limit));
        match self.rule {
            SpendingRule::Stopped => "spending is stopped".to_owned(),
            SpendingRule::Credit => {
                format!("{used} of credit left, at least {limit} wanted")
            }
            rule => {
                let (rule, scope) = (rule.as_str(), self.scope.as_str());
                let more = match self.more {
                    more if more > 0.0 => format!(" + {}", usd(more)),
                    _ => String::new(),
                };
                format!("limit of the {rule} for {scope}: {used}{more} of {limit}")
            }
        }
    }
}

/// To the cent, or to a hundredth of one where that says more.
pub fn usd(dollars: f64) -> String {
    let text = format!("${dollars:.4}");
    let fewer = text.strip_suffix("00").or_else(|| text.strip_suffix('0'));
    fewer.unwrap_or(&text).to_owned()
}

/// May `more` be committed for this endpoint?
pub fn may_commit(
    position: &Position,
    budget: &Budget,
    endpoint: &EndpointName,
    market: MarketKind,
    more: UsdPerHour,
    now: Timestamp,
) -> Result<(), Refusal> {
    if position.stopped {
        return Err(Refusal::stopped());
    }
    // What has no known price could cost anything.
    let more = if more.0.is_finite() {
        more.0.max(0.0)
    } else {
        f64::MAX
    };
    let scopes = [
        SpendingScope::Installation,
        SpendingScope::Endpoint(endpoint.clone()),
    ];
    for scope in scopes {
        for bound in bounds(position, budget, &scope, now) {
            if bound.used + more * bound.hours > bound.limit + ROUNDING {
                return Err(bound.refusal(more));
            }
        }
    }
    credit_refusal(position, budget, market).map_or(Ok(()), Err)
}

/// The dearest machine that would still be within every limit, or the limit that allows none.
pub fn headroom(
    position: &Position,
    budget: &Budget,
    endpoint: &EndpointName,
    market: MarketKind,
    now: Timestamp,
) -> Result<UsdPerHour, Refusal> {
    may_commit(position, budget, endpoint, market, UsdPerHour::ZERO, now)?;
    let scopes = [
        SpendingScope::Installation,
        SpendingScope::Endpoint(endpoint.clone()),
    ];
    let mut room = f64::MAX;
    for scope in scopes {
        for bound in bounds(position, budget, &scope, now) {
            if bound.hours > 0.0 {
                room = room.min((bound.limit + ROUNDING - bound.used) / bound.hours);
            }
        }
    }
    Ok(UsdPerHour(room.max(0.0)))
}

/// Every limit there is and how much of it is used.
pub fn standing(position: &Position, budget: &Budget, now: Timestamp) -> Vec<LimitView> {
    let endpoints = budget
        .endpoints
        .keys()
        .map(|name| SpendingScope::Endpoint(name.clone()));
    let mut out = Vec::new();
    for scope in std::iter::once(SpendingScope::Installation).chain(endpoints) {
        for bound in bounds(position, budget, &scope, now) {
            out.push(LimitView {
                scope: bound.scope,
                rule: bound.rule,
                used: bound.used,
                limit: bound.limit,
                reached: bound.used + ROUNDING >= bound.limit,
                because: None,
            });
        }
    }
    if let Some(min) = budget.installation.min_credit {
        for (market, credit) in &position.credits {
            if *credit == Credit::Free {
                continue;
            }
            let left = match credit {
                Credit::Left(left) => left.0,
                Credit::Free | Credit::Unknown => 0.0,
            };
            out.push(LimitView {
                scope: SpendingScope::Installation,
                rule: SpendingRule::Credit,
                used: left,
                limit: min.0,
                reached: credit_refusal(position, budget, *market).is_some(),
                because: None,
            });
        }
    }
    out
}

/// Dollars are compared to a millionth.
const ROUNDING: f64 = 1e-6;

/// One limit of one scope: `used` is what is spent and set aside, `hours` for how long one more machine counts.
struct Bound {
    scope: SpendingScope,
    rule: SpendingRule,
    /// Spent for good.
    spent: f64,
    used: f64,
    limit: f64,
    hours: f64,
    /// Dollars an hour of all that is committed.
    rate: f64,
}

impl Bound {
    fn refusal(&self, more: f64) -> Refusal {
        Refusal {
            scope: self.scope.clone(),
            rule: self.rule,
            used: self.used,
            // What has no known price fits nowhere, and there is no figure to show.
            more: if more < f64::MAX {
                more * self.hours
            } else {
                0.0
            },
            limit: self.limit,
        }
    }

    fn covers(&self, commitment: &Commitment) -> bool {
        match &self.scope {
            SpendingScope::Installation => true,
            SpendingScope::Endpoint(name) => commitment.endpoint == *name,
        }
    }
}

fn bounds(
    position: &Position,
    budget: &Budget,
    scope: &SpendingScope,
    now: Timestamp,
) -> Vec<Bound> {
    let SpendingLimits {
        per_hour,
        per_day,
        per_month,
    } = limits(budget, scope);
    let rate = rate(position, scope);
    let spent = spent(position, scope);
    let reserve_h = budget.installation.reserve.as_secs_f64() / 3_600.0;
    let mut out = Vec::new();
    let mut push = |rule, limit: Option<f64>, spent: f64, hours: f64| {
        if let Some(limit) = limit {
            out.push(Bound {
                scope: scope.clone(),
                rule,
                spent,
                used: spent + rate * hours,
                limit,
                hours,
                rate,
            });
        }
    };
    let today = Day::of(now);
    let tomorrow = today.next().start();
    let next_month = Day(today.month_start().0 + 31).month_start().start();
    let hours_to = |end: Timestamp| (end.seconds_since(now) / 3_600.0).min(reserve_h);
    push(SpendingRule::Hour, per_hour.map(|limit| limit.0), 0.0, 1.0);
    push(
        SpendingRule::Day,
        per_day.map(|limit| limit.0),
        spent.today.0,
        hours_to(tomorrow),
    );
    push(
        SpendingRule::Month,
        per_month.map(|limit| limit.0),
        spent.this_month.0,
        hours_to(next_month),
    );
    out
}

fn limits(budget: &Budget, scope: &SpendingScope) -> SpendingLimits {
    match scope {
        SpendingScope::Installation => budget.installation.limits,
        SpendingScope::Endpoint(name) => budget
            .endpoints
            .get(name)
            .map(|spending| spending.limits)
            .unwrap_or_default(),
    }
}

fn enforce(budget: &Budget, scope: &SpendingScope) -> Enforce {
    let own = match scope {
        SpendingScope::Installation => None,
        SpendingScope::Endpoint(name) => budget
            .endpoints
            .get(name)
            .and_then(|spending| spending.enforce),
    };
    own.unwrap_or(budget.installation.enforce)
}

fn rate(position: &Position, scope: &SpendingScope) -> f64 {
    let covered = position
        .commitments
        .iter()
        .filter(|commitment| match scope {
            SpendingScope::Installation => true,
            SpendingScope::Endpoint(name) => commitment.endpoint == *name,
        });
    let rate = covered.fold(0.0, |sum, commitment| sum + commitment.usd_per_hour.0);
    match scope {
        SpendingScope::Installation => rate + position.strays.0,
        SpendingScope::Endpoint(_) => rate,
    }
}

fn spent(position: &Position, scope: &SpendingScope) -> Spent {
    match scope {
        SpendingScope::Endpoint(name) => position.spent.get(name).copied().unwrap_or_default(),
        SpendingScope::Installation => {
            position
                .spent
                .values()
                .fold(Spent::default(), |sum, spent| Spent {
                    today: sum.today + spent.today,
                    this_month: sum.this_month + spent.this_month,
                })
        }
    }
}

fn credit_refusal(position: &Position, budget: &Budget, market: MarketKind) -> Option<Refusal> {
    let min = budget.installation.min_credit?;
    let left = match position.credits.get(&market) {
        Some(Credit::Free) => return None,
        Some(Credit::Left(left)) => left.0,
        // An account that says nothing may be empty.
        Some(Credit::Unknown) | None => f64::NEG_INFINITY,
    };
    (left < min.0).then(|| Refusal {
        scope: SpendingScope::Installation,
        rule: SpendingRule::Credit,
        used: left.max(0.0),
        more: 0.0,
        limit: min.0,
    })
}

#[cfg(test)]
#[path = "spending_tests.rs"]
mod tests;
