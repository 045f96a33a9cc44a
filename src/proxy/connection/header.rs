//! Reading the header of an HTTP/1 request, held to a deadline and a size. Pingora bounds single reads only, so that
//! a byte now and then holds a connection for ever, and keeps 4 KiB for each header for as long as its answer takes.

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::GOODBYE_TIMEOUT;
use super::header_scan::{HeaderScan, Seen};
use super::stream::ClientStream;
use crate::domain::ConnectionLimits;

/// Why a connection ends before its request was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// The client closed it, or it broke.
    Gone,
    Rejected(Rejection),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    HeaderTimeout,
    HeaderBytes,
    BareLineFeed,
}

impl Rejection {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Rejection::HeaderTimeout => "header_timeout",
            Rejection::HeaderBytes => "max_header_bytes",
            Rejection::BareLineFeed => "bare_line_feed",
        }
    }

    fn answer(self) -> &'static [u8] {
        match self {
            Rejection::HeaderTimeout => {
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
            Rejection::HeaderBytes => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
            Rejection::BareLineFeed => {
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
        }
    }
}

/// The next header, whole, and nothing of what comes behind it.
pub(super) async fn read_header(
    stream: &mut ClientStream,
    limits: &ConnectionLimits,
    deadline: Instant,
) -> Result<BytesMut, NoHeader> {
    // Headers that are over a limit by less are told so in the form of the interface.
    let bytes_max = 2 * limits.header_bytes_max + limits.uri_bytes_max;
    timeout_at(deadline, scan(stream, bytes_max))
        .await
        .unwrap_or(Err(NoHeader::Rejected(Rejection::HeaderTimeout)))
}

async fn scan(stream: &mut ClientStream, bytes_max: usize) -> Result<BytesMut, NoHeader> {
    let mut scan = HeaderScan::new(bytes_max);
    let mut scanned = 0;
    loop {
        let rejection = match scan.feed(&stream.ahead()[scanned..]) {
            Seen::Whole(length) => return Ok(stream.take(scanned + length)),
            Seen::TooLong => Rejection::HeaderBytes,
            Seen::BareLineFeed => Rejection::BareLineFeed,
            Seen::Part => {
                scanned = stream.ahead().len();
                match stream.read_ahead().await {
                    Ok(1..) => continue,
                    Ok(0) | Err(_) => return Err(NoHeader::Gone),
                }
            }
        };
        return Err(NoHeader::Rejected(rejection));
    }
}

/// Waits for the first byte of another request on a kept connection; false if none comes.
pub(super) async fn another_comes(stream: &mut ClientStream, limits: &ConnectionLimits) -> bool {
    if !stream.ahead().is_empty() {
        return true;
    }
    let read = timeout(limits.idle_timeout, stream.read_ahead()).await;
    matches!(read, Ok(Ok(1..)))
}

/// A client that does not even read this is told nothing.
pub(super) async fn tell(stream: &mut ClientStream, rejection: Rejection) {
    let goodbye = async {
        stream.write_all(rejection.answer()).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(stream).await
    };
    let _ = timeout(GOODBYE_TIMEOUT, goodbye).await;
}
