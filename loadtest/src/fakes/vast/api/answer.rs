//! Answers in Vast's shapes.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Call;
use crate::fakes::vast::world::Refusal;

/// What is answered, unless something happens to it.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    body: Body,
    /// Seconds.
    retry_after: Option<u32>,
    /// When the quota is full again, in seconds since 1970.
    reset: Option<u64>,
}

#[derive(Clone, Debug)]
enum Body {
    Json(Value),
    Text(String),
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body: Body::Json(body),
            retry_after: None,
            reset: None,
        }
    }

    /// Text as it is, for logs.
    pub fn text(text: String) -> Self {
        Self::plain(StatusCode::OK, &text)
    }

    fn plain(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            body: Body::Text(text.to_owned()),
            retry_after: None,
            reset: None,
        }
    }

    fn failure(status: StatusCode, error: &str, msg: &str) -> Self {
        Self {
            status,
            body: Body::Json(json!({ "success": false, "error": error, "msg": msg })),
            retry_after: None,
            reset: None,
        }
    }

    pub fn invalid(msg: &str) -> Self {
        Self::failure(StatusCode::BAD_REQUEST, "invalid_args", msg)
    }

    pub fn no_such_path() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "404 page not found")
    }

    /// The list of the old interface, for accounts that may not use it any more.
    pub fn deprecated() -> Self {
        let msg = "this endpoint is deprecated, use /api/v1/instances/";
        Self::failure(StatusCode::GONE, "deprecated_endpoint", msg)
    }

    pub fn unavailable() -> Self {
        Self::failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the service is not available",
        )
    }

    /// A search says it with 404, anything else with 401.
    pub fn wrong_key(searching: bool) -> Self {
        let status = if searching {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::UNAUTHORIZED
        };
        Self::failure(status, "auth_error", "Invalid user key")
    }

    pub fn too_early(threshold_s: f64) -> Self {
        let text = format!("API requests too frequent: endpoint threshold={threshold_s:?}");
        Self::plain(StatusCode::TOO_MANY_REQUESTS, &text)
    }

    /// In one of the shapes that are known: plain text, or JSON with or without a time to wait.
    pub fn too_many(shape: u8) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let text = "API requests too frequent";
        match shape % 3 {
            0 => Self::plain(status, text),
            shape => Self {
                status,
                body: Body::Json(json!({ "detail": text })),
                retry_after: (shape == 1).then_some(1),
                reset: None,
            },
        }
    }

    /// The day's searches are used up.
    pub fn quota_exceeded(reset: u64) -> Self {
        let msg = "daily search quota exceeded";
        Self {
            reset: Some(reset),
            ..Self::failure(StatusCode::TOO_MANY_REQUESTS, "search_quota_exceeded", msg)
        }
    }

    pub fn refusal(refusal: Refusal, call: &Call) -> Self {
        let bad = StatusCode::BAD_REQUEST;
        match refusal {
            Refusal::NoSuchAsk => no_such_ask(call),
            Refusal::NoSuchInstance => Self::failure(
                StatusCode::NOT_FOUND,
                "no_such_instance",
                "error 404/3603: no such instance",
            ),
            Refusal::Invalid(msg) => Self::invalid(&msg),
            Refusal::InvalidPrice(msg) => Self::failure(bad, "invalid_price", &msg),
            Refusal::LabelTooLong => Self::failure(bad, "label_too_long", "label is too long"),
            Refusal::NoCredit => {
                Self::failure(bad, "insufficient_credit", "Your account lacks credit")
            }
            Refusal::Deprecated => Self::deprecated(),
        }
    }

    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The error's name.
    pub fn error(&self) -> Option<String> {
        match &self.body {
            _ if self.status.is_success() => None,
            Body::Json(body) => body["error"].as_str().map(str::to_owned),
            Body::Text(text) => Some(text.clone()),
        }
    }

    /// The instance that a creation made.
    pub fn new_instance(&self) -> Option<u64> {
        match &self.body {
            Body::Json(body) => body["new_contract"].as_u64(),
            Body::Text(_) => None,
        }
    }

    pub fn json_mut(&mut self) -> Option<&mut Value> {
        match &mut self.body {
            Body::Json(body) => Some(body),
            Body::Text(_) => None,
        }
    }

    /// The same with half of its body.
    pub fn halved(self) -> Response {
        let whole = match self.body {
            Body::Json(body) => body.to_string(),
            Body::Text(text) => text,
        };
        let mut half = whole.into_bytes();
        half.truncate(half.len() / 2);
        (self.status, [("content-type", "application/json")], half).into_response()
    }

    pub fn into_response(self) -> Response {
        let (retry_after, reset) = (self.retry_after, self.reset);
        let mut response = self.without_header();
        if let Some(reset) = reset {
            let headers = response.headers_mut();
            headers.insert("x-ratelimit-reset", HeaderValue::from(reset));
        }
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn without_header(self) -> Response {
        match self.body {
            // The command line refuses any other content type, a charset included.
            Body::Json(body) => {
                let kind = [("content-type", "application/json")];
                (self.status, kind, body.to_string()).into_response()
            }
            Body::Text(text) => (self.status, text).into_response(),
        }
    }
}

/// 410 where the caller wanted to know, else 404.
fn no_such_ask(call: &Call) -> Answer {
    let ask = call.path.get(3).map_or("", String::as_str);
    let gone = call.body["cancel_unavail"] == Value::Bool(true);
    let status = if gone {
        StatusCode::GONE
    } else {
        StatusCode::NOT_FOUND
    };
    let msg = format!("error 404/3603: no_such_ask Instance type by id {ask} is not available.");
    let mut answer = Answer::failure(status, "no_such_ask", &msg);
    if let Some(body) = answer.json_mut() {
        body["ask_id"] = json!(ask.parse::<u64>().ok());
    }
    answer
}
