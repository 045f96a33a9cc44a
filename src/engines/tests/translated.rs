//! TGI's routes answered by engines that do not have them.

use super::*;

const LIMIT: &str = include_str!("../testdata/llamacpp_limit.sse");
const EOS: &str = include_str!("../testdata/llamacpp_eos.sse");
const WORD: &str = include_str!("../testdata/llamacpp_word.sse");
const EMOJI: &str = include_str!("../testdata/llamacpp_emoji.sse");

fn llamacpp(parameters: Value) -> AnswerReader {
    reader(
        EngineKind::LlamaCpp,
        Api::GenerateStream,
        generate(parameters),
    )
}

fn vllm(parameters: Value) -> AnswerReader {
    reader(EngineKind::Vllm, Api::GenerateStream, generate(parameters))
}

/// Checks what the text-generation client needs of every event and the last one, and gives the last.
fn check_tgi(read: &Read) -> Value {
    let events = read.events();
    let (last, others) = events.split_last().expect("events");
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event["index"], position + 1);
        let token = &event["token"];
        assert!(token["id"].is_i64() && token["text"].is_string() && token["special"].is_boolean());
        assert!(token["logprob"].is_null() || token["logprob"].is_f64());
    }
    assert!(
        others
            .iter()
            .all(|event| event["generated_text"].is_null() && event["details"].is_null())
    );
    let spoken = events
        .iter()
        .filter(|event| event["token"]["special"] == false);
    let text: String = spoken
        .filter_map(|event| event["token"]["text"].as_str())
        .collect();
    assert!(
        last["generated_text"]
            .as_str()
            .is_some_and(|whole| whole.ends_with(&text))
    );
    assert!(last["details"]["generated_tokens"].is_u64());
    last.clone()
}

#[test]
fn a_llamacpp_stream_becomes_a_tgi_stream() {
    let check = |stream: &str, text: &str, reason: &str, tokens: u32, prompt_tokens: u32| {
        let read = read_stream(llamacpp(json!({ "max_new_tokens": 30 })), stream);
        let last = check_tgi(&read);
        assert_eq!(last["generated_text"], text);
        assert_eq!(last["details"]["finish_reason"], reason);
        assert_eq!(last["details"]["generated_tokens"], tokens);
        assert_eq!(last["details"]["input_length"], prompt_tokens);
        assert_eq!(last["details"]["seed"], Value::Null);
        assert_eq!((read.tokens, read.ending.output_tokens), (tokens, tokens));
        assert_eq!(read.ending.prompt_tokens, Some(prompt_tokens));
        assert!(read.ending.complete);
    };
    check(LIMIT, " Paris.\n\nThe United", "length", 6, 5);
    check(EOS, "The capital of France is Paris.", "eos_token", 8, 21);
    check(WORD, " Paris.", "stop_sequence", 2, 5);
    // Eight tokens in two events: a character is several tokens, and the last one stays unfinished.
    check(EMOJI, "🌍😀", "length", 8, 26);
}

#[test]
fn any_chunking_of_the_engines_stream_gives_the_client_the_same_bytes() {
    for stream in [LIMIT, EOS, WORD, EMOJI] {
        let whole = read_stream(llamacpp(json!({})), stream);
        for chunk_bytes in [1, 2, 3, 7, 100] {
            let read = read_chunks(llamacpp(json!({})), stream.as_bytes(), chunk_bytes);
            assert_eq!(read.client, whole.client);
            assert_eq!((read.tokens, &read.ending), (whole.tokens, &whole.ending));
        }
    }
}

#[test]
fn the_full_text_begins_with_the_prompt() {
    let read = read_stream(llamacpp(json!({ "return_full_text": true })), WORD);
    assert_eq!(
        check_tgi(&read)["generated_text"],
        "The capital of France is Paris."
    );
}

#[test]
fn the_seed_is_told_when_it_was_used() {
    let seed =
        |parameters| check_tgi(&read_stream(llamacpp(parameters), WORD))["details"]["seed"].clone();
    assert_eq!(seed(json!({ "seed": 42, "do_sample": true })), 42);
    assert_eq!(seed(json!({ "seed": 42 })), Value::Null);
}

#[test]
fn a_llamacpp_stream_that_is_cut_is_not_complete() {
    let cut = LIMIT.find("\"stop\":true").expect("the end");
    let read = read_stream(llamacpp(json!({})), &LIMIT[..cut]);
    assert!(!read.ending.complete && read.ending.tail.is_none());
    assert_eq!(read.ending.output_tokens, 6);
    assert!(
        read.events()
            .iter()
            .all(|event| event["generated_text"].is_null())
    );
}

#[test]
fn an_engines_error_is_told_in_the_tgi_shape_and_nothing_follows() {
    let stream = "data: {\"error\":{\"code\":500,\"message\":\"no slot\",\"type\":\"server_error\"}}\n\ndata: [DONE]\n\n";
    for reader in [llamacpp(json!({})), vllm(json!({}))] {
        let read = read_stream(reader, stream);
        assert_eq!(
            read.client,
            "data:{\"error\":\"no slot\",\"error_type\":\"generation\"}\n\n"
        );
        assert_eq!(read.ending.engine_error.as_deref(), Some("no slot"));
        assert!(!read.ending.complete);
    }
}

#[test]
fn what_is_no_answer_of_the_engine_is_an_error_not_a_panic() {
    for stream in [
        "data: hello\n\n",
        "data: [1]\n\n",
        "data: {\"choices\":7}\n\n",
        "data: {\"content\":7}\n\n",
    ] {
        let mut reader = if stream.contains("choices") {
            vllm(json!({}))
        } else {
            llamacpp(json!({}))
        };
        let steps = reader.push(Bytes::copy_from_slice(stream.as_bytes()));
        let given = steps
            .into_iter()
            .flatten()
            .any(|step| step.forward.is_some());
        assert!(!given && reader.is_over(), "{stream}");
        let ending = reader.finish();
        let error = ending.engine_error.unwrap_or_default();
        assert!(
            !ending.complete && error.contains("not understood"),
            "{error}"
        );
    }
}

#[test]
fn comments_of_the_engine_keep_the_clients_connection_alive() {
    let read = read_stream(llamacpp(json!({})), &format!(": ping\n\n{LIMIT}"));
    assert!(read.client.starts_with(": ping\n\ndata:"));
}

#[test]
fn an_unstreamed_llamacpp_answer_becomes_tgis() {
    let check = |body: &str, text: &str, reason: &str, tokens: usize| {
        let parameters = generate(json!({ "details": true }));
        let (answer, ending) = read_answer(
            reader(EngineKind::LlamaCpp, Api::Generate, parameters),
            body,
        );
        assert_eq!(answer["generated_text"], text);
        let details = &answer["details"];
        assert_eq!(details["finish_reason"], reason);
        assert_eq!(details["generated_tokens"], tokens);
        assert_eq!(details["prefill"], json!([]));
        let list = details["tokens"].as_array().expect("tokens");
        assert_eq!(list.len(), tokens);
        let joined: String = list
            .iter()
            .filter_map(|token| token["text"].as_str())
            .collect();
        assert_eq!(joined, text);
        assert!(list[0]["logprob"].is_f64() && list[0]["id"].is_i64());
        assert_eq!(
            (ending.complete, ending.output_tokens as usize),
            (true, tokens)
        );
    };
    check(
        include_str!("../testdata/llamacpp_limit.json"),
        " Paris.\n",
        "length",
        3,
    );
    let eos = include_str!("../testdata/llamacpp_eos.json");
    check(eos, "The capital of France is Paris.", "eos_token", 8);
    check(
        include_str!("../testdata/llamacpp_word.json"),
        " Paris.\n\nThe",
        "stop_sequence",
        5,
    );
}

#[test]
fn details_are_left_out_unless_asked_for_and_the_root_answers_with_a_list() {
    let body = include_str!("../testdata/llamacpp_limit.json");
    let (answer, _) = read_answer(
        reader(EngineKind::LlamaCpp, Api::TgiRoot, generate(json!({}))),
        body,
    );
    assert_eq!(answer, json!([{ "generated_text": " Paris.\n" }]));
}

fn vllm_stream(finish: Value) -> String {
    let chunk = |choice: Value| {
        format!(
            "data: {}\n\n",
            json!({ "id": "cmpl-1", "choices": [choice], "usage": null })
        )
    };
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9 } });
    [
        chunk(json!({ "index": 0, "text": " Paris", "finish_reason": null, "token_ids": [7042], "prompt_token_ids": [1] })),
        chunk(json!({ "index": 0, "text": ", é", "finish_reason": null, "token_ids": [5, 6] })),
        chunk(finish),
        format!("data: {usage}\n\ndata: [DONE]\n\n"),
    ]
    .concat()
}

#[test]
fn a_vllm_stream_becomes_a_tgi_stream() {
    let check = |finish: Value, text: &str, reason: &str| {
        let read = read_stream(vllm(json!({})), &vllm_stream(finish));
        let last = check_tgi(&read);
        assert_eq!(
            (&last["generated_text"], &last["details"]["finish_reason"]),
            (&json!(text), &json!(reason))
        );
        assert_eq!(last["details"]["generated_tokens"], 4);
        assert_eq!(last["details"]["input_length"], 5);
        assert_eq!(read.events().len(), 3);
        assert_eq!((read.tokens, read.ending.output_tokens), (4, 4));
        assert!(read.ending.complete);
    };
    let end = |text: &str, reason: &str, stop: Value| json!({ "index": 0, "text": text, "finish_reason": reason, "stop_reason": stop, "token_ids": [9] });
    check(end("!", "length", Value::Null), " Paris, é!", "length");
    check(end("", "stop", Value::Null), " Paris, é", "eos_token");
    check(
        end("END", "stop", json!("END")),
        " Paris, éEND",
        "stop_sequence",
    );
    check(end("", "stop", json!(151_645)), " Paris, é", "eos_token");
}

#[test]
fn a_vllm_stream_that_finished_and_was_cut_before_its_usage_is_complete() {
    let stream = vllm_stream(
        json!({ "index": 0, "text": "!", "finish_reason": "length", "token_ids": [9] }),
    );
    let cut = stream.find("data: {\"choices\":[],").expect("usage");
    let read = read_stream(vllm(json!({})), &stream[..cut]);
    assert!(read.ending.complete && read.ending.tail.is_some());
    assert_eq!(check_tgi(&read)["details"]["generated_tokens"], 4);
}

#[test]
fn an_answer_that_vllm_aborted_is_an_error() {
    let read = read_stream(
        vllm(json!({})),
        &vllm_stream(json!({ "index": 0, "text": "", "finish_reason": "abort" })),
    );
    assert!(!read.ending.complete);
    assert!(
        read.ending
            .engine_error
            .is_some_and(|error| error.contains("abort"))
    );
    assert!(read.client.ends_with("\"error_type\":\"generation\"}\n\n"));
}

#[test]
fn an_unstreamed_vllm_answer_becomes_tgis() {
    let body = json!({
        "choices": [{ "index": 0, "text": " Paris.", "finish_reason": "stop", "stop_reason": null, "token_ids": [7, 8, 2],
            "logprobs": { "tokens": [" Paris", ".", ""], "token_logprobs": [-0.5, null, -0.1], "text_offset": [0, 6, 7] } }],
        "usage": { "prompt_tokens": 5, "completion_tokens": 3 },
    });
    let parameters = generate(json!({ "details": true, "return_full_text": true }));
    let (answer, ending) = read_answer(
        reader(EngineKind::Vllm, Api::Generate, parameters),
        &body.to_string(),
    );
    assert_eq!(answer["generated_text"], "The capital of France is Paris.");
    assert_eq!(answer["details"]["finish_reason"], "eos_token");
    let tokens = &answer["details"]["tokens"];
    assert_eq!(
        tokens[0],
        json!({ "id": 7, "text": " Paris", "logprob": -0.5, "special": false })
    );
    assert_eq!(tokens[2]["special"], true);
    assert_eq!((ending.prompt_tokens, ending.output_tokens), (Some(5), 3));
}
