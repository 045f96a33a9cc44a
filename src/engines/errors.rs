//! What a client is told when something goes wrong, in the shape of the API it called.

use bytes::Bytes;
use serde_json::{Value, json};

use super::engine_name;
use crate::domain::{Api, EngineKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request cannot be served as written.
    BadRequest,
    Unauthorized,
    /// The key is for other endpoints.
    Forbidden,
    /// The client has used up what it may.
    RateLimited,
    UnknownModel,
    UnknownRoute,
    MethodNotAllowed,
    BodyTooLarge,
    UriTooLong,
    HeaderTooLarge,
    /// `Expect` asks for what nobody here does.
    ExpectationFailed,
    /// The client took too long to send the request.
    RequestTimeout,
    /// Every place to run or wait is taken.
    Overloaded,
    /// No worker came up in time.
    Unavailable,
    /// The worker broke off or answered nonsense.
    UpstreamFailed,
    UpstreamTimeout,
    Internal,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 17] = [
        ErrorKind::BadRequest,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::RateLimited,
        ErrorKind::UnknownModel,
        ErrorKind::UnknownRoute,
        ErrorKind::MethodNotAllowed,
        ErrorKind::BodyTooLarge,
        ErrorKind::UriTooLong,
        ErrorKind::HeaderTooLarge,
        ErrorKind::ExpectationFailed,
        ErrorKind::RequestTimeout,
        ErrorKind::Overloaded,
        ErrorKind::Unavailable,
        ErrorKind::UpstreamFailed,
        ErrorKind::UpstreamTimeout,
        ErrorKind::Internal,
    ];

    /// `error_type` as TGI and its client use it; the client falls back to the status for words it does not know.
    fn tgi_type(self) -> &'static str {
        match self {
            ErrorKind::BadRequest
            | ErrorKind::BodyTooLarge
            | ErrorKind::UriTooLong
            | ErrorKind::HeaderTooLarge
            | ErrorKind::ExpectationFailed => "validation",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::RateLimited => "rate_limited",
            ErrorKind::UnknownModel | ErrorKind::UnknownRoute => "not_found",
            ErrorKind::MethodNotAllowed => "method_not_allowed",
            ErrorKind::RequestTimeout | ErrorKind::UpstreamTimeout => "timeout",
            ErrorKind::Overloaded | ErrorKind::Unavailable => "overloaded",
            ErrorKind::UpstreamFailed => "generation",
            ErrorKind::Internal => "internal",
        }
    }

    /// `type` and `code` as OpenAI's clients see them.
    fn openai_type(self) -> (&'static str, Option<&'static str>) {
        match self {
            ErrorKind::BadRequest => ("invalid_request_error", None),
            ErrorKind::Unauthorized => ("authentication_error", Some("invalid_api_key")),
            ErrorKind::Forbidden => ("permission_error", Some("insufficient_permissions")),
            ErrorKind::RateLimited => ("rate_limit_error", Some("rate_limit_exceeded")),
            ErrorKind::UnknownModel => ("not_found_error", Some("model_not_found")),
            ErrorKind::UnknownRoute => ("not_found_error", Some("unknown_route")),
            ErrorKind::MethodNotAllowed => ("invalid_request_error", Some("method_not_allowed")),
            ErrorKind::BodyTooLarge => ("invalid_request_error", Some("body_too_large")),
            ErrorKind::UriTooLong => ("invalid_request_error", Some("uri_too_long")),
            ErrorKind::HeaderTooLarge => ("invalid_request_error", Some("header_too_large")),
            ErrorKind::ExpectationFailed => ("invalid_request_error", Some("expectation_failed")),
            ErrorKind::RequestTimeout => ("invalid_request_error", Some("request_timeout")),
            ErrorKind::Overloaded => ("server_error", Some("overloaded")),
            ErrorKind::Unavailable => ("server_error", Some("unavailable")),
            ErrorKind::UpstreamFailed => ("server_error", Some("upstream_failed")),
            ErrorKind::UpstreamTimeout => ("server_error", Some("upstream_timeout")),
            ErrorKind::Internal => ("server_error", None),
        }
    }
}

/// The HTTP status; `None` is an unknown route.
pub fn status_for(api: Option<Api>, kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::BadRequest if api.is_some_and(Api::is_tgi) => 422,
        ErrorKind::BadRequest => 400,
        ErrorKind::Unauthorized => 401,
        ErrorKind::Forbidden => 403,
        ErrorKind::UnknownModel | ErrorKind::UnknownRoute => 404,
        ErrorKind::MethodNotAllowed => 405,
        ErrorKind::RequestTimeout => 408,
        ErrorKind::BodyTooLarge => 413,
        ErrorKind::UriTooLong => 414,
        ErrorKind::ExpectationFailed => 417,
        ErrorKind::RateLimited => 429,
        ErrorKind::HeaderTooLarge => 431,
        ErrorKind::Internal => 500,
        ErrorKind::UpstreamFailed => 502,
        ErrorKind::Overloaded | ErrorKind::Unavailable => 503,
        ErrorKind::UpstreamTimeout => 504,
    }
}

/// A JSON body; an unknown route is answered as OpenAI's.
pub fn error_body(api: Option<Api>, kind: ErrorKind, message: &str, param: Option<&str>) -> Bytes {
    let (openai_type, code) = kind.openai_type();
    let body = match api {
        Some(api) if api.is_tgi() => tgi_error(message, kind.tgi_type()),
        _ => openai_error(message, openai_type, param, code),
    };
    Bytes::from(body.to_string())
}

/// The event that ends a stream which cannot go on.
pub fn stream_error_event(api: Api, kind: ErrorKind, message: &str) -> Bytes {
    if api.is_tgi() {
        return tgi_stream_error(message, "incomplete_generation");
    }
    let (openai_type, code) = kind.openai_type();
    Bytes::from(format!(
        "data: {}\n\n",
        openai_error(message, openai_type, None, code)
    ))
}

pub(super) fn tgi_stream_error(message: &str, error_type: &str) -> Bytes {
    Bytes::from(format!("data:{}\n\n", tgi_error(message, error_type)))
}

/// A worker's error answer (status 400 and above) for the client: as it is if it has the API's shape, reshaped if not.
pub fn translate_error(api: Api, engine: EngineKind, status: u16, body: Bytes) -> (u16, Bytes) {
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let status = match (api.is_tgi(), status) {
        (true, 400) => 422,
        (false, 422) => 400,
        _ => status,
    };
    let native = match &answer["error"] {
        Value::String(_) => api.is_tgi() && answer["error_type"].is_string(),
        Value::Object(error) => !api.is_tgi() && error.contains_key("message"),
        _ => false,
    };
    if native {
        return (status, body);
    }
    let message = error_message(&answer).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body);
        let start: String = text.trim().chars().take(500).collect();
        format!(
            "the {} worker answered with status {status}: {start}",
            engine_name(engine)
        )
    });
    let reshaped = if api.is_tgi() {
        tgi_error(&message, tgi_type_of(status))
    } else {
        openai_error(
            &message,
            openai_type_of(status),
            answer["error"]["param"].as_str(),
            None,
        )
    };
    (status, Bytes::from(reshaped.to_string()))
}

/// The message in an error's JSON text.
pub fn message_of(body: &[u8]) -> Option<String> {
    error_message(&serde_json::from_slice(body).ok()?)
}

/// The message of an error as any of the engines writes it.
pub(super) fn error_message(answer: &Value) -> Option<String> {
    let error = &answer["error"];
    [
        error,
        &error["message"],
        &answer["message"],
        &answer["detail"],
    ]
    .into_iter()
    .find_map(|text| text.as_str().map(str::to_owned))
    .or_else(|| (!error.is_null()).then(|| error.to_string()))
}

fn tgi_type_of(status: u16) -> &'static str {
    match status {
        401 | 403 => "unauthorized",
        404 => "not_found",
        408 | 504 => "timeout",
        429 | 503 => "overloaded",
        400..500 => "validation",
        _ => "generation",
    }
}

fn openai_type_of(status: u16) -> &'static str {
    match status {
        401 | 403 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    }
}

fn tgi_error(message: &str, error_type: &str) -> Value {
    json!({ "error": message, "error_type": error_type })
}

fn openai_error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn every_error_has_the_shape_of_the_api_that_was_called() {
        for kind in ErrorKind::ALL {
            for api in Api::ALL {
                let body = value(&error_body(Some(api), kind, "why", Some("n")));
                if api.is_tgi() {
                    assert_eq!(body["error"], "why");
                    assert!(body["error_type"].is_string());
                } else {
                    assert_eq!(body["error"]["message"], "why");
                    assert_eq!(body["error"]["param"], "n");
                    assert!(body["error"]["type"].is_string());
                }
                assert!((400..600).contains(&status_for(Some(api), kind)));
            }
        }
    }

    #[test]
    fn an_invalid_request_has_the_status_its_api_uses() {
        assert_eq!(status_for(Some(Api::Generate), ErrorKind::BadRequest), 422);
        assert_eq!(
            status_for(Some(Api::Completions), ErrorKind::BadRequest),
            400
        );
        assert_eq!(status_for(None, ErrorKind::BadRequest), 400);
    }

    #[test]
    fn an_unknown_route_is_answered_in_the_openai_shape() {
        let body = value(&error_body(
            None,
            ErrorKind::UnknownRoute,
            "no such route",
            None,
        ));
        assert_eq!(body["error"]["type"], "not_found_error");
    }

    #[test]
    fn a_broken_stream_ends_in_one_event_its_client_understands() {
        let event = stream_error_event(Api::TgiRoot, ErrorKind::UpstreamFailed, "gone");
        assert_eq!(
            event,
            "data:{\"error\":\"gone\",\"error_type\":\"incomplete_generation\"}\n\n"
        );
        let event = stream_error_event(Api::Completions, ErrorKind::UpstreamTimeout, "late");
        let text = std::str::from_utf8(&event).unwrap();
        let body = value(
            text.strip_prefix("data: ")
                .unwrap()
                .strip_suffix("\n\n")
                .unwrap()
                .as_bytes(),
        );
        assert_eq!(body["error"]["code"], "upstream_timeout");
    }

    #[test]
    fn a_workers_error_is_told_in_the_shape_of_the_api() {
        let check =
            |api, engine, status, body: &'static str, status_told, message: &str, kind: &str| {
                let (told, out) =
                    translate_error(api, engine, status, Bytes::from_static(body.as_bytes()));
                let out = value(&out);
                assert_eq!(told, status_told, "{body}");
                let error = &out["error"];
                assert_eq!(
                    error.as_str().or(error["message"].as_str()),
                    Some(message),
                    "{body}"
                );
                assert_eq!(
                    out["error_type"].as_str().or(error["type"].as_str()),
                    Some(kind),
                    "{body}"
                );
            };
        let llama =
            r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}"#;
        check(
            Api::Generate,
            EngineKind::LlamaCpp,
            400,
            llama,
            422,
            "too long",
            "validation",
        );
        check(
            Api::Completions,
            EngineKind::LlamaCpp,
            400,
            llama,
            400,
            "too long",
            "exceed_context_size_error",
        );
        let loading =
            r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
        check(
            Api::Generate,
            EngineKind::LlamaCpp,
            503,
            loading,
            503,
            "Loading model",
            "overloaded",
        );
        let tgi = r#"{"error":"Model is overloaded","error_type":"overloaded"}"#;
        check(
            Api::Generate,
            EngineKind::Tgi,
            429,
            tgi,
            429,
            "Model is overloaded",
            "overloaded",
        );
        check(
            Api::ChatCompletions,
            EngineKind::Tgi,
            422,
            tgi,
            400,
            "Model is overloaded",
            "invalid_request_error",
        );
        let old_vllm = r#"{"object":"error","message":"no model","code":404}"#;
        check(
            Api::Completions,
            EngineKind::Vllm,
            404,
            old_vllm,
            404,
            "no model",
            "not_found_error",
        );
    }

    #[test]
    fn an_error_that_is_no_json_still_becomes_one() {
        for api in Api::ALL {
            let (status, body) = translate_error(
                api,
                EngineKind::Vllm,
                500,
                Bytes::from_static(b"Internal \xff Error\n"),
            );
            assert_eq!(status, 500);
            assert!(
                value(&body)["error"]
                    .to_string()
                    .contains("the vllm worker answered with status 500")
            );
        }
    }
}
