//! OpenAI's completions and chat completions, which every engine here speaks and the client gets as they are.
//! The usage is always asked for, to count by, and kept from clients that did not ask.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Exchange;
use super::answer::{AnswerReader, Form, Seen, Tally};
use super::call::{BadRequest, Call};
use super::errors::error_message;
use crate::domain::{Api, EngineKind};

const DONE: &[u8] = b"[DONE]";

pub(super) fn exchange(
    engine: EngineKind,
    call: &Call,
    served_model: Option<&str>,
) -> Result<Exchange, BadRequest> {
    let mut body = call.body.clone();
    let hide_usage = call.streamed && !call.usage_wanted;
    if hide_usage {
        let mut options: Map<String, Value> = body.get("stream_options")?.unwrap_or_default();
        // Means nothing without usage; with it, it would show the usage in every chunk.
        options.remove("continuous_usage_stats");
        options.insert("include_usage".to_owned(), Value::Bool(true));
        body.set("stream_options", options);
    }
    match (served_model, call.model.as_deref()) {
        (Some(served), Some(asked)) if served != asked => body.set("model", served),
        (Some(served), None) if engine == EngineKind::Vllm => body.set("model", served),
        _ => {}
    }
    let path = match call.api {
        Api::ChatCompletions => "/v1/chat/completions",
        _ => "/v1/completions",
    };
    let meter = OpenAiMeter {
        hide_usage,
        choices: call.choices,
        finished: BTreeSet::new(),
    };
    Ok(Exchange {
        path,
        body: body.to_bytes(),
        answer: AnswerReader::new(Form::OpenAi(meter)),
    })
}

#[derive(Debug)]
pub(super) struct OpenAiMeter {
    hide_usage: bool,
    choices: u32,
    /// Indices of the choices whose finish reason was seen.
    finished: BTreeSet<u32>,
}

impl OpenAiMeter {
    pub fn see(&mut self, data: &[u8], tally: &mut Tally) -> Seen {
        if data == DONE {
            tally.ended = true;
            return Seen::default();
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            return Seen::default();
        };
        note_error(chunk.error, chunk.object, data, tally);
        let usage_only = chunk.choices.as_ref().is_some_and(Vec::is_empty) && chunk.usage.is_some();
        let choices = chunk.choices.unwrap_or_default();
        let mut tokens = choices
            .iter()
            .map(Choice::tokens)
            .fold(0_u32, u32::saturating_add);
        if let Some(usage) = chunk.usage {
            tally.prompt_tokens = usage.prompt_tokens.or(tally.prompt_tokens);
            tally.usage = usage.completion_tokens.or(tally.usage);
            // Continuous usage counts one choice only, so it helps only where there is one.
            if choices.len() == 1 && self.choices == 1 {
                tokens = newly_counted(tally, tokens);
            }
        }
        for choice in choices {
            if let Some(reason) = choice.finish_reason {
                self.finished.insert(choice.index);
                tally.finish_reason = Some(reason.into_owned());
            }
        }
        Seen {
            tokens,
            withhold: usage_only && self.hide_usage,
        }
    }

    /// A worker that gave every finish reason but not the last mark has said all; the client is told so.
    pub fn finish(&mut self, tally: &mut Tally, tail: &mut BytesMut) {
        if !tally.ended
            && tally.error.is_none()
            && self.finished.len() >= self.choices.max(1) as usize
        {
            tally.ended = true;
            tail.extend_from_slice(b"data: [DONE]\n\n");
        }
    }

    pub fn answer(&mut self, body: Bytes, tally: &mut Tally) -> Bytes {
        let Ok(answer) = serde_json::from_slice::<Chunk<'_>>(&body) else {
            return body;
        };
        note_error(answer.error, answer.object, &body, tally);
        let choices = answer.choices.unwrap_or_default();
        tally.ended = !choices.is_empty();
        let reason = choices
            .iter()
            .find_map(|choice| choice.finish_reason.as_deref());
        tally.finish_reason = reason.map(str::to_owned);
        let usage = answer.usage.unwrap_or_default();
        tally.prompt_tokens = usage.prompt_tokens;
        let text: usize = choices.iter().map(Choice::text_bytes).sum();
        tally.tokens = usage
            .completion_tokens
            .unwrap_or_else(|| estimated_tokens(text));
        body
    }
}

/// Tokens of an answer whose engine does not count them.
pub(super) fn estimated_tokens(text_bytes: usize) -> u32 {
    u32::try_from(text_bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

/// Tokens the engine has counted and the events so far have not shown; `seen` if its count is not to be believed.
fn newly_counted(tally: &Tally, seen: u32) -> u32 {
    let counted = tally.usage.unwrap_or(0).saturating_sub(tally.tokens);
    let most = tally
        .tokens
        .saturating_add(seen)
        .saturating_mul(16)
        .saturating_add(16);
    if (seen..=most).contains(&counted) {
        counted
    } else {
        seen
    }
}

fn note_error(
    error: Option<IgnoredAny>,
    object: Option<&RawValue>,
    data: &[u8],
    tally: &mut Tally,
) {
    if error.is_some() || object.is_some_and(|object| object.get() == "\"error\"") {
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        tally.error = Some(error_message(&event).unwrap_or_else(|| "unknown error".to_owned()));
    }
}

/// A stream's chunk or a whole answer; the two differ only in `delta` and `message`.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<IgnoredAny>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
pub(super) struct Usage {
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    #[serde(default)]
    pub completion_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    text: Length,
    #[serde(default, alias = "message")]
    delta: Option<Delta>,
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

impl Choice<'_> {
    fn tokens(&self) -> u32 {
        match &self.token_ids {
            Some(ids) if !ids.is_empty() => u32::try_from(ids.len()).unwrap_or(u32::MAX),
            _ => u32::from(self.text_bytes() > 0),
        }
    }

    fn text_bytes(&self) -> usize {
        self.text.0 + self.delta.as_ref().map_or(0, Delta::bytes)
    }
}

/// What a chat's chunk adds to, or a message holds.
#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Length,
    #[serde(default)]
    reasoning_content: Length,
    #[serde(default)]
    reasoning: Length,
    #[serde(default)]
    refusal: Length,
    #[serde(default)]
    tool_calls: Length,
}

impl Delta {
    fn bytes(&self) -> usize {
        // Engines that renamed `reasoning_content` send it under both names.
        self.content.0
            + self.reasoning_content.0.max(self.reasoning.0)
            + self.refusal.0
            + self.tool_calls.0
    }
}

/// How much there is of something whose content does not matter: bytes of text, entries of a list.
#[derive(Clone, Copy, Default)]
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LengthVisitor)
    }
}

struct LengthVisitor;

impl<'de> Visitor<'de> for LengthVisitor {
    type Value = Length;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a list or null")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Length, E> {
        Ok(Length(text.len()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Length, A::Error> {
        let mut length = 0;
        while items.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        Ok(Length(length))
    }
}
