//! A worker that remembers every byte it was sent.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A worker that remembers every byte it was sent.
pub struct Eavesdropper {
    pub url: String,
    heard: Arc<Mutex<String>>,
}

impl Eavesdropper {
    /// `header` goes with every answer, lines ended.
    pub async fn start(header: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::default();
        let notes = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_all(stream, header, Arc::clone(&notes)));
            }
        });
        Self {
            url: format!("http://{address}"),
            heard,
        }
    }

    pub fn heard(&self) -> String {
        self.heard.lock().expect("a lock").clone()
    }
}

/// Answers whatever comes as a model list and a completion in one.
async fn answer_all(mut stream: TcpStream, header: &str, heard: Arc<Mutex<String>>) {
    let body = json!({"data": [{"id": "m"}], "model": "m", "generated_text": "hello",
        "choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    .to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{header}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut bytes = vec![0; 65_536];
    let mut text = String::new();
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            })
            .unwrap_or(0);
        if body.len() >= length {
            break;
        }
    }
    heard.lock().expect("a lock").push_str(&text);
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
