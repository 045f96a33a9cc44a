//! What goes over the wire: TGI's and OpenAI's answers and refusals.

use loadtest::fakes::worker::{Settings, SpeedLaw};
use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn generate_answers_in_tgis_schema() {
    let worker = start_at(SpeedLaw::TINY).await;
    let url = worker.url();
    let mut body = generate("one two three", 6);
    body["parameters"]["details"] = json!(true);
    body["parameters"]["seed"] = json!(7);
    let whole = answer(&url, "/generate", &body).await;
    let details = &whole["details"];
    assert_eq!(details["finish_reason"], "length");
    assert_eq!(
        (&details["generated_tokens"], &details["seed"]),
        (&json!(6), &json!(7))
    );
    assert_eq!(details["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(details["tokens"][0]["special"], false);
    assert_eq!(details["prefill"], json!([]));

    let streamed = stream(&url, "/generate_stream", &body).await;
    assert_eq!(streamed.events.len(), 6);
    assert_eq!(streamed.events[0]["generated_text"], Value::Null);
    let last = streamed.events.last().unwrap();
    assert_eq!(last["generated_text"], whole["generated_text"]);
    assert_eq!(last["details"]["finish_reason"], "length");
    assert_eq!(last["details"]["generated_tokens"], 6);
    assert_eq!(streamed.text(), whole["generated_text"].as_str().unwrap());

    let list = answer(&url, "/", &body).await;
    assert_eq!(list, json!([whole]));
    body["stream"] = json!(true);
    assert_eq!(stream(&url, "/", &body).await.text(), streamed.text());

    body["parameters"]["return_full_text"] = json!(true);
    let full = answer(&url, "/generate", &body).await;
    assert_eq!(
        full["generated_text"],
        format!("one two three{}", streamed.text())
    );
}

/// What Hugging Face's Python client sends: every field, most of them null.
#[tokio::test]
async fn parameters_may_be_null_and_tokens_default_to_a_hundred() {
    let worker = start_at(SpeedLaw::TINY).await;
    let body = json!({ "inputs": "Hi", "stream": false, "parameters": {
        "do_sample": false, "max_new_tokens": null, "best_of": null, "stop": [], "seed": null,
        "temperature": null, "top_p": null, "truncate": null, "watermark": false, "details": true,
        "grammar": null, "return_full_text": null,
    } });
    let list = answer(&worker.url(), "/", &body).await;
    assert_eq!(list[0]["details"]["generated_tokens"], 100);
}

#[tokio::test]
async fn completions_answer_in_openais_schema() {
    let worker = start_at(SpeedLaw::TINY).await;
    let url = worker.url();
    let mut body = completion("one two three", 6);
    body["stream_options"] = json!({ "include_usage": true });
    let streamed = stream(&url, "/v1/completions", &body).await;
    // Six words, the usage, and the end.
    assert_eq!(streamed.events.len(), 8);
    assert_eq!(streamed.events[0]["object"], "text_completion");
    assert_eq!(
        streamed.events[0]["choices"][0]["finish_reason"],
        Value::Null
    );
    assert_eq!(streamed.events[5]["choices"][0]["finish_reason"], "length");
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9 });
    assert_eq!(
        (&streamed.events[6]["choices"], &streamed.events[6]["usage"]),
        (&json!([]), &usage)
    );
    assert!(streamed.is_done());

    body["stream"] = json!(false);
    let whole = answer(&url, "/v1/completions", &body).await;
    assert_eq!(whole["choices"][0]["text"], streamed.text());
    assert_eq!((&whole["usage"], &whole["model"]), (&usage, &json!("m")));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn chats_answer_in_openais_schema() {
    let worker = start_at(SpeedLaw::TINY).await;
    let url = worker.url();
    let parts = json!([{ "type": "text", "text": "Hello " }, { "type": "text", "text": "there" }]);
    let mut body = chat(json!([{ "role": "user", "content": parts }]), 6);
    let streamed = stream(&url, "/v1/chat/completions", &body).await;
    // The role, six words, the finish reason, and the end.
    assert_eq!(streamed.events.len(), 9);
    assert_eq!(streamed.events[0]["object"], "chat.completion.chunk");
    assert_eq!(
        streamed.events[0]["choices"][0]["delta"]["role"],
        "assistant"
    );
    assert_eq!(streamed.events[7]["choices"][0]["finish_reason"], "length");
    assert!(streamed.is_done());

    body["stream"] = json!(false);
    let whole = answer(&url, "/v1/chat/completions", &body).await;
    assert_eq!(whole["object"], "chat.completion");
    let message = json!({ "role": "assistant", "content": streamed.text() });
    assert_eq!(whole["choices"][0]["message"], message);
    assert_eq!(whole["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn a_stop_sequence_is_kept_by_tgi_and_withheld_by_openai() {
    let worker = start_at(SpeedLaw::TINY).await;
    let url = worker.url();
    let free = stream(&url, "/generate_stream", &generate("Hi", 20)).await;
    // From within the fifth word to the end of the sixth.
    let (before, until) = (free.cut(4), free.cut(6));
    let stop = until[before.len()..].trim_start().to_owned();
    let mut body = generate("Hi", 20);
    body["parameters"]["stop"] = json!([stop]);
    let streamed = stream(&url, "/generate_stream", &body).await;
    assert_eq!(streamed.text(), until);
    assert_eq!(
        streamed.events.last().unwrap()["details"]["finish_reason"],
        "stop_sequence"
    );

    let mut body = completion("Hi", 20);
    body["stop"] = json!(stop);
    let streamed = stream(&url, "/v1/completions", &body).await;
    assert_eq!(streamed.text(), before + " ");
    let last = &streamed.events[streamed.events.len() - 2];
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    body["stream"] = json!(false);
    let whole = answer(&url, "/v1/completions", &body).await;
    assert_eq!(whole["choices"][0]["text"], streamed.text());
    assert_eq!(whole["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn an_end_of_sequence_ends_a_text_before_its_limit() {
    let worker = start(Settings {
        eos_every: Some(10),
        ..Settings::default()
    })
    .await;
    let url = worker.url();
    let tgi = stream(&url, "/generate_stream", &generate("Hi", 5000)).await;
    let last = tgi.events.last().unwrap();
    assert_eq!(last["details"]["finish_reason"], "eos_token");
    assert_eq!(last["token"]["special"], true);
    let openai = stream(&url, "/v1/completions", &completion("Hi", 5000)).await;
    assert_eq!(openai.text(), last["generated_text"].as_str().unwrap());
    let finish = &openai.events[openai.events.len() - 2];
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    let mut body = completion("Hi", 200);
    body["ignore_eos"] = json!(true);
    assert_eq!(stream(&url, "/v1/completions", &body).await.tokens(), 200);
}

#[tokio::test]
async fn wrong_requests_are_refused_in_the_words_of_the_interface() {
    let worker = start(Settings {
        context_tokens: Some(50),
        ..Settings::default()
    })
    .await;
    let url = worker.url();
    for body in [
        json!({ "inputs": "Hi", "parameters": { "max_new_tokens": 0 } }),
        json!({ "inputs": "Hi", "parameters": { "max_new_tokens": -3 } }),
        json!({ "inputs": "Hi", "parameters": { "max_new_tokens": 5, "best_of": 2 } }),
        json!({ "inputs": "Hi", "parameters": { "max_new_tokens": 5, "temperature": 0.0 } }),
        json!({ "parameters": { "max_new_tokens": 5 } }),
        json!({ "inputs": "" }),
        generate("Hi", 50),
    ] {
        let (status, error) = refusal(&url, "/generate", &body).await;
        assert_eq!(
            (status, &error["error_type"]),
            (422, &json!("validation")),
            "{body}"
        );
        assert!(error["error"].is_string());
    }
    for body in [
        completion("Hi", 0),
        completion("Hi", 50),
        json!({ "max_tokens": 5 }),
        json!({ "prompt": "Hi", "max_tokens": 5, "n": 2 }),
        json!({ "prompt": "Hi", "max_tokens": 5, "best_of": 2 }),
        json!({ "prompt": ["Hi", "there"], "max_tokens": 5 }),
    ] {
        let (status, error) = refusal(&url, "/v1/completions", &body).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (400, &json!(400)),
            "{body}"
        );
    }
    let both = json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 5,
        "continue_final_message": true, "add_generation_prompt": true });
    for body in [json!({ "messages": [] }), both] {
        assert_eq!(
            refusal(&url, "/v1/chat/completions", &body).await.0,
            400,
            "{body}"
        );
    }
    assert_eq!(worker.figures().iterations, 0);
}

#[tokio::test]
async fn figures_and_names_are_shown() {
    let worker = start(Settings {
        model: "seven".into(),
        ..Settings::default()
    })
    .await;
    answer(&worker.url(), "/generate", &generate("one two", 9)).await;
    let get = |path: &str| client().get(worker.url() + path).send();
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    for line in [
        "fake_requests_running 0",
        "fake_requests_waiting 0",
        "fake_kv_tokens 0",
        "fake_tokens_total 9",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in {metrics}"
        );
    }
    let info: Value = get("/info").await.unwrap().json().await.unwrap();
    assert_eq!(info["model_id"], "seven");
    let models: Value = get("/v1/models").await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "seven");
}

#[tokio::test]
async fn a_body_of_many_megabytes_is_read() {
    let worker = start(Settings {
        context_tokens: Some(8_000_000),
        ..Settings::default()
    })
    .await;
    let prompt = " abcdefghi".repeat(1_000_000);
    let whole = answer(
        &worker.url(),
        "/v1/completions",
        &json!({ "prompt": prompt, "max_tokens": 1 }),
    )
    .await;
    assert_eq!(whole["usage"]["prompt_tokens"], 1_000_000);
}
