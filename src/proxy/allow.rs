//! A request at the door: is its caller known, may it call this, and has it anything left of its limits.

use http::{HeaderName, HeaderValue};

use super::Gateway;
use super::authorize::{Caller, KeyRing, NotAllowed};
use super::client::Client;
use super::record::Record;
use super::reply_headers::ReplyHeaders;
use super::respond::Refusal;
use super::stop::{Outcome, Stop};
use crate::domain::{Api, EndpointName, PredictedCost};
use crate::engines::ErrorKind;
use crate::fleet::{Allowance, Quotas};
use crate::policy::limits::{LimitRule, OverLimit, Quota};
use crate::telemetry::now;

/// Metric labels of refusals that are not a limit's.
const UNKNOWN_KEY: &str = "unknown_key";
const OUT_OF_SCOPE: &str = "endpoint";

/// A caller that was let in, with its share of its key's limits; `None` without a key.
pub(super) struct Admitted {
    pub(super) caller: Caller,
    pub(super) allowance: Option<Allowance>,
}

impl Gateway {
    /// Before the body is read: known, and within its requests and concurrency.
    pub(super) fn let_in(
        &self,
        client: &mut Client<'_>,
        record: &Record,
        api: Option<Api>,
        keys: &KeyRing,
    ) -> Result<Admitted, Stop> {
        let caller = Caller::of(client.http, keys);
        record.caller(&caller);
        if caller.is_shut_out(self.fleet.endpoints().keys(), keys) {
            self.count_refused(&caller, UNKNOWN_KEY);
            return Err(refused(unauthorized(api)));
        }
        let Some(held) = &caller.key else {
            return Ok(Admitted {
                caller,
                allowance: None,
            });
        };
        self.metrics
            .key_requests
            .with_label_values(&[caller.label()])
            .inc();
        let entered = held.account.enter(now());
        tell(client.headers, &held.account.quotas(now()));
        let allowance = entered.map_err(|over| self.over_limit(&caller, api, over))?;
        Ok(Admitted {
            caller,
            allowance: Some(allowance),
        })
    }

    /// Once it is known which endpoint is meant.
    pub(super) fn may_call(
        &self,
        caller: &Caller,
        api: Option<Api>,
        endpoint: &EndpointName,
        keys: &KeyRing,
    ) -> Result<(), Stop> {
        caller.may_call(endpoint, keys).map_err(|not| match not {
            NotAllowed::Unknown => {
                self.count_refused(caller, UNKNOWN_KEY);
                refused(unauthorized(api))
            }
            NotAllowed::OutOfScope => {
                self.count_refused(caller, OUT_OF_SCOPE);
                let message = format!("this API key may not call endpoint {endpoint}");
                refused(Refusal::new(api, ErrorKind::Forbidden, message))
            }
        })
    }

    /// Once it is known what the request will take.
    pub(super) fn charge(
        &self,
        client: &mut Client<'_>,
        api: Option<Api>,
        admitted: &mut Admitted,
        predicted: &PredictedCost,
    ) -> Result<(), Stop> {
        let Some(allowance) = &mut admitted.allowance else {
            return Ok(());
        };
        let tokens = predicted.prompt_tokens + predicted.output_tokens;
        let charged = allowance.charge(tokens, now());
        tell(client.headers, &allowance.quotas(now()));
        charged.map_err(|over| self.over_limit(&admitted.caller, api, over))
    }

    /// Tokens that the request has really taken.
    pub(super) fn took(&self, admitted: &Admitted, tokens: f64) {
        if let Some(allowance) = &admitted.allowance {
            let tokens = tokens.max(0.0).round() as u64;
            allowance.used(tokens);
            self.metrics
                .key_tokens
                .with_label_values(&[admitted.caller.label()])
                .inc_by(tokens);
        }
    }

    fn over_limit(&self, caller: &Caller, api: Option<Api>, over: OverLimit) -> Stop {
        self.count_refused(caller, over.rule.as_str());
        let what = match over.rule {
            LimitRule::Requests => "too many requests: requests_per_second",
            LimitRule::Tokens => "too many tokens: tokens_per_minute",
            LimitRule::Concurrency => "too many requests at once: max_concurrency",
        };
        let message = format!("{what} of this API key is reached");
        let refusal = Refusal::new(api, ErrorKind::RateLimited, message);
        Stop::Refused(refusal.retry_after(over.retry_after), Outcome::Limited)
    }

    fn count_refused(&self, caller: &Caller, rule: &str) {
        let labels = [caller.label(), rule];
        self.metrics.key_refusals.with_label_values(&labels).inc();
    }
}

fn refused(refusal: Refusal) -> Stop {
    Stop::Refused(refusal, Outcome::ClientError)
}

fn unauthorized(api: Option<Api>) -> Refusal {
    Refusal::new(
        api,
        ErrorKind::Unauthorized,
        "a valid API key is needed: Authorization: Bearer KEY",
    )
}

/// The usual headers, on whatever answer follows.
fn tell(headers: &mut ReplyHeaders, quotas: &Quotas) {
    let mut tell = |quota: Option<Quota>, names: [&'static str; 3]| {
        if let Some(quota) = quota {
            let [limit, remaining, reset] = names.map(HeaderName::from_static);
            headers.set(limit, number(quota.limit));
            headers.set(remaining, number(quota.remaining));
            headers.set(reset, text(&span(quota.full_after.as_secs_f64())));
        }
    };
    tell(
        quotas.requests,
        [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ],
    );
    tell(
        quotas.tokens,
        [
            "x-ratelimit-limit-tokens",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
        ],
    );
}

fn number(value: f64) -> HeaderValue {
    HeaderValue::from(value.max(0.0) as u64)
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// As OpenAI writes it: `20ms`, `1.5s`, `6m0s`.
fn span(seconds: f64) -> String {
    let millis = (seconds * 1_000.0).ceil() as u64;
    match millis {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{millis}ms"),
        1_000..60_000 => return format!("{}s", millis as f64 / 1_000.0),
        _ => {}
    }
    let whole = millis.div_ceil(1_000);
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}m{seconds}s"),
        hours => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn times_read_as_openai_writes_them() {
        for (seconds, expected) in [
            (0.0, "0s"),
            (0.02, "20ms"),
            (1.5, "1.5s"),
            (59.0, "59s"),
            (360.0, "6m0s"),
            (90.2, "1m31s"),
            (119.5, "2m0s"),
            (3_599.9, "1h0m0s"),
            (3_661.0, "1h1m1s"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
