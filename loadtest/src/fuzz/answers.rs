//! What a worker answers, streamed or not, passed through or translated.

use bytes::Bytes;
use serde_json::json;
use tidegate::domain::{Api, EngineKind};
use tidegate::engines::{AnswerReader, Ending, ErrorKind, error_body, exchange, translate_error};

use super::requests::{ENGINES, LIMITS, read};
use super::{Input, pieces};

/// Recordings of a real llama.cpp, and what TGI and vLLM answer by their schemas.
const STREAMS: [(EngineKind, Api, &str); 9] = [
    (
        EngineKind::LlamaCpp,
        Api::ChatCompletions,
        include_str!("../../../src/engines/testdata/llamacpp_chat.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::ChatCompletions,
        include_str!("../../../src/engines/testdata/llamacpp_chat_n2.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::Completions,
        include_str!("../../../src/engines/testdata/llamacpp_completions.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::GenerateStream,
        include_str!("../../../src/engines/testdata/llamacpp_emoji.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::GenerateStream,
        include_str!("../../../src/engines/testdata/llamacpp_eos.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::TgiRoot,
        include_str!("../../../src/engines/testdata/llamacpp_limit.sse"),
    ),
    (
        EngineKind::LlamaCpp,
        Api::GenerateStream,
        include_str!("../../../src/engines/testdata/llamacpp_word.sse"),
    ),
    (
        EngineKind::Vllm,
        Api::GenerateStream,
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\" é\",\"token_ids\":[7],\"finish_reason\":null}]}\n\n\
         data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"\",\"token_ids\":[8],\"finish_reason\":\"length\"}],\
         \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\ndata: [DONE]\n\n",
    ),
    (
        EngineKind::Tgi,
        Api::GenerateStream,
        "data:{\"index\":1,\"token\":{\"id\":5,\"text\":\" a\",\"logprob\":-0.1,\"special\":false},\"generated_text\":null,\"details\":null}\n\n\
         data:{\"index\":2,\"token\":{\"id\":0,\"text\":\"</s>\",\"logprob\":-0.1,\"special\":true},\"generated_text\":\" a\",\
         \"details\":{\"finish_reason\":\"eos_token\",\"generated_tokens\":2,\"seed\":null,\"input_length\":3}}\n\n",
    ),
];

const WHOLES: [&str; 4] = [
    include_str!("../../../src/engines/testdata/llamacpp_chat.json"),
    include_str!("../../../src/engines/testdata/llamacpp_eos.json"),
    include_str!("../../../src/engines/testdata/llamacpp_limit.json"),
    "{\"generated_text\":\" a\",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":1,\"seed\":null,\"prefill\":[],\"tokens\":[]}}",
];

/// The reader of an answer to a plain request.
fn reader(engine: EngineKind, api: Api, usage: bool) -> Option<AnswerReader> {
    let mut body = json!({
        "inputs": "a", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "stream": true,
        "parameters": {"max_new_tokens": LIMITS.max_new_tokens, "stop": ["é🌊", "\n\n"]},
    });
    if usage && !api.is_tgi() {
        body["stream_options"] = json!({"include_usage": true});
    }
    let call = read(api, body.to_string().as_bytes())?;
    exchange(engine, &call, Some("served"))
        .ok()
        .map(|exchange| exchange.answer)
}

/// What the client gets and what was counted; `None` where the reader gave up.
fn hear<'a>(
    mut reader: AnswerReader,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Option<(Vec<u8>, u64, Ending)> {
    let (mut client, mut tokens) = (Vec::new(), 0);
    for chunk in chunks {
        for step in reader.push(Bytes::copy_from_slice(chunk)).ok()? {
            client.extend_from_slice(&step.forward.unwrap_or_default());
            tokens += u64::from(step.tokens);
        }
    }
    let ending = reader.finish();
    Some((client, tokens, ending))
}

pub(super) fn check_stream(input: &[u8]) {
    let mut input = Input(input);
    let (engine, api) = (input.choose(&ENGINES), input.choose(&Api::ALL));
    let (usage, one, other) = (input.byte() & 1 == 1, input.byte(), input.byte());
    let bytes = input.rest();
    let read = |seed| hear(reader(engine, api, usage)?, pieces(bytes, seed));
    let (one, other) = (read(one), read(other));
    assert_eq!(one, other, "{engine:?} {api:?}");
    if let Some((client, ..)) = one {
        // What is made up for a client is small beside what it stands for, many times over.
        assert!(
            client.len() <= 4_096 + 64 * bytes.len(),
            "{} bytes of {}",
            client.len(),
            bytes.len()
        );
    }
}

pub(super) fn check_whole(input: &[u8]) {
    let mut input = Input(input);
    let (engine, api) = (input.choose(&ENGINES), input.choose(&Api::ALL));
    let bytes = Bytes::copy_from_slice(input.rest());
    if let Some(mut reader) = reader(engine, api, false) {
        let _ = reader.answer(bytes.clone());
    }
    let (_, told) = translate_error(api, engine, 500, bytes.clone());
    let message = String::from_utf8_lossy(&bytes);
    let own = error_body(
        Some(api),
        ErrorKind::UpstreamFailed,
        &message,
        Some(&message),
    );
    for error in [told, own] {
        let error: Result<serde_json::Value, _> = serde_json::from_slice(&error);
        assert!(error.is_ok(), "an error that is no JSON");
    }
}

fn chosen(engine: EngineKind, api: Api) -> [u8; 2] {
    let engine = ENGINES.iter().position(|known| *known == engine);
    let api = Api::ALL.iter().position(|known| *known == api);
    [engine, api].map(|position| position.unwrap_or(0) as u8)
}

pub(super) fn stream_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (engine, api, stream) in STREAMS {
        // Long recordings say the same again and again.
        let events: Vec<&str> = stream.split_inclusive("\n\n").collect();
        let end = events.len().saturating_sub(3);
        let short: String = events
            .iter()
            .take(3.min(end))
            .chain(&events[end..])
            .copied()
            .collect();
        seeds.push([&chosen(engine, api)[..], &[1, 0, 7], short.as_bytes()].concat());
    }
    seeds
}

pub(super) fn whole_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for whole in WHOLES {
        for api in Api::ALL {
            seeds.push([&chosen(EngineKind::LlamaCpp, api), whole.as_bytes()].concat());
        }
    }
    seeds
}
