//! Text Generation Inference, and its own routes passed through to it.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer::{AnswerReader, Form, Gets, Seen, Tally};
use super::call::Call;
use super::errors::error_message;
use super::json::JsonObject;
use super::openai::estimated_tokens;
use super::prompt::TextLength;
use super::seam::SeamStop;
use super::transcript::Transcript;
use super::{Exchange, obstacle};
use crate::domain::{Api, EngineKind, Obstacle};

/// TGI's routes over an engine that has them.
pub(super) fn exchange(engine: EngineKind, call: &Call) -> Exchange {
    let meter = GenerateMeter::new(call);
    let transcript = Transcript::new(call.streamed, obstacle::of_call(engine, call));
    Exchange {
        path: path(call),
        body: if meter.withhold_details {
            with_details(&call.body)
        } else {
            call.body.to_bytes()
        },
        answer: AnswerReader::new(Form::Generate(meter), transcript),
    }
}

pub(super) fn path(call: &Call) -> &'static str {
    if call.streamed {
        "/generate_stream"
    } else {
        "/generate"
    }
}

/// Only with details does an unstreamed answer say how many tokens it has.
fn with_details(body: &JsonObject) -> Bytes {
    // As they are written: what is not read here need not fit what JSON values can hold.
    let written = body.raw("parameters").cloned().map(JsonObject::parse);
    let mut parameters = match written {
        Some(Ok(parameters)) => parameters,
        _ => JsonObject::default(),
    };
    parameters.set("details", true);
    let mut body = body.clone();
    body.set_raw("parameters", parameters.to_bytes());
    body.to_bytes()
}

#[derive(Debug)]
pub(super) struct GenerateMeter {
    /// An unstreamed answer is given as a list of one.
    as_list: bool,
    /// The client did not ask for them.
    withhold_details: bool,
    /// Of the answer's text, what is the prompt.
    prompt_bytes: usize,
    seam: Option<Seam>,
}

/// For a stream that another worker began.
#[derive(Debug)]
struct Seam {
    stop: SeamStop,
    /// Text before what this worker makes: the prompt where it is to come back, and what the client has.
    before: String,
    /// Of them, the prompt's bytes.
    prompt_bytes: usize,
}

impl GenerateMeter {
    pub fn new(call: &Call) -> Self {
        let parameters = call.generate.as_ref();
        let full_text = parameters.is_some_and(|parameters| parameters.return_full_text);
        let details_wanted = parameters.is_some_and(|parameters| parameters.details);
        Self {
            as_list: call.api == Api::TgiRoot,
            withhold_details: !call.streamed && !details_wanted,
            prompt_bytes: if full_text { call.prompt_bytes } else { 0 },
            seam: None,
        }
    }

    /// Goes on after `prompt` (where the client wants it back) and the text it has.
    pub fn after(call: &Call, prompt: &str, given: &str, stop: SeamStop) -> Self {
        let seam = Seam {
            stop,
            before: format!("{prompt}{given}"),
            prompt_bytes: prompt.len(),
        };
        Self {
            seam: Some(seam),
            ..Self::new(call)
        }
    }

    pub fn see(&mut self, data: &[u8], tally: &mut Tally, transcript: &mut Transcript) -> Seen {
        let Ok(event) = serde_json::from_slice::<Answer<'_>>(data) else {
            if tally.is_garbled_by(data) {
                return Seen::default();
            }
            transcript.hinder(Obstacle::NotUnderstood);
            return Seen::default();
        };
        event.note(tally);
        let tokens = u32::from(event.token.is_some());
        tally.tokens = tally.tokens.saturating_add(tokens);
        transcript.index += tokens;
        let text = event.text();
        transcript.add(text);
        let gets = match &mut self.seam {
            Some(seam) => seam.rewrite(data, text, tally, transcript),
            None => Gets::TheEvent,
        };
        Seen { tokens, gets }
    }

    pub fn answer(&mut self, body: Bytes, tally: &mut Tally) -> Bytes {
        if let Ok(answer) = serde_json::from_slice::<Answer<'_>>(&body) {
            answer.note(tally);
            let text = answer.generated_text.map_or(0, |text| text.0);
            let estimate = estimated_tokens(text.saturating_sub(self.prompt_bytes));
            tally.tokens = tally.usage.unwrap_or(estimate);
        }
        let body = if self.withhold_details {
            without_details(body)
        } else {
            body
        };
        if self.as_list && !body.starts_with(b"[") {
            as_list(&body)
        } else {
            body
        }
    }
}

/// An answer that is no object passes as it is.
fn without_details(body: Bytes) -> Bytes {
    match JsonObject::parse(body.clone()) {
        Ok(mut answer) if answer.has("details") => {
            answer.remove("details");
            answer.to_bytes()
        }
        _ => body,
    }
}

pub(super) fn as_list(body: &[u8]) -> Bytes {
    let mut list = BytesMut::with_capacity(body.len() + 2);
    list.put_u8(b'[');
    list.put_slice(body);
    list.put_u8(b']');
    list.freeze()
}

impl Seam {
    /// The event as one of the stream that the first worker began.
    fn rewrite(
        &mut self,
        data: &[u8],
        text: &str,
        tally: &mut Tally,
        transcript: &Transcript,
    ) -> Gets {
        let Ok(mut event) = JsonObject::parse(Bytes::copy_from_slice(data)) else {
            return Gets::TheEvent;
        };
        event.set("index", transcript.index);
        let stopped = self.stop.met(text).is_some();
        if let Ok(Some(made)) = event.get::<String>("generated_text") {
            event.set("generated_text", self.before.clone() + &made);
            if let Ok(Some(mut details)) = event.get::<Map<String, Value>>("details") {
                if stopped {
                    // The engine saw only that the tokens were used up.
                    tally.finish_reason = Some("stop_sequence".to_owned());
                    details.insert("finish_reason".to_owned(), "stop_sequence".into());
                }
                total_details(&mut details, tally);
                event.set("details", details);
            }
        } else if stopped {
            self.end(&mut event, tally, transcript);
        }
        let mut frame = BytesMut::from(&b"data:"[..]);
        frame.extend_from_slice(&event.to_bytes());
        frame.extend_from_slice(b"\n\n");
        Gets::Instead(frame.freeze())
    }

    /// Makes the event the last one: a stop sequence is complete that the engine cannot see.
    fn end(&self, event: &mut JsonObject, tally: &mut Tally, transcript: &Transcript) {
        tally.stopped = true;
        tally.ended = true;
        tally.finish_reason = Some("stop_sequence".to_owned());
        let prompt = &self.before[..self.prompt_bytes];
        event.set("generated_text", format!("{prompt}{}", transcript.text));
        let mut details = Map::new();
        details.insert("finish_reason".to_owned(), "stop_sequence".into());
        details.insert("seed".to_owned(), Value::Null);
        total_details(&mut details, tally);
        event.set("details", details);
    }
}

fn total_details(details: &mut Map<String, Value>, tally: &Tally) {
    details.insert("generated_tokens".to_owned(), tally.output_tokens().into());
    if let Some(tokens) = tally.prompt_tokens {
        details.insert("input_length".to_owned(), tokens.into());
    }
}

/// A stream's event or a whole answer.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    token: Option<Token<'a>>,
    /// In a stream only the last event has it.
    #[serde(default)]
    generated_text: Option<TextLength>,
    #[serde(default)]
    details: Option<Details>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    /// Not part of the text.
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    generated_tokens: Option<u32>,
    #[serde(default)]
    input_length: Option<u32>,
    /// The sequences that `best_of` made and did not choose.
    #[serde(default)]
    best_of_sequences: Option<Vec<Sequence>>,
}

#[derive(Deserialize)]
struct Sequence {
    #[serde(default)]
    generated_tokens: u32,
}

impl Answer<'_> {
    fn text(&self) -> &str {
        let token = self.token.as_ref().filter(|token| !token.special);
        token.map_or("", |token| &token.text)
    }

    fn note(&self, tally: &mut Tally) {
        tally.ended |= self.generated_text.is_some();
        if let Some(error) = &self.error {
            let message = error_message(&serde_json::json!({ "error": error }));
            tally.error = Some(message.unwrap_or_default());
        }
        let Some(details) = &self.details else {
            return;
        };
        tally.finish_reason = details.finish_reason.clone();
        tally.note_prompt(details.input_length);
        let others = details.best_of_sequences.iter().flatten();
        let others = others.map(|sequence| sequence.generated_tokens);
        tally.usage = details
            .generated_tokens
            .map(|tokens| others.fold(tokens, u32::saturating_add));
    }
}
