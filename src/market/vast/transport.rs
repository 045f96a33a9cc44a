//! One call of Vast's interface over HTTP: its turn, its key, its answer, and everything that can be wrong with that.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use reqwest::redirect::Policy;
use serde_json::Value;
use std::sync::Arc;

use super::super::LastWord;
use super::failure::{Failure, Said};
use super::limiter::{Busy, Kind, Limiter};
use crate::domain::{AccountId, Secret};
use crate::telemetry::Metrics;

/// Waiting for a turn, on top of the call itself.
const TURN_WITHIN: Duration = Duration::from_secs(20);
const READ_WITHIN: Duration = Duration::from_secs(15);
const CHANGE_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A search without a limit answers with some thousands of rows of 2 KB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A call that is refused for haste is sent again, so often at most in all.
const ATTEMPTS_MAX: u32 = 3;

pub(super) struct Transport {
    client: reqwest::Client,
    base: String,
    limiter: Limiter,
    metrics: Arc<Metrics>,
}

/// Whose account: the number keeps intervals apart.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) number: usize,
    pub(super) id: AccountId,
    pub(super) key: Secret,
}

pub(super) struct Call<'a> {
    pub(super) kind: Kind,
    pub(super) method: Method,
    /// Below the base URL.
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, String)],
    pub(super) body: Option<&'a Value>,
    /// Longest wait for a turn; `None`: the usual.
    pub(super) patience: Option<Duration>,
    /// Asked when its turn has come.
    pub(super) last_word: Option<&'a LastWord<'a>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(kind: Kind, method: Method, path: &'a str) -> Self {
        Self {
            kind,
            method,
            path,
            query: &[],
            body: None,
            patience: None,
            last_word: None,
        }
    }
}

impl Transport {
    pub(super) fn new(base: &str, metrics: Arc<Metrics>) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            // A redirected PUT would turn into a GET, and a key must not go elsewhere.
            .redirect(Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        if base.starts_with("http://") {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client.build()?,
            base: base.to_owned(),
            limiter: Limiter::default(),
            metrics,
        })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The answer's JSON object. A refusal for haste is waited out if that is not too long.
    pub(super) async fn call(
        &self,
        account: &Account,
        call: &Call<'_>,
        scale: f64,
    ) -> Result<Value, Failure> {
        let patience = call.patience.unwrap_or(TURN_WITHIN);
        let mut attempt = 1;
        loop {
            let turn = self
                .limiter
                .turn(account.number, call.kind, scale, patience);
            let allowed = |()| match call.last_word.map(|ask| ask()) {
                Some(Err(why)) => Err(Failure::Forbidden(why)),
                Some(Ok(())) | None => Ok(()),
            };
            let result = match turn.await.map_err(|Busy| Failure::Busy).and_then(allowed) {
                Ok(()) => self.send(account, call).await,
                Err(failure) => Err(failure),
            };
            self.count(call.kind, &result);
            match result {
                Err(Failure::TooFast { after }) if attempt < ATTEMPTS_MAX => {
                    let number = account.number;
                    self.limiter.refused(number, call.kind, scale, after);
                    attempt += 1;
                }
                Err(Failure::TooFast { after }) => {
                    let number = account.number;
                    self.limiter.refused(number, call.kind, scale, after);
                    return Err(Failure::TooFast { after });
                }
                result => return result,
            }
        }
    }

    fn count(&self, kind: Kind, result: &Result<Value, Failure>) {
        let outcome = result.as_ref().map_or_else(Failure::as_str, |_| "ok");
        self.metrics
            .vast_calls
            .with_label_values(&[kind.as_str(), outcome])
            .inc();
    }

    async fn send(&self, account: &Account, call: &Call<'_>) -> Result<Value, Failure> {
        let key = &account.key;
        let request = self.request(account, call)?;
        let response = request
            .send()
            .await
            .map_err(|error| Failure::of_sending(error, key))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = read(response)
            .await
            .map_err(|why| match status.is_success() {
                true => Failure::Lost(why),
                false => Failure::Said(Said::plain(status, &why, key)),
            })?;
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Failure::of_haste(&headers, &body));
        }
        if status.is_redirection() {
            return Err(Failure::Strange(format!("{status}: it sends us elsewhere")));
        }
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer {
            Some(answer @ Value::Object(_)) => {
                let refused = answer.get("success") == Some(&Value::Bool(false));
                if status.is_success() && !refused {
                    return Ok(answer);
                }
                Err(Failure::Said(Said::of(status, &answer, key)))
            }
            // Vast says some of its errors in plain text.
            _ if !status.is_success() && !looks_like_html(&body) => {
                let text = String::from_utf8_lossy(&body);
                Err(Failure::Said(Said::plain(status, &text, key)))
            }
            _ => {
                let what = if looks_like_html(&body) {
                    "HTML instead of JSON"
                } else {
                    "no JSON object, or half of one"
                };
                Err(Failure::Strange(format!("{status}: {what}")))
            }
        }
    }

    fn request(
        &self,
        account: &Account,
        call: &Call<'_>,
    ) -> Result<reqwest::RequestBuilder, Failure> {
        let within = match call.method {
            Method::GET => READ_WITHIN,
            _ => CHANGE_WITHIN,
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", account.key.expose()))
            .map_err(|_| {
                Failure::NotSent("the key has characters that no header carries".into())
            })?;
        bearer.set_sensitive(true);
        let url = format!("{}{}", self.base, call.path);
        let mut request = self
            .client
            .request(call.method.clone(), url)
            .header(header::AUTHORIZATION, bearer)
            .timeout(within);
        if !call.query.is_empty() {
            request = request.query(call.query);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        Ok(request)
    }

    /// Something at a URL that an answer named: without the key, which is for Vast alone. `None`: not there yet.
    pub(super) async fn fetch(
        &self,
        url: &str,
        bytes_max: usize,
    ) -> Result<Option<String>, String> {
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err("the market names no URL".into());
        }
        let request = self.client.get(url).timeout(READ_WITHIN);
        let response = request.send().await;
        let response = response.map_err(|error| error.without_url().to_string())?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let body = read_at_most(response, bytes_max).await?;
        Ok(Some(String::from_utf8_lossy(&body).into_owned()))
    }
}

fn looks_like_html(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    start.first() == Some(&b'<')
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, String> {
    read_at_most(response, ANSWER_BYTES_MAX).await
}

async fn read_at_most(
    mut response: reqwest::Response,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(part)) if body.len() + part.len() <= bytes_max => body.extend_from_slice(&part),
            Ok(Some(_)) => return Err("the answer is too long".into()),
            Ok(None) => return Ok(body),
            Err(error) => return Err(format!("the answer broke off: {}", error.without_url())),
        }
    }
}
