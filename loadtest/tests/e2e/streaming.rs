//! Streams: event by event, whole, counted, and freed when the client leaves.

use std::time::Duration;

use futures_util::StreamExt;
use loadtest::fakes::worker::{Settings, SpeedLaw};
use loadtest::harness::wait_until;
use serde_json::{Value, json};

use crate::support::*;

fn slow(ms: f64) -> Settings {
    Settings {
        law: SpeedLaw {
            a_ms: ms,
            c_ms: 0.0,
            k_ms: 0.0,
            ..SpeedLaw::TINY
        },
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_cadence_at_the_worker_is_the_same_cadence_at_the_client() {
    let worker = fake_worker(slow(200.0)).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    for (path, body) in [
        ("/generate_stream", generate(6)),
        ("/v1/chat/completions", chat(6, true)),
    ] {
        let answer = post(&format!("{}{path}", gateway.base_url), &body).await;
        let events = events(answer).await.expect("a whole stream");
        let texts: Vec<_> = events.iter().filter(|event| has_text(event)).collect();
        assert!(texts.len() >= 6, "{path}: {} events with text", texts.len());
        // A busy machine makes single gaps longer or shorter; events that are gathered would be together all.
        let mut gaps: Vec<_> = texts
            .windows(2)
            .map(|pair| pair[1].at - pair[0].at)
            .collect();
        gaps.sort();
        let median = gaps[gaps.len() / 2];
        let near = Duration::from_millis(120)..Duration::from_millis(400);
        assert!(near.contains(&median), "{path}: events {gaps:?} apart");
    }
}

fn has_text(event: &Event) -> bool {
    if event.data == "[DONE]" {
        return false;
    }
    let event = event.json();
    let text = event["token"]["text"]
        .as_str()
        .or(event["choices"][0]["delta"]["content"].as_str());
    text.is_some_and(|text| !text.is_empty())
}

#[tokio::test]
async fn usage_is_shown_only_to_clients_that_asked_and_counted_for_all() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let usage = |events: &[Event]| {
        events
            .iter()
            .filter(|event| event.data != "[DONE]")
            .any(|event| event.json()["usage"].is_object())
    };
    let plain = events(post(&url, &chat(7, true)).await)
        .await
        .expect("whole");
    assert!(!usage(&plain));
    assert_eq!(plain.last().expect("events").data, "[DONE]");
    let mut asked = chat(7, true);
    asked["stream_options"] = json!({"include_usage": true});
    let asked = events(post(&url, &asked).await).await.expect("whole");
    assert!(usage(&asked));
    let fleet = wait_fleet(&gateway, "both are counted", |fleet| {
        workers(fleet)[0]["output_tokens_total"] == json!(14)
    })
    .await;
    assert!(workers(&fleet)[0]["prompt_tokens_total"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_prompt_of_300_kilobytes_passes() {
    let worker = fake_worker(Settings {
        law: SpeedLaw {
            kv_tokens: 1_000_000,
            prefill_tps: 1e7,
            ..SpeedLaw::TINY
        },
        context_tokens: Some(500_000),
        ..Settings::default()
    })
    .await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let prompt = "word ".repeat(60_000);
    let (status, body) = post_json(
        &format!("{}/generate", gateway.base_url),
        &json!({"inputs": prompt, "parameters": {"max_new_tokens": 3, "details": true}}),
    )
    .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["details"]["generated_tokens"], json!(3), "{body}");
}

#[tokio::test]
async fn a_client_that_leaves_its_stream_frees_the_worker_within_a_second() {
    let worker = fake_worker(slow(50.0)).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let answer = post(
        &format!("{}/generate_stream", gateway.base_url),
        &generate(10_000),
    )
    .await;
    let mut chunks = answer.bytes_stream();
    chunks
        .next()
        .await
        .expect("a first event")
        .expect("a good one");
    assert_eq!(worker.figures().running, 1);
    drop(chunks);
    let freed = wait_until(Duration::from_secs(1), || async {
        worker.figures().running == 0
    })
    .await;
    assert!(freed, "the engine still generates for nobody");
    let fleet = wait_fleet(&gateway, "nothing in flight", |fleet| in_flight(fleet) == 0).await;
    assert_eq!(workers(&fleet)[0]["outstanding"], json!(0.0));
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_gives_up_its_place() {
    let worker = fake_worker(slow(50.0)).await;
    let gateway = fixed_gateway(
        &[&worker],
        "worker_groups: [{name: given, engine: fake, max_concurrency: 1}]",
    )
    .await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let first = post(&url, &generate(10_000)).await;
    let second = tokio::spawn({
        let url = url.clone();
        async move { client().post(url).json(&generate(5)).send().await.is_ok() }
    });
    wait_fleet(&gateway, "one waits", |fleet| waiting(fleet) == 1).await;
    second.abort();
    wait_fleet(&gateway, "none waits", |fleet| waiting(fleet) == 0).await;
    drop(first);
    let (status, _) = post_json(&format!("{}/generate", gateway.base_url), &generate(2)).await;
    assert_eq!(status, 200);
    assert_eq!(worker.figures().waiting, 0);
}

#[tokio::test]
async fn a_stream_that_breaks_at_the_worker_ends_with_an_error_event_and_not_in_silence() {
    let worker = fake_worker(slow(10.0)).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    for fault in ["die-mid-stream=3", "reset=3", "close-early=3"] {
        let mut body = chat(50, true);
        body["user"] = json!(format!("fault:{fault}"));
        let answer = post(&format!("{}/v1/chat/completions", gateway.base_url), &body).await;
        let events = events(answer).await.expect("properly framed to the end");
        let last = events.last().expect("events").data.clone();
        let last: Value = serde_json::from_str(&last).unwrap_or_default();
        assert!(
            last["error"]["message"].is_string(),
            "{fault}: ends with {last}"
        );
        wait_fleet(&gateway, "nothing in flight", |fleet| in_flight(fleet) == 0).await;
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_its_stream_without_chunks() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let address = gateway.base_url.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let body = generate(3).to_string();
    let request = format!(
        "POST /generate_stream HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection
        .write_all(request.as_bytes())
        .await
        .expect("sent");
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an end")
        .expect("text");
    let (head, events) = answer.split_once("\r\n\r\n").expect("a header");
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    assert!(
        events.starts_with("data:") && events.contains("generated_text\":\""),
        "{events}"
    );
}
