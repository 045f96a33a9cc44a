//! How the tests start a fake, rent on it and wait for what becomes of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use loadtest::fakes::vast::{self, Settings, Vast};
use loadtest::harness::{http_client, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A fake in this process.
pub struct Fake {
    pub url: String,
    _vast: Vast,
    folder: TempDir,
}

/// Quick, calm and without limits; `change` makes it otherwise.
pub async fn fake(change: impl FnOnce(&mut Settings)) -> Fake {
    let folder = tempfile::tempdir().unwrap();
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_fake-worker"));
    let mut settings = Settings::new(folder.path().join("containers"), worker);
    (settings.speed, settings.calm, settings.rate_limits) = (600.0, true, false);
    change(&mut settings);
    println!("seed {}", settings.seed);
    let vast = vast::start("127.0.0.1:0", settings).await.unwrap();
    Fake {
        url: vast.url(),
        _vast: vast,
        folder,
    }
}

/// With these shares of faults.
pub async fn faulty(shares: &[&str]) -> Fake {
    fake(|settings| {
        for share in shares {
            settings.faults.set(share).unwrap();
        }
    })
    .await
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

impl Fake {
    /// Processes of its containers, as the system lists them.
    pub fn processes(&self) -> usize {
        let folder = self.folder.path().canonicalize().unwrap();
        let mark = format!("FAKE_VAST_DIR={}", folder.join("containers").display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let environments =
            entries.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
        environments
            .filter(|bytes| {
                bytes
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
            .count()
    }

    /// With the key of the first account; an error where no whole answer came.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, reqwest::Error> {
        self.call_as("testkey", method, path, body).await
    }

    pub async fn call_as(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = http_client()
            .unwrap()
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(key)
            .timeout(PATIENCE);
        if method != Method::GET {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let content_type = answer.headers().get("content-type");
        let content_type = content_type.map_or("", |kind| kind.to_str().unwrap());
        Ok(Answer {
            status: answer.status().as_u16(),
            content_type: content_type.to_owned(),
            text: answer.text().await?,
        })
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, &Value::Null).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, &body).await.unwrap()
    }

    pub async fn delete(&self, id: u64) -> Answer {
        let path = format!("/api/v0/instances/{id}/");
        self.call(Method::DELETE, &path, &json!({})).await.unwrap()
    }

    pub async fn search(&self, query: Value) -> Vec<Value> {
        let path = "/api/v0/bundles/";
        let answer = self.call(Method::POST, path, &query).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["offers"].as_array().unwrap().clone()
    }

    /// The cheapest offer's id.
    pub async fn offer(&self) -> u64 {
        let query = json!({"order": [["dph_total", "asc"]], "limit": 1});
        self.search(query).await[0]["id"].as_u64().unwrap()
    }

    /// A rental of the cheapest offer that is as asked for.
    pub async fn rent(&self, rental: Value) -> u64 {
        let offer = self.offer().await;
        self.rent_offer(offer, rental).await
    }

    pub async fn rent_offer(&self, offer: u64, rental: Value) -> u64 {
        let answer = self.create(offer, rental).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["new_contract"].as_u64().unwrap()
    }

    pub async fn create(&self, offer: u64, rental: Value) -> Result<Answer, reqwest::Error> {
        let path = format!("/api/v0/asks/{offer}/");
        self.call(Method::PUT, &path, &rental).await
    }

    /// The row of one instance; null where there is none.
    pub async fn instance(&self, id: u64) -> Value {
        let answer = self.get(&format!("/api/v0/instances/{id}/?owner=me")).await;
        answer["instances"].clone()
    }

    pub async fn wait(&self, id: u64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let last = std::cell::RefCell::new(Value::Null);
        let found = wait_until(PATIENCE, || async {
            let row = self.instance(id).await;
            let found = holds(&row);
            *last.borrow_mut() = row;
            found
        })
        .await;
        let row = last.into_inner();
        assert!(found, "never {what}: {row:#}");
        row
    }

    pub async fn wait_status(&self, id: u64, status: &str) -> Value {
        self.wait(id, status, |row| row["actual_status"] == status)
            .await
    }

    /// Until it waits for GPUs that it does not get.
    pub async fn wait_scheduling(&self, id: u64) -> Value {
        self.wait(id, "scheduling", |row| {
            row["cur_state"] == "stopped" && row["intended_status"] == "running"
        })
        .await
    }

    /// What is true of an instance, whether it exists or not.
    pub async fn truth(&self, id: u64) -> Value {
        let answer = self.get("/fake/instances").await;
        let rows = answer["instances"].as_array().unwrap().clone();
        let found = rows.into_iter().find(|row| row["id"] == id);
        found.unwrap_or_else(|| panic!("{id} never existed"))
    }

    pub async fn account(&self) -> Value {
        self.get("/fake/account").await["accounts"][0].clone()
    }

    /// What it wrote so far.
    pub async fn log(&self, id: u64) -> String {
        let path = format!("/api/v0/instances/request_logs/{id}/");
        let answer = self.put(&path, json!({"tail": "500"})).await.json();
        let url = answer["result_url"].as_str().unwrap().to_owned();
        let answer = http_client().unwrap().get(url).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub async fn wait_log(&self, id: u64, words: &str) -> String {
        let last = std::cell::RefCell::new(String::new());
        let found = wait_until(PATIENCE, || async {
            *last.borrow_mut() = self.log(id).await;
            last.borrow().contains(words)
        })
        .await;
        let log = last.into_inner();
        assert!(found, "never said {words:?}: {log}");
        log
    }
}

/// As the command line sends it, with TGI on port 3000.
pub fn tgi() -> Value {
    json!({
        "client_id": "me", "image": "ghcr.io/huggingface/text-generation-inference:1.0.3",
        "env": {"MODEL_ARGS": "--model-id some/model --quantize gptq", "-p 3000:3000": "1"},
        "price": null, "disk": 32.0, "label": "mine", "extra": null,
        "onstart": "wget -O - https://example.invalid/launch.sh | bash", "image_login": null,
        "cancel_unavail": false, "runtype": "ssh_direc ssh_proxy",
    })
}

/// The same with other values for some keys.
pub fn tgi_with(changes: Value) -> Value {
    let mut rental = tgi();
    for (key, value) in changes.as_object().unwrap() {
        rental[key] = value.clone();
    }
    rental
}

/// Where a row says that a port inside is reached.
pub fn address(row: &Value, inside: &str) -> String {
    let ip = row["public_ipaddr"].as_str().unwrap().trim();
    let port = row["ports"][inside][0]["HostPort"].as_str().unwrap();
    format!("{ip}:{port}")
}

/// The status of a request to an engine; `None` while nothing listens.
pub async fn generate(address: &str) -> Option<u16> {
    let body = json!({"inputs": "once upon a time", "parameters": {"max_new_tokens": 2}});
    let request = http_client()
        .unwrap()
        .post(format!("http://{address}/generate"));
    let answer = request.json(&body).timeout(PATIENCE).send().await.ok()?;
    Some(answer.status().as_u16())
}

pub async fn wait_engine(address: &str) {
    let begun = Instant::now();
    let answered = wait_until(PATIENCE, || async { generate(address).await == Some(200) }).await;
    assert!(answered, "{address}: no engine after {:?}", begun.elapsed());
}

pub async fn wait_silent(address: &str) {
    let silent = wait_until(PATIENCE, || async { generate(address).await.is_none() }).await;
    assert!(silent, "{address}: the engine goes on");
}
