//! OpenAI's completions and chat completions, which every engine here speaks and the client gets as they are.
//! The usage is always asked for, to count by, and kept from clients that did not ask.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::answer::{AnswerReader, Form, Gets, Seen, Tally};
use super::call::{BadRequest, Call};
use super::errors::error_message;
use super::json::JsonObject;
use super::openai_chunk::{Choice, Chunk, Delta, Usage};
use super::seam::{SeamStop, frame};
use super::transcript::{Head, Transcript};
use super::{Exchange, obstacle};
use crate::domain::{Api, EngineKind, Obstacle};

const DONE: &[u8] = b"[DONE]";

pub(super) fn exchange(
    engine: EngineKind,
    call: &Call,
    served_model: Option<&str>,
) -> Result<Exchange, BadRequest> {
    let transcript = Transcript::new(call.streamed, obstacle::of_call(engine, call));
    ask(engine, call, served_model, transcript)
}

/// `transcript` is what the client has, or nothing yet.
pub(super) fn ask(
    engine: EngineKind,
    call: &Call,
    served_model: Option<&str>,
    transcript: Transcript,
) -> Result<Exchange, BadRequest> {
    let mut body = call.body.clone();
    let meter = OpenAiMeter::new(engine, call, transcript.is_kept());
    meter.ask_for_counts(&mut body)?;
    name_model(&mut body, engine, call, served_model);
    Ok(Exchange {
        path: path(call.api),
        body: body.to_bytes(),
        answer: AnswerReader::new(Form::OpenAi(meter), transcript),
    })
}

fn path(api: Api) -> &'static str {
    match api {
        Api::ChatCompletions => "/v1/chat/completions",
        _ => "/v1/completions",
    }
}

fn name_model(body: &mut JsonObject, engine: EngineKind, call: &Call, served_model: Option<&str>) {
    match (served_model, call.model.as_deref()) {
        (Some(served), Some(asked)) if served != asked => body.set("model", served),
        (Some(served), None) if engine == EngineKind::Vllm => body.set("model", served),
        _ => {}
    }
}

#[derive(Debug)]
pub(super) struct OpenAiMeter {
    engine: EngineKind,
    api: Api,
    /// The client asked for the usage at the end.
    usage_wanted: bool,
    /// The client asked for it in every chunk too.
    usage_always_wanted: bool,
    streamed: bool,
    choices: u32,
    /// Asked for on top, so that the budget of tokens that remains is known when the stream must be gone on with;
    /// kept from the client.
    counts: Option<Counts>,
    /// Indices of the choices whose finish reason was seen.
    finished: BTreeSet<u32>,
    /// The client has the usage.
    usage_given: bool,
    seam: Option<SeamStop>,
}

/// How an engine tells the tokens it has made so far, in every chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// vLLM's `stream_options.continuous_usage_stats`.
    Usage,
    /// llama.cpp's `timings_per_token`.
    Timings,
}

impl OpenAiMeter {
    fn new(engine: EngineKind, call: &Call, resumable: bool) -> Self {
        let usage_always_wanted = call.usage_wanted && wants_continuous_usage(&call.body);
        let counts = match engine {
            _ if !resumable || call.limit_for(engine).is_none() => None,
            EngineKind::Vllm if !usage_always_wanted => Some(Counts::Usage),
            // The stand-in sends each token by itself; only the prompt's count is not known before the end.
            EngineKind::Fake if call.usage_wanted && !usage_always_wanted => Some(Counts::Usage),
            EngineKind::LlamaCpp if !call.body.has("timings_per_token") => Some(Counts::Timings),
            _ => None,
        };
        Self {
            engine,
            api: call.api,
            usage_wanted: call.usage_wanted,
            usage_always_wanted,
            streamed: call.streamed,
            choices: call.choices,
            counts,
            finished: BTreeSet::new(),
            usage_given: false,
            seam: None,
        }
    }

    /// `broken` read the part before.
    pub fn go_on_after(&mut self, broken: &Form, stop: SeamStop) {
        if let Form::OpenAi(before) = broken {
            self.usage_given = before.usage_given;
        }
        self.seam = Some(stop);
    }

    fn hides_usage(&self) -> bool {
        self.streamed && !self.usage_wanted
    }

    fn ask_for_counts(&self, body: &mut JsonObject) -> Result<(), BadRequest> {
        if !self.streamed {
            return Ok(());
        }
        let continuous = self.counts == Some(Counts::Usage);
        if self.hides_usage() || continuous {
            let mut options: Map<String, Value> = body.get("stream_options")?.unwrap_or_default();
            // Means nothing without usage; with it, it would show the usage in every chunk.
            options.remove("continuous_usage_stats");
            options.insert("include_usage".to_owned(), Value::Bool(true));
            if continuous {
                options.insert("continuous_usage_stats".to_owned(), Value::Bool(true));
            }
            body.set("stream_options", options);
        }
        if self.counts == Some(Counts::Timings) {
            body.set("timings_per_token", true);
        }
        Ok(())
    }

    pub fn see(&mut self, data: &[u8], tally: &mut Tally, transcript: &mut Transcript) -> Seen {
        if data == DONE {
            tally.ended = true;
            return Seen::default();
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            if tally.is_garbled_by(data) {
                return Seen::default();
            }
            transcript.hinder(Obstacle::NotUnderstood);
            return Seen::default();
        };
        note_error(chunk.error, chunk.object, data, tally);
        if tally.error.is_some() {
            return Seen::default();
        }
        let usage_only = chunk.choices.as_ref().is_some_and(Vec::is_empty) && chunk.usage.is_some();
        let timings = chunk.timings();
        let choices = chunk.choices.unwrap_or_default();
        tally.note_prompt(timings.prompt_tokens());
        let made = timings.predicted_n;
        let tokens = self.count(&choices, chunk.usage, made, tally);
        self.remember(data, &choices, transcript);
        let stop = choices.first().and_then(|choice| {
            let text = choice.content();
            self.seam.as_mut()?.met(text)
        });
        for choice in choices {
            if let Some(reason) = choice.finish_reason {
                self.finished.insert(choice.index);
                tally.finish_reason = Some(reason.into_owned());
            }
        }
        if stop.is_some() {
            tally.stopped = true;
            tally.finish_reason = Some("stop".to_owned());
            self.finished.insert(0);
        }
        let gets = if usage_only && self.hides_usage() {
            Gets::Nothing
        } else if tally.before > 0 || self.seam.is_some() || self.counts.is_some() {
            self.usage_given |= usage_only;
            self.rewrite(data, usage_only, tally, transcript)
        } else {
            self.usage_given |= usage_only;
            Gets::TheEvent
        };
        Seen { tokens, gets }
    }

    /// Tokens that this chunk brings.
    fn count(
        &self,
        choices: &[Choice<'_>],
        usage: Option<Usage>,
        made: Option<u32>,
        tally: &mut Tally,
    ) -> u32 {
        let mut tokens = choices
            .iter()
            .map(Choice::tokens)
            .fold(0_u32, u32::saturating_add);
        // llama.cpp counts only what it has shown: the last of them is in this chunk.
        tally.usage = made.filter(|_| tokens > 0).or(tally.usage);
        if let Some(usage) = &usage {
            tally.note_prompt(usage.prompt_tokens);
            tally.usage = usage.completion_tokens.or(tally.usage);
        }
        // A count that is told continuously is of one choice, so it helps only where there is one.
        let told = usage.is_some() || made.is_some();
        if told && choices.len() == 1 && self.choices == 1 {
            tokens = newly_counted(tally, tokens);
        }
        tally.tokens = tally.tokens.saturating_add(tokens);
        tokens
    }

    fn remember(&self, data: &[u8], choices: &[Choice<'_>], transcript: &mut Transcript) {
        if !transcript.is_kept() {
            return;
        }
        if transcript.head.is_none() {
            transcript.head = Some(head_of(data));
        }
        for choice in choices {
            transcript.add(choice.content());
            if let Some(obstacle) = choice.delta.as_ref().and_then(Delta::obstacle) {
                transcript.hinder(obstacle);
            }
        }
    }

    /// The chunk as the client is to see it: of one answer, with that answer's totals.
    fn rewrite(
        &self,
        data: &[u8],
        usage_only: bool,
        tally: &Tally,
        transcript: &Transcript,
    ) -> Gets {
        let Ok(mut chunk) = JsonObject::parse(Bytes::copy_from_slice(data)) else {
            return Gets::TheEvent;
        };
        self.take_out_counts(&mut chunk, usage_only, tally);
        if tally.before > 0 || self.seam.is_some() {
            let head = transcript.head.clone().unwrap_or_default();
            for (name, value) in head.fields() {
                if let (true, Some(value)) = (chunk.has(name), value) {
                    chunk.set_raw(name, value);
                }
            }
            if !self.rewrite_choice(&mut chunk, tally) {
                return Gets::Nothing;
            }
        }
        Gets::Instead(frame(&chunk.to_bytes()))
    }

    fn take_out_counts(&self, chunk: &mut JsonObject, usage_only: bool, tally: &Tally) {
        if self.counts == Some(Counts::Timings) && self.finished.is_empty() {
            chunk.remove("timings");
        }
        if chunk.raw("usage").is_none() {
            return;
        }
        if usage_only || self.usage_always_wanted || self.counts != Some(Counts::Usage) {
            if tally.before > 0 {
                self.total_usage(chunk, tally);
            }
        } else if self.usage_wanted && self.engine == EngineKind::Vllm {
            // As it is where the usage comes at the end only.
            chunk.set("usage", Value::Null);
        } else {
            chunk.remove("usage");
        }
    }

    fn total_usage(&self, chunk: &mut JsonObject, tally: &Tally) {
        let mut usage: Map<String, Value> = chunk.get("usage").ok().flatten().unwrap_or_default();
        usage.extend(usage_of(tally));
        chunk.set("usage", usage);
    }

    /// False where nothing is left of the chunk that the client has not got.
    fn rewrite_choice(&self, chunk: &mut JsonObject, tally: &Tally) -> bool {
        let Ok(Some(mut choices)) = chunk.get::<Vec<Map<String, Value>>>("choices") else {
            return true;
        };
        let Some(choice) = choices.first_mut() else {
            return true;
        };
        if tally.stopped {
            choice.insert("finish_reason".to_owned(), "stop".into());
        }
        let mut opening = false;
        if let Some(Value::Object(delta)) = choice.get_mut("delta") {
            opening = delta.remove("role").is_some();
            opening &= delta
                .get("content")
                .is_none_or(|content| content.as_str().is_none_or(str::is_empty));
        }
        let finished = choice
            .get("finish_reason")
            .is_some_and(|reason| !reason.is_null());
        chunk.set("choices", serde_json::json!(choices));
        !opening || finished
    }

    /// A worker that gave every finish reason but not the last mark has said all; the client is told so.
    pub fn finish(&mut self, tally: &mut Tally, transcript: &Transcript, tail: &mut BytesMut) {
        if !tally.ended && tally.error.is_none() && self.has_finished() {
            tally.ended = true;
            if self.usage_wanted && !self.usage_given {
                let mut chunk = self.chunk(transcript);
                chunk.insert("choices".to_owned(), Value::Array(Vec::new()));
                chunk.insert("usage".to_owned(), Value::Object(usage_of(tally)));
                tail.extend_from_slice(&frame(Value::Object(chunk).to_string().as_bytes()));
            }
            tail.extend_from_slice(b"data: [DONE]\n\n");
        }
    }

    /// Every choice has its finish reason.
    pub fn has_finished(&self) -> bool {
        self.finished.len() >= self.choices.max(1) as usize
    }

    /// All tokens are given, only the end is not, and perhaps the finish reason.
    pub fn end_at_limit(
        &mut self,
        tally: &mut Tally,
        transcript: &Transcript,
        tail: &mut BytesMut,
    ) {
        if !self.has_finished() {
            self.finish_at_limit(tally, transcript, tail);
        }
        self.finish(tally, transcript, tail);
    }

    fn finish_at_limit(&mut self, tally: &mut Tally, transcript: &Transcript, tail: &mut BytesMut) {
        let mut chunk = self.chunk(transcript);
        let mut choice =
            serde_json::json!({"index": 0, "logprobs": null, "finish_reason": "length"});
        match self.api {
            Api::ChatCompletions => choice["delta"] = serde_json::json!({}),
            _ => choice["text"] = "".into(),
        }
        chunk.insert("choices".to_owned(), Value::Array(vec![choice]));
        tail.extend_from_slice(&frame(Value::Object(chunk).to_string().as_bytes()));
        tally.finish_reason = Some("length".to_owned());
        self.finished.insert(0);
    }

    fn chunk(&self, transcript: &Transcript) -> Map<String, Value> {
        let mut chunk = Map::new();
        let head = transcript.head.clone().unwrap_or_default();
        for (name, value) in head.fields() {
            let value = value.and_then(|value| serde_json::from_slice::<Value>(&value).ok());
            chunk.extend(value.map(|value| (name.to_owned(), value)));
        }
        let object = match self.api {
            Api::ChatCompletions => "chat.completion.chunk",
            _ => "text_completion",
        };
        chunk.insert("object".to_owned(), object.into());
        chunk
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

fn head_of(data: &[u8]) -> Head {
    let chunk = JsonObject::parse(Bytes::copy_from_slice(data)).unwrap_or_default();
    let field = |name: &str| chunk.raw(name).cloned();
    Head {
        id: field("id"),
        created: field("created"),
        model: field("model"),
        system_fingerprint: field("system_fingerprint"),
    }
}

fn usage_of(tally: &Tally) -> Map<String, Value> {
    let prompt = tally.prompt_tokens.unwrap_or(0);
    let completion = tally.output_tokens();
    let counts = [
        ("prompt_tokens", prompt),
        ("completion_tokens", completion),
        ("total_tokens", prompt.saturating_add(completion)),
    ];
    counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect()
}

fn wants_continuous_usage(body: &JsonObject) -> bool {
    let options: Option<Map<String, Value>> = body.get("stream_options").ok().flatten();
    options.is_some_and(|options| options.get("continuous_usage_stats") == Some(&Value::Bool(true)))
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
