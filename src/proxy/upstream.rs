//! A connection to a worker during one request. What waits for a worker holds no buffer: bytes are read on the stack and
//! kept at their size.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora::connectors::TransportConnector;
use pingora::protocols::Stream;
use pingora::{Error, ErrorType, OrErr};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::answer_head::{AnswerHead, parse};
use super::forward::KEEP_IDLE;
use super::framing::Framing;

pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most that one read takes.
const READ_BYTES: usize = 32 << 10;
/// The head of an answer may be no longer.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// A body that is no longer goes in one write with its head.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// May be dropped at any moment: that closes the connection, which makes the engine stop.
pub(super) struct Upstream {
    stream: Stream,
    /// By which its connection is found again.
    reuse_key: u64,
    /// Read and not yet given.
    raw: BytesMut,
    framing: Framing,
    pub(super) status: u16,
    keeps_connection: bool,
    /// The worker has read the request; otherwise the next one would be taken for the rest of it.
    asked: bool,
    read_timeout: Duration,
}

impl Upstream {
    pub(super) fn new(stream: Stream, reuse_key: u64) -> Self {
        Self {
            stream,
            reuse_key,
            raw: BytesMut::new(),
            framing: Framing::UntilClose,
            status: 0,
            keeps_connection: false,
            asked: false,
            read_timeout: CLOSE_TIMEOUT,
        }
    }

    pub(super) async fn ask(&mut self, head: &[u8], body: &Bytes) -> pingora::Result<()> {
        let stream = &mut self.stream;
        let written = async {
            if body.len() <= JOINED_BYTES_MAX {
                stream.write_all(&[head, body].concat()).await?;
            } else {
                stream.write_all(head).await?;
                stream.write_all(body).await?;
            }
            stream.flush().await
        };
        let written = written.await;
        written.or_err(ErrorType::WriteError, "asking a worker")?;
        self.asked = true;
        Ok(())
    }

    pub(super) async fn read_head(&mut self) -> pingora::Result<()> {
        loop {
            let head = parse(&self.raw);
            match head.or_err(ErrorType::InvalidHTTPHeader, "an answer's head")? {
                Some((head, length)) => {
                    self.raw.advance(length);
                    // Interim answers such as 100 are followed by the real one.
                    if head.status >= 200 {
                        self.begin(head);
                        return Ok(());
                    }
                }
                None if self.raw.len() > HEAD_BYTES_MAX => {
                    return Error::e_explain(ErrorType::InvalidHTTPHeader, "an endless head");
                }
                None => {
                    if self.read_more().await? == 0 {
                        return Err(Error::new(ErrorType::ConnectionClosed));
                    }
                }
            }
        }
    }

    fn begin(&mut self, head: AnswerHead) {
        self.status = head.status;
        self.framing = head.framing;
        self.keeps_connection = head.keeps_connection;
        // The head's room is not kept for the rest.
        self.raw = BytesMut::from(&self.raw[..]);
    }

    pub(super) fn expect_next_within(&mut self, limit: Duration) {
        self.read_timeout = limit;
    }

    /// The next part of the body, `None` at its proper end.
    pub(super) async fn read(&mut self) -> pingora::Result<Option<Bytes>> {
        loop {
            let part = self.framing.take(&mut self.raw);
            let part = part.or_err(ErrorType::ReadError, "an answer's body")?;
            if !part.is_empty() {
                return Ok(Some(part));
            }
            if self.framing.is_over() {
                return Ok(None);
            }
            if self.read_more().await? == 0 && !self.framing.close() {
                return Err(Error::new(ErrorType::ConnectionClosed));
            }
        }
    }

    /// 0 at the end.
    async fn read_more(&mut self) -> pingora::Result<usize> {
        let (stream, raw) = (&mut self.stream, &mut self.raw);
        let read = poll_fn(|context| {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
            raw.extend_from_slice(read.filled());
            Poll::Ready(io::Result::Ok(read.filled().len()))
        });
        match timeout(self.read_timeout, read).await {
            Ok(read) => read.or_err(ErrorType::ReadError, "reading an answer"),
            Err(_) => Err(Error::new(ErrorType::ReadTimedout)),
        }
    }

    /// Reads the whole body; `None` if it is larger than `bytes_max`.
    pub(super) async fn read_all(&mut self, bytes_max: usize) -> pingora::Result<Option<Bytes>> {
        let mut parts = Vec::new();
        let mut length = 0;
        while let Some(part) = self.read().await? {
            length += part.len();
            if length > bytes_max {
                return Ok(None);
            }
            parts.push(part);
        }
        Ok(Some(match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Bytes::from(parts.concat()),
        }))
    }

    /// Nothing more is wanted. If the whole answer was read the connection may serve again.
    pub(super) async fn release(self, connector: &TransportConnector) {
        let spent = self.framing.is_over() && self.raw.is_empty();
        if !(spent && self.keeps_connection && self.asked) {
            return self.abort().await;
        }
        connector.release_stream(self.stream, self.reuse_key, Some(KEEP_IDLE));
    }

    /// Breaks the connection, which tells the engine to stop generating. A worker that does not read could hold a polite
    /// end up for ever; dropping the stream closes it anyway.
    pub(super) async fn abort(mut self) {
        let _ = timeout(CLOSE_TIMEOUT, self.stream.shutdown()).await;
    }
}
