//! Questions with a parameter, and those that look at a market: `/plan`, `/offers`, `/logs/WORKER`; the ledger's are
//! in `books`.

use std::time::Duration;

use http::Response;

use super::{Admin, NoLogs, TEXT, answer, json};
use crate::domain::{EndpointName, WorkerId};
use crate::ledger::Ledger;

/// A market that does not answer holds a question no longer than this.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const LOG_LINES: u32 = 100;

impl Admin {
    /// `None`: there is no such path.
    pub(super) async fn query(&self, path: &str, query: &str) -> Option<Response<Vec<u8>>> {
        let answering = async {
            if let Some(worker) = path.strip_prefix("/logs/") {
                return Some(self.logs(worker, query).await);
            }
            if let Some(subject) = path.strip_prefix("/why/") {
                return Some(self.why(subject).await);
            }
            match path {
                "/spend" => Some(self.spend(query).await),
                "/rentals" => Some(self.rentals(query).await),
                "/plan" => Some(json(&self.control.preview(explains(query)).await)),
                "/offers" => Some(self.offers(query).await),
                _ => None,
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answering)
            .await
            .unwrap_or_else(|_| Some(answer(504, TEXT, "a market does not answer\n")))
    }

    async fn offers(&self, query: &str) -> Response<Vec<u8>> {
        let endpoint = parameter(query, "endpoint");
        if let Some(name) = endpoint
            && self.fleet.endpoint(name).is_none()
        {
            return answer(404, TEXT, format!("there is no endpoint {name}\n"));
        }
        let endpoint = endpoint.map(EndpointName::new);
        let offers = self.control.offers(endpoint.as_ref(), explains(query));
        json(&offers.await)
    }

    async fn logs(&self, worker: &str, query: &str) -> Response<Vec<u8>> {
        let Ok(lines) = parameter(query, "lines").map_or(Ok(LOG_LINES), str::parse) else {
            return answer(400, TEXT, "lines is a number\n");
        };
        match self.control.logs(&WorkerId::new(worker), lines).await {
            Ok(text) => answer(200, TEXT, text),
            Err(NoLogs::Unknown) => {
                let wanted = WorkerId::new(worker);
                let why = self.with_ledger(move |ledger| Ok(no_logs(ledger, &wanted)));
                answer(
                    404,
                    TEXT,
                    format!("{}\n", why.await.unwrap_or_else(|why| why)),
                )
            }
            Err(NoLogs::Failed(why)) => answer(502, TEXT, format!("{why}\n")),
        }
    }
}

fn explains(query: &str) -> bool {
    parameter(query, "explain").is_some()
}

/// Why a worker that does not run has no log.
pub fn no_logs(ledger: &Ledger, worker: &WorkerId) -> String {
    let Ok(Some(rental)) = ledger.rental(worker) else {
        return format!("there is no worker {worker}");
    };
    let Some(ended_at) = rental.ended_at else {
        return format!("{worker} has no machine yet, and no log");
    };
    let at = i64::try_from(ended_at.as_millis()).ok();
    let at = at.and_then(chrono::DateTime::from_timestamp_millis);
    let at = at.map_or_else(String::new, |at| format!(" at {}", at.format("%F %T")));
    let reason = match rental.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!("{worker} ended{at}{reason}, and its log went with it")
}

/// The value of a parameter; ids and numbers need no decoding.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GroupName, Rental, RentalState, Timestamp, UsdPerHour};

    #[test]
    fn a_worker_that_ended_is_told_from_one_that_never_was() {
        let dir = tempfile::tempdir().expect("directory");
        let at = Timestamp::from_millis;
        let ledger = Ledger::open(dir.path(), at(1)).expect("open");
        let worker = WorkerId::new("w1");
        let rental = Rental {
            worker: worker.clone(),
            endpoint: EndpointName::new("chat"),
            group: GroupName::new("small"),
            state: RentalState::Intended,
            instance: None,
            usd_per_hour: UsdPerHour(0.4),
            intended_at: at(5),
            ended_at: None,
            reason: "requests wait".into(),
        };
        ledger.intend(&rental).expect("intend");
        assert!(no_logs(&ledger, &worker).contains("no machine yet"));
        ledger
            .ended(&worker, "boot failed", at(9_000))
            .expect("ended");
        assert_eq!(
            no_logs(&ledger, &worker),
            "w1 ended at 1970-01-01 00:00:09 (boot failed), and its log went with it"
        );
        let nobody = WorkerId::new("w2");
        assert_eq!(no_logs(&ledger, &nobody), "there is no worker w2");
    }

    #[test]
    fn a_parameter_is_found_by_its_whole_name_and_an_empty_one_is_none() {
        let check = |query, expected| assert_eq!(parameter(query, "since"), expected, "{query}");
        check("since=5", Some("5"));
        check("by=day&since=5", Some("5"));
        check("notsince=5", None);
        check("since=", None);
        check("", None);
    }
}
