//! Streams that one worker begins and another one goes on with: the client gets one.

use super::*;
use crate::domain::Obstacle;

const LIMIT: &str = include_str!("../testdata/llamacpp_limit.sse");
const CHAT: &str = include_str!("../testdata/llamacpp_chat.sse");
const TGI: [(&str, bool); 3] = [(" Paris", false), (" is", false), (" nice", true)];

fn frames(stream: &str) -> Vec<&str> {
    stream.split_inclusive("\n\n").collect()
}

fn feed(reader: &mut AnswerReader, stream: &str, client: &mut String) {
    for step in reader
        .push(Bytes::copy_from_slice(stream.as_bytes()))
        .expect("readable")
    {
        client.push_str(&String::from_utf8_lossy(&step.forward.unwrap_or_default()));
    }
}

fn finish(reader: &mut AnswerReader, client: &mut String) -> Ending {
    let ending = reader.finish();
    client.push_str(&String::from_utf8_lossy(
        ending.tail.as_deref().unwrap_or_default(),
    ));
    ending
}

/// Feeds the first part, goes on, and gives what the second worker was asked and its reader.
fn broken_after(
    engine: EngineKind,
    call: &Call,
    stream: &str,
    client: &mut String,
) -> (Value, AnswerReader) {
    let mut first = exchange(engine, call, Some("served")).expect("an exchange");
    feed(&mut first.answer, stream, client);
    let ending = finish(&mut first.answer, client);
    assert!(!ending.complete);
    assert_eq!(first.answer.transcript().obstacle(), None);
    let second = resume(engine, call, first.answer, Some("served"), true).expect("an exchange");
    let asked = serde_json::from_slice(&second.body).expect("JSON");
    (asked, second.answer)
}

fn events_of(client: &str) -> Vec<Value> {
    let read = Read {
        client: client.to_owned(),
        tokens: 0,
        ending: Ending::default(),
    };
    read.events()
}

#[test]
fn a_translated_stream_goes_on_from_the_tokens_the_client_has() {
    let all = frames(LIMIT);
    let call = call(Api::GenerateStream, generate(json!({"max_new_tokens": 6})));
    let whole = read_stream(
        exchange(EngineKind::LlamaCpp, &call, None).unwrap().answer,
        LIMIT,
    )
    .client;
    for cut in 1..6 {
        let mut client = String::new();
        let (asked, mut second) = broken_after(
            EngineKind::LlamaCpp,
            &call,
            &all[..cut].concat(),
            &mut client,
        );
        assert_eq!(asked["n_predict"], 6 - cut);
        assert_eq!(asked["prompt"][0], "The capital of France is");
        assert_eq!(asked["prompt"].as_array().map(Vec::len), Some(cut + 1));
        for event in &all[cut..] {
            // The second worker counts from nothing and takes what was given for prompt.
            let mut event = event_data(event.as_bytes())
                .map(|data| serde_json::from_slice::<Value>(&data).unwrap())
                .unwrap();
            event["tokens_predicted"] =
                (event["tokens_predicted"].as_u64().unwrap() - cut as u64).into();
            event["tokens_evaluated"] = (5 + cut).into();
            feed(&mut second, &format!("data: {event}\n\n"), &mut client);
        }
        let ending = finish(&mut second, &mut client);
        assert!(ending.complete);
        assert_eq!((ending.prompt_tokens, ending.output_tokens), (Some(5), 6));
        assert_eq!(client, whole, "cut after {cut}");
    }
}

#[test]
fn a_chat_keeps_its_id_its_one_role_and_its_totals() {
    let all = frames(CHAT);
    let mut body = chat(true);
    body["max_tokens"] = json!(5);
    body["stream_options"] = json!({"include_usage": true});
    let call = call(Api::ChatCompletions, body);
    for cut in 2..5 {
        let mut client = String::new();
        let (asked, mut second) = broken_after(
            EngineKind::LlamaCpp,
            &call,
            &all[..cut].concat(),
            &mut client,
        );
        assert_eq!(asked["max_tokens"], 6 - cut);
        assert_eq!(asked["continue_final_message"], true);
        assert_eq!(asked["add_generation_prompt"], false);
        let last = asked["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(last["role"], "assistant");
        feed(&mut second, all[0], &mut client);
        for mut event in events_of(&all[cut..].concat()) {
            event["id"] = "chatcmpl-else".into();
            if event["usage"].is_object() {
                event["usage"]["completion_tokens"] = (6 - cut).into();
                event["usage"]["prompt_tokens"] = (33 + cut).into();
                event["timings"]["prompt_n"] = cut.into();
            }
            feed(&mut second, &format!("data: {event}\n\n"), &mut client);
        }
        feed(&mut second, "data: [DONE]\n\n", &mut client);
        assert!(finish(&mut second, &mut client).complete);
        let (got, expected) = (events_of(&client), events_of(CHAT));
        assert_eq!(got.len(), expected.len(), "cut after {cut}");
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got["choices"], expected["choices"]);
            assert_eq!(got["id"], expected["id"]);
            for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                assert_eq!(got["usage"][count], expected["usage"][count], "{count}");
            }
        }
        assert_eq!(client.matches("[DONE]").count(), 1);
    }
}

fn tgi_event(index: usize, first_of_worker: usize, given: &str) -> String {
    let (text, last) = TGI[index];
    let made: String = TGI[first_of_worker..=index]
        .iter()
        .map(|(text, _)| *text)
        .collect();
    let tokens = index + 1 - first_of_worker;
    let input_length = 5 + first_of_worker;
    let end = json!({"finish_reason": "length", "generated_tokens": tokens, "seed": null, "input_length": input_length});
    let event = json!({
        "index": tokens,
        "token": {"id": index, "text": text, "logprob": -0.5, "special": false},
        "generated_text": last.then(|| format!("{given}{made}")),
        "details": last.then_some(end),
    });
    format!("data:{event}\n\n")
}

#[test]
fn tgis_own_stream_keeps_its_indices_and_its_whole_text() {
    for full_text in [false, true] {
        let parameters = json!({"max_new_tokens": 3, "return_full_text": full_text});
        let call = call(Api::GenerateStream, generate(parameters));
        let prompt = if full_text {
            "The capital of France is"
        } else {
            ""
        };
        let mut client = String::new();
        let (asked, mut second) = broken_after(
            EngineKind::Tgi,
            &call,
            &tgi_event(0, 0, prompt),
            &mut client,
        );
        assert_eq!(asked["inputs"], "The capital of France is Paris");
        assert_eq!(asked["parameters"]["max_new_tokens"], 2);
        for index in 1..3 {
            feed(&mut second, &tgi_event(index, 1, ""), &mut client);
        }
        assert!(finish(&mut second, &mut client).complete);
        let events = events_of(&client);
        let indices: Vec<_> = events.iter().map(|event| event["index"].as_u64()).collect();
        assert_eq!(indices, [Some(1), Some(2), Some(3)]);
        let last = &events[2];
        assert_eq!(last["generated_text"], format!("{prompt} Paris is nice"));
        assert_eq!(last["details"]["generated_tokens"], 3);
        assert_eq!(last["details"]["input_length"], 5);
    }
}

#[test]
fn a_stop_sequence_on_both_sides_of_the_seam_ends_the_stream() {
    let parameters = json!({"max_new_tokens": 3, "stop": ["Paris is"]});
    let call = call(Api::GenerateStream, generate(parameters));
    let mut client = String::new();
    let (_, mut second) = broken_after(EngineKind::Tgi, &call, &tgi_event(0, 0, ""), &mut client);
    feed(&mut second, &tgi_event(1, 1, ""), &mut client);
    assert!(second.is_over());
    feed(&mut second, &tgi_event(2, 1, ""), &mut client);
    let ending = finish(&mut second, &mut client);
    assert!(ending.complete);
    assert_eq!(ending.finish_reason.as_deref(), Some("stop_sequence"));
    let events = events_of(&client);
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["generated_text"], " Paris is");
    assert_eq!(events[1]["details"]["finish_reason"], "stop_sequence");
}

#[test]
fn a_stop_sequence_that_the_last_allowed_token_completes_is_why_the_stream_ended() {
    let parameters = json!({"max_new_tokens": 3, "stop": ["is nice"]});
    let call = call(Api::GenerateStream, generate(parameters));
    let first = tgi_event(0, 0, "") + &tgi_event(1, 0, "");
    let mut client = String::new();
    let (_, mut second) = broken_after(EngineKind::Tgi, &call, &first, &mut client);
    feed(&mut second, &tgi_event(2, 2, ""), &mut client);
    let ending = finish(&mut second, &mut client);
    assert_eq!(ending.finish_reason.as_deref(), Some("stop_sequence"));
    let events = events_of(&client);
    assert_eq!(events[2]["details"]["finish_reason"], "stop_sequence");
    assert_eq!(events[2]["generated_text"], " Paris is nice");
}

#[test]
fn a_stream_that_lacks_only_its_end_is_ended_without_another_worker() {
    let all = frames(CHAT);
    let mut body = chat(true);
    body["max_tokens"] = json!(5);
    body["stream_options"] = json!({"include_usage": true});
    let call = call(Api::ChatCompletions, body);
    let mut reader = exchange(EngineKind::LlamaCpp, &call, None).unwrap().answer;
    let mut client = String::new();
    feed(&mut reader, &all[..6].concat(), &mut client);
    assert!(!finish(&mut reader, &mut client).complete);
    assert!(is_at_limit(&reader));
    let ending = end_at_limit(reader);
    assert!(ending.complete);
    client.push_str(&String::from_utf8_lossy(&ending.tail.unwrap()));
    let events = events_of(&client);
    assert_eq!(events[6]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[7]["usage"]["completion_tokens"], 5);
    assert!(client.ends_with("data: [DONE]\n\n"));
}

#[test]
fn garbage_behind_the_finish_reason_is_no_reason_to_finish_twice() {
    let all = frames(CHAT);
    let call = call(Api::ChatCompletions, chat(true));
    let mut reader = exchange(EngineKind::LlamaCpp, &call, None).unwrap().answer;
    let mut client = String::new();
    feed(
        &mut reader,
        &all.concat().replace("data: [DONE]\n\n", ""),
        &mut client,
    );
    feed(&mut reader, "data: {\"choi\n\n", &mut client);
    assert!(reader.is_over());
    assert!(is_at_limit(&reader));
    let ending = end_at_limit(reader);
    assert!(ending.complete);
    client.push_str(&String::from_utf8_lossy(&ending.tail.unwrap()));
    assert_eq!(
        client.matches("\"finish_reason\":\"").count(),
        1,
        "{client}"
    );
    assert!(client.ends_with("data: [DONE]\n\n"));
}

#[test]
fn what_only_the_answer_shows_is_an_obstacle_from_then_on() {
    let check = |delta: Value, expected: Option<Obstacle>| {
        let mut reader = exchange(
            EngineKind::Vllm,
            &call(Api::ChatCompletions, chat(true)),
            None,
        )
        .unwrap()
        .answer;
        let event = json!({"id": "a", "choices": [{"index": 0, "delta": delta}]});
        feed(
            &mut reader,
            &format!("data: {event}\n\n"),
            &mut String::new(),
        );
        assert_eq!(reader.transcript().obstacle(), expected, "{delta}");
    };
    check(json!({"content": "a"}), None);
    check(json!({"content": null, "tool_calls": []}), None);
    check(
        json!({"tool_calls": [{"index": 0}]}),
        Some(Obstacle::ToolCalls),
    );
    check(
        json!({"reasoning_content": "hm"}),
        Some(Obstacle::Reasoning),
    );
    check(json!({"reasoning": "hm"}), Some(Obstacle::Reasoning));
}

#[test]
fn an_engines_count_of_tokens_sets_what_is_left_and_stays_from_the_client() {
    let mut body = chat(true);
    body["max_tokens"] = json!(10);
    let call = call(Api::ChatCompletions, body);
    let event = |text: &str, counted: u32| {
        let usage =
            json!({"prompt_tokens": 7, "completion_tokens": counted, "total_tokens": 7 + counted});
        let chunk = json!({"id": "a", "choices": [{"index": 0, "delta": {"content": text}}], "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let mut client = String::new();
    let stream = event("one", 1) + &event(" two three four", 4);
    let (asked, _) = broken_after(EngineKind::Vllm, &call, &stream, &mut client);
    assert_eq!(asked["max_tokens"], 6);
    assert!(!client.contains("usage"), "{client}");
}

#[test]
fn a_stream_that_breaks_twice_is_not_given_twice() {
    let call = call(Api::GenerateStream, generate(json!({"max_new_tokens": 5})));
    let event = |text: &str, id: u32, prompt_ids: Value| {
        let choice =
            json!({"index": 0, "text": text, "token_ids": [id], "prompt_token_ids": prompt_ids});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let mut client = String::new();
    let first = event(" a", 11, json!([1, 2]));
    let (asked, mut second) = broken_after(EngineKind::Vllm, &call, &first, &mut client);
    assert_eq!(asked["prompt"], json!([1, 2, 11]));
    // The second worker takes what was given for its prompt, and says so.
    feed(
        &mut second,
        &event(" b", 12, json!([1, 2, 11])),
        &mut client,
    );
    assert!(!finish(&mut second, &mut client).complete);
    let third = resume(EngineKind::Vllm, &call, second, None, true).expect("an exchange");
    let asked: Value = serde_json::from_slice(&third.body).expect("JSON");
    assert_eq!(asked["prompt"], json!([1, 2, 11, 12]));
    assert_eq!(asked["max_tokens"], 3);
}

#[test]
fn a_resumed_chat_still_asks_how_many_tokens_there_are() {
    let mut body = chat(true);
    body["max_tokens"] = json!(10);
    let call = call(Api::ChatCompletions, body);
    let chunk = json!({"id": "a", "choices": [{"index": 0, "delta": {"content": "one"}}]});
    let (asked, _) = broken_after(
        EngineKind::Vllm,
        &call,
        &format!("data: {chunk}\n\n"),
        &mut String::new(),
    );
    assert_eq!(asked["stream_options"]["continuous_usage_stats"], true);
}

#[test]
fn what_came_before_an_event_nobody_can_read_reaches_the_client() {
    let call = call(Api::GenerateStream, generate(json!({"max_new_tokens": 6})));
    let mut reader = exchange(EngineKind::LlamaCpp, &call, None).unwrap().answer;
    let mut client = String::new();
    let first = frames(LIMIT)[0];
    feed(
        &mut reader,
        &format!("{first}data: garbage\n\n"),
        &mut client,
    );
    assert!(reader.is_over());
    assert!(client.contains(" Paris"), "{client}");
    assert_eq!(reader.transcript().text, " Paris");
}

/// A completion without a limit that one engine began, `tokens` events of text in.
fn begun(engine: EngineKind, call: &Call, tokens: usize) -> AnswerReader {
    let mut reader = exchange(engine, call, Some("served"))
        .expect("an exchange")
        .answer;
    let event = r#"data: {"id":"c","choices":[{"index":0,"text":" a","finish_reason":null}]}"#;
    let mut client = String::new();
    feed(
        &mut reader,
        &format!("{event}\n\n").repeat(tokens),
        &mut client,
    );
    assert!(!finish(&mut reader, &mut client).complete);
    reader
}

#[test]
fn another_engine_keeps_to_the_first_ones_default_budget() {
    let body = json!({"prompt": "The capital of France is", "stream": true});
    let call = call(Api::Completions, body);
    let vllm = begun(EngineKind::Vllm, &call, 10);
    assert!(can_go_on(EngineKind::LlamaCpp, &call, &vllm));
    let second = resume(EngineKind::LlamaCpp, &call, vllm, None, false).expect("an exchange");
    let asked: Value = serde_json::from_slice(&second.body).expect("JSON");
    assert_eq!(asked["max_tokens"], 6, "16 less the 10 that the client has");
    // What had no limit cannot go on where there is one.
    let unlimited = begun(EngineKind::LlamaCpp, &call, 40);
    assert!(!can_go_on(EngineKind::Vllm, &call, &unlimited));
    assert!(can_go_on(EngineKind::LlamaCpp, &call, &unlimited));
}

#[test]
fn what_hinders_the_next_engine_is_seen_before_it_is_asked() {
    let body = json!({
        "prompt": "The capital of France is", "stream": true, "max_tokens": 30, "frequency_penalty": 0.5,
    });
    let call = call(Api::Completions, body);
    let begun = begun(EngineKind::LlamaCpp, &call, 3);
    assert_eq!(begun.transcript().obstacle(), None);
    assert!(can_go_on(EngineKind::LlamaCpp, &call, &begun));
    // vLLM counts what it made itself, and would begin at nothing.
    assert!(!can_go_on(EngineKind::Vllm, &call, &begun));
}

#[test]
fn llamacpps_own_limit_is_known_on_openais_routes() {
    let limited = |more: Value| {
        let mut body = json!({"prompt": "The capital of France is", "stream": true});
        body.as_object_mut()
            .expect("a map")
            .extend(more.as_object().expect("a map").clone());
        call(Api::Completions, body)
    };
    let own = limited(json!({"n_predict": 12}));
    assert_eq!(own.limit_hint(), Some(12));
    let begun_there = begun(EngineKind::LlamaCpp, &own, 5);
    let second = resume(EngineKind::LlamaCpp, &own, begun_there, None, true).expect("an exchange");
    let asked: Value = serde_json::from_slice(&second.body).expect("JSON");
    assert_eq!(
        (&asked["n_predict"], &asked["max_tokens"]),
        (&json!(7), &Value::Null)
    );
    assert!(is_at_limit(&begun(EngineKind::LlamaCpp, &own, 12)));
    // It goes before the interface's own, and below 1 means no limit.
    let both = limited(json!({"n_predict": -1, "max_tokens": 4}));
    assert!(!is_at_limit(&begun(EngineKind::LlamaCpp, &both, 5)));
    assert!(is_at_limit(&begun(EngineKind::Vllm, &both, 4)));
    let body = json!({"prompt": "x", "n_predict": 5000});
    let object = JsonObject::parse(Bytes::from(body.to_string())).expect("an object");
    assert_eq!(
        read_call(Api::Completions, object, &LIMITS)
            .expect_err("too many")
            .param,
        Some("n_predict")
    );
}
