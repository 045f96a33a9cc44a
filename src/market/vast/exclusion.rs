//! Which filters keep everything out of a search: each is left out once.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;

use super::super::MarketError;
use super::failure::Failure;
use super::limiter::Kind;
use super::transport::{Account, Call};
use super::{VastMarket, offers};
use crate::domain::{ExcludingFilter, Exclusion, SearchOperator, SearchValue, VastLaunch};
use crate::telemetry::now;

/// Vast allows ten searches a minute.
const TRIES_MAX: usize = 8;
/// Offers that are counted.
const COUNTED: usize = 100;
/// Part of every search; left out they would only show what nobody can rent.
const ALWAYS: [&str; 2] = ["rentable", "rented"];

type Filters = BTreeMap<SearchOperator, SearchValue>;

impl VastMarket {
    pub(super) async fn leave_out_each(
        &self,
        account: &Account,
        launch: &VastLaunch,
    ) -> Result<Exclusion, MarketError> {
        if let Some(why) = self.quota.forbids(account.number, now()) {
            return Err(MarketError::Unavailable(why));
        }
        let filters = launch.search.filters.iter();
        let filters = filters.filter(|(field, _)| !ALWAYS.contains(&field.as_str()));
        let mut exclusion = Exclusion::default();
        for (number, (field, filters)) in filters.enumerate() {
            let filter = words(field, filters);
            if number >= TRIES_MAX {
                exclusion.untried.push(filter);
                continue;
            }
            match self.count_without(account, launch, field).await? {
                0 => exclusion.in_vain.push(filter),
                offers => exclusion.by.push(ExcludingFilter { filter, offers }),
            }
        }
        exclusion
            .by
            .sort_by_key(|one| std::cmp::Reverse(one.offers));
        Ok(exclusion)
    }

    async fn count_without(
        &self,
        account: &Account,
        launch: &VastLaunch,
        field: &str,
    ) -> Result<usize, MarketError> {
        let mut launch = launch.clone();
        launch.search.filters.remove(field);
        let bids = launch.always_bids();
        let mut body = offers::search_body(&launch, bids);
        if let Value::Object(body) = &mut body {
            body.insert("limit".into(), COUNTED.into());
        }
        let mut call = Call::new(Kind::Exclude, Method::POST, "/api/v0/bundles/");
        call.body = Some(&body);
        let answer = self.transport.call(account, &call, self.scale()).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::QuotaUsedUp { reset } => {
                let why = self.quota.used_up(account.number, reset.as_deref(), now());
                MarketError::Unavailable(why)
            }
            failure => failure.of_reading(),
        })?;
        let found = offers::found(&answer, bids, launch.launch.disk_gb);
        found
            .map(|offers| offers.len())
            .ok_or_else(|| MarketError::Unavailable("the answer has no list of offers".into()))
    }
}

/// As it is written on Vast's command line.
fn words(field: &str, filters: &Filters) -> String {
    let one = |(operator, value): (&SearchOperator, &SearchValue)| {
        let sign = match operator {
            SearchOperator::Eq => "=",
            SearchOperator::Neq => "!=",
            SearchOperator::Gt => ">",
            SearchOperator::Gte => ">=",
            SearchOperator::Lt => "<",
            SearchOperator::Lte => "<=",
            SearchOperator::In => " in ",
            SearchOperator::NotIn => " notin ",
        };
        let value = match offers::sent(value) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        format!("{field}{sign}{value}")
    };
    filters.iter().map(one).collect::<Vec<_>>().join(" ")
}
