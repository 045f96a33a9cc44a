//! The load of each case, from clients that keep their connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use serde_json::json;
use tokio::task::JoinSet;

use super::backend::{BURST, BURST_EVENTS, STEADY};
use crate::harness::{http_client, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// 1 KB of JSON, answered unstreamed, one after the other on each connection.
    Small,
    /// Streams whose events are all ready at once.
    Burst,
    /// Streams that each carry an event at a steady pace.
    Steady,
}

impl Case {
    pub const ALL: [Case; 3] = [Case::Small, Case::Burst, Case::Steady];

    pub fn title(self) -> &'static str {
        match self {
            Case::Small => "1 KB JSON, unstreamed, 16 connections",
            Case::Burst => "64 events at once, 16 connections",
            Case::Steady => "200 steady streams, 50 events/s each",
        }
    }

    /// What the CPU time is divided by.
    pub fn unit(self) -> &'static str {
        match self {
            Case::Small => "request",
            Case::Burst | Case::Steady => "event",
        }
    }

    fn clients(self) -> usize {
        match self {
            Case::Small | Case::Burst => 16,
            Case::Steady => 200,
        }
    }

    fn body(self) -> String {
        let word = match self {
            Case::Small => "bench-small",
            Case::Burst => BURST,
            Case::Steady => STEADY,
        };
        let mut prompt = word.to_owned();
        // The body as a whole is to be 1 KB.
        while prompt.len() < 900 {
            prompt.push_str(" quiet river");
        }
        json!({
            "model": "bench",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 64,
            "stream": self != Case::Small,
        })
        .to_string()
    }
}

/// Clients at work; dropped or stopped, they leave.
pub struct Load {
    case: Case,
    /// Requests or events received.
    units: Arc<AtomicU64>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    pub fn start(case: Case, base_url: &str) -> Result<Self> {
        let units = Arc::new(AtomicU64::new(0));
        let client = Client {
            case,
            http: http_client()?,
            url: format!("{base_url}/v1/chat/completions"),
            body: case.body(),
            units: Arc::clone(&units),
        };
        let mut clients = JoinSet::new();
        for _ in 0..case.clients() {
            clients.spawn(client.clone().work());
        }
        Ok(Self {
            case,
            units,
            clients,
        })
    }

    pub fn units(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    /// Until every client has had its share ten times over.
    pub async fn warm_up(&self) -> Result<()> {
        let enough = 10 * self.case.clients() as u64;
        let warm = || std::future::ready(self.units() >= enough || self.clients.is_empty());
        ensure!(
            wait_until(Duration::from_secs(30), warm).await,
            "{}: only {} came through in 30 s",
            self.case.title(),
            self.units()
        );
        Ok(())
    }

    /// Fails if a client ended by itself: they work until they are stopped.
    pub async fn stop(mut self) -> Result<()> {
        let ended = self.clients.try_join_next();
        self.clients.shutdown().await;
        match ended {
            None => Ok(()),
            Some(ended) => ended?.with_context(|| self.case.title()),
        }
    }
}

#[derive(Clone)]
struct Client {
    case: Case,
    http: reqwest::Client,
    url: String,
    body: String,
    units: Arc<AtomicU64>,
}

impl Client {
    /// Ends with an error only.
    async fn work(self) -> Result<()> {
        loop {
            let response = self
                .http
                .post(&self.url)
                .header("content-type", "application/json")
                .body(self.body.clone())
                .send()
                .await?
                .error_for_status()?;
            if self.case == Case::Small {
                let answer = response.bytes().await?;
                ensure!(answer.starts_with(b"{"), "an answer that is no object");
                self.units.fetch_add(1, Ordering::Relaxed);
            } else {
                let events = self.follow(response).await?;
                ensure!(
                    events > BURST_EVENTS as u64,
                    "a stream ended after {events} events"
                );
            }
        }
    }

    async fn follow(&self, response: reqwest::Response) -> Result<u64> {
        let mut counter = EventCounter::default();
        let mut all = 0;
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let events = counter.count(&bytes?);
            self.units.fetch_add(events, Ordering::Relaxed);
            all += events;
        }
        Ok(all)
    }
}

/// Counts the empty lines that end events, across any division of the stream.
#[derive(Default)]
struct EventCounter {
    at_line_start: bool,
}

impl EventCounter {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut events = 0;
        for &byte in bytes {
            let newline = byte == b'\n';
            if newline && self.at_line_start {
                events += 1;
            }
            self.at_line_start = newline && !self.at_line_start;
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::backend::Backend;

    #[test]
    fn events_are_counted_across_any_division() {
        let stream = b"data: a\n\ndata: b\n\ndata: [DONE]\n\n";
        for size in 1..=stream.len() {
            let mut counter = EventCounter::default();
            let events: u64 = stream.chunks(size).map(|chunk| counter.count(chunk)).sum();
            assert_eq!(events, 3, "in pieces of {size}");
        }
    }

    #[test]
    fn a_request_is_a_kilobyte() {
        for case in Case::ALL {
            assert!(
                (950..1100).contains(&case.body().len()),
                "{}",
                case.body().len()
            );
        }
    }

    #[tokio::test]
    async fn every_case_runs_against_the_backend_itself_and_leaves_nothing_open() {
        let backend = Backend::start().await.unwrap();
        for case in Case::ALL {
            let load = Load::start(case, &format!("http://127.0.0.1:{}", backend.port)).unwrap();
            load.warm_up().await.unwrap();
            load.stop().await.unwrap();
            backend.wait_idle().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_fails_the_measurement() {
        let port = crate::harness::free_port().unwrap();
        let mut load = Load::start(Case::Burst, &format!("http://127.0.0.1:{port}")).unwrap();
        let ended = load.clients.join_next().await.unwrap().unwrap();
        assert!(ended.is_err());
        assert!(load.stop().await.is_err());
    }
}
