//! A real engine: llama.cpp's server with SmolLM2-135M, started and ended by the gateway.

use std::process::Command;

use loadtest::harness::{ConfigDir, Gateway};
use serde_json::json;

use crate::clients::{repository, run_check};
use crate::support::*;

async fn real_gateway() -> Gateway {
    let folder = repository().join("workers/engines/llamacpp");
    let setup = folder.join("setup");
    let done = tokio::task::spawn_blocking(move || Command::new(setup).output())
        .await
        .expect("setup ends")
        .expect("setup runs");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let config =
        ConfigDir::new("scaler_interval: 0.2\nlocal_market: {slots: 2}\n").expect("config");
    let endpoint = format!(
        "endpoint_name: smollm2\nmarket: local\nmax_workers: 1\ninactivity_timeout: 2\nscale_down_delay: 1\n\
         worker_groups:\n  - name: cpu\n    engine: llamacpp\n    command: ['{}', --port, '{{port}}']\n    \
         tokens_per_second: 100\n    concurrency: 4\n    max_concurrency: 4\n",
        folder.join("serve").display()
    );
    config
        .write_endpoint("smollm2", &endpoint)
        .expect("an endpoint file");
    Gateway::start(config).await.expect("the gateway starts")
}

#[tokio::test]
async fn a_real_model_answers_through_all_interfaces_from_zero_and_goes_back_to_zero() {
    let _alone = ONE_MODEL.lock().await;
    let gateway = real_gateway().await;
    let base = gateway.base_url.clone();
    let prompt =
        json!({"inputs": "The capital of France is", "parameters": {"max_new_tokens": 24}});
    let (status, body) = post_json(&format!("{base}/generate"), &prompt).await;
    assert_eq!(status, 200, "{body}");
    let text = body["generated_text"].as_str().expect("text").to_owned();
    assert!(text.contains("Paris"), "{text}");

    let events_of = events(post(&format!("{base}/generate_stream"), &prompt).await)
        .await
        .expect("whole");
    let streamed: String = events_of
        .iter()
        .map(|event| {
            event.json()["token"]["text"]
                .as_str()
                .unwrap_or("")
                .to_owned()
        })
        .collect();
    assert_eq!(streamed, text, "greedy text is the same, streamed or not");
    assert_eq!(
        events_of.last().expect("events").json()["generated_text"],
        json!(text)
    );
    assert!(
        events_of.len() >= 20,
        "{} events for 24 tokens",
        events_of.len()
    );

    let mut ask = chat(32, true);
    ask["model"] = json!("smollm2");
    let events_of = events(post(&format!("{base}/v1/chat/completions"), &ask).await)
        .await
        .expect("whole");
    assert!(
        events_of.len() > 10,
        "token by token, not {} events",
        events_of.len()
    );
    assert_eq!(events_of.last().expect("events").data, "[DONE]");

    run_check("check_openai.py", vec![base.clone(), "smollm2".into()]).await;
    run_check("check_tgi.py", vec![base.clone()]).await;

    wait_fleet(&gateway, "no worker after idling", |fleet| {
        workers(fleet).is_empty()
    })
    .await;
    let (status, again) = post_json(&format!("{base}/generate"), &prompt).await;
    assert_eq!(
        (status, again["generated_text"].as_str()),
        (200, Some(text.as_str()))
    );
}
