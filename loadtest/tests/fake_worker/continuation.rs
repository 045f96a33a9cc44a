//! Any worker continues what another began.

use loadtest::fakes::worker::SpeedLaw;
use serde_json::json;

use crate::client::*;

#[tokio::test]
async fn another_worker_continues_a_generate_stream_from_any_token() {
    let (first, second) = (
        start_at(SpeedLaw::TINY).await,
        start_at(SpeedLaw::H100).await,
    );
    let prompt = "Tell me  about the sea:";
    let whole = stream(&first.url(), "/generate_stream", &generate(prompt, 30)).await;
    assert_eq!(whole.tokens(), 30);
    for count in [1, 2, 3, 4, 5, 17, 29] {
        let partial = whole.cut(count);
        let body = generate(&(prompt.to_owned() + &partial), 30 - count as u32);
        let rest = answer(&second.url(), "/generate", &body).await;
        let text = partial + rest["generated_text"].as_str().unwrap();
        assert_eq!(text, whole.text(), "cut after {count}");
    }
}

#[tokio::test]
async fn another_worker_continues_a_completion_from_any_token() {
    let (first, second) = (
        start_at(SpeedLaw::TINY).await,
        start_at(SpeedLaw::TINY).await,
    );
    let prompt = "Ein Gedicht 🌊 ";
    let whole = stream(&first.url(), "/v1/completions", &completion(prompt, 30)).await;
    for count in [1, 2, 3, 4, 5, 17, 29] {
        let partial = whole.cut(count);
        let body = completion(&(prompt.to_owned() + &partial), 30 - count as u32);
        let rest = stream(&second.url(), "/v1/completions", &body).await;
        assert_eq!(partial + &rest.text(), whole.text(), "cut after {count}");
    }
}

#[tokio::test]
async fn another_worker_continues_a_chat_whichever_way_it_is_asked() {
    let (first, second) = (
        start_at(SpeedLaw::TINY).await,
        start_at(SpeedLaw::TINY).await,
    );
    let path = "/v1/chat/completions";
    let question = json!({ "role": "user", "content": "Name three colours." });
    let whole = stream(&first.url(), path, &chat(json!([question]), 30)).await;
    let ways = [
        json!({}),
        json!({ "continue_final_message": true, "add_generation_prompt": false }),
        json!({ "continue_final_message": true }),
        json!({ "add_generation_prompt": false }),
    ];
    for (count, way) in [1, 3, 5, 29].into_iter().zip(ways) {
        let partial = whole.cut(count);
        let messages = json!([question, { "role": "assistant", "content": partial }]);
        let mut body = chat(messages, 30 - count as u32);
        body.as_object_mut()
            .unwrap()
            .extend(way.as_object().unwrap().clone());
        let rest = stream(&second.url(), path, &body).await;
        assert_eq!(partial + &rest.text(), whole.text(), "{way} after {count}");
    }
}

#[tokio::test]
async fn a_new_turn_after_an_assistant_message_is_not_a_continuation() {
    let worker = start_at(SpeedLaw::TINY).await;
    let messages = json!([{ "role": "assistant", "content": " tide" }]);
    let continued = stream(
        &worker.url(),
        "/v1/chat/completions",
        &chat(messages.clone(), 8),
    )
    .await;
    let mut body = chat(messages, 8);
    body["add_generation_prompt"] = json!(true);
    let answered = stream(&worker.url(), "/v1/chat/completions", &body).await;
    assert_ne!(continued.text(), answered.text());
}
