//! A request's body, from a client nobody knows, to what every engine would be asked.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tidegate::domain::{Api, EngineKind, RequestLimits};
use tidegate::engines::{Call, JsonObject, exchange, peek_model, read_call};

use super::Input;

pub(super) const LIMITS: RequestLimits = RequestLimits {
    max_new_tokens: 4_096,
};

pub(super) const ENGINES: [EngineKind; 4] = [
    EngineKind::Tgi,
    EngineKind::Vllm,
    EngineKind::LlamaCpp,
    EngineKind::Fake,
];

pub(super) fn read(api: Api, body: &[u8]) -> Option<Call> {
    let body = JsonObject::parse(Bytes::copy_from_slice(body)).ok()?;
    let _ = peek_model(&body);
    read_call(api, body, &LIMITS).ok()
}

pub(super) fn check(input: &[u8]) {
    let mut input = Input(input);
    let api = input.choose(&Api::ALL);
    let Some(call) = read(api, input.rest()) else {
        return;
    };
    for engine in ENGINES {
        let Ok(exchange) = exchange(engine, &call, Some("served")) else {
            continue;
        };
        // Numbers that are passed on as written may be larger than any value here can be.
        let asked: Result<IgnoredAny, _> = serde_json::from_slice(&exchange.body);
        assert!(asked.is_ok(), "an engine is asked what is no JSON");
        assert!(
            exchange.body.trim_ascii_start().starts_with(b"{"),
            "an engine is asked no object"
        );
    }
}

/// A valid body of each interface, with everything that is read.
pub(super) fn bodies() -> [(Api, Value); 5] {
    let parameters = json!({
        "max_new_tokens": 20, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "typical_p": 0.9, "do_sample": true,
        "repetition_penalty": 1.1, "frequency_penalty": 0.1, "seed": 7, "stop": ["é🌊", "\n"], "truncate": 100,
        "return_full_text": true, "details": true, "best_of": 1, "watermark": false, "top_n_tokens": 2,
        "grammar": {"type": "json", "value": {"type": "object"}}, "decoder_input_details": false,
    });
    let tgi = json!({"inputs": "Hello wörld", "stream": true, "parameters": parameters});
    let openai = json!({
        "model": "m", "max_tokens": 20, "n": 1, "stream": true, "stop": ["é🌊"], "temperature": 0, "seed": 1, "user": "u",
        "stream_options": {"include_usage": true}, "logprobs": null, "response_format": {"type": "text"},
    });
    let mut completion = openai.clone();
    completion["prompt"] = json!(["Hello wörld"]);
    let mut chat = openai;
    chat["messages"] = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]);
    chat["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    [
        (Api::Generate, tgi.clone()),
        (Api::GenerateStream, tgi.clone()),
        (Api::TgiRoot, tgi),
        (Api::Completions, completion),
        (Api::ChatCompletions, chat),
    ]
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let with_api = |(nth, (_, body)): (u8, (Api, Value))| {
        let mut input = vec![nth];
        input.extend(body.to_string().bytes());
        input
    };
    (0..).zip(bodies()).map(with_api).collect()
}
