//! Sends one request and follows its answer to the end.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Response;
use tokio::time::Instant;

use super::api::{Api, Event};
use super::outcome::{Failure, Outcome};
use super::sse::SseReader;
use crate::trace::TraceRequest;

/// Where requests go and how.
#[derive(Clone, Debug)]
pub struct Target {
    pub client: reqwest::Client,
    /// With the API's path.
    pub url: String,
    pub api: Api,
    pub model: Option<String>,
    pub api_key: Option<String>,
    /// From sending to the end of the answer.
    pub timeout: Duration,
}

/// A request of a trace, of which nothing is hidden from the server.
pub async fn send(target: &Target, request: TraceRequest, seed: u64, due: Instant) -> Outcome {
    let body = target.api.body(request, seed, target.model.as_deref());
    send_body(target, body.to_string(), due).await
}

/// Never fails itself: a failure is an outcome.
pub async fn send_body(target: &Target, body: String, due: Instant) -> Outcome {
    let sent_at = Instant::now();
    let mut answer = Answer::new(target.api, sent_at);
    let failure = tokio::time::timeout(target.timeout, answer.follow(target, body))
        .await
        .unwrap_or_else(|_| Err(Failure::new("timeout", "no end within the time allowed")))
        .err();
    Outcome {
        failure,
        total: sent_at.elapsed(),
        send_lag: sent_at.saturating_duration_since(due),
        ..answer.into_outcome()
    }
}

/// What is known of an answer so far.
struct Answer {
    api: Api,
    sent_at: Instant,
    last_token_at: Option<Instant>,
    outcome: Outcome,
    token_events: u64,
    /// The engine's own count, better than the events.
    tokens_stated: Option<u64>,
    ended: bool,
}

impl Answer {
    fn new(api: Api, sent_at: Instant) -> Self {
        Self {
            api,
            sent_at,
            last_token_at: None,
            outcome: Outcome::default(),
            token_events: 0,
            tokens_stated: None,
            ended: false,
        }
    }

    async fn follow(&mut self, target: &Target, body: String) -> Result<(), Failure> {
        let mut request = target
            .client
            .post(&target.url)
            .header("content-type", "application/json")
            .body(body);
        if let Some(key) = &target.api_key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| {
            let kind = if error.is_connect() {
                "connect"
            } else {
                "no answer"
            };
            Failure::new(kind, chain(&error))
        })?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        if self.api.is_streamed() {
            self.follow_stream(response).await
        } else {
            self.read_whole(response).await
        }
    }

    async fn follow_stream(&mut self, response: Response) -> Result<(), Failure> {
        let mut reader = SseReader::default();
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                // Everything was said already.
                Err(_) if self.ended => break,
                Err(error) => return Err(Failure::new("broken stream", chain(&error))),
            };
            let events = reader
                .push(&bytes)
                .map_err(|_| Failure::new("bad stream", "a line without end"))?;
            for data in events {
                self.take(self.api.read_event(&data))?;
            }
        }
        if self.ended {
            Ok(())
        } else {
            let detail = format!(
                "ended without terminal event after {} events",
                self.token_events
            );
            Err(Failure::new("truncated", detail))
        }
    }

    async fn read_whole(&mut self, response: Response) -> Result<(), Failure> {
        let body = response
            .text()
            .await
            .map_err(|error| Failure::new("broken answer", chain(&error)))?;
        match self.api.read_event(&body) {
            Event::End { output_tokens, .. } => {
                self.note_token();
                self.tokens_stated = output_tokens;
                Ok(())
            }
            Event::Error(error) => Err(Failure::new("error answer", error)),
            _ => Err(Failure::new("bad answer", excerpt(&body))),
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Token => self.note_token(),
            Event::Usage(tokens) => self.tokens_stated = Some(tokens),
            Event::End {
                token,
                output_tokens,
            } => {
                if token {
                    self.note_token();
                }
                self.tokens_stated = output_tokens.or(self.tokens_stated);
                self.ended = true;
            }
            Event::Error(error) => return Err(Failure::new("error event", excerpt(&error))),
            Event::Other => {}
        }
        Ok(())
    }

    fn note_token(&mut self) {
        let now = Instant::now();
        match self.last_token_at {
            Some(last) => self.outcome.gaps.push(now - last),
            None => self.outcome.first_token = Some(now - self.sent_at),
        }
        self.last_token_at = Some(now);
        self.token_events += 1;
    }

    fn into_outcome(self) -> Outcome {
        Outcome {
            output_tokens: self.tokens_stated.unwrap_or(self.token_events),
            ..self.outcome
        }
    }
}

async fn refusal(response: Response) -> Failure {
    let status = response.status().as_u16();
    let body = response.text().await.unwrap_or_default();
    Failure::new(format!("status {status}"), excerpt(&body))
}

fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}

/// reqwest hides the cause; it is what one wants to know.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
