//! What a client asks of the waiting room.

use pingora::http::RequestHeader;

use crate::engines::{BadRequest, JsonObject};

/// Overrides the body's field, so that a gateway in front may set it.
const PRIORITY_HEADER: &str = "x-priority";
const EVENTS_HEADER: &str = "x-tidegate-wait-events";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Among the client's own requests; the lower goes first, as in vLLM.
    pub(super) priority: i32,
    /// To be told its place while it waits; `None` leaves it to the endpoint.
    pub(super) events: Option<bool>,
}

impl Wishes {
    pub(super) fn of(head: &RequestHeader, body: &JsonObject) -> Result<Self, BadRequest> {
        let header = |name| head.headers.get(name).map(|value| value.as_bytes());
        read(header(PRIORITY_HEADER), header(EVENTS_HEADER), body)
    }
}

fn read(
    priority: Option<&[u8]>,
    events: Option<&[u8]>,
    body: &JsonObject,
) -> Result<Wishes, BadRequest> {
    let in_body: Option<i32> = body
        .get("priority")
        .map_err(|_| wrong("`priority` must be an integer", "priority"))?;
    let priority = match priority {
        None => in_body.unwrap_or(0),
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| wrong("the header x-priority must be an integer", "x-priority"))?,
    };
    let events = match events {
        None => None,
        Some(b"on") => Some(true),
        Some(b"off") => Some(false),
        Some(_) => {
            let problem = "the header x-tidegate-wait-events must be on or off";
            return Err(wrong(problem, EVENTS_HEADER));
        }
    };
    Ok(Wishes { priority, events })
}

fn wrong(message: &str, param: &'static str) -> BadRequest {
    BadRequest {
        message: message.to_owned(),
        param: Some(param),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[track_caller]
    fn check(priority: Option<&str>, events: Option<&str>, body: &str, expected: Option<Wishes>) {
        let body = JsonObject::parse(Bytes::copy_from_slice(body.as_bytes())).expect("JSON");
        let found = read(
            priority.map(str::as_bytes),
            events.map(str::as_bytes),
            &body,
        );
        assert_eq!(found.ok(), expected);
    }

    #[test]
    fn the_header_goes_before_the_field_and_neither_is_needed() {
        let wishes = |priority, events| Some(Wishes { priority, events });
        check(None, None, "{}", wishes(0, None));
        check(None, None, r#"{"priority":null}"#, wishes(0, None));
        check(None, None, r#"{"priority":-7}"#, wishes(-7, None));
        check(
            Some(" 3"),
            Some("on"),
            r#"{"priority":-7}"#,
            wishes(3, Some(true)),
        );
        check(None, Some("off"), "{}", wishes(0, Some(false)));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        check(None, None, r#"{"priority":"high"}"#, None);
        check(None, None, r#"{"priority":1.5}"#, None);
        check(None, None, r#"{"priority":99999999999}"#, None);
        check(Some("high"), None, "{}", None);
        check(None, Some("maybe"), "{}", None);
    }
}
