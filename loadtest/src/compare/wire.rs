//! HTTP/1.1 with as little work as can be: the measuring side shares one CPU between clients and workers, and has to keep
//! up with proxies written in C. Only what the measurements send and the measured proxies answer.

use std::io;

use anyhow::{Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ_BYTES: usize = 16 << 10;
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 64;

/// A kept connection and what was read ahead from it.
pub(super) struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

/// The first line and what the headers say of the body.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    /// Of a response.
    pub status: u16,
    /// Of a request.
    pub method_and_path: String,
    pub framing: Framing,
    /// The other side ends the connection after this message.
    pub closes: bool,
    /// The other side waits for a word before it sends the body.
    pub expects_continue: bool,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: BytesMut::new(),
        })
    }

    pub async fn connect(port: u16) -> io::Result<Self> {
        Self::new(TcpStream::connect(("127.0.0.1", port)).await?)
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits for the other side to end the connection; anything else it says is dropped.
    pub async fn closed(&mut self) {
        while self.fill().await.is_ok_and(|read| read > 0) {
            self.read.clear();
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.read.reserve(READ_BYTES);
        self.stream.read_buf(&mut self.read).await
    }

    /// `None`: the connection ended before another message began.
    pub async fn head(&mut self, kind: Kind) -> Result<Option<Head>> {
        loop {
            if let Some((head, length)) = Head::parse(&self.read, kind)? {
                self.read.advance(length);
                if head.status == 100 {
                    continue;
                }
                return Ok(Some(head));
            }
            ensure!(self.read.len() < HEAD_BYTES_MAX, "a head without end");
            if self.fill().await? == 0 {
                ensure!(self.read.is_empty(), "ended within a head");
                return Ok(None);
            }
        }
    }

    /// Hands over the body's bytes as they come, to its end.
    pub async fn body(&mut self, mut framing: Framing, mut take: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let consumed = framing.decode(&self.read, &mut take)?;
            self.read.advance(consumed);
            if framing.is_done() {
                return Ok(());
            }
            if self.fill().await? == 0 {
                ensure!(
                    framing == Framing::UntilClose,
                    "the connection was cut within a body"
                );
                return Ok(());
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
}

impl Head {
    fn parse(bytes: &[u8], kind: Kind) -> Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let (length, status, method_and_path) = match kind {
            Kind::Request => {
                let mut request = httparse::Request::new(&mut headers);
                let httparse::Status::Complete(length) = request.parse(bytes)? else {
                    return Ok(None);
                };
                let (method, path) = (request.method, request.path);
                let line = format!("{} {}", method.unwrap_or(""), path.unwrap_or(""));
                (length, 0, line)
            }
            Kind::Response => {
                let mut response = httparse::Response::new(&mut headers);
                let httparse::Status::Complete(length) = response.parse(bytes)? else {
                    return Ok(None);
                };
                (length, response.code.unwrap_or(0), String::new())
            }
        };
        let mut head = Self {
            status,
            method_and_path,
            // Without a word about it a request has no body, a response one to the end of the connection.
            framing: match kind {
                Kind::Request => Framing::Length(0),
                Kind::Response => Framing::UntilClose,
            },
            closes: false,
            expects_continue: false,
        };
        for header in headers.iter().filter(|header| !header.name.is_empty()) {
            head.note(header)?;
        }
        Ok(Some((head, length)))
    }

    fn note(&mut self, header: &httparse::Header) -> Result<()> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = std::str::from_utf8(header.value).unwrap_or("").trim();
        if is("content-length") && self.framing != Framing::CHUNKED {
            self.framing = Framing::Length(value.parse()?);
        } else if is("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            self.framing = Framing::CHUNKED;
        } else if is("connection") {
            self.closes = value.eq_ignore_ascii_case("close");
        } else if is("expect") {
            self.expects_continue = true;
        }
        Ok(())
    }
}

/// How a body's end is told, and what is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    EndOfData,
    /// Lines up to an empty one.
    Trailer,
    Done,
}

impl Framing {
    pub const CHUNKED: Self = Self::Chunked(Chunk::Size);

    fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    /// Bytes used up; the rest waits for what follows it.
    fn decode(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8])) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self {
                Self::UntilClose => {
                    take(rest);
                    return Ok(bytes.len());
                }
                Self::Length(left) => {
                    let (piece, after) = piece(rest, *left);
                    take(piece);
                    *self = Self::Length(after);
                    return Ok(used + piece.len());
                }
                Self::Chunked(Chunk::Data(left)) => {
                    let (piece, after) = piece(rest, *left);
                    if piece.is_empty() {
                        return Ok(used);
                    }
                    take(piece);
                    used += piece.len();
                    *self = Self::Chunked(match after {
                        0 => Chunk::EndOfData,
                        after => Chunk::Data(after),
                    });
                }
                Self::Chunked(Chunk::Done) => return Ok(used),
                Self::Chunked(chunk) => {
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        return Ok(used);
                    };
                    *chunk = chunk.after_line(rest[..end].trim_ascii())?;
                    used += end + 1;
                }
            }
        }
    }
}

impl Chunk {
    fn after_line(self, line: &[u8]) -> Result<Self> {
        Ok(match self {
            Chunk::Size => match chunk_size(line)? {
                0 => Chunk::Trailer,
                size => Chunk::Data(size),
            },
            Chunk::EndOfData if line.is_empty() => Chunk::Size,
            Chunk::Trailer if line.is_empty() => Chunk::Done,
            Chunk::Trailer => Chunk::Trailer,
            _ => bail!("a chunk that is longer than it says"),
        })
    }
}

fn chunk_size(line: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(line)?;
    let size = text.split(';').next().unwrap_or("").trim();
    Ok(u64::from_str_radix(size, 16)?)
}

/// At most `left` bytes, and how many are left after them.
fn piece(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (&bytes[..length], left - length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(framing: Framing, wire: &[u8], body: &[u8], left_over: &[u8]) {
        for size in 1..=wire.len() {
            let (mut framing, mut got, mut waiting) = (framing, Vec::new(), Vec::new());
            for piece in wire.chunks(size) {
                waiting.extend_from_slice(piece);
                if framing.is_done() {
                    continue;
                }
                let used = framing.decode(&waiting, &mut |bytes| got.extend_from_slice(bytes));
                waiting.drain(..used.unwrap());
            }
            assert_eq!(got, body, "in pieces of {size}");
            assert_eq!(waiting, left_over, "in pieces of {size}");
        }
    }

    #[test]
    fn bodies_end_where_they_say_in_any_division() {
        check(Framing::Length(5), b"helloHTTP", b"hello", b"HTTP");
        check(
            Framing::CHUNKED,
            b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\nHTTP",
            b"hello 0123456789",
            b"HTTP",
        );
        check(
            Framing::CHUNKED,
            b"1\r\na\r\n0\r\nx-trailer: 1\r\n\r\n",
            b"a",
            b"",
        );
        check(Framing::UntilClose, b"all of it", b"all of it", b"");
    }

    #[test]
    fn a_chunk_that_lies_about_its_size_is_an_error() {
        let mut framing = Framing::CHUNKED;
        assert!(framing.decode(b"2\r\nabc\r\n", &mut |_| {}).is_err());
        let mut framing = Framing::CHUNKED;
        assert!(framing.decode(b"zz\r\n", &mut |_| {}).is_err());
    }

    #[test]
    fn heads_tell_how_long_the_body_is() {
        let parse = |text: &str, kind| Head::parse(text.as_bytes(), kind).unwrap();
        let (head, length) = parse(
            "POST /x HTTP/1.1\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n",
            Kind::Request,
        )
        .unwrap();
        assert_eq!(head.method_and_path, "POST /x");
        assert_eq!((head.framing, length), (Framing::Length(7), 61));
        assert!(head.expects_continue && !head.closes);
        let (head, _) = parse(
            "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            Kind::Response,
        )
        .unwrap();
        assert_eq!((head.status, head.framing), (503, Framing::CHUNKED));
        assert!(head.closes);
        assert_eq!(parse("HTTP/1.1 200 OK\r\nConte", Kind::Response), None);
    }
}
