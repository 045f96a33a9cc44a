//! Going on with a stream that one worker began on another: from the text the client has, or from its tokens where the
//! engine tells them.

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::answer::{AnswerReader, Form};
use super::call::{BadRequest, Call};
use super::generate::GenerateParameters;
use super::json::JsonObject;
use super::obstacle::prompt_text;
use super::seam::SeamStop;
use super::tgi::{self, GenerateMeter};
use super::transcript::Transcript;
use super::translate::{self, Dialect};
use super::{Ending, Exchange, llamacpp, obstacle, openai, vllm};
use crate::domain::{Api, EngineKind};

/// The client has all tokens it asked for, or the finish reason; only the end is missing, which `end_at_limit` makes.
pub fn is_at_limit(broken: &AnswerReader) -> bool {
    let finished = matches!(&broken.form, Form::OpenAi(meter) if meter.has_finished());
    finished || left(broken) == Some(0)
}

/// Whether this engine can go on with what another began: each has its own obstacles, and its own budget for a call
/// that names none.
pub fn can_go_on(engine: EngineKind, call: &Call, broken: &AnswerReader) -> bool {
    let same_budget = broken.transcript.budget.is_some() || budget(engine, call).is_none();
    same_budget && obstacle::of_call(engine, call).is_none()
}

/// What another worker is asked to go on with a stream; its reader gives the client the rest of the one stream.
///
/// `broken` read what the client has. `same_model`: the worker has the same engine and model as the last one, so that
/// token ids mean the same. There must be no obstacle (`Transcript::obstacle`) and something left to make.
pub fn resume(
    engine: EngineKind,
    call: &Call,
    broken: AnswerReader,
    served_model: Option<&str>,
    same_model: bool,
) -> Result<Exchange, BadRequest> {
    let left = left(&broken);
    let mut exchange = match (&call.generate, engine) {
        (None, _) => resume_openai(engine, call, &broken, served_model, left)?,
        (Some(_), EngineKind::Tgi | EngineKind::Fake) => {
            resume_generate(engine, call, &broken, left)?
        }
        (Some(parameters), EngineKind::LlamaCpp) => {
            let dialect = &llamacpp::LlamaCpp;
            resume_translated(dialect, engine, call, parameters, &broken, None, same_model)?
        }
        (Some(parameters), EngineKind::Vllm) => {
            let dialect = &vllm::Vllm;
            let model = served_model;
            resume_translated(
                dialect, engine, call, parameters, &broken, model, same_model,
            )?
        }
    };
    exchange.answer.tally = broken.tally.next_worker();
    exchange.answer.transcript = broken.transcript;
    if !same_model {
        exchange.answer.transcript.ids = None;
    }
    Ok(exchange)
}

fn left(broken: &AnswerReader) -> Option<u32> {
    let budget = broken.transcript.budget?;
    Some(budget.saturating_sub(broken.output_tokens()))
}

/// Tokens the request may have in all, as far as the engine's default is known.
pub(super) fn budget(engine: EngineKind, call: &Call) -> Option<u32> {
    let default = match (&call.generate, engine) {
        (Some(parameters), _) => Some(parameters.new_tokens),
        // OpenAI's own default, which vLLM keeps.
        (None, EngineKind::Vllm) if call.api == Api::Completions => Some(16),
        (None, EngineKind::Fake) => Some(100),
        _ => None,
    };
    call.limit_for(engine).or(default)
}

/// The end of a stream that has all its tokens.
pub fn end_at_limit(mut reader: AnswerReader) -> Ending {
    let mut tail = BytesMut::new();
    let (tally, transcript) = (&mut reader.tally, &mut reader.transcript);
    tally.error = None;
    tally.error_event = None;
    match &mut reader.form {
        Form::OpenAi(meter) => meter.end_at_limit(tally, transcript, &mut tail),
        Form::Translated(translator) => translator.end_at_limit(tally, transcript, &mut tail),
        // TGI's last token and its end are one event.
        Form::Generate(_) => {}
    }
    let mut ending = reader.finish();
    if let Some(more) = ending.tail.take() {
        tail.extend_from_slice(&more);
    }
    ending.tail = (!tail.is_empty()).then(|| tail.freeze());
    ending
}

fn resume_openai(
    engine: EngineKind,
    call: &Call,
    broken: &AnswerReader,
    served_model: Option<&str>,
    left: Option<u32>,
) -> Result<Exchange, BadRequest> {
    let given = &broken.transcript.text;
    let mut next = call.clone();
    if !given.is_empty() {
        match call.api {
            Api::ChatCompletions => go_on_with_chat(&mut next.body, given),
            _ => {
                let prompt = prompt_text(&call.body).unwrap_or_default() + given;
                next.body.set("prompt", prompt);
            }
        }
    }
    limit(&mut next.body, left, broken.output_tokens())?;
    let stops = match engine {
        // The others hold back what may become a stop sequence, so that it is never on both sides of the seam.
        EngineKind::Tgi => stops_of(&call.body),
        _ => Vec::new(),
    };
    // What the client has is put in its place by the caller.
    let empty = Transcript::new(true, None);
    let mut exchange = openai::ask(engine, &next, served_model, empty)?;
    if let Form::OpenAi(meter) = &mut exchange.answer.form {
        meter.go_on_after(&broken.form, SeamStop::new(stops, engine, given));
    }
    Ok(exchange)
}

/// The template must leave the last turn open: otherwise the model begins its answer anew.
fn go_on_with_chat(body: &mut JsonObject, given: &str) {
    let turn = json!({ "role": "assistant", "content": given }).to_string();
    let messages = body.raw("messages").cloned().unwrap_or_default();
    let open = messages.trim_ascii_end();
    let mut joined = BytesMut::with_capacity(messages.len() + turn.len() + 2);
    joined.extend_from_slice(open.strip_suffix(b"]").unwrap_or(open));
    joined.extend_from_slice(b",");
    joined.extend_from_slice(turn.as_bytes());
    joined.extend_from_slice(b"]");
    body.set_raw("messages", joined.freeze());
    body.set("continue_final_message", true);
    body.set("add_generation_prompt", false);
}

fn limit(body: &mut JsonObject, left: Option<u32>, given: u32) -> Result<(), BadRequest> {
    let fields = ["max_completion_tokens", "max_tokens", "n_predict"];
    let named = fields.iter().any(|name| body.raw(name).is_some());
    if let Some(left) = left {
        for name in fields {
            if body.raw(name).is_some() || (!named && name == "max_tokens") {
                body.set(name, left);
            }
        }
    }
    if let Some(least) = body.get::<u32>("min_tokens")? {
        body.set("min_tokens", least.saturating_sub(given));
    }
    Ok(())
}

fn stops_of(body: &JsonObject) -> Vec<String> {
    match body.get::<Value>("stop") {
        Ok(Some(Value::String(stop))) => vec![stop],
        Ok(Some(Value::Array(stops))) => stops
            .into_iter()
            .filter_map(|stop| stop.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

fn resume_generate(
    engine: EngineKind,
    call: &Call,
    broken: &AnswerReader,
    left: Option<u32>,
) -> Result<Exchange, BadRequest> {
    let given = &broken.transcript.text;
    let inputs: String = call.body.get("inputs")?.unwrap_or_default();
    let mut parameters: Map<String, Value> = call.body.get("parameters")?.unwrap_or_default();
    if let Some(left) = left {
        parameters.insert("max_new_tokens".to_owned(), left.into());
    }
    // The prompt of this worker is not the client's; it is put before the text here.
    parameters.remove("return_full_text");
    let mut body = call.body.clone();
    body.set("inputs", inputs.clone() + given);
    body.set("parameters", parameters);
    let generate = call.generate.as_ref();
    let stops = generate.map(|parameters| parameters.stop.clone());
    let stop = SeamStop::new(stops.unwrap_or_default(), engine, given);
    let full_text = generate.is_some_and(|parameters| parameters.return_full_text);
    let prompt = if full_text { inputs.as_str() } else { "" };
    let meter = GenerateMeter::after(call, prompt, given, stop);
    Ok(Exchange {
        path: tgi::path(call),
        body: body.to_bytes(),
        answer: AnswerReader::new(Form::Generate(meter), Transcript::default()),
    })
}

fn resume_translated(
    dialect: &'static dyn Dialect,
    engine: EngineKind,
    call: &Call,
    parameters: &GenerateParameters,
    broken: &AnswerReader,
    model: Option<&str>,
    same_model: bool,
) -> Result<Exchange, BadRequest> {
    let given = &broken.transcript.text;
    let mut parameters = parameters.clone();
    parameters.new_tokens = parameters
        .new_tokens
        .saturating_sub(broken.output_tokens())
        .max(1);
    let inputs = call.body.raw("inputs").cloned().unwrap_or_default();
    let from_tokens = same_model
        .then(|| dialect.prompt_after(&inputs, &broken.transcript))
        .flatten();
    let prompt = match from_tokens {
        Some(prompt) => prompt,
        None => {
            let inputs: String = call.body.get("inputs")?.unwrap_or_default();
            Bytes::from(Value::from(inputs + given).to_string())
        }
    };
    let (mut translator, body) = translate::ask(dialect, call, &parameters, &prompt, model)?;
    translator.stop = Some(SeamStop::new(parameters.stop.clone(), engine, given));
    Ok(Exchange {
        path: dialect.path(),
        body,
        answer: AnswerReader::new(
            Form::Translated(Box::new(translator)),
            Transcript::default(),
        ),
    })
}
