//! What can go wrong with a call, and what that says: did anything happen, and is it worth trying again?

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::super::MarketError;
use crate::domain::Secret;

/// What an error of ours quotes of the market's words.
const MESSAGE_CHARS_MAX: usize = 300;
/// A longer `Retry-After` is asked again after this: machines wait to be ended meanwhile. Vast's own client does the same.
const RETRY_AFTER_MAX_S: f64 = 60.0;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// Not sent: too many calls wait for their turn.
    Busy,
    /// Not sent: whoever wanted it wants it no more.
    Forbidden(MarketError),
    /// Not sent: no connection.
    NotSent(String),
    /// Refused for haste, and perhaps told when to come back.
    TooFast { after: Option<Duration> },
    /// The day's searches are used up.
    QuotaUsedUp { reset: Option<String> },
    /// Sent, and no answer.
    Lost(String),
    /// Not an answer of Vast's interface: HTML, half a JSON, a redirect.
    Strange(String),
    /// Vast said no.
    Said(Said),
}

/// An error as Vast tells it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    status: u16,
    /// `no_such_ask` and the like; may be empty.
    code: String,
    message: String,
}

impl Said {
    pub(super) fn of(status: StatusCode, answer: &Value, key: &Secret) -> Self {
        let text = |name| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        let message = [text("msg"), text("detail"), text("message")]
            .into_iter()
            .find(|text| !text.is_empty());
        Self {
            status: status.as_u16(),
            code: shown(text("error"), key),
            message: shown(message.unwrap_or_default(), key),
        }
    }

    pub(super) fn plain(status: StatusCode, text: &str, key: &Secret) -> Self {
        Self {
            status: status.as_u16(),
            code: String::new(),
            message: shown(text, key),
        }
    }

    fn speaks_of(&self, words: &[&str]) -> bool {
        let all = format!("{} {}", self.code, self.message).to_lowercase();
        words.iter().any(|word| all.contains(word))
    }

    /// Vast answers a wrong key with 404 too.
    fn is_about_the_key(&self) -> bool {
        let key = [
            "auth_error",
            "invalid user key",
            "session expired",
            "api key",
            "unauthorized",
        ];
        self.status == 401 || self.speaks_of(&key)
    }

    fn is_about_the_offer(&self) -> bool {
        self.speaks_of(&["no_such_ask"])
            || (matches!(self.status, 404 | 410)
                && self.speaks_of(&["ask", "offer", "not available"]))
    }

    fn text(&self) -> String {
        let Self {
            status,
            code,
            message,
        } = self;
        match (code.is_empty(), message.is_empty()) {
            (true, true) => format!("status {status}"),
            (true, false) => format!("status {status}: {message}"),
            (false, true) => format!("status {status}: {code}"),
            (false, false) => format!("status {status}: {code}: {message}"),
        }
    }
}

/// The market's words, without the key should they repeat it, in one line and not too many.
fn shown(text: &str, key: &Secret) -> String {
    let text = match key.expose() {
        "" => text.to_owned(),
        key => text.replace(key, "[redacted]"),
    };
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(MESSAGE_CHARS_MAX).collect()
}

impl Failure {
    /// For the metric.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Failure::Busy => "busy",
            Failure::Forbidden(_) => "forbidden",
            Failure::NotSent(_) => "not_sent",
            Failure::TooFast { .. } => "too_fast",
            Failure::QuotaUsedUp { .. } => "quota_used_up",
            Failure::Lost(_) => "lost",
            Failure::Strange(_) => "strange",
            Failure::Said(said) if said.is_about_the_key() => "unauthorized",
            Failure::Said(said) if said.status >= 500 => "server_error",
            Failure::Said(_) => "refused",
        }
    }

    pub(super) fn of_sending(error: reqwest::Error, key: &Secret) -> Self {
        let connecting = error.is_connect() || error.is_builder();
        let error = error.without_url();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        let text = shown(&text, key);
        match connecting {
            true => Failure::NotSent(text),
            false => Failure::Lost(text),
        }
    }

    /// Of a 429.
    pub(super) fn of_haste(headers: &HeaderMap, body: &[u8]) -> Self {
        let answer: Option<Value> = serde_json::from_slice(body).ok();
        let code = answer.as_ref().and_then(|answer| answer.get("error"));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if code.and_then(Value::as_str) == Some("search_quota_exceeded") {
            return Failure::QuotaUsedUp {
                reset: text("x-ratelimit-reset").map(str::to_owned),
            };
        }
        let after = text(header::RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.trim().parse::<f64>().ok())
            .filter(|seconds| *seconds >= 0.0)
            .map(|seconds| Duration::from_secs_f64(seconds.min(RETRY_AFTER_MAX_S)));
        Failure::TooFast { after }
    }

    pub(super) fn is_about_the_key(&self) -> bool {
        matches!(self, Failure::Said(said) if said.is_about_the_key())
    }

    /// The path is not served, rather than something not found under it: another version may be.
    pub(super) fn is_about_the_path(&self) -> bool {
        match self {
            Failure::Said(said) => {
                let gone = matches!(said.status, 404 | 405 | 410)
                    || said.speaks_of(&["deprecated_endpoint"]);
                gone && !said.is_about_the_key()
            }
            Failure::Strange(what) => what.starts_with("404") || what.starts_with("410"),
            _ => false,
        }
    }

    /// Of a call that only asks.
    pub(super) fn of_reading(self) -> MarketError {
        match self {
            Failure::Said(said) if said.is_about_the_key() => MarketError::Refused(said.text()),
            Failure::Said(said) if said.status == 400 => MarketError::Refused(said.text()),
            failure => MarketError::Unavailable(failure.text()),
        }
    }

    /// Of a create call: whether something was rented is what matters.
    pub(super) fn of_creating(self) -> MarketError {
        match self {
            Failure::Busy | Failure::NotSent(_) | Failure::TooFast { .. } => {
                MarketError::Full(self.text())
            }
            Failure::Forbidden(why) => why,
            Failure::Said(said) if said.status >= 500 => MarketError::Unavailable(said.text()),
            Failure::Said(said) if said.is_about_the_key() => MarketError::Refused(said.text()),
            Failure::Said(said) if said.is_about_the_offer() => MarketError::OfferGone,
            Failure::Said(said) if said.speaks_of(&["spend_rate_limit"]) => {
                MarketError::Full(said.text())
            }
            Failure::Said(said) => MarketError::Refused(said.text()),
            failure => MarketError::Unavailable(failure.text()),
        }
    }

    /// Of a call that changes an instance.
    pub(super) fn of_changing(self) -> MarketError {
        match self {
            Failure::Said(said) if said.status >= 500 => MarketError::Unavailable(said.text()),
            Failure::Said(said) if said.is_about_the_key() => MarketError::Refused(said.text()),
            Failure::Said(said)
                if matches!(said.status, 404 | 410) || said.speaks_of(&["no_such_instance"]) =>
            {
                MarketError::NotFound
            }
            Failure::Said(said) => MarketError::Refused(said.text()),
            failure => MarketError::Unavailable(failure.text()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Failure::Busy => "too many calls wait for their turn".to_owned(),
            Failure::Forbidden(why) => why.to_string(),
            Failure::NotSent(why) => format!("no connection: {why}"),
            Failure::TooFast { .. } => "too many calls for the market".to_owned(),
            Failure::QuotaUsedUp { .. } => "the day's searches are used up".to_owned(),
            Failure::Lost(why) => format!("no answer: {why}"),
            Failure::Strange(what) => what.clone(),
            Failure::Said(said) => said.text(),
        }
    }
}
