//! Who a request is: its id, and its place in a trace that its client keeps.
//!
//! `traceparent` and `tracestate` go to the worker as they came. W3C's Trace Context allows a hop either to put a span
//! of its own between or to pass them on unchanged, which it calls usual for proxies; the gateway exports no
//! spans, and a parent that nobody recorded would tear the trace apart. What is not valid is dropped, both of them.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longer ids of clients are replaced.
const ID_CHARS_MAX: usize = 128;
/// W3C asks that at least 512 be passed on.
const TRACESTATE_BYTES_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Trace {
    pub(super) id: HeaderValue,
    pub(super) trace_id: Option<String>,
    /// What a worker is told of it.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Trace {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let id = client_id(headers).unwrap_or_else(new_id);
        let mut onward = vec![(REQUEST_ID, id.clone())];
        let mut trace_id = None;
        if let Some(parent) = only(headers, &TRACEPARENT)
            && let Some(id) = trace_id_of(parent)
        {
            trace_id = Some(id.to_owned());
            onward.push((TRACEPARENT, parent.clone()));
            onward.extend(state(headers).map(|state| (TRACESTATE, state)));
        }
        Self {
            id,
            trace_id,
            headers: onward,
        }
    }

    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// Takes what a client sent, and what is not in `headers` stays away.
    pub(super) fn names() -> [HeaderName; 3] {
        [REQUEST_ID, TRACEPARENT, TRACESTATE]
    }
}

fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b);
    only(headers, &REQUEST_ID)
        .filter(|id| (1..=ID_CHARS_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain))
        .cloned()
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// 128 bits that nobody guesses and no other gateway makes: a keyed hash of a counter.
fn new_id() -> HeaderValue {
    static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Relaxed);
    let (high, low) = (KEYS.0.hash_one(count), KEYS.1.hash_one(count));
    HeaderValue::from_str(&format!("{high:016x}{low:016x}"))
        .unwrap_or(HeaderValue::from_static("-"))
}

/// `version-traceid-parentid-flags`, as the standard's section 3.2 has it.
fn trace_id_of(parent: &HeaderValue) -> Option<&str> {
    let text = parent.to_str().ok()?;
    let known = text.get(..55)?;
    let mut fields = known.split('-');
    let (version, trace, span) = (fields.next()?, fields.next()?, fields.next()?);
    let flags = fields.next().filter(|_| fields.next().is_none())?;
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |text: &str| text.bytes().any(|b| b != b'0');
    // A later version may have more fields.
    let rest = &text[55..];
    let rest_fits = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && set(trace)
        && hex(span, 16)
        && set(span)
        && hex(flags, 2)
        && rest_fits;
    valid.then_some(trace)
}

/// Several headers are one list.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let parts: Vec<&[u8]> = headers
        .get_all(&TRACESTATE)
        .iter()
        .map(HeaderValue::as_bytes)
        .filter(|part| !part.is_empty())
        .collect();
    let joined = parts.join(&b","[..]);
    let fits = (1..=TRACESTATE_BYTES_MAX).contains(&joined.len());
    fits.then(|| HeaderValue::from_bytes(&joined).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(sent: &[(HeaderName, &str)]) -> Trace {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        Trace::of(&headers)
    }

    fn check(parent: &str, valid: bool) {
        let trace = trace(&[(TRACEPARENT, parent), (TRACESTATE, "a=1")]);
        assert_eq!(trace.trace_id.is_some(), valid, "{parent}");
        let names: Vec<_> = trace.headers().iter().map(|(name, _)| name).collect();
        assert_eq!(names.contains(&&TRACEPARENT), valid, "{parent}");
        assert_eq!(names.contains(&&TRACESTATE), valid, "{parent}");
    }

    #[test]
    fn a_valid_trace_goes_on_unchanged_and_a_wrong_one_not_at_all() {
        check(PARENT, true);
        check(&PARENT.replace("-01", "-00"), true);
        check(&format!("01{}-more", &PARENT[2..]), true);
        check(&format!("{PARENT}-more"), false);
        check(&format!("01{}more", &PARENT[2..]), false);
        check(&format!("ff{}", &PARENT[2..]), false);
        check(&PARENT.to_uppercase(), false);
        check(&PARENT.replace(TRACE, &"0".repeat(32)), false);
        check(&PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), false);
        check(&PARENT[..54], false);
        check("", false);
        check(&"-".repeat(55), false);
    }

    #[test]
    fn two_parents_are_none_and_states_are_one_list() {
        let two = trace(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]);
        assert_eq!(two.trace_id, None);
        let one = trace(&[
            (TRACEPARENT, PARENT),
            (TRACESTATE, "a=1"),
            (TRACESTATE, "b=2"),
        ]);
        assert_eq!(one.trace_id.as_deref(), Some(TRACE));
        assert_eq!(one.headers()[2].1, "a=1,b=2");
    }

    #[test]
    fn a_sane_id_is_kept_and_another_is_made() {
        let id = |sent: &str| trace(&[(REQUEST_ID, sent)]).id;
        assert_eq!(id("req-1.a_B:7"), "req-1.a_B:7");
        for odd in ["", "has blank", "\"quoted\"", &"x".repeat(129)] {
            let made = id(odd);
            assert_eq!(made.len(), 32, "{odd}");
            assert_ne!(made, id(odd), "each its own");
        }
    }
}
