//! What an engine is asked.

use super::*;

fn asked(engine: EngineKind, api: Api, body: Value) -> (&'static str, Value) {
    let exchange = exchange(engine, &call(api, body), Some("served")).expect("an exchange");
    (
        exchange.path,
        serde_json::from_slice(&exchange.body).expect("JSON"),
    )
}

#[test]
fn tgi_and_the_fake_get_native_streams_byte_for_byte() {
    let body = Bytes::from_static(b"{ \"inputs\" : \"x\", \"unknown\": [1.0] }");
    for engine in [EngineKind::Tgi, EngineKind::Fake] {
        let call = JsonObject::parse(body.clone()).unwrap();
        let call = read_call(Api::GenerateStream, call, &LIMITS).unwrap();
        let exchange = exchange(engine, &call, Some("served")).unwrap();
        assert_eq!(
            (exchange.path, exchange.body),
            ("/generate_stream", body.clone())
        );
    }
    let (path, _) = asked(
        EngineKind::Tgi,
        Api::TgiRoot,
        json!({ "inputs": "x", "stream": true }),
    );
    assert_eq!(path, "/generate_stream");
}

#[test]
fn unstreamed_native_requests_ask_for_the_token_count_and_clients_do_not_see_it() {
    let plain = json!({ "inputs": "x", "parameters": { "seed": 18446744073709551615u64 } });
    for (api, before, after) in [(Api::Generate, "", ""), (Api::TgiRoot, "[", "]")] {
        let (path, sent) = asked(EngineKind::Tgi, api, plain.clone());
        assert_eq!(path, "/generate");
        assert_eq!(
            sent["parameters"],
            json!({ "seed": 18446744073709551615u64, "details": true })
        );
        let mut exchange =
            exchange(EngineKind::Tgi, &call(api, plain.clone()), None).expect("an exchange");
        let answer = r#"{"generated_text":"a b c","details":{"generated_tokens":3,"finish_reason":"length"}}"#;
        let (body, ending) = exchange.answer.answer(answer.into()).unwrap();
        assert_eq!(
            body,
            format!(r#"{before}{{"generated_text":"a b c"}}{after}"#)
        );
        assert_eq!((ending.output_tokens, ending.complete), (3, true));
    }
}

#[test]
fn a_plain_generate_request_is_greedy_and_free_of_the_engines_own_defaults() {
    let body = json!({ "inputs": "say \"é\"\n" });
    let (path, llamacpp) = asked(EngineKind::LlamaCpp, Api::GenerateStream, body.clone());
    assert_eq!(path, "/completion");
    assert_eq!(
        llamacpp,
        json!({
            "prompt": "say \"é\"\n", "n_predict": 100, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
            "typical_p": 1.0, "repeat_penalty": 1.0, "frequency_penalty": 0.0, "stop": [], "cache_prompt": true,
            "return_tokens": true, "stream": true,
        })
    );
    let (path, vllm) = asked(EngineKind::Vllm, Api::GenerateStream, body);
    assert_eq!(path, "/v1/completions");
    assert_eq!(
        vllm,
        json!({
            "prompt": "say \"é\"\n", "model": "served", "max_tokens": 100, "temperature": 0.0, "top_k": -1,
            "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "stop": [],
            "include_stop_str_in_output": true, "return_token_ids": true, "stream": true,
            "stream_options": { "include_usage": true },
        })
    );
}

#[test]
fn generate_parameters_are_carried_over() {
    let body = generate(json!({
        "max_new_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.2,
        "frequency_penalty": 0.1, "stop": ["END"], "seed": 4_294_967_295_u64, "details": true,
    }));
    let (_, llamacpp) = asked(EngineKind::LlamaCpp, Api::Generate, body.clone());
    let (_, vllm) = asked(EngineKind::Vllm, Api::Generate, body);
    for (llamacpp_name, vllm_name, value) in [
        ("n_predict", "max_tokens", json!(7)),
        ("temperature", "temperature", json!(0.5)),
        ("top_k", "top_k", json!(3)),
        ("top_p", "top_p", json!(0.9)),
        ("repeat_penalty", "repetition_penalty", json!(1.2)),
        ("frequency_penalty", "frequency_penalty", json!(0.1)),
        ("stop", "stop", json!(["END"])),
        ("stream", "stream", json!(false)),
    ] {
        assert_eq!(
            (&llamacpp[llamacpp_name], &vllm[vllm_name]),
            (&value, &value)
        );
    }
    assert_eq!(
        llamacpp["seed"], 0,
        "the greatest number would mean a random seed"
    );
    assert_eq!(vllm["seed"], 4_294_967_295_u64);
    assert_eq!(
        (&llamacpp["n_probs"], &vllm["logprobs"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn what_an_engine_cannot_do_is_refused_by_name() {
    let refused = |engine, name: &str, value: Value| {
        let call = call(Api::Generate, generate(json!({ name: value })));
        let error = exchange(engine, &call, None).expect_err(name);
        assert_eq!(error.param, Some(name));
        assert!(error.message.contains(name), "{error}");
    };
    for engine in [EngineKind::LlamaCpp, EngineKind::Vllm] {
        refused(engine, "best_of", json!(2));
        refused(engine, "grammar", json!({ "type": "regex", "value": "a" }));
        refused(engine, "watermark", json!(true));
        refused(engine, "truncate", json!(10));
        refused(engine, "top_n_tokens", json!(2));
        refused(engine, "decoder_input_details", json!(true));
    }
    refused(EngineKind::Vllm, "typical_p", json!(0.5));
    let call = call(Api::Generate, generate(json!({ "truncate": 10 })));
    assert!(exchange(EngineKind::Tgi, &call, None).is_ok());
}

#[test]
fn usage_is_asked_for_in_every_stream_and_only_there() {
    for engine in [
        EngineKind::Tgi,
        EngineKind::Vllm,
        EngineKind::LlamaCpp,
        EngineKind::Fake,
    ] {
        let (path, body) = asked(engine, Api::ChatCompletions, chat(true));
        assert_eq!(path, "/v1/chat/completions");
        assert_eq!(body["stream_options"], json!({ "include_usage": true }));
        let (_, body) = asked(engine, Api::ChatCompletions, chat(false));
        assert!(body.get("stream_options").is_none());
    }
    let options = |options: Value| {
        let mut body = chat(true);
        body["stream_options"] = options;
        asked(EngineKind::Vllm, Api::ChatCompletions, body).1["stream_options"].clone()
    };
    let usage = json!({ "include_usage": true, "continuous_usage_stats": true });
    assert_eq!(options(usage.clone()), usage);
    let hidden = json!({ "include_usage": false, "continuous_usage_stats": true });
    assert_eq!(options(hidden), json!({ "include_usage": true }));
}

#[test]
fn the_engine_is_asked_for_the_model_it_knows() {
    let model = |engine, asked_for: Option<&str>| {
        let mut body = json!({ "prompt": "x" });
        if let Some(model) = asked_for {
            body["model"] = json!(model);
        }
        asked(engine, Api::Completions, body)
            .1
            .get("model")
            .cloned()
    };
    assert_eq!(
        model(EngineKind::LlamaCpp, Some("endpoint")),
        Some(json!("served"))
    );
    assert_eq!(model(EngineKind::Vllm, None), Some(json!("served")));
    assert_eq!(model(EngineKind::LlamaCpp, None), None);
    let body = Bytes::from_static(b"{\"prompt\": \"x\",  \"model\":\"served\"}");
    let object = JsonObject::parse(body.clone()).unwrap();
    let call = read_call(Api::Completions, object, &LIMITS).unwrap();
    assert_eq!(
        exchange(EngineKind::Vllm, &call, Some("served"))
            .unwrap()
            .body,
        body
    );
    assert_eq!(exchange(EngineKind::Vllm, &call, None).unwrap().body, body);
}

#[test]
fn every_engine_says_where_it_is_asked_for_its_health() {
    for engine in [
        EngineKind::Tgi,
        EngineKind::Vllm,
        EngineKind::LlamaCpp,
        EngineKind::Fake,
    ] {
        assert_eq!(health_path(engine), "/health");
        assert_eq!(models_path(engine).is_none(), engine == EngineKind::Tgi);
    }
}

#[test]
fn a_number_too_large_to_hold_loses_no_other_parameter() {
    let huge = "1".repeat(400);
    let body =
        format!("{{\"inputs\":\"x\",\"parameters\":{{\"max_new_tokens\":7,\"new\":{huge}}}}}");
    let object = JsonObject::parse(Bytes::from(body)).expect("an object");
    let call = read_call(Api::Generate, object, &LIMITS).expect("a valid request");
    let asked = exchange(EngineKind::Tgi, &call, None).expect("an exchange");
    let asked = String::from_utf8(asked.body.to_vec()).expect("text");
    assert!(asked.contains("\"max_new_tokens\":7"), "{asked}");
    assert!(
        asked.contains(&huge) && asked.contains("\"details\":true"),
        "{asked}"
    );
}
