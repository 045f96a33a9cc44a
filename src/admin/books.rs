//! What the ledger and the decision log tell: `/spend`, `/rentals`, `/why/WORKER`. Read on a thread that may wait for
//! the disk.

use std::sync::Arc;

use http::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::queries::parameter;
use super::{Admin, TEXT, answer, json};
use crate::domain::{Day, EndpointName, Timestamp, WorkerId};
use crate::ledger::{Ledger, LedgerError, RentalStory, SpendBy};

const RENTALS_SHOWN: u32 = 100;

/// Why a worker was rented, or what was decided at a moment or last for an endpoint.
#[derive(Serialize)]
pub struct Explanation {
    pub worker: Option<RentalStory>,
    /// As in the decision log; of a worker, those of the moment it was rented for its endpoint.
    pub decisions: Vec<Box<RawValue>>,
    /// Of an endpoint: limits that keep it from more.
    pub limits: Vec<String>,
}

/// Looks for a rental, then for decisions by their time in milliseconds. `made_at` finds those.
pub fn explain(
    ledger: &Ledger,
    subject: &str,
    made_at: impl Fn(Timestamp) -> Vec<Box<RawValue>>,
) -> Result<Option<Explanation>, LedgerError> {
    if let Some(story) = ledger.story_of(&WorkerId::new(subject))? {
        let named = format!("\"endpoint\":\"{}\"", story.rental.endpoint);
        let mut decisions = made_at(story.rental.intended_at);
        decisions.retain(|decision| decision.get().contains(&named));
        return Ok(Some(Explanation {
            worker: Some(story),
            decisions,
            limits: Vec::new(),
        }));
    }
    let decisions = match subject.parse() {
        Ok(ms) => made_at(Timestamp::from_millis(ms)),
        Err(_) => Vec::new(),
    };
    Ok((!decisions.is_empty()).then_some(Explanation {
        worker: None,
        decisions,
        limits: Vec::new(),
    }))
}

impl Admin {
    pub(super) async fn spend(&self, query: &str) -> Response<Vec<u8>> {
        let by = match parameter(query, "by").unwrap_or("day") {
            "day" => SpendBy::Day,
            "endpoint" => SpendBy::Endpoint,
            "host" => SpendBy::Host,
            "worker" => SpendBy::Worker,
            _ => return answer(400, TEXT, "by is day, endpoint, host or worker\n"),
        };
        let since = match parameter(query, "since").map(str::parse::<Day>) {
            Some(Err(error)) => return answer(400, TEXT, format!("since is {error}\n")),
            Some(Ok(day)) => Some(day),
            None => None,
        };
        self.ask_ledger(move |ledger| ledger.spend_report(by, since))
            .await
    }

    pub(super) async fn rentals(&self, query: &str) -> Response<Vec<u8>> {
        let Ok(limit) = parameter(query, "limit").map_or(Ok(RENTALS_SHOWN), str::parse) else {
            return answer(400, TEXT, "limit is a number\n");
        };
        self.ask_ledger(move |ledger| ledger.recent(limit)).await
    }

    pub(super) async fn why(&self, subject: &str) -> Response<Vec<u8>> {
        let decisions = Arc::clone(&self.decisions);
        if self.fleet.endpoint(subject).is_some() {
            let name = EndpointName::new(subject);
            let last = decisions.last_of(&name);
            let money = self.fleet.money();
            let limits = money.limits.iter();
            let told = limits.filter(|limit| limit.scope.covers(&name));
            let limits = told.filter_map(|limit| limit.because.clone());
            return json(&Explanation {
                worker: None,
                decisions: last.into_iter().collect(),
                limits: limits.collect(),
            });
        }
        let wanted = subject.to_owned();
        let found = self
            .with_ledger(move |ledger| explain(ledger, &wanted, |at| decisions.made_at(at)))
            .await;
        match found {
            Ok(Some(explanation)) => json(&explanation),
            Ok(None) => answer(
                404,
                TEXT,
                format!("{subject} is no rental, no endpoint and no decision\n"),
            ),
            Err(error) => answer(503, TEXT, format!("{error}\n")),
        }
    }

    async fn ask_ledger<T: Serialize + Send + 'static>(
        &self,
        question: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Response<Vec<u8>> {
        match self.with_ledger(question).await {
            Ok(found) => json(&found),
            Err(error) => answer(503, TEXT, format!("{error}\n")),
        }
    }

    /// The admin port has one thread for all: nobody on it waits for a disk.
    pub(super) async fn with_ledger<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, String> {
        let ledger = Arc::clone(&self.ledger);
        let asked = tokio::task::spawn_blocking(move || question(&ledger)).await;
        let answered = asked.map_err(|error| error.to_string())?;
        answered.map_err(|error| error.to_string())
    }
}
