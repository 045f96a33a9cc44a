//! The interfaces a replay can speak: where a request goes, its body, and what one event of the answer means.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::trace::TraceRequest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Api {
    /// TGI, streamed.
    GenerateStream,
    /// TGI, one object.
    Generate,
    /// OpenAI chat completions, streamed.
    Chat,
    /// OpenAI completions, streamed.
    Completions,
}

/// One `data:` of a stream, or the whole of an unstreamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Carries text.
    Token,
    /// The engine's own count of the output tokens.
    Usage(u64),
    /// The terminal event; TGI's carries the last token and the count too.
    End {
        token: bool,
        output_tokens: Option<u64>,
    },
    /// The server says it failed.
    Error(String),
    /// A role, a finish reason, an empty text.
    Other,
}

impl Api {
    pub fn path(self) -> &'static str {
        match self {
            Api::GenerateStream => "/generate_stream",
            Api::Generate => "/generate",
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
        }
    }

    pub fn is_streamed(self) -> bool {
        self != Api::Generate
    }

    /// `seed` makes prompts of different requests differ.
    pub fn body(self, request: TraceRequest, seed: u64, model: Option<&str>) -> Value {
        let prompt = prompt(request.input_tokens, seed);
        let tokens = request.output_tokens;
        let mut body = match self {
            Api::Generate | Api::GenerateStream => json!({
                "inputs": prompt,
                "parameters": {"max_new_tokens": tokens, "details": true},
            }),
            Api::Chat => json!({
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
                "stream": true,
                "stream_options": {"include_usage": true},
            }),
            Api::Completions => json!({
                "prompt": prompt,
                "max_tokens": tokens,
                "stream": true,
                "stream_options": {"include_usage": true},
            }),
        };
        if let Some(model) = model {
            body["model"] = model.into();
        }
        body
    }

    pub fn read_event(self, data: &str) -> Event {
        if data == "[DONE]" && matches!(self, Api::Chat | Api::Completions) {
            return Event::End {
                token: false,
                output_tokens: None,
            };
        }
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            return Event::Error("an event that is no JSON".to_owned());
        };
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Event::Error(error.to_string());
        }
        match self {
            Api::Generate | Api::GenerateStream => read_tgi(&event),
            Api::Chat | Api::Completions => read_openai(&event),
        }
    }
}

fn read_tgi(event: &Value) -> Event {
    if event["generated_text"].is_string() {
        return Event::End {
            token: event["token"].is_object(),
            output_tokens: event["details"]["generated_tokens"].as_u64(),
        };
    }
    if event["token"].is_object() {
        Event::Token
    } else {
        Event::Other
    }
}

fn read_openai(event: &Value) -> Event {
    let choice = &event["choices"][0];
    let texts = [
        &choice["text"],
        &choice["delta"]["content"],
        &choice["delta"]["reasoning_content"],
    ];
    if texts
        .iter()
        .any(|text| text.as_str().is_some_and(|text| !text.is_empty()))
    {
        return Event::Token;
    }
    match event["usage"]["completion_tokens"].as_u64() {
        Some(tokens) => Event::Usage(tokens),
        None => Event::Other,
    }
}

const WORDS: [&str; 16] = [
    "river", "stone", "lamp", "green", "walks", "under", "seven", "bread", "quiet", "north",
    "paper", "still", "glass", "early", "field", "turns",
];

/// That many words, the same for the same seed.
fn prompt(words: u32, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(words as usize * 6);
    for index in 0..words {
        // Marsaglia's xorshift64: different enough to defeat prefix caches.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if index > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[(state >> 60) as usize]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(api: Api, data: &str, expect: Event) {
        assert_eq!(api.read_event(data), expect, "{data}");
    }

    #[test]
    fn a_tgi_stream_ends_with_the_event_that_holds_the_text() {
        let api = Api::GenerateStream;
        check(
            api,
            r#"{"token":{"id":3,"text":" a"},"generated_text":null,"details":null}"#,
            Event::Token,
        );
        check(
            api,
            r#"{"token":{"id":3,"text":" a"},"generated_text":" a a","details":{"generated_tokens":2}}"#,
            Event::End {
                token: true,
                output_tokens: Some(2),
            },
        );
        check(
            api,
            r#"{"error":"overloaded","error_type":"overloaded"}"#,
            Event::Error("\"overloaded\"".to_owned()),
        );
    }

    #[test]
    fn an_openai_stream_ends_with_done_and_not_before() {
        let api = Api::Chat;
        check(
            api,
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            Event::Other,
        );
        check(
            api,
            r#"{"choices":[{"delta":{"content":" a"},"finish_reason":null}]}"#,
            Event::Token,
        );
        check(
            api,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            Event::Other,
        );
        check(
            api,
            r#"{"choices":[],"usage":{"completion_tokens":7}}"#,
            Event::Usage(7),
        );
        check(
            api,
            "[DONE]",
            Event::End {
                token: false,
                output_tokens: None,
            },
        );
        check(
            Api::Completions,
            r#"{"choices":[{"text":" a"}]}"#,
            Event::Token,
        );
    }

    #[test]
    fn a_prompt_has_the_words_asked_for_and_differs_by_seed() {
        assert_eq!(prompt(374, 1).split(' ').count(), 374);
        assert_ne!(prompt(20, 1), prompt(20, 2));
        assert_eq!(prompt(20, 1), prompt(20, 1));
    }

    #[test]
    fn the_output_tokens_are_asked_for_under_the_apis_own_name() {
        let request = TraceRequest {
            arrival_s: 0.0,
            input_tokens: 3,
            output_tokens: 9,
        };
        let tgi = Api::GenerateStream.body(request, 0, None);
        assert_eq!(tgi["parameters"]["max_new_tokens"], 9);
        let chat = Api::Chat.body(request, 0, Some("m"));
        assert_eq!(
            (&chat["max_tokens"], &chat["model"]),
            (&json!(9), &json!("m"))
        );
    }
}
