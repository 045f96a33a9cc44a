//! What a request's header may be, before anything is done for it. Sizes are bounded, and what two servers in a
//! row may understand differently is refused: that is how requests are smuggled.

use http::{HeaderMap, Version, header};
use pingora::http::RequestHeader;

use super::respond::Refusal;
use crate::domain::ConnectionLimits;
use crate::engines::ErrorKind;

/// Why a request was turned away; the metric label, and what its client is told.
pub(super) struct Screened {
    pub(super) rule: &'static str,
    kind: ErrorKind,
    message: String,
}

impl Screened {
    fn new(rule: &'static str, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            rule,
            kind,
            message: message.into(),
        }
    }

    pub(super) fn refusal(self) -> Refusal {
        Refusal::new(None, self.kind, self.message)
    }
}

pub(super) fn screen(head: &RequestHeader, limits: &ConnectionLimits) -> Result<(), Screened> {
    let uri = head.raw_path().len();
    if uri > limits.uri_bytes_max {
        let message = format!("the URI is longer than {} bytes", limits.uri_bytes_max);
        return Err(Screened::new(
            "max_uri_bytes",
            ErrorKind::UriTooLong,
            message,
        ));
    }
    size(&head.headers, limits)?;
    framing(head)?;
    expectation(&head.headers)
}

fn size(headers: &HeaderMap, limits: &ConnectionLimits) -> Result<(), Screened> {
    let too_large = |rule, message| Err(Screened::new(rule, ErrorKind::HeaderTooLarge, message));
    if headers.len() > limits.header_count_max {
        let message = format!("more than {} header fields", limits.header_count_max);
        return too_large("max_headers", message);
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > limits.header_bytes_max {
        let message = format!(
            "more than {} bytes of header fields",
            limits.header_bytes_max
        );
        return too_large("max_header_bytes", message);
    }
    Ok(())
}

fn framing(head: &RequestHeader) -> Result<(), Screened> {
    let bad = |rule, message: &str| Err(Screened::new(rule, ErrorKind::BadRequest, message));
    let lengths = head.headers.get_all(header::CONTENT_LENGTH);
    let mut values = lengths.iter();
    let first = values.next();
    if values.next().is_some() || first.is_some_and(|value| value.as_bytes().contains(&b',')) {
        return bad("content_length", "more than one Content-Length");
    }
    if head
        .headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .count()
        > 1
    {
        return bad("transfer_encoding", "more than one Transfer-Encoding");
    }
    if head.version == Version::HTTP_11 && !head.headers.contains_key(header::HOST) {
        return bad("host", "a Host is missing");
    }
    if head.version == Version::HTTP_09 {
        return bad("version", "HTTP/0.9 is not spoken here");
    }
    Ok(())
}

fn expectation(headers: &HeaderMap) -> Result<(), Screened> {
    let known = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        return Ok(());
    }
    let message = "no other Expect than 100-continue is met";
    Err(Screened::new(
        "expect",
        ErrorKind::ExpectationFailed,
        message,
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        connections_max: 1,
        per_address_max: 1,
        header_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        write_timeout: Duration::ZERO,
        requests_max: 1,
        header_bytes_max: 100,
        header_count_max: 4,
        uri_bytes_max: 20,
        send_buffer_bytes: 0,
        http2_streams_max: 1,
        http2_idle_timeout: Duration::ZERO,
    };

    #[track_caller]
    fn check(path: &str, headers: &[(&'static str, &str)], expected: Option<&str>) {
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).expect("a header");
        for (name, value) in headers {
            head.append_header(*name, *value).expect("a field");
        }
        let rule = screen(&head, &LIMITS).err().map(|screened| screened.rule);
        assert_eq!(rule, expected, "{path} {headers:?}");
    }

    #[test]
    fn an_ordinary_request_passes() {
        check("/generate", &[("host", "a"), ("content-length", "4")], None);
        check("/", &[("host", "a"), ("expect", "100-Continue")], None);
    }

    #[test]
    fn sizes_are_bounded() {
        let host = ("host", "a");
        check(&"/".repeat(21), &[host], Some("max_uri_bytes"));
        check(
            "/",
            &[host, ("a", &"b".repeat(100))],
            Some("max_header_bytes"),
        );
        let many = [host, ("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
        check("/", &many, Some("max_headers"));
    }

    #[test]
    fn what_is_framed_in_two_ways_is_refused() {
        let host = ("host", "a");
        let length = ("content-length", "4");
        check("/", &[host, length, length], Some("content_length"));
        check(
            "/",
            &[host, ("content-length", "4, 4")],
            Some("content_length"),
        );
        let chunked = ("transfer-encoding", "chunked");
        check("/", &[host, chunked, chunked], Some("transfer_encoding"));
        check("/", &[length], Some("host"));
    }

    #[test]
    fn an_expectation_that_is_not_met_is_told_so() {
        check("/", &[("host", "a"), ("expect", "200-ok")], Some("expect"));
    }
}
