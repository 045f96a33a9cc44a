//! Text Generation Inference, and its own routes passed through to it.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::Exchange;
use super::answer::{AnswerReader, Form, Seen, Tally};
use super::call::Call;
use super::errors::error_message;
use super::json::JsonObject;
use super::openai::estimated_tokens;
use super::prompt::TextLength;
use crate::domain::Api;

/// TGI's routes over an engine that has them.
pub(super) fn exchange(call: &Call) -> Exchange {
    let full_text = call
        .generate
        .as_ref()
        .is_some_and(|parameters| parameters.return_full_text);
    let details_wanted = call
        .generate
        .as_ref()
        .is_some_and(|parameters| parameters.details);
    let meter = GenerateMeter {
        as_list: call.api == Api::TgiRoot,
        withhold_details: !call.streamed && !details_wanted,
        prompt_bytes: if full_text { call.prompt_bytes } else { 0 },
    };
    Exchange {
        path: if call.streamed {
            "/generate_stream"
        } else {
            "/generate"
        },
        body: if meter.withhold_details {
            with_details(&call.body)
        } else {
            call.body.to_bytes()
        },
        answer: AnswerReader::new(Form::Generate(meter)),
    }
}

/// Only with details does an unstreamed answer say how many tokens it has.
fn with_details(body: &JsonObject) -> Bytes {
    let parameters = body
        .get::<serde_json::Map<String, Value>>("parameters")
        .ok()
        .flatten();
    let mut parameters = parameters.unwrap_or_default();
    parameters.insert("details".into(), Value::Bool(true));
    let mut body = body.clone();
    body.set("parameters", Value::Object(parameters));
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
}

impl GenerateMeter {
    pub fn see(&mut self, data: &[u8], tally: &mut Tally) -> Seen {
        let Ok(event) = serde_json::from_slice::<Answer>(data) else {
            return Seen::default();
        };
        event.note(tally);
        Seen {
            tokens: u32::from(event.token.is_some()),
            withhold: false,
        }
    }

    pub fn answer(&mut self, body: Bytes, tally: &mut Tally) -> Bytes {
        if let Ok(answer) = serde_json::from_slice::<Answer>(&body) {
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

/// A stream's event or a whole answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<IgnoredAny>,
    /// In a stream only the last event has it.
    #[serde(default)]
    generated_text: Option<TextLength>,
    #[serde(default)]
    details: Option<Details>,
    #[serde(default)]
    error: Option<Value>,
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

impl Answer {
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
        tally.prompt_tokens = details.input_length;
        let others = details.best_of_sequences.iter().flatten();
        let others = others.map(|sequence| sequence.generated_tokens);
        tally.usage = details
            .generated_tokens
            .map(|tokens| others.fold(tokens, u32::saturating_add));
    }
}
