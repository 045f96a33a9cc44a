//! Text Generation Inference's interface: `/generate`, `/generate_stream` and `/`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::Dialect;
use super::text::{EOS, Finish, Script, word};

/// Tokens when a request does not say.
pub const DEFAULT_MAX_TOKENS: i64 = 100;

#[derive(Debug, Deserialize)]
pub struct Request {
    pub inputs: String,
    #[serde(default)]
    pub parameters: Option<Parameters>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub user: Option<String>,
}

/// Only what changes the answer; sampling is checked and otherwise ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Parameters {
    max_new_tokens: Option<i64>,
    #[serde(alias = "stop_sequences")]
    pub stop: Option<Vec<String>>,
    best_of: Option<i64>,
    n: Option<i64>,
    pub seed: Option<u64>,
    pub truncate: Option<i64>,
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    typical_p: Option<f64>,
    repetition_penalty: Option<f64>,
    details: Option<bool>,
    return_full_text: Option<bool>,
    pub user: Option<String>,
}

impl Parameters {
    /// The tokens asked for, or what is wrong with the request.
    pub fn max_new_tokens(&self) -> Result<u32, String> {
        let above_zero = |name: &str, value: Option<f64>| match value {
            Some(value) if value <= 0.0 => Err(format!("`{name}` must be strictly positive")),
            _ => Ok(()),
        };
        above_zero("max_new_tokens", self.max_new_tokens.map(|n| n as f64))?;
        above_zero("best_of", self.best_of.map(|n| n as f64))?;
        above_zero("truncate", self.truncate.map(|n| n as f64))?;
        above_zero("temperature", self.temperature)?;
        above_zero("top_k", self.top_k.map(|n| n as f64))?;
        above_zero("repetition_penalty", self.repetition_penalty)?;
        for (name, value) in [("top_p", self.top_p), ("typical_p", self.typical_p)] {
            if value.is_some_and(|value| value <= 0.0 || value >= 1.0) {
                return Err(format!("`{name}` must be > 0.0 and < 1.0"));
            }
        }
        if self.best_of.is_some_and(|n| n > 1) || self.n.is_some_and(|n| n > 1) {
            return Err("this engine makes one answer to a request: `best_of` must be 1".into());
        }
        let wanted = self.max_new_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        u32::try_from(wanted).map_err(|_| "`max_new_tokens` is too large".into())
    }
}

/// An error as TGI words it.
pub fn error(status: StatusCode, error_type: &str, message: &str) -> Response {
    let body = axum::Json(json!({ "error": message, "error_type": error_type }));
    (status, body).into_response()
}

pub fn invalid(message: &str) -> Response {
    error(StatusCode::UNPROCESSABLE_ENTITY, "validation", message)
}

/// Writes one request's answer.
pub struct Tgi {
    /// `POST /` answers a list.
    pub in_list: bool,
    pub prompt_tokens: u32,
    pub seed: Option<u64>,
    /// `details` of the parameters.
    pub detailed: bool,
    /// The prompt, where it must come back with the text.
    pub prompt: Option<String>,
}

impl Tgi {
    pub fn new(in_list: bool, prompt_tokens: u32, prompt: String, parameters: &Parameters) -> Self {
        Self {
            in_list,
            prompt_tokens,
            seed: parameters.seed,
            detailed: parameters.details == Some(true),
            prompt: parameters
                .return_full_text
                .unwrap_or(false)
                .then_some(prompt),
        }
    }

    fn generated_text(&self, script: &Script) -> String {
        self.prompt.clone().unwrap_or_default() + &script.full_text()
    }
}

#[derive(Serialize)]
struct Token {
    id: u16,
    text: &'static str,
    logprob: f32,
    special: bool,
}

impl Token {
    fn of(script: &Script, index: usize) -> Self {
        let id = script.tokens.get(index).copied().unwrap_or(EOS);
        let special = id == EOS;
        let text = if special { "</s>" } else { word(id) };
        Self {
            id,
            text,
            logprob: -0.125,
            special,
        }
    }
}

#[derive(Serialize)]
struct StreamDetails {
    finish_reason: &'static str,
    generated_tokens: u32,
    input_length: u32,
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Event {
    index: usize,
    token: Token,
    top_tokens: Option<()>,
    generated_text: Option<String>,
    details: Option<StreamDetails>,
}

#[derive(Serialize)]
struct Details {
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    prefill: [Token; 0],
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Generated {
    generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Eos => "eos_token",
        Finish::Stop => "stop_sequence",
    }
}

impl Dialect for Tgi {
    fn token(&self, script: &Script, index: usize, events: &mut String) {
        let last = index + 1 == script.tokens.len();
        let details = StreamDetails {
            finish_reason: finish_reason(script.finish),
            generated_tokens: script.length(),
            input_length: self.prompt_tokens,
            seed: self.seed,
        };
        let event = Event {
            index: index + 1,
            token: Token::of(script, index),
            top_tokens: None,
            generated_text: last.then(|| self.generated_text(script)),
            details: last.then_some(details),
        };
        events.push_str("data:");
        events.push_str(&serde_json::to_string(&event).unwrap_or_default());
        events.push_str("\n\n");
    }

    fn whole(&self, script: &Script) -> Vec<u8> {
        let details = self.detailed.then(|| Details {
            finish_reason: finish_reason(script.finish),
            generated_tokens: script.length(),
            seed: self.seed,
            prefill: [],
            tokens: (0..script.tokens.len())
                .map(|index| Token::of(script, index))
                .collect(),
        });
        let generated = Generated {
            generated_text: self.generated_text(script),
            details,
        };
        let body = if self.in_list {
            serde_json::to_vec(&[generated])
        } else {
            serde_json::to_vec(&generated)
        };
        body.unwrap_or_default()
    }
}
