//! What a client asked for, checked before any worker hears of it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::generate::GenerateParameters;
use super::json::{JsonError, JsonObject};
use super::obstacle;
use super::prefix;
use super::prompt::{PROMPT_FORMS, Prompt, TextLength};
use crate::domain::{Api, EngineKind, Prefix, RequestLimits};

/// Most choices (`n`, `best_of`) one request may ask for.
const CHOICES_MAX: u64 = 128;

/// A request that can be sent to a worker.
#[derive(Clone, Debug)]
pub struct Call {
    pub api: Api,
    pub streamed: bool,
    pub body: JsonObject,
    /// Bytes of prompt text, roughly where it is a chat or token ids.
    pub prompt_bytes: usize,
    /// By which a worker that read its beginning before is known again.
    pub prefix: Prefix,
    /// For each choice; `None` leaves it to the engine.
    pub max_new_tokens: Option<u32>,
    /// Answers the engine makes: `n` or `best_of`, times the prompts in the request.
    pub choices: u32,
    pub model: Option<String>,
    /// The client asked for the usage at the end of the stream.
    pub usage_wanted: bool,
    /// llama.cpp's own limit, in a call of OpenAI's.
    n_predict: Option<i64>,
    /// For TGI's routes, what translation needs.
    pub(super) generate: Option<GenerateParameters>,
}

impl Call {
    /// The most tokens this engine is told to make. llama.cpp looks at its own field first, on OpenAI's routes too.
    pub(super) fn limit_for(&self, engine: EngineKind) -> Option<u32> {
        match self.n_predict {
            Some(own) if engine == EngineKind::LlamaCpp => {
                u32::try_from(own).ok().filter(|n| *n > 0)
            }
            _ => self.max_new_tokens,
        }
    }

    /// The same before it is known who answers.
    pub fn limit_hint(&self) -> Option<u32> {
        self.max_new_tokens.or(self.limit_for(EngineKind::LlamaCpp))
    }

    /// Tokens are drawn by chance.
    pub fn samples(&self) -> bool {
        match &self.generate {
            Some(parameters) => parameters.samples(),
            None => obstacle::samples(&self.body),
        }
    }
}

/// Why a request is refused; the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    pub message: String,
    pub param: Option<&'static str>,
}

impl BadRequest {
    pub(super) fn about(param: &'static str, problem: impl fmt::Display) -> Self {
        Self {
            message: format!("`{param}` {problem}"),
            param: Some(param),
        }
    }
}

impl From<JsonError> for BadRequest {
    fn from(error: JsonError) -> Self {
        Self {
            message: error.to_string(),
            param: None,
        }
    }
}

/// The model a request names, to find its endpoint (and so its limits) by.
pub fn peek_model(body: &JsonObject) -> Result<Option<String>, BadRequest> {
    read(body, "model", "must be a string")
}

pub fn read_call(api: Api, body: JsonObject, limits: &RequestLimits) -> Result<Call, BadRequest> {
    let model = peek_model(&body)?;
    let stream: Option<bool> = read(&body, "stream", "must be true or false")?;
    if api.is_tgi() {
        read_generate(api, body, model, stream.unwrap_or(false), limits)
    } else {
        read_openai(api, body, model, stream.unwrap_or(false), limits)
    }
}

fn read_generate(
    api: Api,
    body: JsonObject,
    model: Option<String>,
    stream: bool,
    limits: &RequestLimits,
) -> Result<Call, BadRequest> {
    let inputs: TextLength = required(&body, "inputs", "must be a non-empty string")?;
    if inputs.0 == 0 {
        return Err(BadRequest::about("inputs", "cannot be empty"));
    }
    let parameters = GenerateParameters::read(&body, limits)?;
    // TGI's two other routes do not look at `stream`.
    let streamed = match api {
        Api::GenerateStream => true,
        Api::TgiRoot => stream,
        _ => false,
    };
    if streamed && parameters.best_of > 1 {
        return Err(BadRequest::about(
            "best_of",
            "must be 1 when the answer is streamed",
        ));
    }
    Ok(Call {
        api,
        streamed,
        prefix: prefix_of(&body, "inputs"),
        body,
        prompt_bytes: inputs.0,
        max_new_tokens: parameters.max_new_tokens,
        choices: parameters.best_of,
        model,
        usage_wanted: false,
        n_predict: None,
        generate: Some(parameters),
    })
}

fn read_openai(
    api: Api,
    body: JsonObject,
    model: Option<String>,
    streamed: bool,
    limits: &RequestLimits,
) -> Result<Call, BadRequest> {
    let (text, prompt_bytes, prompts) = match api {
        Api::ChatCompletions => ("messages", chat_bytes(&body)?, 1),
        _ => {
            let prompt: Prompt = required(&body, "prompt", PROMPT_FORMS)?;
            ("prompt", prompt.bytes, prompt.prompts)
        }
    };
    for number in [
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
    ] {
        read::<f64>(&body, number, "must be a number")?;
    }
    let longest = u64::from(limits.max_new_tokens);
    let newer = integer(&body, "max_completion_tokens", 1, longest)?;
    let older = integer(&body, "max_tokens", 1, longest)?;
    let n = integer(&body, "n", 1, CHOICES_MAX)?.unwrap_or(1);
    let best_of = integer(&body, "best_of", 1, CHOICES_MAX)?.unwrap_or(1);
    Ok(Call {
        api,
        streamed,
        prompt_bytes,
        prefix: prefix_of(&body, text),
        max_new_tokens: newer.or(older),
        choices: n.max(best_of).saturating_mul(prompts),
        model,
        usage_wanted: usage_wanted(&body, streamed)?,
        n_predict: n_predict(&body, longest)?,
        generate: None,
        body,
    })
}

/// Below 1: as many as there is room for.
fn n_predict(body: &JsonObject, longest: u64) -> Result<Option<i64>, BadRequest> {
    let number: Option<i64> = read(body, "n_predict", "must be a whole number")?;
    if number.is_some_and(|number| u64::try_from(number).is_ok_and(|number| number > longest)) {
        let problem = format!("must be at most {longest}");
        return Err(BadRequest::about("n_predict", problem));
    }
    Ok(number)
}

fn prefix_of(body: &JsonObject, text: &str) -> Prefix {
    body.raw(text)
        .map_or_else(Prefix::default, |raw| prefix::of(raw))
}

fn usage_wanted(body: &JsonObject, streamed: bool) -> Result<bool, BadRequest> {
    let Some(raw) = body.raw("stream_options") else {
        return Ok(false);
    };
    if !streamed {
        return Err(BadRequest::about(
            "stream_options",
            "is only allowed when `stream` is true",
        ));
    }
    let options = JsonObject::parse(raw.clone())
        .map_err(|_| BadRequest::about("stream_options", "must be an object"))?;
    Ok(read(&options, "include_usage", "must be true or false")?.unwrap_or(false))
}

/// The length of the messages' JSON text; each message must be an object.
fn chat_bytes(body: &JsonObject) -> Result<usize, BadRequest> {
    let wrong = |problem| Err(BadRequest::about("messages", problem));
    let Some(raw) = body.raw("messages") else {
        return wrong("is missing; it must be a list of objects");
    };
    match serde_json::from_slice::<Vec<&RawValue>>(raw) {
        Ok(messages) if messages.is_empty() => wrong("cannot be empty"),
        Ok(messages)
            if messages
                .iter()
                .all(|message| message.get().starts_with('{')) =>
        {
            Ok(raw.len())
        }
        _ => wrong("must be a list of objects"),
    }
}

/// The field, absent or null being `None`.
pub(super) fn read<T: DeserializeOwned>(
    body: &JsonObject,
    param: &'static str,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    body.get(param)
        .map_err(|_| BadRequest::about(param, expected))
}

fn required<T: DeserializeOwned>(
    body: &JsonObject,
    param: &'static str,
    expected: &str,
) -> Result<T, BadRequest> {
    read(body, param, expected)?
        .ok_or_else(|| BadRequest::about(param, format_args!("is missing; it {expected}")))
}

pub(super) fn integer(
    body: &JsonObject,
    param: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u32>, BadRequest> {
    let out_of_range = || {
        BadRequest::about(
            param,
            format_args!("must be an integer from {least} to {most}"),
        )
    };
    match body.get::<u64>(param) {
        Ok(None) => Ok(None),
        Ok(Some(value)) if (least..=most).contains(&value) => {
            u32::try_from(value).map(Some).map_err(|_| out_of_range())
        }
        _ => Err(out_of_range()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: RequestLimits = RequestLimits {
        max_new_tokens: 4096,
    };

    fn read_text(api: Api, body: &str) -> Result<Call, BadRequest> {
        read_call(
            api,
            JsonObject::parse(Bytes::copy_from_slice(body.as_bytes()))?,
            &LIMITS,
        )
    }

    fn accepted(api: Api, body: Value) -> Call {
        read_text(api, &body.to_string()).expect("accepted")
    }

    fn refused(api: Api, body: Value, param: &str, message: &str) {
        let error = read_text(api, &body.to_string()).expect_err(&body.to_string());
        assert_eq!(error.param, Some(param), "{body}: {error}");
        assert!(
            error.message.contains(param) && error.message.contains(message),
            "{body}: {error}"
        );
    }

    #[test]
    fn a_generate_request_is_measured() {
        let body =
            json!({"inputs": "héllo", "parameters": {"max_new_tokens": 20, "temperature": 0.5}});
        let call = accepted(Api::Generate, body);
        assert_eq!(
            (call.prompt_bytes, call.max_new_tokens, call.choices),
            (6, Some(20), 1)
        );
        assert!(!call.streamed && call.model.is_none());
    }

    #[test]
    fn the_route_and_only_at_the_root_the_body_says_whether_to_stream() {
        let body = json!({"inputs": "x", "stream": true});
        assert!(!accepted(Api::Generate, body.clone()).streamed);
        assert!(accepted(Api::TgiRoot, body).streamed);
        assert!(accepted(Api::GenerateStream, json!({"inputs": "x", "stream": false})).streamed);
        assert!(!accepted(Api::TgiRoot, json!({"inputs": "x"})).streamed);
    }

    #[test]
    fn the_fields_the_text_generation_client_sends_are_all_accepted() {
        accepted(
            Api::TgiRoot,
            json!({"inputs": "x", "stream": false, "parameters": {
                "do_sample": false, "max_new_tokens": 20, "repetition_penalty": null, "frequency_penalty": null,
                "return_full_text": false, "stop": [], "seed": null, "temperature": null, "top_k": null,
                "top_p": null, "truncate": null, "typical_p": null, "best_of": null, "watermark": false,
                "details": true, "decoder_input_details": false, "top_n_tokens": null, "grammar": null}}),
        );
    }

    #[test]
    fn every_wrong_max_new_tokens_is_refused_with_the_range() {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(20.0),
            json!("20"),
            json!(4097),
            json!(1e30),
            json!([]),
            json!(u64::MAX),
        ] {
            let body = json!({"inputs": "x", "parameters": {"max_new_tokens": value}});
            refused(Api::Generate, body, "max_new_tokens", "from 1 to 4096");
            let body = json!({"prompt": "x", "max_tokens": value});
            refused(Api::Completions, body, "max_tokens", "from 1 to 4096");
            let body = json!({"messages": [{}], "max_completion_tokens": value});
            refused(
                Api::ChatCompletions,
                body,
                "max_completion_tokens",
                "from 1 to 4096",
            );
        }
    }

    #[test]
    fn wrong_generate_fields_are_refused_by_name() {
        let api = Api::TgiRoot;
        refused(api, json!({}), "inputs", "is missing");
        refused(api, json!({"inputs": ""}), "inputs", "cannot be empty");
        refused(api, json!({"inputs": ["x"]}), "inputs", "non-empty string");
        refused(
            api,
            json!({"inputs": "x", "stream": "yes"}),
            "stream",
            "true or false",
        );
        refused(
            api,
            json!({"inputs": "x", "parameters": []}),
            "parameters",
            "an object",
        );
        let wrong = |name: &str, value: Value, message: &str| {
            refused(
                api,
                json!({"inputs": "x", "parameters": {name: value}}),
                name,
                message,
            );
        };
        wrong("temperature", json!("hot"), "a number");
        wrong("top_k", json!(-5), "an integer");
        wrong("do_sample", json!(1), "true or false");
        wrong("stop", json!("x"), "a list of strings");
        wrong("seed", json!(1.5), "an integer");
        wrong("best_of", json!(0), "from 1 to 128");
        refused(
            api,
            json!({"inputs": "x", "stream": true, "parameters": {"best_of": 2}}),
            "best_of",
            "streamed",
        );
    }

    #[test]
    fn wrong_openai_fields_are_refused_by_name() {
        let chat = Api::ChatCompletions;
        refused(chat, json!({}), "messages", "is missing");
        refused(chat, json!({"messages": []}), "messages", "cannot be empty");
        refused(
            chat,
            json!({"messages": ["hi"]}),
            "messages",
            "list of objects",
        );
        refused(
            chat,
            json!({"messages": [{}], "n": 129}),
            "n",
            "from 1 to 128",
        );
        refused(
            chat,
            json!({"messages": [{}], "model": 3}),
            "model",
            "a string",
        );
        refused(
            chat,
            json!({"messages": [{}], "temperature": "0"}),
            "temperature",
            "a number",
        );
        let options = json!({"messages": [{}], "stream_options": {"include_usage": true}});
        refused(chat, options, "stream_options", "`stream` is true");
        refused(
            chat,
            json!({"messages": [{}], "stream": true, "stream_options": 1}),
            "stream_options",
            "an object",
        );
        for prompt in [
            json!([]),
            json!([1, "a"]),
            json!([-1]),
            json!([[1], 2]),
            json!(3),
            json!({}),
            json!([["a"]]),
        ] {
            refused(
                Api::Completions,
                json!({"prompt": prompt}),
                "prompt",
                "a string",
            );
        }
    }

    #[test]
    fn prompts_are_measured_in_all_their_forms() {
        let check = |prompt: Value, bytes, choices| {
            let call = accepted(Api::Completions, json!({"prompt": prompt, "n": 2}));
            assert_eq!((call.prompt_bytes, call.choices), (bytes, choices));
        };
        check(json!("abcd"), 4, 2);
        check(json!(["ab", "cd"]), 4, 4);
        check(json!([1, 2, 3]), 12, 2);
        check(json!([[1, 2], [3]]), 12, 4);
    }

    #[test]
    fn usage_is_wanted_only_when_asked_for() {
        let chat = |body: Value| accepted(Api::ChatCompletions, body).usage_wanted;
        assert!(!chat(json!({"messages": [{}], "stream": true})));
        assert!(!chat(
            json!({"messages": [{}], "stream": true, "stream_options": {"include_usage": false}})
        ));
        assert!(chat(
            json!({"messages": [{}], "stream": true, "stream_options": {"include_usage": true}})
        ));
    }

    #[test]
    fn the_model_can_be_seen_before_the_limits_are_known() {
        let object =
            JsonObject::parse(Bytes::from_static(br#"{"model":"small","max_tokens":-1}"#)).unwrap();
        assert_eq!(peek_model(&object).unwrap().as_deref(), Some("small"));
    }
}
