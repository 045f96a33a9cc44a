//! OpenAI's interface as vLLM and llama.cpp serve it: `/v1/completions` and `/v1/chat/completions`, with continuation of
//! a last assistant message.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Dialect;
use super::text::{EOS, Finish, Script, word};
use super::tgi::DEFAULT_MAX_TOKENS;

#[derive(Debug, Deserialize)]
pub struct Request {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    prompt: Option<Prompt>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    max_tokens: Option<i64>,
    #[serde(default)]
    max_completion_tokens: Option<i64>,
    #[serde(default)]
    n: Option<i64>,
    #[serde(default)]
    best_of: Option<i64>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    pub ignore_eos: Option<bool>,
    #[serde(default)]
    continue_final_message: Option<bool>,
    #[serde(default)]
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    pub user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

impl Content {
    fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

impl Request {
    /// The tokens asked for, or what is wrong with the request.
    pub fn max_tokens(&self) -> Result<u32, String> {
        if [self.n, self.best_of]
            .iter()
            .flatten()
            .any(|&count| count != 1)
        {
            return Err(
                "this engine makes one answer to a request: n and best_of must be 1".into(),
            );
        }
        let wanted = self
            .max_completion_tokens
            .or(self.max_tokens)
            .unwrap_or(DEFAULT_MAX_TOKENS);
        match u32::try_from(wanted) {
            Ok(tokens) if tokens > 0 => Ok(tokens),
            _ => Err(format!("max_tokens must be at least 1, not {wanted}")),
        }
    }

    pub fn stop(&mut self) -> Vec<String> {
        match self.stop.take() {
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Several(stop)) => stop,
            None => Vec::new(),
        }
    }

    /// The text that the model continues for `/v1/completions`.
    pub fn prompt(&self) -> Result<String, String> {
        match &self.prompt {
            Some(Prompt::Text(text)) => Ok(text.clone()),
            Some(Prompt::Texts(texts)) => match texts.as_slice() {
                [text] => Ok(text.clone()),
                _ => Err("prompt must be one text".into()),
            },
            None => Err("prompt is missing".into()),
        }
    }

    /// The same for `/v1/chat/completions`: every message with its role, and an open assistant's turn at the end.
    pub fn conversation(&self) -> Result<String, String> {
        let messages = self.messages.as_deref().unwrap_or_default();
        let Some(last) = messages.last() else {
            return Err("messages must hold at least one message".into());
        };
        let continues = match (self.continue_final_message, self.add_generation_prompt) {
            (Some(true), Some(true)) => {
                return Err("continue_final_message excludes add_generation_prompt".into());
            }
            (Some(true), _) | (_, Some(false)) => true,
            (_, Some(true)) | (Some(false), _) => false,
            (None, None) => last.role == "assistant",
        };
        let turn = |message: &Message| {
            let content = message
                .content
                .as_ref()
                .map(Content::text)
                .unwrap_or_default();
            format!("\n<|{}|>{content}", message.role)
        };
        let mut text: String = messages.iter().map(turn).collect();
        if !continues {
            text.push_str("\n<|assistant|>");
        }
        Ok(text)
    }
}

/// An error as vLLM words it.
pub fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let code = status.as_u16();
    let error = json!({ "message": message, "type": kind, "param": null, "code": code });
    (status, axum::Json(json!({ "error": error }))).into_response()
}

pub fn invalid(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, "BadRequestError", message)
}

/// Writes one request's answer. A chat ends as with llama.cpp, the finish reason in a chunk of its own; a completion as
/// with vLLM, the finish reason in the last chunk that has text.
pub struct OpenAi {
    chat: bool,
    id: String,
    created: u64,
    model: String,
    prompt_tokens: u32,
    usage_at_end: bool,
    usage_always: bool,
}

impl OpenAi {
    pub fn new(
        chat: bool,
        number: u64,
        created: u64,
        prompt_tokens: u32,
        request: Request,
    ) -> Self {
        let prefix = if chat { "chatcmpl" } else { "cmpl" };
        let options = request.stream_options.unwrap_or_default();
        Self {
            chat,
            id: format!("{prefix}-{number:016x}"),
            created,
            model: request.model.unwrap_or_default(),
            prompt_tokens,
            usage_at_end: options.include_usage == Some(true),
            usage_always: options.continuous_usage_stats == Some(true),
        }
    }

    fn object(&self) -> &'static str {
        match self.chat {
            true => "chat.completion.chunk",
            false => "text_completion",
        }
    }

    fn usage(&self, completion_tokens: u32) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens.saturating_add(completion_tokens),
        }
    }

    fn write(&self, choices: &[Choice], usage: Option<Usage>, events: &mut String) {
        let chunk = Chunk {
            id: &self.id,
            object: self.object(),
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        events.push_str("data: ");
        events.push_str(&serde_json::to_string(&chunk).unwrap_or_default());
        events.push_str("\n\n");
    }

    /// A chunk with text, after `tokens` tokens.
    fn piece(&self, text: &str, finish: Option<Finish>, tokens: u32, events: &mut String) {
        let finish_reason = finish.map(finish_reason);
        let choice = if self.chat {
            Choice::chat(
                Delta {
                    content: Some(text),
                    ..Delta::default()
                },
                finish_reason,
            )
        } else {
            Choice {
                text: Some(text),
                finish_reason,
                ..Choice::default()
            }
        };
        let usage = self.usage_always.then(|| self.usage(tokens));
        self.write(&[choice], usage, events);
    }
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Eos | Finish::Stop => "stop",
    }
}

/// The last word of the text is also the last token: nothing was held back and no end token follows.
fn ends_with_word(script: &Script) -> bool {
    script.whole_words == script.tokens.len()
}

impl Dialect for OpenAi {
    fn opening(&self, _script: &Script, events: &mut String) {
        if self.chat {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(""),
            };
            let usage = self.usage_always.then(|| self.usage(0));
            self.write(&[Choice::chat(delta, None)], usage, events);
        }
    }

    fn token(&self, script: &Script, index: usize, events: &mut String) {
        // Words that may belong to a stop sequence are held back, as real engines do.
        if index >= script.whole_words {
            return;
        }
        let id = script.tokens.get(index).copied().unwrap_or(EOS);
        let last = index + 1 == script.tokens.len();
        let finish = (last && !self.chat).then_some(script.finish);
        self.piece(word(id), finish, index as u32 + 1, events);
    }

    fn closing(&self, script: &Script, events: &mut String) {
        let tokens = script.length();
        if !self.chat && !ends_with_word(script) {
            self.piece(&script.fragment, Some(script.finish), tokens, events);
        }
        if self.chat {
            if !script.fragment.is_empty() {
                self.piece(&script.fragment, None, tokens, events);
            }
            let choice = Choice::chat(Delta::default(), Some(finish_reason(script.finish)));
            self.write(
                &[choice],
                self.usage_always.then(|| self.usage(tokens)),
                events,
            );
        }
        if self.usage_at_end {
            self.write(&[], Some(self.usage(tokens)), events);
        }
        events.push_str("data: [DONE]\n\n");
    }

    fn whole(&self, script: &Script) -> Vec<u8> {
        let text = script.visible_text();
        let finish = finish_reason(script.finish);
        let (object, choice): (_, Value) = if self.chat {
            let message = json!({ "role": "assistant", "content": text });
            let choice = json!({
                "index": 0, "message": message, "logprobs": null, "finish_reason": finish,
            });
            ("chat.completion", choice)
        } else {
            let choice = json!({
                "index": 0, "text": text, "logprobs": null, "finish_reason": finish,
            });
            ("text_completion", choice)
        };
        let body = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": null, "choices": [choice], "usage": self.usage(script.length()),
        });
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Default, Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

impl<'a> Choice<'a> {
    fn chat(delta: Delta<'a>, finish_reason: Option<&'static str>) -> Self {
        Self {
            delta: Some(delta),
            finish_reason,
            ..Self::default()
        }
    }
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}
