//! The gateway's `/fleet`, read leniently: only what counting workers needs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One moment of all endpoints together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FleetSample {
    /// Workers by the name of their phase.
    pub phases: BTreeMap<String, usize>,
    pub waiting: u64,
    /// Requests that workers hold, as the gateway believes.
    pub in_flight: u64,
    /// Their predicted work that is not done.
    pub outstanding: f64,
}

impl FleetSample {
    pub fn count(&self, phase: &str) -> usize {
        self.phases.get(phase).copied().unwrap_or(0)
    }

    pub fn ready(&self) -> usize {
        self.count("ready")
    }

    /// Workers that exist and run up costs: all but those stopped or gone.
    pub fn running(&self) -> usize {
        let all: usize = self.phases.values().sum();
        all - self.count("stopped") - self.count("gone")
    }

    /// Nothing waits and nothing is in flight, to the last fraction of a token.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0 && self.outstanding == 0.0
    }

    fn parse(json: &str) -> serde_json::Result<Self> {
        let fleet: Fleet = serde_json::from_str(json)?;
        let mut sample = Self::default();
        for endpoint in fleet.endpoints {
            sample.waiting += endpoint.waiting.requests;
            for worker in endpoint.workers {
                *sample.phases.entry(worker.phase.name).or_default() += 1;
                sample.in_flight += worker.in_flight;
                sample.outstanding += worker.outstanding;
            }
        }
        Ok(sample)
    }
}

#[derive(Deserialize)]
struct Fleet {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    workers: Vec<Worker>,
    #[serde(default)]
    waiting: Waiting,
}

#[derive(Deserialize)]
struct Worker {
    phase: Phase,
    #[serde(default)]
    in_flight: u64,
    #[serde(default)]
    outstanding: f64,
}

#[derive(Deserialize)]
struct Phase {
    name: String,
}

#[derive(Default, Deserialize)]
struct Waiting {
    #[serde(default)]
    requests: u64,
}

/// Asks a gateway's admin port.
pub async fn read_fleet(client: &reqwest::Client, admin_url: &str) -> Result<FleetSample> {
    let response = client
        .get(format!("{admin_url}/fleet"))
        .timeout(Duration::from_secs(5))
        .send()
        .await?
        .error_for_status()?;
    let text = response.text().await?;
    FleetSample::parse(&text).context("/fleet is not as expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_counted_over_endpoints_and_unknown_fields_ignored() {
        let sample = FleetSample::parse(
            r#"{"version":3,"endpoints":[
                {"endpoint":"a","workers":[
                    {"id":"w1","phase":{"name":"ready"}},
                    {"id":"w2","phase":{"name":"draining","then":"stop","since":5}},
                    {"id":"w3","phase":{"name":"stopped"}}],
                 "waiting":{"requests":4,"bytes":9},"demand":{}},
                {"endpoint":"b","workers":[{"id":"w4","phase":{"name":"ready"}}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            (sample.ready(), sample.running(), sample.waiting),
            (2, 3, 4)
        );
    }

    #[test]
    fn an_answer_that_is_no_fleet_is_an_error_and_not_an_empty_fleet() {
        assert!(FleetSample::parse("{}").is_err());
        assert!(FleetSample::parse("not json").is_err());
    }
}
