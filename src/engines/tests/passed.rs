//! Answers that reach the client as the engine wrote them.

use super::*;

const CHAT: &str = include_str!("../testdata/llamacpp_chat.sse");
const CHAT_OF_TWO: &str = include_str!("../testdata/llamacpp_chat_n2.sse");
const COMPLETIONS: &str = include_str!("../testdata/llamacpp_completions.sse");
const TGI: &str = concat!(
    "data:{\"index\":1,\"token\":{\"id\":7042,\"text\":\" Paris\",\"logprob\":-0.2,\"special\":false},",
    "\"generated_text\":null,\"details\":null}\n\n",
    "data:{\"index\":2,\"token\":{\"id\":2,\"text\":\"</s>\",\"logprob\":-0.1,\"special\":true},",
    "\"generated_text\":\" Paris\",\"details\":{\"finish_reason\":\"eos_token\",\"generated_tokens\":2,",
    "\"seed\":null,\"input_length\":5}}\n\n",
);

fn chat_reader(wanted: bool) -> AnswerReader {
    let mut body = chat(true);
    if wanted {
        body["stream_options"] = json!({ "include_usage": true });
    }
    reader(EngineKind::LlamaCpp, Api::ChatCompletions, body)
}

#[test]
fn a_client_that_did_not_ask_for_usage_gets_everything_but_it() {
    let read = read_stream(chat_reader(false), CHAT);
    let without: Vec<_> = CHAT
        .split_inclusive("\n\n")
        .filter(|event| !event.contains("\"choices\":[]"))
        .collect();
    assert_eq!(read.client, without.concat());
    assert_eq!(read.tokens, 5);
    assert_eq!(
        read.ending,
        Ending {
            complete: true,
            prompt_tokens: Some(34),
            output_tokens: 5,
            finish_reason: Some("length".to_owned()),
            tail: None,
            engine_error: None,
            error_event: None,
        }
    );
}

#[test]
fn a_client_that_asked_for_usage_gets_every_byte() {
    let read = read_stream(chat_reader(true), CHAT);
    assert_eq!(read.client, CHAT);
    assert!(read.ending.complete);
}

#[test]
fn usage_beside_choices_stays_and_its_tokens_are_not_counted_twice() {
    let body = json!({ "prompt": "One two three", "stream": true });
    let read = read_stream(
        reader(EngineKind::LlamaCpp, Api::Completions, body),
        COMPLETIONS,
    );
    assert_eq!(read.client, COMPLETIONS);
    assert_eq!((read.tokens, read.ending.output_tokens), (4, 4));
    assert_eq!(read.ending.prompt_tokens, Some(3));
}

#[test]
fn two_choices_are_counted_together_though_each_states_its_own_usage() {
    let mut body = chat(true);
    body["n"] = json!(2);
    let stream = || reader(EngineKind::LlamaCpp, Api::ChatCompletions, body.clone());
    let read = read_stream(stream(), CHAT_OF_TWO);
    assert!(read.ending.complete);
    assert_eq!((read.tokens, read.ending.output_tokens), (4, 4));
    assert!(!read.client.contains("\"usage\""));
    // One of two choices finished is not the end.
    let cut = CHAT_OF_TWO
        .find("\"index\":1,\"delta\":{}")
        .expect("the second finish");
    assert!(!read_stream(stream(), &CHAT_OF_TWO[..cut]).ending.complete);
}

#[test]
fn events_of_one_read_go_on_as_one_piece_without_a_copy() {
    let chunk = Bytes::from_static(CHAT.as_bytes());
    let steps = chat_reader(true).push(chunk.clone()).unwrap();
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].forward.as_ref().unwrap().as_ptr(), chunk.as_ptr());
    let steps = chat_reader(false).push(chunk).unwrap();
    let withheld: Vec<bool> = steps.iter().map(|step| step.forward.is_none()).collect();
    assert_eq!(withheld, [false, true, false]);
}

#[test]
fn a_stream_cut_before_its_end_is_not_complete() {
    let cut = CHAT.find(" This").expect("a token");
    let read = read_stream(chat_reader(false), &CHAT[..cut]);
    assert!(!read.ending.complete);
    assert_eq!((read.ending.output_tokens, read.ending.tail), (4, None));
    assert!(
        read.client.ends_with("\n\n"),
        "only whole events are forwarded"
    );
}

#[test]
fn a_finished_stream_without_its_mark_gets_the_mark() {
    let cut = CHAT.find("data: [DONE]").expect("the mark");
    let read = read_stream(chat_reader(true), &CHAT[..cut]);
    assert!(read.ending.complete);
    assert_eq!(read.client, format!("{}data: [DONE]\n\n", &CHAT[..cut]));
}

#[test]
fn a_mark_without_its_blank_line_still_ends_the_stream() {
    for kept in ["data: [DONE]", "data: [DONE]\n"] {
        let cut = CHAT.find("data: [DONE]").expect("the mark");
        let read = read_stream(chat_reader(true), &format!("{}{kept}", &CHAT[..cut]));
        assert!(read.ending.complete);
        assert_eq!(read.client.matches("[DONE]").count(), 1);
        assert!(read.client.ends_with("\n\n"));
    }
}

#[test]
fn an_error_within_a_stream_is_passed_on_and_reported() {
    for error in [
        r#"{"error":{"message":"out of memory","type":"server_error","code":500}}"#,
        r#"{"object":"error","message":"out of memory","code":500}"#,
        r#"{"error":"out of memory","error_type":"generation"}"#,
    ] {
        let stream = format!("data: {error}\n\ndata: [DONE]\n\n");
        let read = read_stream(chat_reader(false), &stream);
        assert_eq!(read.client, format!("data: {error}\n\n"));
        assert!(!read.ending.complete);
        assert_eq!(read.ending.engine_error.as_deref(), Some("out of memory"));
    }
}

#[test]
fn reasoning_tool_calls_and_token_ids_count_as_output() {
    let check = |choice: Value, tokens: u32| {
        let stream = format!("data: {}\n\n", json!({ "choices": [choice] }));
        assert_eq!(
            read_stream(chat_reader(false), &stream).tokens,
            tokens,
            "{stream}"
        );
    };
    check(
        json!({ "index": 0, "delta": { "role": "assistant", "content": "" } }),
        0,
    );
    check(
        json!({ "index": 0, "delta": { "content": null, "reasoning_content": "hm" } }),
        1,
    );
    check(
        json!({ "index": 0, "delta": { "reasoning": "hm", "reasoning_content": "hm" } }),
        1,
    );
    check(
        json!({ "index": 0, "delta": { "tool_calls": [{ "index": 0 }] } }),
        1,
    );
    check(
        json!({ "index": 0, "delta": { "content": "abc" }, "token_ids": [1, 2, 3] }),
        3,
    );
}

#[test]
fn continuous_usage_tells_the_tokens_of_each_chunk() {
    let chunk = |text: &str, tokens: u32| {
        let usage = json!({ "prompt_tokens": 7, "completion_tokens": tokens });
        format!(
            "data: {}\n\n",
            json!({ "choices": [{ "delta": { "content": text } }], "usage": usage })
        )
    };
    let mut reader = chat_reader(true);
    let mut tokens = |text: &str, so_far| -> u32 {
        let steps = reader.push(Bytes::from(chunk(text, so_far))).unwrap();
        steps.iter().map(|step| step.tokens).sum()
    };
    assert_eq!(
        [tokens("a", 1), tokens("bcd", 4), tokens("e", 5)],
        [1, 3, 1]
    );
    assert_eq!(
        tokens("f", 4_000_000_000),
        1,
        "a senseless count is not believed"
    );
}

#[test]
fn a_senseless_usage_is_not_believed() {
    let stream = |usage: u32| {
        let usage =
            json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": usage } });
        format!(
            "data: {}\n\ndata: {usage}\n\n",
            json!({ "choices": [{ "delta": { "content": "a" } }] })
        )
    };
    let counted = |usage| {
        read_stream(chat_reader(true), &stream(usage))
            .ending
            .output_tokens
    };
    assert_eq!(
        (counted(0), counted(1), counted(32), counted(33)),
        (1, 1, 32, 1)
    );
}

#[test]
fn an_unstreamed_chat_is_unchanged_and_counted() {
    let body = include_str!("../testdata/llamacpp_chat.json");
    let mut reader = reader(EngineKind::LlamaCpp, Api::ChatCompletions, chat(false));
    let (out, ending) = reader.answer(Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(out, body);
    assert!(ending.complete);
    assert_eq!((ending.prompt_tokens, ending.output_tokens), (Some(34), 5));
}

#[test]
fn tgi_streams_pass_unchanged_and_end_with_the_generated_text() {
    for engine in [EngineKind::Tgi, EngineKind::Fake] {
        let read = read_stream(
            reader(engine, Api::GenerateStream, generate(json!({}))),
            TGI,
        );
        assert_eq!(read.client, TGI);
        assert!(read.ending.complete);
        assert_eq!((read.tokens, read.ending.output_tokens), (2, 2));
        assert_eq!(read.ending.prompt_tokens, Some(5));
        assert_eq!(read.ending.finish_reason.as_deref(), Some("eos_token"));
        let cut = TGI.find("\n\n").unwrap() + 2;
        let read = read_stream(
            reader(engine, Api::GenerateStream, generate(json!({}))),
            &TGI[..cut],
        );
        assert!(!read.ending.complete);
        assert_eq!(read.ending.output_tokens, 1);
    }
}

#[test]
fn tgi_answers_are_a_list_at_the_root_and_an_object_elsewhere() {
    let body =
        r#"{"generated_text":" Paris","details":{"finish_reason":"length","generated_tokens":3}}"#;
    let (object, ending) = read_answer(
        reader(EngineKind::Tgi, Api::Generate, generate(json!({}))),
        body,
    );
    assert_eq!(object["generated_text"], " Paris");
    assert_eq!((ending.complete, ending.output_tokens), (true, 3));
    let (list, _) = read_answer(
        reader(EngineKind::Tgi, Api::TgiRoot, generate(json!({}))),
        body,
    );
    assert_eq!(list, json!([object]));
}

#[test]
fn without_details_tokens_are_estimated_from_the_text_that_was_generated() {
    let check = |parameters: Value, text: &str, tokens: u32| {
        let body = json!({ "generated_text": text }).to_string();
        let (_, ending) = read_answer(
            reader(EngineKind::Tgi, Api::Generate, generate(parameters)),
            &body,
        );
        assert_eq!(ending.output_tokens, tokens);
    };
    check(json!({}), " Paris is", 3);
    check(
        json!({ "return_full_text": true }),
        "The capital of France is Paris is",
        3,
    );
}
