//! The head of a worker's answer: its status, how its body is framed, and whether its connection may be used again.

use super::framing::Framing;

const HEADERS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) keeps_connection: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("its header is not what HTTP allows")]
    NotHttp,
    #[error("its header says two different lengths")]
    TwoLengths,
}

/// The head at the beginning of `bytes` with its length; `None` if it is not whole yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(AnswerHead, usize)>, BadHead> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadHead::NotHttp),
    };
    let status = answer.code.ok_or(BadHead::NotHttp)?;
    let coding = values(answer.headers, "transfer-encoding").last();
    let body_length = body_length(answer.headers)?;
    let framing = match (status, coding, body_length) {
        (100..200 | 204 | 304, _, _) => Framing::Over,
        (_, Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Framing::chunked(),
        // Of a coding that is unknown only the end of the connection tells the end.
        (_, Some(_), _) | (_, None, None) => Framing::UntilClose,
        (_, None, Some(length)) => Framing::length(length),
    };
    let said = |word: &[u8]| {
        values(answer.headers, "connection").any(|value| value.eq_ignore_ascii_case(word))
    };
    let by_default = answer.version == Some(1);
    let head = AnswerHead {
        status,
        framing,
        keeps_connection: !said(b"close")
            && (by_default || said(b"keep-alive"))
            && framing != Framing::UntilClose
            && !(coding.is_some() && body_length.is_some()),
    };
    Ok(Some((head, length)))
}

/// The elements of a list, in one header or several.
fn values<'h>(headers: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn body_length(headers: &[httparse::Header<'_>]) -> Result<Option<u64>, BadHead> {
    let mut length = None;
    for value in values(headers, "content-length") {
        // Digits only: `parse` would take a sign as well.
        let digits = value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).ok().filter(|_| digits);
        let value: u64 = text
            .and_then(|text| text.parse().ok())
            .ok_or(BadHead::NotHttp)?;
        if length.replace(value).is_some_and(|before| before != value) {
            return Err(BadHead::TwoLengths);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &str, framing: Framing, keeps_connection: bool) {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\nrest");
        let (head, length) = parse(text.as_bytes()).expect("a head").expect("whole");
        assert_eq!(&text[length..], "rest");
        assert_eq!(head.status, 200);
        assert_eq!(
            (head.framing, head.keeps_connection),
            (framing, keeps_connection),
            "{fields}"
        );
    }

    #[test]
    fn the_framing_is_the_one_of_the_standard() {
        check("Content-Length: 7\r\n", Framing::length(7), true);
        check("content-length: 7, 7\r\n", Framing::length(7), true);
        check("Transfer-Encoding: chunked\r\n", Framing::chunked(), true);
        let both = "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n";
        check(both, Framing::chunked(), false);
        check(
            "Transfer-Encoding: chunked, gzip\r\n",
            Framing::UntilClose,
            false,
        );
        check("A: b\r\n", Framing::UntilClose, false);
        check(
            "Content-Length: 7\r\nConnection: a, Close\r\n",
            Framing::length(7),
            false,
        );
    }

    #[test]
    fn some_answers_have_no_body_and_old_ones_close() {
        let parsed = |text: &str| parse(text.as_bytes()).expect("a head").expect("whole").0;
        assert!(parsed("HTTP/1.1 100 Continue\r\n\r\n").framing.is_over());
        assert!(
            parsed("HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\n")
                .framing
                .is_over()
        );
        assert!(!parsed("HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n").keeps_connection);
    }

    #[test]
    fn a_part_is_waited_for_and_nonsense_is_not() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-"), Ok(None));
        assert_eq!(parse(b"hello\r\n\r\n"), Err(BadHead::NotHttp));
        for (lengths, error) in [
            ("1, 2", BadHead::TwoLengths),
            ("+1", BadHead::NotHttp),
            ("", BadHead::NotHttp),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {lengths}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()), Err(error), "{lengths}");
        }
    }
}
