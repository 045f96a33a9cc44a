//! Where a worker's answer of HTTP/1.1 ends, and what of its bytes is the body.

use bytes::{Buf, Bytes, BytesMut};

/// A chunk's size with its extensions, or a line of a trailer, may be no longer.
const LINE_BYTES_MAX: usize = 8 << 10;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of its answer cannot be read")]
pub(super) struct Garbled;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    /// So many bytes of it are still to come.
    Data(u64),
    DataEnd,
    Trailer,
}

impl Framing {
    pub(super) fn length(bytes: u64) -> Self {
        match bytes {
            0 => Framing::Over,
            bytes => Framing::Length(bytes),
        }
    }

    pub(super) fn chunked() -> Self {
        Framing::Chunked(Chunk::Size)
    }

    pub(super) fn is_over(self) -> bool {
        self == Framing::Over
    }

    /// The connection was closed; false if that came too early.
    pub(super) fn close(&mut self) -> bool {
        if *self == Framing::UntilClose {
            *self = Framing::Over;
        }
        self.is_over()
    }

    /// Takes what is there of the body from `raw`. What stays in it needs more bytes, or lies behind the answer.
    pub(super) fn take(&mut self, raw: &mut BytesMut) -> Result<Bytes, Garbled> {
        let part = match *self {
            Framing::Over => BytesMut::new(),
            Framing::UntilClose => raw.split(),
            Framing::Length(left) => {
                let part = up_to(raw, left);
                *self = Framing::length(left - part.len() as u64);
                part
            }
            Framing::Chunked(chunk) => {
                let (part, then) = chunks(chunk, raw)?;
                *self = then;
                part
            }
        };
        if raw.is_empty() {
            // Its room is the part's.
            *raw = BytesMut::new();
        }
        Ok(part.freeze())
    }
}

fn up_to(raw: &mut BytesMut, most: u64) -> BytesMut {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(raw.len());
    raw.split_to(length)
}

/// The data of all chunks that are there, as one piece.
fn chunks(mut chunk: Chunk, raw: &mut BytesMut) -> Result<(BytesMut, Framing), Garbled> {
    let mut data = BytesMut::new();
    while !raw.is_empty() {
        chunk = match chunk {
            Chunk::Size => match httparse::parse_chunk_size(raw) {
                Ok(httparse::Status::Complete((line, size))) => {
                    raw.advance(line);
                    match size {
                        0 => Chunk::Trailer,
                        size => Chunk::Data(size),
                    }
                }
                Ok(httparse::Status::Partial) if raw.len() <= LINE_BYTES_MAX => break,
                Ok(httparse::Status::Partial) | Err(_) => return Err(Garbled),
            },
            Chunk::Data(left) => {
                let part = up_to(raw, left);
                let left = left - part.len() as u64;
                match data.is_empty() {
                    true => data = part,
                    false => data.extend_from_slice(&part),
                }
                match left {
                    0 => Chunk::DataEnd,
                    left => Chunk::Data(left),
                }
            }
            Chunk::DataEnd => match raw.get(..2) {
                Some(b"\r\n") => {
                    raw.advance(2);
                    Chunk::Size
                }
                Some(_) => return Err(Garbled),
                None => break,
            },
            Chunk::Trailer => match memchr::memchr(b'\n', raw) {
                Some(end) => {
                    let line = raw.split_to(end + 1);
                    if matches!(&line[..], b"\r\n" | b"\n") {
                        return Ok((data, Framing::Over));
                    }
                    Chunk::Trailer
                }
                None if raw.len() <= LINE_BYTES_MAX => break,
                None => return Err(Garbled),
            },
        };
    }
    Ok((data, Framing::Chunked(chunk)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds an answer in pieces; gives the body, what lies behind it, and the framing.
    fn read(
        mut framing: Framing,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, Vec<u8>, Framing), Garbled> {
        let (mut raw, mut body) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            raw.extend_from_slice(piece);
            body.extend_from_slice(&framing.take(&mut raw)?);
        }
        Ok((body, raw.to_vec(), framing))
    }

    #[track_caller]
    fn check(framing: Framing, answer: &str, body: &str, behind: &str) {
        let read = read(framing, &[answer.as_bytes()]).expect("readable");
        let expected = (body.as_bytes().to_vec(), behind.as_bytes().to_vec());
        assert_eq!(read, (expected.0, expected.1, Framing::Over), "{answer:?}");
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        check(Framing::length(3), "abcd", "abc", "d");
        check(Framing::length(0), "x", "", "x");
        let chunked = Framing::chunked();
        check(
            chunked,
            "3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\nx",
            "abcde",
            "x",
        );
        check(chunked, "1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n", "a", "");
    }

    #[test]
    fn a_connection_that_closes_early_is_told_from_an_end() {
        let close = |mut framing: Framing, text: &str| {
            let mut raw = BytesMut::from(text);
            framing.take(&mut raw).expect("readable");
            framing.close()
        };
        assert!(close(Framing::UntilClose, "abc"));
        assert!(!close(Framing::length(4), "abc"));
        assert!(!close(Framing::chunked(), "3\r\nabc\r\n"));
        assert!(!close(Framing::chunked(), "0\r\n"));
        assert!(close(Framing::chunked(), "0\r\n\r\n"));
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        let endless = "1;".to_owned() + &"x".repeat(LINE_BYTES_MAX);
        for answer in ["zz\r\n", "1\r\nabc\r\n", "1\r\na\n0\r\n", &endless] {
            let read = read(Framing::chunked(), &[answer.as_bytes()]);
            assert_eq!(read, Err(Garbled), "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_body(
            parts in prop::collection::vec("[a-z\r\n0]{1,9}", 0..6),
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let mut answer: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
            answer += "0\r\n\r\nbehind";
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % answer.len()).collect();
            ends.extend([0, answer.len()]);
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|ends| &answer.as_bytes()[ends[0]..ends[1]]).collect();
            let expected = (parts.concat().into_bytes(), b"behind".to_vec(), Framing::Over);
            prop_assert_eq!(read(Framing::chunked(), &pieces), Ok(expected));
        }
    }
}
