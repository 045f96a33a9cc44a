//! The interfaces: TGI's, OpenAI's, by path, by model and by default.

use loadtest::fakes::worker::Settings;
use loadtest::harness::{ConfigDir, Gateway};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn tgis_root_route_answers_a_list_or_a_stream() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    for path in ["/", "/fake", "/fake/"] {
        let url = format!("{}{path}", gateway.base_url);
        let (status, body) = post_json(&url, &generate(3)).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body[0]["generated_text"].is_string(), "{path}: {body}");
        let mut streamed = generate(3);
        streamed["stream"] = json!(true);
        let events = events(post(&url, &streamed).await).await.expect("whole");
        let last = events.last().expect("events").json();
        assert!(last["generated_text"].is_string(), "{path}: {last}");
    }
}

#[tokio::test]
async fn endpoints_are_found_by_path_by_model_and_never_by_guessing() {
    let (one, two) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let config = ConfigDir::new(SERVER).expect("config");
    for (name, worker) in [("one", &one), ("two", &two)] {
        config
            .write_endpoint(name, &fixed_endpoint(name, &[worker.url()], ""))
            .expect("an endpoint file");
    }
    let gateway = Gateway::start(config).await.expect("a gateway");
    let base = &gateway.base_url;
    assert_eq!(
        post_json(&format!("{base}/one/generate"), &generate(2))
            .await
            .0,
        200
    );
    let mut body = chat(2, false);
    body["model"] = json!("two");
    assert_eq!(
        post_json(&format!("{base}/v1/chat/completions"), &body)
            .await
            .0,
        200
    );
    wait_fleet(&gateway, "each got its own", |fleet| {
        workers(fleet)
            .iter()
            .all(|worker| worker["requests_total"] == json!(1))
    })
    .await;
    let (status, answer) = post_json(&format!("{base}/generate"), &generate(2)).await;
    assert_eq!(status, 404, "{answer}");
    let message = answer["error"].as_str().expect("a message");
    assert!(
        message.contains("one") && message.contains("two"),
        "{message}"
    );
    let models: serde_json::Value = client()
        .get(format!("{base}/v1/models"))
        .send()
        .await
        .expect("models")
        .json()
        .await
        .expect("JSON");
    let names: Vec<_> = models["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["one", "two"]);
}
