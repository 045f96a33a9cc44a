//! Whole exchanges: a client's request in, an engine's answer back. The files of `testdata` were captured from a
//! llama.cpp server with SmolLM2-135M; vLLM's and TGI's answers are written here after their schemas.

mod passed;
mod requests;
mod resumed;
mod robust;
mod translated;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::domain::{Api, RequestLimits};

const LIMITS: RequestLimits = RequestLimits {
    max_new_tokens: 4096,
};

fn call(api: Api, body: Value) -> Call {
    let object = JsonObject::parse(Bytes::from(body.to_string())).expect("an object");
    read_call(api, object, &LIMITS).expect("a valid request")
}

fn reader(engine: EngineKind, api: Api, body: Value) -> AnswerReader {
    exchange(engine, &call(api, body), Some("served"))
        .expect("an exchange")
        .answer
}

fn generate(parameters: Value) -> Value {
    json!({ "inputs": "The capital of France is", "parameters": parameters })
}

fn chat(streamed: bool) -> Value {
    json!({ "messages": [{ "role": "user", "content": "hi" }], "stream": streamed })
}

/// What the client got, the tokens counted on the way, and the ending.
struct Read {
    client: String,
    tokens: u32,
    ending: Ending,
}

impl Read {
    /// The data of every event the client got.
    fn events(&self) -> Vec<Value> {
        let parse = |frame: &str| {
            let data = event_data(frame.as_bytes())?;
            (data.as_ref() != b"[DONE]").then(|| serde_json::from_slice(&data).expect("JSON"))
        };
        self.client
            .split_inclusive("\n\n")
            .filter_map(parse)
            .collect()
    }
}

fn read_stream(reader: AnswerReader, stream: &str) -> Read {
    let whole = read_chunks(reader, stream.as_bytes(), usize::MAX);
    assert!(
        !whole.client.contains('\u{fffd}'),
        "half a character: {}",
        whole.client
    );
    whole
}

fn read_chunks(mut reader: AnswerReader, stream: &[u8], chunk_bytes: usize) -> Read {
    let mut client = Vec::new();
    let mut tokens = 0;
    for chunk in stream.chunks(chunk_bytes) {
        for step in reader
            .push(Bytes::copy_from_slice(chunk))
            .expect("readable")
        {
            tokens += step.tokens;
            client.extend_from_slice(&step.forward.unwrap_or_default());
        }
    }
    let ending = reader.finish();
    client.extend_from_slice(ending.tail.as_deref().unwrap_or_default());
    client.extend_from_slice(ending.error_event.as_deref().unwrap_or_default());
    Read {
        client: String::from_utf8_lossy(&client).into_owned(),
        tokens,
        ending,
    }
}

fn read_answer(mut reader: AnswerReader, body: &str) -> (Value, Ending) {
    let (body, ending) = reader
        .answer(Bytes::copy_from_slice(body.as_bytes()))
        .expect("readable");
    (serde_json::from_slice(&body).expect("JSON"), ending)
}
