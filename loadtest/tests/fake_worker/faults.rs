//! Each fault does what it says, by header, body and standing order.

use futures_util::StreamExt;
use loadtest::fakes::worker::{Settings, SpeedLaw, Worker};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::*;

/// Every interface, streamed, with the fault asked for in the body.
fn streams_with(fault: &str) -> [(&'static str, Value); 3] {
    let user = format!("fault:{fault}");
    let mut tgi = generate("Hi", 20);
    tgi["parameters"]["user"] = json!(user);
    let mut completion = completion("Hi", 20);
    completion["user"] = json!(user);
    let mut chat = chat(json!([{ "role": "user", "content": "Hi" }]), 20);
    chat["user"] = json!(user);
    [
        ("/generate_stream", tgi),
        ("/v1/completions", completion),
        ("/v1/chat/completions", chat),
    ]
}

#[tokio::test]
async fn dying_mid_stream_breaks_the_connection_after_the_tokens_asked_for() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("die-mid-stream=5") {
        let streamed = stream(&worker.url(), path, &body).await;
        assert!(streamed.broken && !streamed.is_done(), "{path}");
        assert_eq!(streamed.tokens(), 5, "{path}");
    }
    wait_until(&worker, "nothing runs", |f| f.running == 0).await;
}

#[tokio::test]
async fn closing_early_ends_a_proper_body_without_its_final_event() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("close-early=7") {
        let streamed = stream(&worker.url(), path, &body).await;
        assert!(!streamed.broken && !streamed.is_done(), "{path}");
        assert_eq!(streamed.tokens(), 7, "{path}");
    }
    let body = json!({ "inputs": "Hi", "user": "fault:close-early" });
    let text = post(&worker.url(), "/generate", &body)
        .await
        .text()
        .await
        .unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
}

#[tokio::test]
async fn a_cut_event_is_begun_and_the_connection_breaks() {
    let worker = start_at(SpeedLaw::TINY).await;
    let (text, end) = raw(&worker, "cut-event=4").await;
    assert_eq!(text.matches("\"token\"").count(), 5, "{text}");
    assert_eq!(text.matches("\n\n").count(), 4, "{text}");
    assert!(!text.ends_with("0\r\n\r\n") && end.is_ok());
}

#[tokio::test]
async fn a_garbage_event_is_no_json_and_the_last_one() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("garbage=6") {
        let streamed = stream(&worker.url(), path, &body).await;
        assert!(!streamed.broken && !streamed.is_done(), "{path}");
        assert_eq!(streamed.tokens(), 6, "{path}");
        let last = streamed.events.last().unwrap();
        assert!(last.as_str().unwrap().starts_with("{\"choices\""), "{last}");
    }
}

#[tokio::test]
async fn only_the_final_event_may_be_left_out() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("no-final-event") {
        let whole = stream(&worker.url(), path, &without_fault(body.clone())).await;
        let streamed = stream(&worker.url(), path, &body).await;
        assert!(!streamed.broken && !streamed.is_done(), "{path}");
        assert_eq!(streamed.events.len() + 1, whole.events.len(), "{path}");
    }
}

fn without_fault(mut body: Value) -> Value {
    body["user"] = Value::Null;
    body["parameters"]["user"] = Value::Null;
    body
}

#[tokio::test]
async fn a_named_fault_strikes_once_whichever_worker_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        once_dir: Some(folder.path().to_owned()),
        ..Settings::default()
    };
    let (first, second) = (start(settings.clone()).await, start(settings).await);
    let body = &streams_with("die-mid-stream=5#a, close-early=7#b")[0].1;
    let mut tokens = Vec::new();
    for worker in [&first, &second, &first] {
        let streamed = stream(&worker.url(), "/generate_stream", body).await;
        tokens.push(streamed.tokens());
    }
    assert_eq!(tokens, [5, 7, 20]);
}

#[tokio::test]
async fn a_hung_stream_keeps_its_place_until_the_client_leaves() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (nth, (path, body)) in (1..).zip(streams_with("hang=3")) {
        let mut pieces = post(&worker.url(), path, &body).await.bytes_stream();
        wait_until(&worker, "three tokens", |f| f.tokens == 3 * nth).await;
        pieces.next().await.unwrap().unwrap();
        // An engine with nothing else to do goes idle, and still holds the place.
        let iterations = worker.figures().iterations;
        assert_eq!(
            (worker.figures().running, iterations),
            (1, 3 * nth),
            "{path}"
        );
        drop(pieces);
        wait_until(&worker, "the place is free", |f| f.running == 0).await;
    }
    assert_eq!(worker.figures().tokens, 9);
}

#[tokio::test]
async fn a_hang_without_a_count_never_answers() {
    let worker = start_at(SpeedLaw::TINY).await;
    let request = client()
        .post(worker.url() + "/generate")
        .header("x-fault", "hang");
    let request = tokio::spawn(request.json(&generate("Hi", 3)).send());
    wait_until(&worker, "it runs", |f| f.running == 1).await;
    assert!(!request.is_finished());
    request.abort();
    wait_until(&worker, "the place is free", |f| f.running == 0).await;
}

#[tokio::test]
async fn a_slowed_request_takes_so_many_times_the_iterations() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("slow=4") {
        let before = worker.figures().iterations;
        assert_eq!(stream(&worker.url(), path, &body).await.tokens(), 20);
        assert_eq!(worker.figures().iterations - before, 80, "{path}");
    }
}

#[tokio::test]
async fn an_ordered_status_comes_in_the_words_of_the_interface() {
    let worker = start_at(SpeedLaw::TINY).await;
    for (path, body) in streams_with("status=503") {
        let (status, error) = refusal(&worker.url(), path, &body).await;
        assert_eq!(status, 503, "{path}");
        assert!(
            error["error_type"].is_string() || error["error"]["message"].is_string(),
            "{error}"
        );
    }
    assert_eq!(worker.figures().iterations, 0);
}

/// Reads a raw answer to its end; the error kind tells a reset from a close.
async fn raw(worker: &Worker, fault: &str) -> (String, std::io::Result<()>) {
    let body = generate("Hi", 20).to_string();
    let length = body.len();
    let request = format!(
        "POST /generate_stream HTTP/1.1\r\nhost: w\r\nx-fault: {fault}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut connection = TcpStream::connect(worker.address()).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        match connection.read(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(error) => break Err(error),
        }
    };
    (String::from_utf8(received).unwrap(), end)
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_death_is_not() {
    let worker = start_at(SpeedLaw::TINY).await;
    let (text, end) = raw(&worker, "reset=4").await;
    assert_eq!(text.matches("\"token\"").count(), 4);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let (text, end) = raw(&worker, "reset").await;
    assert_eq!(text, "");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let (text, end) = raw(&worker, "die-mid-stream=0").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!((text.matches("\"token\"").count(), end.is_ok()), (0, true));
    assert!(!text.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn an_unstreamed_answer_dies_without_a_response() {
    let worker = start_at(SpeedLaw::TINY).await;
    let request = client()
        .post(worker.url() + "/generate")
        .header("x-fault", "die-mid-stream=2");
    assert!(request.json(&generate("Hi", 5)).send().await.is_err());
    wait_until(&worker, "nothing runs", |f| f.running == 0).await;
}

#[tokio::test]
async fn an_unknown_fault_is_refused_rather_than_ignored() {
    let worker = start_at(SpeedLaw::TINY).await;
    let mut body = generate("Hi", 5);
    body["user"] = json!("fault:explode");
    let (status, error) = refusal(&worker.url(), "/generate", &body).await;
    assert_eq!(status, 422);
    assert!(error["error"].as_str().unwrap().contains("explode"));
}

#[tokio::test]
async fn standing_orders_apply_until_they_are_used_up_or_cleared() {
    let worker = start_at(SpeedLaw::TINY).await;
    let url = worker.url();
    answer(
        &url,
        "/control",
        &json!({ "fault": "status=500", "count": 2 }),
    )
    .await;
    for wanted in [500, 500, 200] {
        assert_eq!(
            post(&url, "/generate", &generate("Hi", 2)).await.status(),
            wanted
        );
    }
    answer(
        &url,
        "/control",
        &json!({ "fault": "status=502", "count": null, "health": 500 }),
    )
    .await;
    for _ in 0..4 {
        assert_eq!(
            post(&url, "/generate", &generate("Hi", 2)).await.status(),
            502
        );
    }
    assert_eq!(
        client()
            .get(url.clone() + "/health")
            .send()
            .await
            .unwrap()
            .status(),
        500
    );
    answer(&url, "/control", &json!({ "clear": true })).await;
    assert_eq!(
        client()
            .get(url.clone() + "/health")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        post(&url, "/generate", &generate("Hi", 2)).await.status(),
        200
    );
    assert_eq!(
        refusal(&url, "/control", &json!({ "falut": "hang" }))
            .await
            .0,
        400
    );
}
