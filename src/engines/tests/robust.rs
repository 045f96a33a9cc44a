//! Nothing a client or a worker sends makes a reader panic or lose count.

use proptest::prelude::*;

use super::*;

fn readers() -> Vec<AnswerReader> {
    let mut readers = Vec::new();
    for engine in [EngineKind::Tgi, EngineKind::LlamaCpp, EngineKind::Vllm] {
        readers.push(reader(engine, Api::GenerateStream, generate(json!({}))));
        readers.push(reader(engine, Api::ChatCompletions, chat(true)));
    }
    readers
}

/// Bytes that look enough like a stream to get far.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data: "),
        Just("\n\n"),
        Just("\r\n"),
        Just("[DONE]"),
        Just("{\"choices\":[{\"text\":\"é\",\"finish_reason\":\"stop\",\"token_ids\":[1]}]}"),
        Just("{\"choices\":[],\"usage\":{\"completion_tokens\":4294967295}}"),
        Just("{\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"completion_tokens\":9}}"),
        Just("{\"content\":\"😀\",\"tokens\":[1],\"tokens_predicted\":4294967295}"),
        Just("{\"content\":\"\",\"stop\":true,\"stop_type\":\"eos\"}"),
        Just(
            "{\"token\":{},\"generated_text\":\"x\",\"details\":{\"generated_tokens\":4294967295}}"
        ),
        Just("{\"error\":7}"),
        Just("{\"choices\":null}"),
    ];
    let text = prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![3 => text, 1 => prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #[test]
    fn no_stream_makes_a_reader_panic(stream in stream(), chunk_bytes in 1_usize..40) {
        for mut reader in readers() {
            for chunk in stream.chunks(chunk_bytes) {
                let _ = reader.push(Bytes::copy_from_slice(chunk));
            }
            let _ = reader.finish();
        }
    }

    #[test]
    fn no_body_makes_a_reader_panic(body in stream()) {
        for mut reader in readers() {
            let _ = reader.answer(Bytes::copy_from_slice(&body));
        }
        for api in Api::ALL {
            let (_, told) = translate_error(api, EngineKind::Vllm, 500, Bytes::copy_from_slice(&body));
            prop_assert!(serde_json::from_slice::<Value>(&told).is_ok());
        }
    }

    #[test]
    fn no_request_makes_reading_panic(body in ".{0,80}", api in prop::sample::select(Api::ALL.to_vec())) {
        let text = format!("{{\"inputs\":\"x\",\"prompt\":\"x\",{body}}}");
        let object = JsonObject::parse(Bytes::from(text));
        let call = object.map_err(BadRequest::from).and_then(|object| read_call(api, object, &LIMITS));
        if let Ok(call) = call {
            let _ = exchange(EngineKind::Vllm, &call, None);
        }
    }

    #[test]
    fn a_passed_stream_loses_no_whole_event(stream in stream(), chunk_bytes in 1_usize..40) {
        let mut body = chat(true);
        body["stream_options"] = json!({ "include_usage": true });
        let mut reader = reader(EngineKind::Vllm, Api::ChatCompletions, body);
        let mut forwarded = Vec::new();
        for chunk in stream.chunks(chunk_bytes) {
            for step in reader.push(Bytes::copy_from_slice(chunk)).unwrap() {
                forwarded.extend_from_slice(&step.forward.unwrap_or_default());
            }
        }
        prop_assert!(stream.starts_with(&forwarded));
        let rest = &stream[forwarded.len()..];
        // What follows an engine's error is not wanted.
        prop_assert!(reader.is_over() || !rest.windows(2).any(|pair| pair == b"\n\n"));
    }
}
