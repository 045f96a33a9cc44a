//! Questions with a parameter, and those that look at a market: `/plan`, `/offers`, `/logs/WORKER`; the ledger's are
//! in `books`.

use std::time::Duration;

use http::Response;

use super::{Admin, NoLogs, TEXT, answer, json};
use crate::domain::{EndpointName, WorkerId};

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
                "/plan" => Some(json(&self.control.preview().await)),
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
        json(&self.control.offers(endpoint.as_ref()).await)
    }

    async fn logs(&self, worker: &str, query: &str) -> Response<Vec<u8>> {
        let Ok(lines) = parameter(query, "lines").map_or(Ok(LOG_LINES), str::parse) else {
            return answer(400, TEXT, "lines is a number\n");
        };
        match self.control.logs(&WorkerId::new(worker), lines).await {
            Ok(text) => answer(200, TEXT, text),
            Err(NoLogs::Unknown) => answer(404, TEXT, format!("there is no worker {worker}\n")),
            Err(NoLogs::Failed(why)) => answer(502, TEXT, format!("{why}\n")),
        }
    }
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
