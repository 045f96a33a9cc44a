//! Turns a settled text and a ticket of the engine into an HTTP answer, streamed or whole, with the fault that was asked for.

use std::io;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::connection::{Breaker, flush};
use super::engine::Ticket;
use super::fault::{Fault, Strike};
use super::text::Script;

/// How one interface writes an answer. The text parts are server-sent events.
pub trait Dialect: Send + 'static {
    /// What comes with the first token.
    fn opening(&self, _script: &Script, _events: &mut String) {}
    fn token(&self, script: &Script, index: usize, events: &mut String);
    /// What comes with the last token.
    fn closing(&self, _script: &Script, _events: &mut String) {}
    /// The unstreamed answer.
    fn whole(&self, script: &Script) -> Vec<u8>;
}

/// A request on its way through the engine.
pub struct Answer<D> {
    pub dialect: D,
    pub script: Script,
    pub ticket: Ticket,
    pub fault: Option<Fault>,
    pub breaker: Breaker,
}

impl<D: Dialect> Answer<D> {
    fn strike(&self) -> Strike {
        self.fault
            .map_or(Strike::Never, |fault| fault.strike(self.script.length()))
    }

    pub async fn respond(mut self, streamed: bool) -> Response {
        if self.strike() == Strike::BeforeHeader {
            let _ = self.misbehave().await;
            if self.fault.is_some() {
                return never_sent();
            }
        }
        if streamed {
            self.respond_in_events()
        } else {
            self.respond_whole().await
        }
    }

    fn respond_in_events(self) -> Response {
        let events = Events {
            answer: self,
            sent: 0,
            spoilt: false,
            over: false,
        };
        let frames = futures_util::stream::unfold(events, |mut events| async {
            events.next().await.map(|frame| (frame, events))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(frames)).into_response()
    }

    async fn respond_whole(mut self) -> Response {
        let length = self.script.length();
        let stop_at = match self.strike() {
            Strike::AfterTokens(after) => after.min(length),
            _ => length,
        };
        if stop_at > 0 && self.ticket.more_than(stop_at - 1).await.is_err() {
            self.breaker.close().await;
            return never_sent();
        }
        let mut body = self.dialect.whole(&self.script);
        match (self.strike(), self.fault) {
            (Strike::AfterTokens(_), Some(Fault::CloseEarly(_) | Fault::Garbage(_))) => {
                body.truncate(body.len() / 2);
            }
            (Strike::AfterTokens(_), _) => {
                let _ = self.misbehave().await;
                if self.fault.is_some() {
                    return never_sent();
                }
            }
            _ => {}
        }
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }

    /// The fault itself. `Ok`: the answer just ends here.
    async fn misbehave(&mut self) -> io::Result<()> {
        match self.fault {
            Some(Fault::DieMidStream(_)) => Err(self.breaker.close().await),
            Some(Fault::Reset(_)) => Err(self.breaker.reset().await),
            Some(Fault::Hang(_)) => std::future::pending().await,
            Some(Fault::Exit(_)) => {
                flush().await;
                std::process::exit(1)
            }
            Some(Fault::Freeze(_)) => {
                flush().await;
                freeze();
                // Whoever let the process go on finds it healthy.
                self.fault = None;
                Ok(())
            }
            Some(Fault::CutEvent(_)) => Err(self.breaker.close().await),
            Some(
                Fault::CloseEarly(_)
                | Fault::Garbage(_)
                | Fault::NoFinalEvent
                | Fault::Slow(_)
                | Fault::Status(_),
            )
            | None => Ok(()),
        }
    }
}

/// Stands where a response must be returned after the connection was broken.
fn never_sent() -> Response {
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// Stops this process until it gets SIGCONT.
fn freeze() {
    use rustix::process::{Signal, getpid, kill_process};
    // A process may always signal itself.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// A streamed answer in progress.
struct Events<D> {
    answer: Answer<D>,
    sent: u32,
    /// What a fault puts in place of the next event was sent.
    spoilt: bool,
    over: bool,
}

impl<D: Dialect> Events<D> {
    /// The next piece of the body: all tokens that the engine emitted since the last.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.over {
            if self.answer.strike() == Strike::AfterTokens(self.sent) {
                let spoilt = self.spoil();
                if !spoilt.is_empty() {
                    return Some(Ok(spoilt));
                }
                let broken = self.answer.misbehave().await.err();
                if self.answer.fault.is_some() {
                    self.over = true;
                    return broken.map(Err);
                }
            }
            let Ok(emitted) = self.answer.ticket.more_than(self.sent).await else {
                self.over = true;
                return Some(Err(self.answer.breaker.close().await));
            };
            let events = self.write_up_to(emitted);
            if !events.is_empty() {
                return Some(Ok(events.into()));
            }
        }
        None
    }

    /// The bytes that a fault puts in place of the next event; empty the second time.
    fn spoil(&mut self) -> Bytes {
        if std::mem::replace(&mut self.spoilt, true) {
            return Bytes::new();
        }
        match self.answer.fault {
            Some(Fault::Garbage(_)) => Bytes::from_static(b"data: {\"choices\": [{\"te\n\n"),
            Some(Fault::CutEvent(_)) => Bytes::from(half(self.next_event().into_bytes())),
            _ => Bytes::new(),
        }
    }

    fn next_event(&self) -> String {
        let Answer {
            dialect, script, ..
        } = &self.answer;
        let mut event = String::new();
        if self.sent == 0 {
            dialect.opening(script, &mut event);
        }
        if self.sent < script.length() {
            dialect.token(script, self.sent as usize, &mut event);
        } else {
            dialect.closing(script, &mut event);
        }
        event
    }

    fn write_up_to(&mut self, emitted: u32) -> String {
        let Answer {
            dialect, script, ..
        } = &self.answer;
        let strike = self.answer.strike();
        let upto = match strike {
            Strike::AfterTokens(after) => emitted.min(after),
            _ => emitted,
        };
        let mut events = String::new();
        if self.sent == 0 {
            dialect.opening(script, &mut events);
        }
        for index in self.sent..upto {
            dialect.token(script, index as usize, &mut events);
        }
        self.sent = upto;
        if upto == script.length() && strike != Strike::AfterTokens(upto) {
            dialect.closing(script, &mut events);
            self.over = true;
            if self.answer.fault == Some(Fault::NoFinalEvent) {
                events.truncate(events.rfind("data:").unwrap_or(0));
            }
        }
        events
    }
}

/// An event up to the middle of its first character of several bytes, where it has one.
fn half(mut event: Vec<u8>) -> Vec<u8> {
    let inside = event.iter().position(|byte| !byte.is_ascii());
    event.truncate(inside.map_or(event.len() / 2, |at| at + 1));
    event
}
