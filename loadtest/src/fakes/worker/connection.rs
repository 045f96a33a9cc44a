//! Connections that a handler can break: plainly closed in the middle of an answer, or reset.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

const WHOLE: u8 = 0;
const CLOSED: u8 = 1;
const RESET: u8 = 2;

/// How long what was already written gets to reach the client before a break; a reset discards what it has not read.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// A handler's hold on the connection its request came by.
#[derive(Clone, Debug, Default)]
pub struct Breaker(Arc<AtomicU8>);

impl Breaker {
    /// The connection ends without the rest of the answer.
    pub async fn close(&self) -> io::Error {
        self.break_off(CLOSED).await
    }

    /// The same by a TCP reset.
    pub async fn reset(&self) -> io::Error {
        self.break_off(RESET).await
    }

    /// The error makes a body stream end its connection; a handler answers anything, it will not be sent.
    async fn break_off(&self, how: u8) -> io::Error {
        flush().await;
        self.0.store(how, Ordering::Release);
        broken()
    }

    fn state(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// Lets the server write out what a body has yielded.
pub async fn flush() {
    tokio::time::sleep(FLUSH_TIME).await;
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "broken on purpose")
}

/// Accepts breakable connections; all of them break once `stopped` is set.
pub struct BreakableListener {
    pub listener: TcpListener,
    pub stopped: Arc<AtomicBool>,
}

pub struct BreakableStream {
    stream: TcpStream,
    breaker: Breaker,
    stopped: Arc<AtomicBool>,
}

impl Listener for BreakableListener {
    type Io = BreakableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Small events must not wait for each other's acknowledgement.
        let _ = stream.set_nodelay(true);
        let stopped = self.stopped.clone();
        (
            BreakableStream {
                stream,
                breaker: Breaker::default(),
                stopped,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, BreakableListener>> for Breaker {
    fn connect_info(stream: IncomingStream<'_, BreakableListener>) -> Self {
        stream.io().breaker.clone()
    }
}

impl BreakableStream {
    fn whole(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if self.breaker.state() != WHOLE || self.stopped.load(Ordering::Acquire) {
            return Err(broken());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl Drop for BreakableStream {
    fn drop(&mut self) {
        if self.breaker.state() == RESET {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for BreakableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.whole() {
            Ok(stream) => stream.poll_read(context, buffer),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for BreakableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.whole() {
            Ok(stream) => stream.poll_write(context, bytes),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.whole() {
            Ok(stream) => stream.poll_write_vectored(context, pieces),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
